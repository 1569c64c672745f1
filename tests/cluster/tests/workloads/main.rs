//! Pods of every kind that a kubelet runs, and every way to reach them, with only certificates and default deny.

mod families;
mod issuers;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use mesh_test_cluster::mesh::{Mesh, PATIENCE, SYSTEM, WAIT};
use mesh_test_cluster::node_files::STATIC_PODS;
use mesh_test_harness::eventually::eventually;

const PODS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pods.yaml");
const WORKLOADS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/workloads.yaml");
const STATIC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/static.yaml");
const JOB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/job.yaml");
const INGRESS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ingress.yaml");
const INGRESS_ENROLLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ingress-enrolled.yaml");
const AUTHENTICATED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/authenticated.yaml");
/// A Service's ports on every node: at any, and at those that have an endpoint.
const ANY: u16 = 30080;
const LOCAL: u16 = 30081;
/// That of the proxy that lets callers in.
const ENTRY: u16 = 30083;
/// That of the Service of type LoadBalancer, and what gives it an address.
const BALANCER: u16 = 30082;
const BALANCED: [&str; 2] =
    ["--patch", r#"{"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.80"}]}}}"#];

#[test]
fn every_kind_of_pod_is_carried_and_who_has_no_certificate_is_refused() -> Result<()> {
    let mesh = Mesh::install(2)?;
    mesh.cluster().load_echo()?;
    mesh.cluster().load_nginx()?;
    let work = || {
        mesh.populate(Path::new(PODS))?;
        mesh.populate(Path::new(WORKLOADS))?;
        mesh.kubectl(&["apply", "-f", INGRESS])?;
        mesh.kubectl(&["wait", "--namespace=outside", "--for=condition=Ready", WAIT, "pod", "--all"])?;
        begin_static_pod(&mesh)?;
        mesh.kubectl(
            &[&["patch", "service", "web-b-balanced", "--subresource=status"], &BALANCED[..]].concat(),
        )?;
        everybody_is_served(&mesh)?;
        families::everybody_is_served(&mesh)?;
        mesh.kubectl(&["apply", "-f", AUTHENTICATED])?;
        who_has_no_certificate_is_refused(&mesh)?;
        who_has_one_is_served(&mesh)?;
        a_service_for_its_own_node_serves_no_other(&mesh)?;
        a_person_gets_in(&mesh)?;
        a_proxy_in_front_is_served_once_it_is_enrolled(&mesh)?;
        families::are_both_carried(&mesh)?;
        issuers::the_status_says_whether_keys_were_fetched(&mesh)?;
        probes_go_on(&mesh)?;
        jobs_end_well(&mesh)
    };
    work().with_context(|| mesh.told())
}

/// Its kubelet has it from a file, and makes a Pod object of it, of another UID.
fn begin_static_pod(mesh: &Mesh) -> Result<()> {
    let node = mesh.cluster().nodes().iter().find(|node| node.name() == "node-b").context("find node-b")?;
    fs::copy(STATIC, node.folder().join(STATIC_PODS).join("static.yaml"))
        .context("give node-b a static pod")?;
    eventually("the kubelet makes an object of a static pod", PATIENCE, || {
        mesh.kubectl(&["get", "pod", "static-node-b"]).is_ok().then_some(())
    })?;
    mesh.kubectl(&["wait", "--for=condition=Ready", WAIT, "pod/static-node-b"]).map(drop)
}

/// Without a word on certificates, also who is not in the mesh.
fn everybody_is_served(mesh: &Mesh) -> Result<()> {
    mesh.answers("host", &address_of(mesh, "web-b", 8080)?, "200")?;
    eventually("a pod outside the mesh is served", PATIENCE, || {
        outside(mesh, "http://web-b.default/").is_ok_and(|status| status == "200").then_some(())
    })?;
    for (node, port) in
        [("node-a", ANY), ("node-b", ANY), ("node-b", LOCAL), ("node-a", BALANCER), ("node-b", ENTRY)]
    {
        let url = port_of(mesh, node, port)?;
        eventually(&format!("{url} on {node} is served"), PATIENCE, || {
            from_elsewhere(&url).is_ok_and(|status| status == "200").then_some(())
        })?;
    }
    ensure!(from_elsewhere(&port_of(mesh, "node-a", LOCAL)?).is_err(), "a node without endpoint answers");
    Ok(())
}

fn who_has_no_certificate_is_refused(mesh: &Mesh) -> Result<()> {
    eventually("a pod outside the mesh is refused", PATIENCE, || {
        refused(&outside(mesh, "http://web-b.default/")).then_some(())
    })?;
    let url = address_of(mesh, "web-b", 8080)?;
    ensure!(refused(&mesh.ask("host", &url, "GET")), "a pod on its node's network is served");
    for (node, port) in [("node-a", ANY), ("node-b", ANY), ("node-b", LOCAL), ("node-a", BALANCER)] {
        let url = port_of(mesh, node, port)?;
        ensure!(from_elsewhere(&url).is_err(), "{url} on {node} is served");
    }
    let known = [SYSTEM, "exec", "daemonset/nodemesh-agent", "--", "mesh-node", "dump", "workloads"];
    let known = mesh.kubectl(&known)?;
    let host = known.lines().find(|line| line.contains(" host "));
    ensure!(host.is_some_and(|line| line.contains("no, host network")), "{known}");
    Ok(())
}

fn who_has_one_is_served(mesh: &Mesh) -> Result<()> {
    // Its bare name would be the pod itself.
    let own = [("web-a", "http://web-a.default/"), ("web-b", "http://web-b-headless:8080/")];
    let others = [
        ("web-a", "http://web-b-headless:8080/"),
        ("web-a", "http://web-b-any/"),
        ("web-a", "http://web-b-local/"),
        ("web-a", "http://echo/"),
        ("web-a", "http://echo:81/"),
        ("restarts", "http://web-b/"),
        ("web-a", "http://static/"),
        ("web-b", "http://own-users/"),
        ("own-users", "http://web-b/"),
        ("static-node-b", "http://web-a/"),
        ("web-a", "http://192.0.2.80/"),
        ("web-a", "http://web-b-alias/"),
    ];
    for (pod, url) in own.into_iter().chain(others) {
        mesh.answers(pod, url, "200")?;
    }
    // A container reaches its neighbour by the pod's own address, past the mesh, and others through it.
    let neighbour = address_of(mesh, "echo", 8080)?;
    let side =
        ["exec", "echo", "--container=side", "--", "curl", "--silent", "--fail", "--output", "/dev/null"];
    for url in [neighbour.as_str(), "http://web-a/"] {
        mesh.kubectl(&[&side[..], &[url]].concat())?;
    }
    let restarts = "jsonpath={.status.containerStatuses[0].restartCount}";
    ensure!(mesh.kubectl(&["get", "pod", "restarts", "-o", restarts])? == "1", "it was begun once");
    let users = mesh.kubectl(&["exec", "own-users", "--", "cat", "/proc/self/uid_map"])?;
    let first = users.split_whitespace().nth(1);
    ensure!(first.is_some_and(|first| first != "0"), "its users are its node's: {users}");
    for pod in ["restarts", "static-node-b", "own-users"] {
        eventually(&format!("{pod} is known by its identity"), PATIENCE, || {
            mesh.records()
                .lines()
                .any(|line| {
                    line.contains("direction=inbound")
                        && line.contains(&format!("src.workload=default/{pod}"))
                        && line.contains("src.identity=spiffe://cluster.local/ns/default/sa/default")
                })
                .then_some(())
        })?;
    }
    Ok(())
}

/// `internalTrafficPolicy: Local`
fn a_service_for_its_own_node_serves_no_other(mesh: &Mesh) -> Result<()> {
    mesh.answers("web-b", "http://web-b-near/", "200")?;
    mesh.answers("web-a", "http://web-b-near/", "503")?;
    let refusal =
        ["src.workload=default/web-a", "dst.service=web-b-near.default.", "reason=no_ready_endpoint_on_node"];
    mesh.recorded("the refusal", &refusal)
}

/// `kubectl port-forward`: the pod's kubelet connects inside of the pod, where nothing is captured.
fn a_person_gets_in(mesh: &Mesh) -> Result<()> {
    let mut forward = mesh.cluster().control_plane().kubectl_command();
    forward.args(["port-forward", "pod/web-b", ":8080"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut forward = Ended(forward.spawn().context("start kubectl")?);
    let mut said = String::new();
    // Open until the end: kubectl says more.
    let mut output = BufReader::new(forward.0.stdout.take().context("standard output is piped")?);
    output.read_line(&mut said).context("read what kubectl says")?;
    let port = said.strip_prefix("Forwarding from 127.0.0.1:").and_then(|rest| rest.split(' ').next());
    let url = format!("http://127.0.0.1:{}/", port.with_context(|| format!("kubectl said {said}"))?);
    let answered = from_elsewhere(&url)?;
    ensure!(answered == "200", "{url} answered {answered}");
    Ok(())
}

/// A process that is ended with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Fails if it ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Its callers have no certificate before and after; it has one once it is enrolled, and nothing of it is begun again.
fn a_proxy_in_front_is_served_once_it_is_enrolled(mesh: &Mesh) -> Result<()> {
    let entry = port_of(mesh, "node-b", ENTRY)?;
    let answers = |status: &str| {
        eventually(&format!("the proxy in front answers {status}"), PATIENCE, || {
            from_elsewhere(&entry).is_ok_and(|answered| answered == status).then_some(())
        })
    };
    answers("502")?;
    mesh.recorded("the refusal", &["reason=plaintext_under_strict", "src.workload=outside/ingress"])?;
    mesh.kubectl(&["apply", "-f", INGRESS_ENROLLED])?;
    let label = ["label", "--namespace=outside", "pod", "ingress", "nodemesh.dev/mode=enabled"];
    mesh.kubectl(&label)?;
    answers("200")?;
    let identity = "src.identity=spiffe://cluster.local/ns/outside/sa/ingress";
    mesh.recorded("the identity of the proxy", &["direction=inbound", "dst.workload=default/web-b", identity])
}

/// Longer than a kubelet takes to say that a pod is not ready, or to begin its container again.
fn probes_go_on(mesh: &Mesh) -> Result<()> {
    let failed = ["wait", "--for=condition=Ready=false", "--timeout=8s", "pod", "--all"];
    ensure!(mesh.kubectl(&failed).is_err(), "a kubelet's probe is refused");
    let restarts = "jsonpath={.status.containerStatuses[*].restartCount}";
    let restarts = mesh.kubectl(&["get", "pod", "echo", "-o", restarts])?;
    ensure!(restarts == "0 0", "a kubelet's probe was refused: restarted {restarts}");
    Ok(())
}

fn jobs_end_well(mesh: &Mesh) -> Result<()> {
    mesh.kubectl(&["apply", "-f", JOB])?;
    mesh.kubectl(&["wait", "--for=condition=Complete", WAIT, "job/once"]).map(drop)
}

/// The status of a request from the pod that is not in the mesh.
fn outside(mesh: &Mesh, url: &str) -> Result<String> {
    let curl =
        ["curl", "--silent", "--output", "/dev/null", "--max-time", "5", "--write-out", "%{http_code}", url];
    mesh.kubectl(&[&["exec", "--namespace=outside", "client", "--"], &curl[..]].concat())
}

/// The status of a request from this machine, which is no node.
fn from_elsewhere(url: &str) -> Result<String> {
    let curl = ["--silent", "--output", "/dev/null", "--max-time", "5", "--write-out", "%{http_code}", url];
    let output = Command::new("curl").args(curl).output().context("start curl")?;
    ensure!(output.status.success(), "{}", output.status);
    String::from_utf8(output.stdout).context("read what curl says")
}

/// Whether curl had no answer, and did not wait for one in vain.
fn refused(asked: &Result<String>) -> bool {
    asked.as_ref().is_err_and(|error| {
        let said = error.to_string();
        said.contains("exit code") && !said.contains("exit code 28")
    })
}

fn address_of(mesh: &Mesh, pod: &str, port: u16) -> Result<String> {
    let address = mesh.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"])?;
    Ok(format!("http://{address}:{port}/"))
}

fn port_of(mesh: &Mesh, node: &str, port: u16) -> Result<String> {
    let node = mesh.cluster().nodes().iter().find(|known| known.name() == node);
    Ok(format!("http://{}:{port}/", node.context("the node runs")?.address()))
}
