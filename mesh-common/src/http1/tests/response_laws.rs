//! Laws of responses: what is rebuilt reads to the same again; how the input is cut changes nothing.

use proptest::prelude::*;

use crate::http1::*;

/// What was understood of what an upstream says before it closes, and what went to a client of HTTP/1.1. Chunks are cut
/// where the input was, so that is compared only where the law says so.
#[derive(Debug, Default)]
struct Understood {
    heads: Vec<String>,
    body: Vec<u8>,
    trailers: String,
    /// Bytes of the input that belong to the answer; `None` if it is not whole.
    length: Option<usize>,
    refusal: Option<Refusal>,
    rebuilt: Vec<u8>,
}

impl PartialEq for Understood {
    fn eq(&self, other: &Self) -> bool {
        let meaning = |one: &Self| (one.heads.clone(), one.body.clone(), one.trailers.clone(), one.refusal);
        meaning(self) == meaning(other) && self.length.is_some() == other.length.is_some()
    }
}

/// Reads what comes in pieces that end at `cuts`.
fn understand(to: ResponseTo, input: &[u8], cuts: &[usize]) -> Understood {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).chain([input.len()]).collect();
    ends.sort_unstable();
    let mut session =
        Session { to, scan: HeadScan::default(), body: None, understood: Understood::default() };
    let mut done = 0;
    for end in ends {
        match session.advance(&input[done..end]) {
            Ok(consumed) => done += consumed,
            Err(refusal) => {
                session.understood.refusal = Some(refusal);
                return session.understood;
            }
        }
        if session.is_over(done) {
            return session.understood;
        }
    }
    session.close(done);
    session.understood
}

struct Session {
    to: ResponseTo,
    scan: HeadScan,
    body: Option<(BodyReader, BodyWriter)>,
    understood: Understood,
}

impl Session {
    fn advance(&mut self, held: &[u8]) -> Result<usize, Refusal> {
        let rules = ReadRules { strip: StripList::of(IDENTITY_FIELDS), ..ReadRules::default() };
        let mut consumed = 0;
        loop {
            let rest = &held[consumed..];
            let more = match &mut self.body {
                Some(_) => self.advance_body(rest, &rules)?,
                None => self.advance_head(rest, &rules)?,
            };
            consumed += more.unwrap_or(0);
            if more.is_none() || self.body.as_ref().is_some_and(|(reader, _)| reader.is_done()) {
                return Ok(consumed);
            }
        }
    }

    /// The bytes that were taken; `None` if there are too few.
    fn advance_head(&mut self, held: &[u8], rules: &ReadRules<'_>) -> Result<Option<usize>, Refusal> {
        let Some(head) = ResponseHead::read(held, &mut self.scan, rules, self.to)? else {
            return Ok(None);
        };
        self.understood.heads.push(describe(&head));
        let client = ResponseFor { version: Version::Http11, keep_alive: true, head: self.to.head };
        let (writer, _) = write_response(&head, None, client, &mut self.understood.rebuilt);
        if !head.is_interim() {
            self.body = Some((BodyReader::new(head.framing), writer));
        }
        Ok(Some(head.length))
    }

    fn advance_body(&mut self, held: &[u8], rules: &ReadRules<'_>) -> Result<Option<usize>, Refusal> {
        let (reader, writer) = self.body.as_mut().expect("a body is being read");
        let step = reader.read(held, rules)?;
        match step.part {
            BodyPart::Pending if step.consumed == 0 => return Ok(None),
            BodyPart::Pending => {}
            BodyPart::Bytes(bytes) => {
                self.understood.body.extend_from_slice(bytes);
                writer.write(bytes, &mut self.understood.rebuilt).expect("reader and writer agree");
            }
            BodyPart::End(trailers) => {
                self.understood.trailers = format!("{trailers:?}");
                writer.finish(&trailers, &mut self.understood.rebuilt).expect("reader and writer agree");
            }
        }
        Ok(Some(step.consumed))
    }

    fn is_over(&mut self, done: usize) -> bool {
        let is_over = self.body.as_ref().is_some_and(|(reader, _)| reader.is_done());
        if is_over {
            self.understood.length = Some(done);
        }
        is_over
    }

    fn close(&mut self, done: usize) {
        if let Some((reader, writer)) = &mut self.body
            && reader.close().is_ok()
        {
            writer.finish(&[], &mut self.understood.rebuilt).expect("reader and writer agree");
            self.understood.trailers = format!("{:?}", Trailers::new());
            self.understood.length = Some(done);
        }
    }
}

/// What goes on of a head, without how it was spelled on this hop: a body that ends with its connection goes on in chunks.
fn describe(head: &ResponseHead<'_>) -> String {
    let ResponseHead { status, phrase, fields, framing, content_length, .. } = head;
    let framing = match framing {
        BodyFraming::UntilClose if *status != 101 => BodyFraming::Chunked,
        framing => *framing,
    };
    let content_length = content_length.filter(|_| *status >= 200 && *status != 204);
    format!("{status} {phrase:?} {fields:?} {framing:?} {content_length:?}")
}

