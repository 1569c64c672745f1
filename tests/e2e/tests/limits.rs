//! Limits and deadlines: at each a clear refusal that is counted, and a place that is free again serves again.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_test_e2e::{ECHO, HTTP, SERVER, at, decision_id, node, request, server, service};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::attacks::frames::{
    END_HEADERS, END_STREAM, HEADERS, Method, PREFACE, SETTINGS, frame, head,
};
use mesh_test_harness::clients::{Held, Reading, Response};
use mesh_test_harness::eventually::{PATIENCE, eventually, eventually_true};
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::{PodSpec, ServiceSpec};
use mesh_test_harness::process::Process;
use mesh_test_harness::servers::{Kind, Server};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

/// The limit in these tests, whatever it is a limit of.
const LIMIT: usize = 4;
const URL: &str = "http://10.96.0.10/";
/// Service `server` of namespace `guests`.
const GUESTS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 20));

/// `client` and `other` of namespace `shop` and `guest` of namespace `guests` on node A; a server of each on node B.
fn two_namespaces(flag: &str) -> Scenario {
    let guest = |spec: PodSpec| spec.namespace("guests");
    let guests = ServiceSpec::new("server", &[GUESTS]).namespace("guests").port("tcp-echo", ECHO, ECHO);
    let a = vec![PodSpec::new("client"), PodSpec::new("other"), guest(PodSpec::new("guest"))];
    let b = vec![server("server"), guest(PodSpec::new("far").label("app", "server"))];
    Scenario::new(a, b)
        .service(service())
        .service(guests)
        .objects(
            "guests",
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: guests\n  labels:\n    nodemesh.dev/mode: enabled\n",
        )
        .flags(&[flag, &LIMIT.to_string()])
}

fn servers(mesh: &Mesh) -> Result<[Server; 3]> {
    let (server, far) = (mesh.pod("server"), mesh.pod("far"));
    Ok([server.serve(Kind::Echo, ECHO)?, server.serve(Kind::Http, HTTP)?, far.serve(Kind::Echo, ECHO)?])
}

fn hold(mesh: &Mesh, pod: &str, to: SocketAddr, count: usize) -> Result<Vec<Held>> {
    (0..count).map(|_| mesh.pod(pod).hold(to)).collect()
}

/// A connection and a request of a pod are refused at once, and its node counts and records why.
fn refused_at_its_own_node(mesh: &Mesh, pod: &str, reason: &str) -> Result<()> {
    let dialled = mesh.pod(pod).dial(at(ECHO)).send("x").run()?;
    ensure!(dialled.refusal() == Some("reset"), "{pod}: {dialled:?}");
    let response = mesh.pod(pod).curl(URL, &[])?;
    ensure!(is_reset(&response), "{pod}: {response:?}");
    refusal_is_told(mesh, 0, pod, reason)
}

/// How curl says it: a reset when it looks whether it is connected (7), as it sends (55), or later (56).
fn is_reset(response: &Response) -> bool {
    matches!(response.exit, 7 | 55 | 56)
}

/// The same, where the server's node has no place: a connection is reset, a request answered.
fn refused_at_the_servers_node(mesh: &Mesh, pod: &str, reason: &str) -> Result<()> {
    let dialled = mesh.pod(pod).dial(at(ECHO)).send("x").run()?;
    ensure!(dialled.refusal() == Some("reset"), "{pod}: {dialled:?}");
    let response = mesh.pod(pod).curl(URL, &["-i"])?;
    ensure!(response.status == 503, "{pod}: {response:?}");
    let id = decision_id(&response.body).with_context(|| format!("no id in {response:?}"))?;
    let told = mesh.node(node(0)).command(&["authz", "explain", &id])?.success("explain")?;
    ensure!(told.contains("the called pod's node takes no more"), "{told}");
    refusal_is_told(mesh, 1, pod, reason)
}

