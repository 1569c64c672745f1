//! Renewal under traffic, with the authority away, with clocks that jump, and changes of root.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use rcgen::KeyPair;

use super::rig::*;
use crate::identity::*;

/// A handshake from `web` to `api`, both on this node.
fn speak(identities: &Identities) -> Result<(), HandshakeFailure> {
    let ended = match (
        identities.client(&id("web"), &id("api"), Alpn::Mux1),
        identities.server(&id("api"), Alpn::Mux1),
    ) {
        (Ok(client), Ok(server)) => handshake(client, server),
        _ => return Err(HandshakeFailure::NoOwnCertificate),
    };
    ended.client.and(ended.server)
}

fn serials(identities: &Identities) -> Vec<Option<String>> {
    identities.certificates().into_iter().map(|summary| summary.serial).collect()
}

/// Lets virtual time pass: the clock of these tests is paused and jumps to what is waited for next.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Lets `identities` renew while `traffic` goes on.
async fn renewing<T>(identities: &Identities, traffic: impl Future<Output = T>) -> T {
    tokio::select! {
        () = identities.run() => unreachable!("run never ends"),
        result = traffic => result,
    }
}

#[tokio::test(start_paused = true)]
async fn ten_second_certificates_are_renewed_with_no_failed_handshake() {
    let folder = tempfile::tempdir().unwrap();
    let (identities, wire, metrics) = node(&folder, Duration::from_secs(10), TokioClock::start());
    for name in ["web", "api"] {
        identities.ensure(&id(name)).await.unwrap();
    }
    // One configuration for the whole time: it keeps up by itself.
    let client = identities.client(&id("web"), &id("api"), Alpn::Mux1).unwrap();
    let server = identities.server(&id("api"), Alpn::Mux1).unwrap();

    let mut seen = std::collections::HashSet::new();
    renewing(&identities, async {
        for _ in 0..600 {
            let ended = handshake(client.clone(), server.clone());
            assert_eq!((ended.client, ended.server), (Ok(()), Ok(())));
            let peer = identities.peer(ended.client_side.peer_certificates()).unwrap();
            seen.insert(peer.not_after);
            pass(Duration::from_millis(100)).await;
        }
    })
    .await;

    // A minute of certificates that are renewed between 4 and 5 seconds old, in whole seconds.
    assert!((10..=16).contains(&seen.len()), "{} certificates of api", seen.len());
    assert_eq!(wire.asked.load(Ordering::Relaxed), metrics.issued.get());
    assert_eq!(metrics.failed.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn while_the_authority_is_away_the_old_certificate_is_used_until_it_expires() {
    let folder = tempfile::tempdir().unwrap();
    let (identities, wire, metrics) = node(&folder, Duration::from_secs(60), TokioClock::start());
    for name in ["web", "api"] {
        identities.ensure(&id(name)).await.unwrap();
    }
    wire.cut.store(true, Ordering::Relaxed);
    let before = serials(&identities);

    renewing(&identities, async {
        for second in 0..=60 {
            assert_eq!(speak(&identities), Ok(()), "second {second}");
            assert_eq!(serials(&identities), before);
            pass(Duration::from_secs(1)).await;
        }
        pass(Duration::from_millis(100)).await;
        assert_eq!(speak(&identities), Err(HandshakeFailure::NoOwnCertificate));
        assert!(metrics.failed.get() >= 8, "{} tries", metrics.failed.get());
        let summary = &identities.certificates()[0];
        assert!(!summary.usable && summary.failures >= 4);
        let error = summary.last_error.as_deref().unwrap();
        assert!(error.ends_with("the authority is away: the test cut the wire"), "{error}");

        wire.cut.store(false, Ordering::Relaxed);
        // The longest wait between tries is 150 s and a fifth.
        pass(Duration::from_secs(181)).await;
        assert_eq!(speak(&identities), Ok(()));
        assert_eq!(identities.certificates()[0].failures, 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_certificate_expired_shows_it_to_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (identities, wire, _) = node(&folder, Duration::from_secs(60), TokioClock::start());
    for name in ["web", "api"] {
        identities.ensure(&id(name)).await.unwrap();
    }
    let client = identities.client(&id("web"), &id("api"), Alpn::Mux1).unwrap();
    let server = identities.server(&id("api"), Alpn::Mux1).unwrap();
    wire.cut.store(true, Ordering::Relaxed);
    tokio::time::advance(Duration::from_secs(61)).await;

    let ended = handshake(client, server);

    assert_eq!(ended.server, Err(HandshakeFailure::NoOwnCertificate));
    assert_eq!(ended.client, Err(HandshakeFailure::RefusedByPeer));
}

#[tokio::test(start_paused = true)]
async fn retries_are_backed_off_for_each_identity() {
    let folder = tempfile::tempdir().unwrap();
    let (identities, wire, _) = node(&folder, Duration::from_secs(86_400), TokioClock::start());
    wire.cut.store(true, Ordering::Relaxed);
    assert!(identities.ensure(&id("web")).await.is_err());

    renewing(&identities, pass(Duration::from_secs(1800))).await;

    // 0.5 + 1 + ... + 128 s make nine tries in 256 s, then one each 150 s, all within a fifth.
    let tries = wire.asked.load(Ordering::Relaxed);
    assert!((16..=24).contains(&tries), "{tries} tries in half an hour");
}

#[tokio::test(start_paused = true)]
async fn an_identity_is_not_asked_for_again_before_its_turn() {
    let folder = tempfile::tempdir().unwrap();
    let (identities, wire, _) = node(&folder, Duration::from_secs(86_400), TokioClock::start());
    wire.cut.store(true, Ordering::Relaxed);
    let error = identities.ensure(&id("web")).await.unwrap_err();
    assert!(matches!(*error, IssueError::Authority { .. }) && !error.is_of_the_identity());
    wire.cut.store(false, Ordering::Relaxed);

    let put_off = identities.ensure(&id("web")).await.unwrap_err();
    assert!(Arc::ptr_eq(&put_off, &error), "what the last try said");
    identities.ensure(&id("api")).await.unwrap();
    assert_eq!(wire.asked.load(Ordering::Relaxed), 2, "each once");

    // The first retry is half a second and a fifth later.
    pass(Duration::from_millis(601)).await;
    identities.ensure(&id("web")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_identity_that_is_slow_to_come_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (identities, wire, _) = node(&folder, Duration::from_secs(60), TokioClock::start());
    identities.ensure(&id("old")).await.unwrap();
    let slow: Vec<_> = (0..10).map(|number| id(&format!("slow-{number}"))).collect();
    wire.lost.lock().unwrap().extend(slow.iter().cloned());
    let wanted: Vec<_> = slow.iter().cloned().chain([id("new"), id("old")]).collect();
    let (patience, start) = (Duration::from_millis(500), tokio::time::Instant::now());

    renewing(&identities, async {
        let ensured: Vec<_> = identities.ensure_each(wanted.clone(), patience).collect().await;
        let names: Vec<_> = ensured.iter().map(|(identity, _)| identity.clone()).collect();
        assert_eq!(names[..2], [id("old"), id("new")]);
        assert!(ensured[..2].iter().all(|(_, result)| result.is_ok()));
        assert!(ensured[2..].iter().all(|(_, result)| is_late(result)));
        assert_eq!(start.elapsed(), patience, "all were asked for beside each other");
        pass(Duration::from_millis(1)).await;
        let again = tokio::time::Instant::now();
        let ensured: Vec<_> = identities.ensure_each(wanted, patience).collect().await;
        assert_eq!((ensured.len(), again.elapsed()), (12, Duration::ZERO), "none is waited for again");
        let serial = |name| {
            identities.certificates().iter().find(|held| held.identity == id(name)).unwrap().serial.clone()
        };
        let before = serial("new");
        pass(Duration::from_secs(31)).await;
        assert_ne!(serial("new"), before, "renewed beside those that hang");
    })
    .await;
}

fn is_late(result: &Result<(), Arc<IssueError>>) -> bool {
    result.as_ref().is_err_and(|error| matches!(**error, IssueError::Late { .. }))
}

#[tokio::test(start_paused = true)]
async fn what_a_slow_authority_was_asked_is_waited_for_and_not_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let (identities, wire, _) = node(&folder, Duration::from_secs(86_400), TokioClock::start());
    *wire.delay.lock().unwrap() = Duration::from_millis(900);
    let wanted: Vec<_> = (0..40).map(|number| id(&format!("pod-{number}"))).collect();
    let look = || identities.ensure_each(wanted.clone(), Duration::from_millis(500)).collect::<Vec<_>>();

    renewing(&identities, async {
        for (second, has_come) in [(0, 0), (1, 16), (2, 32), (3, 40)] {
            let ensured = look().await;
            let come = ensured.iter().filter(|(_, result)| result.is_ok()).count();
            let late = ensured.iter().filter(|(_, result)| is_late(result)).count();
            assert_eq!((come, late), (has_come, 40 - has_come), "second {second}");
            pass(Duration::from_millis(if second == 0 { 500 } else { 1000 })).await;
        }
    })
    .await;
    assert_eq!(wire.asked.load(Ordering::Relaxed), 40, "each once");
}

#[tokio::test(start_paused = true)]
async fn who_has_no_certificate_comes_before_those_who_renew_theirs() {
    let folder = tempfile::tempdir().unwrap();
    let (identities, wire, _) = node(&folder, Duration::from_secs(60), TokioClock::start());
    for number in 0..400 {
        identities.ensure(&id(&format!("old-{number}"))).await.unwrap();
    }
    // All of these are due, and none is answered at once.
    pass(Duration::from_secs(35)).await;
    *wire.delay.lock().unwrap() = Duration::from_millis(300);

    renewing(&identities, async {
        pass(Duration::from_millis(10)).await;
        let wanted = [id("new")];
        let ensured: Vec<_> = identities.ensure_each(wanted, Duration::from_millis(700)).collect().await;
        assert!(ensured[0].1.is_ok(), "the next to be asked for: {:?}", ensured[0].1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_identity_added_while_renewing_is_renewed_too() {
    let folder = tempfile::tempdir().unwrap();
    let (identities, _, _) = node(&folder, Duration::from_secs(10), TokioClock::start());
    renewing(&identities, async {
        pass(Duration::from_secs(3)).await;
        for name in ["web", "api"] {
            identities.ensure(&id(name)).await.unwrap();
        }
        let before = serials(&identities);
        pass(Duration::from_secs(6)).await;
        assert_ne!(serials(&identities)[0], before[0]);
        assert_ne!(serials(&identities)[1], before[1]);
    })
    .await;
}

#[test]
fn clocks_five_minutes_apart_do_no_harm_in_either_direction() {
    for (web_now, api_now) in [(NOW, NOW + 300), (NOW + 300, NOW)] {
        let web = Rig::start();
        let clock = Arc::new(SetClock(api_now.into()));
        let (api, _, _) = node(&web.folder, Duration::from_secs(86_400), clock);
        wait(api.ensure(&id("api"))).unwrap();
        web.set_now(web_now);
        web.identities.forget(&id("web"));
        web.ensure("web");

        let client = web.identities.client(&id("web"), &id("api"), Alpn::Mux1).unwrap();
        let ended = handshake(client, api.server(&id("api"), Alpn::Mux1).unwrap());

        assert_eq!((ended.client, ended.server), (Ok(()), Ok(())));
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_a_day_ahead_is_refused_and_recovers_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock(NOW.into()));
    let day = Duration::from_secs(86_400);
    let (web, _, _) = node(&folder, day, clock.clone());
    let (api, _, _) = node(&folder, day, Arc::new(SetClock(NOW.into())));
    web.ensure(&id("web")).await.unwrap();
    api.ensure(&id("api")).await.unwrap();
    let meet = || {
        let client = web.client(&id("web"), &id("api"), Alpn::Mux1).unwrap();
        let ended = handshake(client, api.server(&id("api"), Alpn::Mux1).unwrap());
        (ended.client, ended.server)
    };
    assert_eq!(meet(), (Ok(()), Ok(())));

    renewing(&web, async {
        clock.0.store(NOW + 25 * 3600, Ordering::Relaxed);
        pass(Duration::from_secs(11)).await;
        assert_eq!(meet().0, Err(HandshakeFailure::PeerRefused(Reason::Expired)));

        clock.0.store(NOW + 30, Ordering::Relaxed);
        pass(Duration::from_secs(11)).await;
        assert_eq!(meet(), (Ok(()), Ok(())));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_root_is_replaced_in_three_steps_without_a_failed_handshake() {
    let old = tempfile::tempdir().unwrap();
    let new = tempfile::tempdir().unwrap();
    let day = Duration::from_secs(86_400);
    let (web, _, _) = node(&old, day, TokioClock::start());
    let (api, _, _) = node(&new, day, TokioClock::start());
    web.ensure(&id("web")).await.unwrap();
    api.ensure(&id("api")).await.unwrap();
    let meet = || {
        let client = web.client(&id("web"), &id("api"), Alpn::Mux1).unwrap();
        let ended = handshake(client, api.server(&id("api"), Alpn::Mux1).unwrap());
        (ended.client, ended.server)
    };
    let unknown = Err(HandshakeFailure::PeerRefused(Reason::UnknownIssuer));
    assert_eq!(meet().0, unknown, "roots are apart");
    let trust = |folder: &tempfile::TempDir, other: &tempfile::TempDir| {
        std::fs::copy(other.path().join("tls.crt"), folder.path().join("ca.crt")).unwrap();
    };

    trust(&old, &new);
    trust(&new, &old);
    let look = pass(Duration::from_secs(11));
    tokio::select! { () = web.run() => {}, () = api.run() => {}, () = look => {} }
    assert_eq!(meet(), (Ok(()), Ok(())), "each signs with its own root, both trust both");
    assert_eq!((web.generation(), api.generation()), (2, 2));

    std::fs::remove_file(old.path().join("ca.crt")).unwrap();
    renewing(&web, pass(Duration::from_secs(11))).await;
    assert_eq!(meet().0, unknown, "a root that is gone vouches for nobody");
    assert_eq!(web.generation(), 3);
}

#[tokio::test(start_paused = true)]
async fn roots_that_cannot_be_read_leave_the_ones_before_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let (identities, _, _) = node(&folder, Duration::from_secs(86_400), TokioClock::start());
    for name in ["web", "api"] {
        identities.ensure(&id(name)).await.unwrap();
    }
    for broken in ["", "not a certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
    {
        std::fs::write(folder.path().join("ca.crt"), broken).unwrap();
        renewing(&identities, pass(Duration::from_secs(11))).await;
        assert_eq!((speak(&identities), identities.generation()), (Ok(()), 1), "{broken:?}");
    }
}

#[test]
fn an_expired_root_vouches_for_nobody() {
    let rig = Rig::start();
    let key = KeyPair::generate().unwrap();
    let mut params = authority_params("short-lived", None);
    set_validity(&mut params, NOW - 100, NOW + 50);
    let root = params.self_signed(&key).unwrap();
    std::fs::write(rig.folder.path().join("ca.crt"), root.pem()).unwrap();
    let (second, _, _) = node(&rig.folder, Duration::from_secs(600), rig.clock.clone());
    wait(second.ensure(&id("web"))).unwrap();
    let signer = Signer { issuer: rcgen::Issuer::new(params, key) };
    let liar = signer.leaf(&svid(), &[]);
    let meet = || {
        let server = second.server(&id("web"), Alpn::Mux1).unwrap();
        handshake(lying_client(&liar), server).server
    };
    assert_eq!(meet(), Ok(()));

    rig.set_now(NOW + 51);

    assert_eq!(meet(), Err(HandshakeFailure::PeerRefused(Reason::UnknownIssuer)));
}
