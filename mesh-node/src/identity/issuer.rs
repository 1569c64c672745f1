//! Makes a key, asks the authority to sign for it, and checks what comes back.

use std::sync::Arc;

use mesh_common::model::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;

use super::authority::{AuthorityError, CertificateAuthority, Issued};
use super::rotation::Life;
use super::store::Current;
use super::verify::peer_of;

/// Why an identity has no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The key or its signing request could not be made.
    #[error("make a key and signing request for {identity}")]
    Request {
        /// For whom.
        identity: SpiffeId,
        /// What failed.
        #[source]
        source: rcgen::Error,
    },
    /// The authority did not sign.
    #[error("obtain a certificate for {identity}")]
    Authority {
        /// For whom.
        identity: SpiffeId,
        /// What it said.
        #[source]
        source: AuthorityError,
    },
    /// The authority takes its time.
    #[error("the authority has not answered about {identity} yet, it is still asked")]
    Late {
        /// For whom.
        identity: SpiffeId,
    },
    /// The authority signed something else than was asked for.
    #[error("the authority's certificate for {identity} has another identity or another key")]
    Mismatch {
        /// For whom.
        identity: SpiffeId,
    },
}

impl IssueError {
    /// Whether the authority was asked and refuses this identity alone: nothing is wrong with the node.
    pub fn is_of_the_identity(&self) -> bool {
        matches!(self, Self::Authority { source: AuthorityError::Refused { .. }, .. })
    }
}

/// Obtains a certificate for a fresh key. `now` is UTC seconds since the epoch, `jitter` is in `0.0..1.0`.
pub(super) async fn issue(
    authority: &dyn CertificateAuthority,
    identity: &SpiffeId,
    now: u64,
    jitter: f64,
) -> Result<Current, IssueError> {
    let request_error = |source| IssueError::Request { identity: identity.clone(), source };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(request_error)?;
    let mut params = CertificateParams::default();
    // Our authorities write every field themselves, and take the key and the proof that we hold it. Others take the name
    // from here, too.
    params.distinguished_name = DistinguishedName::new();
    let name = identity.to_string().try_into().map_err(request_error)?;
    params.subject_alt_names = vec![SanType::URI(name)];
    let request = params.serialize_request(&key).map_err(request_error)?;
    let issued = authority
        .sign(identity, request.der(), now)
        .await
        .map_err(|source| IssueError::Authority { identity: identity.clone(), source })?;
    certified(&key, issued, now, jitter, identity)
        .ok_or_else(|| IssueError::Mismatch { identity: identity.clone() })
}

/// Joins key and chain, if they belong together and say who we are.
fn certified(key: &KeyPair, issued: Issued, now: u64, jitter: f64, identity: &SpiffeId) -> Option<Current> {
    let peer = peer_of(&issued.chain).ok()?;
    if peer.identity != *identity {
        return None;
    }
    let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let certified = CertifiedKey::new(issued.chain, any_ecdsa_type(&private).ok()?);
    certified.keys_match().ok()?;
    Some(Current {
        key: Arc::new(certified),
        life: Life { obtained: now, not_before: issued.not_before, not_after: issued.not_after },
        jitter,
    })
}
