//! Reads foreign bytes as the requests of a connection, by our codec and by others, and compares: what both accept they
//! understand alike, and what ours accepts the others accept. Ours may refuse more.
//!
//! [`DELIBERATE`] lists what is understood otherwise on purpose.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use hyper::Response;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;
use mesh_common::http1::{
    Authority, BodyPart, BodyReader, Field, HeadScan, ReadRules, Refusal, RequestHead, Target, Version,
    is_trailer_allowed,
};

/// The whole input is what a client says before it closes.
pub fn run(input: &[u8]) {
    let ours = ours(input);
    if let Err(difference) = compare(&ours, &hypers(input)) {
        panic!("hyper reads {:?} otherwise: {difference}", input.escape_ascii().to_string());
    }
}

/// What a server understood of a connection.
#[derive(Debug)]
pub struct Reading {
    /// Those that were whole and accepted.
    pub requests: Vec<Request>,
    /// What came after them.
    pub end: End,
}

/// Why a reading goes no further. What others say is not told apart as finely: of a request that is not whole they say that
/// it is refused, and of a connection that they close that it is over.
#[derive(Debug, PartialEq)]
pub enum End {
    /// What came next was refused.
    Refused(String),
    /// Nothing came next.
    Over,
    /// The input ends inside of what came next.
    Cut,
    /// The connection is closed after the last one, whatever came next.
    Closes,
}

/// One request.
#[derive(Clone, Default)]
pub struct Request {
    /// As it came.
    pub method: Vec<u8>,
    /// The target: of ours in normal form, of others as they have it.
    pub target: Vec<u8>,
    /// The host, with its port; empty if it has none.
    pub host: Vec<u8>,
    /// Names and values, in their order as far as it is known.
    pub fields: Fields,
    /// Without its framing.
    pub body: Vec<u8>,
    /// As fields.
    pub trailers: Fields,
    /// Of ours what does not go on: an empty line before it, its line as it came, its trailer section.
    pub around: Around,
}

/// What stood around a request.
#[derive(Clone, Default)]
pub struct Around {
    is_http_10: bool,
    after_empty_line: bool,
    line: Vec<u8>,
    section: Vec<u8>,
}

/// Names and values.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

impl fmt::Debug for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, target, host, fields, body, trailers, around: _ } = self;
        let [method, target, host, body] = [method, target, host, body].map(|text| text.escape_ascii());
        write!(formatter, "{method} {target} at '{host}'")?;
        for (name, value) in fields.iter().chain(trailers) {
            write!(formatter, ", {}: '{}'", name.escape_ascii(), value.escape_ascii())?;
        }
        write!(formatter, ", body '{body}'")
    }
}

/// What is understood otherwise, or accepted alone, on purpose: when, and why.
const DELIBERATE: &[(Applies, &str)] = &[
    (
        is_about_the_server,
        "RFC 9112 section 3.2.4: of an OPTIONS request with an absolute-form target that has \"an empty path and no query \
         component\", \"the last proxy on the request chain MUST send a request-target of '*'\"; hyper's type for a URI \
         does not tell an empty path from '/'",
    ),
    (
        has_what_no_uri_has,
        "RFC 9112 section 3.2: an invalid request line SHOULD be answered with 400, and \"SHOULD NOT\" be corrected; yet \
         browsers leave '|', '^' and '`' as they are (WHATWG URL, the percent-encode sets), other clients also the \
         rest of these. No reader takes one for a delimiter, so they are passed on as they came",
    ),
    (
        stands_after_an_empty_line,
        "RFC 9112 section 2.2: a server \"SHOULD ignore at least one empty line (CRLF) received prior to the request-line\"",
    ),
    (
        expects_in_http_10,
        "RFC 9110 section 10.1.1: a 100-continue expectation in an HTTP/1.0 request \"MUST\" be ignored, and to any other a \
         server \"MAY\" answer 417; ours ends every expectation of HTTP/1.0 here",
    ),
    (
        has_trailers_that_end_here,
        "RFC 9112 section 7.1.2: who removes the chunked coding \"MAY selectively retain or discard the received trailer \
         fields\"; fasthttp refuses the request, net/http what announces them",
    ),
];

