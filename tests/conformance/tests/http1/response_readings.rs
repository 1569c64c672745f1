//! Reads foreign bytes as the answer to one request, by our codec and by others, and compares: what both accept they
//! understand alike, and what ours accepts the others accept. Ours may refuse more.
//!
//! [`DELIBERATE`] lists what is accepted alone on purpose.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::Builder;
use hyper::rt::{Read, ReadBufCursor, Write};
use mesh_common::http1::{
    BodyPart, BodyReader, HeadScan, ReadRules, Refusal, ResponseHead, ResponseTo, is_trailer_allowed,
};

use super::differential::{End, Fields, Nothing, ends_here, has, is, is_subset, owned, pairs, values};

/// What a client understood of what it was told before the connection closed.
#[derive(Debug)]
pub struct Reading {
    /// Those before the answer.
    pub interim: Vec<Head>,
    /// The answer, if it was whole and accepted.
    pub answer: Option<Answer>,
    /// Why there is none.
    pub end: End,
}

/// The head of a response.
#[derive(Clone, Default)]
pub struct Head {
    /// 100 to 999.
    pub status: u16,
    /// Names and values, in their order as far as it is known.
    pub fields: Fields,
    /// Of ours, its Connection fields as they came: net/http drops those that say `close`.
    pub connection: Fields,
}

/// A whole response.
#[derive(Clone, Default)]
pub struct Answer {
    /// Its head.
    pub head: Head,
    /// What Content-Length says, as ours understands it: it is no field of ours.
    pub content_length: Option<u64>,
    /// Without its framing.
    pub body: Vec<u8>,
    /// As fields.
    pub trailers: Fields,
    /// Bytes until its end, from the beginning of the input.
    pub end: usize,
    /// Whether the connection may carry another request.
    pub stays: bool,
    /// Of ours, the trailer section as it came.
    pub section: Vec<u8>,
}

impl fmt::Debug for Head {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.status)?;
        for (name, value) in &self.fields {
            write!(formatter, ", {}: '{}'", name.escape_ascii(), value.escape_ascii())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { head, content_length, body, trailers, end, stays, section: _ } = self;
        write!(formatter, "{head:?}, length {content_length:?}, body '{}'", body.escape_ascii())?;
        for (name, value) in trailers {
            write!(formatter, ", {}: '{}'", name.escape_ascii(), value.escape_ascii())?;
        }
        write!(formatter, ", ends at {end}, stays: {stays}")
    }
}

/// What ours accepts alone on purpose: when, and why.
const DELIBERATE: &[(Applies, &str)] = &[(
    has_trailers_that_end_here,
    "RFC 9112 section 7.1.2: who removes the chunked coding \"MAY selectively retain or discard the received trailer \
     fields\"; net/http refuses a response that announces what no trailer may be",
)];

/// Whether a reason is that of a difference.
type Applies = fn(&Answer) -> bool;

fn has_trailers_that_end_here(ours: &Answer) -> bool {
    let announced = values(&ours.head.fields, b"trailer").flat_map(|value| value.split(|byte| *byte == b','));
    let came = ours.section.split(|byte| *byte == b'\n').filter(|line| line.contains(&b':'));
    let mut names = came.filter_map(|line| line.split(|byte| *byte == b':').next()).chain(announced);
    names.any(|name| !is_trailer_allowed(name.trim_ascii()))
}

/// Compares our reading with another.
///
/// # Errors
/// Both readings, if they differ.
pub fn compare(ours: &Reading, theirs: &Reading) -> Result<(), String> {
    let is_alike = match (&ours.answer, &theirs.answer) {
        (Some(ours), Some(theirs)) => is_answer_alike(ours, theirs),
        (Some(ours), None) => DELIBERATE.iter().any(|(applies, _)| applies(ours)),
        // What is whole to them may not be one of which ours waits for more.
        (None, Some(_)) => matches!(ours.end, End::Refused(_)),
        (None, None) => true,
    };
    let are_both_whole = ours.answer.is_some() && theirs.answer.is_some();
    let (interim, others) = (&ours.interim, &theirs.interim);
    let are_interim_alike = interim.len() == others.len()
        && interim.iter().zip(others).all(|(ours, theirs)| is_head_alike(ours, theirs));
    if is_alike && (are_interim_alike || !are_both_whole) {
        return Ok(());
    }
    Err(format!("ours: {ours:?}; theirs: {theirs:?}"))
}

