//! The compact form (RFC 7515 section 7.1): what is signed, with what, and the signature.

use data_encoding::BASE64URL_NOPAD;

use super::{Algorithm, MAX_TOKEN, TokenFault, json};

/// A token, cut into its parts. Nothing of it is verified.
#[derive(Debug)]
pub(super) struct Compact<'t> {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
    /// Header and payload, as they were signed.
    pub(super) signed: &'t [u8],
    /// In base64url.
    pub(super) payload: &'t [u8],
    pub(super) signature: Vec<u8>,
}

impl<'t> Compact<'t> {
    /// Cuts a token into its parts, whose header must be understood in full.
    pub(super) fn parse(token: &'t [u8]) -> Result<Self, TokenFault> {
        let [header, payload, signature] = parts(token)?;
        let signed = &token[..header.len() + 1 + payload.len()];
        let header = decode(header).and_then(|header| json::object(&header).ok_or(TokenFault::Header))?;
        let text = |name: &str| match header.get(name) {
            None => Ok(None),
            Some(value) => value.as_str().map(Some).ok_or(TokenFault::Header),
        };
        let algorithm = text("alg")?.and_then(Algorithm::of).ok_or(TokenFault::Algorithm)?;
        if header.contains_key("crit") || header.contains_key("b64") {
            return Err(TokenFault::Extension);
        }
        let key_id = text("kid")?.map(str::to_owned);
        Ok(Self { algorithm, key_id, signed, payload, signature: decode(signature)? })
    }

    /// The payload as it was signed.
    pub(super) fn payload(&self) -> Result<Vec<u8>, TokenFault> {
        decode(self.payload)
    }
}

/// Cuts at the dots: header, payload, signature; none of them may be empty.
pub(super) fn parts(token: &[u8]) -> Result<[&[u8]; 3], TokenFault> {
    if token.len() > MAX_TOKEN {
        return Err(TokenFault::TooLong);
    }
    let mut parts = token.split(|byte| *byte == b'.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(header), Some(payload), Some(signature), None)
            if !(header.is_empty() || payload.is_empty() || signature.is_empty()) =>
        {
            Ok([header, payload, signature])
        }
        _ => Err(TokenFault::NotCompact),
    }
}

/// Base64url without padding, in its one spelling: bits that stand for nothing must be 0.
pub(super) fn decode(part: &[u8]) -> Result<Vec<u8>, TokenFault> {
    BASE64URL_NOPAD.decode(part).map_err(|_| TokenFault::NotCompact)
}
