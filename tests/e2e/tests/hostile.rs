//! A peer with a certificate of its own, good or bad, that speaks the wire by hand: what it claims, and what counts.

use anyhow::Result;
use mesh_common::tunnel::frame::kind;
use mesh_common::tunnel::{StreamId, StreamKind};
use mesh_test_e2e::peer::{
    Credentials, Peer, Unusual, signed_by_another, signed_by_itself, signed_by_the_mesh,
};
use mesh_test_e2e::{ECHO, HTTP, at, failed_handshakes_are_told, from_account, pair, policy, request};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::eventually::{PATIENCE, eventually_true};
use mesh_test_harness::mesh::Mesh;
use mesh_test_harness::servers::Kind;
use serde_json::Value;

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";

#[test]
fn a_good_certificate_is_let_in_and_a_bad_one_is_not() {
    pair().run(|mesh| {
        let echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        assert_eq!(echoed(mesh, Some(&good(mesh)?)), Some(PLAINTEXT_MARKER.to_owned()), "nothing unusual");
        assert_eq!(echo.connections(), 1);
        let bad = bad(mesh)?;
        for (name, credentials) in &bad {
            assert_eq!(echoed(mesh, credentials.as_ref()), None, "{name}");
        }
        assert_eq!(echo.connections(), 1, "the application saw nobody else");
        mesh.b().metric("nodemesh_identity_peers_refused_total", &[], |count| count >= 9.0)?;
        failed_handshakes_are_told(mesh, bad.len())
    });
}

#[test]
fn a_peer_that_breaks_the_wire_again_and_again_is_turned_away_before_its_handshake() {
    pair().flags(&["--workers", "1"]).run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let (to, shown) = (mesh.pod("server").at(ECHO), good(mesh)?);
        for _ in 0..5 {
            let mut peer = Peer::connect(mesh.pod("client"), to, Some(&shown))?;
            peer.send(kind::DATA, StreamId(1), b"of no stream")?;
            assert!(peer.answer(StreamId(1)).closed);
        }
        let source = [("source", "address")];
        mesh.b().metric("nodemesh_proxy_penalties_total", &source, |count| count == 1.0)?;
        let reason =
            |record: &Value| record["reason"] == "abuse_penalty" && record["dst.workload"] == "shop/server";
        mesh.b().record("the penalty", reason)?;
        eventually_true("it is turned away", PATIENCE, || {
            Peer::connect(mesh.pod("client"), to, Some(&shown)).is_err()
        })?;
        let reason = [("reason", "abuse_penalty")];
        mesh.b().metric("nodemesh_proxy_refusals_total", &reason, |count| count >= 1.0)?;
        mesh.pod("other").echo(at(ECHO))?;
        // Ten seconds after it was cut off for the last time.
        eventually_true("it is served again", 2 * PATIENCE, || {
            (0..3).all(|_| echoed(mesh, Some(&shown)).is_some())
        })?;
        Ok(())
    });
}

#[test]
fn the_source_address_is_the_peers_own() {
    let deny = "- from:\n    - source:\n        ipBlocks: [10.77.1.10/32]\n";
    pair().objects("policy", &policy("block", "DENY", deny)).run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        // Only the port is taken from OPEN; no claim of the dialled address moves the source.
        let mut peer = Peer::connect(mesh.pod("client"), mesh.pod("server").at(ECHO), Some(&good(mesh)?))?;
        let answer = peer.ask(StreamKind::Opaque, mesh.pod("other").at(ECHO), 40_000, b"x")?;
        assert!(answer.bytes.is_empty() && !answer.finished, "{answer:?}");
        Ok(())
    });
}

#[test]
fn a_claimed_service_does_not_dodge_a_policy_on_another() {
    let targeted = policy("targeted", "DENY", &from_account("client")).replace(
        "  selector:\n    matchLabels:\n      app: server\n",
        "  targetRefs:\n    - kind: Service\n      name: server\n      group: \"\"\n",
    );
    pair().objects("policy", &targeted).run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        for dialled in ["10.96.0.99:9000", "10.96.0.10:80", "10.77.2.10:9000", "[fd96::99]:9000"] {
            let mut peer =
                Peer::connect(mesh.pod("client"), mesh.pod("server").at(ECHO), Some(&good(mesh)?))?;
            let answer = peer.ask(StreamKind::Opaque, dialled.parse()?, 40_000, b"x")?;
            assert!(answer.bytes.is_empty() && !answer.finished, "{dialled}: {answer:?}");
        }
        Ok(())
    });
}

