//! What a token of an end user costs: the first time, and with every request after it.

use std::hint::black_box;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use criterion::{Criterion, criterion_group, criterion_main};
use data_encoding::BASE64URL_NOPAD;
use mesh_common::token::{Expected, KeySet, TokenCache, verify};

const NOW: u64 = 1_800_000_000;

/// A token as identity providers make them, about a kilobyte long, and the keys to it.
fn issued() -> (String, Arc<KeySet>) {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key can be made");
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let [x, y] = [x, y].map(|half| BASE64URL_NOPAD.encode(half));
    let keys = format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"1","x":"{x}","y":"{y}"}}]}}"#);
    let roles: Vec<String> = (0..30).map(|number| format!(r#""role-of-some-name-{number}""#)).collect();
    let roles = roles.join(",");
    let payload = format!(
        r#"{{"iss":"https://issuer.example","sub":"alice","aud":["shop"],"exp":1800000600,"roles":[{roles}]}}"#
    );
    let header = BASE64URL_NOPAD.encode(br#"{"alg":"ES256","typ":"JWT","kid":"1"}"#);
    let signed = format!("{header}.{}", BASE64URL_NOPAD.encode(payload.as_bytes()));
    let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).expect("it signs");
    let token = format!("{signed}.{}", BASE64URL_NOPAD.encode(signature.as_ref()));
    (token, Arc::new(KeySet::parse(&keys).expect("it is a key set")))
}

fn tokens(bench: &mut Criterion) {
    let (token, keys) = issued();
    let audiences = ["shop".into()];
    let expected = Expected { issuer: "https://issuer.example", audiences: &audiences, keys: &keys };
    let mut cache = TokenCache::default();
    verify(token.as_bytes(), expected, NOW, &mut cache).expect("the token holds");
    let mut group = bench.benchmark_group("token");
    group.bench_function("new", |bencher| {
        bencher.iter(|| verify(black_box(token.as_bytes()), expected, NOW, &mut TokenCache::default()));
    });
    group.bench_function("cached", |bencher| {
        bencher.iter(|| verify(black_box(token.as_bytes()), expected, NOW, &mut cache));
    });
    group.finish();
}

criterion_group!(benches, tokens);
criterion_main!(benches);
