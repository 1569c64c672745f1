//! The mesh, installed with kubectl as a person does it, on a cluster of two nodes.

mod application;
// What it does besides, the tests of the controller use.
#[allow(dead_code)]
#[path = "../controller/caller.rs"]
mod caller;
mod conformance;
mod policies;
mod tokens;

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use mesh_test_cluster::load::Load;
use mesh_test_cluster::mesh::{MANIFESTS, Mesh, PATIENCE, SYSTEM, WAIT};
use mesh_test_cluster::remains;
use mesh_test_harness::eventually::eventually;
use mesh_test_harness::figure;

/// A web server on each node, and a Service for each.
const PODS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pods.yaml");
/// Only certificates, and nobody is allowed anything.
const CLOSED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/closed.yaml");
/// What nobody can mean, and no pattern refuses.
const BROKEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/broken.yaml");
/// What scrapes.
const PROMETHEUS: &str = include_str!("../prometheus.yaml");
/// Sums that are above zero.
const SCRAPED: [&str; 8] = [
    // Every agent and every controller.
    r#"count(up{job="annotated"} == 1) == 4"#,
    r#"count(up{job="agents"} == 1) == 2"#,
    r#"sum(istio_requests_total{job="agents",reporter="source",source_workload="web-a",destination_service_name="web-b",response_code="200"})"#,
    r#"sum(istio_requests_total{reporter="destination",destination_workload="web-b",response_code="403"})"#,
    r#"sum(istio_requests_total{source_principal="spiffe://cluster.local/ns/default/sa/default",connection_security_policy="mutual_tls"})"#,
    r#"sum(istio_request_duration_milliseconds_bucket{reporter="destination",destination_workload="web-b"})"#,
    "sum(nodemesh_controller_objects)",
    "count(istio_build)",
];
/// What a pod has open, IPv4 and IPv6; `0A` is a socket that listens.
const SOCKETS: [&str; 3] = ["cat", "/proc/net/tcp", "/proc/net/tcp6"];

#[test]
fn a_mesh_is_installed_carries_refuses_and_goes() -> Result<()> {
    let begun = Instant::now();
    let mesh = Mesh::install(2)?;
    figure(&format!("cluster and mesh are ready after {:.1} s", begun.elapsed().as_secs_f64()));
    let work = || {
        mesh.populate(Path::new(PODS))?;
        carries_encrypted(&mesh)?;
        tokens::are_good_for_their_own_node_alone(&mesh)?;
        policies::are_tried_put_in_force_edited_and_taken_away(&mesh)?;
        reads_well(&mesh)?;
        application::is_closed_but_for_what_it_needs(&mesh)?;
        is_scraped(&mesh)?;
        conformance::is_carried(&mesh)?;
        goes(&mesh)
    };
    work().with_context(|| mesh.told())
}

/// A request from one node to the other, and what the wire between them shows of it.
fn carries_encrypted(mesh: &Mesh) -> Result<()> {
    let wire = mesh.cluster().listen(&mesh.cluster().nodes()[0])?;
    // Names and endpoints follow the pods a moment later.
    for (from, to) in [("a", "b"), ("b", "a"), ("a", "a")] {
        mesh.answers(&format!("web-{from}"), &url(to), "200")?;
    }
    wire.finish()?.ensure_tunnelled()?;
    let identity = "src.identity=spiffe://cluster.local/ns/default/sa/default";
    eventually("both agents have a record with the caller's identity", PATIENCE, || {
        let both = ["outbound", "inbound"].iter().all(|direction| {
            mesh.records().lines().any(|line| {
                line.contains(identity)
                    && line.contains(&format!("direction={direction}"))
                    && line.contains("dst.workload=default/web-b")
            })
        });
        both.then_some(())
    })
}

