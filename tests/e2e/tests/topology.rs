//! The harness itself: what it reports without a mesh, and that it leaves nothing behind.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::capture::Capture;
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::run::cgroup_mount;
use mesh_test_harness::servers::Kind;
use mesh_test_harness::topology::{Topology, WIRE};

fn topology() -> Result<Topology> {
    Topology::two_nodes(vec![PodSpec::new("client")], vec![PodSpec::new("server")])
}

#[test]
fn pods_reach_each_other_and_plaintext_is_seen_on_the_wire() -> Result<()> {
    let topology = topology()?;
    let capture = Capture::start(topology.site("node-a"), WIRE)?;
    let (client, server) = (topology.pod("client"), topology.pod("server"));
    let echo = server.serve(Kind::Echo, 9000)?;

    let connected = client.echo(server.at(9000))?;
    client.echo(server.at_v6(9000))?;

    assert_eq!(connected.peer, server.at(9000).to_string());
    let accepted = echo.accepted(1)?;
    assert_eq!(accepted.accept, format!("[::ffff:{}]:{}", client.ip(), port(&connected.local)));
    assert_eq!(capture.finish()?.markers(), 4, "two echoes, both directions");
    Ok(())
}

#[test]
fn http_servers_report_every_byte() -> Result<()> {
    let topology = topology()?;
    let (client, server) = (topology.pod("client"), topology.pod("server"));
    let http = server.serve(Kind::Http, 8080)?;
    let response = client.curl(&format!("http://{}/here", server.at(8080)), &[])?;

    assert_eq!(response.status, 200);
    assert!(response.body.contains("/here"), "{}", response.body);
    assert!(http.bytes_seen().starts_with("GET /here HTTP/1.1\r\n"));
    assert!(http.bytes_seen().contains(PLAINTEXT_MARKER));
    Ok(())
}

#[test]
fn a_closed_port_is_refused() -> Result<()> {
    let topology = topology()?;
    let dialled = topology.pod("client").dial(topology.pod("server").at(1)).run()?;
    assert_eq!(dialled.refusal(), Some("refused"));
    Ok(())
}

#[test]
fn load_and_held_connections_count_what_happened() -> Result<()> {
    let topology = topology()?;
    let (client, server) = (topology.pod("client"), topology.pod("server"));
    let (_http, echo) = (server.serve(Kind::Http, 8080)?, server.serve(Kind::Echo, 9000)?);
    let load = client.load(server.at(8080), &[])?;
    let (held, broken) = (client.hold(server.at(9000))?, client.hold(server.at(9000))?);
    held.finish()?;
    echo.stop()?;

    let loaded = load.finish()?;
    assert!(loaded.answered > 0 && loaded.failed == 0, "{loaded:?}");
    mesh_test_harness::eventually::eventually("the break is seen", Duration::from_secs(5), || {
        broken.broken()
    })?;
    Ok(())
}

#[test]
fn nothing_is_left_behind() -> Result<()> {
    let topology = topology()?;
    let _server = topology.pod("server").serve(Kind::Echo, 9000)?;
    let name = topology.run().name().to_owned();
    let traces = [
        Path::new("/run/netns").join(format!("{name}-a")),
        topology.run().folder(),
        cgroup_mount()?.join(&name),
    ];
    assert!(traces.iter().all(|path| path.exists()));

    drop(topology);

    for trace in traces {
        assert!(!trace.exists(), "{} is left", trace.display());
    }
    Ok(())
}

fn port(address: &str) -> &str {
    address.rsplit(':').next().unwrap_or_default()
}
