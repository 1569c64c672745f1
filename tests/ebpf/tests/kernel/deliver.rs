//! sk_lookup: what arrives at an enrolled pod goes to the daemon, or nowhere.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use mesh_test_harness::clients::Dialled;
use mesh_test_harness::servers::Kind;
use mesh_test_harness::topology::Topology;

use mesh_test_ebpf::stand::Stand;

use crate::{stand, two_pods};

fn captured_server() -> Result<(Topology, Stand)> {
    let topology = two_pods()?;
    let mut stand = stand(&topology, 1, &[])?;
    stand.capture(topology.pod("web"), "exclude-inbound=8081")?;
    Ok((topology, stand))
}

fn originals(stand: &Stand) -> Vec<String> {
    let events = stand.events("inbound").into_iter();
    events.map(|event| event["original_dst"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn every_connection_from_outside_goes_to_the_daemon() -> Result<()> {
    let (topology, stand) = captured_server()?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let _server = web.serve(Kind::Echo, 8080)?;
    client.echo(web.at(8080))?;
    client.echo(web.at_v6(8080))?;
    assert_eq!(originals(&stand), [web.at(8080).to_string(), web.at_v6(8080).to_string()]);
    Ok(())
}

#[test]
fn an_excluded_port_goes_to_the_application() -> Result<()> {
    let (topology, stand) = captured_server()?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let _server = web.serve(Kind::Echo, 8081)?;
    client.echo(web.at(8081))?;
    client.echo(web.at_v6(8081))?;
    assert_eq!(originals(&stand), Vec::<String>::new());
    Ok(())
}

/// Dials from the node's own bridge, as any host process may.
fn from_host(topology: &Topology, to: SocketAddr) -> Result<Dialled> {
    let host = topology.site("node-b").host();
    mesh_test_harness::clients::Dial::new(host, "host-dial", to)
        .send("x")
        .until_bytes(1)
        .timeout(Duration::from_secs(3))
        .run()
}

/// Gives the pod a second address and finds its link-local one, with the node's route to both.
fn further_addresses(topology: &Topology) -> Result<[SocketAddr; 2]> {
    let web = topology.pod("web").place().netns();
    web.ip(&["address add 10.77.2.200/24 dev eth0".to_owned()])?;
    web.ip(&["address add fe80::77/64 dev eth0 nodad".to_owned()])?;
    let index = topology.site("node-b").netns().run(|| {
        let text = std::fs::read_to_string("/proc/thread-self/net/if_inet6")?;
        let line = text.lines().find(|line| line.ends_with("br0")).unwrap_or_default();
        let index = line.split_whitespace().nth(1).unwrap_or_default();
        Ok(u32::from_str_radix(index, 16)?)
    })?;
    let link_local = std::net::SocketAddrV6::new("fe80::77".parse()?, 8080, 0, index);
    Ok(["10.77.2.200:8080".parse()?, link_local.into()])
}

#[test]
fn a_second_address_and_a_link_local_one_never_reach_the_application() -> Result<()> {
    let (topology, stand) = captured_server()?;
    let server = topology.pod("web").serve(Kind::Echo, 8080)?;
    let addresses = further_addresses(&topology)?;
    for address in addresses {
        let outcome = from_host(&topology, address)?;
        assert!(outcome.refusal().is_some(), "{address}: {outcome:?}");
    }
    stand.kill()?;
    let own = topology.pod("web");
    for address in addresses.into_iter().chain([own.at(8080), own.at_v6(8080)]) {
        let outcome = from_host(&topology, address)?;
        assert!(outcome.refusal().is_some(), "{address} without a daemon: {outcome:?}");
    }
    assert_eq!(server.connections(), 0);
    Ok(())
}

#[test]
fn a_pod_whose_exclusions_fill_a_map_is_refused_all_the_same() -> Result<()> {
    let topology = two_pods()?;
    let mut stand = stand(&topology, 1, &[])?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let server = web.serve(Kind::Echo, 8080)?;
    let ports: Vec<String> = (1..=16_385).map(|port| port.to_string()).collect();
    let error = stand.hold(web, &format!("exclude-ports={}", ports.join(","))).unwrap_err();
    assert!(format!("{error:#}").contains("OUTBOUND_PORTS is full"), "{error:#}");
    let outcome = client.dial(web.at(8080)).run()?;
    assert!(matches!(&outcome, Dialled::Refused { how, .. } if how == "refused"), "{outcome:?}");
    assert_eq!(server.connections(), 0);
    Ok(())
}

#[test]
fn a_held_pod_refuses_what_arrives() -> Result<()> {
    let topology = two_pods()?;
    let mut stand = stand(&topology, 1, &[])?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let server = web.serve(Kind::Echo, 8080)?;
    client.echo(web.at(8080))?;
    stand.hold(web, "")?;
    for to in [web.at(8080), web.at_v6(8080)] {
        let outcome = client.dial(to).run()?;
        assert!(matches!(&outcome, Dialled::Refused { how, .. } if how == "refused"), "{outcome:?}");
    }
    assert_eq!(server.connections(), 1);
    let refusals = stand.tell("refusals")?;
    assert_eq!(refusals[0]["reason"], "no_inbound_listener");
    assert_eq!(refusals[0]["destination"], web.at(8080).to_string());
    Ok(())
}
