//! A mesh in memory: an authority in a temporary folder, a clock that tests set, peers that lie.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::telemetry::registry::Registry;
use mesh_common::model::{SpiffeId, TrustDomain};
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, DigitallySignedStruct, DistinguishedName as Hint,
    ServerConfig, ServerConnection, SideData, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, ServerName, UnixTime};
use tempfile::TempDir;

use crate::identity::*;

/// A day of January 2027, in UTC seconds since the epoch.
pub(super) const NOW: u64 = 1_800_000_000;

/// A wall clock that stands until it is set.
#[derive(Debug)]
pub(super) struct SetClock(pub(super) AtomicU64);

impl TimeProvider for SetClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
    }
}

/// A wall clock that goes with tokio's, so that paused time moves both.
#[derive(Debug)]
pub(super) struct TokioClock(tokio::time::Instant);

impl TokioClock {
    pub(super) fn start() -> Clock {
        Arc::new(Self(tokio::time::Instant::now()))
    }
}

impl TimeProvider for TokioClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(NOW) + self.0.elapsed()))
    }
}

/// The standalone authority with a wire that can be cut.
pub(super) struct Wire {
    authority: Authority,
    pub(super) cut: AtomicBool,
    /// Whose requests are never answered.
    pub(super) lost: Mutex<HashSet<SpiffeId>>,
    /// How long an answer takes.
    pub(super) delay: Mutex<Duration>,
    pub(super) asked: AtomicU64,
}

impl CertificateAuthority for Wire {
    fn sign<'a>(
        &'a self,
        identity: &'a SpiffeId,
        request: &'a CertificateSigningRequestDer<'a>,
        now: u64,
    ) -> Signing<'a> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.cut.load(Ordering::Relaxed) {
            let what = "the test cut the wire".to_owned();
            return Box::pin(std::future::ready(Err(AuthorityError::Away { what })));
        }
        if self.lost.lock().unwrap().contains(identity) {
            return Box::pin(std::future::pending());
        }
        let delay = *self.delay.lock().unwrap();
        Box::pin(async move {
            if !delay.is_zero() {
                // A slow authority is what is tested; the clock of these tests is paused.
                tokio::time::sleep(delay).await;
            }
            self.authority.sign(identity, request, now).await
        })
    }

    fn bundle(&self) -> Result<TrustBundle, AuthorityError> {
        self.authority.bundle()
    }
}

/// A node of the mesh, with the folder of its authority.
pub(super) struct Rig {
    pub(super) folder: TempDir,
    pub(super) clock: Arc<SetClock>,
    pub(super) metrics: IdentityMetrics,
    pub(super) identities: Identities,
}

pub(super) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

pub(super) fn id(service_account: &str) -> SpiffeId {
    SpiffeId::new(&trust_domain(), "shop", service_account).unwrap()
}

pub(super) fn authority_settings(folder: &TempDir, lifetime: Duration) -> AuthoritySettings {
    AuthoritySettings {
        trust_dir: folder.path().to_owned(),
        trust_domain: trust_domain(),
        lifetime,
        backdate: Duration::from_secs(300),
    }
}

/// A node with its own clock and counters on the authority of `folder`.
pub(super) fn node(
    folder: &TempDir,
    lifetime: Duration,
    clock: Clock,
) -> (Identities, Arc<Wire>, IdentityMetrics) {
    let authority = Authority::open(authority_settings(folder, lifetime), &clock).unwrap();
    let (cut, lost, delay, asked) = Default::default();
    let wire = Arc::new(Wire { authority, cut, lost, delay, asked });
    let metrics = IdentityMetrics::new(&Registry::new()).unwrap();
    let identities = Identities::new(wire.clone(), Settings::default(), clock, metrics.clone()).unwrap();
    (identities, wire, metrics)
}

impl Rig {
    /// Certificates of a day, and one for `web`.
    pub(super) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(SetClock(AtomicU64::new(NOW)));
        let (identities, _, metrics) = node(&folder, Duration::from_secs(86_400), clock.clone());
        let rig = Self { folder, clock, metrics, identities };
        rig.ensure("web");
        rig
    }

    pub(super) fn ensure(&self, service_account: &str) {
        wait(self.identities.ensure(&id(service_account))).unwrap();
    }

    pub(super) fn set_now(&self, now: u64) {
        self.clock.0.store(now, Ordering::Relaxed);
    }

    /// The mesh's own root, as its folder has it: to make certificates that lie in one respect only.
    pub(super) fn root(&self) -> Signer {
        let read = |name| std::fs::read_to_string(self.folder.path().join(name)).unwrap();
        let certificate = read("tls.crt");
        let key = KeyPair::from_pem(&read("tls.key")).unwrap();
        Signer { issuer: Issuer::from_ca_cert_pem(&certificate, key).unwrap() }
    }

    /// Presents `liar` to `web` as a server and as a client; returns what `web` said each time.
    pub(super) fn refusals_of(&self, liar: &CertifiedKey) -> [Result<(), HandshakeFailure>; 2] {
        let good_client = self.identities.client(&id("web"), &id("api"), Alpn::Mux1).unwrap();
        let good_server = self.identities.server(&id("web"), Alpn::Mux1).unwrap();
        [handshake(good_client, lying_server(liar)).client, handshake(lying_client(liar), good_server).server]
    }

    /// Presents a chain to `web` in both directions and expects one reason, counted each time.
    pub(super) fn expect_refused(&self, liar: &CertifiedKey, reason: Reason) {
        let before = self.metrics.refusals(reason);
        let expected = Err(HandshakeFailure::PeerRefused(reason));
        assert_eq!(self.refusals_of(liar), [expected, expected], "server, client");
        assert_eq!(self.metrics.refusals(reason), before + 2, "counted");
    }
}

