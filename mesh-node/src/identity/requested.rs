//! Certificates that somebody else signs: what is asked for, and whether what came back is it.
//!
//! PURE. In: a caller's signing request, and later the chain in PEM. Out: the request as that signer may sign it, and
//! the chain if it is good for the mesh. Unlike our own authority another one may copy what a request wants, so that a
//! request which wants anything but its identity is refused.

use std::time::Duration;

use mesh_common::model::SpiffeId;
use pem::Pem;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, UnixTime};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::authority::{AuthorityError, Issued};
use super::signer::public_key_of;
use super::trust::TrustBundle;
use super::verify::{self, peer_of};

/// How much later or earlier than ours the signer's clock may be.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// The request in PEM, if it proves that its maker holds a P-256 key and wants `identity` and nothing else.
///
/// # Errors
/// [`AuthorityError::BadRequest`].
pub fn request_for(
    identity: &SpiffeId,
    request: &CertificateSigningRequestDer<'_>,
) -> Result<String, AuthorityError> {
    public_key_of(request)?;
    let (_, parsed) = X509CertificationRequest::from_der(request).map_err(|_| AuthorityError::BadRequest)?;
    let wants = &parsed.certification_request_info;
    let mut attributes = wants.iter_attributes().map(|attribute| attribute.parsed_attribute());
    let extensions = match (attributes.next(), attributes.next()) {
        (Some(ParsedCriAttribute::ExtensionRequest(wanted)), None) => &wanted.extensions,
        _ => return Err(AuthorityError::BadRequest),
    };
    let wanted = identity.to_string();
    let is_wanted = |names: &[GeneralName<'_>]| matches!(names, [GeneralName::URI(uri)] if *uri == wanted);
    match extensions.iter().map(X509Extension::parsed_extension).collect::<Vec<_>>()[..] {
        [ParsedExtension::SubjectAlternativeName(names)] if is_wanted(&names.general_names) => {}
        _ => return Err(AuthorityError::BadRequest),
    }
    if wants.subject.iter().next().is_some() {
        return Err(AuthorityError::BadRequest);
    }
    Ok(pem::encode(&Pem::new("CERTIFICATE REQUEST", request.to_vec())))
}

/// The chain that a signer gave, if peers will take it for `identity` and the key in `request`. `now` is UTC seconds
/// since the epoch.
///
/// # Errors
/// [`AuthorityError::Away`] with what is wrong with it.
pub fn issued_for(
    identity: &SpiffeId,
    request: &CertificateSigningRequestDer<'_>,
    chain: &[u8],
    bundle: &TrustBundle,
    now: u64,
) -> Result<Issued, AuthorityError> {
    let useless = |reason: &str| AuthorityError::Away {
        what: format!("what its signer gave for {identity} is not usable: {reason}"),
    };
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let mut chain = chain.map_err(|_| useless("it is not a chain of certificates in PEM"))?;
    // Who trusts a root has it.
    chain.retain(|certificate| !bundle.roots().contains(certificate));
    let (leaf, intermediates) = chain.split_first().ok_or_else(|| useless("it has no certificate"))?;
    let at = UnixTime::since_unix_epoch(Duration::from_secs(now));
    verify::verify(bundle, leaf, intermediates, at, CLOCK_SKEW).map_err(|reason| useless(reason.as_str()))?;
    let peer = peer_of(&chain).map_err(|reason| useless(reason.as_str()))?;
    if peer.identity != *identity {
        return Err(useless(&format!("it is for {}", peer.identity)));
    }
    if !has_key_of(leaf, request) {
        return Err(useless("it is for another key"));
    }
    Issued::of(chain).ok_or_else(|| useless("its leaf is no certificate"))
}

fn has_key_of(leaf: &CertificateDer<'_>, request: &CertificateSigningRequestDer<'_>) -> bool {
    let leaf = X509Certificate::from_der(leaf);
    let request = X509CertificationRequest::from_der(request);
    matches!((leaf, request), (Ok((_, leaf)), Ok((_, request)))
        if leaf.public_key().raw == request.certification_request_info.subject_pki.raw)
}
