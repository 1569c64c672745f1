//! h2spec in strict mode, against the two places where a daemon is a server of HTTP/2: towards the pods of its node, and
//! on the wire.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use mesh_test_conformance::bridge::Bridge;
use mesh_test_conformance::h2spec;
use mesh_test_e2e::peer::{Unusual, signed_by_the_mesh};
use mesh_test_e2e::{SERVER, server, service};
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::servers::Kind;

/// Declared `http2`.
const PORT: u16 = 8081;

#[test]
fn towards_its_pods_a_daemon_is_a_strict_server() {
    with_server(|mesh| {
        let client = mesh.pod("client").place();
        passes(client.command(h2spec()?)?, SocketAddr::from((SERVER, PORT)))
    });
}

#[test]
fn on_the_wire_a_daemon_is_a_strict_server() {
    with_server(|mesh| {
        let client = Unusual::nothing("spiffe://cluster.local/ns/shop/sa/client");
        let credentials = signed_by_the_mesh(&mesh.folders().trust, &client)?;
        let to = mesh.pod("server").at(PORT);
        let bridge = Bridge::open(mesh.pod("client"), to, &credentials, "server.shop.svc.cluster.local")?;
        passes(Command::new(h2spec()?), bridge.address())
    });
}

/// A run with all of its tests, none failed. Each of them waits for 2 s at most, so that the whole ends.
fn passes(mut h2spec: Command, at: SocketAddr) -> Result<()> {
    h2spec.args(["--strict", "--host", &at.ip().to_string(), "--port", &at.port().to_string()]);
    let ended = h2spec.output().context("run h2spec")?;
    let said = String::from_utf8_lossy(&ended.stdout);
    let whole = said.contains("146 tests, 146 passed, 0 skipped, 0 failed");
    ensure!(ended.status.success() && whole, "{said}");
    Ok(())
}

fn with_server(test: impl FnOnce(&Mesh) -> Result<()>) {
    let pods = vec![server("server").port("http2", PORT)];
    let scenario =
        Scenario::new(vec![PodSpec::new("client")], pods).service(service().port("http2", PORT, PORT));
    // Most of its tests end as an attack does, one after the other.
    scenario.flags(&["--abuse-penalty", "0s"]).run(|mesh| {
        let _server = mesh.pod("server").serve(Kind::Http2, PORT)?;
        test(mesh)
    });
}
