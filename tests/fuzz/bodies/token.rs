//! Verifies foreign bytes as a token with foreign keys: the first line is the token, the rest the key set.

use std::sync::Arc;

use mesh_common::token::{Expected, KeySet, MAX_KEYS, TokenCache, issuer_of, verify};

/// A key whose private half nobody kept: nothing verifies with it.
const LOST: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"sTTSJ8LNQME0d3-dJzHIm6Nyk3ZubnGSKdD9VmIaiTU"}]}"#;

pub fn run(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (token, rest) = (&input[..end], input.get(end + 1..).unwrap_or_default());
    let issuer = issuer_of(token);
    let lost = Arc::new(KeySet::parse(LOST).expect("it is a key set"));
    check(token, issuer.as_deref(), &lost, false);
    let Ok(Ok(keys)) = std::str::from_utf8(rest).map(KeySet::parse) else { return };
    assert!(keys.len() <= MAX_KEYS && keys.skipped().len() <= MAX_KEYS);
    assert_eq!(KeySet::parse(keys.text()).as_ref(), Ok(&keys));
    check(token, issuer.as_deref(), &Arc::new(keys), true);
}

fn check<E>(token: &[u8], issuer: Result<&str, E>, keys: &Arc<KeySet>, may: bool) {
    let expected = Expected { issuer: issuer.unwrap_or_default(), audiences: &[], keys };
    let mut cache = TokenCache::default();
    let first = verify(token, expected, 1_800_000_000, &mut cache);
    assert_eq!(first, verify(token, expected, 1_800_000_000, &mut cache), "a cache changes nothing");
    let Ok(claims) = first else { return };
    assert!(may, "nobody can sign with a key that is lost");
    let parts: Vec<&[u8]> = token.split(|byte| *byte == b'.').collect();
    assert!(parts.len() == 3 && parts[1] == claims.encoded().as_bytes(), "claims are those that were signed");
    assert_eq!(&**claims.issuer(), expected.issuer);
    assert!(claims.expires().is_some());
}
