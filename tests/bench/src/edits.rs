//! How long it takes from an edit of the folder until a connection that it no longer permits is closed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use mesh_test_harness::eventually::{PATIENCE, eventually};
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::{PodSpec, ServiceSpec};
use mesh_test_harness::servers::Kind;

use crate::report::Report;

/// How often a policy is written and removed again.
const EDITS: usize = 20;
const PORT: u16 = 9000;
const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), PORT);
const POLICY: &str = "\
apiVersion: policy.nodemesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: shop}
spec:
  selector: {matchLabels: {app: server}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]
";

/// Adds the milliseconds of every edit, with two agents of their own and nothing else to do.
///
/// # Errors
/// Not root, or an edit is not in force in time.
pub fn measure(report: &mut Report) -> Result<()> {
    let server = PodSpec::new("server").port("tcp-echo", PORT);
    let service = ServiceSpec::new("server", &[SERVICE.ip()]).port("tcp-echo", PORT, PORT);
    let mesh = Mesh::start(Scenario::new(vec![PodSpec::new("client")], vec![server]).service(service))?;
    let _echo = mesh.pod("server").serve(Kind::Echo, PORT)?;
    for _ in 0..EDITS {
        report.add("config", "edit to force, ms", "nodemesh", edit(&mesh)?);
    }
    Ok(())
}

fn edit(mesh: &Mesh) -> Result<f64> {
    let held = mesh.pod("client").hold_with(SERVICE, &["--every-ms", "1"])?;
    let written = unix_millis();
    mesh.config().write("policy", POLICY)?;
    let (how, at_ms) = eventually("the held connection is closed", PATIENCE, || held.broken())?;
    ensure!(how == "reset", "the connection ended with {how}");
    mesh.config().remove("policy")?;
    eventually("the client may again", PATIENCE, || mesh.pod("client").echo(SERVICE).ok())?;
    Ok(at_ms as f64 - written)
}

fn unix_millis() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0
}
