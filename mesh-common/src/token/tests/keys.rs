//! Key sets: what is used of them, and what is left out.

use super::*;
use crate::token::{KeySetError, MAX_KEY_SET, MAX_KEYS};

fn changed(algorithm: Algorithm, name: &str, value: Value) -> Value {
    let mut jwk = Signer::of(algorithm).jwk();
    jwk[name] = value;
    jwk
}

#[test]
fn keys_that_cannot_be_used_are_left_out_and_said() {
    use Algorithm::{EdDsa, Es256, Rs256};
    let rows = [
        (json!("text"), "is not an object"),
        (json!({"kid": "x"}), "has no kty"),
        (json!({"kty": "oct", "k": "c2VjcmV0"}), "is a shared secret: only public keys are taken"),
        (json!({"kty": "XYZ"}), "has a kty that is not supported"),
        (changed(Rs256, "use", json!("enc")), "is not for signatures (use)"),
        (changed(Rs256, "key_ops", json!(["sign"])), "is not for verifying (key_ops)"),
        (changed(Rs256, "alg", json!("HS256")), "has an alg that is not supported"),
        (changed(Rs256, "alg", json!("RSA-OAEP")), "has an alg that is not supported"),
        (changed(Rs256, "alg", json!("ES256")), "has an alg that is not of its kty"),
        (changed(Rs256, "d", json!("AQAB")), "holds a private key: who can read it can sign"),
        (changed(Rs256, "n", json!("AQAB")), "has a modulus of less than 2048 bits, or more than 8192"),
        (changed(Rs256, "n", json!("*")), "has a parameter that is not base64url"),
        (changed(Rs256, "n", json!(7)), "has a parameter that is not text"),
        (changed(Es256, "crv", json!("P-521")), "has a crv that is not supported"),
        (changed(Es256, "crv", json!("P-384")), "has a coordinate that is not as long as its curve asks for"),
        (changed(Es256, "y", json!(encode(&[1; 32]))), "is not a point of its curve"),
        (changed(EdDsa, "x", json!("AQAB")), "is not a point of its curve"),
    ];
    let mut jwks: Vec<Value> = rows.iter().map(|(jwk, _)| jwk.clone()).collect();
    jwks.push(Signer::of(Es256).jwk());
    let keys = KeySet::parse(&key_set(&jwks)).unwrap();
    assert_eq!(keys.len(), 1);
    let skipped: Vec<_> = keys.skipped().iter().map(|key| (key.index, key.reason)).collect();
    let expected: Vec<_> = rows.iter().enumerate().map(|(index, (_, reason))| (index, *reason)).collect();
    assert_eq!(skipped, expected);
    assert!(check_with(&Arc::new(keys), &Signer::of(Es256).token(&payload())).is_ok());
}

#[test]
fn a_key_is_held_to_the_algorithm_that_its_issuer_says() {
    let bound = |name: &str| {
        let jwk = changed(Algorithm::Rs256, "alg", json!(name));
        check_with(&Arc::new(KeySet::parse(&key_set(&[jwk])).unwrap()), &{
            let header = json!({"alg": "RS256"});
            Signer::of(Algorithm::Rs256).sign(&header.to_string(), &payload().to_string())
        })
    };
    assert!(bound("RS256").is_ok());
    assert_eq!(bound("RS512").err(), Some(TokenFault::NoKey));
    assert_eq!(bound("PS256").err(), Some(TokenFault::NoKey));
}

#[test]
fn what_is_no_key_set_is_refused_whole() {
    let set = |text: &str| KeySet::parse(text).err();
    assert_eq!(set(""), Some(KeySetError::NotAnObject));
    assert_eq!(set("[]"), Some(KeySetError::NotAnObject));
    assert_eq!(set(r#"{"keys":[],"keys":[]}"#), Some(KeySetError::NotAnObject));
    assert_eq!(set("{}"), Some(KeySetError::NoKeys));
    assert_eq!(set(r#"{"keys":{}}"#), Some(KeySetError::NoKeys));
    assert_eq!(set(&" ".repeat(MAX_KEY_SET + 1)), Some(KeySetError::TooLong));
    assert!(KeySet::parse(r#"{"keys":[]}"#).unwrap().is_empty());
}

#[test]
fn of_very_many_keys_only_the_first_are_used() {
    let jwk = Signer::of(Algorithm::EdDsa).jwk();
    let keys = KeySet::parse(&key_set(&vec![jwk; 10_000])).unwrap();
    assert_eq!(keys.len(), MAX_KEYS);
    assert_eq!(keys.skipped().len(), 1);
    let broken = KeySet::parse(&key_set(&vec![json!({}); 10_000])).unwrap();
    assert_eq!((broken.len(), broken.skipped().len()), (0, MAX_KEYS));
}

#[test]
fn two_sets_of_the_same_text_are_equal() {
    let text = key_set(&[Signer::of(Algorithm::EdDsa).jwk()]);
    assert_eq!(KeySet::parse(&text), KeySet::parse(&text));
    assert_ne!(KeySet::parse(&text), KeySet::parse(r#"{"keys":[]}"#));
}
