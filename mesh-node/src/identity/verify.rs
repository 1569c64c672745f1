//! Verifies peers: X.509-SVIDs of the mesh's trust domain, and nothing else.
//!
//! In: the chain that a peer sent. Out: a [`Peer`], or the [`Reason`] for which there is none. The rules are those
//! of X509-SVID.md and SPIFFE-ID.md; DNS names, common names and SNI decide nothing. Paths and signatures are
//! webpki's work.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use mesh_common::model::{CertificateHash, SpiffeId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, PeerIncompatible, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, ExtendedKeyUsageValidator, KeyPurposeIdIter,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_SIG_ED25519};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::metrics::IdentityMetrics;
use super::reason::Reason;
use super::tls::signature_algorithms;
use super::trust::{Trust, TrustBundle, is_authority, seconds_of};
use crate::telemetry::seldom::Seldom;

/// The most certificates in a chain, the leaf with them: root, two levels of intermediates, leaf, without the root.
pub(super) const MAX_CHAIN: usize = 4;
/// The most bytes in a chain. Ours have under 1 kB a certificate; RSA-4096 with long names has about 2.
pub(super) const MAX_CHAIN_BYTES: usize = 16 * 1024;

/// Extended key usages of an SVID: serverAuth and clientAuth.
const SERVER_AUTH: &[usize] = webpki::KeyUsage::SERVER_AUTH_REPR;
const CLIENT_AUTH: &[usize] = webpki::KeyUsage::CLIENT_AUTH_REPR;

/// Who a verified certificate says its holder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The only URI SAN.
    pub identity: SpiffeId,
    /// The certificate's last valid second, UTC since the epoch.
    pub not_after: u64,
    /// The certificate itself, for applications that pin it.
    pub certificate: Arc<CertificateHash>,
}

/// Verifies servers against the one identity that is expected of them.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    pub(super) rules: Arc<Rules>,
    /// What the workload table gives for the address dialled.
    pub(super) expected: SpiffeId,
}

/// Verifies clients, of whatever identity; policy decides later what each may do.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    pub(super) rules: Arc<Rules>,
    /// Whether one without a certificate is refused, or let in as nobody.
    pub(super) is_mandatory: bool,
}

/// What both verifiers judge by.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) trust: Arc<Trust>,
    /// How much later or earlier than ours the issuer's clock may be.
    pub(super) clock_skew: Duration,
    pub(super) metrics: IdentityMetrics,
    /// When a refusal was last said.
    pub(super) said: Seldom,
}

impl Rules {
    /// Verifies a chain, leaf first, at `now`.
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Peer, Reason> {
        verify(&self.trust.load().bundle, leaf, intermediates, now, self.clock_skew)
    }

    /// The last second, UTC since the epoch, in which a chain that ends then is taken.
    pub(super) fn tolerated_until(&self, not_after: u64) -> u64 {
        not_after.saturating_add(self.clock_skew.as_secs())
    }

    /// Whether a chain that was verified once is still vouched for: by roots that are trusted or retired, and revoked
    /// by none. That its time may be over since does not matter.
    pub(super) fn still_holds(&self, chain: &[CertificateDer<'_>]) -> Result<(), Reason> {
        let (leaf, intermediates) = chain.split_first().ok_or(Reason::NoCertificate)?;
        // The last second in which all of it was valid.
        let mut until = u64::MAX;
        for certificate in chain {
            let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| Reason::BadEncoding)?;
            until = until.min(seconds_of(&certificate).1);
        }
        let at = UnixTime::since_unix_epoch(Duration::from_secs(until));
        verify_path(self.trust.load().bundle.of_open(), leaf, intermediates, at)
    }

    fn refuse(&self, reason: Reason) -> rustls::Error {
        self.metrics.refused(reason);
        if self.said.is_time() {
            let (reason, seen) =
                (reason.as_str(), "nodemesh_identity_peers_refused_total counts all of them");
            tracing::warn!(reason, seen, "a peer's certificate was refused");
        }
        reason.into_tls()
    }
}

/// Verifies a chain, leaf first, at `now`, by the roots of `bundle`.
pub(super) fn verify(
    bundle: &TrustBundle,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    clock_skew: Duration,
) -> Result<Peer, Reason> {
    check_size(leaf, intermediates)?;
    let (rest, certificate) = X509Certificate::from_der(leaf).map_err(|_| Reason::BadEncoding)?;
    if !rest.is_empty() {
        return Err(Reason::BadEncoding);
    }
    let effective = effective_time(&certificate, now, clock_skew)?;
    verify_path(bundle, leaf, intermediates, effective)?;
    check_key(&certificate)?;
    check_key_usage(&certificate)?;
    let identity = identity_of(&certificate)?;
    if identity.trust_domain() != bundle.trust_domain() {
        return Err(Reason::OtherTrustDomain);
    }
    Ok(Peer { identity, not_after: seconds_of(&certificate).1, certificate: hash_of(leaf) })
}

