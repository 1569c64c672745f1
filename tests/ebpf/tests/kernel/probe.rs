//! Probes: connections of host processes, and of nobody else, reach the application without the daemon.

use std::net::SocketAddr;

use anyhow::Result;
use mesh_test_harness::clients::Dial;
use mesh_test_harness::process::Place;
use mesh_test_harness::servers::Kind;

use crate::{stand, two_pods};

fn echo(place: &Place, to: SocketAddr, flags: &[&str]) -> Result<()> {
    Dial::new(place, "probe", to).flags(flags).send("x").until_bytes(1).connected()?;
    Ok(())
}

#[test]
fn a_host_process_reaches_a_probed_port_and_no_other() -> Result<()> {
    let topology = two_pods()?;
    let mut stand = stand(&topology, 1, &[])?;
    let (site, web) = (topology.site("node-b"), topology.pod("web"));
    let server = web.serve(Kind::Echo, 8080)?;
    let _other = web.serve(Kind::Echo, 8081)?;
    stand.capture(web, "probes=8080")?;
    for (index, to) in [web.at(8080), web.at_v6(8080)].into_iter().enumerate() {
        echo(site.host(), to, &[])?;
        let gateway = if to.is_ipv4() { "10.77.2.1" } else { "fd77:2::1" };
        assert!(server.accepted(index + 1)?.accept.contains(gateway), "the application sees the node");
    }
    echo(site.host(), web.at(8080), &["--nonblocking"])?;
    echo(site.host(), web.at(8080), &["--mapped"])?;
    assert_eq!(stand.verdicts("inbound_probe")?, 4);
    assert!(stand.events("inbound").is_empty(), "the daemon sees no probe");
    echo(site.host(), web.at(8081), &[])?;
    assert_eq!(stand.events("inbound").len(), 1, "another port is the daemon's");
    Ok(())
}

#[test]
fn a_host_network_pod_and_a_masqueraded_connection_are_no_probes() -> Result<()> {
    let topology = two_pods()?;
    let mut stand = stand(&topology, 1, &[])?;
    let (site, client, web) = (topology.site("node-b"), topology.pod("client"), topology.pod("web"));
    let _server = web.serve(Kind::Echo, 8080)?;
    stand.capture(web, "probes=8080")?;
    // The node's own address, from a process in the pods' cgroup.
    let host_network_pod = site.host().with_cgroup(site.pods_cgroup().join("host-network"))?;
    echo(&host_network_pod, web.at(8080), &[])?;
    assert_eq!(stand.events("inbound").len(), 1, "a hostNetwork pod is an unknown caller");
    // The node's own address, put there by the node itself.
    site.netns().run(|| {
        let rules = "add table ip nat; add chain ip nat post { type nat hook postrouting priority srcnat; }; \
                     add rule ip nat post ip daddr 10.77.2.10 masquerade";
        let status = std::process::Command::new("nft").arg(rules).status()?;
        anyhow::ensure!(status.success(), "nft: {status}");
        Ok(())
    })?;
    echo(client.place(), web.at(8080), &[])?;
    let seen = stand.events("inbound");
    assert_eq!(seen.len(), 2, "a masqueraded connection is an unknown caller");
    assert!(seen[1]["client"].as_str().unwrap_or_default().starts_with("10.77.2.1:"), "{}", seen[1]);
    assert_eq!(stand.verdicts("inbound_probe")?, 0);
    Ok(())
}
