//! Pods that have addresses of both IP families, and Services of both and of the second alone.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use mesh_test_cluster::mesh::{Mesh, PATIENCE, WAIT};
use mesh_test_harness::eventually::eventually;

use super::{outside, refused};

const FAMILIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/families.yaml");
const NOT_FROM_NODE_A: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/not-from-node-a.yaml");
/// How curl is told to take one family, and how the addresses of that family's pods and Services begin: those of node-a, of
/// node-b, of Services.
const FIRST: Family =
    Family { page: "first", option: "--ipv4", pods: ["10.244.1.", "10.244.2."], services: "10.96." };
const SECOND: Family = Family {
    page: "second",
    option: "--ipv6",
    pods: ["[fd00:10:244:1:", "[fd00:10:244:2:"],
    services: "[fd00:10:96:",
};

struct Family {
    /// What is asked for by this family alone.
    page: &'static str,
    option: &'static str,
    pods: [&'static str; 2],
    services: &'static str,
}

/// The port of `both-any` on every node.
const ANY: u16 = 30084;

/// Without a word on certificates, also who comes to a node by IPv6 and is not in the mesh.
pub fn everybody_is_served(mesh: &Mesh) -> Result<()> {
    mesh.kubectl(&["apply", "-f", FAMILIES])?;
    mesh.kubectl(&["wait", "--for=condition=Ready", WAIT, "pod/both-a", "pod/both-b"])?;
    for url in ports_of_nodes(mesh) {
        eventually(&format!("{url} is served"), PATIENCE, || {
            mesh.cluster().ask_from_outside(&url).is_ok_and(|status| status == "200").then_some(())
        })?;
    }
    Ok(())
}

/// The Service's port on every node, by IPv6: on one an endpoint is, from the other it is on the way.
fn ports_of_nodes(mesh: &Mesh) -> Vec<String> {
    let nodes = mesh.cluster().nodes().iter();
    nodes.map(|node| format!("http://{}/", SocketAddr::new(node.last_address(), ANY))).collect()
}

/// Where only certificates count. Calls go from another node, on the same node, and from the pod to itself by its Service.
pub fn are_both_carried(mesh: &Mesh) -> Result<()> {
    let families = "jsonpath={.spec.ipFamilies}";
    let families = |service| mesh.kubectl(&["get", "service", service, "-o", families]);
    let (both, second) = (families("both")?, families("second")?);
    ensure!((&*both, &*second) == (r#"["IPv4","IPv6"]"#, r#"["IPv6"]"#), "{both} {second}");
    let wire = mesh.cluster().listen(&mesh.cluster().nodes()[0])?;
    for caller in ["both-a", "web-b", "both-b"] {
        for (family, name) in [(&FIRST, "both"), (&SECOND, "both"), (&SECOND, "second")] {
            answers(mesh, caller, family, &format!("http://{name}/"), "200")?;
            // Often enough to meet every endpoint that may be chosen.
            let statuses = ask(mesh, caller, family, &format!("http://{name}/{}?[1-8]", family.page))?;
            ensure!(statuses == "200".repeat(8), "{caller} to {name} with {}: {statuses}", family.option);
        }
        answers(mesh, caller, &SECOND, &second_address(mesh, "both-b")?, "200")?;
        for url in ports_of_nodes(mesh) {
            answers(mesh, caller, &SECOND, &url, "200")?;
        }
    }
    let carried = wire.finish()?;
    ensure!(carried.markers() == 0, "the wire shows what the pods say to each other");
    both_know_each_other(mesh)?;
    who_has_no_certificate_is_refused(mesh)?;
    a_range_of_the_second_is_no_range_of_the_first(mesh)
}

/// Every call has a record at both ends, with both certificates and with addresses of the family that it was made by.
fn both_know_each_other(mesh: &Mesh) -> Result<()> {
    let account = |name: &str| format!("identity=spiffe://cluster.local/ns/default/sa/{name} ");
    let mut wanted = Vec::new();
    for (caller, node, own) in [("both-a", 0, "both-a"), ("web-b", 1, "default")] {
        for (family, service) in [(&FIRST, "both"), (&SECOND, "both"), (&SECOND, "second")] {
            for (direction, dialled) in [("outbound", family.services), ("inbound", family.pods[1])] {
                wanted.push([
                    format!("src.workload=default/{caller} "),
                    format!("src.addr={}", family.pods[node]),
                    format!("src.{}", account(own)),
                    format!("dst.{}", account("both-b")),
                    format!("dst.service={service}.default."),
                    format!("direction={direction} "),
                    format!("dst.addr={dialled}"),
                ]);
            }
        }
    }
    let missing = || {
        let records = mesh.records();
        let has = |wanted: &[String]| {
            records.lines().any(|line| wanted.iter().all(|field| line.contains(field.as_str())))
        };
        wanted.iter().filter(|wanted| !has(&wanted[..])).collect::<Vec<_>>()
    };
    eventually("calls by both families are recorded", PATIENCE, || missing().is_empty().then_some(()))
        .with_context(|| format!("there is no record of {:?}", missing()))?;
    let records = mesh.records();
    for (family, other) in [(&FIRST, &SECOND), (&SECOND, &FIRST)] {
        let asked = format!("http.path=/{} ", family.page);
        let of_other = |line: &&str| other.pods.iter().any(|pods| line.contains(pods));
        let crossed = records.lines().filter(|line| line.contains(&asked)).find(of_other);
        ensure!(crossed.is_none(), "a call went over to the other family: {crossed:?}");
    }
    Ok(())
}

fn who_has_no_certificate_is_refused(mesh: &Mesh) -> Result<()> {
    let url = second_address(mesh, "both-b")?;
    ensure!(refused(&outside(mesh, &url)), "a pod outside the mesh is served by IPv6");
    ensure!(refused(&mesh.ask("host", &url, "GET")), "a pod on its node's network is served by IPv6");
    for url in ports_of_nodes(mesh) {
        ensure!(mesh.cluster().ask_from_outside(&url)? == "000", "{url} is served");
    }
    // The addresses of that pod, and of its node.
    for source in ["src.addr=[fd00:10:244:1:", "src.addr=[fd00:198:18::11]"] {
        mesh.recorded(
            "the refusal by IPv6",
            &["reason=plaintext_under_strict", source, "dst.workload=default/both-b "],
        )?;
    }
    Ok(())
}

fn a_range_of_the_second_is_no_range_of_the_first(mesh: &Mesh) -> Result<()> {
    mesh.kubectl(&["apply", "-f", NOT_FROM_NODE_A])?;
    answers(mesh, "both-a", &SECOND, "http://both/", "403")?;
    for (caller, family) in [("both-a", &FIRST), ("web-b", &FIRST), ("web-b", &SECOND)] {
        let status = ask(mesh, caller, family, "http://both/")?;
        ensure!(status == "200", "{caller} has {status} with {}", family.option);
    }
    mesh.kubectl(&["delete", "-f", NOT_FROM_NODE_A])?;
    answers(mesh, "both-a", &SECOND, "http://both/", "200")
}

fn answers(mesh: &Mesh, pod: &str, family: &Family, url: &str, status: &str) -> Result<()> {
    let what = format!("{pod} gets {status} from {url} with {}", family.option);
    eventually(&what, PATIENCE, || {
        ask(mesh, pod, family, url).is_ok_and(|answered| answered == status).then_some(())
    })
}

fn ask(mesh: &Mesh, pod: &str, family: &Family, url: &str) -> Result<String> {
    mesh.ask_with(pod, url, &[family.option])
}

/// Where a pod's web server is by its second address.
fn second_address(mesh: &Mesh, pod: &str) -> Result<String> {
    let addresses = mesh.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.podIPs[*].ip}"])?;
    let second = addresses.split(' ').nth(1);
    let second = second.with_context(|| format!("{pod} has the addresses {addresses}"))?;
    Ok(format!("http://[{second}]:8080/"))
}
