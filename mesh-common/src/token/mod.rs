//! Tokens of end users: JSON Web Tokens in compact form, signed with a public key (RFC 7515, 7517, 7518, 7519, 8725).
//!
//! In: foreign bytes, the keys of an issuer, the time. Out: the [`Claims`] of a token whose signature holds, or a
//! [`TokenFault`]. What a token says of its own verification is used for nothing but to find the key: the algorithms
//! are a fixed list, each is bound to its type of key, and `jku`, `jwk`, `x5u` and `x5c` are not looked at. Signatures
//! are aws-lc's; the framing around them is a few lines, and stricter than a library that serves everyone can be.
//!
//! Never waits, reads a clock, logs or opens a socket.

mod algorithm;
mod cache;
mod claims;
mod fault;
mod json;
mod jws;
mod key;
mod key_set;
mod verify;

use std::sync::Arc;

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;

pub use algorithm::Algorithm;
pub use cache::TokenCache;
pub use claims::Claims;
pub use fault::TokenFault;
pub use key_set::{KeySet, KeySetError, MAX_KEY_SET, MAX_KEYS, SkippedKey};
pub use verify::{Expected, LEEWAY, Verified, issuer_of, verify};

type Text = Arc<str>;

/// The most bytes that a token may have.
pub const MAX_TOKEN: usize = 16 << 10;