fn is_answer_alike(ours: &Answer, theirs: &Answer) -> bool {
    let length = values(&theirs.head.fields, b"content-length").next();
    is_head_alike(&ours.head, &theirs.head)
        && length.is_none_or(|length| ours.content_length.map(|length| length.to_string().into_bytes()).as_deref() == Some(length))
        && ours.body == theirs.body
        && is_subset(&ours.trailers, &theirs.trailers)
        && theirs.trailers.iter().all(|(name, _)| !is_trailer_allowed(name) || has(&ours.trailers, name))
        && ours.end == theirs.end
        // Ours may close where they would not.
        && (theirs.stays || !ours.stays)
}

fn is_head_alike(ours: &Head, theirs: &Head) -> bool {
    // `Trailer` says only what may follow (RFC 9110 section 6.6.2); net/http makes it what did.
    let compared = |fields: &Fields| -> Fields {
        fields.iter().filter(|(name, _)| !is(name, b"trailer")).cloned().collect()
    };
    let (fields, others) = (compared(&ours.fields), compared(&theirs.fields));
    ours.status == theirs.status
        && is_subset(&fields, &others)
        && others.iter().all(|(name, _)| ends_here(name, &ours.connection) || has(&fields, name))
}

/// The Connection fields of a head that was accepted.
fn connection_fields(head: &[u8]) -> Fields {
    let lines = head.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at(colon);
        Some((name.to_vec(), value[1..].trim_ascii().to_vec()))
    });
    lines.filter(|(name, _)| is(name, b"connection")).collect()
}

/// Reads with our codec what answers a request, to HEAD or not.
pub fn ours(is_head: bool, input: &[u8]) -> Reading {
    let mut reading = Reading { interim: Vec::new(), answer: None, end: End::Over };
    if let Err(refusal) = read_ours(is_head, input, &mut reading) {
        reading.end = End::Refused(refusal.to_string());
    }
    reading
}

fn read_ours(is_head: bool, input: &[u8], reading: &mut Reading) -> Result<(), Refusal> {
    let rules = ReadRules::default();
    let to = ResponseTo { head: is_head, websocket: false };
    let mut done = 0;
    loop {
        let Some(head) = ResponseHead::read(&input[done..], &mut HeadScan::default(), &rules, to)? else {
            reading.end = End::Cut;
            return Ok(());
        };
        let connection = connection_fields(&input[done..done + head.length]);
        done += head.length;
        let of_head = Head { status: head.status, fields: owned(&head.fields), connection };
        if head.is_interim() {
            reading.interim.push(of_head);
            continue;
        }
        let mut answer = Answer {
            head: of_head,
            content_length: head.content_length,
            stays: head.keep_alive,
            ..Answer::default()
        };
        if read_body(BodyReader::new(head.framing), &input[done..], &mut answer)? {
            answer.end += done;
            reading.answer = Some(answer);
        } else {
            reading.end = End::Cut;
        }
        return Ok(());
    }
}

/// Reads a body to its end; whether it has one.
fn read_body(mut reader: BodyReader, input: &[u8], answer: &mut Answer) -> Result<bool, Refusal> {
    let rules = ReadRules::default();
    loop {
        let step = reader.read(&input[answer.end..], &rules)?;
        let done = &input[answer.end..answer.end + step.consumed];
        answer.end += step.consumed;
        match step.part {
            // The input ends with the connection.
            BodyPart::Pending => return Ok(reader.close().is_ok()),
            BodyPart::Bytes(bytes) => answer.body.extend_from_slice(bytes),
            BodyPart::End(trailers) => {
                answer.trailers = owned(&trailers);
                answer.section = done.to_vec();
                return Ok(true);
            }
        }
    }
}

