//! Builds heads anew from what was understood.

use super::{
    Authority, BodyFraming, BodyWriter, Field, Offer, RequestHead, ResponseHead, Version, WEBSOCKET_VERSION,
    WEBSOCKET_VERSION_FIELD,
};
use crate::model::{DecisionId, HeadEdits, Text};

/// The fields of a message that changes the protocol.
const UPGRADE: &[u8] = b"Connection: Upgrade\r\nUpgrade: websocket\r\n";

/// For whom a response is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseFor {
    /// What the client speaks.
    pub version: Version,
    /// Whether the client asked to keep the connection, and this side is willing.
    pub keep_alive: bool,
    /// The request was HEAD.
    pub head: bool,
}

impl ResponseFor {
    /// Somebody of whom nothing is known, and who will not be listened to again.
    pub(super) const UNKNOWN: Self = Self { version: Version::Http11, keep_alive: false, head: false };
}

/// Appends `head` as an HTTP/1.1 request, with `added` fields after those that the client sent. `dialled` stands
/// in for a Host that HTTP/1.0 may leave out. The writer returned takes the body.
pub fn write_request(
    head: &RequestHead<'_>,
    dialled: &Authority<'_>,
    added: &[Field<'_>],
    out: &mut Vec<u8>,
) -> BodyWriter {
    // What is left out of a head is about as much as what is written besides.
    out.reserve(head.length + 64);
    out.extend_from_slice(head.method);
    out.push(b' ');
    out.extend_from_slice(head.path.as_str().as_bytes());
    if let Some(query) = head.query {
        out.push(b'?');
        out.extend_from_slice(query);
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let authority = head.authority.as_ref().unwrap_or(dialled);
    write_field(b"Host", authority.as_bytes(), out);
    write_fields(&head.fields, out);
    if head.expects_continue {
        write_field(b"Expect", b"100-continue", out);
    }
    if head.offer == Offer::WebSocket {
        out.extend_from_slice(UPGRADE);
    }
    write_fields(added, out);
    write_framing(head.framing, out);
    out.extend_from_slice(b"\r\n");
    BodyWriter::new(head.framing)
}

/// Appends `head` as a response, with `edits` of its fields. Returns the writer for its body and whether the connection
/// stays open after it.
pub fn write_response(
    head: &ResponseHead<'_>,
    edits: Option<&HeadEdits>,
    to: ResponseFor,
    out: &mut Vec<u8>,
) -> (BodyWriter, bool) {
    out.reserve(head.length + 64);
    write_status_line(head.status, head.phrase, out);
    match edits {
        None => write_fields(&head.fields, out),
        Some(edits) => {
            let kept = head.fields.iter().filter(|field| !edits.removes(field.name));
            kept.for_each(|field| write_field(field.name, field.value, out));
            edits.added.iter().for_each(|(name, value)| write_field(name.as_bytes(), value, out));
        }
    }
    if head.status == 101 {
        out.extend_from_slice(UPGRADE);
        out.extend_from_slice(b"\r\n");
        return (BodyWriter::new(BodyFraming::UntilClose), false);
    }
    let framing = match head.framing {
        BodyFraming::Chunked | BodyFraming::UntilClose if to.version == Version::Http11 => {
            BodyFraming::Chunked
        }
        BodyFraming::Chunked => BodyFraming::UntilClose,
        framing => framing,
    };
    let keep_alive = to.keep_alive && framing != BodyFraming::UntilClose;
    match (framing, head.content_length) {
        // Without a body the length still says how long it would have been (HEAD, 304).
        (BodyFraming::None, Some(length)) if head.status >= 200 && head.status != 204 => {
            write_framing(BodyFraming::Length(length), out);
        }
        _ => write_framing(framing, out),
    }
    if !head.is_interim() {
        write_persistence(to.version, keep_alive, out);
    }
    out.extend_from_slice(b"\r\n");
    (BodyWriter::new(framing), keep_alive)
}

/// An answer that the daemon gives itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAnswer<'t> {
    /// 400 to 599.
    pub status: u16,
    /// What the body says, as plain text.
    pub text: &'t str,
    /// The stable code of why; sent as `x-nodemesh-reason` where it is not empty.
    pub reason: &'t str,
    /// The refusal that it tells of; sent as [`DECISION`].
    pub decision: Option<DecisionId>,
}

/// The field that names a refusal, so that it can be asked for.
pub const DECISION: &str = "x-nodemesh-decision-id";

/// An answer that somebody asked gave for a request, checked: a refusal of an authorization server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenAnswer {
    /// 200 to 599.
    pub status: u16,
    /// Fields, with names in lower case; none that frames a message.
    pub fields: Vec<(Text, Box<[u8]>)>,
    /// What follows them.
    pub body: Box<[u8]>,
    /// The stable code of why; sent as `x-nodemesh-reason`.
    pub reason: &'static str,
    /// The refusal that it tells of; sent as [`DECISION`].
    pub decision: Option<DecisionId>,
}