/// What kubectl shows of our kinds, and what the cluster says of the pods of the mesh.
fn reads_well(mesh: &Mesh) -> Result<()> {
    mesh.kubectl(&["apply", "-f", CLOSED, "-f", BROKEN])?;
    let kubectl = |words: &[&str]| mesh.kubectl(words).unwrap_or_default();
    let rows = || kubectl(&["get", "nodemesh", "--all-namespaces"]);
    eventually("every policy says whether it was understood", PATIENCE, || {
        let rows = rows();
        let said = |row: &[&str]| {
            rows.lines().any(|line| line.split_whitespace().take(row.len()).eq(row.iter().copied()))
        };
        let nobody =
            said(&["default", "authorizationpolicy.policy.nodemesh.dev/nobody", "ALLOW", "Enforce", "True"]);
        let broken =
            said(&["default", "authorizationpolicy.policy.nodemesh.dev/broken", "DENY", "Enforce", "False"]);
        let strict =
            said(&["nodemesh-system", "peerauthentication.policy.nodemesh.dev/default", "STRICT", "True"]);
        (nobody && broken && strict).then_some(())
    })
    .with_context(rows)?;
    let field = "spec.rules[0].from[0].source.ipBlocks[0]";
    let wide = kubectl(&["get", "nmap", "broken", "-o", "wide"]);
    ensure!(wide.lines().any(|line| line.contains(field)), "{wide}");
    let described = || kubectl(&["describe", "nmap", "broken"]);
    eventually("describe tells what is wrong, and that it was said", PATIENCE, || {
        let told = described();
        let whole = ["Accepted", field, "Observed Generation", "Workloads", "NotAccepted"];
        whole.iter().all(|part| told.contains(part)).then_some(())
    })
    .with_context(described)?;
    let agent = [SYSTEM, "exec", "daemonset/nodemesh-agent", "--", "mesh-node", "status"];
    eventually("an agent says which policy was not understood", PATIENCE, || {
        kubectl(&agent).contains(&format!("AuthorizationPolicy default/broken: {field}")).then_some(())
    })
    .with_context(|| kubectl(&agent))?;
    mesh.kubectl(&["delete", "-f", CLOSED, "-f", BROKEN])?;
    // Who would be refused if the namespace allowed no more than the controllers need.
    let mut label = mesh.cluster().control_plane().kubectl_command();
    label.args(["label", "--dry-run=server", "--overwrite", "namespace", "nodemesh-system"]);
    label.arg("pod-security.kubernetes.io/enforce=restricted");
    let told = label.stdin(Stdio::null()).output().context("start kubectl")?;
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    ensure!(told.contains("nodemesh-agent-") && !told.contains("nodemesh-controller-"), "{told}");
    let overlay = mesh.kubectl(&["kustomize", &format!("{MANIFESTS}/overlays/prometheus-operator")])?;
    ensure!(
        ["PodMonitor", "DaemonSet"].iter().all(|kind| overlay.contains(&format!("kind: {kind}\n"))),
        "{overlay}"
    );
    Ok(())
}

/// A real Prometheus reaches every agent and controller, and has the traffic under Istio's names.
fn is_scraped(mesh: &Mesh) -> Result<()> {
    mesh.cluster().load_prometheus()?;
    let targets = annotated(mesh)?;
    ensure!(targets.len() == 4, "not every agent and controller asks to be scraped: {targets:?}");
    let file = mesh.cluster().control_plane().kubeconfig().with_file_name("prometheus.yaml");
    let objects = PROMETHEUS.replace("[TARGETS]", &format!("{targets:?}"));
    std::fs::write(&file, objects).context("write the objects of a Prometheus")?;
    mesh.kubectl(&["apply", "-f", &file.display().to_string()])?;
    mesh.kubectl(&["wait", "--namespace=monitoring", "--for=condition=Ready", WAIT, "pod", "--all"])?;
    for query in SCRAPED {
        eventually(&format!("Prometheus has {query}"), PATIENCE, || {
            sample(mesh, query).filter(|value| *value > 0.0)
        })?;
    }
    mesh.kubectl(&["delete", "namespace", "monitoring", "--wait=false"]).map(drop)
}

