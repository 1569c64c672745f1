//! The Gateway API's own suite, whose pods the mesh carries.

use anyhow::{Context, Result, ensure};
use mesh_test_cluster::conformance::Suite;
use mesh_test_cluster::mesh::{Mesh, PATIENCE, WAIT};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::eventually::eventually;
use serde_json::json;

/// The suite's pods.
const PODS: &str = "--namespace=gateway-conformance-mesh";
/// What their agents call them.
const IDENTITY: &str = "identity=spiffe://cluster.local/ns/gateway-conformance-mesh/sa/default";
/// How many calls are made.
const CALLS: usize = 20;

pub fn is_carried(mesh: &Mesh) -> Result<()> {
    mesh.cluster().load_echo()?;
    let kubeconfig = mesh.cluster().control_plane().kubeconfig();
    let report = kubeconfig.with_file_name("conformance.yaml");
    let suite = Suite { kubeconfig, test: Some("MeshBasic"), report: &report, leaves_pods: true };
    suite.apply_definitions()?;
    suite.run()?;
    let report = std::fs::read_to_string(&report).context("read the suite's report")?;
    ensure!(report.matches("Passed: 1").count() == 2 && !report.contains("failedTests"), "{report}");
    are_recorded(mesh, "http/1.1", "outbound", &["dst.service=echo.gateway-conformance-mesh."])?;
    are_recorded(mesh, "http/1.1", "inbound", &["dst.workload=gateway-conformance-mesh/echo-v"])?;
    calls_are_carried(mesh)?;
    for namespace in ["gateway-conformance-mesh", "gateway-conformance-mesh-consumer"] {
        mesh.kubectl(&["delete", "namespace", namespace, "--wait=false"])?;
    }
    Ok(())
}

/// `MeshBasic` is the same HTTP request in the profile of gRPC: so the suite's own client calls its own server, as its tests of
/// GRPCRoutes have it do, from one node to the other.
fn calls_are_carried(mesh: &Mesh) -> Result<()> {
    let node = "jsonpath={.items[0].spec.nodeName}";
    let node = mesh.kubectl(&[PODS, "get", "pods", "--selector=app=echo,version=v1", "-o", node])?;
    let other = if node == "node-a" { "node-b" } else { "node-a" };
    let patch = json!({"spec": {"template": {"spec": {"nodeName": other}}}}).to_string();
    mesh.kubectl(&[PODS, "patch", "deployment", "echo-v2", "--patch", &patch])?;
    mesh.kubectl(&[PODS, "rollout", "status", "deployment/echo-v2", WAIT])?;
    let wire = mesh.cluster().listen(&mesh.cluster().nodes()[0])?;
    let (count, marker) = (format!("--count={CALLS}"), format!("x-marker:{PLAINTEXT_MARKER}"));
    let client = [PODS, "exec", "deployment/echo-v1", "--container=echo", "--", "client"];
    let call = [&client[..], &["grpc://echo-v2:7070", &count, "-H", &marker]].concat();
    let said = eventually("the suite's client has answers to its calls", PATIENCE, || {
        mesh.kubectl(&call).ok().filter(|said| said.matches("StatusCode=200").count() == CALLS)
    })?;
    ensure!(said.contains(PLAINTEXT_MARKER), "the server was not told the marker: {said}");
    ensure!(wire.finish()?.markers() == 0, "the wire shows what the suite's pods say to each other");
    let grpc = ["grpc.status=0", "dst.workload=gateway-conformance-mesh/echo-v2-"];
    are_recorded(
        mesh,
        "grpc",
        "outbound",
        &[&grpc[..], &["dst.service=echo-v2.gateway-conformance-mesh."]].concat(),
    )?;
    are_recorded(mesh, "grpc", "inbound", &grpc)
}

/// Waits for a record with both certificates, and all of these.
fn are_recorded(mesh: &Mesh, protocol: &str, direction: &str, wanted: &[&str]) -> Result<()> {
    let parties = [format!("src.{IDENTITY} "), format!("dst.{IDENTITY} ")];
    let how = [format!("protocol={protocol} "), format!("direction={direction} ")];
    eventually(&format!("the suite's {protocol} is recorded {direction}"), PATIENCE, || {
        let is_it = |line: &str| {
            parties.iter().chain(&how).all(|field| line.contains(field.as_str()))
                && wanted.iter().all(|field| line.contains(field))
        };
        mesh.records().lines().any(is_it).then_some(())
    })
}
