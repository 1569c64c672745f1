//! Streams over mutual TLS: what a connection has to show besides its token, and how an agent comes to have it.

use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_node::identity::SigningPem;
use mesh_test_harness::figure;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs::sign::any_supported_type;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tonic::{Code, Status};

use super::agents::{Stand, WEB, earlier_agent, request};
use super::follower::Follower;

pub const AGENT: &str = "spiffe://cluster.local/ns/nodemesh-system/sa/nodemesh-agent";
const POLICY: &str = r"
apiVersion: policy.nodemesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: late, namespace: shop}
spec: {action: DENY, rules: [{}]}
";

/// An authority whose key the test holds.
struct Root(CertifiedIssuer<'static, KeyPair>);

impl Root {
    fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    fn pem(&self) -> SigningPem {
        SigningPem { key: self.0.key().serialize_pem().into_bytes(), certificates: self.0.pem().into_bytes() }
    }

    /// A certificate that is good from and until so many minutes from now.
    fn signs(&self, identities: &[&str], [from, until]: [i64; 2]) -> Result<Arc<CertifiedKey>> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for identity in identities {
            params.subject_alt_names.push(SanType::URI((*identity).try_into()?));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let now = OffsetDateTime::now_utc();
        params.not_before = now + time::Duration::minutes(from);
        params.not_after = now + time::Duration::minutes(until);
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.0)?;
        certified(&key, vec![leaf.der().clone()])
    }
}

fn certified(key: &KeyPair, chain: Vec<CertificateDer<'static>>) -> Result<Arc<CertifiedKey>> {
    let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Ok(Arc::new(CertifiedKey::new(chain, any_supported_type(&private)?)))
}

/// A certificate as the controller signs it for who shows a token, by that token alone.
pub async fn signed(stand: &Stand, token: &str, identity: &str) -> Result<Arc<CertifiedKey>> {
    let key = KeyPair::generate()?;
    let request = CertificateParams::default().serialize_request(&key)?.der().to_vec();
    let chain = stand.sign(token, identity, request).await?;
    certified(&key, chain.into_iter().map(CertificateDer::from).collect())
}

/// What becomes of a stream.
async fn follows(stand: &Stand, token: &str, shown: Option<&Arc<CertifiedKey>>) -> Result<(), Status> {
    let agent = match shown {
        Some(shown) => stand.agent_showing(token, Arc::clone(shown)).await,
        None => stand.agent(token).await,
    };
    // In TLS 1.3 a client learns that its certificate is refused when it reads.
    let mut agent = agent.map_err(|error| Status::unavailable(format!("{error:#}")))?;
    agent.follow().await.map(drop)
}