const OPENS: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nframes";

/// To what: GET, HEAD, a WebSocket's handshake.
fn to() -> impl Strategy<Value = ResponseTo> {
    prop::sample::select(vec![(false, false), (true, false), (false, true)])
        .prop_map(|(head, websocket)| ResponseTo { head, websocket })
}

fn response(
    starts: &[&'static str],
    fields: &[&'static str],
    bodies: &[&'static str],
) -> BoxedStrategy<Vec<u8>> {
    let interim = prop::sample::select(vec![
        "",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nlink: </b>\r\n\r\nHTTP/1.0 102\r\nContent-Length: 0\r\n\r\n",
    ]);
    let start = prop::sample::select(starts.to_vec());
    let fields = prop::collection::vec(prop::sample::select(fields.to_vec()), 0..5);
    let body = prop::sample::select(bodies.to_vec());
    (interim, start, fields, body)
        .prop_map(|(interim, start, fields, body)| {
            format!("{interim}{start}{}{body}", fields.concat()).into_bytes()
        })
        .boxed()
}

const STARTS: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.0 200\r\n",
    "HTTP/1.1 204 No Content\r\n",
    "HTTP/1.1 304 Not Modified\r\n",
    "HTTP/1.1 599  odd \u{e9}\r\n",
    "HTTP/1.1 999 x\ty\r\n",
];

const FIELDS: &[&str] = &[
    "X-A:  1 \r\n",
    "x-a: \r\n",
    "X: \u{e9}\u{85}\r\n",
    "Set-Cookie: a=1\r\n",
    "set-cookie: b=2\r\n",
    "Connection: close, x-a\r\n",
    "Keep-Alive: timeout=5\r\n",
    "x_forwarded-client-cert: x\r\n",
    "Trailer: A\r\n",
    "Upgrade: h2c\r\n",
    "Host: x\r\n",
];

/// Responses of which most are nearly right.
fn any_response() -> impl Strategy<Value = Vec<u8>> {
    let starts =
        [STARTS, &["HTTP/1.1 99 x\r\n", "HTTP/2 200\r\n", "\r\nHTTP/1.1 200 OK\r\n", OPENS]].concat();
    let fields =
        [FIELDS, &["Content-Length: 3\r\n", "X: y\n", " folded\r\n", "Transfer-Encoding: chunked\r\n"]];
    let bodies = [
        "\r\n",
        "\r\nabc",
        "content-length: 3\r\n\r\nab",
        "content-length: 3\r\n\r\nabcd",
        "transfer-encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nA: b\r\nhost: c\r\n\r\nx",
        "transfer-encoding: chunked\r\n\r\n2\r\nabc\r\n",
        "transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ];
    response(&starts, &fields.concat(), &bodies)
}

/// Responses that are understood whole, whatever they answer.
fn good_response() -> impl Strategy<Value = Vec<u8>> {
    let bodies = ["\r\n", "Content-Length: 0\r\n\r\n", "content-length: 0\r\nX-B: c\r\n\r\n"];
    let bodiless = response(&STARTS[2..4], FIELDS, &bodies);
    let bodies = [
        "\r\n",
        "\r\nabc",
        "content-length: 3\r\n\r\nabc",
        "Content-Length: 0\r\n\r\n",
        "transfer-encoding: Chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0A\r\n0123456789\r\n000\r\nA: b\r\nhost: c\r\n\r\n",
    ];
    let others = response(&[STARTS[0], STARTS[4], STARTS[5]], FIELDS, &bodies);
    // HTTP/1.0 has no chunks.
    prop_oneof![1 => bodiless, 3 => others, 1 => response(&STARTS[1..2], FIELDS, &bodies[..4])]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_fragmentation_is_understood_alike(
        to in to(), input in any_response(), cuts in prop::collection::vec(any::<usize>(), 0..12)
    ) {
        let (whole, cut) = (understand(to, &input, &[]), understand(to, &input, &cuts));
        prop_assert_eq!(&cut, &whole);
        prop_assert_eq!(cut.length, whole.length);
    }

    #[test]
    fn what_is_rebuilt_reads_to_the_same(to in to(), input in good_response()) {
        let first = understand(to, &input, &[]);
        prop_assert_eq!(first.refusal, None);
        prop_assert!(first.length.is_some(), "it is whole");
        let second = understand(to, &first.rebuilt, &[]);
        prop_assert_eq!(&first, &second);
        prop_assert_eq!(&first.rebuilt, &second.rebuilt);
        prop_assert_eq!(second.length, Some(first.rebuilt.len()), "nothing stands after it");
    }

    #[test]
    fn no_bytes_make_the_reader_panic(
        to in to(),
        input in prop::collection::vec(any::<u8>(), 0..300),
        cuts in prop::collection::vec(any::<usize>(), 0..4)
    ) {
        prop_assert_eq!(understand(to, &input, &cuts), understand(to, &input, &[]));
    }
}