/// A node counts both refusals of a pod, and has a record of each.
fn refusal_is_told(mesh: &Mesh, index: usize, pod: &str, reason: &str) -> Result<()> {
    let node = mesh.node(node(index));
    node.metric("nodemesh_proxy_refusals_total", &[("reason", reason)], |count| count >= 2.0)?;
    let name = format!("/{pod}");
    let told = |record: &serde_json::Value| {
        let source = record["src.workload"].as_str().unwrap_or_default();
        record["reason"] == reason && source.ends_with(&name) && record["verdict"] == "undecided"
    };
    eventually_true("each has its record", PATIENCE, || {
        node.records().iter().filter(|record| told(record)).count() >= 2
    })?;
    let record = node.record(reason, told)?;
    let id = record["decision"].as_str().with_context(|| format!("no id in {record}"))?;
    let told = node.command(&["authz", "explain", id])?.success("explain")?;
    ensure!(told.contains(&format!("/{pod}, ")) && told.contains("as --max-connections"), "{told}");
    Ok(())
}

fn served_again(mesh: &Mesh, pod: &str) -> Result<()> {
    eventually_true("a place that is free again serves again", PATIENCE, || {
        mesh.pod(pod).echo(at(ECHO)).is_ok()
            && mesh.pod(pod).curl(URL, &[]).is_ok_and(|response| response.status == 200)
    })?;
    Ok(())
}

#[test]
fn a_pod_has_no_more_connections_than_its_own() {
    two_namespaces("--max-connections-per-pod").run(|mesh| {
        let _servers = servers(mesh)?;
        let held = hold(mesh, "client", at(ECHO), LIMIT)?;
        refused_at_its_own_node(mesh, "client", "pod_connection_limit")?;
        refused_at_the_servers_node(mesh, "other", "pod_connection_limit")?;
        let elsewhere = hold(mesh, "guest", SocketAddr::new(GUESTS, ECHO), LIMIT)?;
        for held in held.into_iter().chain(elsewhere) {
            held.finish()?;
        }
        served_again(mesh, "client")
    });
}

#[test]
fn a_namespace_takes_nothing_from_another() {
    two_namespaces("--max-connections-per-namespace").run(|mesh| {
        let _servers = servers(mesh)?;
        let mut held = hold(mesh, "client", at(ECHO), LIMIT / 2)?;
        held.extend(hold(mesh, "other", at(ECHO), LIMIT / 2)?);
        refused_at_its_own_node(mesh, "client", "namespace_connection_limit")?;
        refused_at_its_own_node(mesh, "other", "namespace_connection_limit")?;
        refused_at_the_servers_node(mesh, "guest", "namespace_connection_limit")?;
        held.extend(hold(mesh, "guest", SocketAddr::new(GUESTS, ECHO), LIMIT)?);
        held.into_iter().try_for_each(|held| held.finish().map(drop))?;
        served_again(mesh, "other")
    });
}

#[test]
fn a_node_has_no_more_connections_than_its_own() {
    two_namespaces("--max-connections").run(|mesh| {
        let _servers = servers(mesh)?;
        let mut held = hold(mesh, "client", at(ECHO), LIMIT / 2)?;
        held.extend(hold(mesh, "guest", SocketAddr::new(GUESTS, ECHO), LIMIT / 2)?);
        for pod in ["client", "other", "guest"] {
            refused_at_its_own_node(mesh, pod, "node_connection_limit")?;
        }
        held.into_iter().try_for_each(|held| held.finish().map(drop))?;
        served_again(mesh, "guest")
    });
}

