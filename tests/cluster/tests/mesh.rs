//! The mesh, installed with kubectl as a person does it, on a cluster of two nodes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_test_cluster::cluster::Cluster;
use mesh_test_cluster::conformance::Suite;
use mesh_test_harness::eventually::eventually;
use mesh_test_harness::{PLAINTEXT_MARKER, figure};

/// How long pods and policies may take, on a machine that does other work too.
const PATIENCE: Duration = Duration::from_secs(120);
/// The same, for kubectl.
const WAIT: &str = "--timeout=120s";
const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests");
/// A web server on each node, and a Service for each.
const PODS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pods.yaml");
/// Only certificates, and nobody is allowed anything.
const CLOSED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/closed.yaml");
/// The one may, with GET.
const ONE_MAY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/one-may.yaml");
const SYSTEM: &str = "--namespace=nodemesh-system";
/// What an agent leaves while it is away, and nothing else may.
const PINS: &str = "/sys/fs/bpf/nodemesh";
const STATE: &str = "/var/lib/nodemesh";

#[test]
fn a_mesh_is_installed_carries_refuses_and_goes() -> Result<()> {
    let cluster = Cluster::start(2, |step| eprintln!("{step}"))?;
    cluster.load_mesh()?;
    let begun = Instant::now();
    install(&cluster).with_context(|| told(&cluster))?;
    figure(&format!("the mesh is installed {:.1} s after kubectl apply", begun.elapsed().as_secs_f64()));
    cluster.kubectl(&["label", "namespace", "default", "nodemesh.dev/mode=enabled"])?;
    cluster.kubectl(&["apply", "-f", PODS])?;
    cluster
        .kubectl(&["wait", "--for=condition=Ready", WAIT, "pod", "--all"])
        .with_context(|| told(&cluster))?;
    let work = || {
        carries_encrypted(&cluster)?;
        refuses(&cluster)?;
        conforms(&cluster)
    };
    work().with_context(|| told(&cluster))?;
    uninstall(&cluster).with_context(|| told(&cluster))
}

fn install(cluster: &Cluster) -> Result<()> {
    for part in ["foundation", "base"] {
        cluster.kubectl(&["apply", "-k", &format!("{MANIFESTS}/{part}")])?;
    }
    for object in ["deployment/nodemesh-controller", "daemonset/nodemesh-agent"] {
        cluster.kubectl(&[SYSTEM, "rollout", "status", object, WAIT])?;
    }
    Ok(())
}

/// A request from one node to the other, and what the wire between them shows of it.
fn carries_encrypted(cluster: &Cluster) -> Result<()> {
    let wire = cluster.listen(&cluster.nodes()[0])?;
    // Names and endpoints follow the pods a moment later.
    for (from, to) in [("a", "b"), ("b", "a"), ("a", "a")] {
        eventually(&format!("web-{from} reaches web-{to}"), PATIENCE, || {
            ask(cluster, from, to, "GET").is_ok_and(|status| status == "200").then_some(())
        })?;
    }
    let carried = wire.finish()?;
    ensure!(carried.markers() == 0, "the wire shows what the pods say to each other");
    let hellos = carried.client_hellos();
    let ours =
        hellos.iter().filter(|hello| hello.alpn.iter().any(|offered| offered.starts_with("nodemesh/")));
    ensure!(ours.clone().next().is_some(), "no tunnel was begun: {hellos:?}");
    ensure!(ours.clone().all(|hello| hello.is_tls13_only()), "another TLS than 1.3 is offered: {hellos:?}");
    let identity = "src.identity=spiffe://cluster.local/ns/default/sa/default";
    eventually("both agents have a record with the caller's identity", PATIENCE, || {
        let both = ["outbound", "inbound"].iter().all(|direction| {
            records(cluster).lines().any(|line| {
                line.contains(identity)
                    && line.contains(&format!("direction={direction}"))
                    && line.contains("dst.workload=default/web-b")
            })
        });
        both.then_some(())
    })
}

/// Policies by kubectl: in force on both nodes, while the kubelets' probes go on.
fn refuses(cluster: &Cluster) -> Result<()> {
    let in_force = |policy: &str, from: &str, to: &str, method: &str, expected: &str| {
        let begun = Instant::now();
        let reason = format!("{policy}: {method} from web-{from} to web-{to} gives {expected}");
        eventually(&reason, PATIENCE, || {
            ask(cluster, from, to, method).is_ok_and(|status| status == expected).then_some(())
        })?;
        figure(&format!("{reason} after {} ms", begun.elapsed().as_millis()));
        Ok::<_, anyhow::Error>(())
    };
    cluster.kubectl(&["apply", "-f", CLOSED])?;
    for (from, to) in [("a", "b"), ("b", "a")] {
        in_force("nobody may", from, to, "GET", "403")?;
    }
    cluster.kubectl(&["apply", "-f", ONE_MAY])?;
    in_force("one may", "a", "b", "GET", "200")?;
    in_force("one may", "a", "b", "POST", "403")?;
    // Longer than the kubelet takes to say that a pod whose probes fail is not ready.
    let probed = ["wait", "--for=condition=Ready=false", "--timeout=8s", "pod", "--all"];
    ensure!(cluster.kubectl(&probed).is_err(), "a kubelet's probe is refused");
    for policy in [ONE_MAY, CLOSED] {
        cluster.kubectl(&["delete", "-f", policy])?;
    }
    in_force("everybody may", "b", "a", "GET", "200")
}

