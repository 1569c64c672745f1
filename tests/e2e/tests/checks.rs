//! Readiness and `mesh-node check`: proved by effect, and clear about what to do.

use std::fs;

use anyhow::{Context as _, Result};
use mesh_test_e2e::{ECHO, at, node, pair, peer_authentication, server, service};
use mesh_test_harness::eventually::{PATIENCE, eventually_true};
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::servers::Kind;
use serde_json::Value;

const CHECKS: [&str; 5] =
    ["capture: kernel programs", "capture: out of pods", "capture: into pods", "capture: pods", "cores"];

#[test]
fn every_check_is_listed_with_its_result() {
    pair().run(|mesh| {
        for node in [node(0), node(1)] {
            let text = mesh.node(node).command(&["check"])?.success("mesh-node check")?;
            let checks = checks(mesh, node)?;
            for name in CHECKS {
                assert!(text.contains(&format!("ok    {name}: ")), "{name} in {text}");
                assert_eq!(find(&checks, name)?["verdict"], "passed", "{checks}");
            }
        }
        let folder = mesh.topology().site(node(0)).pods_cgroup().join("nodemesh-trial");
        assert!(!folder.exists(), "a trial leaves nothing behind");
        Ok(())
    });
}

#[test]
fn an_agent_that_cannot_prove_capture_is_not_ready_and_says_what_to_do() {
    pair().run(|mesh| {
        let limit = mesh.topology().site(node(0)).pods_cgroup().join("cgroup.max.descendants");
        fs::write(&limit, "1").context("allow no cgroup for a trial")?;
        let checked = mesh.a().command(&["check"])?;
        assert!(!checked.status.success(), "{}", checked.stdout);
        let checks = checks(mesh, node(0))?;
        let failed = find(&checks, "capture: out of pods")?;
        assert_eq!(failed["verdict"], "failed", "{checks}");
        assert!(failed["advice"].as_str().is_some_and(|text| text.contains("--cgroup-root")), "{failed}");
        let status = mesh.a().command(&["status"])?.success("mesh-node status")?;
        assert!(status.contains("NOT READY: a trial connection out of a pod is not captured"), "{status}");
        fs::write(&limit, "max").context("allow it again")?;
        mesh.a().wait_until_ready()
    });
}

#[test]
fn a_program_that_somebody_detached_is_attached_again_at_once() {
    pair().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let pin = mesh.a().pin_dir().join("links/connect4");
        fs::remove_file(&pin).context("detach a program")?;
        eventually_true("the program is attached again", PATIENCE, || pin.exists())?;
        mesh.pod("client").echo(at(ECHO))?;
        let checks = checks(mesh, node(0))?;
        assert_eq!(find(&checks, "capture: kernel programs")?["verdict"], "passed", "{checks}");
        assert!(mesh.node(node(0)).log().contains("programs were detached"), "it is said");
        Ok(())
    });
}

#[test]
fn who_removes_the_pins_opens_no_pod() {
    let outsider = PodSpec::new("outsider").mode("disabled");
    let scenario =
        Scenario::new(vec![PodSpec::new("client"), outsider], vec![server("server")]).service(service());
    scenario.objects("strict", &peer_authentication("STRICT")).run(|mesh| {
        let echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let to = mesh.pod("server").at(ECHO);
        let pins = mesh.node(node(1)).pin_dir().to_owned();
        let namespaces = pins.join("namespaces");
        let count = || fs::read_dir(&namespaces).into_iter().flatten().count();
        assert_eq!(count(), 1, "the server's");
        for pins_of in [&namespaces, &pins] {
            // Fails where the agent pins again what is gone before the rest is.
            let _ = fs::remove_dir_all(pins_of);
            // Before and after they are pinned again.
            for _ in 0..3 {
                let dialled = mesh.pod("outsider").dial(to).send("x").until_bytes(1).run()?;
                assert_eq!(dialled.refusal(), Some("reset"), "{dialled:?}");
            }
            eventually_true("the link is pinned again", PATIENCE, || count() == 1)?;
        }
        assert_eq!(echo.connections(), 0);
        mesh.pod("client").echo(at(ECHO))?;
        mesh.b().wait_until_ready()
    });
}

#[test]
fn a_program_that_cannot_be_pinned_again_stays_attached() {
    pair().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let pin = mesh.a().pin_dir().join("links/connect4");
        // A folder in the way of the pin; the agent may be faster with its pin.
        eventually_true("something else is at its place", PATIENCE, || {
            fs::remove_file(&pin).is_ok() && fs::create_dir(&pin).is_ok()
        })?;
        eventually_true("the agent tries in vain", PATIENCE, || {
            mesh.node(node(0)).log().contains("cannot attach the programs again")
        })?;
        // The Service's address exists in the mesh alone.
        mesh.pod("client").echo(at(ECHO))?;
        fs::remove_dir(&pin).context("clear the place")?;
        mesh.a().wait_until_ready()
    });
}

fn checks(mesh: &Mesh, node: &str) -> Result<Value> {
    let answer = mesh.node(node).command(&["check", "-o", "json"])?;
    serde_json::from_str(&answer.stdout).with_context(|| format!("read {}", answer.stdout))
}

fn find<'a>(checks: &'a Value, name: &str) -> Result<&'a Value> {
    let mut all = checks.as_array().into_iter().flatten();
    all.find(|check| check["name"] == name).with_context(|| format!("no check {name} in {checks}"))
}
