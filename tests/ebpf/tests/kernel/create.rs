//! sock_create: sockets that no other hook sees.

use std::collections::BTreeMap;

use anyhow::Result;
use mesh_test_harness::eventually::PATIENCE;
use mesh_test_harness::pod::Pod;
use mesh_test_harness::servers::events;

use crate::{stand, two_pods};

/// What becomes of each kind of socket in a pod.
fn sockets(pod: &Pod) -> Result<BTreeMap<String, String>> {
    let program = mesh_test_harness::binary::test_pod()?;
    let output = pod.place().spawn("sockets", program, &["sockets"])?.wait(PATIENCE)?.success("sockets")?;
    let text = |event: &serde_json::Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
    Ok(events(&output, "socket").iter().map(|event| (text(event, "kind"), text(event, "how"))).collect())
}

#[test]
fn an_enrolled_pod_makes_no_raw_sockets_as_configured() -> Result<()> {
    let topology = two_pods()?;
    let client = topology.pod("client");
    let before = sockets(client)?;
    assert_eq!(before["raw"], "made", "this test runs as root");
    let mut refusing = stand(&topology, 0, &[])?;
    refusing.hold(client, "")?;
    let held = sockets(client)?;
    refusing.tell("capture client")?;
    let captured = sockets(client)?;
    for made in [held, captured] {
        for kind in ["raw", "raw6", "raw-any"] {
            assert_eq!(made[kind], "not permitted", "{kind}");
        }
        for kind in ["sctp", "sctp6"] {
            assert_ne!(made[kind], "made", "{kind}");
        }
        for kind in ["udp", "icmp", "icmp6"] {
            assert_eq!(made[kind], "made", "{kind}");
        }
    }
    refusing.tell("pass client")?;
    assert_eq!(sockets(client)?, before, "a pod that is not enrolled any more");
    refusing.kill()?;
    let mut allowing = stand(&topology, 0, &["--allow-raw"])?;
    allowing.capture(client, "")?;
    assert_eq!(sockets(client)?["raw"], "made", "where that is allowed");
    Ok(())
}