/// The Gateway API's own suite, whose pods the mesh carries.
fn conforms(cluster: &Cluster) -> Result<()> {
    cluster.load_echo()?;
    let kubeconfig = cluster.control_plane().kubeconfig();
    let report = kubeconfig.with_file_name("conformance.yaml");
    let suite = Suite { kubeconfig, test: Some("MeshBasic"), report: &report };
    suite.apply_definitions()?;
    suite.run()?;
    let report = std::fs::read_to_string(&report).context("read the suite's report")?;
    ensure!(report.matches("Passed: 1").count() == 2 && !report.contains("failedTests"), "{report}");
    eventually("the suite's requests were carried with a certificate", PATIENCE, || {
        let carried = records(cluster).lines().any(|line| {
            line.contains("src.identity=spiffe://cluster.local/ns/gateway-conformance-mesh/sa/default")
                && line.contains("direction=inbound")
                && line.contains("dst.workload=gateway-conformance-mesh/echo-v")
        });
        carried.then_some(())
    })
}

/// Takes the mesh away, as manifests/README.md says: pods talk to each other without it, nodes have nothing of it, and what people made stays.
fn uninstall(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["delete", "-k", &format!("{MANIFESTS}/base"), WAIT])?;
    cluster.kubectl(&[SYSTEM, "wait", "--for=delete", "pod", "--all", WAIT])?;
    let cleaner = format!("{MANIFESTS}/uninstall");
    cluster.kubectl(&["apply", "-k", &cleaner])?;
    cluster.kubectl(&[SYSTEM, "rollout", "status", "daemonset/nodemesh-uninstall", WAIT])?;
    for node in cluster.nodes() {
        let root = format!("/proc/{}/root", node.process()?);
        ensure!(std::fs::symlink_metadata(format!("{root}{PINS}")).is_err(), "{} has pins", node.name());
        let mut kept = std::fs::read_dir(format!("{root}{STATE}")).into_iter().flatten();
        ensure!(kept.next().is_none(), "{} has files in {STATE}", node.name());
    }
    cluster.kubectl(&["delete", "-k", &cleaner, WAIT])?;
    eventually("pods reach each other without a mesh", PATIENCE, || {
        ask(cluster, "a", "b", "GET").is_ok_and(|status| status == "200").then_some(())
    })?;
    cluster.kubectl(&["get", "authorizationpolicies.policy.nodemesh.dev", "--all-namespaces"])?;
    cluster.kubectl(&[SYSTEM, "get", "secret", "nodemesh-ca"]).map(drop)
}

/// The status of a request between the web servers' pods; both say the marker.
fn ask(cluster: &Cluster, from: &str, to: &str, method: &str) -> Result<String> {
    let (pod, url) = (format!("web-{from}"), format!("http://web-{to}.default.svc.cluster.local/"));
    let marker = format!("x-marker: {PLAINTEXT_MARKER}");
    let curl =
        ["curl", "--silent", "--output", "/dev/null", "--max-time", "5", "--write-out", "%{http_code}"];
    let words =
        [&["exec", &pod, "--"], &curl[..], &["--request", method, "--header", &marker, &url]].concat();
    cluster.kubectl(&words)
}

/// The access records of all agents.
fn records(cluster: &Cluster) -> String {
    let words = [SYSTEM, "logs", "--selector=app.kubernetes.io/name=nodemesh-agent", "--tail=-1"];
    cluster.kubectl(&words).unwrap_or_default()
}

/// What the mesh says, for a person.
fn told(cluster: &Cluster) -> String {
    let pods = cluster.kubectl(&["get", "pods", "--all-namespaces", "-o", "wide"]).unwrap_or_default();
    let controllers = [SYSTEM, "logs", "--selector=app.kubernetes.io/name=nodemesh-controller", "--tail=40"];
    let controllers = cluster.kubectl(&controllers).unwrap_or_default();
    let records = records(cluster);
    let lines: Vec<&str> = records.lines().collect();
    let agents = lines[lines.len().saturating_sub(60)..].join("\n");
    let described = cluster.kubectl(&[SYSTEM, "describe", "pods"]).unwrap_or_default();
    format!("{pods}\n{described}\n-- controllers\n{controllers}\n-- agents\n{agents}")
}
