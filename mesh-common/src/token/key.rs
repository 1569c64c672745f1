//! One public key of an issuer (RFC 7517 section 4, RFC 7518 section 6, RFC 8037).

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RsaPublicKeyComponents, VerificationAlgorithm,
};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};

use super::algorithm::{Algorithm, Verifier};

/// A key that signatures are verified with.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) id: Option<String>,
    /// The only algorithm that it is for, where the issuer says so.
    algorithm: Option<Algorithm>,
    material: Material,
}

#[derive(Clone, Debug)]
enum Material {
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    P256(ParsedPublicKey),
    P384(ParsedPublicKey),
    Ed25519(ParsedPublicKey),
}

impl Key {
    /// Reads a key. The reason why not is for the person who wrote it.
    pub(super) fn parse(jwk: &Map<String, Value>) -> Result<Self, &'static str> {
        let id = text(jwk, "kid")?.map(str::to_owned);
        if text(jwk, "use")?.is_some_and(|purpose| purpose != "sig") {
            return Err("is not for signatures (use)");
        }
        if let Some(operations) = jwk.get("key_ops") {
            let operations = operations.as_array().ok_or("has key_ops that is not a list")?;
            if !operations.iter().any(|operation| operation == "verify") {
                return Err("is not for verifying (key_ops)");
            }
        }
        if jwk.contains_key("d") {
            return Err("holds a private key: who can read it can sign");
        }
        let material = Material::parse(jwk)?;
        let algorithm = match text(jwk, "alg")? {
            None => None,
            Some(name) => {
                let algorithm = Algorithm::of(name).ok_or("has an alg that is not supported")?;
                if !material.fits(algorithm) {
                    return Err("has an alg that is not of its kty");
                }
                Some(algorithm)
            }
        };
        Ok(Self { id, algorithm, material })
    }

    /// Whether a token with this algorithm and `kid` may be signed with it. A key or a token without an id is not
    /// told apart by ids.
    pub(super) fn is_meant(&self, algorithm: Algorithm, id: Option<&str>) -> bool {
        let is_named = match (&self.id, id) {
            (Some(own), Some(id)) => own == id,
            (None, _) | (_, None) => true,
        };
        is_named && self.algorithm.is_none_or(|own| own == algorithm) && self.material.fits(algorithm)
    }

    /// Whether a signature is this key's.
    pub(super) fn has_signed(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        match (&self.material, algorithm.verifier()) {
            (Material::Rsa(key), Verifier::Rsa(parameters)) => {
                key.verify(parameters, signed, signature).is_ok()
            }
            (Material::P256(key), Verifier::P256)
            | (Material::P384(key), Verifier::P384)
            | (Material::Ed25519(key), Verifier::Ed25519) => key.verify_sig(signed, signature).is_ok(),
            _ => false,
        }
    }
}

impl Material {
    fn parse(jwk: &Map<String, Value>) -> Result<Self, &'static str> {
        let kind = text(jwk, "kty")?.ok_or("has no kty")?;
        let curve = text(jwk, "crv")?;
        match (kind, curve) {
            ("RSA", _) => rsa(jwk),
            ("EC", Some("P-256")) => point(jwk, 32, &ECDSA_P256_SHA256_FIXED).map(Self::P256),
            ("EC", Some("P-384")) => point(jwk, 48, &ECDSA_P384_SHA384_FIXED).map(Self::P384),
            ("OKP", Some("Ed25519")) => {
                let key = bytes(jwk, "x")?;
                ParsedPublicKey::new(&ED25519, key)
                    .map(Self::Ed25519)
                    .map_err(|_| "is not a point of its curve")
            }
            ("oct", _) => Err("is a shared secret: only public keys are taken"),
            ("EC" | "OKP", _) => Err("has a crv that is not supported"),
            _ => Err("has a kty that is not supported"),
        }
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        matches!(
            (self, algorithm.verifier()),
            (Self::Rsa(_), Verifier::Rsa(_))
                | (Self::P256(_), Verifier::P256)
                | (Self::P384(_), Verifier::P384)
                | (Self::Ed25519(_), Verifier::Ed25519)
        )
    }
}

/// 2048 to 8192 bits.
fn rsa(jwk: &Map<String, Value>) -> Result<Material, &'static str> {
    let (n, e) = (number(jwk, "n")?, number(jwk, "e")?);
    let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
    if !(2048..=8192).contains(&bits) {
        return Err("has a modulus of less than 2048 bits, or more than 8192");
    }
    let key = RsaPublicKeyComponents { n, e };
    key.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).map_err(|_| "is not an RSA key")?;
    Ok(Material::Rsa(key))
}

fn point(
    jwk: &Map<String, Value>,
    length: usize,
    algorithm: &'static dyn VerificationAlgorithm,
) -> Result<ParsedPublicKey, &'static str> {
    let (x, y) = (bytes(jwk, "x")?, bytes(jwk, "y")?);
    if x.len() != length || y.len() != length {
        return Err("has a coordinate that is not as long as its curve asks for");
    }
    // Uncompressed (SEC 1 section 2.3.3).
    let point = [&[4], &*x, &*y].concat();
    ParsedPublicKey::new(algorithm, point).map_err(|_| "is not a point of its curve")
}

/// A number without the zeros that some writers put in front of it.
fn number(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, &'static str> {
    let bytes = bytes(jwk, name)?;
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    Ok(bytes[start..].to_vec())
}

fn bytes(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, &'static str> {
    let text = text(jwk, name)?.ok_or("has not every parameter of its kty")?;
    BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| "has a parameter that is not base64url")
}

fn text<'j>(jwk: &'j Map<String, Value>, name: &str) -> Result<Option<&'j str>, &'static str> {
    match jwk.get(name) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or("has a parameter that is not text"),
    }
}