/// Whether a reason is that of a difference: our request, theirs if they have one, and what they said at the end.
type Applies = fn(&Request, Option<&Request>, &End) -> bool;

fn is_about_the_server(ours: &Request, theirs: Option<&Request>, _: &End) -> bool {
    theirs.is_some_and(|theirs| {
        let slash = Request { target: b"/".to_vec(), host: ours.host.clone(), ..Request::default() };
        let is_whole =
            ours.method == b"OPTIONS" && ours.target == b"*" && theirs.target.starts_with(b"http://");
        is_whole && is_target_alike(&slash, theirs) && is_rest_alike(ours, theirs)
    })
}

fn expects_in_http_10(ours: &Request, theirs: Option<&Request>, end: &End) -> bool {
    let is_refused = matches!(end, End::Refused(reason) if reason.contains("417"));
    theirs.is_none() && is_refused && ours.around.is_http_10
}

fn stands_after_an_empty_line(ours: &Request, theirs: Option<&Request>, _: &End) -> bool {
    theirs.is_none() && ours.around.after_empty_line
}

fn has_trailers_that_end_here(ours: &Request, theirs: Option<&Request>, _: &End) -> bool {
    let announced = values(&ours.fields, b"trailer").flat_map(|value| value.split(|byte| *byte == b','));
    let came = ours.around.section.split(|byte| *byte == b'\n').filter(|line| line.contains(&b':'));
    let mut names = came.filter_map(|line| line.split(|byte| *byte == b':').next()).chain(announced);
    let is_name = |name: &[u8]| {
        !name.is_empty()
            && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
    };
    theirs.is_none()
        && names.any(|name| !is_name(name.trim_ascii()) || !is_trailer_allowed(name.trim_ascii()))
}

/// RFC 3986 section 2.
fn has_what_no_uri_has(ours: &Request, theirs: Option<&Request>, end: &End) -> bool {
    let is_refused = matches!(end, End::Refused(reason) if reason.to_lowercase().contains("uri"));
    // As it came: a segment that has one may be gone from the path's normal form.
    theirs.is_none() && is_refused && ours.around.line.iter().any(|byte| b"\"<>^`{|}[]".contains(byte))
}

/// Compares our reading with another.
///
/// # Errors
/// Both readings of the first request that they understand otherwise, or that only one of them has.
pub fn compare(ours: &Reading, theirs: &Reading) -> Result<(), String> {
    let mut others = theirs.requests.iter();
    for request in &ours.requests {
        let other = others.next();
        let is_alike = other.is_some_and(|other| is_alike(request, other));
        let is_deliberate = || DELIBERATE.iter().any(|(applies, _)| applies(request, other, &theirs.end));
        match other {
            _ if !(is_alike || is_deliberate()) => {
                return Err(format!("ours: {request:?}; theirs: {other:?}, then {:?}", theirs.end));
            }
            Some(_) => {}
            // Where one was refused, nothing follows.
            None => return Ok(()),
        }
    }
    match (others.next(), &ours.end) {
        (None, _) | (_, End::Refused(_)) => Ok(()),
        (Some(more), end) => Err(format!("ours: {end:?}; theirs goes on with {more:?}")),
    }
}

fn is_alike(ours: &Request, theirs: &Request) -> bool {
    is_target_alike(ours, theirs) && is_rest_alike(ours, theirs)
}

