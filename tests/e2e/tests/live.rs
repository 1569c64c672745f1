//! Edits of the folder: in force at once, without a restart, and harmless while they are half written.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mesh_test_e2e::{ECHO, at, from_account, pair, policy};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::eventually::{PATIENCE, eventually, eventually_true};
use mesh_test_harness::mesh::Mesh;
use mesh_test_harness::servers::Kind;

/// Longest wait until an edit is in force: 20 times what it may take on a machine that does nothing else. The figure
/// itself is the bench's.
const AT_ONCE: Duration = Duration::from_secs(2);

#[test]
fn an_edit_closes_what_it_no_longer_permits_at_once() {
    pair().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let mut times = Vec::new();
        for _ in 0..5 {
            let (held, kept) = (mesh.pod("other").hold(at(ECHO))?, mesh.pod("client").hold(at(ECHO))?);
            let written = unix_millis();
            mesh.config().write("policy", &policy("not-other", "DENY", &from_account("other")))?;
            let (how, at_ms) = eventually("the held connection is closed", AT_ONCE, || held.broken())?;
            assert_eq!(how, "reset");
            times.push(Duration::from_millis(at_ms.saturating_sub(written)));
            assert!(!echoes(mesh, "other"), "a new connection is refused too");
            kept.finish()?;
            mesh.config().remove("policy")?;
            eventually_true("other may again", PATIENCE, || echoes(mesh, "other"))?;
        }
        println!("closed after {times:?}");
        Ok(())
    });
}

#[test]
fn a_bad_object_is_named_and_the_others_stay_in_force() {
    pair().objects("policy", &policy("not-other", "DENY", &from_account("other"))).run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.config().write("bad", &policy("bad", "ALLOW", "- from:\n    - source:\n        principal: [x]\n").replace("app: server", "app: none"))?;
        mesh.config().write("bomb", "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n")?;
        mesh.config().write("large", &"# much\n".repeat(1_500_000))?;
        eventually_true("the fault is logged with its file and field", PATIENCE, || {
            let log = mesh.node("node-b").log();
            log.contains("bad.yaml") && log.contains("principal")
        })?;
        let status = mesh.b().command(&["status"])?.success("mesh-node status")?;
        assert!(status.contains("bad.yaml"), "{status}");
        assert!(echoes(mesh, "client"));
        assert!(!echoes(mesh, "other"));
        Ok(())
    });
}

#[test]
fn an_agent_that_starts_serves_nobody_before_every_file_can_be_read() {
    let denies = policy("not-other", "DENY", &from_account("other"));
    pair().objects("rules", &denies).run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.config().write("rules", &(denies.clone() + &"---\na: 1\n".repeat(10_000)))?;
        let says = |mesh: &Mesh, what: &str| {
            let status = mesh.node("node-b").command(&["status"]).and_then(|ended| ended.success("status"));
            status.is_ok_and(|said| said.contains(what) && said.contains("rules.yaml: has 10001 documents"))
        };
        eventually_true("the edit is refused", PATIENCE, || says(mesh, "last_good_kept"))?;
        assert!(echoes(mesh, "client") && !echoes(mesh, "other"), "what the file said before counts");
        mesh.b().kill()?;
        mesh.b().spawn()?;
        eventually_true("the agent waits for the file", PATIENCE, || says(mesh, "NOT READY"))?;
        assert!(!echoes(mesh, "client") && !echoes(mesh, "other"), "nobody knows what the file denies");
        assert!(mesh.node("node-b").log().contains("rules.yaml"));
        mesh.config().write("rules", &denies)?;
        mesh.b().wait_until_ready()?;
        eventually_true("client may again", PATIENCE, || echoes(mesh, "client"))?;
        assert!(!echoes(mesh, "other"));
        Ok(())
    });
}

#[test]
fn a_deny_denies_whatever_is_wrong_with_it() {
    let good = policy("not-other", "DENY", &from_account("other"));
    let wrong = [
        good.replace("action:", "acton:"),
        good.replace("action:", "Action:"),
        good.replace("  action: DENY\n", "") + "action: DENY\n",
        good.replace("spec:", "spek:"),
        good.replace("  action:", "  action: ALLOW\n  action:"),
        good.replace("namespace:", "namespce:"),
        good.replace("policy.nodemesh.dev/v1alpha1", "security.istio.io/v1"),
        good.replace("policy.nodemesh.dev", "policy.nodemsh.dev"),
        good.replace("AuthorizationPolicy", "AuthorizationPolcy"),
    ];
    pair().objects("all", &policy("all", "ALLOW", "- {}\n")).run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        for (number, text) in wrong.iter().enumerate() {
            let file = format!("wrong-{number}");
            mesh.config().write(&file, text)?;
            eventually_true(text, PATIENCE, || !echoes(mesh, "client"))?;
            let status = mesh.b().command(&["status"])?.success("mesh-node status")?;
            assert!(status.contains(&format!("{file}.yaml:")) && status.contains("(denies)"), "{status}");
            mesh.config().remove(&file)?;
            eventually_true("it is gone", PATIENCE, || echoes(mesh, "client"))?;
        }
        Ok(())
    });
}

#[test]
fn an_edit_loses_no_connection_that_it_still_permits() {
    pair().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let held = mesh.pod("client").hold(at(ECHO))?;
        let start = Instant::now();
        let mut number = 0;
        while start.elapsed() < Duration::from_secs(2) {
            number += 1;
            let rules =
                from_account("other") + &format!("  to:\n    - operation:\n        ports: [\"{number}\"]\n");
            mesh.config().write("policy", &policy("changing", "DENY", &rules))?;
        }
        assert!(held.finish()? > 0);
        Ok(())
    });
}

fn echoes(mesh: &Mesh, pod: &str) -> bool {
    let dial = mesh.pod(pod).dial(at(ECHO)).send(PLAINTEXT_MARKER).until_bytes(PLAINTEXT_MARKER.len());
    dial.connected().is_ok_and(|seen| seen.received == PLAINTEXT_MARKER)
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default()
}
