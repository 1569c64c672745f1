//! Pods that connect in their first instruction and do not give up: nothing that they send is ever in the clear.
//!
//! What they dial would answer them without a mesh. Every test ends with a look at all wires for what they send.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_test_e2e::{ECHO, node, peer_authentication, server, service};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::binary::{mesh_node, test_pod};
use mesh_test_harness::eventually::eventually_true;
use mesh_test_harness::figure;
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::process::Process;
use mesh_test_harness::servers::{Kind, Server, events};
use serde_json::{Value, json};

/// Pods of each test, and how many of them begin at once.
const PODS: usize = 200;
const AT_ONCE: usize = 10;
/// How long a pod goes on trying: agents start meanwhile, on a machine that does other work too.
const LIMIT: Duration = Duration::from_secs(60);
/// Rounds in which is measured how long nothing holds a pod without the hold.
const ROUNDS: usize = 5;

#[test]
fn on_a_running_node_nothing_is_in_the_clear() {
    scenario().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let mut firsts = Firsts::default();
        for batch in batches() {
            let begun = batch.clone().map(|index| begin(mesh, index)).collect::<Result<Vec<_>>>()?;
            firsts.finish(begun)?;
            remove(mesh, batch)?;
        }
        firsts.tell("on a running node");
        all_had_an_identity(mesh)
    });
}

#[test]
fn while_its_agent_restarts_nothing_is_in_the_clear() {
    scenario().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let mut firsts = Firsts::default();
        for batch in batches() {
            let (before, after) =
                (batch.start..batch.start + AT_ONCE / 2, batch.start + AT_ONCE / 2..batch.end);
            let mut begun = before.map(|index| begin(mesh, index)).collect::<Result<Vec<_>>>()?;
            mesh.a().kill()?;
            begun.extend(after.map(|index| begin(mesh, index)).collect::<Result<Vec<_>>>()?);
            mesh.a().spawn()?;
            firsts.finish(begun)?;
            mesh.a().wait_until_ready()?;
            remove(mesh, batch)?;
        }
        firsts.tell("while the agent restarts");
        all_had_an_identity(mesh)
    });
}

#[test]
fn after_a_reboot_with_the_hold_nothing_is_in_the_clear() {
    scenario().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let runtime = Runtime::with_hold(mesh)?;
        let mut firsts = Firsts::default();
        for batch in batches() {
            reboot(mesh)?;
            let mut held = Vec::new();
            for index in batch.clone() {
                mesh.add_pod(node(0), spec(index))?;
                held.push(runtime.add(mesh, index)?);
            }
            for plugin in &mut held {
                ensure!(plugin.ended().is_none(), "a pod is let begin without programs: {}", plugin.stdout());
            }
            mesh.a().spawn()?;
            let mut begun = Vec::new();
            for (plugin, index) in held.into_iter().zip(batch.clone()) {
                let result = plugin.wait(LIMIT)?.success("the hold")?;
                ensure!(result.contains("10.0.0.9/24"), "the result of the plugins before: {result}");
                begun.push(run_first(mesh, index)?);
            }
            firsts.finish(begun)?;
            mesh.a().wait_until_ready()?;
            remove(mesh, batch)?;
        }
        firsts.tell("after a reboot with the hold");
        runtime.remove_hold(mesh)?;
        all_had_an_identity(mesh)
    });
}

#[test]
fn without_the_hold_a_rebooted_node_holds_nobody_until_its_agent_runs() {
    Scenario::new(Vec::new(), vec![server("server")]).run(|mesh| {
        let site = mesh.topology().site(node(1));
        let to = SocketAddr::new(site.address(), 6000);
        let _sink = Server::start(site.host(), "sink", Kind::Sink, "0.0.0.0:6000", &[])?;
        let mut windows = Vec::new();
        for index in 0..ROUNDS {
            reboot(mesh)?;
            // No object tells of it, so that it is refused for good once it is.
            mesh.add_pod(node(0), spec(index))?;
            mesh.config().remove(&format!("pod-first-{index}"))?;
            let first = first(mesh, index, &["--to", &to.to_string()])?;
            let begun = Instant::now();
            mesh.a().spawn()?;
            let said = first.wait(LIMIT)?.success("a pod")?;
            windows.push(begun.elapsed().as_millis());
            let passed = report(&said)?["passed"].as_u64().context("connects are counted")?;
            ensure!(passed > 0, "something else holds the pod, and the documents are wrong: {said}");
            mesh.a().wait_until_ready()?;
            mesh.take_pod(&format!("first-{index}")).delete()?;
        }
        windows.sort_unstable();
        figure(&format!(
            "without the hold pods connect until {windows:?} ms after the agent's process begins"
        ));
        Ok(())
    });
}

