//! TLS to servers of the web, which publish the keys of issuers: the web's roots, and those that a person adds. The mesh's
//! own roots count for nothing here, and these for nothing in the mesh.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;

use super::trust::RootError;

/// A client that knows servers by their names, under the web's roots (Mozilla's, compiled in: an image has no others) and
/// `more`. Shows no certificate; HTTP/1.1.
///
/// # Errors
/// One of `more` does not decode.
pub fn web_client(more: &[CertificateDer<'static>]) -> Result<Arc<ClientConfig>, RootError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for (index, root) in more.iter().enumerate() {
        roots.add(root.clone()).map_err(|_| RootError::Encoding { index })?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        // Some issuers' servers have no TLS 1.3 yet.
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("the provider has suites of both: it is rustls' own")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
