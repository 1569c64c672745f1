//! Tokens that must be taken, and those that must not: algorithms, framing, keys, claims.

mod keys;
mod vectors;

use std::sync::Arc;

use serde_json::{Value, json};

use super::samples::{ISSUER, NOW, Signer, encode, key_set, payload, with};
use super::{Algorithm, Expected, KeySet, TokenCache, TokenFault, Verified, verify};

/// Keys of every kind, as an issuer would publish them.
fn keys() -> Arc<KeySet> {
    let jwks = Algorithm::ALL.map(|algorithm| Signer::of(algorithm).jwk());
    Arc::new(KeySet::parse(&key_set(&jwks)).unwrap())
}

fn check_with(keys: &Arc<KeySet>, token: &str) -> Result<Verified, TokenFault> {
    let audiences = ["shop".into(), "store".into()];
    let expected = Expected { issuer: ISSUER, audiences: &audiences, keys };
    verify(token.as_bytes(), expected, NOW, &mut TokenCache::default())
}

fn check(token: &str) -> Result<Verified, TokenFault> {
    check_with(&keys(), token)
}

fn refused(token: &str, fault: TokenFault, what: &str) {
    assert_eq!(check(token).err(), Some(fault), "{what}: {token:.200}");
}

/// A token of ES256 with this header.
fn headed(header: &str) -> String {
    Signer::of(Algorithm::Es256).sign(header, &payload().to_string())
}

#[test]
fn every_algorithm_is_verified() {
    for algorithm in Algorithm::ALL {
        let claims = check(&Signer::of(algorithm).token(&payload())).unwrap();
        assert_eq!(claims.principal().map(|text| &**text), Some("https://issuer.example/alice"));
        assert!(claims.audiences().eq(["shop"]), "{algorithm:?}");
    }
}

