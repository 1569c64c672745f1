//! Reads foreign bytes as the keys of an issuer, and holds the laws that no bytes may break.

use std::sync::Arc;

use mesh_common::token::{Expected, KeySet, MAX_KEY_SET, MAX_KEYS, TokenCache, verify};

/// Nobody signed them, with algorithms of each type of key: `none` and `HS256` among them, which no key is for.
const UNSIGNED: [(&str, bool); 5] = [
    ("eyJhbGciOiJub25lIn0.eyJpc3MiOiJhIiwiZXhwIjoxODAwMDAwNjAwfQ.AA", true),
    ("eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJhIiwiZXhwIjoxODAwMDAwNjAwfQ.AA", true),
    ("eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJhIiwiZXhwIjoxODAwMDAwNjAwfQ.AA", false),
    ("eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJhIiwiZXhwIjoxODAwMDAwNjAwfQ.AA", true),
    ("eyJhbGciOiJFZERTQSJ9.eyJpc3MiOiJhIiwiZXhwIjoxODAwMDAwNjAwfQ.AA", true),
];

pub fn run(input: &[u8]) {
    let Ok(Ok(keys)) = std::str::from_utf8(input).map(KeySet::parse) else { return };
    assert!(keys.text().len() <= MAX_KEY_SET);
    assert!(keys.len() <= MAX_KEYS && keys.skipped().len() <= MAX_KEYS);
    let places: Vec<usize> = keys.skipped().iter().map(|key| key.index).collect();
    assert!(places.is_sorted_by(|one, next| one < next), "a key is left out once");
    assert_eq!(KeySet::parse(keys.text()).as_ref(), Ok(&keys));
    let keys = Arc::new(keys);
    for (token, must_fail) in UNSIGNED {
        let expected = Expected { issuer: "a", audiences: &[], keys: &keys };
        let verified = verify(token.as_bytes(), expected, 1_800_000_000, &mut TokenCache::default());
        assert!(!must_fail || verified.is_err(), "{token} is signed by nobody");
    }
}