async fn is_refused(
    stand: &Stand,
    token: &str,
    shown: Option<&Arc<CertifiedKey>>,
    (code, said): (Code, &str),
) -> Result<()> {
    let status = follows(stand, token, shown).await.expect_err("it is let in");
    ensure!(status.code() == code && status.message().contains(said), "{status:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_needs_the_agents_certificate_and_its_token() -> Result<()> {
    let stand = Stand::start().await?;
    let token = stand.token("agent-a", &[])?;
    // By the token alone: a certificate, and no stream.
    is_refused(&stand, &token, None, (Code::Unauthenticated, "no certificate")).await?;
    let own = signed(&stand, &token, AGENT).await?;
    follows(&stand, &token, Some(&own)).await?;

    // By the certificate alone: nothing.
    is_refused(&stand, "", Some(&own), (Code::Unauthenticated, "a token has")).await?;
    is_refused(&stand, "", None, (Code::Unauthenticated, "a token has")).await?;
    // A pod that somehow has a certificate of its own, with its own token or with an agent's.
    let web = signed(&stand, &token, WEB).await?;
    let pods = stand.token_of("shop", "web", "web", "nodemesh")?;
    is_refused(&stand, &pods, Some(&web), (Code::PermissionDenied, "is no agent")).await?;
    is_refused(&stand, &pods, Some(&own), (Code::PermissionDenied, "is no agent")).await?;
    let other = "the connection's certificate is of spiffe://cluster.local/ns/shop/sa/web";
    is_refused(&stand, &token, Some(&web), (Code::PermissionDenied, other)).await?;
    // Nor does such a connection get certificates.
    let mut agent = stand.agent_showing(&token, web).await?;
    let status = agent.sign(WEB, request()).await.expect_err("it is signed");
    ensure!(status.code() == Code::FailedPrecondition && status.message().contains(other), "{status:?}");

    // Certificates of agents are alike: which node it is the token says.
    follows(&stand, &stand.token("agent-b", &[])?, Some(&own)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_of_before_there_were_such_certificates_is_served_without() -> Result<()> {
    let stand = Stand::start().await?;
    stand.delete_pod("nodemesh-system", "agent-a").await?;
    stand.apply(&earlier_agent("agent-a", "a"))?;
    stand.until_known("agent-a").await?;
    let token = stand.token("agent-a", &[])?;
    let mut agent = stand.agent(&token).await?;
    let mut stream = agent.follow().await?;
    // What it shows has to be right all the same.
    let web = signed(&stand, &token, WEB).await?;
    is_refused(&stand, &token, Some(&web), (Code::PermissionDenied, "certificate is of")).await?;
    // Beside its stream it asks for certificates.
    agent.sign(WEB, request()).await?;
    ensure!(timeout(Duration::from_secs(1), stream.message()).await.is_err(), "its stream ended");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_nothing_vouches_for_is_refused_in_the_handshake() -> Result<()> {
    const GOOD: [i64; 2] = [-5, 60];
    let (root, foreign) = (Root::new("root of the test")?, Root::new("root of the test")?);
    let stand = Stand::with_authority(&root.pem(), &root.pem()).await?;
    stand.populate().await?;
    let token = stand.token("agent-a", &[])?;
    follows(&stand, &token, Some(&root.signs(&[AGENT], GOOD)?)).await?;
    for (what, shown) in [
        ("expired", root.signs(&[AGENT], [-60, -5])?),
        ("not valid yet", root.signs(&[AGENT], [5, 60])?),
        ("of another root", foreign.signs(&[AGENT], GOOD)?),
        (
            "of another trust domain",
            root.signs(&["spiffe://other.example/ns/nodemesh-system/sa/nodemesh-agent"], GOOD)?,
        ),
        ("of nobody", root.signs(&[], GOOD)?),
        ("of two", root.signs(&[AGENT, WEB], GOOD)?),
    ] {
        let status = follows(&stand, &token, Some(&shown)).await.expect_err(what);
        // Not a word of a service: the connection ended.
        ensure!(status.source().is_some(), "{what}: {status:?}");
    }
    // A clock that is a little late or early harms nobody.
    for skewed in [[-60, 0], [0, 60]] {
        follows(&stand, &token, Some(&root.signs(&[AGENT], skewed)?)).await?;
    }
    Ok(())
}

/// What stands between an agent and its controller, and lets nothing pass while it is cut.
struct Relay {
    address: SocketAddr,
    is_cut: Arc<AtomicBool>,
    _task: JoinSet<()>,
}

impl Relay {
    async fn start(to: SocketAddr) -> Result<Self> {
        Self::with(to, None).await
    }

    /// Lets somebody else have every other connection, from the second on, until one shows a certificate.
    async fn with(to: SocketAddr, other: Option<Arc<ServerConfig>>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, is_cut) = (listener.local_addr()?, Arc::new(AtomicBool::new(false)));
        let (cut, mut task) = (Arc::clone(&is_cut), JoinSet::new());
        let was_shown = Arc::new(AtomicBool::new(false));
        task.spawn(async move {
            let (mut carried, mut is_others) = (JoinSet::new(), false);
            while let Ok((mut near, _)) = listener.accept().await {
                let (cut, was_shown) = (Arc::clone(&cut), Arc::clone(&was_shown));
                let other = other.clone().filter(|_| is_others && !was_shown.load(Ordering::Relaxed));
                is_others = !is_others;
                carried.spawn(async move {
                    if let Some(config) = other {
                        // It ends the handshake by an alert.
                        let refused = TlsAcceptor::from(config).accept(near).await.err();
                        was_shown.fetch_or(refused.is_some_and(|error| shows(&error)), Ordering::Relaxed);
                        return;
                    }
                    let Ok(mut far) = TcpStream::connect(to).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        () = until(&cut) => {}
                    }
                });
            }
        });
        Ok(Self { address, is_cut, _task: task })
    }

    fn is_cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::Relaxed);
    }
}