impl GivenAnswer {
    /// Bytes of its body, for whom it answers: none for HEAD.
    pub fn body_bytes(&self, is_head: bool) -> u64 {
        if is_head { 0 } else { self.body.len() as u64 }
    }
}

/// Appends such an answer, whole. Returns whether the connection stays open.
pub fn write_given_answer(answer: &GivenAnswer, to: ResponseFor, out: &mut Vec<u8>) -> bool {
    write_status_line(answer.status, phrase(answer.status).as_bytes(), out);
    if !matches!(answer.status, 204 | 304) {
        write_framing(BodyFraming::Length(answer.body.len() as u64), out);
    }
    for (name, value) in &answer.fields {
        write_field(name.as_bytes(), value, out);
    }
    write_field(b"x-nodemesh-reason", answer.reason.as_bytes(), out);
    if let Some(decision) = &answer.decision {
        write_field(DECISION.as_bytes(), decision.as_str().as_bytes(), out);
    }
    write_persistence(to.version, to.keep_alive, out);
    out.extend_from_slice(b"\r\n");
    if !to.head {
        out.extend_from_slice(&answer.body);
    }
    to.keep_alive
}

/// What the caller of a refused token is told (RFC 6750 section 3).
pub const CHALLENGE: &str = "Bearer realm=\"nodemesh\", error=\"invalid_token\"";

impl LocalAnswer<'_> {
    /// Bytes of its body, for whom it answers: none for HEAD.
    pub fn body_bytes(&self, is_head: bool) -> u64 {
        if is_head { 0 } else { self.text.len() as u64 }
    }
}

/// Appends an answer of the daemon's own, whole. Returns whether the connection stays open.
pub fn write_local_answer(answer: LocalAnswer<'_>, to: ResponseFor, out: &mut Vec<u8>) -> bool {
    write_status_line(answer.status, phrase(answer.status).as_bytes(), out);
    write_framing(BodyFraming::Length(answer.text.len() as u64), out);
    write_field(b"content-type", b"text/plain", out);
    if !answer.reason.is_empty() {
        write_field(b"x-nodemesh-reason", answer.reason.as_bytes(), out);
    }
    if let Some(decision) = &answer.decision {
        write_field(DECISION.as_bytes(), decision.as_str().as_bytes(), out);
    }
    if answer.status == 401 {
        write_field(b"www-authenticate", CHALLENGE.as_bytes(), out);
    }
    if answer.status == 426 {
        // RFC 6455 section 4.4, RFC 9110 section 15.5.22: what would have been taken.
        out.extend_from_slice(UPGRADE);
        write_field(WEBSOCKET_VERSION_FIELD.as_bytes(), WEBSOCKET_VERSION.as_bytes(), out);
    }
    write_persistence(to.version, to.keep_alive, out);
    out.extend_from_slice(b"\r\n");
    if !to.head {
        out.extend_from_slice(answer.text.as_bytes());
    }
    to.keep_alive
}

pub(super) fn write_fields(fields: &[Field<'_>], out: &mut Vec<u8>) {
    for field in fields {
        write_field(field.name, field.value, out);
    }
}

fn write_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn write_framing(framing: BodyFraming, out: &mut Vec<u8>) {
    match framing {
        BodyFraming::None | BodyFraming::UntilClose => {}
        BodyFraming::Chunked => write_field(b"transfer-encoding", b"chunked", out),
        BodyFraming::Length(length) => {
            let mut digits = [0; 20];
            let start = write_decimal(length, &mut digits);
            write_field(b"content-length", &digits[start..], out);
        }
    }
}

fn write_persistence(version: Version, keep_alive: bool, out: &mut Vec<u8>) {
    match (version, keep_alive) {
        (Version::Http11, true) => {}
        (Version::Http10, true) => write_field(b"connection", b"keep-alive", out),
        (_, false) => write_field(b"connection", b"close", out),
    }
}

fn write_status_line(status: u16, phrase: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    for place in [100, 10, 1] {
        // A status has three digits, so each quotient fits.
        out.push(b'0' + (status / place % 10) as u8);
    }
    out.push(b' ');
    out.extend_from_slice(phrase);
    out.extend_from_slice(b"\r\n");
}

/// Writes decimal digits at the end of `digits`; returns where they start.
fn write_decimal(mut value: u64, digits: &mut [u8; 20]) -> usize {
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return start;
        }
    }
}

/// The phrase of a status that the daemon gives itself (RFC 9110 section 15).
fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}