/// Reads with hyper's client, byte by byte: the answer ends with the first byte after which it is whole.
pub fn hypers(is_head: bool, input: &[u8]) -> Reading {
    let wire = Rc::new(Wire { input: input.to_vec(), said: Cell::new(0), is_over: Cell::new(false) });
    let interim = Arc::new(Mutex::new(Vec::new()));
    let mut context = Context::from_waker(Waker::noop());
    let mut builder = Builder::new();
    builder.max_headers(100);
    let mut handshake = pin!(builder.handshake(Server { wire: Rc::clone(&wire), read: 0 }));
    let Poll::Ready(Ok((mut sender, connection))) = handshake.as_mut().poll(&mut context) else {
        panic!("hyper waits before it says anything");
    };
    let request = request(is_head, Arc::clone(&interim));
    let mut exchange = pin!(async {
        let response = sender.send_request(request).await?;
        taken(response).await
    });
    let mut connection = Some(Box::pin(connection));
    let answer = loop {
        // What one side does the other sees at its next turn.
        let mut turns = (0..4).filter_map(|_| {
            let is_done = connection.as_mut().is_some_and(|run| run.as_mut().poll(&mut context).is_ready());
            connection.take_if(|_| is_done);
            match exchange.as_mut().poll(&mut context) {
                Poll::Ready(answer) => Some(answer),
                Poll::Pending => None,
            }
        });
        if let Some(answer) = turns.next() {
            break answer;
        }
        match wire.said.get() {
            said if said < input.len() => wire.said.set(said + 1),
            _ if !wire.is_over.get() => wire.is_over.set(true),
            _ => panic!("hyper waits for what will not come"),
        }
    };
    let (answer, end) = match answer {
        Ok(answer) => {
            (Some(Answer { end: wire.said.get(), stays: !wire.is_over.get(), ..answer }), End::Over)
        }
        Err(error) => (None, End::Refused(error.to_string())),
    };
    let interim = std::mem::take(&mut *interim.lock().expect("nobody panicked"));
    Reading { interim, answer, end }
}

fn request(is_head: bool, interim: Arc<Mutex<Vec<Head>>>) -> hyper::Request<Nothing> {
    let mut request = hyper::Request::new(Nothing);
    *request.method_mut() = if is_head { hyper::Method::HEAD } else { hyper::Method::GET };
    request.headers_mut().insert("host", hyper::header::HeaderValue::from_static("a"));
    hyper::ext::on_informational(&mut request, move |response| {
        let head =
            Head { status: response.status().as_u16(), fields: pairs(response.headers()), ..Head::default() };
        interim.lock().expect("nobody panicked").push(head);
    });
    request
}

/// A response with all of its body.
async fn taken(response: hyper::Response<Incoming>) -> hyper::Result<Answer> {
    let (head, mut incoming) = response.into_parts();
    let mut answer = Answer {
        head: Head { status: head.status.as_u16(), fields: pairs(&head.headers), ..Head::default() },
        ..Answer::default()
    };
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut incoming).poll_frame(context)).await
    {
        match frame?.into_data() {
            Ok(data) => answer.body.extend_from_slice(&data),
            Err(frame) => answer.trailers.extend(frame.trailers_ref().map(pairs).unwrap_or_default()),
        }
    }
    Ok(answer)
}

/// What a server says, and how much of it has come.
struct Wire {
    input: Vec<u8>,
    said: Cell<usize>,
    /// Nothing more comes.
    is_over: Cell<bool>,
}

/// Listens to nothing.
struct Server {
    wire: Rc<Wire>,
    read: usize,
}

impl Read for Server {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut room: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let wire = Rc::clone(&self.wire);
        let rest = &wire.input[self.read..wire.said.get()];
        if rest.is_empty() && !wire.is_over.get() {
            return Poll::Pending;
        }
        let length = rest.len().min(room.remaining());
        room.put_slice(&rest[..length]);
        self.read += length;
        Poll::Ready(Ok(()))
    }
}

impl Write for Server {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