#[test]
fn no_algorithm_but_those_of_public_keys_is_taken() {
    for name in
        ["none", "None", "nOnE", "NONE", "", "HS256", "HS384", "HS512", "es256", "RS1", "ES256K", "dir"]
    {
        refused(&headed(&json!({"alg": name, "kid": "ES256"}).to_string()), TokenFault::Algorithm, name);
    }
    refused(&headed(r#"{"kid": "ES256"}"#), TokenFault::Algorithm, "no alg");
    refused(&headed(r#"{"alg": ["ES256"]}"#), TokenFault::Header, "alg is a list");
    let unsigned = encode(br#"{"alg":"none"}"#) + "." + &encode(payload().to_string().as_bytes());
    refused(&format!("{unsigned}."), TokenFault::NotCompact, "no signature");
    refused(&unsigned, TokenFault::NotCompact, "one dot");
}

#[test]
fn a_public_key_is_no_shared_secret() {
    let jwk = Signer::of(Algorithm::Rs256).jwk();
    let signed =
        encode(br#"{"alg":"HS256","kid":"RS256"}"#) + "." + &encode(payload().to_string().as_bytes());
    for secret in [jwk["n"].as_str().unwrap().to_owned(), jwk.to_string()] {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
        let tag = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
        refused(&format!("{signed}.{}", encode(tag.as_ref())), TokenFault::Algorithm, "HS256");
    }
}

#[test]
fn an_algorithm_goes_with_its_own_key_only() {
    for signer in Algorithm::ALL.map(Signer::of) {
        for claimed in Algorithm::ALL.into_iter().filter(|claimed| *claimed != signer.algorithm) {
            let header = json!({"alg": claimed.as_str(), "kid": signer.algorithm.as_str()});
            let fault = check(&signer.sign(&header.to_string(), &payload().to_string())).unwrap_err();
            assert!(
                matches!(fault, TokenFault::NoKey | TokenFault::Signature),
                "{claimed:?} by {:?}: {fault:?}",
                signer.algorithm
            );
        }
    }
}

#[test]
fn what_a_token_says_of_its_key_only_finds_one() {
    let kid = |kid: &str| headed(&json!({"alg": "ES256", "kid": kid}).to_string());
    for strange in ["../../dev/null", "' OR 1=1 --", "", "es256", "ES256\0"] {
        refused(&kid(strange), TokenFault::NoKey, strange);
    }
    refused(&kid(&"x".repeat(1 << 20)), TokenFault::TooLong, "1 MB of kid");
    refused(&headed(r#"{"alg": "ES256", "kid": 7}"#), TokenFault::Header, "kid is a number");
    // Keys that come with the token, or are said to lie somewhere, are not looked at: only the issuer's count.
    let own = Signer::of(Algorithm::Es256).jwk();
    let foreign = Arc::new(KeySet::parse(&key_set(&[Signer::of(Algorithm::Rs256).jwk()])).unwrap());
    for header in [
        json!({"alg": "ES256", "jwk": own}),
        json!({"alg": "ES256", "jku": "http://127.0.0.1/keys"}),
        json!({"alg": "ES256", "x5u": "http://169.254.169.254/"}),
        json!({"alg": "ES256", "x5c": ["AAAA"]}),
    ] {
        let token = headed(&header.to_string());
        assert_eq!(check_with(&foreign, &token).err(), Some(TokenFault::NoKey), "{header}");
    }
    // Without a kid every key of the kind is tried.
    assert!(check(&headed(r#"{"alg": "ES256"}"#)).is_ok());
}

#[test]
fn extensions_that_must_be_understood_are_not() {
    for header in [
        json!({"alg": "ES256", "crit": ["exp"], "exp": 1}),
        json!({"alg": "ES256", "crit": []}),
        json!({"alg": "ES256", "b64": false, "crit": ["b64"]}),
        json!({"alg": "ES256", "b64": false}),
    ] {
        refused(&headed(&header.to_string()), TokenFault::Extension, "crit or b64");
    }
}

#[test]
fn only_the_compact_form_is_a_token() {
    let good = Signer::of(Algorithm::Es256).token(&payload());
    let parts: Vec<&str> = good.split('.').collect();
    let general =
        json!({"payload": parts[1], "signatures": [{"protected": parts[0], "signature": parts[2]}]});
    let flat = json!({"payload": parts[1], "protected": parts[0], "signature": parts[2]});
    for (what, token) in [
        ("empty", String::new()),
        ("one dot", format!("{}.{}", parts[0], parts[1])),
        ("two dots, no signature", format!("{}.{}.", parts[0], parts[1])),
        ("two dots alone", "..".to_owned()),
        ("three dots", format!("{good}.")),
        ("four dots", format!("{good}.AA.AA")),
        ("general JSON", general.to_string()),
        ("flattened JSON", flat.to_string()),
        ("padding", format!("{good}=")),
        ("a space before", format!(" {good}")),
        ("a line end", format!("{good}\n")),
        ("the other alphabet", format!("{}.{}.{}", parts[0], parts[1], "+/".repeat(43))),
        ("NUL", format!("{}\0.{}.{}", parts[0], parts[1], parts[2])),
    ] {
        refused(&token, TokenFault::NotCompact, what);
    }
    // 64 bytes are 85 letters and 2 bits: the last letter has spellings that decode to the same.
    let last = good.as_bytes()[good.len() - 1];
    let twins = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let place = twins.iter().position(|letter| *letter == last).unwrap();
    let twin = format!("{}{}", &good[..good.len() - 1], twins[place ^ 1] as char);
    refused(&twin, TokenFault::NotCompact, "another spelling of the signature");
    refused(&headed(r#"{"alg":"ES256"} {}"#), TokenFault::Header, "more than one value");
    refused(&headed(r#"["ES256"]"#), TokenFault::Header, "header is a list");
    refused(&headed(r#"{"alg":"ES256","alg":"ES256"}"#), TokenFault::Header, "alg twice");
}

#[test]
fn a_signature_is_the_key_s_or_none() {
    let signer = Signer::of(Algorithm::Es256);
    let good = signer.token(&payload());
    let (signed, _) = good.rsplit_once('.').unwrap();
    let raw = signer.signature(signed.as_bytes());
    let (r, s) = raw.split_at(32);
    let der = [&[0x30, 70, 2, 33, 0], r, &[2, 33, 0], s].concat();
    let order = data_encoding::HEXUPPER
        .decode(b"FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551")
        .unwrap();
    for (what, signature) in [
        ("r = s = 0", vec![0; 64]),
        ("r = s = n", [&*order, &*order].concat()),
        ("r = 0", [&[0; 32], s].concat()),
        ("DER", der),
        ("short", raw[..63].to_vec()),
        ("long", [&*raw, &[0]].concat()),
        ("swapped", [s, r].concat()),
    ] {
        refused(&format!("{signed}.{}", encode(&signature)), TokenFault::Signature, what);
    }
    for (index, byte) in raw.iter().enumerate() {
        let mut other = raw.clone();
        other[index] = byte ^ 1;
        refused(&format!("{signed}.{}", encode(&other)), TokenFault::Signature, "one bit");
    }
    let (header, rest) = good.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    let richer = encode(with("sub", json!("admin")).to_string().as_bytes());
    refused(&format!("{header}.{richer}.{signature}"), TokenFault::Signature, "another payload");
}

#[test]
fn claims_are_held_to_what_is_expected() {
    use TokenFault::{Audience, Claim, Expired, Issuer, NoExpiry, NotYetValid};
    let rows: &[(&str, Value, Result<(), TokenFault>)] = &[
        ("iss", Value::Null, Err(Issuer)),
        ("iss", json!(""), Err(Issuer)),
        ("iss", json!("https://issuer.example/"), Err(Issuer)),
        ("iss", json!("https://Issuer.example"), Err(Issuer)),
        ("iss", json!("https://other.example"), Err(Issuer)),
        ("iss", json!([ISSUER]), Err(Claim)),
        ("sub", Value::Null, Ok(())),
        ("sub", json!(7), Err(Claim)),
        ("aud", Value::Null, Err(Audience)),
        ("aud", json!(["other", "store"]), Ok(())),
        ("aud", json!(["other"]), Err(Audience)),
        ("aud", json!([]), Err(Audience)),
        ("aud", json!("Shop"), Err(Audience)),
        ("aud", json!("shop/"), Err(Audience)),
        ("aud", json!(["shop", 7]), Err(Claim)),
        ("aud", json!({"shop": true}), Err(Claim)),
        ("exp", Value::Null, Err(NoExpiry)),
        ("exp", json!(-1), Err(Claim)),
        ("exp", json!(1_800_000_600.5), Err(Claim)),
        ("exp", json!("1800000600"), Err(Claim)),
        ("exp", json!(0), Err(Expired)),
        ("exp", json!(u64::MAX), Ok(())),
        ("exp", json!(NOW - 59), Ok(())),
        ("exp", json!(NOW - 60), Err(Expired)),
        ("nbf", json!(NOW + 60), Ok(())),
        ("nbf", json!(NOW + 61), Err(NotYetValid)),
        ("nbf", json!(u64::MAX), Err(NotYetValid)),
        ("nbf", json!(-1), Err(Claim)),
        ("nbf", json!("0"), Err(Claim)),
        ("iat", json!(NOW + 86_400), Ok(())),
    ];
    for (claim, value, expected) in rows {
        let token = Signer::of(Algorithm::Ps256).token(&with(claim, value.clone()));
        assert_eq!(check(&token).map(drop), *expected, "{claim}: {value}");
    }
}

#[test]
fn a_payload_can_be_read_in_one_way_only() {
    let signer = Signer::of(Algorithm::EdDsa);
    let signed = |payload: &str| signer.sign(r#"{"alg":"EdDSA"}"#, payload);
    let start = format!(r#"{{"iss":"{ISSUER}","aud":"shop","#);
    for rest in [
        r#""sub":"alice","exp":1e400}"#,
        r#""sub":"alice","sub":"admin","exp":1800000600}"#,
        r#""sub":"alice","s\u0075b":"admin","exp":1800000600}"#,
        r#""realm":{"roles":["a"],"roles":["admin"]},"exp":1800000600}"#,
        r#""exp":1800000600"#,
        r#""exp":1800000600}}"#,
    ] {
        refused(&signed(&format!("{start}{rest}")), TokenFault::Payload, rest);
    }
    refused(&signed("[]"), TokenFault::Payload, "a list");
    refused(&signed(r#""text""#), TokenFault::Payload, "text");
    let deep = format!(r#"{start}"exp":1800000600,"deep":{}1{}}}"#, "[".repeat(1000), "]".repeat(1000));
    refused(&signed(&deep), TokenFault::Payload, "deep");
}

#[test]
fn claims_are_found_by_their_path() {
    let payload = with("realm", json!({"access": {"roles": ["admin", "user"]}, "a.b": true}));
    let claims = check(&Signer::of(Algorithm::Rs512).token(&payload)).unwrap();
    assert_eq!(claims.at(["realm", "access", "roles"]), Some(&json!(["admin", "user"])));
    assert_eq!(claims.at(["realm", "a.b"]), Some(&json!(true)));
    assert_eq!(claims.at(["realm", "access", "roles", "0"]), None);
    assert_eq!(claims.at(["nothing"]), None);
    assert_eq!(claims.presenter(), None);
    assert_eq!(claims.encoded(), encode(payload.to_string().as_bytes()));
}

#[test]
fn a_cached_token_is_still_held_to_its_time_and_keys() {
    let keys = keys();
    let mut cache = TokenCache::default();
    let token = Signer::of(Algorithm::Es384).token(&payload());
    let mut at = |now: u64, keys: &Arc<KeySet>| {
        verify(token.as_bytes(), Expected { issuer: ISSUER, audiences: &[], keys }, now, &mut cache).map(drop)
    };
    assert_eq!(at(NOW, &keys), Ok(()));
    assert_eq!(at(NOW, &keys), Ok(()));
    assert_eq!(at(NOW + 660, &keys), Err(TokenFault::Expired));
    let others = KeySet::parse(&key_set(&[Signer::of(Algorithm::EdDsa).jwk()])).unwrap();
    assert_eq!(at(NOW, &Arc::new(others)), Err(TokenFault::NoKey));
    assert_eq!(at(NOW, &keys), Ok(()));
}

#[test]
fn a_cache_holds_no_more_than_it_may() {
    let keys = keys();
    let mut cache = TokenCache::default();
    let signer = Signer::of(Algorithm::EdDsa);
    let expected = Expected { issuer: ISSUER, audiences: &[], keys: &keys };
    for number in 0..300 {
        let token = signer.token(&with("padding", json!(format!("{number}{}", "x".repeat(8000)))));
        verify(token.as_bytes(), expected, NOW, &mut cache).unwrap();
        assert!(cache.bytes() <= 1 << 20, "{}", cache.bytes());
    }
    assert!(cache.bytes() > 1 << 18);
}
