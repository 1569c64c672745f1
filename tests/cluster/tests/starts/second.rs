//! Where nodes, pods and Services have IPv6 addresses alone: everything is encrypted and held to policy, on every way in.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use mesh_test_cluster::mesh::{Mesh, PATIENCE};
use mesh_test_harness::eventually::eventually;

const AUTHENTICATED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/authenticated.yaml");
/// The port of `both-any` on every node.
const ANY: u16 = 30084;
/// Where agents show their metrics.
const METRICS: u16 = 15020;

pub fn is_carried_and_held_to_policy(mesh: &Mesh) -> Result<()> {
    nobody_has_an_address_of_ipv4(mesh)?;
    who_is_outside_is_served(mesh)?;
    let began = readiness(mesh)?;
    mesh.kubectl(&["apply", "-f", AUTHENTICATED])?;
    who_is_outside_is_refused(mesh)?;
    who_has_a_certificate_is_served_encrypted(mesh)?;
    status_and_metrics_are_told(mesh)?;
    probes_go_on(mesh, &began)
}

fn nobody_has_an_address_of_ipv4(mesh: &Mesh) -> Result<()> {
    for (kind, path) in [
        ("pods", "{.items[*].status.podIPs[*].ip}"),
        ("services", "{.items[*].spec.clusterIPs[*]}"),
        ("nodes", "{.items[*].status.addresses[?(@.type=='InternalIP')].address}"),
    ] {
        let path = format!("jsonpath={path}");
        let addresses = mesh.kubectl(&["get", kind, "--all-namespaces", "-o", &path])?;
        ensure!(addresses.contains(':'), "{kind} have no addresses: {addresses}");
        // A headless Service has none.
        for address in addresses.split_whitespace().filter(|address| *address != "None") {
            let address: IpAddr = address.parse().with_context(|| format!("{kind} have {address}"))?;
            ensure!(address.is_ipv6(), "{kind} have {address}");
        }
    }
    Ok(())
}

/// Without a word on certificates.
fn who_is_outside_is_served(mesh: &Mesh) -> Result<()> {
    for url in addresses_of_server(mesh)? {
        eventually(&format!("{url} is served"), PATIENCE, || {
            mesh.cluster().ask_from_outside(&url).is_ok_and(|status| status == "200").then_some(())
        })?;
    }
    Ok(())
}

fn who_is_outside_is_refused(mesh: &Mesh) -> Result<()> {
    for url in addresses_of_server(mesh)? {
        eventually(&format!("{url} is refused"), PATIENCE, || {
            mesh.cluster().ask_from_outside(&url).is_ok_and(|status| status == "000").then_some(())
        })?;
    }
    let refusal = ["reason=plaintext_under_strict", "dst.workload=default/both-b "];
    // As itself where it asked the pod, as node-a where it asked that.
    for source in ["src.addr=[fd00:198:18::1]", "src.addr=[fd00:198:18::11]"] {
        mesh.recorded("the refusal", &[&refusal[..], &[source]].concat())?;
    }
    Ok(())
}

/// From the other node and from the same, by the Service's name, by the pod's own address, and by either node's.
fn who_has_a_certificate_is_served_encrypted(mesh: &Mesh) -> Result<()> {
    let wire = mesh.cluster().listen(&mesh.cluster().nodes()[0])?;
    let mut urls = addresses_of_server(mesh)?;
    urls.push("http://both/".to_owned());
    for caller in ["both-a", "both-b"] {
        for url in &urls {
            mesh.answers(caller, url, "200")?;
        }
    }
    wire.finish()?.ensure_tunnelled()?;
    for (direction, dialled) in [("outbound", "[fd00:10:96:"), ("inbound", "[fd00:10:244:2:")] {
        mesh.recorded(
            "the call",
            &[
                &format!("direction={direction} "),
                "src.identity=spiffe://cluster.local/ns/default/sa/both-a ",
                "dst.identity=spiffe://cluster.local/ns/default/sa/both-b ",
                "src.addr=[fd00:10:244:1:",
                &format!("dst.addr={dialled}"),
            ],
        )?;
    }
    Ok(())
}

/// By kubectl, and at the nodes' addresses, as to Prometheus.
fn status_and_metrics_are_told(mesh: &Mesh) -> Result<()> {
    let in_force = "jsonpath={.status.agents.needed} {.status.agents.inForce}";
    eventually("the policy is said to be in force in both agents", PATIENCE, || {
        let counted = mesh.kubectl(&["get", "nmap", "mesh", "-o", in_force]).ok()?;
        (counted == "2 2").then_some(())
    })?;
    for node in mesh.cluster().nodes() {
        let url = format!("http://{}/metrics", SocketAddr::new(node.address(), METRICS));
        let metrics = mesh.cluster().text_from_outside(&url)?;
        ensure!(metrics.contains("\nistio_requests_total{"), "{url} tells {metrics}");
    }
    Ok(())
}

/// Kubelets have asked all along; a while more, longer than one takes to say that a pod is not ready, or to begin its
/// container again.
fn probes_go_on(mesh: &Mesh, began: &str) -> Result<()> {
    let failed = ["wait", "--for=condition=Ready=false", "--timeout=4s", "pod", "both-b"];
    ensure!(mesh.kubectl(&failed).is_err(), "a kubelet's probe is refused");
    let now = readiness(mesh)?;
    ensure!(now == began, "a kubelet's probe was refused: {began} became {now}");
    Ok(())
}

/// Since when pods are ready, and how often their containers were begun again.
fn readiness(mesh: &Mesh) -> Result<String> {
    let since = "{.items[*].status.conditions[?(@.type=='Ready')].lastTransitionTime}";
    let path = format!("jsonpath={since} {{.items[*].status.containerStatuses[*].restartCount}}");
    mesh.kubectl(&["get", "pods", "-o", &path])
}

/// The server on node-b by its own address, and by the Service's port on every node.
fn addresses_of_server(mesh: &Mesh) -> Result<Vec<String>> {
    let address = mesh.kubectl(&["get", "pod", "both-b", "-o", "jsonpath={.status.podIP}"])?;
    let own = SocketAddr::new(address.parse().context("it is an address")?, 8080);
    let nodes = mesh.cluster().nodes().iter().map(|node| SocketAddr::new(node.address(), ANY));
    Ok(std::iter::once(own).chain(nodes).map(|address| format!("http://{address}/")).collect())
}
