//! A daemon dies or stands still under load: what is open ends, what is new fails fast, and nothing goes in the clear.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_test_e2e::{ECHO, HTTP, at, pair};
use mesh_test_harness::clients::{Dialled, Held};
use mesh_test_harness::eventually::{PATIENCE, eventually, eventually_true};
use mesh_test_harness::figure;
use mesh_test_harness::mesh::Mesh;
use mesh_test_harness::servers::Kind;
use mesh_test_harness::topology::NODES;
use rustix::process::Signal;

/// Longest time for a refusal, or until the end of a connection is seen: nothing waits for a timeout.
const FAST: Duration = Duration::from_secs(2);
/// Until a peer that is silent is asked, has not answered, and is given up: 10 s and 5 s, and some for the machine.
const GIVEN_UP: Duration = Duration::from_secs(25);
/// Rounds of killing both daemons.
const ROUNDS: usize = 2;
/// Connects while a daemon is dead.
const CONNECTS: usize = 10;

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
            // The kernel closes what a killed process had open: with a reset only where something was unread.
            all_end(&held, FAST, &["reset", "eof"])?;
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
