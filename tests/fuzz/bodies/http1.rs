//! A client and an upstream that send anything, in any pieces. What goes up must read back as the requests that
//! were forwarded and nothing else; nothing is held beyond the limits; how the client's bytes are cut changes nothing.

use mesh_common::http1::relay::{ClientKind, Command, Commands, Court, HIGH_WATER, Relay, Verdict};
use mesh_common::http1::{
    Authority, BodyPart, BodyReader, HeadScan, IDENTITY_FIELDS, Limits, LocalAnswer, ReadRules, RequestHead,
    StripList,
};

/// `input` is a byte that says how to cut, the client's bytes, `0xff 0xff`, and the upstream's.
pub fn run(input: &[u8]) {
    let Some((cut, rest)) = input.split_first() else {
        return;
    };
    let split = rest.windows(2).position(|pair| pair == [0xff, 0xff]).unwrap_or(rest.len());
    let (client, upstream) = (&rest[..split], rest.get(split + 2..).unwrap_or_default());
    let piece = usize::from(*cut) + 1;
    let cut = converse(client, upstream, piece, piece);
    let whole = converse(client, upstream, usize::MAX, piece);
    // A request whose body turns out to be bad was forwarded in one case and refused at once in the other.
    assert_eq!(cut.complete, whole.complete);
    assert_eq!(cut.forwarded.get(..cut.complete), whole.forwarded.get(..whole.complete));
    assert_eq!(read_back(&cut.up, cut.complete), read_back(&whole.up, whole.complete));
}

#[derive(Default)]
struct Conversation {
    /// Method, authority and path of what was forwarded.
    forwarded: Vec<String>,
    /// How many of these were sent whole.
    complete: usize,
    up: Vec<u8>,
}

fn rules() -> ReadRules<'static> {
    ReadRules { limits: Limits::default(), strip: StripList { names: IDENTITY_FIELDS } }
}

/// The client sends all it has before the upstream answers, so that cuts do not change the order of things.
fn converse(client: &[u8], upstream: &[u8], piece: usize, answered: usize) -> Conversation {
    let mut conversation = Conversation::default();
    let mut relay: Relay<String> = Relay::new(ClientKind::Connection);
    let dialled = Authority::parse(b"10.0.0.1:80").expect("an address is an authority");
    let rules = rules();
    let mut judge = |head: &RequestHead<'_>| match head.path.as_str() {
        "/denied" => Verdict::Answer(LocalAnswer { status: 403, text: "no", reason: "policy" }),
        path => {
            Verdict::Forward(format!("{} {path} {:?}", String::from_utf8_lossy(head.method), head.framing))
        }
    };
    let mut court = Court { rules: &rules, dialled: &dialled, judge: &mut judge };
    for bytes in client.chunks(piece.min(client.len().max(1))) {
        let commands = relay.client_bytes(bytes, &mut court);
        act(&mut relay, &mut conversation, commands);
    }
    for bytes in upstream.chunks(answered.min(upstream.len().max(1))) {
        let commands = relay.upstream_bytes(bytes, &mut court);
        act(&mut relay, &mut conversation, commands);
        let most = client.len() + upstream.len() + rules.limits.head + 4 * HIGH_WATER;
        assert!(relay.held() <= most, "{} bytes are held", relay.held());
    }
    let commands = relay.upstream_ended(&mut court);
    act(&mut relay, &mut conversation, commands);
    let commands = relay.client_ended();
    act(&mut relay, &mut conversation, commands);
    conversation
}

fn act(relay: &mut Relay<String>, conversation: &mut Conversation, commands: Commands<String>) {
    for command in commands {
        match command {
            Command::Acquire { .. } => {
                conversation.forwarded.push(relay.plan().expect("an upstream is for a plan").clone());
                relay.acquired(false);
            }
            Command::FinishUpstream => conversation.complete += 1,
            _ => {}
        }
    }
    let out = relay.to_upstream();
    conversation.up.extend_from_slice(out.pending());
    out.sent(out.len());
    let out = relay.to_client();
    out.sent(out.len());
}

/// Reads what went up like the strictest of applications would.
fn read_back(up: &[u8], complete: usize) -> Vec<String> {
    let rules = rules();
    let (mut rest, mut requests) = (up, Vec::new());
    while requests.len() < complete {
        let head = RequestHead::read(rest, &mut HeadScan::default(), &rules);
        let Some(head) = head.expect("what goes up is well formed") else {
            break;
        };
        let mut text =
            format!("{head:?}").split_once("version").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        let mut reader = BodyReader::new(head.framing);
        rest = &rest[head.length..];
        loop {
            let step = reader.read(rest, &rules).expect("what goes up is well framed");
            rest = &rest[step.consumed..];
            match step.part {
                BodyPart::Pending => return requests,
                BodyPart::Bytes(bytes) => bytes.iter().for_each(|byte| text.push(char::from(*byte))),
                BodyPart::End(trailers) => break text.push_str(&format!("{trailers:?}")),
            }
        }
        requests.push(text);
    }
    requests
}
