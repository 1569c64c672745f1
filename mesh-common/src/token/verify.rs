//! Whether a token is what it says it is.

use std::sync::Arc;

use super::jws::{self, Compact};
use super::{Claims, KeySet, Text, TokenCache, TokenFault};

/// Clocks differ: this many seconds after `exp`, and before `nbf`, a token still counts.
pub const LEEWAY: u64 = 60;

/// What is asked of a token.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'e> {
    /// `iss`, letter by letter.
    pub issuer: &'e str,
    /// One of them in `aud`; empty for any.
    pub audiences: &'e [Text],
    /// Who may have signed it.
    pub keys: &'e Arc<KeySet>,
}

/// A token whose signature holds.
pub type Verified = Arc<Claims>;

/// Verifies a token; `now` in seconds since the epoch.
///
/// # Errors
/// [`TokenFault`].
pub fn verify(
    token: &[u8],
    expected: Expected<'_>,
    now: u64,
    cache: &mut TokenCache,
) -> Result<Verified, TokenFault> {
    let claims = cache.signed(token, expected.keys, || signed(token, expected.keys))?;
    check(&claims, expected, now)?;
    Ok(claims)
}

/// Who a token says issued it, before anything is verified: to choose whose keys to ask.
///
/// # Errors
/// [`TokenFault`] if it is not a token at all.
pub fn issuer_of(token: &[u8]) -> Result<Text, TokenFault> {
    let [_, payload, _] = jws::parts(token)?;
    let claims = Claims::parse(&jws::decode(payload)?, payload)?;
    Ok(Arc::clone(claims.issuer()))
}

fn signed(token: &[u8], keys: &KeySet) -> Result<Claims, TokenFault> {
    let compact = Compact::parse(token)?;
    keys.has_signed(&compact)?;
    Claims::parse(&compact.payload()?, compact.payload)
}

fn check(claims: &Claims, expected: Expected<'_>, now: u64) -> Result<(), TokenFault> {
    if **claims.issuer() != *expected.issuer {
        return Err(TokenFault::Issuer);
    }
    let wanted = |audience: &str| expected.audiences.iter().any(|wanted| **wanted == *audience);
    if !expected.audiences.is_empty() && !claims.audiences().any(wanted) {
        return Err(TokenFault::Audience);
    }
    let expires = claims.expires().ok_or(TokenFault::NoExpiry)?;
    if now >= expires.saturating_add(LEEWAY) {
        return Err(TokenFault::Expired);
    }
    if claims.not_before().is_some_and(|begins| now.saturating_add(LEEWAY) < begins) {
        return Err(TokenFault::NotYetValid);
    }
    Ok(())
}
