//! Ways past the hooks: each is refused, captured, or shown to end at the destination's own hook.

use std::time::Duration;

use anyhow::Result;
use mesh_test_harness::clients::{Dial, Dialled};
use mesh_test_harness::servers::Kind;

use crate::{stand, two_pods};

#[test]
fn a_task_that_leaves_the_pods_cgroup_meets_the_destinations_hook() -> Result<()> {
    let topology = two_pods()?;
    let mut a = stand(&topology, 0, &[])?;
    let mut b = stand(&topology, 1, &[])?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let _server = web.serve(Kind::Echo, 8080)?;
    a.capture(client, "")?;
    b.capture(web, "probes=8080")?;
    let escaped = client.place().with_cgroup(topology.site("node-a").cgroup().join("escaped"))?;
    Dial::new(&escaped, "escaped", web.at(8080)).send("x").until_bytes(1).connected()?;
    assert!(a.events("outbound").is_empty(), "outbound capture is no boundary");
    assert_eq!(b.events("inbound").len(), 1, "the destination's daemon decides");
    assert_eq!(b.verdicts("inbound_probe")?, 0, "and it is no probe");
    Ok(())
}

#[test]
fn a_task_that_leaves_for_the_agents_cgroup_meets_the_destinations_hook() -> Result<()> {
    let topology = two_pods()?;
    let mut a = stand(&topology, 0, &[])?;
    let mut b = stand(&topology, 1, &[])?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let _server = web.serve(Kind::Echo, 8080)?;
    a.capture(client, "")?;
    b.capture(web, "probes=8080")?;
    let escaped = client.place().with_cgroup(topology.site("node-a").cgroup().join("agent"))?;
    Dial::new(&escaped, "escaped", web.at(8080)).send("x").until_bytes(1).connected()?;
    assert_eq!(b.events("inbound").len(), 1, "the destination's daemon decides");
    Ok(())
}

#[test]
fn sockets_of_another_namespace_are_judged_by_their_own() -> Result<()> {
    let topology = two_pods()?;
    let mut a = stand(&topology, 0, &[])?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let server = web.serve(Kind::Echo, 8080)?;
    a.capture(client, "")?;
    // A process of the pod in a namespace that nobody enrolled.
    let unknown = mesh_test_harness::netns::Namespace::create(&format!("{}-unknown", topology.run().name()))?;
    let place = mesh_test_harness::process::Place::new(
        unknown,
        client.place().cgroup().to_owned(),
        topology.run().folder().join("unknown"),
    )?;
    let outcome = Dial::new(&place, "unknown", web.at(8080)).timeout(Duration::from_secs(2)).run()?;
    assert!(matches!(&outcome, Dialled::Refused { how, .. } if how == "not permitted"), "{outcome:?}");
    assert_eq!(server.connections(), 0);
    Ok(())
}

#[test]
fn a_full_map_refuses_and_does_not_pass() -> Result<()> {
    let topology = two_pods()?;
    let mut a = stand(&topology, 0, &[])?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let server = web.serve(Kind::Echo, 8080)?;
    let ports: Vec<String> = (1..=16_385).map(|port| port.to_string()).collect();
    a.hold(client, "")?;
    let error = a.hold(client, &format!("exclude-ports={}", ports.join(","))).unwrap_err();
    assert!(format!("{error:#}").contains("OUTBOUND_PORTS is full"), "{error:#}");
    let outcome = client.dial(web.at(8080)).run()?;
    assert!(matches!(&outcome, Dialled::Refused { how, .. } if how == "not permitted"), "{outcome:?}");
    assert_eq!(server.connections(), 0);
    // What fitted is taken out again with the pod.
    a.tell("release client")?;
    a.capture(client, "exclude-ports=9000")?;
    client.echo(web.at(8080))?;
    Ok(())
}
