//! End-to-end tests: real eBPF, real daemons, pods as network namespaces.
//!
//! The tests are in `tests/`, one file per theme. Here is what they share: the usual two pods, and policies as text.

pub mod framing;
pub mod http2_peer;
pub mod issuer;
pub mod peer;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use mesh_test_harness::eventually::{PATIENCE, eventually_true};
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::{PodSpec, ServiceSpec};
use mesh_test_harness::process::Ended;
use mesh_test_harness::topology::NODES;

/// The IPv4 address of Service `server`.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The IPv6 address of Service `server`.
pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x10);
/// Declared `http` on Service and pod; the Service has it as 80.
pub const HTTP: u16 = 8080;
/// Declared `tcp-echo`.
pub const ECHO: u16 = 9000;
/// Declared by nobody: what is spoken there is found out.
pub const UNDECLARED: u16 = 9100;

/// `client` and `other` on node A, `server` with its Service on node B, all enrolled, and no policy at all.
pub fn pair() -> Scenario {
    Scenario::new(vec![PodSpec::new("client"), PodSpec::new("other")], vec![server("server")])
        .service(service())
}

/// A pod like `server`: the ports of Service `server`, selected by it.
pub fn server(name: &str) -> PodSpec {
    PodSpec::new(name).label("app", "server").port("http", HTTP).port("tcp-echo", ECHO)
}

/// Service `server`: 80 to the HTTP port, 9000 to the echo port.
pub fn service() -> ServiceSpec {
    ServiceSpec::new("server", &[IpAddr::V4(SERVER), IpAddr::V6(SERVER_V6)])
        .port("http", 80, HTTP)
        .port("tcp-echo", ECHO, ECHO)
}

/// The Service address with a port.
pub fn at(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(SERVER), port)
}

/// The IPv6 Service address with a port.
pub fn at_v6(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(SERVER_V6), port)
}

/// The name of a node, counted from 0.
pub fn node(index: usize) -> &'static str {
    NODES[index]
}

/// The objects of both nodes, each in a zone.
pub fn nodes_in(zones: [&str; 2]) -> String {
    let object = |(name, zone, number): (&str, &str, u8)| {
        format!(
            "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  labels:\n    \
             topology.kubernetes.io/zone: {zone}\nstatus:\n  addresses:\n    - type: InternalIP\n      \
             address: 10.77.0.{number}\n"
        )
    };
    [(NODES[0], zones[0], 1), (NODES[1], zones[1], 2)].map(object).concat()
}

/// An AuthorizationPolicy on the pods labelled `app: server`; `rules` is what stands below `rules:`, at column 0.
pub fn policy(name: &str, action: &str, rules: &str) -> String {
    let rules: String = rules.lines().map(|line| format!("    {line}\n")).collect();
    let rules = if rules.is_empty() { "  rules: []\n".to_owned() } else { format!("  rules:\n{rules}") };
    format!(
        "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata:\n  name: {name}\n  \
         namespace: shop\nspec:\n  selector:\n    matchLabels:\n      app: server\n  action: {action}\n{rules}"
    )
}

/// Policies that refuse nothing: a dry run that would permit `other` alone, and an AUDIT of `client`.
pub fn dry_run() -> String {
    let dry = policy("only-other", "ALLOW", &from_account("other")).replace("spec:", "spec:\n  mode: Audit");
    format!("{dry}---\n{}", policy("watch", "AUDIT", &from_account("client")))
}

/// The destination's record of what `client` did once names what [`dry_run`] found, and the metric counts it.
///
/// # Errors
/// They do not.
pub fn dry_run_is_reported(mesh: &Mesh, protocol: &str) -> Result<()> {
    let found =
        "AuthorizationPolicy shop/only-other would_deny, AuthorizationPolicy shop/watch rules[0] matched";
    let server = mesh.node(node(1));
    let record = server.record("the finding", |record| record["audit"].is_string())?;
    for (field, wanted) in [("audit", found), ("verdict", "audited"), ("protocol", protocol)] {
        ensure!(record[field] == wanted, "{field} of {record}");
    }
    for effect in ["would_deny", "matched"] {
        server.metric("nodemesh_policy_audited_total", &[("effect", effect)], |count| count == 1.0)?;
    }
    Ok(())
}

