//! getpeername, getsockname and accept: applications see the addresses that they would see without a mesh.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use mesh_test_harness::clients::Connected;
use mesh_test_harness::servers::Kind;
use mesh_test_harness::topology::Topology;

use mesh_test_ebpf::stand::Stand;

use crate::{stand, two_pods};

/// Both pods captured, each by its node's stand.
fn both_captured() -> Result<(Topology, Stand, Stand)> {
    let topology = two_pods()?;
    let mut a = stand(&topology, 0, &[])?;
    let mut b = stand(&topology, 1, &[])?;
    a.capture(topology.pod("client"), "")?;
    b.capture(topology.pod("web"), "")?;
    Ok((topology, a, b))
}

fn address(text: &str) -> Result<SocketAddr> {
    let address: SocketAddr = text.parse().with_context(|| format!("read the address {text}"))?;
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

fn is_mapped(text: &str) -> bool {
    text.starts_with("[::ffff:")
}

#[test]
fn both_applications_see_no_mesh() -> Result<()> {
    let (topology, _a, _b) = both_captured()?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let server = web.serve(Kind::Echo, 8080)?;
    let cases: &[(SocketAddr, &[&str])] = &[
        (web.at(8080), &[]),
        (web.at(8080), &["--nonblocking"]),
        (web.at(8080), &["--mapped"]),
        (web.at(8080), &["--device", "eth0"]),
        (web.at_v6(8080), &[]),
        (web.at_v6(8080), &["--nonblocking"]),
        (web.at_v6(8080), &["--device", "eth0"]),
    ];
    for (index, (to, flags)) in cases.iter().enumerate() {
        let seen = client.dial(*to).flags(flags).send("x").until_bytes(1).connected()?;
        let own = if to.is_ipv4() { client.addresses()[0] } else { client.addresses()[1] };
        assert_eq!(address(&seen.peer)?, *to, "getpeername of the client with {flags:?}");
        assert_eq!(address(&seen.local)?.ip(), own, "getsockname of the client with {flags:?}");
        assert_eq!(is_mapped(&seen.peer), flags.contains(&"--mapped"), "form of {}", seen.peer);
        assert_eq!(is_mapped(&seen.local), flags.contains(&"--mapped"), "form of {}", seen.local);
        let accepted = server.accepted(index + 1)?;
        assert_eq!(address(&accepted.accept)?.ip(), own, "accept with {flags:?}");
        assert_eq!(address(&accepted.peer)?, address(&accepted.accept)?, "getpeername of the server");
        assert_eq!(address(&accepted.local)?, *to, "getsockname of the server with {flags:?}");
    }
    Ok(())
}

#[test]
fn an_address_or_port_that_was_bound_stays() -> Result<()> {
    let (topology, _a, _b) = both_captured()?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let _server = web.serve(Kind::Echo, 8080)?;
    let bound = |flag: &str| -> Result<Connected> {
        client.dial(web.at(8080)).flags(&["--bind", flag]).send("x").until_bytes(1).connected()
    };
    assert_eq!(address(&bound("0.0.0.0:4711")?.local)?, client.at(4711), "bound to a port");
    assert_eq!(address(&bound(&client.at(4712).to_string())?.local)?, client.at(4712), "bound to both");
    assert_eq!(address(&bound(&client.at(0).to_string())?.local)?.ip(), client.ip(), "bound to the address");
    Ok(())
}

#[test]
fn the_daemon_and_the_server_agree_on_the_caller() -> Result<()> {
    let (topology, a, b) = both_captured()?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let server = web.serve_with(Kind::Echo, "10.77.2.10:8080", &[])?;
    let seen = client.dial(web.at(8080)).send("x").until_bytes(1).connected()?;
    assert_eq!(a.events("outbound")[0]["client"], seen.local.as_str(), "node A knows the client's address");
    let accepted = server.accepted(1)?;
    assert_eq!(b.events("inbound")[0]["client"], accepted.accept.as_str(), "node B's application sees it");
    Ok(())
}

#[test]
fn connections_inside_the_pod_show_their_real_names() -> Result<()> {
    let (topology, _a, _b) = both_captured()?;
    let web = topology.pod("web");
    let server = web.serve(Kind::Echo, 8080)?;
    let loopback: SocketAddr = "127.0.0.1:8080".parse()?;
    let seen = web.dial(loopback).send("x").until_bytes(1).connected()?;
    assert_eq!(address(&seen.peer)?, loopback);
    assert_eq!(address(&seen.local)?.ip(), loopback.ip());
    assert_eq!(address(&server.accepted(1)?.accept)?, address(&seen.local)?);
    let seen = web.dial(web.at(8080)).send("x").until_bytes(1).connected()?;
    assert_eq!(address(&server.accepted(2)?.accept)?, address(&seen.local)?, "to its own address");
    Ok(())
}
