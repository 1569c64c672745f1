//! Laws: what is rebuilt reads to the same again; how the input is cut changes nothing.

use proptest::prelude::*;

use crate::http1::*;

/// What a reader of a whole connection understood, as text that can be compared. What was rebuilt is not compared:
/// chunks are cut where the input was.
#[derive(Debug, Default)]
struct Understood {
    messages: Vec<String>,
    refusal: Option<Refusal>,
    rebuilt: Vec<u8>,
}

impl PartialEq for Understood {
    fn eq(&self, other: &Self) -> bool {
        (&self.messages, self.refusal) == (&other.messages, other.refusal)
    }
}

/// Reads `input` as requests, given in pieces that end at `cuts`, and rebuilds them.
fn understand(input: &[u8], cuts: &[usize]) -> Understood {
    let mut session = Session::default();
    let mut previous = 0;
    let ends = cuts.iter().map(|cut| cut % (input.len() + 1)).chain([input.len()]);
    let mut ends: Vec<usize> = ends.collect();
    ends.sort_unstable();
    for end in ends {
        session.held.extend_from_slice(&input[previous..end]);
        previous = end;
        if let Err(refusal) = session.advance() {
            session.understood.refusal = Some(refusal);
            break;
        }
    }
    session.understood
}

#[derive(Default)]
struct Session {
    held: Vec<u8>,
    scan: HeadScan,
    body: Option<(BodyReader, BodyWriter, Vec<u8>)>,
    understood: Understood,
}

impl Session {
    fn advance(&mut self) -> Result<(), Refusal> {
        let rules = ReadRules { strip: StripList::of(IDENTITY_FIELDS), ..ReadRules::default() };
        loop {
            let held = std::mem::take(&mut self.held);
            let (consumed, more) = match &mut self.body {
                Some(_) => self.advance_body(&held, &rules)?,
                None => self.advance_head(&held, &rules)?,
            };
            self.held = held[consumed..].to_vec();
            if !more {
                return Ok(());
            }
        }
    }

    fn advance_head(&mut self, held: &[u8], rules: &ReadRules<'_>) -> Result<(usize, bool), Refusal> {
        let Some(head) = RequestHead::read(held, &mut self.scan, rules)? else {
            return Ok((0, false));
        };
        self.understood.messages.push(describe(&head));
        let dialled = Authority::parse(b"dialled").unwrap();
        let writer = write_request(&head, &dialled, &[], &mut self.understood.rebuilt);
        self.body = Some((BodyReader::new(head.framing), writer, Vec::new()));
        Ok((head.length, true))
    }

    fn advance_body(&mut self, held: &[u8], rules: &ReadRules<'_>) -> Result<(usize, bool), Refusal> {
        let (reader, writer, body) = self.body.as_mut().expect("a body is being read");
        let step = reader.read(held, rules)?;
        match step.part {
            BodyPart::Pending => return Ok((step.consumed, false)),
            BodyPart::Bytes(bytes) => {
                body.extend_from_slice(bytes);
                writer.write(bytes, &mut self.understood.rebuilt).expect("reader and writer agree");
            }
            BodyPart::End(trailers) => {
                self.understood.messages.push(format!("{body:?} {trailers:?}"));
                writer.finish(&trailers, &mut self.understood.rebuilt).expect("reader and writer agree");
                self.body = None;
            }
        }
        Ok((step.consumed, true))
    }
}

/// What goes on of a head, without how it was spelled on this hop.
fn describe(head: &RequestHead<'_>) -> String {
    let authority = head.authority.as_ref().map_or(&b"dialled"[..], Authority::as_bytes);
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        head.method,
        authority,
        head.path,
        head.query,
        head.fields,
        head.framing,
        head.expects_continue,
        head.offer == Offer::WebSocket
    )
}

/// Makes of a GET without a body a WebSocket's handshake.
const HANDSHAKE: &str = "Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

