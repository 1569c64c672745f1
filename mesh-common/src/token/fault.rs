//! Why a token is not taken: closed reasons, their codes and their words.

use std::fmt;

/// Why a token is not taken. The words are Envoy's where it has some, because people search for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TokenFault {
    /// Longer than a token may be.
    TooLong,
    /// Not three parts in base64url.
    NotCompact,
    /// Its header is not a JSON object that can be read in one way.
    Header,
    /// `alg` is none of the algorithms that are taken.
    Algorithm,
    /// It asks for an extension that its reader must understand (`crit`, `b64`).
    Extension,
    /// Its payload is not a JSON object that can be read in one way.
    Payload,
    /// A registered claim is not of its type.
    Claim,
    /// No key fits it.
    NoKey,
    /// The signature is not the key's.
    Signature,
    /// `iss` is missing, or is nobody's that is expected.
    Issuer,
    /// `aud` names nobody that is expected.
    Audience,
    /// There is no `exp`: it would hold for ever.
    NoExpiry,
    /// `exp` has passed.
    Expired,
    /// `nbf` has not come.
    NotYetValid,
    /// The issuer's keys have not been fetched so far.
    KeysMissing,
    /// The request carries tokens that differ: it cannot be said who asks.
    Several,
}

impl TokenFault {
    /// Every fault.
    pub const ALL: [Self; 16] = [
        Self::TooLong,
        Self::NotCompact,
        Self::Header,
        Self::Algorithm,
        Self::Extension,
        Self::Payload,
        Self::Claim,
        Self::NoKey,
        Self::Signature,
        Self::Issuer,
        Self::Audience,
        Self::NoExpiry,
        Self::Expired,
        Self::NotYetValid,
        Self::KeysMissing,
        Self::Several,
    ];

    /// The stable code for logs, metrics and responses.
    pub fn code(self) -> &'static str {
        match self {
            Self::TooLong => "token_too_long",
            Self::NotCompact => "token_not_compact",
            Self::Header => "token_header_invalid",
            Self::Algorithm => "token_algorithm_refused",
            Self::Extension => "token_extension_unknown",
            Self::Payload => "token_payload_invalid",
            Self::Claim => "token_claim_invalid",
            Self::NoKey => "token_key_unknown",
            Self::Signature => "token_signature_invalid",
            Self::Issuer => "token_issuer_unknown",
            Self::Audience => "token_audience_unknown",
            Self::NoExpiry => "token_without_expiry",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::KeysMissing => "token_keys_missing",
            Self::Several => "token_ambiguous",
        }
    }

    /// What the caller is told.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "Jwt is too long",
            Self::NotCompact => {
                "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
            }
            Self::Header => "Jwt header is an invalid JSON",
            Self::Algorithm => "Jwt header [alg] is not supported",
            Self::Extension => "Jwt header has an extension that is not supported",
            Self::Payload => "Jwt payload is an invalid JSON",
            Self::Claim => "Jwt payload has a registered claim of the wrong type",
            Self::NoKey => "Jwks doesn't have key to match kid or alg from Jwt",
            Self::Signature => "Jwt verification fails",
            Self::Issuer => "Jwt issuer is not configured",
            Self::Audience => "Audiences in Jwt are not allowed",
            Self::NoExpiry => "Jwt payload field [exp] is required",
            Self::Expired => "Jwt is expired",
            Self::NotYetValid => "Jwt not yet valid",
            Self::KeysMissing => "Jwks remote fetch is failed",
            Self::Several => "Request has several different Jwts",
        }
    }
}

impl fmt::Display for TokenFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
