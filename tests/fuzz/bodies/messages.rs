//! Reads foreign bytes as HTTP/1.1 messages, rebuilds them, and holds the laws: how they are cut changes nothing, and what is
//! rebuilt reads to the same again.

use mesh_common::http1::{
    Authority, BodyFraming, BodyPart, BodyReader, BodyWriter, Field, HeadScan, IDENTITY_FIELDS, Limits,
    Offer, ReadRules, Refusal, RequestHead, ResponseFor, ResponseHead, ResponseTo, StripList, Trailers,
    Version, write_request, write_response,
};

/// The first byte of `input` says what it is and how it is cut: bit 0 responses, bit 1 to HEAD, bit 2 to a
/// WebSocket's handshake.
pub fn run(input: &[u8]) {
    let Some((&choice, input)) = input.split_first() else { return };
    let to = ResponseTo { head: choice & 2 != 0, websocket: choice & 4 != 0 };
    let kind = if choice & 1 == 0 { Kind::Requests } else { Kind::Response(to) };
    let whole = read(kind, input, input.len(), Limits::default());
    let cut = read(kind, input, usize::from(choice >> 3) + 1, Limits::default());
    assert_eq!((&cut.messages, cut.refusal), (&whole.messages, whole.refusal), "a cut changes nothing");
    // What is rebuilt may be longer than what was read.
    let roomy =
        Limits { start_line: 1 << 20, head: 1 << 20, fields: 1000, trailers: 1 << 20, ..Limits::default() };
    let again = read(kind, &whole.rebuilt, whole.rebuilt.len(), roomy);
    assert_eq!(again.refusal, None, "what is rebuilt is read");
    assert_eq!(again.messages, whole.messages, "what is rebuilt reads to the same");
    assert_eq!(again.rebuilt, whole.rebuilt, "rebuilding twice is rebuilding once");
}

#[derive(Clone, Copy)]
enum Kind {
    Requests,
    /// One response, with the interim ones before it; the end of the input ends the connection.
    Response(ResponseTo),
}

/// What was understood; of a message that is not whole, nothing.
#[derive(Debug, Default)]
struct Understood {
    messages: Vec<Message>,
    refusal: Option<Refusal>,
    /// The messages alone.
    rebuilt: Vec<u8>,
}

#[derive(Debug, PartialEq)]
struct Message {
    head: String,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    trailers: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A message whose body is being read.
struct Open {
    message: Message,
    reader: BodyReader,
    writer: BodyWriter,
    rebuilt: Vec<u8>,
    is_last: bool,
}

struct Session<'r> {
    kind: Kind,
    rules: ReadRules<'r>,
    scan: HeadScan,
    open: Option<Open>,
    is_over: bool,
    understood: Understood,
}

fn read(kind: Kind, input: &[u8], piece: usize, limits: Limits) -> Understood {
    let rules = ReadRules { limits, strip: StripList::of(IDENTITY_FIELDS) };
    let (scan, understood) = (HeadScan::default(), Understood::default());
    let mut session = Session { kind, rules, scan, open: None, is_over: false, understood };
    let mut done = 0;
    for end in (0..input.len()).step_by(piece.max(1)).map(|start| (start + piece).min(input.len())) {
        match session.advance(&input[done..end]) {
            Ok(consumed) => done += consumed,
            Err(refusal) => {
                session.understood.refusal = Some(refusal);
                return session.understood;
            }
        }
    }
    session.close();
    session.understood
}

impl Session<'_> {
    fn advance(&mut self, held: &[u8]) -> Result<usize, Refusal> {
        let mut consumed = 0;
        while !self.is_over {
            let rest = &held[consumed..];
            let (taken, more) = match self.open.take() {
                Some(open) => self.body(open, rest)?,
                None => self.head(rest)?,
            };
            consumed += taken;
            if !more {
                break;
            }
        }
        Ok(consumed)
    }

    fn head(&mut self, held: &[u8]) -> Result<(usize, bool), Refusal> {
        let mut rebuilt = Vec::new();
        let (length, head, fields, framing, writer, is_last) = match self.kind {
            Kind::Requests => {
                let Some(head) = RequestHead::read(held, &mut self.scan, &self.rules)? else {
                    return Ok((0, false));
                };
                let dialled = Authority::parse(b"dialled").expect("a name is an authority");
                let writer = write_request(&head, &dialled, &[], &mut rebuilt);
                (head.length, of_request(&head, &dialled), pairs(&head.fields), head.framing, writer, false)
            }
            Kind::Response(to) => {
                let Some(head) = ResponseHead::read(held, &mut self.scan, &self.rules, to)? else {
                    return Ok((0, false));
                };
                let client = ResponseFor { version: Version::Http11, keep_alive: true, head: to.head };
                let (writer, _) = write_response(&head, None, client, &mut rebuilt);
                (
                    head.length,
                    of_response(&head),
                    pairs(&head.fields),
                    head.framing,
                    writer,
                    !head.is_interim(),
                )
            }
        };
        let message = Message { head, fields, body: Vec::new(), trailers: Vec::new() };
        self.open = Some(Open { message, reader: BodyReader::new(framing), writer, rebuilt, is_last });
        Ok((length, true))
    }

    fn body(&mut self, mut open: Open, held: &[u8]) -> Result<(usize, bool), Refusal> {
        let step = open.reader.read(held, &self.rules)?;
        match step.part {
            BodyPart::Pending => {
                self.open = Some(open);
                return Ok((step.consumed, false));
            }
            BodyPart::Bytes(bytes) => {
                open.message.body.extend_from_slice(bytes);
                open.writer.write(bytes, &mut open.rebuilt).expect("reader and writer agree");
                self.open = Some(open);
            }
            BodyPart::End(trailers) => self.end(open, &trailers),
        }
        Ok((step.consumed, true))
    }

    /// The peer says no more: that may be the end of a response.
    fn close(&mut self) {
        if let Some(mut open) = self.open.take()
            && open.reader.close().is_ok()
        {
            self.end(open, &Trailers::new());
        }
    }

    fn end(&mut self, mut open: Open, trailers: &Trailers<'_>) {
        open.writer.finish(trailers, &mut open.rebuilt).expect("reader and writer agree");
        open.message.trailers = pairs(trailers);
        self.understood.rebuilt.append(&mut open.rebuilt);
        self.understood.messages.push(open.message);
        self.is_over = open.is_last;
    }
}

/// What goes on of a request, without how it was spelled on this hop.
fn of_request(head: &RequestHead<'_>, dialled: &Authority<'_>) -> String {
    let authority = head.authority.as_ref().unwrap_or(dialled);
    let RequestHead { method, path, query, framing, expects_continue, offer, .. } = head;
    // What else is offered ends here.
    let is_websocket = *offer == Offer::WebSocket;
    format!("{method:?} {authority:?} {path:?} {query:?} {framing:?} {expects_continue} {is_websocket}")
}

/// What goes on of a response; a body that ends with its connection goes on in chunks.
fn of_response(head: &ResponseHead<'_>) -> String {
    let ResponseHead { status, phrase, content_length, .. } = head;
    let framing = match head.framing {
        BodyFraming::UntilClose if *status != 101 => BodyFraming::Chunked,
        framing => framing,
    };
    let content_length = content_length.filter(|_| *status >= 200 && *status != 204);
    format!("{status} {phrase:?} {framing:?} {content_length:?}")
}

fn pairs(fields: &[Field<'_>]) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.iter().map(|field| (field.name.to_vec(), field.value.to_vec())).collect()
}
