//! What passes between an agent and its controller: the agent as itself, or as nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::time::{Instant, timeout};

use super::rig::*;
use crate::identity::*;
use crate::telemetry::registry::Registry;

const DAY: Duration = Duration::from_secs(86_400);

/// A controller with the identity `web`, and an agent with a clock of its own that knows it.
struct Pair {
    rig: Rig,
    clock: Arc<SetClock>,
    agent: Identities,
    trust: ControllerTrust,
}

impl Pair {
    fn start() -> Self {
        let rig = Rig::start();
        let clock = Arc::new(SetClock(AtomicU64::new(NOW)));
        let (agent, _, _) = node(&rig.folder, DAY, clock.clone());
        let bundle = rig.identities.authority.bundle().unwrap();
        let metrics = IdentityMetrics::new(&Registry::new()).unwrap();
        let trust = ControllerTrust::new(bundle, id("web"), &(clock.clone() as Clock), metrics);
        Self { rig, clock, agent, trust }
    }

    fn own(&self, anew: bool) -> OwnCertificate {
        wait(self.agent.own(&id("agent"), anew)).unwrap()
    }

    fn serial(&self) -> String {
        self.agent.certificates()[0].serial.clone().unwrap()
    }

    fn speak(&self, own: Option<&OwnCertificate>) -> Ended {
        handshake(self.trust.client(own), self.rig.identities.controller(&id("web")).unwrap())
    }

    /// Who the controller sees.
    fn seen(&self, own: Option<&OwnCertificate>) -> Result<Peer, Reason> {
        let ended = self.speak(own);
        assert_eq!((ended.client, ended.server), (Ok(()), Ok(())));
        self.rig.identities.peer(ended.server_side.peer_certificates())
    }
}

#[test]
fn an_agent_is_itself_to_its_controller_or_nobody() {
    let pair = Pair::start();
    assert_eq!(pair.seen(None).unwrap_err(), Reason::NoCertificate);
    let own = pair.own(false);
    assert_eq!(pair.seen(Some(&own)).unwrap().identity, id("agent"));
    // For nobody whom the same agent speaks as nothing changes.
    assert_eq!(pair.seen(None).unwrap_err(), Reason::NoCertificate);
}

#[test]
fn what_the_controller_cannot_verify_it_refuses_though_it_takes_nobody() {
    let pair = Pair::start();
    let show = |shown: &rustls::sign::CertifiedKey| {
        let mut config = Arc::unwrap_or_clone(pair.trust.client(None));
        config.client_auth_cert_resolver = lying_client(shown).client_auth_cert_resolver.clone();
        handshake(Arc::new(config), pair.rig.identities.controller(&id("web")).unwrap()).server
    };
    assert_eq!(show(&pair.rig.root().leaf(&svid(), &[])), Ok(()));
    let (foreign, _) = Signer::foreign("not ours");
    let refused = |reason| Err(HandshakeFailure::PeerRefused(reason));
    assert_eq!(show(&foreign.leaf(&svid(), &[])), refused(Reason::UnknownIssuer));
    let mut old = svid();
    set_validity(&mut old, NOW - 3600, NOW - 21);
    assert_eq!(show(&pair.rig.root().leaf(&old, &[])), refused(Reason::Expired));
    let other = svid_of(&["spiffe://other.example/ns/shop/sa/agent"]);
    assert_eq!(show(&pair.rig.root().leaf(&other, &[])), refused(Reason::OtherTrustDomain));
}

#[test]
fn an_agents_own_certificate_stays_and_is_made_anew_when_it_is_over_or_refused() {
    let pair = Pair::start();
    let own = pair.own(false);
    let first = pair.serial();
    pair.agent.retain(|_| false);
    pair.own(false);
    assert_eq!(pair.serial(), first, "it was forgotten with the pods");
    pair.own(true);
    let second = pair.serial();
    assert_ne!(second, first, "it was refused");

    for clock in [&pair.clock, &pair.rig.clock] {
        clock.0.store(NOW + DAY.as_secs() + 30, Ordering::Relaxed);
    }
    pair.rig.ensure("web");
    assert_eq!(pair.speak(Some(&own)).server, Err(HandshakeFailure::PeerRefused(Reason::Expired)));
    pair.own(false);
    assert_ne!(pair.serial(), second, "it is over");
    // Who had it before shows the new one.
    assert_eq!(pair.seen(Some(&own)).unwrap().identity, id("agent"));
}

#[test]
fn the_controllers_clock_judges_the_agents_certificate() {
    let pair = Pair::start();
    let own = pair.own(false);
    // Certificates are good from 300 s before they are made.
    pair.clock.0.store(NOW - 310, Ordering::Relaxed);
    assert!(!pair.agent.certificates()[0].usable);
    assert_eq!(pair.seen(Some(&own)).unwrap().identity, id("agent"));
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_over_with_its_certificate_or_its_root() {
    let folder = tempfile::tempdir().unwrap();
    let (identities, _, _) = node(&folder, Duration::from_secs(60), TokioClock::start());
    for name in ["web", "api"] {
        identities.ensure(&id(name)).await.unwrap();
    }
    let client = identities.client(&id("api"), &id("web"), Alpn::Mux1).unwrap();
    let ended = handshake(client, identities.server(&id("web"), Alpn::Mux1).unwrap());
    let chain: Vec<CertificateDer<'static>> =
        ended.server_side.peer_certificates().unwrap().iter().map(|one| one.clone().into_owned()).collect();

    let begun = Instant::now();
    let over = timeout(Duration::from_secs(200), identities.until_over(&chain)).await.unwrap();
    // The last second, and the tolerance for clocks.
    let lasted = begun.elapsed().as_secs();
    assert!(over == Reason::Expired && (80..=81).contains(&lasted), "{over}, {lasted} s");

    // Another root in the place of the one that vouches for it.
    let (_, other) = Signer::foreign("another root");
    let bundle = TrustBundle::new(trust_domain(), vec![other]).unwrap();
    assert!(identities.rules.trust.replace(bundle));
    let over = timeout(Duration::from_secs(1), identities.until_over(&chain)).await.unwrap();
    assert_eq!(over, Reason::UnknownIssuer);
    assert_eq!(identities.until_over(&[]).await, Reason::NoCertificate);
}