#[test]
fn kept_connections_of_http_count_as_connections() {
    two_namespaces("--max-connections-per-pod").run(|mesh| {
        let _servers = servers(mesh)?;
        let load = mesh.pod("client").load(at(80), &["--connections", &LIMIT.to_string()])?;
        // One more before all of them are open would take the place of one.
        let open = |count: f64| count >= LIMIT as f64;
        mesh.node(node(0)).metric("nodemesh_transport_connections", &[], open)?;
        eventually_true("one more is refused", PATIENCE, || {
            mesh.pod("client").curl(URL, &[]).is_ok_and(|response| is_reset(&response))
        })?;
        refused_at_its_own_node(mesh, "client", "pod_connection_limit")?;
        let loaded = load.finish()?;
        ensure!(loaded.answered > 0 && loaded.failed == 0, "{loaded:?}");
        served_again(mesh, "client")
    });
}

#[test]
fn a_flood_of_handshakes_is_refused_and_ends() {
    let outsider = PodSpec::new("outsider").mode("disabled");
    let flags = ["--max-pending-handshakes", "3", "--workers", "1", "--detect-timeout", "20s"];
    let scenario = Scenario::new(vec![PodSpec::new("client"), outsider], vec![server("server")]);
    let strict = mesh_test_e2e::peer_authentication("STRICT");
    scenario.service(service()).objects("strict", &strict).flags(&flags).run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let to = mesh.pod("server").at(ECHO).to_string();
        // The first bytes of a ClientHello, and then nothing.
        let stuck: Vec<Process> = (0..3).map(|_| unfinished(mesh, &to)).collect::<Result<_>>()?;
        one_more_is_refused(mesh, "refused_handshakes")?;
        drop(stuck);
        eventually_true("there are places again", PATIENCE, || mesh.pod("client").echo(at(ECHO)).is_ok())?;
        Ok(())
    });
}

#[test]
fn a_pod_that_floods_with_handshakes_keeps_nobody_else_out() {
    let outsider = PodSpec::new("outsider").mode("disabled");
    let flags = [
        ["--max-pending-handshakes", "5"],
        ["--max-pending-handshakes-per-source", "3"],
        ["--workers", "1"],
        ["--detect-timeout", "60s"],
    ];
    let scenario = Scenario::new(vec![PodSpec::new("client"), outsider], vec![server("server")]);
    let strict = mesh_test_e2e::peer_authentication("STRICT");
    scenario.service(service()).objects("strict", &strict).flags(flags.as_flattened()).run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let to = mesh.pod("server").at(ECHO).to_string();
        // More than there are places in all.
        let stuck: Vec<Process> = (0..7).map(|_| unfinished(mesh, &to)).collect::<Result<_>>()?;
        one_more_is_refused(mesh, "refused_handshakes_of_source")?;
        mesh.pod("client").echo(at(ECHO))?;
        drop(stuck);
        Ok(())
    });
}

/// `outsider` has used its places up: what it begins now is reset, and counted as `event`.
fn one_more_is_refused(mesh: &Mesh, event: &str) -> Result<()> {
    let refused = || {
        let metrics = mesh.node(node(1)).metrics().ok()?;
        let count = metrics.sum("nodemesh_transport_events_total", &[("event", event)]);
        let dialled =
            mesh.pod("outsider").dial(mesh.pod("server").at(ECHO)).send("x").until_bytes(1).run().ok()?;
        (dialled.refusal() == Some("reset") && count >= 1.0).then_some(())
    };
    eventually("one more is refused and counted", PATIENCE, refused)?;
    let told = |record: &serde_json::Value| {
        record["reason"] == "overloaded" && record["dst.workload"] == "shop/server"
    };
    mesh.node(node(1)).record("the refusal", told).map(drop)
}

/// A client that began a handshake and does not go on.
fn unfinished(mesh: &Mesh, to: &str) -> Result<Process> {
    let program = mesh_test_harness::binary::test_pod()?;
    let mut process = mesh.pod("outsider").place().spawn_with("unfinished", program, |command| {
        command.args(["dial", "--to", to, "--timeout-ms", "60000"]).stdin(std::process::Stdio::piped());
    })?;
    let mut stdin = process.take_stdin().context("stdin was asked for")?;
    std::io::Write::write_all(&mut stdin, &[22, 3, 1, 1, 0, 1])?;
    Ok(process)
}

