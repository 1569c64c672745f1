//! Another root on a cluster, by the one command, while HTTP and gRPC run between the nodes in both directions; the agent of
//! one node is cut off from the controllers, and waited for by name.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use mesh_test_cluster::load::Load;
use mesh_test_cluster::mesh::{AGENTS, Mesh, PATIENCE, SYSTEM};
use mesh_test_cluster::node::Node;
use mesh_test_harness::eventually::eventually;
use mesh_test_harness::{binary, figure};
use serde_json::Value;

const PODS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pods.yaml");
const CALLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rotation.yaml");
/// Of a certificate: it is renewed at half of it, and an agent is cut off for less than that.
const CERTIFICATES: (&str, &str) = ("NODEMESH_CERTIFICATE_LIFETIME", "100s");
/// So that handshakes go on: after it a connection between agents takes nothing new.
const TUNNELS: (&str, &str) = ("NODEMESH_TUNNEL_MAX_AGE", "1s");
/// How long nothing may go on without every agent.
const STAYS: Duration = Duration::from_secs(5);
/// How long it is asked on with certificates of the next root alone: some handshakes.
const AFTER: Duration = Duration::from_secs(4);
/// Calls of one client, over one connection.
const ROUND: usize = 40;
/// Who is called by web-a and calls-a, and the other way.
const WAYS: [(&str, &str); 2] = [("a", "b"), ("b", "a")];

#[test]
fn requests_run_on_between_nodes_while_the_root_is_replaced_and_an_agent_is_cut_off() -> Result<()> {
    let mesh = Mesh::install_with(2, &[("controller", CERTIFICATES), ("agent", TUNNELS)])?;
    let work = || {
        mesh.cluster().load_echo()?;
        mesh.populate(Path::new(PODS))?;
        mesh.populate(Path::new(CALLED))?;
        for (from, to) in WAYS {
            mesh.answers(&format!("web-{from}"), &url(to), "200")?;
        }
        let loads =
            WAYS.map(|(from, to)| Load::start(mesh.cluster(), &format!("web-{from}"), "turn", &url(to)));
        let calls = WAYS.map(|(from, to)| Calls::begin(&mesh, from, to));
        let replaced = replace(&mesh);
        let called = calls.map(Calls::end);
        for load in loads {
            let outcome = load?.stop(mesh.cluster())?;
            figure(&format!("while the root was replaced, {outcome}"));
            // Some every second of the minute at least: each is a program of its own, on a machine that does other work too.
            ensure!(outcome.failed == 0 && outcome.requests > 60, "{outcome}: {:?}", outcome.statuses);
        }
        for called in called {
            let (answered, failed) = called?;
            figure(&format!(
                "while the root was replaced, {answered} calls of gRPC, failed: {}",
                failed.len()
            ));
            ensure!(failed.is_empty() && answered > 5 * ROUND, "{answered} answered: {failed:?}");
        }
        replaced
    };
    work().with_context(|| mesh.told())
}

/// All three steps.
fn replace(mesh: &Mesh) -> Result<()> {
    let begun = Instant::now();
    let before = until(mesh, "nothing changes yet", |said| said["step"] == "settled")?;
    let cut = Cut::make(node(mesh, "node-b")?)?;
    authority(mesh, &["rotate", "--until", "begun"])?;
    let waits = |said: &Value| {
        said["step"] == "distribute"
            && said["signs"] == before["signs"]
            && waited_for(said) == ["node-b"].into()
    };
    until(mesh, "the node that is cut off is waited for, and no other", waits)?;
    let end = Instant::now() + STAYS;
    while Instant::now() < end {
        let said = status(mesh)?;
        ensure!(waits(&said), "it goes on without every agent: {said}");
    }
    let was_cut = begun.elapsed();
    drop(cut);
    until(mesh, "the next key signs", |said| said["step"] == "expire")?;
    let signed = begun.elapsed();
    every_certificate_is_of_the_next_key(mesh)?;
    // What the root before vouches for has not expired, and nobody has it any more.
    let annotate = [SYSTEM, "annotate", "secret", "nodemesh-ca", "--overwrite", "nodemesh.dev/signs-since=1"];
    mesh.kubectl(&annotate)?;
    let is_over = |said: &Value| said["step"] == "settled" && said["signs"] != before["signs"];
    until(mesh, "the root before is gone", is_over)?;
    figure(&format!(
        "the node that was cut off came back after {:.0} s, the next key signed after {:.0} s, all was over after {:.0} s",
        was_cut.as_secs_f64(),
        signed.as_secs_f64(),
        begun.elapsed().as_secs_f64()
    ));
    let end = Instant::now() + AFTER;
    for (from, to) in WAYS.iter().cycle() {
        mesh.answers(&format!("web-{from}"), &url(to), "200")?;
        if Instant::now() > end {
            break;
        }
    }
    Ok(())
}

