//! Tokens that another library signed (PyJWT 2.15 over OpenSSL): what it signs, this module verifies.

use super::*;

#[test]
fn tokens_of_another_library_are_verified() {
    let vectors: Value = serde_json::from_str(include_str!("vectors.json")).unwrap();
    let keys = Arc::new(KeySet::parse(&vectors["jwks"].to_string()).unwrap());
    assert_eq!(keys.skipped(), []);
    let tokens = vectors["tokens"].as_object().unwrap();
    assert_eq!(tokens.len(), Algorithm::ALL.len());
    for (name, token) in tokens {
        let claims = check_with(&keys, token.as_str().unwrap());
        assert_eq!(claims.map(|claims| claims.subject().cloned()), Ok(Some(name.as_str().into())), "{name}");
    }
}