/// Reads who the holder of a chain is that a handshake has verified already.
///
/// # Errors
/// [`Reason`] if the chain is empty or was never an SVID: then it has not been verified.
pub(super) fn peer_of(chain: &[CertificateDer<'_>]) -> Result<Peer, Reason> {
    let leaf = chain.first().ok_or(Reason::NoCertificate)?;
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| Reason::BadEncoding)?;
    Ok(Peer {
        identity: identity_of(&certificate)?,
        not_after: seconds_of(&certificate).1,
        certificate: hash_of(leaf),
    })
}

fn hash_of(certificate: &CertificateDer<'_>) -> Arc<CertificateHash> {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, certificate).as_ref());
    Arc::new(CertificateHash(hash))
}

/// Bounds the work before any of it is done.
fn check_size(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<(), Reason> {
    if intermediates.len() >= MAX_CHAIN {
        return Err(Reason::ChainTooLong);
    }
    let bytes: usize = intermediates.iter().map(|certificate| certificate.len()).sum();
    if leaf.len() + bytes > MAX_CHAIN_BYTES {
        return Err(Reason::ChainTooLarge);
    }
    Ok(())
}

/// The time at which the path is judged: now, moved into the leaf's validity if it is outside by no more than
/// `skew`.
fn effective_time(
    certificate: &X509Certificate<'_>,
    now: UnixTime,
    skew: Duration,
) -> Result<UnixTime, Reason> {
    let (first, last) = seconds_of(certificate);
    let (now, skew) = (now.as_secs(), skew.as_secs());
    if first > last {
        return Err(Reason::BadEncoding);
    }
    if now > last.saturating_add(skew) {
        return Err(Reason::Expired);
    }
    if now.saturating_add(skew) < first {
        return Err(Reason::NotValidYet);
    }
    Ok(UnixTime::since_unix_epoch(Duration::from_secs(now.clamp(first, last))))
}

/// Finds a path to a root of the bundle and checks its signatures, validities, extended key usages and constraints.
fn verify_path(
    bundle: &TrustBundle,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    time: UnixTime,
) -> Result<(), Reason> {
    let end_entity = EndEntityCert::try_from(leaf).map_err(|error| reason_of(&error))?;
    let check = |path: &VerifiedPath<'_>| check_issuers(bundle, path, time);
    let lists: Vec<&CertRevocationList<'_>> = bundle.revoked().iter().collect();
    // An authority without a list revokes nobody, and what an old list revokes stays revoked.
    let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
        options
            .with_depth(RevocationCheckDepth::Chain)
            .with_status_policy(UnknownStatusPolicy::Allow)
            .with_expiration_policy(ExpirationPolicy::Ignore)
            .build()
    });
    end_entity
        .verify_for_usage(
            signature_algorithms().all,
            bundle.anchors(),
            intermediates,
            time,
            BothUsages,
            revocation,
            Some(&check),
        )
        .map(drop)
        .map_err(|error| reason_of(&error))
}

/// What webpki leaves unchecked: that the root is within its validity and that intermediates may sign.
fn check_issuers(bundle: &TrustBundle, path: &VerifiedPath<'_>, time: UnixTime) -> Result<(), webpki::Error> {
    if !bundle.holds_at(path.anchor(), time.as_secs()) {
        return Err(webpki::Error::UnknownIssuer);
    }
    for intermediate in path.intermediate_certificates() {
        let der = intermediate.der();
        let (_, certificate) = X509Certificate::from_der(&der).map_err(|_| webpki::Error::BadDer)?;
        if !is_authority(&certificate) {
            return Err(webpki::Error::EndEntityUsedAsCa);
        }
    }
    Ok(())
}

/// The leaf's key: P-256, P-384, P-521, Ed25519, or RSA from 2048 bits. The path's signatures say nothing of it.
fn check_key(certificate: &X509Certificate<'_>) -> Result<(), Reason> {
    let key = certificate.public_key();
    let curve = || key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let strong = match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => rsa.key_size() >= 2048,
        Ok(PublicKey::EC(_)) => {
            curve().is_some_and(|curve| [OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521].contains(&curve))
        }
        _ => key.algorithm.algorithm == OID_SIG_ED25519,
    };
    if strong { Ok(()) } else { Err(Reason::WeakKey) }
}

