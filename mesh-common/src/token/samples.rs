//! An issuer for tests: signs with aws-lc, as the tokens of another library beside them do.

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
    RsaKeyPair, RsaPublicKeyComponents,
};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use super::Algorithm;

/// Seconds since the epoch at which the tests' tokens hold.
pub const NOW: u64 = 1_800_000_000;

/// The issuer of the tests.
pub const ISSUER: &str = "https://issuer.example";

pub struct Signer {
    pub algorithm: Algorithm,
    pair: &'static Pair,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair, &'static str),
    Ed25519(Ed25519KeyPair),
}

static RSA: LazyLock<Pair> = LazyLock::new(|| Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()));
static P256: LazyLock<Pair> =
    LazyLock::new(|| Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(), "P-256"));
static P384: LazyLock<Pair> =
    LazyLock::new(|| Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(), "P-384"));
static EDWARDS: LazyLock<Pair> = LazyLock::new(|| Pair::Ed25519(Ed25519KeyPair::generate().unwrap()));

impl Signer {
    pub fn of(algorithm: Algorithm) -> Self {
        let pair = match algorithm {
            Algorithm::Es256 => &P256,
            Algorithm::Es384 => &P384,
            Algorithm::EdDsa => &EDWARDS,
            _ => &RSA,
        };
        Self { algorithm, pair }
    }

    /// The public key, with its algorithm's name as `kid`, and neither `alg` nor `use`.
    pub fn jwk(&self) -> Value {
        let kid = self.algorithm.as_str();
        match self.pair {
            Pair::Rsa(pair) => {
                let key = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "kid": kid, "n": encode(&key.n), "e": encode(&key.e)})
            }
            Pair::Ec(pair, curve) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": curve, "kid": kid, "x": encode(x), "y": encode(y)})
            }
            Pair::Ed25519(pair) => {
                let x = encode(pair.public_key().as_ref());
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x})
            }
        }
    }

    /// A token of this payload.
    pub fn token(&self, payload: &Value) -> String {
        let name = self.algorithm.as_str();
        let header = json!({"alg": name, "typ": "JWT", "kid": name});
        self.sign(&header.to_string(), &payload.to_string())
    }

    /// A token of these texts, whatever they say.
    pub fn sign(&self, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", encode(header.as_bytes()), encode(payload.as_bytes()));
        format!("{signed}.{}", encode(&self.signature(signed.as_bytes())))
    }

    pub fn signature(&self, signed: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self.pair {
            Pair::Rsa(pair) => {
                let encoding: &'static dyn aws_lc_rs::signature::RsaEncoding = match self.algorithm {
                    Algorithm::Rs384 => &RSA_PKCS1_SHA384,
                    Algorithm::Rs512 => &RSA_PKCS1_SHA512,
                    Algorithm::Ps256 => &RSA_PSS_SHA256,
                    Algorithm::Ps384 => &RSA_PSS_SHA384,
                    Algorithm::Ps512 => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, signed, &mut signature).unwrap();
                signature
            }
            Pair::Ec(pair, _) => pair.sign(&random, signed).unwrap().as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(signed).as_ref().to_vec(),
        }
    }
}

/// A set of these keys.
pub fn key_set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// A payload that holds at [`NOW`].
pub fn payload() -> Value {
    json!({"iss": ISSUER, "sub": "alice", "aud": "shop", "exp": NOW + 600})
}

/// The same with one claim changed; taken out where `value` is null.
pub fn with(claim: &str, value: Value) -> Value {
    let mut payload = payload();
    if value.is_null() {
        payload.as_object_mut().unwrap().remove(claim);
    } else {
        payload[claim] = value;
    }
    payload
}

pub fn encode(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}