#[test]
fn a_head_that_does_not_end_is_answered_at_its_deadline() {
    let flags = ["--header-timeout", "1s"];
    timed(&flags, |mesh| {
        let begun = format!("GET / HTTP/1.1\r\nhost: {SERVER}\r\nx-slow: ");
        let seen = mesh.pod("client").dial(at(80)).send(begun).connected()?;
        ensure!(seen.received.starts_with("HTTP/1.1 408 "), "{seen:?}");
        ensure!(seen.ended == "eof" && seen.after_ms >= 1000.0, "{seen:?}");
        let told = late_head_is_told(mesh, &seen.received)?;
        ensure!(told["http.method"] == "GET" && told["http.path"] == "/", "{told}");
        ensure!(told["http.status"] == 408 && told["verdict"] == "undecided", "{told}");
        Ok(())
    });
}

#[test]
fn a_head_over_http2_that_does_not_end_ends_its_connection_at_its_deadline() {
    timed(&["--header-timeout", "1s"], |mesh| {
        let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &head(Method::Get));
        let begun = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &head[..head.len() - 1]].concat();
        let seen = mesh.pod("client").dial(at(80)).send(begun).connected()?;
        ensure!(seen.ended == "eof" && seen.after_ms >= 999.0, "{seen:?}");
        let reason = [("reason", "request_timeout")];
        mesh.node(node(0)).metric("nodemesh_proxy_refusals_total", &reason, |count| count == 1.0).map(drop)
    });
}

/// The record of a head that did not come in time; its agent tells of it by the id that the answer has.
fn late_head_is_told(mesh: &Mesh, answer: &str) -> Result<serde_json::Value> {
    let node = mesh.node(node(0));
    let id = decision_id(answer).with_context(|| format!("no id in {answer}"))?;
    let told = node.command(&["authz", "explain", &id])?.success("explain")?;
    ensure!(told.contains("did not come in time") && told.contains("request_timeout"), "{told}");
    node.record("the late head", |record| record["decision"] == id.as_str())
}

#[test]
fn a_request_that_is_not_there_as_a_whole_is_answered_at_its_deadline() {
    let flags = ["--request-timeout", "1s"];
    timed(&flags, |mesh| {
        let begun = format!("POST / HTTP/1.1\r\nhost: {SERVER}\r\ncontent-length: 90\r\n\r\nx");
        let seen = mesh.pod("client").dial(at(80)).send(begun).connected()?;
        ensure!(seen.received.starts_with("HTTP/1.1 408 "), "{seen:?}");
        ensure!(seen.ended == "eof" && seen.after_ms >= 1000.0, "{seen:?}");
        // 10 bytes a second.
        let slow = ["--http2-prior-knowledge", "--limit-rate", "10", "--data-binary", &"x".repeat(1000)];
        // Over HTTP/2 curl says no more than that its stream was reset while it sent: the record has what it was told.
        mesh.pod("client").curl(URL, &slow)?;
        let reason = |record: &serde_json::Value| {
            record["reason"] == "idle_timed_out"
                && record["http.status"] == 408
                && record["protocol"] == "http/2"
        };
        mesh.node(node(0)).record("the reason", reason).map(drop)
    });
}

#[test]
fn a_kept_connection_without_requests_is_closed_at_its_deadline() {
    let flags = ["--http-idle-timeout", "1s"];
    timed(&flags, |mesh| {
        let seen = mesh.pod("client").dial(at(80)).send(request("GET /bytes/3", "")).connected()?;
        ensure!(seen.received.starts_with("HTTP/1.1 200 "), "{seen:?}");
        ensure!(seen.ended == "eof" && seen.after_ms >= 1000.0, "{seen:?}");
        Ok(())
    });
}