/// X509-SVID.md section 4.3 and appendix A: key usage is critical, has digitalSignature, has neither keyCertSign
/// nor cRLSign; extended key usage has serverAuth and clientAuth (both were checked to be all right where present).
fn check_key_usage(certificate: &X509Certificate<'_>) -> Result<(), Reason> {
    match certificate.key_usage() {
        Ok(Some(usage))
            if usage.critical
                && usage.value.digital_signature()
                && !usage.value.key_cert_sign()
                && !usage.value.crl_sign() => {}
        _ => return Err(Reason::KeyUsage),
    }
    match certificate.extended_key_usage() {
        Ok(Some(usage)) if usage.value.server_auth && usage.value.client_auth => Ok(()),
        _ => Err(Reason::ExtendedKeyUsage),
    }
}

/// The identity in the only URI SAN. Names of other kinds are neither wanted nor forbidden (X509-SVID.md section 2).
fn identity_of(certificate: &X509Certificate<'_>) -> Result<SpiffeId, Reason> {
    let names = match certificate.subject_alternative_name() {
        Ok(Some(names)) => &names.value.general_names,
        Ok(None) => return Err(Reason::NoUriSan),
        Err(_) => return Err(Reason::BadEncoding),
    };
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(Ok(*uri)),
        GeneralName::Invalid(..) => Some(Err(Reason::BadEncoding)),
        _ => None,
    });
    let uri = uris.next().ok_or(Reason::NoUriSan)??;
    if let Some(other) = uris.next() {
        other?;
        return Err(Reason::SeveralUriSans);
    }
    uri.parse().map_err(|_| Reason::NotSpiffe)
}

/// Accepts an absent extension (the leaf's presence is checked apart; intermediates need none) and one that names
/// both serverAuth and clientAuth.
struct BothUsages;

impl ExtendedKeyUsageValidator for BothUsages {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let (mut server, mut client, mut absent) = (false, false, true);
        for purpose in purposes {
            let oid = purpose?.to_decoded_oid();
            absent = false;
            server |= oid == SERVER_AUTH;
            client |= oid == CLIENT_AUTH;
        }
        if absent || (server && client) { Ok(()) } else { Err(webpki::Error::EmptyEkuExtension) }
    }
}

/// webpki's words in ours.
fn reason_of(error: &webpki::Error) -> Reason {
    use webpki::Error;
    match error {
        Error::CertExpired { .. } => Reason::Expired,
        Error::CertNotValidYet { .. } => Reason::NotValidYet,
        Error::UnknownIssuer => Reason::UnknownIssuer,
        Error::CertRevoked => Reason::Revoked,
        Error::InvalidCrlSignatureForPublicKey
        | Error::UnsupportedCrlSignatureAlgorithmContext(_)
        | Error::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_)
        | Error::IssuerNotCrlSigner => Reason::RevocationUnknown,
        Error::CaUsedAsEndEntity => Reason::LeafIsAuthority,
        Error::EndEntityUsedAsCa => Reason::IssuerNotAuthority,
        Error::PathLenConstraintViolated => Reason::PathTooLong,
        Error::EmptyEkuExtension | Error::RequiredEkuNotFoundContext(_) => Reason::ExtendedKeyUsage,
        Error::InvalidSignatureForPublicKey | Error::SignatureAlgorithmMismatch => Reason::BadSignature,
        Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Reason::UnsupportedAlgorithm,
        Error::UnsupportedCriticalExtension
        | Error::NameConstraintViolation
        | Error::MalformedNameConstraint
        | Error::UnsupportedNameType => Reason::UnsupportedExtension,
        Error::MaximumPathDepthExceeded
        | Error::MaximumPathBuildCallsExceeded
        | Error::MaximumSignatureChecksExceeded
        | Error::MaximumNameConstraintComparisonsExceeded => Reason::ChainTooLong,
        _ => Reason::BadEncoding,
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.rules.verify(end_entity, intermediates, now) {
            Ok(peer) if peer.identity == self.expected => Ok(ServerCertVerified::assertion()),
            Ok(_) => Err(self.rules.refuse(Reason::OtherIdentity)),
            Err(reason) => Err(self.rules.refuse(reason)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, signature_algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        signature_algorithms().supported_schemes()
    }
}

impl ClientCertVerifier for ClientVerifier {
    /// Empty: a client of the mesh has one certificate, and hints would tell strangers our authorities.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.is_mandatory
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match self.rules.verify(end_entity, intermediates, now) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(reason) => Err(self.rules.refuse(reason)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, signature_algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        signature_algorithms().supported_schemes()
    }
}

/// The leaf's serial number in lower-case hex.
pub fn serial_of(chain: &[CertificateDer<'_>]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
    Some(certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect())
}