/// The destination has so many records of connections that came to nothing before anybody knew what they were for.
///
/// # Errors
/// It has fewer.
pub fn failed_handshakes_are_told(mesh: &Mesh, count: usize) -> Result<()> {
    let told = |record: &&serde_json::Value| {
        record["verdict"] == "undecided"
            && record["dst.workload"] == "shop/server"
            && !matches!(record["reason"].as_str(), None | Some("-"))
    };
    let node = mesh.node(node(1));
    eventually_true("each failed handshake has its record", PATIENCE, || {
        node.records().iter().filter(told).count() >= count
    })?;
    // Who refuses a certificate says so by an id; who goes in the middle is refused nothing.
    let record =
        node.record("a refused handshake", |record| told(&record) && record["decision"].is_string())?;
    let id = record["decision"].as_str().with_context(|| format!("{record}"))?;
    let explained = node.command(&["authz", "explain", id])?.success("explain")?;
    ensure!(explained.contains("mutual TLS did not come about"), "{explained}");
    Ok(())
}

/// The node of `client` has a record of a GET that could not be read, with what was asked for and its answer.
///
/// # Errors
/// It has none.
pub fn unreadable_is_told(mesh: &Mesh, path: &str) -> Result<()> {
    let told =
        |record: &serde_json::Value| record["reason"] == "path_bad_escape" && record["http.path"] == path;
    let record = mesh.node(node(0)).record("the request", told)?;
    ensure!(record["http.method"] == "GET" && record["http.status"] == 400, "{record}");
    ensure!(record.get("http.host").is_none(), "{record}");
    Ok(())
}

/// The id of a refusal that a response's head names.
pub fn decision_id(answer: &str) -> Option<String> {
    let line = answer.lines().find(|line| line.starts_with("x-nodemesh-decision-id: "))?;
    Some(line.rsplit(' ').next()?.trim().to_owned())
}

/// What the agent of a node tells of the refusal that a response's head names; its record has the id too, and the reason.
///
/// # Errors
/// The head names none, no record has it, or the agent does not tell it.
pub fn refusal_is_told(mesh: &Mesh, index: usize, answer: &str, reason: &str) -> Result<String> {
    let node = mesh.node(node(index));
    let id = decision_id(answer).with_context(|| format!("{reason}: no id in {answer}"))?;
    let record = node.record(reason, |record| record["decision"] == id.as_str())?;
    ensure!(record["reason"] == reason, "{reason}: {record}");
    let told = node.command(&["authz", "explain", &id])?.success(reason)?;
    let line = format!("\nreason:      {reason}\n");
    ensure!(told.contains(&id) && told.contains(&line), "{reason}: {told}");
    Ok(told)
}

/// What `authz explain` says on the called pod's node, and of the folder that its agent reads: the same.
///
/// # Errors
/// It is not the same.
pub fn explained(mesh: &Mesh, question: &[&str]) -> Result<Ended> {
    let folder = mesh.config().path().display().to_string();
    let ask = |more: &[&str]| mesh.node(node(1)).command(&[&["authz", "explain"], question, more].concat());
    let (of_agent, of_folder) = (ask(&[])?, ask(&["--config-dir", &folder])?);
    let is_same = of_agent.stdout == of_folder.stdout && of_agent.status == of_folder.status;
    ensure!(is_same, "{question:?}: the agent says {of_agent:?}, of its folder it is {of_folder:?}");
    Ok(of_agent)
}

/// Rules that one service account of namespace `shop` matches.
pub fn from_account(account: &str) -> String {
    format!("- from:\n    - source:\n        principals: [cluster.local/ns/shop/sa/{account}]\n")
}

/// A PeerAuthentication of namespace `shop`.
pub fn peer_authentication(mode: &str) -> String {
    format!(
        "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: PeerAuthentication\nmetadata:\n  name: default\n  \
         namespace: shop\nspec:\n  mtls:\n    mode: {mode}\n"
    )
}

/// A request as bytes; `line` is the method and the target.
pub fn request(line: &str, fields: &str) -> String {
    format!("{line} HTTP/1.1\r\nhost: server.shop\r\n{fields}\r\n")
}
