//! How long a body is (RFC 9112 section 6), from fields that leave no doubt.

use super::Refusal;

/// The versions that are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: no chunks, no interim responses, closed unless asked otherwise.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// How a body's end is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// After the last chunk and its trailers.
    Chunked,
    /// When the sender closes; responses only.
    UntilClose,
}

/// Gathers Content-Length and Transfer-Encoding while the fields of a head go by.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FramingFields {
    /// The one Content-Length.
    pub length: Option<u64>,
    /// Whether there is a Transfer-Encoding, which is then exactly `chunked`.
    pub chunked: bool,
}

impl FramingFields {
    /// Takes a Content-Length field. A second one is refused even if it says the same.
    pub(super) fn take_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.length.is_some() {
            return Err(Refusal::ContentLength);
        }
        self.length = Some(decimal(value)?);
        Ok(())
    }

    /// Takes a Transfer-Encoding field.
    pub(super) fn take_coding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.chunked {
            return Err(Refusal::TransferEncoding);
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(refused_coding(value));
        }
        self.chunked = true;
        Ok(())
    }

    /// Both at once is how messages are smuggled; HTTP/1.0 has no codings (RFC 9112 section 6.1).
    pub(super) fn check(self, version: Version) -> Result<Self, Refusal> {
        match (self.chunked, self.length, version) {
            (true, Some(_), _) => Err(Refusal::LengthAndCoding),
            (true, None, Version::Http10) => Err(Refusal::TransferEncoding),
            _ => Ok(self),
        }
    }
}

/// A length as RFC 9110 section 8.6 has it, in its only spelling: no sign, no list, no leading zero.
fn decimal(value: &[u8]) -> Result<u64, Refusal> {
    let plain = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
    if !plain || (value[0] == b'0' && value.len() > 1) {
        return Err(Refusal::ContentLength);
    }
    Ok(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// `gzip, chunked` is understood and not served (501); everything else is malformed.
fn refused_coding(value: &[u8]) -> Refusal {
    let mut codings = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let last = codings.next_back();
    let known = |coding: &[u8]| {
        [&b"gzip"[..], b"x-gzip", b"deflate", b"compress", b"x-compress"]
            .iter()
            .any(|name| coding.eq_ignore_ascii_case(name))
    };
    match last {
        Some(last) if last.eq_ignore_ascii_case(b"chunked") && codings.all(known) => Refusal::TransferCoding,
        _ => Refusal::TransferEncoding,
    }
}
