//! Plays foreign bytes to both sides of an HTTP/1.1 relay, and holds the laws that no bytes may break.

use mesh_common::http1::relay::{ClientKind, Command, Commands, Court, Relay, Release, Verdict, Waiting};
use mesh_common::http1::{
    Authority, BodyPart, BodyReader, HeadScan, Limits, LocalAnswer, ReadRules, RequestHead,
};

/// Changes the side that speaks; no byte of a head.
const TURN: u8 = 0xff;
const REFUSED: LocalAnswer<'static> = LocalAnswer { status: 403, text: "no", reason: "no", decision: None };

/// The first byte of `input` says what the client is, how often its bytes are cut, and what a lost upstream means;
/// the rest is what the client says, then the upstream, and so on.
pub fn run(input: &[u8]) {
    let Some((&choice, input)) = input.split_first() else { return };
    let mut stage = Stage::new(choice);
    for (index, part) in input.split(|byte| *byte == TURN).enumerate() {
        for piece in part.chunks(usize::from(choice >> 2 & 31) * 8 + 1) {
            if index % 2 == 0 { stage.client(piece) } else { stage.upstream(piece) }
        }
    }
    stage.end();
}

struct Stage {
    relay: Relay<()>,
    tries_again: bool,
    has_upstream: bool,
    /// What the upstream that is there now was sent.
    sent: Vec<u8>,
}

impl Stage {
    fn new(choice: u8) -> Self {
        let kind = if choice & 1 == 0 { ClientKind::Connection } else { ClientKind::Exchange };
        let tries_again = choice & 2 != 0;
        Self { relay: Relay::new(kind), tries_again, has_upstream: false, sent: Vec::new() }
    }

    fn client(&mut self, bytes: &[u8]) {
        if self.relay.wants_client() {
            self.act(|relay, court| relay.client_bytes(bytes, court));
        }
    }

    fn upstream(&mut self, bytes: &[u8]) {
        if self.has_upstream && self.relay.wants_upstream() {
            self.act(|relay, court| relay.upstream_bytes(bytes, court));
        }
    }

    fn end(&mut self) {
        if self.has_upstream {
            self.act(|relay, court| relay.upstream_ended(court));
        }
        self.act(|relay, _| relay.client_ended());
        self.act(|relay, _| relay.client_gone());
        assert_eq!(
            self.relay.waiting(),
            Waiting::Nothing,
            "a client that is gone leaves nothing to wait for"
        );
    }

    fn act(&mut self, act: impl FnOnce(&mut Relay<()>, &mut Court<'_, ()>) -> Commands<()>) {
        let rules = ReadRules::default();
        let dialled = Authority::parse(b"10.0.0.1:80").expect("an address is an authority");
        let mut judge = |head: &RequestHead<'_>| match head.path.as_str() {
            "/denied" => Verdict::Answer(REFUSED),
            _ => Verdict::Forward(()),
        };
        let mut court = Court { rules: &rules, dialled: &dialled, judge: &mut judge };
        let commands = act(&mut self.relay, &mut court);
        self.obey(commands);
        let down = self.relay.to_client();
        down.sent(down.len());
        if self.has_upstream {
            self.flush_upstream();
        }
    }

    fn obey(&mut self, commands: Commands<()>) {
        for command in commands {
            match command {
                Command::Acquire { .. } => {
                    self.has_upstream = true;
                    self.relay.acquired(!self.sent.is_empty());
                    self.flush_upstream();
                }
                Command::Reroute(_) => {
                    self.lose_upstream();
                    let more = if self.tries_again { self.relay.retry() } else { self.relay.answer(REFUSED) };
                    self.obey(more);
                }
                Command::Release(Release::Reuse) => self.has_upstream = false,
                Command::Release(Release::Close | Release::Abort) => self.lose_upstream(),
                Command::Refused(..) | Command::Finished(..) | Command::Unanswered => {
                    self.relay.answer_refused(None)
                }
                _ => {}
            }
        }
    }

    fn lose_upstream(&mut self) {
        self.has_upstream = false;
        self.sent.clear();
    }

    /// Whatever the client says, an upstream reads well-formed requests, or the beginning of one.
    fn flush_upstream(&mut self) {
        let up = self.relay.to_upstream();
        self.sent.extend_from_slice(up.pending());
        up.sent(up.len());
        if self.relay.waiting() == Waiting::Opaque {
            // After 101 the bytes are no requests any more, and the connection serves no other.
            self.sent.clear();
        } else {
            read_requests(&self.sent);
        }
    }
}

fn read_requests(mut bytes: &[u8]) {
    // What is rebuilt may be longer than what was read.
    let limits = Limits { start_line: 1 << 20, head: 1 << 20, trailers: 1 << 20, ..Limits::default() };
    let rules = ReadRules { limits, ..ReadRules::default() };
    while let Some(head) =
        RequestHead::read(bytes, &mut HeadScan::default(), &rules).expect("a request is read")
    {
        let mut reader = BodyReader::new(head.framing);
        bytes = &bytes[head.length..];
        loop {
            let step = reader.read(bytes, &rules).expect("a body is read");
            bytes = &bytes[step.consumed..];
            match step.part {
                BodyPart::Pending => return,
                BodyPart::Bytes(_) => {}
                BodyPart::End(_) => break,
            }
        }
    }
}
