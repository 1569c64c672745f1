//! TLS between the agents and their controller: plain HTTP/2, both with certificates, but for the connections on which an
//! agent obtains its own.

use std::sync::Arc;

use mesh_common::model::SpiffeId;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::clock::Clock;
use super::identities::{Identities, Settings};
use super::issuer::IssueError;
use super::metrics::IdentityMetrics;
use super::store::Slot;
use super::tls::controller_client;
use super::trust::{RootError, Trust, TrustBundle};
use super::verify::{Rules, ServerVerifier};
use crate::telemetry::seldom::Seldom;

/// Knows the controller by its identity, under roots that may change.
#[derive(Debug)]
pub struct ControllerTrust {
    trust: Arc<Trust>,
    verifier: Arc<ServerVerifier>,
    clock: Clock,
}

/// What an agent proves itself by to its controller. The key stays in this module; whoever has this shows the certificate
/// that is newest when a connection begins.
#[derive(Clone, Debug)]
pub struct OwnCertificate(Arc<Slot>);

impl ControllerTrust {
    /// Trusts nobody but `controller`.
    pub fn new(bundle: TrustBundle, controller: SpiffeId, clock: &Clock, metrics: IdentityMetrics) -> Self {
        let trust = Trust::new(bundle);
        let clock_skew = Settings::default().clock_skew;
        let rules =
            Arc::new(Rules { trust: Arc::clone(&trust), clock_skew, metrics, said: Seldom::default() });
        let verifier = Arc::new(ServerVerifier { rules, expected: controller });
        Self { trust, verifier, clock: clock.clone() }
    }

    /// From the next connection on these roots count.
    pub fn replace(&self, bundle: TrustBundle) {
        self.trust.replace(bundle);
    }

    /// A configuration to dial the controller with as `own`, or as nobody. It keeps up with changes of the roots and with
    /// renewals by itself.
    pub fn client(&self, own: Option<&OwnCertificate>) -> Arc<ClientConfig> {
        let own = own.map(|own| Arc::new(own.clone()) as Arc<dyn ResolvesClientCert>);
        Arc::new(controller_client(Arc::clone(&self.verifier), own, &self.clock))
    }
}

impl Identities {
    /// The certificate of the agent itself, which is kept whatever becomes of the node's pods. Asks for one if there is none
    /// that is valid, or if it is to be made `anew`; its caller waits between two tries. One identity for all calls.
    ///
    /// # Errors
    /// [`IssueError`] if the authority gave none.
    pub async fn own(&self, identity: &SpiffeId, anew: bool) -> Result<OwnCertificate, Arc<IssueError>> {
        self.own.get_or_init(|| identity.clone());
        let slot = self.obtain_now(identity, anew).await?;
        Ok(OwnCertificate(slot))
    }
}

impl ResolvesClientCert for OwnCertificate {
    /// Also what our clock does not take: the controller, by whose clock it was made, judges it.
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.current()?.key))
    }

    fn has_certs(&self) -> bool {
        self.0.current().is_some()
    }
}

/// The certificates of a PEM file.
///
/// # Errors
/// [`RootError`] if there is none, or one does not decode.
pub fn roots_of_pem(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, RootError> {
    let mut roots = Vec::new();
    for (index, root) in CertificateDer::pem_slice_iter(text).enumerate() {
        roots.push(root.map_err(|_| RootError::Encoding { index })?);
    }
    if roots.is_empty() { Err(RootError::Empty) } else { Ok(roots) }
}