fn is_rest_alike(ours: &Request, theirs: &Request) -> bool {
    // `Trailer` says only what may follow (RFC 9110 section 6.6.2), and servers make it what did.
    let compared = |fields: &Fields| -> Fields {
        fields.iter().filter(|(name, _)| !is(name, b"trailer")).cloned().collect()
    };
    let (ours, theirs) = (
        &Request { fields: compared(&ours.fields), ..ours.clone() },
        &Request { fields: compared(&theirs.fields), ..theirs.clone() },
    );
    ours.method == theirs.method
        && ours.body == theirs.body
        && is_subset(&ours.fields, &theirs.fields)
        && theirs.fields.iter().all(|(name, _)| ends_here(name, &theirs.fields) || has(&ours.fields, name))
        && is_subset(&ours.trailers, &theirs.trailers)
}

/// Theirs, made normal, is ours.
fn is_target_alike(ours: &Request, theirs: &Request) -> bool {
    let Ok(target) = Target::parse(&theirs.method, &theirs.target) else { return false };
    let host = Authority::parse(&theirs.host).ok();
    let host = target.authority.as_ref().or(host.as_ref());
    written(&target) == ours.target && host.map_or(&b""[..], Authority::as_bytes) == ours.host
}

fn written(target: &Target<'_>) -> Vec<u8> {
    let mut written = target.path.as_str().as_bytes().to_vec();
    if let Some(query) = target.query {
        written.push(b'?');
        written.extend_from_slice(query);
    }
    written
}

/// Whether each name of `fields` has the same values, in the same order, among the others.
pub fn is_subset(fields: &Fields, others: &Fields) -> bool {
    fields.iter().all(|(name, _)| values(fields, name).eq(values(others, name)))
}

/// The values of one name, in their order.
pub fn values<'f>(fields: &'f Fields, name: &[u8]) -> impl Iterator<Item = &'f [u8]> {
    fields.iter().filter(move |field| field.0.eq_ignore_ascii_case(name)).map(|field| &*field.1)
}

/// Whether there is a field of this name.
pub fn has(fields: &Fields, name: &[u8]) -> bool {
    values(fields, name).next().is_some()
}

/// Whether a field of a head is not for the next hop (RFC 9110 section 7.6.1), or is told otherwise.
pub fn ends_here(name: &[u8], fields: &Fields) -> bool {
    let known = ["connection", "content-length", "expect", "host", "http2-settings", "keep-alive"];
    let also = ["proxy-connection", "te", "transfer-encoding", "upgrade"];
    let nominated =
        |value: &[u8]| value.split(|byte| *byte == b',').any(|token| is(token.trim_ascii(), name));
    let is_known = known.iter().chain(&also).any(|known| is(known.as_bytes(), name));
    is_known || values(fields, b"connection").any(nominated)
}

/// Without regard to case.
pub fn is(one: &[u8], other: &[u8]) -> bool {
    one.eq_ignore_ascii_case(other)
}

/// Reads with our codec.
pub fn ours(input: &[u8]) -> Reading {
    let mut reading = Reading { requests: Vec::new(), end: End::Over };
    if let Err(refusal) = read_ours(input, &mut reading) {
        reading.end = End::Refused(refusal.to_string());
    }
    reading
}

fn read_ours(mut input: &[u8], reading: &mut Reading) -> Result<(), Refusal> {
    let rules = ReadRules::default();
    while !input.is_empty() {
        let head = RequestHead::read(input, &mut HeadScan::default(), &rules)?;
        let Some(head) = head else {
            // No byte of a request stands before it but an empty line.
            reading.end = if input == b"\r\n" || input == b"\r" { End::Over } else { End::Cut };
            return Ok(());
        };
        let mut request = of_head(&head);
        request.around.is_http_10 = head.version == Version::Http10;
        request.around.after_empty_line = input.starts_with(b"\r\n");
        let mut lines = input.split(|byte| *byte == b'\n').filter(|line| *line != b"\r");
        request.around.line = lines.next().unwrap_or_default().to_vec();
        input = &input[head.length..];
        let mut reader = BodyReader::new(head.framing);
        loop {
            let step = reader.read(input, &rules)?;
            let (done, rest) = input.split_at(step.consumed);
            input = rest;
            match step.part {
                BodyPart::Pending => {
                    reading.end = End::Cut;
                    return Ok(());
                }
                BodyPart::Bytes(bytes) => request.body.extend_from_slice(bytes),
                BodyPart::End(trailers) => {
                    request.trailers = owned(&trailers);
                    request.around.section = done.to_vec();
                    break;
                }
            }
        }
        reading.requests.push(request);
        if !head.keep_alive {
            reading.end = End::Closes;
            return Ok(());
        }
    }
    Ok(())
}