/// Connections made of lines that matter to the codec, so that most of them are nearly right.
fn connection() -> impl Strategy<Value = Vec<u8>> {
    let start = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "POST /a?b HTTP/1.1\r\n",
        "GET http://B:80/x HTTP/1.1\r\n",
        "GET /x HTTP/1.0\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "\r\nPUT /%61 HTTP/1.1\r\n",
        "CONNECT a:1 HTTP/1.1\r\n",
        "GET /a#b HTTP/1.1\r\n",
    ]);
    let field = prop::sample::select(vec![
        "Host: A.b\r\n",
        "Host: a\r\n",
        "content-length: 3\r\n",
        "Content-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close, x-a\r\n",
        "Connection: Upgrade\r\n",
        "Upgrade: websocket, h2c\r\n",
        HANDSHAKE,
        "X-A:  1 \r\n",
        "x-a: \r\n",
        "x-forwarded-client-cert: x\r\n",
        "Expect: 100-continue\r\n",
        "X: \u{e9}\r\n",
        "Y: z\n",
        " folded\r\n",
        "TE: trailers\r\n",
    ]);
    let body = prop::sample::select(vec![
        "",
        "abc",
        "3\r\nabc\r\n0\r\n\r\n",
        "3;x\r\nabc\r\n0\r\nA: b\r\nhost: c\r\n\r\n",
        "0\r\n\r\n",
        "x",
        "2\r\nabc\r\n",
    ]);
    let message = (start, prop::collection::vec(field, 0..5), body, any::<bool>()).prop_map(
        |(start, fields, body, host)| {
            let host = if host { "Host: h\r\n" } else { "" };
            format!("{start}{host}{}\r\n{body}", fields.concat())
        },
    );
    prop::collection::vec(message, 1..4).prop_map(|messages| messages.concat().into_bytes())
}

/// Connections that are understood whole.
fn good_connection() -> impl Strategy<Value = Vec<u8>> {
    let start = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "POST /a?b HTTP/1.1\r\n",
        "GET http://B:80/x HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "\r\nPUT /%61 HTTP/1.1\r\n",
        "GET /x HTTP/1.1\r\n",
    ]);
    let field = prop::sample::select(vec![
        "Connection: close, x-a\r\n",
        "Connection: Upgrade\r\n",
        "Upgrade: tcp, h2c\r\n",
        "X-A:  1 \r\n",
        "x-a: \r\n",
        "x_forwarded-client-cert: x\r\n",
        "Expect: 100-continue\r\n",
        "X: \u{e9}\r\n",
        "TE: trailers\r\n",
        "Keep-Alive: 3\r\n",
    ]);
    let body = prop::sample::select(vec![
        "\r\n",
        "content-length: 3\r\n\r\nabc",
        "Content-Length: 0\r\n\r\n",
        "transfer-encoding: Chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0A\r\n0123456789\r\n000\r\nA: b\r\nhost: c\r\n\r\n",
    ]);
    let message = (start, prop::collection::vec(field, 0..5), body)
        .prop_map(|(start, fields, body)| format!("{start}Host: A.b\r\n{}{body}", fields.concat()));
    let handshake = Just(format!("GET /ws HTTP/1.1\r\nX-A: 1\r\nhost: a\r\n{HANDSHAKE}\r\n"));
    let message = prop_oneof![4 => message, 1 => handshake];
    prop::collection::vec(message, 1..4).prop_map(|messages| messages.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_fragmentation_is_understood_alike(input in connection(), cuts in prop::collection::vec(any::<usize>(), 0..12)) {
        prop_assert_eq!(understand(&input, &cuts), understand(&input, &[]));
    }

    #[test]
    fn what_is_rebuilt_reads_to_the_same(input in good_connection()) {
        let first = understand(&input, &[]);
        prop_assert_eq!(first.refusal, None);
        let second = understand(&first.rebuilt, &[]);
        prop_assert_eq!(&first.messages, &second.messages);
        prop_assert_eq!(&first.rebuilt, &second.rebuilt);
        prop_assert_eq!(second.refusal, None);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(input in prop::collection::vec(any::<u8>(), 0..300), cuts in prop::collection::vec(any::<usize>(), 0..4)) {
        prop_assert_eq!(understand(&input, &cuts), understand(&input, &[]));
    }
}