/// A server that takes nothing without a certificate: who is let in has shown one.
fn scenario() -> Scenario {
    let scenario = Scenario::new(Vec::new(), vec![server("server")]).service(service());
    scenario.objects("strict", &peer_authentication("STRICT"))
}

/// How the pods of a test fared.
#[derive(Debug, Default)]
struct Firsts {
    /// Milliseconds from the first instruction to the answer.
    after_ms: Vec<f64>,
    /// Pods that were refused at first: they were faster than the agent.
    refused: usize,
}

impl Firsts {
    fn finish(&mut self, begun: Vec<Process>) -> Result<()> {
        for first in begun {
            let report = report(&first.wait(LIMIT)?.success("a pod")?)?;
            self.after_ms.push(report["after_ms"].as_f64().context("the time is told")?);
            self.refused += usize::from(report["refused"].as_u64() > Some(0));
        }
        Ok(())
    }

    fn tell(mut self, when: &str) {
        self.after_ms.sort_by(f64::total_cmp);
        let (count, refused) = (self.after_ms.len(), self.refused);
        let [half, most] = [count / 2, count - 1].map(|at| self.after_ms[at]);
        figure(&format!(
            "{when}: of {count} pods {refused} were refused first; answered after {half:.0} ms (p50), {most:.0} ms (most)"
        ));
    }
}

/// What a container runtime does with network plugins, as far as the hold sees of it.
struct Runtime {
    conf_dir: PathBuf,
    bin_dir: PathBuf,
    /// What the plugin is given for a pod.
    network: PathBuf,
}

impl Runtime {
    /// With the network of another, and the hold put in behind it.
    fn with_hold(mesh: &mut Mesh) -> Result<Self> {
        let folder = mesh.topology().site(node(0)).logs().join("cni");
        let [conf_dir, bin_dir] = ["net.d", "bin"].map(|name| folder.join(name));
        fs::create_dir_all(&conf_dir).context("make the folder of networks")?;
        let bridge = json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [{ "type": "bridge" }] });
        fs::write(conf_dir.join("10-pods.conflist"), bridge.to_string()).context("write a network")?;
        let runtime = Self { conf_dir, bin_dir, network: folder.join("network.json") };
        runtime.hold(mesh, "install")?;
        let list = runtime.networks()?.into_iter().next().context("there is a network")?;
        let list: Value = serde_json::from_slice(&fs::read(list)?)?;
        let mut network = list["plugins"][1].clone();
        network["cniVersion"] = list["cniVersion"].clone();
        network["name"] = list["name"].clone();
        network["prevResult"] = json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.0.0.9/24" }] });
        fs::write(&runtime.network, network.to_string())?;
        Ok(runtime)
    }

    /// Asks the plugin for a pod's network, as the runtime does before anything of the pod begins.
    fn add(&self, mesh: &Mesh, index: usize) -> Result<Process> {
        let network = File::open(&self.network)?;
        let host = mesh.topology().site(node(0)).host();
        host.spawn_with("hold", self.bin_dir.join("nodemesh-hold"), |command| {
            let pod = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=first-{index}");
            command.env("CNI_COMMAND", "ADD").env("CNI_ARGS", pod).stdin(network);
        })
    }

    fn remove_hold(&self, mesh: &mut Mesh) -> Result<()> {
        self.hold(mesh, "remove")?;
        ensure!(self.networks()? == [self.conf_dir.join("10-pods.conflist")], "{:?}", self.networks()?);
        ensure!(fs::read_dir(&self.bin_dir)?.next().is_none(), "the plugin is left");
        Ok(())
    }

    fn hold(&self, mesh: &mut Mesh, verb: &str) -> Result<()> {
        let folders = [&self.conf_dir, &self.bin_dir, mesh.a().pin_dir()]
            .map(|folder: &Path| folder.display().to_string());
        let [conf_dir, bin_dir, pin_dir] = folders.each_ref();
        let words =
            ["hold", verb, "--cni-conf-dir", conf_dir, "--cni-bin-dir", bin_dir, "--pin-dir", pin_dir];
        let host = mesh.topology().site(node(0)).host();
        host.spawn("mesh-node-hold", mesh_node()?, &words)?.wait(LIMIT)?.success("mesh-node hold").map(drop)
    }

    /// The networks that there are, in the order of runtimes.
    fn networks(&self) -> Result<Vec<PathBuf>> {
        let mut files =
            fs::read_dir(&self.conf_dir)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        files.sort();
        Ok(files)
    }
}

