//! The algorithms that are taken: signatures with a public key.

use aws_lc_rs::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
};

/// An algorithm (RFC 7518 section 3.1, RFC 8037). There is none without a key, and none with a shared one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names of RFC 7518")]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

/// What an algorithm verifies with: the key's type, and what that leaves open.
pub(super) enum Verifier {
    Rsa(&'static RsaParameters),
    P256,
    P384,
    Ed25519,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];

    /// As `alg` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm of this name, letter by letter.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    pub(super) fn verifier(self) -> Verifier {
        match self {
            Self::Rs256 => Verifier::Rsa(&RSA_PKCS1_2048_8192_SHA256),
            Self::Rs384 => Verifier::Rsa(&RSA_PKCS1_2048_8192_SHA384),
            Self::Rs512 => Verifier::Rsa(&RSA_PKCS1_2048_8192_SHA512),
            Self::Ps256 => Verifier::Rsa(&RSA_PSS_2048_8192_SHA256),
            Self::Ps384 => Verifier::Rsa(&RSA_PSS_2048_8192_SHA384),
            Self::Ps512 => Verifier::Rsa(&RSA_PSS_2048_8192_SHA512),
            Self::Es256 => Verifier::P256,
            Self::Es384 => Verifier::P384,
            Self::EdDsa => Verifier::Ed25519,
        }
    }
}
