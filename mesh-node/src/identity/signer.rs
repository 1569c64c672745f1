//! Signs workload certificates with a key in memory.
//!
//! It writes every field of a certificate itself: of a signing request it takes the public key, once the request
//! proves that its maker holds it.

use std::time::Duration;

use mesh_common::model::{SpiffeId, TrustDomain};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use time::OffsetDateTime;

use super::authority::{AuthorityError, Issued};
use super::material::{Material, MaterialError};

/// How much earlier than now `notBefore` is: peers whose clocks are five minutes late accept a fresh certificate.
pub(super) const BACKDATE: Duration = Duration::from_secs(300);
/// The most bytes of a signing request: a P-256 one has about 300.
const MAX_REQUEST: usize = 4096;

/// A key in memory, and what it signs.
pub(super) struct Signer {
    /// The only one that it signs for.
    trust_domain: TrustDomain,
    /// How long a certificate is good from when it is signed.
    lifetime: Duration,
    /// How much earlier than now `notBefore` is.
    backdate: Duration,
    issuer: Issuer<'static, KeyPair>,
    /// Sent behind each leaf: the signing certificate and those above it, without roots.
    intermediates: Vec<CertificateDer<'static>>,
    /// Of the signing certificate, in UTC seconds since the epoch.
    validity: (u64, u64),
}

impl Signer {
    pub(super) fn new(
        material: Material,
        trust_domain: TrustDomain,
        lifetime: Duration,
        backdate: Duration,
    ) -> Result<Self, MaterialError> {
        let Material { key, signer, intermediates, validity } = material;
        let issuer =
            Issuer::from_ca_cert_der(&signer, key).map_err(|source| MaterialError::Issuer { source })?;
        Ok(Self { trust_domain, lifetime, backdate, issuer, intermediates, validity })
    }

    /// Signs for `identity` and the key in `request`. `now` is UTC seconds since the epoch.
    pub(super) fn sign(
        &self,
        identity: &SpiffeId,
        request: &CertificateSigningRequestDer<'_>,
        now: u64,
    ) -> Result<Issued, AuthorityError> {
        let Self { trust_domain, lifetime, backdate, .. } = self;
        if identity.trust_domain() != trust_domain {
            return Err(AuthorityError::ForeignIdentity {
                identity: identity.clone(),
                trust_domain: trust_domain.clone(),
            });
        }
        let (first, last) = self.validity;
        if !(first..=last).contains(&now) {
            return Err(AuthorityError::Expired { not_before: first, not_after: last, now });
        }
        let public_key = public_key_of(request)?;
        // A leaf that outlived its issuer would not verify.
        let not_before = now.saturating_sub(backdate.as_secs()).max(first);
        let not_after = now.saturating_add(lifetime.as_secs()).min(last);
        let leaf = leaf_params(identity, not_before, not_after)
            .and_then(|params| params.signed_by(&public_key, &self.issuer))
            .map_err(|source| AuthorityError::Sign { identity: identity.clone(), source })?;
        let mut chain = vec![CertificateDer::from(leaf)];
        chain.extend(self.intermediates.iter().cloned());
        Ok(Issued { chain, not_before, not_after })
    }
}

/// The key of a request, once the request's own signature proved that its maker holds it.
pub(super) fn public_key_of(
    request: &CertificateSigningRequestDer<'_>,
) -> Result<rcgen::PublicKey, AuthorityError> {
    if request.len() > MAX_REQUEST {
        return Err(AuthorityError::BadRequest);
    }
    let parsed =
        CertificateSigningRequestParams::from_der(request).map_err(|_| AuthorityError::BadRequest)?;
    if *parsed.public_key.algorithm() != PKCS_ECDSA_P256_SHA256 {
        return Err(AuthorityError::BadRequest);
    }
    Ok(parsed.public_key)
}

/// Every field of a workload certificate (X509-SVID.md appendix A): no subject, so the SAN is critical.
fn leaf_params(
    identity: &SpiffeId,
    not_before: u64,
    not_after: u64,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial_number()?);
    params.not_before = date_of(not_before)?;
    params.not_after = date_of(not_after)?;
    Ok(params)
}

/// 127 random bits: positive, and unpredictable (CA/Browser Forum baseline 7.1 wants 64).
pub(super) fn serial_number() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| rcgen::Error::RingUnspecified)?;
    // The top bit is the sign, and DER wants no leading zero byte.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// A time that certificates can carry.
pub(super) fn date_of(seconds: u64) -> Result<OffsetDateTime, rcgen::Error> {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or(rcgen::Error::Time)
}
