//! Ways past the hooks (RELIABILITY 2.12): each is captured, refused, or harmless because the destination refuses.

use std::time::Duration;

use anyhow::Result;
use mesh_test_e2e::{ECHO, at, pair, peer_authentication};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::clients::Dial;
use mesh_test_harness::mesh::Mesh;
use mesh_test_harness::servers::{Kind, events};

#[test]
fn multipath_tcp_is_captured_like_tcp() {
    pair().objects("strict", &peer_authentication("STRICT")).run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        for flags in [&["--mptcp"][..], &["--mptcp", "--mapped"]] {
            let dial = mesh.pod("client").dial(at(ECHO)).flags(flags);
            let seen = dial.send(PLAINTEXT_MARKER).until_bytes(PLAINTEXT_MARKER.len()).connected()?;
            assert_eq!(seen.received, PLAINTEXT_MARKER);
        }
        Ok(())
    });
}

#[test]
fn a_process_that_left_its_cgroup_is_refused_by_the_destination() {
    pair().objects("strict", &peer_authentication("STRICT")).run(|mesh| {
        let echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        // The pod's network namespace from a cgroup outside the pods': no connect hook fires.
        let place = mesh
            .pod("client")
            .place()
            .with_cgroup(mesh.topology().site("node-a").cgroup().join("escaped"))?;
        for to in [mesh.pod("server").at(ECHO), mesh.pod("server").at_v6(ECHO)] {
            let dialled = Dial::new(&place, "escaped", to).send("escaped").run()?;
            assert_eq!(dialled.refusal(), Some("reset"), "{dialled:?}");
        }
        assert_eq!(echo.connections(), 0);
        Ok(())
    });
}

#[test]
fn fast_open_is_captured() {
    pair().objects("strict", &peer_authentication("STRICT")).run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        for to in [at(ECHO), mesh.pod("server").at(ECHO)] {
            let dial = mesh.pod("client").dial(to).flags(&["--fast-open"]);
            let seen = dial.send(PLAINTEXT_MARKER).until_bytes(PLAINTEXT_MARKER.len()).connected()?;
            assert_eq!(seen.received, PLAINTEXT_MARKER);
        }
        Ok(())
    });
}

#[test]
fn nobody_in_the_pod_can_take_the_place_of_the_daemon() {
    pair().run(|mesh| {
        mesh.a().kill()?;
        // Every port of loopback is taken by the pod itself, some thousand at a time.
        let report = run(mesh, &["squat", "--to", &at(ECHO).to_string()], "squatted")?;
        assert_eq!(report[0]["reached"], 0, "{report:?}");
        assert!(report[0]["answers"]["connected"].is_null(), "{report:?}");
        Ok(())
    });
}

fn run(mesh: &Mesh, arguments: &[&str], event: &str) -> Result<Vec<serde_json::Value>> {
    let program = mesh_test_harness::binary::test_pod()?;
    let process = mesh.pod("client").place().spawn("bypass", program, arguments)?;
    let output = process.wait(Duration::from_secs(60))?.success("mesh-test-pod")?;
    Ok(events(&output, event))
}
