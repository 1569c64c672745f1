//! The keys of an issuer (RFC 7517 section 5).

use std::fmt;

use serde_json::Value;

use super::json;
use super::jws::Compact;
use super::key::Key;
use super::{Algorithm, Text, TokenFault};

/// The most bytes that a key set may have.
pub const MAX_KEY_SET: usize = 1 << 20;

/// The most keys of a set that are used.
pub const MAX_KEYS: usize = 100;

/// The most keys that are tried for one token: a signature costs far more to verify than to make up.
const MAX_TRIED: usize = 8;

/// The keys of an issuer, as it published them.
#[derive(Clone)]
pub struct KeySet {
    text: Text,
    keys: Vec<Key>,
    skipped: Vec<SkippedKey>,
}

/// A key that is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedKey {
    /// Its place in `keys`.
    pub index: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Why something is not a key set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Longer than a set may be.
    #[error("is longer than 1 MiB")]
    TooLong,
    /// Not a JSON object that can be read in one way.
    #[error("is not a JSON object")]
    NotAnObject,
    /// Without keys.
    #[error("has no list `keys`")]
    NoKeys,
}

impl KeySet {
    /// Reads a set. Keys that cannot be used are left out, as the RFC asks.
    ///
    /// # Errors
    /// [`KeySetError`] if it is not a set at all.
    pub fn parse(text: &str) -> Result<Self, KeySetError> {
        if text.len() > MAX_KEY_SET {
            return Err(KeySetError::TooLong);
        }
        let object = json::object(text.as_bytes()).ok_or(KeySetError::NotAnObject)?;
        let Some(Value::Array(list)) = object.get("keys") else { return Err(KeySetError::NoKeys) };
        let (mut keys, mut skipped) = (Vec::new(), Vec::new());
        for (index, jwk) in list.iter().enumerate() {
            if keys.len() == MAX_KEYS {
                skipped.push(SkippedKey {
                    index,
                    reason: "is one too many: 100 keys are used, and none after it",
                });
                break;
            }
            match jwk.as_object().ok_or("is not an object").and_then(Key::parse) {
                Ok(key) => keys.push(key),
                Err(reason) if skipped.len() < MAX_KEYS => skipped.push(SkippedKey { index, reason }),
                Err(_) => {}
            }
        }
        Ok(Self { text: text.into(), keys, skipped })
    }

    /// As it was published.
    pub fn text(&self) -> &Text {
        &self.text
    }

    /// How many keys it has that can be used.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Keys that are not used.
    pub fn skipped(&self) -> &[SkippedKey] {
        &self.skipped
    }

    /// Whether one of the keys has signed a token.
    pub(super) fn has_signed(&self, token: &Compact<'_>) -> Result<(), TokenFault> {
        let Compact { algorithm, ref key_id, signed, ref signature, .. } = *token;
        let mut meant = self.meant(algorithm, key_id.as_deref()).peekable();
        if meant.peek().is_none() {
            return Err(TokenFault::NoKey);
        }
        let signed = meant.take(MAX_TRIED).any(|key| key.has_signed(algorithm, signed, signature));
        if signed { Ok(()) } else { Err(TokenFault::Signature) }
    }

    fn meant<'s>(&'s self, algorithm: Algorithm, id: Option<&'s str>) -> impl Iterator<Item = &'s Key> {
        self.keys.iter().filter(move |key| key.is_meant(algorithm, id))
    }
}

/// The keys follow from the text.
impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for KeySet {}

impl fmt::Debug for KeySet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.keys.iter().map(|key| key.id.as_deref());
        formatter.debug_tuple("KeySet").field(&ids.collect::<Vec<_>>()).finish()
    }
}
