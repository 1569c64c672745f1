//! connect and sock_ops: what is captured, what is not, and that the daemon learns what was dialled.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use mesh_test_ebpf::stand::Stand;
use mesh_test_harness::clients::Dialled;
use mesh_test_harness::servers::Kind;
use mesh_test_harness::topology::Topology;

use crate::{stand, two_pods};

/// The original destinations that the stand of the client's node was told.
fn dialled(stand: &Stand) -> Vec<String> {
    let texts = stand.events("outbound").into_iter();
    texts.map(|event| event["original_dst"].as_str().unwrap_or_default().to_owned()).collect()
}

fn captured_client() -> Result<(Topology, Stand)> {
    let topology = two_pods()?;
    let mut stand = stand(&topology, 0, &[])?;
    stand.capture(topology.pod("client"), "")?;
    Ok((topology, stand))
}

#[test]
fn the_daemon_learns_what_was_dialled_over_ipv4_ipv6_and_mapped() -> Result<()> {
    let (topology, stand) = captured_client()?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let _server = web.serve(Kind::Echo, 8080)?;
    client.echo(web.at(8080))?;
    client.echo(web.at_v6(8080))?;
    client.dial(web.at(8080)).flags(&["--mapped"]).send("x").until_bytes(1).connected()?;
    client.dial(web.at(8080)).flags(&["--mptcp"]).send("x").until_bytes(1).connected()?;
    client.dial(web.at(8080)).flags(&["--fast-open"]).send("x").until_bytes(1).connected()?;
    client.dial(web.at(8080)).flags(&["--nonblocking"]).send("x").until_bytes(1).connected()?;
    let v4 = web.at(8080).to_string();
    assert_eq!(
        dialled(&stand),
        [v4.clone(), web.at_v6(8080).to_string(), v4.clone(), v4.clone(), v4.clone(), v4]
    );
    Ok(())
}

#[test]
fn any_mark_and_any_binding_is_captured() -> Result<()> {
    let (topology, stand) = captured_client()?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let _server = web.serve(Kind::Echo, 8080)?;
    let own = SocketAddr::new(client.ip(), 0).to_string();
    let cases: &[&[&str]] = &[
        &["--mark", "1"],
        &["--mark", "1337"],
        &["--mark", "4294967295"],
        &["--bind", "0.0.0.0:4711"],
        &["--bind", &own],
        &["--device", "eth0"],
        &["--device", "eth0", "--nonblocking"],
        &["--device", "eth0", "--bind", &own],
    ];
    for flags in cases {
        let before = dialled(&stand).len();
        client.dial(web.at(8080)).flags(flags).send("x").until_bytes(1).connected()?;
        assert_eq!(dialled(&stand).len(), before + 1, "captured with {flags:?}");
    }
    Ok(())
}

#[test]
fn loopback_unspecified_and_own_addresses_are_left_alone() -> Result<()> {
    let (topology, stand) = captured_client()?;
    let client = topology.pod("client");
    let _server = client.serve(Kind::Echo, 8080)?;
    let own = [client.at(8080), client.at_v6(8080)];
    let local = ["127.0.0.1:8080", "127.0.0.2:8080", "[::1]:8080", "0.0.0.0:8080", "[::]:8080"];
    let local = local.iter().map(|text| text.parse()).collect::<Result<Vec<SocketAddr>, _>>()?;
    for address in own.into_iter().chain(local) {
        client.echo(address)?;
    }
    let mapped = client.dial(client.at(8080)).flags(&["--mapped"]).send("x").until_bytes(1).connected()?;
    assert_eq!(mapped.received, "x");
    assert_eq!(dialled(&stand), Vec::<String>::new());
    assert!(stand.events("inbound").is_empty(), "nor is it delivered to the daemon");
    Ok(())
}

#[test]
fn excluded_ports_and_ranges_are_left_alone() -> Result<()> {
    let topology = two_pods()?;
    let mut stand = stand(&topology, 0, &[])?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let _first = web.serve(Kind::Echo, 8080)?;
    let _second = web.serve(Kind::Echo, 8081)?;
    stand.capture(client, "exclude-ports=8081 exclude-cidrs=fd77:2::/64")?;
    client.echo(web.at(8081))?;
    client.echo(web.at_v6(8080))?;
    assert_eq!(dialled(&stand), Vec::<String>::new());
    client.echo(web.at(8080))?;
    assert_eq!(dialled(&stand), [web.at(8080).to_string()]);
    // Live: the same pod without exclusions, and with an IPv4 range.
    stand.capture(client, "exclude-cidrs=10.77.2.0/24")?;
    client.echo(web.at(8081))?;
    assert_eq!(dialled(&stand).len(), 1, "in the excluded range");
    stand.capture(client, "")?;
    client.echo(web.at(8081))?;
    assert_eq!(dialled(&stand).len(), 2, "captured again");
    Ok(())
}

#[test]
fn a_connection_that_was_not_led_to_the_listener_has_no_original_destination() -> Result<()> {
    let topology = two_pods()?;
    let mut stand = stand(&topology, 0, &[])?;
    let client = topology.pod("client");
    let ports = stand.capture(client, "")?;
    let port = u16::try_from(ports[0].as_u64().unwrap_or_default())?;
    let outcome = client.dial(SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port)).send("x").run()?;
    assert!(outcome.refusal().is_some(), "{outcome:?}");
    assert_eq!(stand.events("stray").len(), 1);
    assert!(port >= 61_000, "the listener's port {port} is ephemeral, or one that applications take");
    Ok(())
}

#[test]
fn a_refused_connect_of_a_captured_socket_ends_without_data() -> Result<()> {
    let (topology, _stand) = captured_client()?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let outcome = client.dial(web.at(9)).send("x").run()?;
    assert!(outcome.refusal().is_some(), "{outcome:?}");
    Ok(())
}

#[test]
fn a_pod_that_is_not_enrolled_is_left_alone() -> Result<()> {
    let topology = two_pods()?;
    let mut stand = stand(&topology, 0, &[])?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let _server = web.serve(Kind::Echo, 8080)?;
    let unknown = client.dial(web.at(8080)).run()?;
    assert!(matches!(&unknown, Dialled::Refused { how, .. } if how == "not permitted"), "{unknown:?}");
    stand.hold(client, "")?;
    stand.tell("pass client")?;
    client.echo(web.at(8080))?;
    assert_eq!(dialled(&stand), Vec::<String>::new());
    Ok(())
}

#[test]
fn an_unknown_pod_passes_where_that_is_asked_for() -> Result<()> {
    let topology = two_pods()?;
    let _stand = stand(&topology, 0, &["--unknown-pods-pass"])?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let _server = web.serve(Kind::Echo, 8080)?;
    client.echo(web.at(8080))?;
    Ok(())
}
