//! Reads the head of a response, knowing what it answers.

use std::mem::MaybeUninit;

use super::field::{ConnectionTokens, Known};
use super::framing::FramingFields;
use super::offer::Protocols;
use super::{BodyFraming, DECISION, Field, Fields, HeadScan, MAX_FIELDS, ReadRules, Refusal, Version};

/// What of a request decides how its response reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseTo {
    /// The method was HEAD: no body, whatever the fields say.
    pub head: bool,
    /// The request was a WebSocket's handshake: 101 may come.
    pub websocket: bool,
}

/// A response as it was understood.
#[derive(Clone, Debug)]
pub struct ResponseHead<'a> {
    /// Bytes of the input that the head takes.
    pub length: usize,
    /// 100 to 999.
    pub status: u16,
    /// The reason phrase; empty if it was, or held obs-text.
    pub phrase: &'a [u8],
    /// The fields that go on.
    pub fields: Fields<'a>,
    /// How the body ends.
    pub framing: BodyFraming,
    /// Content-Length, also where it only says how long a body would have been (HEAD, 304).
    pub content_length: Option<u64>,
    /// Whether the sender takes another request on the connection.
    pub keep_alive: bool,
}

impl<'a> ResponseHead<'a> {
    /// Reads the head that `input` begins with. `Ok(None)` asks for more input after the same bytes.
    ///
    /// # Errors
    /// Every [`Refusal`] that a response can earn; its connection is then to be closed, and the client told 502.
    pub fn read(
        input: &'a [u8],
        scan: &mut HeadScan,
        rules: &ReadRules<'_>,
        to: ResponseTo,
    ) -> Result<Option<Self>, Refusal> {
        let Some(range) = scan.head(input, &rules.limits)? else {
            return Ok(None);
        };
        *scan = HeadScan::default();
        let mut storage = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let allowed = rules.limits.fields.min(MAX_FIELDS);
        let mut tokens = httparse::Response::new(&mut []);
        let bytes = &input[range.start..range.end];
        let config = httparse::ParserConfig::default();
        match config.parse_response_with_uninit_headers(&mut tokens, bytes, &mut storage[..allowed]) {
            Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
            Ok(_) => return Err(Refusal::StartLine),
            Err(error) => return Err(Refusal::of_token(error)),
        }
        let (Some(version), Some(status), Some(phrase)) = (tokens.version, tokens.code, tokens.reason) else {
            return Err(Refusal::StartLine);
        };
        if range.start != 0 || status < 100 {
            return Err(Refusal::StartLine);
        }
        let version = if version == 1 { Version::Http11 } else { Version::Http10 };
        let mut sorting = Sorting::new(rules);
        for header in &*tokens.headers {
            sorting.take(Field { name: header.name.as_bytes(), value: header.value })?;
        }
        let start = StatusLine { length: range.end, version, status, phrase: phrase.as_bytes() };
        sorting.finish(start, to).map(Some)
    }

    /// Whether another response follows for the same request.
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }
}

struct StatusLine<'a> {
    length: usize,
    version: Version,
    status: u16,
    phrase: &'a [u8],
}

/// Sorts the fields of a response while they go by once.
struct Sorting<'a, 'r> {
    rules: &'r ReadRules<'r>,
    fields: Fields<'a>,
    framing: FramingFields,
    connection: ConnectionTokens<'a>,
    protocols: Protocols,
}

impl<'a, 'r> Sorting<'a, 'r> {
    fn new(rules: &'r ReadRules<'r>) -> Self {
        Self {
            rules,
            fields: Fields::new(),
            framing: FramingFields::default(),
            connection: ConnectionTokens::default(),
            protocols: Protocols::default(),
        }
    }

    fn take(&mut self, field: Field<'a>) -> Result<(), Refusal> {
        match Known::of(field.name) {
            None if self.rules.strip.covers(field.name) && !names_a_refusal(field.name) => {}
            None => self.fields.push(field),
            Some(Known::ContentLength) => self.framing.take_length(field.value)?,
            Some(Known::TransferEncoding) => self.framing.take_coding(field.value)?,
            Some(Known::Connection) => self.connection.take(field.value)?,
            Some(Known::Upgrade) => self.protocols.take(field.value)?,
            Some(Known::HopByHop | Known::Host | Known::Expect) => {}
            Some(Known::Disguised) => return Err(Refusal::FieldName),
        }
        Ok(())
    }

    fn finish(mut self, start: StatusLine<'a>, to: ResponseTo) -> Result<ResponseHead<'a>, Refusal> {
        let StatusLine { length, version, status, phrase } = start;
        let fields = self.framing.check(version)?;
        let framing = body_framing(status, fields, to)?;
        let agrees = to.websocket && self.connection.upgrade && self.protocols.is_websocket_alone();
        if status == 101 && !agrees {
            return Err(Refusal::Status);
        }
        self.connection.remove_nominated(&mut self.fields);
        let keep_alive = !self.connection.close && (version == Version::Http11 || self.connection.keep_alive);
        Ok(ResponseHead {
            length,
            status,
            phrase,
            fields: self.fields,
            framing,
            content_length: fields.length,
            keep_alive: keep_alive && framing != BodyFraming::UntilClose,
        })
    }
}

/// RFC 9112 section 6.3, in its order.
fn body_framing(status: u16, fields: FramingFields, to: ResponseTo) -> Result<BodyFraming, Refusal> {
    if status < 200 || status == 204 {
        // RFC 9110 section 8.6 forbids both fields here; a zero is harmless and common.
        let announces = fields.chunked || fields.length.is_some_and(|length| length > 0);
        return if announces { Err(Refusal::ForbiddenBody) } else { Ok(BodyFraming::None) };
    }
    if to.head || status == 304 {
        return Ok(BodyFraming::None);
    }
    Ok(match (fields.chunked, fields.length) {
        (true, _) => BodyFraming::Chunked,
        (false, Some(length)) => BodyFraming::Length(length),
        (false, None) => BodyFraming::UntilClose,
    })
}

/// The field by which the called side's agent tells of its refusal: who is refused gets it.
fn names_a_refusal(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(DECISION.as_bytes())
}
