//! WebSocket over HTTP/1.1 (RELIABILITY 2.5): a tunnel only after a valid 101, early bytes held until then, and never a
//! second request in what follows a handshake.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use mesh_test_e2e::{HTTP, at, from_account, pair, policy, server, service};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::clients::Connected;
use mesh_test_harness::eventually::{PATIENCE, eventually};
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::servers::{Kind, Server};

const KEY: &str = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const VERSION: &str = "sec-websocket-version: 13\r\n";
const OFFER: &str = "connection: upgrade\r\nupgrade: websocket\r\n";
/// What must never be taken for a request.
const EARLY: &str = "GET /early HTTP/1.1\r\nhost: server.shop\r\n\r\n";

#[test]
fn a_websocket_passes_and_is_one_request_until_its_end() {
    with_server(pair(), |mesh, server| {
        let seen = switch(mesh, "client", "early")?;
        ensure!(
            seen.ended == "eof" && seen.received.ends_with(&format!("{PLAINTEXT_MARKER}early")),
            "{seen:?}"
        );
        ensure!(seen.received.starts_with("HTTP/1.1 101 "), "{seen:?}");
        let head = server.events("request")[0]["head"].as_str().unwrap_or_default().to_owned();
        for field in [KEY, VERSION, "Connection: Upgrade\r\n", "Upgrade: websocket\r\n"] {
            ensure!(head.contains(field), "{head}");
        }
        for (node, reporter) in [("node-a", "source"), ("node-b", "destination")] {
            let record = mesh.node(node).record("its end", |record| record["http.path"] == "/switch")?;
            let marker = PLAINTEXT_MARKER.len();
            for (field, wanted) in [("http.status", 101), ("bytes_received", 5), ("bytes_sent", 5 + marker)] {
                ensure!(record[field] == wanted, "{field} of {record}");
            }
            ensure!(record["reason"] == "completed" && record["http.method"] == "GET", "{record}");
            let labels = [("response_code", "101"), ("reporter", reporter), ("request_protocol", "http")];
            mesh.node(node).metric("istio_requests_total", &labels, |count| count == 1.0)?;
        }
        Ok(())
    });
}

#[test]
fn between_two_pods_of_a_node_it_passes_too() {
    let scenario = Scenario::new(vec![PodSpec::new("client"), server("server")], vec![]).service(service());
    with_server(scenario, |mesh, _| {
        let seen = switch(mesh, "client", "early")?;
        ensure!(seen.received.ends_with(&format!("{PLAINTEXT_MARKER}early")), "{seen:?}");
        for reporter in ["source", "destination"] {
            let labels = [("response_code", "101"), ("reporter", reporter)];
            mesh.a().metric("istio_requests_total", &labels, |count| count == 1.0)?;
        }
        Ok(())
    });
}

#[test]
fn only_a_valid_handshake_is_asked_about() {
    let stranger = PodSpec::new("stranger").mode("disabled");
    let scenario = Scenario::new(vec![PodSpec::new("client"), stranger], vec![server("server")]);
    with_server(scenario.service(service()), |mesh, server| {
        mesh.allow_plaintext("stranger");
        let direct = mesh.pod("server").at(HTTP);
        for (from, to) in [("client", at(80)), ("stranger", direct)] {
            for (name, line, fields, status) in [
                ("no key", "GET /switch HTTP/1.1", [OFFER, VERSION].concat(), 400),
                ("two keys", "GET /switch HTTP/1.1", [OFFER, VERSION, KEY, KEY].concat(), 400),
                (
                    "a short key",
                    "GET /switch HTTP/1.1",
                    [OFFER, VERSION, &KEY.replace("dGhl", "")].concat(),
                    400,
                ),
                ("no version", "GET /switch HTTP/1.1", [OFFER, KEY].concat(), 426),
                (
                    "version 8",
                    "GET /switch HTTP/1.1",
                    [OFFER, KEY, &VERSION.replace("13", "8")].concat(),
                    426,
                ),
                (
                    "a body",
                    "GET /switch HTTP/1.1",
                    [OFFER, KEY, VERSION, "content-length: 60\r\n"].concat(),
                    400,
                ),
                ("a POST", "POST /switch HTTP/1.1", [OFFER, KEY, VERSION].concat(), 400),
                (
                    "a key that ends here",
                    "GET /switch HTTP/1.1",
                    [OFFER, KEY, VERSION, "connection: sec-websocket-key\r\n"].concat(),
                    400,
                ),
                (
                    "no list",
                    "GET /switch HTTP/1.1",
                    [&OFFER.replace("websocket", "web socket"), KEY, VERSION].concat(),
                    400,
                ),
                ("CONNECT", "CONNECT server.shop:80 HTTP/1.1", [OFFER, KEY, VERSION].concat(), 501),
            ] {
                let seen =
                    ask(mesh, from, to, &format!("{line}\r\nhost: server.shop\r\n{fields}\r\n{EARLY}"))?;
                ensure!(statuses(&seen) == [status], "{from}, {name}: {seen:?}");
                ensure!(seen.ended == "eof", "{from}, {name}: {seen:?}");
                ensure!(status != 426 || seen.received.contains(VERSION), "{from}, {name}: {seen:?}");
            }
        }
        ensure!(server.bytes_seen().is_empty(), "the application saw {}", server.bytes_seen());
        Ok(())
    });
}

