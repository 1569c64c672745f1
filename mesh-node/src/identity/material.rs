//! What signing needs, as PEM says it: a key, its certificate and those above it.
//!
//! In: the parts of a `kubernetes.io/tls` Secret, from files or from the API server. Out: [`Material`], whose parts
//! belong together and to our trust domain. Never: I/O.

use mesh_common::model::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::signer::{date_of, serial_number};
use super::trust::{is_authority, seconds_of};

/// The signing key, PEM.
pub const KEY: &str = "tls.key";
/// The signing certificate, then those above it if it is not a root.
pub const CERTIFICATE: &str = "tls.crt";
/// More roots to trust.
pub const ROOTS: &str = "ca.crt";

/// A root made here is good for ten years.
const ROOT_LIFETIME: u64 = 10 * 365 * 24 * 3600;
/// Its `notBefore` is this much earlier, for nodes whose clocks are late.
const ROOT_BACKDATE: u64 = 3600;

/// What signing needs.
pub(super) struct Material {
    pub(super) key: KeyPair,
    /// The certificate of `key`.
    pub(super) signer: CertificateDer<'static>,
    /// What a chain carries behind the leaf: `tls.crt` without self-signed certificates.
    pub(super) intermediates: Vec<CertificateDer<'static>>,
    /// First and last valid second of `signer`.
    pub(super) validity: (u64, u64),
}

/// What is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// Not PEM, or nothing of the right kind in it.
    #[error("{part} does not decode as PEM with {expected}")]
    Encoding {
        /// Which part: `tls.key`, `tls.crt` or `ca.crt`.
        part: &'static str,
        /// What was looked for.
        expected: &'static str,
    },
    /// The key is not the certificate's.
    #[error("{KEY} is not the key of the first certificate in {CERTIFICATE}")]
    KeyMismatch,
    /// The certificate may not sign.
    #[error("the first certificate in {CERTIFICATE} is not a certificate authority")]
    NotAuthority,
    /// It belongs to another mesh.
    #[error(
        "the authority is for {found}, this mesh is spiffe://{expected}; set --trust-domain or change the authority"
    )]
    ForeignTrustDomain {
        /// The URI in the authority's certificate.
        found: String,
        /// What we were told.
        expected: TrustDomain,
    },
    /// The key or root could not be made.
    #[error("make the authority's key and root")]
    Make {
        /// What failed.
        #[source]
        source: rcgen::Error,
    },
    /// The certificate cannot be signed with.
    #[error("use the first certificate in {CERTIFICATE} as issuer")]
    Issuer {
        /// What failed.
        #[source]
        source: rcgen::Error,
    },
}

impl Material {
    /// Reads a key and its certificates, and checks that they belong together and to `trust_domain`.
    pub(super) fn read(
        key: KeyPair,
        certificates: &[u8],
        trust_domain: &TrustDomain,
    ) -> Result<Self, MaterialError> {
        let mut chain = certificates_of(CERTIFICATE, certificates)?;
        let signer = chain[0].clone();
        let (_, parsed) = X509Certificate::from_der(&signer).map_err(|_| encoding(CERTIFICATE))?;
        if !is_authority(&parsed) {
            return Err(MaterialError::NotAuthority);
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(MaterialError::KeyMismatch);
        }
        check_trust_domain(&parsed, trust_domain)?;
        let validity = seconds_of(&parsed);
        chain.retain(|certificate| !is_self_signed(certificate));
        Ok(Self { key, signer, intermediates: chain, validity })
    }
}

/// The roots to trust: all of `extra`, and the self-signed ones of `certificates`.
pub(super) fn roots(
    certificates: &[u8],
    extra: Option<&[u8]>,
) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let mut roots = certificates_of(CERTIFICATE, certificates)?;
    roots.retain(is_self_signed);
    if let Some(extra) = extra {
        roots.extend(certificates_of(ROOTS, extra)?);
    }
    Ok(roots)
}

/// All certificates of `ca.crt`, at least one.
pub(super) fn all_roots(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    certificates_of(ROOTS, text)
}

/// The certificate that signs.
pub(super) fn first_of(certificates: &[u8]) -> Result<CertificateDer<'static>, MaterialError> {
    Ok(certificates_of(CERTIFICATE, certificates)?.swap_remove(0))
}

/// All certificates of a part, at least one.
fn certificates_of(part: &'static str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(encoding(part)),
    }
}

/// Reads a private key.
pub(super) fn key_of(text: &[u8]) -> Result<KeyPair, MaterialError> {
    let error = || MaterialError::Encoding { part: KEY, expected: "a private key" };
    let key = PrivateKeyDer::from_pem_slice(text).map_err(|_| error())?;
    KeyPair::try_from(&key).map_err(|_| error())
}

/// Makes a key to sign with.
pub(super) fn make_key() -> Result<KeyPair, MaterialError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|source| MaterialError::Make { source })
}

/// Makes a root of `key`, PEM. `now` is UTC seconds since the epoch.
pub(super) fn make_root(
    key: &KeyPair,
    trust_domain: &TrustDomain,
    now: u64,
) -> Result<String, MaterialError> {
    let certificate = root_params(trust_domain, now).and_then(|params| params.self_signed(key));
    certificate.map(|certificate| certificate.pem()).map_err(|source| MaterialError::Make { source })
}

fn encoding(part: &'static str) -> MaterialError {
    MaterialError::Encoding { part, expected: "certificates" }
}

/// An authority's certificate may name its trust domain (X509-SVID.md section 4.1); if it does, it must be ours.
fn check_trust_domain(
    certificate: &X509Certificate<'_>,
    trust_domain: &TrustDomain,
) -> Result<(), MaterialError> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Ok(());
    };
    let expected = format!("spiffe://{trust_domain}");
    for name in &names.value.general_names {
        if let GeneralName::URI(uri) = name
            && *uri != expected
        {
            return Err(MaterialError::ForeignTrustDomain {
                found: (*uri).to_owned(),
                expected: trust_domain.clone(),
            });
        }
    }
    Ok(())
}

fn is_self_signed(certificate: &CertificateDer<'static>) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| parsed.subject().as_raw() == parsed.issuer().as_raw())
}

fn root_params(trust_domain: &TrustDomain, now: u64) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    let serial = serial_number()?;
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Nodemesh");
    // Two roots of one mesh have different names: verification then looks at the right one at once, and a foreign
    // root is told from a forged signature.
    let mark = serial.to_bytes().iter().take(4).map(|byte| format!("{byte:02x}")).collect::<String>();
    name.push(DnType::CommonName, format!("root {mark} of {trust_domain}"));
    params.distinguished_name = name;
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into()?)];
    // No intermediates below: it signs leaves only.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial);
    params.not_before = date_of(now.saturating_sub(ROOT_BACKDATE))?;
    params.not_after = date_of(now.saturating_add(ROOT_LIFETIME))?;
    Ok(params)
}