/// Where the pods of the mesh say that they are scraped.
fn annotated(mesh: &Mesh) -> Result<Vec<String>> {
    let pods = mesh.kubectl(&[SYSTEM, "get", "pods", "-o", "json"])?;
    let pods: serde_json::Value = serde_json::from_str(&pods).context("read what kubectl printed")?;
    let pods = pods["items"].as_array().context("there is a list")?.iter();
    let asks = |pod: &&serde_json::Value| pod["metadata"]["annotations"]["prometheus.io/scrape"] == "true";
    let place = |pod: &serde_json::Value| {
        let port = pod["metadata"]["annotations"]["prometheus.io/port"].as_str()?;
        Some(format!("{}:{port}", pod["status"]["podIP"].as_str()?))
    };
    pods.filter(asks).map(|pod| place(pod).context("an annotated pod has a port and an address")).collect()
}

/// The first sample of what a query gives.
fn sample(mesh: &Mesh, query: &str) -> Option<f64> {
    let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let pod = "/api/v1/namespaces/monitoring/pods/prometheus:9090/proxy";
    let answer = mesh.kubectl(&["get", "--raw", &format!("{pod}/api/v1/query?query={encoded}")]).ok()?;
    let answer: serde_json::Value = serde_json::from_str(&answer).ok()?;
    answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
}

/// Takes the mesh away from pods that go on running, as manifests/README.md says: their nodes have nothing of it, they
/// talk to each other without it, and what people made stays.
fn goes(mesh: &Mesh) -> Result<()> {
    let nodes = mesh.cluster().nodes();
    let held = remains::held(nodes)?;
    ensure!(listeners(mesh, "web-a")? > 1, "no agent listens in web-a");
    let load = Load::start(mesh.cluster(), "web-a", "going", &url("b"))?;
    mesh.delete()?;
    remains::none_on(nodes, &held)?;
    for pod in ["web-a", "web-b"] {
        let listeners = listeners(mesh, pod)?;
        ensure!(listeners == 1, "{listeners} sockets listen in {pod}, whose server has one");
    }
    let wire = mesh.cluster().listen(&nodes[0])?;
    mesh.answers("web-a", &url("b"), "200")?;
    let outcome = load.stop(mesh.cluster())?;
    ensure!(wire.finish()?.markers() > 0, "something still carries what pods say");
    figure(&format!("while the mesh went, {outcome}"));
    ensure!(outcome.longest < 20.0, "pods were kept from each other: {outcome}");
    mesh.kubectl(&["get", "authorizationpolicies.policy.nodemesh.dev", "--all-namespaces"])?;
    mesh.kubectl(&[SYSTEM, "get", "secret", "nodemesh-ca"])?;
    is_asked_to_leave_nothing(mesh)
}

/// Kinds, key and namespace survive unless somebody asks.
fn is_asked_to_leave_nothing(mesh: &Mesh) -> Result<()> {
    mesh.kubectl(&["delete", "-k", &format!("{MANIFESTS}/foundation"), WAIT])?;
    let everything = "customresourcedefinitions,clusterroles,clusterrolebindings,namespaces,\
                      priorityclasses,validatingadmissionpolicies,validatingadmissionpolicybindings";
    let left = mesh.kubectl(&["get", everything, "--output=name"])?;
    let ours: Vec<&str> = left.lines().filter(|name| name.contains("nodemesh")).collect();
    ensure!(ours.is_empty(), "the cluster still has {ours:?}");
    Ok(())
}

/// How many sockets listen in a pod.
fn listeners(mesh: &Mesh, pod: &str) -> Result<usize> {
    let sockets = mesh.kubectl(&[&["exec", pod, "--"], &SOCKETS[..]].concat())?;
    Ok(sockets.lines().filter(|line| line.split_whitespace().nth(3) == Some("0A")).count())
}

fn url(to: &str) -> String {
    format!("http://web-{to}.default.svc.cluster.local/")
}
