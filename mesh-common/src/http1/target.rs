//! The request target (RFC 9112 section 3.2): origin-form, absolute-form, and `*` for OPTIONS.

use super::{Authority, Refusal};
use crate::model::path::{NormalPath, RequestTarget};

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// From an absolute-form target; it then wins over Host (RFC 9112 section 3.2.2).
    pub authority: Option<Authority<'a>>,
    /// Normalised; `*` for an OPTIONS that is about the server.
    pub path: NormalPath<'a>,
    /// After the first `?`.
    pub query: Option<&'a [u8]>,
}

impl<'a> Target<'a> {
    /// Reads the target of a request with `method`.
    ///
    /// # Errors
    /// [`Refusal::Target`], [`Refusal::Fragment`], [`Refusal::Scheme`], [`Refusal::HostInvalid`], [`Refusal::Path`];
    /// [`Refusal::Connect`] for CONNECT, whose target is an authority.
    pub fn parse(method: &[u8], text: &'a [u8]) -> Result<Self, Refusal> {
        if method == b"CONNECT" {
            return Err(Refusal::Connect);
        }
        if text.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
            return Err(Refusal::Target);
        }
        if text.contains(&b'#') {
            return Err(Refusal::Fragment);
        }
        match text {
            [b'/', ..] => Self::from_origin(None, text),
            b"*" if method == b"OPTIONS" => {
                Ok(Self { authority: None, path: NormalPath::ASTERISK, query: None })
            }
            _ => Self::parse_absolute(method, text),
        }
    }

    fn parse_absolute(method: &[u8], text: &'a [u8]) -> Result<Self, Refusal> {
        let colon = text.iter().position(|byte| *byte == b':').ok_or(Refusal::Target)?;
        let (scheme, rest) = text.split_at(colon);
        let rest = rest.strip_prefix(b"://").ok_or(Refusal::Target)?;
        if !scheme.eq_ignore_ascii_case(b"http") {
            return Err(Refusal::Scheme);
        }
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
        let authority = Some(Authority::parse(&rest[..end])?);
        match &rest[end..] {
            // RFC 9112 section 3.2.4: OPTIONS without a path is about the server.
            [] if method == b"OPTIONS" => Ok(Self { authority, path: NormalPath::ASTERISK, query: None }),
            [] => Self::from_origin(authority, b"/"),
            [b'?', query @ ..] => Ok(Self { query: Some(query), ..Self::from_origin(authority, b"/")? }),
            origin => Self::from_origin(authority, origin),
        }
    }

    fn from_origin(authority: Option<Authority<'a>>, text: &'a [u8]) -> Result<Self, Refusal> {
        let RequestTarget { path, query } = RequestTarget::parse(text).map_err(Refusal::Path)?;
        Ok(Self { authority, path, query })
    }
}
