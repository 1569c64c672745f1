//! A peer with a certificate of its own that speaks HTTP/2: what it claims, and what counts.

use anyhow::Result;
use http::Request;
use mesh_test_e2e::http2_peer::{Http2Peer, Response};
use mesh_test_e2e::peer::{Credentials, Unusual, signed_by_another, signed_by_itself, signed_by_the_mesh};
use mesh_test_e2e::{ECHO, failed_handshakes_are_told, from_account, pair, policy};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::servers::{Kind, Server};

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
const SERVICE: &str = "server.shop.svc.cluster.local";
/// Declared by nobody.
const PORT: u16 = 8081;

#[test]
fn a_good_certificate_is_let_in_and_a_bad_one_is_not() {
    with_server(pair(), |mesh, server| {
        let answer = ask(mesh, Some(&good(mesh)?), PORT, SERVICE, get("/"))?;
        assert_eq!(answer.status, 200, "{answer:?}");
        let bad = [
            ("nothing", None),
            ("another root", Some(signed_by_another(&Unusual::nothing(CLIENT))?)),
            ("itself", Some(signed_by_itself(&Unusual::nothing(CLIENT))?)),
            ("expired", Some(signed(mesh, |unusual| unusual.validity = (-3600, -60))?)),
            ("two identities", Some(signed(mesh, |unusual| unusual.uris.push(CLIENT.to_owned()))?)),
            ("no identity", Some(signed(mesh, |unusual| unusual.uris.clear())?)),
        ];
        for (name, credentials) in &bad {
            let answer = ask(mesh, credentials.as_ref(), PORT, SERVICE, get("/"));
            assert!(answer.is_err(), "{name}: {answer:?}");
        }
        assert_eq!(server.events("request").len(), 1, "the application saw nobody else");
        failed_handshakes_are_told(mesh, bad.len())
    });
}

#[test]
fn who_calls_is_what_the_certificate_says() {
    let scenario = pair().objects("policy", &policy("other-only", "ALLOW", &from_account("other")));
    with_server(scenario, |mesh, server| {
        let forged = get("/")
            .header("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/other")
            .header("x-nodemesh-caller", "spiffe://cluster.local/ns/shop/sa/other");
        assert_eq!(ask(mesh, Some(&good(mesh)?), PORT, SERVICE, forged)?.status, 403);
        assert_eq!(server.events("request").len(), 0);
        Ok(())
    });
}

#[test]
fn what_it_says_of_identities_does_not_reach_the_application() {
    with_server(pair(), |mesh, server| {
        let forged = get("/").header("x-forwarded-client-cert", "x").header("x-nodemesh-caller", "x");
        let shown = good(mesh)?;
        assert_eq!(ask(mesh, Some(&shown), PORT, SERVICE, forged)?.status, 200);
        let headers = server.events("request").remove(0)["headers"].clone();
        let said = format!("By=spiffe://cluster.local/ns/shop/sa/server;Hash={};URI={CLIENT}", shown.hash());
        assert_eq!(headers["x-forwarded-client-cert"], said);
        assert!(headers.get("x-nodemesh-caller").is_none(), "{headers}");
        Ok(())
    });
}

#[test]
fn no_name_in_sni_dodges_a_policy_on_a_service() {
    let targeted = policy("targeted", "DENY", &from_account("client")).replace(
        "  selector:\n    matchLabels:\n      app: server\n",
        "  targetRefs:\n    - kind: Service\n      name: server\n      group: \"\"\n",
    );
    pair().objects("policy", &targeted).run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http2, mesh_test_e2e::HTTP)?;
        for service in [SERVICE, "another.shop.svc.cluster.local", "nobody.example"] {
            let answer = ask(mesh, Some(&good(mesh)?), mesh_test_e2e::HTTP, service, get("/"))?;
            assert_eq!(answer.status, 403, "{service}");
        }
        assert_eq!(server.events("request").len(), 0);
        Ok(())
    });
}