fn of_head(head: &RequestHead<'_>) -> Request {
    let target = Target { authority: None, path: head.path.clone(), query: head.query };
    let host = head.authority.as_ref().map(|host| host.as_bytes().to_vec());
    assert!(host.is_some() || head.version == Version::Http10, "only HTTP/1.0 has no Host");
    Request {
        method: head.method.to_vec(),
        target: written(&target),
        host: host.unwrap_or_default(),
        fields: owned(&head.fields),
        body: Vec::new(),
        trailers: Fields::new(),
        around: Around::default(),
    }
}

/// What a reader of ours understood, kept.
pub fn owned(fields: &[Field<'_>]) -> Fields {
    fields.iter().map(|field| (field.name.to_vec(), field.value.to_vec())).collect()
}

/// Reads with hyper's server.
pub fn hypers(input: &[u8]) -> Reading {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn(|request| answer(request, Arc::clone(&requests)));
    let mut server = hyper::server::conn::http1::Builder::new();
    // The client has said all that it will say, and still wants its answers.
    server.half_close(true).header_read_timeout(None).auto_date_header(false).max_headers(100);
    let connection = server.serve_connection(Client { input: input.to_vec(), said: 0 }, service);
    let ended = finish(std::pin::pin!(connection));
    let end = ended.map_or_else(|error| End::Refused(error.to_string()), |()| End::Over);
    Reading { requests: std::mem::take(&mut requests.lock().expect("nobody panicked")), end }
}

/// Takes a request with all of its body, and says nothing of its own.
async fn answer(
    request: hyper::Request<Incoming>,
    requests: Arc<Mutex<Vec<Request>>>,
) -> Result<Response<Nothing>, hyper::Error> {
    let (head, mut incoming) = request.into_parts();
    let (mut body, mut trailers) = (Vec::new(), Fields::new());
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut incoming).poll_frame(context)).await
    {
        match frame?.into_data() {
            Ok(data) => body.extend_from_slice(&data),
            Err(frame) => trailers.extend(frame.trailers_ref().map(pairs).unwrap_or_default()),
        }
    }
    let host = head.headers.get("host").map(|host| host.as_bytes().to_vec());
    let target = head.uri.to_string().into_bytes();
    let (method, fields) = (head.method.as_str().as_bytes().to_vec(), pairs(&head.headers));
    let (host, around) = (host.unwrap_or_default(), Around::default());
    let request = Request { method, target, host, fields, body, trailers, around };
    requests.lock().expect("nobody panicked").push(request);
    Ok(Response::new(Nothing))
}

/// What hyper understood, kept.
pub fn pairs(fields: &hyper::HeaderMap) -> Fields {
    fields
        .iter()
        .map(|(name, value)| (name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec()))
        .collect()
}

/// Runs what waits for nobody: there is all the input, and all the room, that there will ever be.
fn finish<F: Future>(mut future: Pin<&mut F>) -> F::Output {
    let mut context = Context::from_waker(Waker::noop());
    // It gives way now and then; one that never ends is a bug.
    for _ in 0..100_000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
    panic!("hyper waits for what will not come");
}

/// An empty body.
pub struct Nothing;

impl Body for Nothing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}

/// A client that says what it has to say, closes its side, and listens to nothing.
struct Client {
    input: Vec<u8>,
    said: usize,
}

impl Read for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut room: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let rest = &self.input[self.said..];
        let length = rest.len().min(room.remaining());
        room.put_slice(&rest[..length]);
        self.said += length;
        Poll::Ready(Ok(()))
    }
}

impl Write for Client {
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