/// Runs a future that has nothing to wait for.
pub(super) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// Something that signs.
pub(super) struct Signer {
    pub(super) issuer: Issuer<'static, KeyPair>,
}

impl Signer {
    /// A self-signed authority that nobody trusts.
    pub(super) fn foreign(name: &str) -> (Self, CertificateDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let params = authority_params(name, None);
        let certificate = params.self_signed(&key).unwrap();
        (Self { issuer: Issuer::new(params, key) }, certificate.into())
    }

    /// An authority below this one.
    pub(super) fn intermediate(&self, params: CertificateParams) -> (Self, CertificateDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (Self { issuer: Issuer::new(params, key) }, certificate.into())
    }

    /// A leaf with a fresh key, and what stands above it.
    pub(super) fn leaf(&self, params: &CertificateParams, above: &[CertificateDer<'static>]) -> CertifiedKey {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let mut chain = vec![certificate.into()];
        chain.extend_from_slice(above);
        certified(chain, &key)
    }
}

pub(super) fn certified(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> CertifiedKey {
    let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    CertifiedKey::new(chain, any_ecdsa_type(&private).unwrap())
}

/// An authority's certificate; `path_length` is how many authorities may stand below.
pub(super) fn authority_params(name: &str, path_length: Option<u8>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(match path_length {
        Some(length) => rcgen::BasicConstraints::Constrained(length),
        None => rcgen::BasicConstraints::Unconstrained,
    });
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// A good SVID of `api`, around [`NOW`]; each test spoils one thing.
pub(super) fn svid() -> CertificateParams {
    svid_of(&[&id("api").to_string()])
}

pub(super) fn svid_of(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = uris.iter().map(|uri| uri_san(uri)).collect();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    set_validity(&mut params, NOW - 60, NOW + 3600);
    params
}

pub(super) fn uri_san(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

pub(super) fn set_validity(params: &mut CertificateParams, not_before: u64, not_after: u64) {
    let date = |seconds: u64| time::OffsetDateTime::from_unix_timestamp(seconds.cast_signed()).unwrap();
    params.not_before = date(not_before);
    params.not_after = date(not_after);
}

/// How a handshake ended for each side, and the connections.
pub(super) struct Ended {
    pub(super) client: Result<(), HandshakeFailure>,
    pub(super) server: Result<(), HandshakeFailure>,
    pub(super) client_side: ClientConnection,
    pub(super) server_side: ServerConnection,
}

/// A whole handshake in memory.
pub(super) fn handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Ended {
    handshake_as(client, server, ServerName::try_from("api.shop.svc.cluster.local").unwrap())
}

pub(super) fn handshake_as(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    name: ServerName<'static>,
) -> Ended {
    let mut client_side = ClientConnection::new(client, name).unwrap();
    let mut server_side = ServerConnection::new(server).unwrap();
    let (mut client, mut server) = (Ok(()), Ok(()));
    // Two flights each way; some more turns for alerts and tickets.
    for _ in 0..6 {
        move_bytes(&mut client_side, &mut server_side, &mut server);
        move_bytes(&mut server_side, &mut client_side, &mut client);
    }
    if client.is_ok() && server.is_ok() {
        assert!(!client_side.is_handshaking() && !server_side.is_handshaking(), "handshake hangs");
    }
    Ended { client, server, client_side, server_side }
}

/// Hands over what `from` has to say; notes what `to` makes of it, first failure only.
fn move_bytes<A: SideData, B: SideData>(
    from: &mut ConnectionCommon<A>,
    to: &mut ConnectionCommon<B>,
    outcome: &mut Result<(), HandshakeFailure>,
) {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() && outcome.is_ok() {
        if to.read_tls(&mut rest).is_err() {
            return;
        }
        if let Err(error) = to.process_new_packets() {
            *outcome = Err(HandshakeFailure::of(&error));
        }
    }
}

/// A server that shows `certificate` and believes everybody.
pub(super) fn lying_server(certificate: &CertifiedKey) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(Credulous))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.clone())));
    config.alpn_protocols = vec![Alpn::Mux1.as_bytes().to_vec()];
    Arc::new(config)
}

/// A client that shows `certificate` and believes everybody.
pub(super) fn lying_client(certificate: &CertifiedKey) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.clone())));
    config.alpn_protocols = vec![Alpn::Mux1.as_bytes().to_vec()];
    Arc::new(config)
}

pub(super) fn credulous() -> Arc<dyn ServerCertVerifier> {
    Arc::new(Credulous)
}

/// Believes everybody.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Credulous {
    fn root_hint_subjects(&self) -> &[Hint] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