/// Waits until no agent has one from before now.
fn every_certificate_is_of_the_next_key(mesh: &Mesh) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("it is after 1970")?.as_secs();
    let agents = mesh.kubectl(&[SYSTEM, "get", "pods", AGENTS, "-o", "name"])?;
    let ask = ["--", "mesh-node", "dump", "certificates", "-o", "json"];
    eventually("every agent has certificates of the next key alone", 2 * PATIENCE, || {
        let is_renewed = |agent: &str| {
            let said = mesh.kubectl(&[&[SYSTEM, "exec", agent], &ask[..]].concat()).ok()?;
            let said: Vec<Value> = serde_json::from_str(&said).ok()?;
            // A certificate is valid from some time before it is made, for clocks that are late.
            let is_later = |one: &Value| one["not_after"].as_u64().is_some_and(|end| end >= now + 100);
            (!said.is_empty() && said.iter().all(is_later)).then_some(())
        };
        agents.lines().all(|agent| is_renewed(agent).is_some()).then_some(())
    })
}

/// The nodes of the agents that a change waits for.
fn waited_for(said: &Value) -> BTreeSet<&str> {
    let agents = said["waiting"].as_array().into_iter().flatten();
    agents.filter_map(|agent| agent["node"].as_str()).collect()
}

fn until(mesh: &Mesh, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
    let waited = eventually(what, 2 * PATIENCE, || status(mesh).ok().filter(|said| is(said)));
    waited.with_context(|| format!("{:?}", status(mesh)))
}

fn status(mesh: &Mesh) -> Result<Value> {
    let said = authority(mesh, &["status", "-o", "json"])?;
    serde_json::from_str(&said).context("read where the change stands")
}

/// `mesh-node ca WORDS`
fn authority(mesh: &Mesh, words: &[&str]) -> Result<String> {
    let mut command = Command::new(binary::mesh_node()?);
    command.arg("ca").args(words).arg("--kubeconfig").arg(mesh.cluster().control_plane().kubeconfig());
    let output = command.output().context("run mesh-node ca")?;
    ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).context("read what mesh-node ca says")
}

/// What a node's own programs send to controllers is dropped, whatever connection it is of; what its pods send is not. Until it is
/// dropped.
struct Cut<'a>(&'a Node);

impl<'a> Cut<'a> {
    fn make(node: &'a Node) -> Result<Self> {
        nft(node, "add table inet cut")?;
        let cut = Self(node);
        nft(node, "add chain inet cut out { type filter hook output priority 0; }")?;
        // Addresses of Services are translated before (nf_tables' priority -100).
        nft(node, "add rule inet cut out tcp dport 15012 drop")?;
        Ok(cut)
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        nft(self.0, "delete table inet cut").expect("the table that was added is there");
    }
}

fn nft(node: &Node, words: &str) -> Result<()> {
    let output = node.netns().run(|| Command::new("nft").arg(words).output().context("start nft"))?;
    if !output.status.success() {
        bail!("nft {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Calls of gRPC, one client after the other, until they are to end.
struct Calls {
    stop: Arc<AtomicBool>,
    calls: JoinHandle<(usize, Vec<String>)>,
}

impl Calls {
    fn begin(mesh: &Mesh, from: &str, to: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut kubectl = mesh.cluster().control_plane().kubectl_command();
        kubectl.args(["exec", &format!("calls-{from}"), "--", "client", "--timeout=5s"]);
        kubectl.args([&format!("--count={ROUND}"), "--qps=20", &format!("grpc://calls-{to}:7070")]);
        let stops = Arc::clone(&stop);
        let calls = thread::spawn(move || {
            let (mut answered, mut failed) = (0, Vec::new());
            while !stops.load(Ordering::Relaxed) {
                let said = kubectl.output();
                let good = said.as_ref().map_or(0, |said| good_answers(&said.stdout));
                answered += good;
                if good != ROUND {
                    failed.push(format!("{said:?}"));
                }
            }
            (answered, failed)
        });
        Self { stop, calls }
    }

    /// How many were answered well, and what the clients said that had fewer than they asked for.
    fn end(self) -> Result<(usize, Vec<String>)> {
        self.stop.store(true, Ordering::Relaxed);
        self.calls.join().ok().context("the calls end")
    }
}

fn good_answers(said: &[u8]) -> usize {
    String::from_utf8_lossy(said).matches("StatusCode=200").count()
}

fn node<'a>(mesh: &'a Mesh, name: &str) -> Result<&'a Node> {
    let mut nodes = mesh.cluster().nodes().iter();
    nodes.find(|node| node.name() == name).with_context(|| format!("find a node {name}"))
}

fn url(to: &str) -> String {
    format!("http://web-{to}.default.svc.cluster.local/")
}