#[test]
fn a_rule_on_requests_is_not_dodged_by_another_path_or_host() {
    let rules = "- to:\n    - operation:\n        paths: [/public]\n        hosts: [api.shop]\n";
    with_server(pair().objects("policy", &policy("public", "ALLOW", rules)), |mesh, server| {
        let good = good(mesh)?;
        assert_eq!(ask(mesh, Some(&good), PORT, SERVICE, get("/public"))?.status, 200);
        let other_host = || Request::get("http://admin.shop/public");
        for request in [
            get("/private"),
            get("/public/../private"),
            other_host(),
            other_host().header("host", "api.shop"),
        ] {
            let status = ask(mesh, Some(&good), PORT, SERVICE, request)?.status;
            assert!(matches!(status, 400 | 403), "{status}");
        }
        assert_eq!(server.events("request").len(), 1);
        Ok(())
    });
}

#[test]
fn requests_to_a_port_of_bytes_do_not_dodge_rules_that_fail_closed_there() {
    let readers = "- to:\n    - operation:\n        methods: [GET]\n";
    pair().objects("policy", &policy("readers", "ALLOW", readers)).run(|mesh| {
        let echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let answer = ask(mesh, Some(&good(mesh)?), ECHO, SERVICE, get("/"));
        assert!(answer.as_ref().map_or(true, |answer| answer.status == 403), "{answer:?}");
        assert_eq!(echo.connections(), 0, "the application saw nothing");
        Ok(())
    });
}

#[test]
fn requests_of_one_connection_hold_no_more_connections_than_a_pod_may_have() {
    pair().flags(&["--max-connections-per-pod", "4"]).run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, mesh_test_e2e::HTTP)?;
        let good = good(mesh)?;
        let to = mesh.pod("server").at(mesh_test_e2e::HTTP);
        let peer = Http2Peer { from: mesh.pod("client"), to, credentials: Some(&good), service: SERVICE };
        let slow = || Ok(get("/delay/1000").body(http_body_util::Empty::new())?);
        let answers = peer.ask_at_once((0..12).map(|_| slow()).collect::<Result<_>>()?)?;
        let count = |wanted: u16| answers.iter().filter(|answer| answer.status == wanted).count();
        // One is the peer's own.
        assert_eq!((count(200), count(503)), (3, 9), "{answers:?}");
        assert_eq!(server.connections(), 3);
        let labels = [("reason", "pod_connection_limit")];
        mesh.b().metric("nodemesh_proxy_refusals_total", &labels, |found| found == 9.0)?;
        assert_eq!(ask(mesh, Some(&good), mesh_test_e2e::HTTP, SERVICE, get("/"))?.status, 200);
        Ok(())
    });
}

#[test]
fn a_peer_that_asks_on_after_its_certificate_is_refused_and_told() {
    with_server(pair(), |mesh, server| {
        let short = signed(mesh, |unusual| unusual.validity = (-60, 3))?;
        let to = mesh.pod("server").at(PORT);
        let peer = Http2Peer { from: mesh.pod("client"), to, credentials: Some(&short), service: SERVICE };
        let late = |record: &serde_json::Value| record["reason"] == "expired" && record["http.path"] == "/";
        peer.ask_on_and_on(|| mesh.node("node-b").records().iter().any(late))?;
        let record = mesh.node("node-b").record("a late request", late)?;
        assert_eq!(
            (&record["verdict"], &record["src.identity"]),
            (&"denied".into(), &CLIENT.into()),
            "{record}"
        );
        let served = server.events("request").len();
        assert!(served > 0, "it was served while its certificate held");
        Ok(())
    });
}

fn with_server(scenario: Scenario, test: impl FnOnce(&mut Mesh, &Server) -> Result<()>) {
    scenario.run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http2, PORT)?;
        test(mesh, &server)
    });
}

fn get(path: &str) -> http::request::Builder {
    Request::get(format!("http://api.shop{path}")).header("x-marker", PLAINTEXT_MARKER)
}

fn good(mesh: &Mesh) -> Result<Credentials> {
    signed_by_the_mesh(&mesh.folders().trust, &Unusual::nothing(CLIENT))
}

fn signed(mesh: &Mesh, change: impl FnOnce(&mut Unusual)) -> Result<Credentials> {
    let mut unusual = Unusual::nothing(CLIENT);
    change(&mut unusual);
    signed_by_the_mesh(&mesh.folders().trust, &unusual)
}

fn ask(
    mesh: &Mesh,
    credentials: Option<&Credentials>,
    port: u16,
    service: &str,
    request: http::request::Builder,
) -> Result<Response> {
    Http2Peer { from: mesh.pod("client"), to: mesh.pod("server").at(port), credentials, service }.ask(request)
}
