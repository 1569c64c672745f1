//! A daemon dies or stands still under load: what is open ends, what is new fails fast, and nothing goes in the clear.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_test_e2e::{ECHO, HTTP, at, pair, server, service};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::clients::{Dialled, Held, Reading};
use mesh_test_harness::eventually::{PATIENCE, eventually, eventually_true};
use mesh_test_harness::figure;
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::servers::{Kind, Server};
use mesh_test_harness::topology::NODES;
use rustix::process::Signal;
use serde_json::Value;

/// Longest time for a refusal, or until the end of a connection is seen: nothing waits for a timeout.
const FAST: Duration = Duration::from_secs(2);
/// Until a peer that is silent is asked, has not answered, and is given up: 10 s and 5 s, and some for the machine.
const GIVEN_UP: Duration = Duration::from_secs(25);
/// Rounds of killing both daemons.
const ROUNDS: usize = 2;
/// Connects while a daemon is dead.
const CONNECTS: usize = 10;
/// Answered without a length, without an end.
const UNFINISHED: &str = "GET /unfinished HTTP/1.0\r\nhost: server\r\n\r\n";
/// Answered with 101 and bytes without an end.
const SWITCH: &str = "GET /switch HTTP/1.1\r\nhost: server\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                      sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";

#[test]
fn killed_under_load_they_fail_fast_and_a_new_one_takes_over() {
    pair().run(|mesh| {
        let (echo, _http) =
            (mesh.pod("server").serve(Kind::Echo, ECHO)?, mesh.pod("server").serve(Kind::Http, HTTP)?);
        let kept = mesh.pod("client").load(at(80), &["--connections", "4", "--every-ms", "2"])?;
        let fresh = mesh.pod("other").load(at(80), &["--connections", "2", "--every-ms", "5", "--fresh"])?;
        for node in NODES.into_iter().cycle().take(ROUNDS * NODES.len()) {
            let held = (0..4).map(|_| mesh.pod("client").hold(at(ECHO))).collect::<Result<Vec<_>>>()?;
            let of_node = if node == NODES[0] { mesh.a() } else { mesh.b() };
            of_node.kill()?;
            all_end(&held, FAST, &["reset"])?;
            let before = echo.connections();
            let slowest = refused(mesh)?;
            ensure!(echo.connections() == before, "the application was reached without {node}");
            let of_node = if node == NODES[0] { mesh.a() } else { mesh.b() };
            let ready = of_node.restart()?;
            let start = Instant::now();
            eventually_true("connections work again", PATIENCE, || {
                mesh.pod("client").echo(at(ECHO)).is_ok()
            })?;
            figure(&format!(
                "{node} killed: connects refused after {slowest:.1} ms at most; ready {} ms after the start, \
                 a connection {} ms later",
                ready.as_millis(),
                start.elapsed().as_millis()
            ));
        }
        for (what, load) in [("kept", kept), ("fresh", fresh)] {
            let loaded = load.finish()?;
            figure(&format!("{what} connections through {} kills: {loaded:?}", ROUNDS * NODES.len()));
            ensure!(loaded.answered > 0, "{loaded:?}");
            ensure!(!loaded.reasons.contains_key("timeout"), "a request hung: {loaded:?}");
        }
        Ok(())
    });
}

