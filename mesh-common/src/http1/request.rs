//! Reads the head of a request.

use std::mem::MaybeUninit;

use smallvec::SmallVec;

use super::field::{ConnectionTokens, Known};
use super::framing::FramingFields;
use super::offer::{Protocols, WEBSOCKET, check_handshake};
use super::{
    Authority, BodyFraming, Field, Fields, HeadScan, MAX_FIELDS, Offer, ReadRules, Refusal, Target, Version,
};
use crate::model::facts::{HeadEdits, RequestFacts};
use crate::model::path::NormalPath;

/// A request as it was understood. What is not in here is not sent on.
#[derive(Clone, Debug)]
pub struct RequestHead<'a> {
    /// Bytes of the input that the head takes.
    pub length: usize,
    /// What the client speaks.
    pub version: Version,
    /// The method, case-sensitive.
    pub method: &'a [u8],
    /// Of the target, else of Host; `None` only for HTTP/1.0 without Host.
    pub authority: Option<Authority<'a>>,
    /// In normal form: matched and sent on as it stands here. `*` for an OPTIONS that is about the server.
    pub path: NormalPath<'a>,
    /// After the first `?`.
    pub query: Option<&'a [u8]>,
    /// The fields that go on.
    pub fields: Fields<'a>,
    /// How the body ends; never [`BodyFraming::UntilClose`].
    pub framing: BodyFraming,
    /// The digits of Content-Length.
    pub content_length: Option<&'a [u8]>,
    /// Whether the client wants to send another request on the connection.
    pub keep_alive: bool,
    /// Whether the client waits for 100 before it sends the body.
    pub expects_continue: bool,
    /// The protocol that the client offers to change to.
    pub offer: Offer,
}

impl<'a> RequestHead<'a> {
    /// Reads the head that `input` begins with. `Ok(None)` asks for more input after the same bytes; `scan`
    /// remembers what was looked at and starts anew for the next message.
    ///
    /// # Errors
    /// Every [`Refusal`] that a head can earn; the connection is then to be answered and closed.
    pub fn read(
        input: &'a [u8],
        scan: &mut HeadScan,
        rules: &ReadRules<'_>,
    ) -> Result<Option<Self>, Refusal> {
        let Some(range) = scan.head(input, &rules.limits)? else {
            return Ok(None);
        };
        *scan = HeadScan::default();
        let mut storage = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let allowed = rules.limits.fields.min(MAX_FIELDS);
        let mut tokens = httparse::Request::new(&mut []);
        let bytes = &input[range.start..range.end];
        match tokens.parse_with_uninit_headers(bytes, &mut storage[..allowed]) {
            Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
            Ok(_) => return Err(Refusal::StartLine),
            Err(httparse::Error::Version) => return Err(version_refusal(bytes)),
            Err(error) => return Err(Refusal::of_token(error)),
        }
        let (Some(method), Some(target), Some(version)) = (tokens.method, tokens.path, tokens.version) else {
            return Err(Refusal::StartLine);
        };
        let version = if version == 1 { Version::Http11 } else { Version::Http10 };
        let target = Target::parse(method.as_bytes(), target.as_bytes())?;
        let start = StartLine { length: range.end, version, method: method.as_bytes(), target };
        Sorting::new(rules).sort(tokens.headers, version)?.finish(start).map(Some)
    }

    /// Shows the request to `judge` as policy sees it: exactly what will be sent on. `dialled` stands in for a Host
    /// that HTTP/1.0 may leave out.
    pub fn facts<T>(&self, dialled: &Authority<'_>, judge: impl FnOnce(&RequestFacts<'_>) -> T) -> T {
        let host = self.authority.as_ref().unwrap_or(dialled).as_bytes();
        let mut headers: SmallVec<[(&[u8], &[u8]); 32]> = SmallVec::new();
        headers.push((b"host", host));
        headers.extend(self.fields.iter().map(|field| (field.name, field.value)));
        if self.offer == Offer::WebSocket {
            headers.push((b"upgrade", WEBSOCKET.as_bytes()));
        }
        headers.extend(self.content_length.map(|length| (&b"content-length"[..], length)));
        let (method, path, query) = (self.method, &self.path, self.query);
        judge(&RequestFacts {
            method,
            host,
            path,
            query,
            headers: &headers,
            end_user: None,
            allowed_by: None,
        })
    }
}

