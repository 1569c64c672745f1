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

#[test]
fn a_connection_to_the_daemons_own_listener_is_refused_and_told() {
    pair().run(|mesh| {
        let sockets = mesh.pod("client").output("cat", &["/proc/self/net/tcp"], Duration::from_secs(5))?;
        // Only the daemon listens on loopback in there: state 0A is LISTEN (include/net/tcp_states.h).
        let listening = sockets.stdout.lines().filter(|line| line.split_whitespace().nth(3) == Some("0A"));
        let ports: Vec<u16> = listening
            .filter_map(|line| line.split_whitespace().nth(1)?.strip_prefix("0100007F:"))
            .filter_map(|port| u16::from_str_radix(port, 16).ok())
            .collect();
        assert!(!ports.is_empty(), "{}", sockets.stdout);
        for port in ports {
            let dialled = mesh.pod("client").dial(([127, 0, 0, 1], port).into()).send("x").run()?;
            assert_eq!(dialled.refusal(), Some("reset"), "{dialled:?}");
        }
        for (direction, pod) in [("outbound", "src.workload"), ("inbound", "dst.workload")] {
            let record = mesh.a().record("the refusal", |record| {
                record["reason"] == "no_original_destination" && record["direction"] == direction
            })?;
            assert_eq!(record[pod], "shop/client", "{record}");
            assert_eq!(record["verdict"], "undecided", "{record}");
        }
        Ok(())
    });
}
