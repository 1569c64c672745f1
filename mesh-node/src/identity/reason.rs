//! Why a peer was refused: one closed set of words for logs, metrics and records.

use std::sync::Arc;

use rustls::{CertificateError, OtherError};

/// Why a certificate chain is not a peer of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Reason {
    /// More certificates than a chain may have.
    #[error("the chain has too many certificates")]
    ChainTooLong,
    /// A chain of more bytes than are read.
    #[error("the chain is too large")]
    ChainTooLarge,
    /// No certificate at all.
    #[error("no certificate was sent")]
    NoCertificate,
    /// Not a certificate, or one with a field that does not decode.
    #[error("a certificate does not decode")]
    BadEncoding,
    /// Its validity begins later, by more than the tolerated skew.
    #[error("the certificate is not valid yet")]
    NotValidYet,
    /// Its validity is over, by more than the tolerated skew.
    #[error("the certificate has expired")]
    Expired,
    /// No root of the trust bundle signed it, directly or over the intermediates sent.
    #[error("no trusted root signed the chain")]
    UnknownIssuer,
    /// A signature of the chain does not verify.
    #[error("a signature of the chain is bad")]
    BadSignature,
    /// Signed with an algorithm that is too weak or not known.
    #[error("an algorithm of the chain is not accepted")]
    UnsupportedAlgorithm,
    /// The leaf's key is too weak or of a kind that is not known.
    #[error("the leaf's key is not accepted")]
    WeakKey,
    /// A critical extension that is not understood, or a name constraint.
    #[error("an extension of the chain is not understood")]
    UnsupportedExtension,
    /// The leaf is an authority's certificate.
    #[error("the leaf is an authority")]
    LeafIsAuthority,
    /// An issuer of the chain may not sign certificates.
    #[error("an issuer of the chain is not an authority")]
    IssuerNotAuthority,
    /// More intermediates than an authority of the chain allows.
    #[error("the path length constraint is violated")]
    PathTooLong,
    /// Key usage is absent, not critical, lacks digitalSignature or has keyCertSign or cRLSign.
    #[error("the key usage is wrong")]
    KeyUsage,
    /// Extended key usage lacks serverAuth or clientAuth.
    #[error("the extended key usage is wrong")]
    ExtendedKeyUsage,
    /// No URI in the subject's alternative names.
    #[error("no URI SAN")]
    NoUriSan,
    /// More than one URI in the subject's alternative names.
    #[error("several URI SANs")]
    SeveralUriSans,
    /// The URI is not the SPIFFE id of a service account.
    #[error("the URI SAN is not a SPIFFE id of a service account")]
    NotSpiffe,
    /// The id is of another trust domain than the roots are for.
    #[error("the identity is of another trust domain")]
    OtherTrustDomain,
    /// Its authority has revoked it, or an authority between it and the root.
    #[error("the certificate is revoked")]
    Revoked,
    /// A revocation list of its authority is there and cannot be relied on.
    #[error("a revocation list of the chain's authority does not verify")]
    RevocationUnknown,
    /// A good identity, but not the one that the workload table gives for the address dialled.
    #[error("the identity is not the expected one")]
    OtherIdentity,
}

/// How a TLS handshake of the mesh ended without a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HandshakeFailure {
    /// We refused the peer's certificate.
    #[error("peer certificate refused: {0}")]
    PeerRefused(Reason),
    /// The peer's certificate is good, but it does not hold the key.
    #[error("the peer does not hold its certificate's key")]
    KeyNotHeld,
    /// The peer refused us: it sent an alert.
    #[error("refused by the peer")]
    RefusedByPeer,
    /// We have no certificate to show.
    #[error("no certificate of our own")]
    NoOwnCertificate,
    /// Nothing in common: version, cipher suite, group, or ALPN.
    #[error("no common TLS parameters")]
    Incompatible,
    /// Not TLS as it should be.
    #[error("malformed TLS")]
    Malformed,
}

impl Reason {
    /// Every reason, in the order of their labels.
    pub const ALL: [Self; 23] = [
        Self::ChainTooLong,
        Self::ChainTooLarge,
        Self::NoCertificate,
        Self::BadEncoding,
        Self::NotValidYet,
        Self::Expired,
        Self::UnknownIssuer,
        Self::BadSignature,
        Self::UnsupportedAlgorithm,
        Self::WeakKey,
        Self::UnsupportedExtension,
        Self::LeafIsAuthority,
        Self::IssuerNotAuthority,
        Self::PathTooLong,
        Self::KeyUsage,
        Self::ExtendedKeyUsage,
        Self::NoUriSan,
        Self::SeveralUriSans,
        Self::NotSpiffe,
        Self::OtherTrustDomain,
        Self::Revoked,
        Self::RevocationUnknown,
        Self::OtherIdentity,
    ];

    /// The stable code of logs, metrics and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ChainTooLong => "chain_too_long",
            Self::ChainTooLarge => "chain_too_large",
            Self::NoCertificate => "no_certificate",
            Self::BadEncoding => "bad_encoding",
            Self::NotValidYet => "not_valid_yet",
            Self::Expired => "expired",
            Self::UnknownIssuer => "unknown_issuer",
            Self::BadSignature => "bad_signature",
            Self::UnsupportedAlgorithm => "unsupported_algorithm",
            Self::WeakKey => "weak_key",
            Self::UnsupportedExtension => "unsupported_extension",
            Self::LeafIsAuthority => "leaf_is_authority",
            Self::IssuerNotAuthority => "issuer_not_authority",
            Self::PathTooLong => "path_too_long",
            Self::KeyUsage => "key_usage",
            Self::ExtendedKeyUsage => "extended_key_usage",
            Self::NoUriSan => "no_uri_san",
            Self::SeveralUriSans => "several_uri_sans",
            Self::NotSpiffe => "not_spiffe",
            Self::OtherTrustDomain => "other_trust_domain",
            Self::Revoked => "revoked",
            Self::RevocationUnknown => "revocation_unknown",
            Self::OtherIdentity => "other_identity",
        }
    }

    /// The error that ends the handshake; [`HandshakeFailure::of`] finds the reason in it again.
    ///
    /// All reasons send the peer the same alert, `certificate_unknown` (RFC 8446 section 6.2): which check
    /// failed is ours to know.
    pub(super) fn into_tls(self) -> rustls::Error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(self))))
    }
}

impl HandshakeFailure {
    /// Finds out why a handshake ended.
    pub fn of(error: &rustls::Error) -> Self {
        use rustls::Error;
        match error {
            Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner
                .downcast_ref::<Reason>()
                .map_or(Self::PeerRefused(Reason::BadEncoding), |reason| Self::PeerRefused(*reason)),
            Error::InvalidCertificate(CertificateError::BadSignature) => Self::KeyNotHeld,
            Error::InvalidCertificate(_) => Self::PeerRefused(Reason::BadEncoding),
            Error::NoCertificatesPresented => Self::PeerRefused(Reason::NoCertificate),
            Error::AlertReceived(_) => Self::RefusedByPeer,
            Error::General(_) => Self::NoOwnCertificate,
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Self::Incompatible,
            _ => Self::Malformed,
        }
    }

    /// The stable code of logs, metrics and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PeerRefused(reason) => reason.as_str(),
            Self::KeyNotHeld => "key_not_held",
            Self::RefusedByPeer => "refused_by_peer",
            Self::NoOwnCertificate => "no_own_certificate",
            Self::Incompatible => "tls_incompatible",
            Self::Malformed => "tls_malformed",
        }
    }
}