#[test]
fn only_a_valid_101_switches() {
    with_server(pair(), |mesh, server| {
        let mut asked = 0;
        for (path, status) in [
            ("/switch/1", 502),
            ("/switch/2", 502),
            ("/switch/3", 502),
            ("/switch/4", 502),
            ("/switch/5", 502),
            ("/switch/6", 200),
            ("/switch/7", 426),
            ("/status/401", 401),
        ] {
            let seen = ask(mesh, "client", at(80), &format!("{}{EARLY}", handshake(path)))?;
            asked += 1;
            ensure!(statuses(&seen) == [status] && seen.ended == "eof", "{path}: {seen:?}");
        }
        // 101 to a request that offered nothing, or something else.
        for fields in ["", "upgrade: websocket\r\n", "connection: upgrade\r\nupgrade: spdy/3.1\r\n"] {
            let request = format!("GET /switch HTTP/1.1\r\nhost: server.shop\r\n{fields}{KEY}{VERSION}\r\n");
            let seen = ask(mesh, "client", at(80), &request)?;
            asked += 1;
            ensure!(statuses(&seen) == [502], "{fields:?}: {seen:?}");
        }
        let old = format!("GET /switch HTTP/1.0\r\nhost: server.shop\r\n{OFFER}{KEY}{VERSION}\r\n");
        ensure!(statuses(&ask(mesh, "client", at(80), &old)?) == [502], "HTTP/1.0 has no upgrade");
        let bytes = server.bytes_seen();
        ensure!(server.events("request").len() == asked + 1, "each is one request: {bytes}");
        ensure!(!bytes.contains("/early") && !bytes.contains("spdy"), "{bytes}");
        Ok(())
    });
}

#[test]
fn after_101_the_application_may_say_what_it_likes() {
    with_server(pair(), |mesh, server| {
        // What is sent back looks like an answer, and is none.
        let fake = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        let seen = switch(mesh, "client", &[fake, EARLY].concat())?;
        ensure!(seen.received.ends_with(&[fake, EARLY].concat()), "{seen:?}");
        ensure!(server.events("request").len() == 1, "nobody reads requests in it");
        Ok(())
    });
}

#[test]
fn rules_see_a_get() {
    let rules = "- to:\n    - operation:\n        methods: [GET]\n        paths: [/switch]\n  when:\n    \
                 - key: request.headers[upgrade]\n      values: [websocket]\n";
    with_server(pair().objects("policy", &policy("sockets", "ALLOW", rules)), |mesh, server| {
        ensure!(statuses(&switch(mesh, "client", "x")?) == [101], "it is permitted");
        let seen = ask(mesh, "client", at(80), &format!("{}{EARLY}", handshake("/status/200")))?;
        ensure!(statuses(&seen) == [403] && seen.ended == "eof", "{seen:?}");
        let plain = ask(mesh, "client", at(80), "GET /switch HTTP/1.1\r\nhost: server.shop\r\n\r\n")?;
        ensure!(statuses(&plain) == [403], "{plain:?}");
        ensure!(server.events("request").len() == 1, "the application saw one");
        Ok(())
    });
}

#[test]
fn an_edit_ends_the_websockets_that_it_no_longer_permits() {
    with_server(pair(), |mesh, server| {
        let open = ["client", "other"].map(|pod| {
            let reading = mesh.pod(pod).dial(at(80)).send(handshake("/switch")).start()?;
            reading.receives()?;
            anyhow::Ok(reading)
        });
        let [client, other] = open;
        let (client, other) = (client?, other?);
        mesh.config().write("policy", &policy("no-other", "DENY", &from_account("other")))?;
        let ended = other.finish()?;
        ensure!(
            matches!(&ended, mesh_test_harness::clients::Dialled::Connected(seen) if seen.ended == "reset"),
            "{ended:?}"
        );
        eventually("the application hears of it", PATIENCE, || {
            let closed = server.events("closed");
            closed.iter().any(|closed| closed["ended"] == "reset").then_some(())
        })?;
        let record = mesh.b().record("the cut", |record| record["reason"] == "no_longer_permitted")?;
        ensure!(record["policy"] == "AuthorizationPolicy shop/no-other rules[0]", "{record}");
        ensure!(record["http.status"] == 101, "{record}");
        drop(client);
        Ok(())
    });
}

fn with_server(scenario: Scenario, test: impl FnOnce(&mut Mesh, &Server) -> Result<()>) {
    scenario.run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        test(mesh, &server)
    });
}

fn handshake(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: server.shop\r\n{OFFER}{KEY}{VERSION}\r\n")
}

/// Switches, with bytes sent early, and ends once they came back.
fn switch(mesh: &Mesh, from: &str, early: &str) -> Result<Connected> {
    mesh.pod(from).dial(at(80)).send(handshake("/switch") + early).shutdown().connected()
}

fn ask(mesh: &Mesh, from: &str, to: SocketAddr, bytes: &str) -> Result<Connected> {
    mesh.pod(from).http_bytes(to, bytes)
}

fn statuses(seen: &Connected) -> Vec<u16> {
    seen.received.split("HTTP/1.1 ").skip(1).filter_map(|text| text[..3].parse().ok()).collect()
}
