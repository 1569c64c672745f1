//! The keys of an issuer (RFC 7517 section 5).

use std::fmt;

use serde_json::{Map, Value};

use super::json;
use super::jws::Compact;
use super::key::Key;
use super::{Algorithm, Text, TokenFault};

/// The most bytes that a key set may have.
pub const MAX_KEY_SET: usize = 1 << 20;

/// The most bytes of a set that [`KeySet::published`] keeps: as many as `jwks` of an object may have.
const MAX_KEPT: usize = 256 << 10;

/// What of a key verifying needs (RFC 7517 section 4, RFC 7518 section 6, RFC 8037 section 2).
const NEEDED: [&str; 9] = ["kty", "crv", "x", "y", "n", "e", "alg", "use", "kid"];

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
    /// More than is kept.
    #[error("has keys of more than 256 KiB")]
    TooMuch,
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

    /// Reads a set that somebody else published, and keeps of it what verifying needs, in one form: without keys that
    /// cannot be used, and without certificates beside them. Two that differ in nothing else are the same.
    ///
    /// # Errors
    /// [`KeySetError`] if it is not a set at all, or too large.
    pub fn published(text: &str) -> Result<Self, KeySetError> {
        let read = Self::parse(text)?;
        let object = json::object(text.as_bytes()).ok_or(KeySetError::NotAnObject)?;
        let list = object.get("keys").and_then(Value::as_array).ok_or(KeySetError::NoKeys)?;
        let used = list.iter().filter_map(Value::as_object).filter(|jwk| Key::parse(jwk).is_ok());
        let needed = |jwk: &Map<String, Value>| {
            let members =
                NEEDED.iter().filter_map(|name| Some(((*name).to_owned(), jwk.get(*name)?.clone())));
            Value::Object(members.collect())
        };
        let keys: Vec<Value> = used.take(MAX_KEYS).map(needed).collect();
        let text = serde_json::json!({ "keys": keys }).to_string();
        if text.len() > MAX_KEPT {
            return Err(KeySetError::TooMuch);
        }
        Ok(Self { skipped: read.skipped, ..Self::parse(&text)? })
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

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = r#""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;

    #[test]
    fn of_a_published_set_what_verifying_needs_is_kept_in_one_form() {
        let one = format!(r#"{{"keys":[{{{KEY},"kid":"1","x5c":["AA"],"alg":"EdDSA","use":"sig"}}],"a":1}}"#);
        let two =
            format!(r#"{{ "keys": [{{"kid":"1", "use":"sig", "alg":"EdDSA", {KEY}}}, {{"kty":"oct"}}]}}"#);
        let (one, two) = (KeySet::published(&one).unwrap(), KeySet::published(&two).unwrap());
        assert_eq!(one, two);
        assert_eq!((one.len(), two.skipped().len()), (1, 1));
        assert!(!one.text().contains("x5c"));
    }

    #[test]
    fn no_more_is_kept_than_an_object_could_hold() {
        let named = |kid: usize| format!(r#"{{"keys":[{{{KEY},"kid":"{}"}}]}}"#, "k".repeat(kid));
        assert!(KeySet::published(&named(200 << 10)).is_ok());
        assert_eq!(KeySet::published(&named(300 << 10)).unwrap_err(), KeySetError::TooMuch);
        let many = vec![format!("{{{KEY}}}"); 10_000].join(",");
        assert_eq!(KeySet::published(&format!(r#"{{"keys":[{many}]}}"#)).unwrap().len(), MAX_KEYS);
    }
}