#[test]
fn an_opaque_stream_does_not_dodge_a_rule_on_requests() {
    let readers = "- to:\n    - operation:\n        methods: [GET]\n";
    pair().objects("policy", &policy("readers", "ALLOW", readers)).run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        let answer = ask(mesh, HTTP, StreamKind::Opaque, request("DELETE /", "").as_bytes())?;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
        let smuggling = b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nDELETE / HTTP/1.1\r\nhost: a\r\n\r\n";
        let answer = ask(mesh, HTTP, StreamKind::Opaque, smuggling)?;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(server.events("request").len(), 0, "the application saw nothing");
        let answer = ask(mesh, HTTP, StreamKind::Opaque, request("GET /", "connection: close\r\n").as_bytes())?;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Ok(())
    });
}

#[test]
fn an_exchange_is_read_as_strictly_as_a_connection() {
    pair().run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        for input in [
            &b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"[..],
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            b"GET / HTTP/1.1\nhost: a\n\n",
        ] {
            let answer = ask(mesh, HTTP, StreamKind::Http1, input)?;
            assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        let two = request("GET /one", "") + &request("GET /two", "");
        ask(mesh, HTTP, StreamKind::Http1, two.as_bytes())?;
        assert!(server.events("request").len() <= 1, "an exchange is one request");
        Ok(())
    });
}

#[test]
fn an_exchange_for_a_tcp_port_is_judged_as_a_connection() {
    pair().objects("policy", &policy("not-client", "DENY", &from_account("client"))).run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, ECHO)?;
        let answer = ask(mesh, ECHO, StreamKind::Http1, request("GET /", "").as_bytes())?;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(server.connections(), 0);
        Ok(())
    });
}

#[test]
fn what_breaks_the_wire_ends_the_tunnel_and_nothing_else() {
    // Each of them is to be met, and nobody turned away for those before it.
    pair().flags(&["--abuse-penalty", "0s"]).run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let held = mesh.pod("other").hold(at(ECHO))?;
        for (frame, stream, payload) in [
            (2, 9, &b"never opened"[..]),
            (1, 0, b""),
            (5, 1, &[0xff; 12]),
            (9, 1, b"no such frame"),
            (6, 0, b"short"),
        ] {
            let mut peer =
                Peer::connect(mesh.pod("client"), mesh.pod("server").at(ECHO), Some(&good(mesh)?))?;
            let opened = peer.open(StreamKind::Opaque, at(ECHO), 40_000)?;
            peer.send(frame, mesh_common::tunnel::StreamId(stream), payload)?;
            assert!(peer.answer(opened).closed, "frame {frame} of stream {stream}");
        }
        held.finish()?;
        mesh.pod("client").echo(at(ECHO)).map(drop)
    });
}

fn good(mesh: &Mesh) -> Result<Credentials> {
    signed_by_the_mesh(&mesh.folders().trust, &Unusual::nothing(CLIENT))
}

fn bad(mesh: &Mesh) -> Result<Vec<(&'static str, Option<Credentials>)>> {
    let nothing = || Unusual::nothing(CLIENT);
    let ours = |unusual: Unusual| signed_by_the_mesh(&mesh.folders().trust, &unusual).map(Some);
    let foreign = "spiffe://other.example/ns/shop/sa/client".to_owned();
    Ok(vec![
        ("no certificate", None),
        ("another authority of the same name", Some(signed_by_another(&nothing())?)),
        ("signed by itself", Some(signed_by_itself(&nothing())?)),
        ("expired", ours(Unusual { validity: (-7200, -3600), ..nothing() })?),
        ("not valid yet", ours(Unusual { validity: (3600, 7200), ..nothing() })?),
        ("foreign trust domain", ours(Unusual { uris: vec![foreign.clone()], ..nothing() })?),
        (
            "two URIs, the good one first",
            ours(Unusual { uris: vec![CLIENT.to_owned(), foreign], ..nothing() })?,
        ),
        ("a common name alone", ours(Unusual { uris: Vec::new(), ..nothing() })?),
        ("not for clients", ours(Unusual { usages: nothing().usages[..1].to_vec(), ..nothing() })?),
        ("an authority", ours(Unusual { is_authority: true, ..nothing() })?),
    ])
}

/// What an echo server sends back over a tunnel of these credentials.
fn echoed(mesh: &Mesh, credentials: Option<&Credentials>) -> Option<String> {
    let mut peer = Peer::connect(mesh.pod("client"), mesh.pod("server").at(ECHO), credentials).ok()?;
    let answer = peer.ask(StreamKind::Opaque, at(ECHO), 40_000, PLAINTEXT_MARKER.as_bytes()).ok()?;
    answer.finished.then(|| answer.text())
}

fn ask(mesh: &Mesh, port: u16, kind: StreamKind, bytes: &[u8]) -> Result<String> {
    let mut peer = Peer::connect(mesh.pod("client"), mesh.pod("server").at(port), Some(&good(mesh)?))?;
    Ok(peer.ask(kind, mesh.pod("server").at(port), 40_000, bytes)?.text())
}
