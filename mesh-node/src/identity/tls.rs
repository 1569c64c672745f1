//! TLS of the mesh: 1.3 only, both sides with certificates, nothing resumed.
//!
//! In: who we are and whom we expect. Out: rustls configurations, for the engine's unbuffered connections and for
//! tokio-rustls alike.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;

use super::clock::Clock;
use super::store::Slot;
use super::verify::{ClientVerifier, ServerVerifier};

/// What a TLS connection of the mesh carries. Each configuration offers exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// Tunnels of the engine: `nodemesh/mux1`.
    Mux1,
    /// HTTP/2 between agents: `nodemesh/h2`.
    H2,
}

impl Alpn {
    /// Both, in the order of `index`.
    pub const ALL: [Self; 2] = [Self::Mux1, Self::H2];

    /// The protocol id on the wire (RFC 7301).
    pub const fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Mux1 => b"nodemesh/mux1",
            Self::H2 => b"nodemesh/h2",
        }
    }

    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

/// What agents and controller speak (RFC 9113 section 3.2).
const HTTP2: &[u8] = b"h2";

/// The name to put into SNI: the DNS name of the dialled Service, or nothing where it has none.
///
/// With an address rustls sends no SNI (RFC 6066 section 3 knows no addresses). SNI decides nothing in the mesh.
pub fn server_name(dns: Option<&str>, address: IpAddr) -> ServerName<'static> {
    dns.and_then(|name| ServerName::try_from(name.to_owned()).ok())
        .unwrap_or_else(|| ServerName::IpAddress(address.into()))
}

/// AES-128-GCM first (1.4 times as fast as AES-256 on the machines measured), X25519MLKEM768 first.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                cipher_suite::TLS13_AES_128_GCM_SHA256,
                cipher_suite::TLS13_AES_256_GCM_SHA384,
                cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519],
            ..default_provider()
        })
    });
    &PROVIDER
}

/// The signatures that are accepted in chains and handshakes: no SHA-1, RSA from 2048 bits.
pub(super) fn signature_algorithms() -> &'static WebPkiSupportedAlgorithms {
    &provider().signature_verification_algorithms
}

/// What all clients of `slot`'s identity share; [`client_config`] adds whom they expect.
pub(super) fn client_template(
    slot: &Arc<Slot>,
    verifier: Arc<ServerVerifier>,
    clock: &Clock,
    alpn: Alpn,
) -> ClientConfig {
    let mut config = ClientConfig::builder_with_details(provider().clone(), clock.clone())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3 suites: listed above")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(slot.clone());
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    // A resumed session would skip the verification of a certificate whose root may be gone (CVE-2022-21654).
    config.resumption = Resumption::disabled();
    config
}

/// A client that accepts one identity only. Costs a few allocations, a hundredth of a handshake.
pub(super) fn client_config(template: &ClientConfig, verifier: Arc<ServerVerifier>) -> Arc<ClientConfig> {
    let mut config = template.clone();
    config.dangerous().set_certificate_verifier(verifier);
    Arc::new(config)
}

/// A client of the controller, which speaks plain HTTP/2: as the holder of a certificate, or as nobody.
pub(super) fn controller_client(
    verifier: Arc<ServerVerifier>,
    own: Option<Arc<dyn ResolvesClientCert>>,
    clock: &Clock,
) -> ClientConfig {
    let config = ClientConfig::builder_with_details(provider().clone(), clock.clone())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3 suites: listed above")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match own {
        Some(own) => config.with_client_cert_resolver(own),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![HTTP2.to_vec()];
    config.resumption = Resumption::disabled();
    config
}

/// A controller of `slot`'s identity, which asks its clients for a certificate. What `verifier` lets in without one may
/// obtain one here.
pub(super) fn controller_server(
    slot: &Arc<Slot>,
    verifier: Arc<ClientVerifier>,
    clock: &Clock,
) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_details(provider().clone(), clock.clone())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3 suites: listed above")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(slot.clone());
    config.alpn_protocols = vec![HTTP2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Arc::new(config)
}

/// A server of `slot`'s identity, which accepts any client of the trust domain and none without a certificate.
pub(super) fn server_config(
    slot: &Arc<Slot>,
    verifier: Arc<ClientVerifier>,
    clock: &Clock,
    alpn: Alpn,
) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_details(provider().clone(), clock.clone())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3 suites: listed above")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(slot.clone());
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    config.ignore_client_order = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Arc::new(config)
}
