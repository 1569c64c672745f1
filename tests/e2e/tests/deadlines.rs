//! Deadlines for real that need more than a slow client: a network that drops, an agent that stops, a minute that passes.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_test_e2e::{ECHO, HTTP, SERVER, at, node, pair};
use mesh_test_harness::clients::Dialled;
use mesh_test_harness::eventually::{PATIENCE, eventually, eventually_true};
use mesh_test_harness::mesh::Mesh;
use mesh_test_harness::servers::Kind;
use rustix::process::Signal;

/// Rates are looked at over a minute, and the machine may be busy.
const MINUTE: Duration = Duration::from_secs(150);
/// The server takes longer to make it up than the client to be stopped.
const LARGE: &str = "http://10.96.0.10/bytes/100000000";

/// Has the server's node let packets to a pod's port go nowhere: no answer and no refusal.
fn drops(mesh: &Mesh, packets: &str, port: u16) -> Result<()> {
    let site = mesh.topology().site(node(1));
    let file = site.logs().join("drop.nft");
    let rules = format!(
        "table inet silent-{port} {{
            chain forward {{
                type filter hook forward priority filter
                tcp dport {port} {packets} drop
            }}
        }}"
    );
    fs::write(&file, rules).with_context(|| format!("write {}", file.display()))?;
    let file = file.display().to_string();
    let ended = site.host().spawn("nft", "nft", &["-f", &file])?.wait(PATIENCE)?;
    ended.success("nft").map(drop)
}

/// With a deadline of a second, a connection of bytes and a request are given up, and their records say why.
fn is_given_up(flag: &str, packets: &str, reasons: [&str; 2]) {
    pair().flags(&[flag, "1s"]).run(|mesh| {
        [ECHO, HTTP].into_iter().try_for_each(|port| drops(mesh, packets, port))?;
        let dialled = mesh.pod("client").dial(at(ECHO)).send("x").run()?;
        ensure!(dialled.refusal() == Some("reset"), "{dialled:?}");
        let response = mesh.pod("client").curl("http://10.96.0.10/", &[])?;
        ensure!(response.status == 503, "{response:?}");
        for (protocol, reason) in ["tcp", "http/1.1"].into_iter().zip(reasons) {
            let late =
                |record: &serde_json::Value| record["reason"] == reason && record["protocol"] == protocol;
            let record = mesh.node(node(0)).record(reason, late)?;
            let took = record["duration_ms"].as_f64().context("a record has its time")?;
            // A timer and the clock of records may differ by a millisecond.
            ensure!((999.0..20_000.0).contains(&took), "{record}");
        }
        Ok(())
    });
}

#[test]
fn an_agent_that_is_not_there_is_given_up_at_the_deadline() {
    is_given_up("--connect-timeout", "", ["connect_timed_out", "connect_timed_out"]);
}

#[test]
fn an_agent_that_says_nothing_is_given_up_at_the_deadline() {
    // What opens a connection passes, a ClientHello does not.
    is_given_up("--handshake-timeout", "meta length > 100", ["handshake_timed_out", "handshake_timed_out"]);
}

#[test]
fn a_tunnel_without_streams_is_closed_at_its_deadline() {
    pair().flags(&["--tunnel-idle-timeout", "3s"]).run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let open = |count: f64| {
            mesh.node(node(0)).metric("nodemesh_transport_tunnels", &[], |tunnels| tunnels == count)
        };
        let held = mesh.pod("client").hold(at(ECHO))?;
        open(1.0)?;
        held.finish()?;
        open(0.0)?;
        let lost = mesh.node(node(0)).metrics()?.sum("nodemesh_proxy_tunnels_lost_total", &[]);
        ensure!(lost == 0.0, "it is closed in good order, and {lost} were lost");
        mesh.pod("client").echo(at(ECHO)).map(drop)
    });
}

#[test]
fn what_is_open_has_until_the_deadline_when_an_agent_stops() {
    pair().flags(&["--drain-timeout", "2s"]).run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let held = mesh.pod("client").hold(at(ECHO))?;
        let took = mesh.a().stop()?;
        ensure!((2..20).contains(&took.as_secs()), "{took:?}");
        eventually_true("the held connection broke", PATIENCE, || held.broken().is_some())?;
        Ok(())
    });
}

/// Both at once, as each takes its minute.
#[test]
fn who_sends_or_takes_too_little_for_a_minute_is_ended() {
    // What it took before counts, at this rate: half a megabyte is half a second.
    pair().flags(&["--min-response-rate", "1000000"]).run(|mesh| {
        let http = mesh.pod("server").serve(Kind::Http, HTTP)?;
        let begun = format!("POST / HTTP/1.1\r\nhost: {SERVER}\r\ncontent-length: 9000\r\n\r\nx");
        let upload = mesh.pod("client").dial(at(80)).send(begun).timeout(MINUTE).limit(MINUTE).start()?;
        // It takes what comes, then stands still. Ends with the test.
        let flags = ["--silent", "--output", "/dev/null", LARGE];
        let download = mesh.pod("other").place().spawn("still", "curl", &flags)?;
        eventually_true("the server is asked", PATIENCE, || !http.events("request").is_empty())?;
        download.signal(Signal::STOP)?;
        let ended = |reason: &str, pod: &str| {
            let told = |record: &serde_json::Value| {
                record["reason"] == reason && record["src.workload"].as_str() == Some(pod)
            };
            eventually(&format!("{pod} is ended: {reason}"), MINUTE, || {
                mesh.node(node(0)).records().into_iter().find(told)
            })
        };
        let record = ended("response_not_taken", "shop/other")?;
        ensure!(record["duration_ms"].as_f64() >= Some(60_000.0), "{record}");
        let seen = upload.finish()?;
        let Dialled::Connected(seen) = seen else { bail!("{seen:?}") };
        ensure!(seen.received.starts_with("HTTP/1.1 408 "), "{seen:?}");
        ensure!(seen.ended == "eof" && seen.after_ms >= 60_000.0, "{seen:?}");
        Ok(())
    });
}