#[test]
fn what_a_killed_daemon_cuts_off_does_not_look_whole() {
    let beside = PodSpec::new("beside").port("http", HTTP).port("tcp-echo", ECHO);
    let scenario = Scenario::new(vec![PodSpec::new("client"), beside], vec![server("server")]);
    scenario.service(service()).run(|mesh| {
        let far =
            (mesh.pod("server").serve(Kind::Banner, ECHO)?, mesh.pod("server").serve(Kind::Http, HTTP)?);
        let near =
            (mesh.pod("beside").serve(Kind::Banner, ECHO)?, mesh.pod("beside").serve(Kind::Http, HTTP)?);
        let beside = |port| mesh.pod("beside").at(port);
        // Through a tunnel either daemon may die; between two pods of one node there is one.
        let rounds = [
            (NODES[0], at(ECHO), at(80), &far, 1),
            (NODES[1], at(ECHO), at(80), &far, 2),
            (NODES[0], beside(ECHO), beside(HTTP), &near, 1),
        ];
        for (node, opaque, http, (banner, web), round) in rounds {
            eventually_true("the daemons carry", PATIENCE, || {
                let response = mesh.pod("client").curl(&format!("http://{http}/"), &[]);
                response.is_ok_and(|response| response.status == 200)
            })?;
            let open = [
                mesh.pod("client").dial(opaque).start()?,
                mesh.pod("client").dial(http).send(UNFINISHED).start()?,
                mesh.pod("client").dial(http).send(SWITCH).start()?,
            ];
            open.iter().try_for_each(Reading::receives)?;
            let of_node = if node == NODES[0] { mesh.a() } else { mesh.b() };
            of_node.kill()?;
            for open in open {
                let Dialled::Connected(seen) = open.finish()? else { bail!("it was connected") };
                ensure!(seen.ended == "reset", "{node} killed: {seen:?}");
                ensure!(seen.received.contains(PLAINTEXT_MARKER), "what had come is kept: {seen:?}");
            }
            let banner = banner.event("closed", round, PATIENCE)?;
            let switched =
                eventually("the server hears of it", PATIENCE, || closed_of(web, "/switch", round))?;
            for closed in [banner, switched] {
                ensure!(closed["ended"] == "reset", "{node} killed: the server saw {closed}");
            }
            let of_node = if node == NODES[0] { mesh.a() } else { mesh.b() };
            of_node.restart()?;
        }
        Ok(())
    });
}

/// How the connection of request number `count` (from 1) for a path ended.
fn closed_of(server: &Server, path: &str, count: usize) -> Option<Value> {
    let requests = server.events("request");
    let request = requests.iter().filter(|request| request["path"] == path).nth(count - 1)?;
    server.events("closed").into_iter().find(|closed| closed["connection"] == request["connection"])
}

#[test]
fn a_peer_that_stands_still_is_given_up_and_found_again() {
    pair().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let patient = ["--timeout-ms", "60000"];
        let held = (0..3).map(|_| mesh.pod("client").hold_with(at(ECHO), &patient));
        let held = held.collect::<Result<Vec<_>>>()?;
        mesh.b().signal(Signal::STOP)?;
        let start = Instant::now();
        all_end(&held, GIVEN_UP, &["reset"])?;
        figure(&format!("a silent tunnel was given up after {} ms", start.elapsed().as_millis()));
        let lost = "nodemesh_proxy_tunnels_lost_total";
        mesh.a().metric(lost, &[], |count| count >= 1.0)?;
        let dialled = mesh.pod("client").dial(at(ECHO)).send("x").run()?;
        ensure!(dialled.refusal() == Some("reset"), "nobody is there: {dialled:?}");
        mesh.b().signal(Signal::CONT)?;
        eventually_true("a new tunnel carries", PATIENCE, || mesh.pod("client").echo(at(ECHO)).is_ok())?;
        mesh.pod("client").hold(at(ECHO))?.finish().map(drop)
    });
}

/// Waits until every connection has ended in one of the ways.
fn all_end(held: &[Held], limit: Duration, ways: &[&str]) -> Result<()> {
    for held in held {
        let (how, _) = eventually("the held connection ends", limit, || held.broken())?;
        ensure!(ways.contains(&how.as_str()), "the held connection ended with {how}");
    }
    Ok(())
}

/// Dials by Service and by pod address while a daemon is away: the slowest refusal, in milliseconds.
fn refused(mesh: &Mesh) -> Result<f64> {
    let mut slowest: f64 = 0.0;
    for to in [at(ECHO), mesh.pod("server").at(ECHO)].into_iter().cycle().take(CONNECTS) {
        let dialled = mesh.pod("client").dial(to).send("x").run()?;
        let how = dialled.refusal().with_context(|| format!("{to} answered: {dialled:?}"))?;
        ensure!(matches!(how, "reset" | "refused" | "not permitted"), "{to}: {dialled:?}");
        let after_ms = match &dialled {
            Dialled::Refused { after_ms, .. } => *after_ms,
            Dialled::Connected(connected) => connected.after_ms,
        };
        slowest = slowest.max(after_ms);
    }
    ensure!(slowest < FAST.as_secs_f64() * 1000.0, "a refusal took {slowest} ms");
    Ok(slowest)
}