impl<'a> RequestHead<'a> {
    /// The same with other fields and another query. A Host is never one of them.
    pub(super) fn edited<'e>(&self, edits: &'e HeadEdits) -> RequestHead<'e>
    where
        'a: 'e,
    {
        let kept = self.fields.iter().filter(|field| !edits.removes(field.name)).copied();
        let added = edits.added.iter().map(|(name, value)| Field { name: name.as_bytes(), value });
        RequestHead {
            length: self.length,
            version: self.version,
            method: self.method,
            authority: self.authority.clone(),
            path: self.path.clone(),
            query: edits.query(self.query),
            fields: kept.chain(added).collect(),
            framing: self.framing,
            content_length: self.content_length,
            keep_alive: self.keep_alive,
            expects_continue: self.expects_continue,
            offer: self.offer,
        }
    }
}

/// The start line, once its target was read.
struct StartLine<'a> {
    length: usize,
    version: Version,
    method: &'a [u8],
    target: Target<'a>,
}

/// Sorts the fields of a request while they go by once.
struct Sorting<'a, 'r> {
    rules: &'r ReadRules<'r>,
    fields: Fields<'a>,
    framing: FramingFields,
    connection: ConnectionTokens<'a>,
    host: Option<Authority<'a>>,
    protocols: Protocols,
    content_length: Option<&'a [u8]>,
    expects_continue: bool,
}

impl<'a, 'r> Sorting<'a, 'r> {
    fn new(rules: &'r ReadRules<'r>) -> Self {
        Self {
            rules,
            fields: Fields::new(),
            framing: FramingFields::default(),
            connection: ConnectionTokens::default(),
            host: None,
            protocols: Protocols::default(),
            content_length: None,
            expects_continue: false,
        }
    }

    fn sort(mut self, headers: &[httparse::Header<'a>], version: Version) -> Result<Self, Refusal> {
        for header in headers {
            let field = Field { name: header.name.as_bytes(), value: header.value };
            self.take(field, version)?;
        }
        Ok(self)
    }

    fn take(&mut self, field: Field<'a>, version: Version) -> Result<(), Refusal> {
        match Known::of(field.name) {
            None if self.rules.strip.covers(field.name) => {}
            None => self.fields.push(field),
            Some(Known::Host) => self.take_host(field.value)?,
            Some(Known::ContentLength) => {
                self.framing.take_length(field.value)?;
                self.content_length = Some(field.value);
            }
            Some(Known::TransferEncoding) => self.framing.take_coding(field.value)?,
            Some(Known::Connection) => self.connection.take(field.value)?,
            Some(Known::Upgrade) => self.protocols.take(field.value)?,
            // RFC 9110 section 10.1.1: a 100-continue expectation in an HTTP/1.0 request is ignored.
            Some(Known::Expect) if version == Version::Http10 => {}
            Some(Known::Expect) if field.value.eq_ignore_ascii_case(b"100-continue") => {
                self.expects_continue = true;
            }
            Some(Known::Expect) => return Err(Refusal::Expect),
            Some(Known::HopByHop) => {}
            Some(Known::Disguised) => return Err(Refusal::FieldName),
        }
        Ok(())
    }

    fn take_host(&mut self, value: &'a [u8]) -> Result<(), Refusal> {
        if self.host.is_some() {
            return Err(Refusal::HostRepeated);
        }
        self.host = Some(Authority::parse(value)?);
        Ok(())
    }

    fn finish(mut self, start: StartLine<'a>) -> Result<RequestHead<'a>, Refusal> {
        let StartLine { length, version, method, target } = start;
        if self.host.is_none() && version == Version::Http11 {
            return Err(Refusal::HostMissing);
        }
        let framing = self.framing.check(version)?;
        let framing = match (framing.chunked, framing.length) {
            (true, _) => BodyFraming::Chunked,
            (false, Some(length)) => BodyFraming::Length(length),
            (false, None) => BodyFraming::None,
        };
        let bodiless = matches!(framing, BodyFraming::None | BodyFraming::Length(0));
        self.connection.remove_nominated(&mut self.fields);
        // Upgrade counts only with its Connection token, in HTTP/1.1 (RFC 9110 section 7.8).
        let counts = self.connection.upgrade && version == Version::Http11;
        let offer = if counts { self.protocols.offer() } else { Offer::None };
        if offer == Offer::WebSocket {
            check_handshake(method, !bodiless, &self.fields)?;
        }
        let keep_alive = !self.connection.close && (version == Version::Http11 || self.connection.keep_alive);
        Ok(RequestHead {
            length,
            version,
            method,
            authority: target.authority.or(self.host),
            path: target.path,
            query: target.query,
            fields: self.fields,
            framing,
            content_length: self.content_length,
            keep_alive,
            expects_continue: self.expects_continue && !bodiless,
            offer,
        })
    }
}

/// `HTTP/2.0` and the like are versions (505); anything else in their place is a broken line (400).
fn version_refusal(head: &[u8]) -> Refusal {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(_), Some(_), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Refusal::StartLine;
    };
    match version {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Refusal::Version
        }
        _ => Refusal::StartLine,
    }
}
