//! TLS between the agents and their controller: plain HTTP/2, the controller shows its certificate, the agent none. Who
//! the agent is, its token says.

use std::sync::Arc;

use mesh_common::model::SpiffeId;
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::clock::Clock;
use super::identities::Settings;
use super::metrics::IdentityMetrics;
use super::tls::controller_client;
use super::trust::{RootError, Trust, TrustBundle};
use super::verify::{Rules, ServerVerifier};
use crate::telemetry::seldom::Seldom;

/// Knows the controller by its identity, under roots that may change.
#[derive(Debug)]
pub struct ControllerTrust {
    trust: Arc<Trust>,
    client: Arc<ClientConfig>,
}

impl ControllerTrust {
    /// Trusts nobody but `controller`.
    pub fn new(bundle: TrustBundle, controller: SpiffeId, clock: &Clock, metrics: IdentityMetrics) -> Self {
        let trust = Trust::new(bundle);
        let clock_skew = Settings::default().clock_skew;
        let rules =
            Arc::new(Rules { trust: Arc::clone(&trust), clock_skew, metrics, said: Seldom::default() });
        let verifier = Arc::new(ServerVerifier { rules, expected: controller });
        Self { trust, client: Arc::new(controller_client(verifier, clock)) }
    }

    /// From the next connection on these roots count.
    pub fn replace(&self, bundle: TrustBundle) {
        self.trust.replace(bundle);
    }

    /// A configuration to dial the controller with. It keeps up with changes of the roots by itself.
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
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