/// Whether a handshake was refused for the certificate that was shown, not for there being none.
fn shows(error: &std::io::Error) -> bool {
    let refusal = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(refusal, Some(rustls::Error::InvalidCertificate(_)))
}

async fn until(is: &AtomicBool) {
    while !is.load(Ordering::Relaxed) {
        // Between two looks at what the test sets.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// How many certificates of the agent were issued.
fn issued(stand: &Stand) -> usize {
    let is =
        |record: &&serde_json::Value| record["event"] == "certificate_issued" && record["identity"] == AGENT;
    stand.records().iter().filter(is).count()
}

/// Where the certificate of a follower stands: its serial, and whether it is valid.
fn own(follower: &Follower) -> Result<(String, bool)> {
    let certificates = follower.certificates();
    let own = certificates.iter().find(|one| one.identity.to_string() == AGENT).context("it has its own")?;
    Ok((own.serial.clone().unwrap_or_default(), own.usable))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_and_its_connection_ends_before_it_is_worth_nothing() -> Result<()> {
    let stand = Stand::signing_for(Duration::from_secs(12)).await?;
    stand.populate().await?;
    let agent = stand.follower("agent-a", "a").await?;
    agent.until("all is in force", |snapshot| snapshot.workloads().count() == 7).await?;
    let (first, _) = own(&agent)?;
    ensure!(agent.streams()? == 1, "{} streams", agent.streams()?);
    // Some seconds longer than its life: the tolerance for clocks.
    let again = || (agent.streams().ok()? > 1).then_some(());
    stand.eventually("another stream is begun", again).await?;
    let (later, is_valid) = own(&agent)?;
    ensure!(later != first && is_valid, "it is the one of before");
    stand.apply(POLICY)?;
    agent.until("a policy", |snapshot| snapshot.authorization_policies().count() == 1).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_certificate_expired_while_it_was_away_has_another_by_its_token() -> Result<()> {
    let stand = Stand::signing_for(Duration::from_secs(10)).await?;
    stand.populate().await?;
    let relay = Relay::start(stand.address()).await?;
    let agent = stand.follower_of(relay.address, "agent-a", "a").await?;
    agent.until("all is in force", |snapshot| snapshot.workloads().count() == 7).await?;
    relay.is_cut(true);
    stand.apply(POLICY)?;
    let expired = || own(&agent).ok().filter(|(_, is_valid)| !is_valid);
    let (first, _) = stand.eventually("its certificate expires", expired).await?;
    ensure!(agent.snapshot().authorization_policies().count() == 0, "it heard of it");
    relay.is_cut(false);
    agent.until("a policy of meanwhile", |snapshot| snapshot.authorization_policies().count() == 1).await?;
    let (later, is_valid) = own(&agent)?;
    ensure!(later != first && is_valid, "it has none");
    Ok(())
}

/// Somebody with the controller's certificate who trusts another root, as a controller whose authority was lost and made anew.
fn who_trusts_another(root: &Root) -> Result<Arc<ServerConfig>> {
    let mut trusted = RootCertStore::empty();
    trusted.add(Root::new("another root")?.0.der().clone())?;
    let verifier = WebPkiClientVerifier::builder(Arc::new(trusted)).build()?;
    let own = root.signs(&["spiffe://cluster.local/ns/nodemesh-system/sa/nodemesh-controller"], [-5, 60])?;
    let resolver = Arc::new(SingleCertAndKey::from(own));
    let mut config = ServerConfig::builder().with_client_cert_verifier(verifier).with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_certificate_is_refused_asks_for_another() -> Result<()> {
    let root = Root::new("root of the test")?;
    let stand = Stand::with_authority(&root.pem(), &root.pem()).await?;
    stand.populate().await?;
    // Its first connection is for its certificate, the one after that for the stream.
    let relay = Relay::with(stand.address(), Some(who_trusts_another(&root)?)).await?;
    let agent = stand.follower_of(relay.address, "agent-a", "a").await?;
    let took = agent.until("all is in force", |snapshot| snapshot.workloads().count() == 7).await?;
    ensure!(agent.streams()? == 1, "a controller that refuses it let it in");
    let issued = issued(&stand);
    ensure!(issued == 2, "{issued} certificates");
    figure(&format!("an agent whose certificate was refused follows with another one after {took:?}"));
    Ok(())
}