fn batches() -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..PODS).step_by(AT_ONCE).map(|first| first..first + AT_ONCE)
}

/// A pod of a kubelet with one driver or the other.
fn spec(index: usize) -> PodSpec {
    let uid = format!("00000000-0000-4000-8000-{index:012}");
    let cgroup = match index % 2 {
        0 => format!("kubepods/besteffort/pod{uid}/1"),
        _ => {
            let burstable = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod";
            format!("{burstable}{}.slice/cri-containerd-1.scope", uid.replace('-', "_"))
        }
    };
    PodSpec::new(&format!("first-{index}")).uid(&uid).kubelet_cgroup(&cgroup)
}

/// Makes a pod, whose program begins at once.
fn begin(mesh: &mut Mesh, index: usize) -> Result<Process> {
    mesh.add_pod(node(0), spec(index))?;
    run_first(mesh, index)
}

fn run_first(mesh: &Mesh, index: usize) -> Result<Process> {
    let to = mesh.pod("server").at(ECHO).to_string();
    first(mesh, index, &["--to", &to, "--send", PLAINTEXT_MARKER])
}

fn first(mesh: &Mesh, index: usize, flags: &[&str]) -> Result<Process> {
    let limit = LIMIT.as_millis().to_string();
    let words = [&["first", "--limit-ms", &limit], flags].concat();
    mesh.pod(&format!("first-{index}")).place().spawn("first", test_pod()?, &words)
}

fn report(said: &str) -> Result<Value> {
    events(said, "first").pop().with_context(|| format!("no report: {said}"))
}

fn remove(mesh: &mut Mesh, batch: std::ops::Range<usize>) -> Result<()> {
    batch.map(|index| format!("first-{index}")).try_for_each(|name| mesh.remove_pod(&name))
}

/// What a reboot takes from a node that the mesh relies on: the agent, and with the BPF file system every program.
fn reboot(mesh: &mut Mesh) -> Result<()> {
    mesh.a().kill()?;
    let pin_dir = mesh.a().pin_dir().display().to_string();
    let host = mesh.topology().site(node(0)).host();
    let words = ["uninstall", "--verify", "--pin-dir", &pin_dir];
    host.spawn("mesh-node-uninstall", mesh_node()?, &words)?
        .wait(LIMIT)?
        .success("mesh-node uninstall")
        .map(drop)
}

/// The server's node knows each pod by its certificate, and nobody else.
fn all_had_an_identity(mesh: &mut Mesh) -> Result<()> {
    let inbound = |mesh: &mut Mesh| {
        let records = mesh.b().records().into_iter();
        records.filter(|record| record["direction"] == "inbound").collect::<Vec<_>>()
    };
    let is_known = |record: &Value| {
        let identity = record["src.identity"].as_str();
        identity.is_some_and(|identity| identity.starts_with("spiffe://cluster.local/ns/shop/sa/first-"))
    };
    let is_let_in = |record: &Value| record["verdict"] == "allowed";
    let stranger = inbound(mesh).into_iter().find(|record| is_let_in(record) && !is_known(record));
    ensure!(stranger.is_none(), "somebody came without a certificate: {stranger:?}");
    let known = |mesh: &mut Mesh| inbound(mesh).iter().filter(|record| is_known(record)).count();
    eventually_true("every pod has a record", LIMIT, || known(mesh) >= PODS).map(drop)
}