#[test]
fn a_connection_on_which_nothing_moves_is_ended_at_its_deadline() {
    let flags = ["--tcp-idle-timeout", "1s"];
    timed(&flags, |mesh| {
        let seen = mesh.pod("client").dial(at(ECHO)).send("x").connected()?;
        ensure!(seen.received == "x" && seen.ended == "reset" && seen.after_ms >= 1000.0, "{seen:?}");
        let reason = |record: &serde_json::Value| record["reason"] == "idle_timed_out";
        mesh.node(node(0)).record("the reason", reason).map(drop)
    });
}

#[test]
fn a_websocket_on_which_nothing_moves_is_ended_at_its_deadline() {
    let flags = ["--tcp-idle-timeout", "1s"];
    timed(&flags, |mesh| {
        let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let seen = mesh.pod("client").dial(at(80)).send(request("GET /switch", upgrade)).connected()?;
        ensure!(seen.received.starts_with("HTTP/1.1 101 "), "{seen:?}");
        ensure!(seen.ended == "reset" && seen.after_ms >= 1000.0, "{seen:?}");
        let record =
            mesh.node(node(0)).record("the reason", |record| record["reason"] == "idle_timed_out")?;
        ensure!(record["http.status"] == 101, "{record}");
        Ok(())
    });
}

/// Runs a test with deadlines of a second, and bounded waits of many.
fn timed(flags: &[&str], test: impl FnOnce(&Mesh) -> Result<()>) {
    let scenario = Scenario::new(vec![PodSpec::new("client")], vec![server("server")]).service(service());
    scenario.flags(flags).run(|mesh| {
        let _servers =
            (mesh.pod("server").serve(Kind::Echo, ECHO)?, mesh.pod("server").serve(Kind::Http, HTTP)?);
        let start = std::time::Instant::now();
        test(mesh)?;
        ensure!(
            start.elapsed() < Duration::from_secs(8),
            "the deadline of a second took {:?}",
            start.elapsed()
        );
        Ok(())
    });
}

#[test]
fn a_connection_for_which_no_descriptor_is_left_has_its_record() {
    let scenario = Scenario::new(vec![PodSpec::new("client")], vec![server("server")]).service(service());
    scenario.run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let client = mesh.pod("client");
        client.echo(at(ECHO))?;
        let free = leave_spare_descriptors(mesh.node("node-a").id())?;
        let dial = || client.dial(at(ECHO)).send(PLAINTEXT_MARKER).start();
        // What is open takes the numbers that were free below the limit.
        let open: Vec<Reading> = (0..=free).map(|_| dial()).collect::<Result<_>>()?;
        let record =
            mesh.node("node-a").record("the refusal", |record| record["reason"] == "no_descriptors")?;
        for (field, wanted) in [
            ("direction", "outbound"),
            ("verdict", "undecided"),
            ("src.workload", "shop/client"),
            ("dst.addr", &at(ECHO).to_string()),
        ] {
            assert_eq!(record[field], wanted, "{record}");
        }
        drop(open);
        Ok(())
    });
}

/// Leaves an agent no descriptors but those that are free below its spare ones: how many these are.
fn leave_spare_descriptors(agent: u32) -> Result<usize> {
    let mut spare = 0;
    let mut taken = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{agent}/fd"))? {
        let entry = entry?;
        let number: u64 = entry.file_name().to_string_lossy().parse()?;
        // One that was closed since it was listed is free.
        let Ok(leads_to) = std::fs::read_link(entry.path()) else { continue };
        taken.push(number);
        if leads_to.as_os_str() == "/dev/null" {
            spare = spare.max(number);
        }
    }
    let limit = spare + 1;
    let agent = i32::try_from(agent).ok().and_then(Pid::from_raw).context("a process has an id")?;
    let all = getrlimit(Resource::Nofile);
    prlimit(Some(agent), Resource::Nofile, Rlimit { current: Some(limit), maximum: all.maximum })?;
    let below = taken.iter().filter(|number| **number < limit).count();
    Ok(usize::try_from(limit)? - below)
}
