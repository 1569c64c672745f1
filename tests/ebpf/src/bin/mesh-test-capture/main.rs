//! Stands in for the daemon in kernel tests: captures pods with the daemon's own `kernel` and `capture` modules, and
//! carries their connections in the clear.
//!
//! Each line on standard input is a command; each line on standard output is a JSON object with the key `event`.

mod pods;
mod relay;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead as _;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use mesh_node::capture::Pods;
use mesh_node::kernel::{Kernel, KernelConfig, KernelReport, RefusedSockets, uninstall};
use serde_json::{Value, json};

use crate::pods::{Pod, parse_pod};

#[derive(Parser)]
struct Arguments {
    /// As of the agent
    #[arg(long)]
    cgroup_root: PathBuf,
    /// As of the agent
    #[arg(long)]
    agent_cgroup: PathBuf,
    /// As of the agent
    #[arg(long)]
    pin_dir: PathBuf,
    /// Connects of pods that are not known yet pass
    #[arg(long)]
    unknown_pods_pass: bool,
    /// Enrolled pods may make RAW sockets
    #[arg(long)]
    allow_raw: bool,
    /// Be told about whole pods, as the agent is by its configuration: each line names all of them
    #[arg(long)]
    by_workload: bool,
    /// Remove what is pinned and say what is left, instead of capturing
    #[arg(long)]
    uninstall: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.uninstall {
        let done = uninstall(&arguments.pin_dir)?;
        say(&json!({ "event": "uninstalled", "removed": done.removed, "left": done.left }));
        return Ok(());
    }
    let report = KernelReport::probe();
    let kernel = Kernel::load(&config(&arguments))?;
    if arguments.by_workload {
        say(&json!({ "event": "ready", "kernel": report.to_string() }));
        return workloads::serve(Pods::new(kernel));
    }
    let mut stand = Stand { kernel, pods: BTreeMap::new() };
    say(&json!({ "event": "ready", "kernel": report.to_string() }));
    for line in std::io::stdin().lock().lines() {
        let answer = match stand.run(&line?) {
            Ok(result) => json!({ "event": "answer", "result": result }),
            Err(error) => json!({ "event": "answer", "error": format!("{error:#}") }),
        };
        say(&answer);
    }
    Ok(())
}

fn config(arguments: &Arguments) -> KernelConfig {
    KernelConfig {
        cgroup_root: arguments.cgroup_root.clone(),
        agent_cgroup: arguments.agent_cgroup.clone(),
        pin_dir: arguments.pin_dir.clone(),
        unknown_pods_pass: arguments.unknown_pods_pass,
        refused_sockets: RefusedSockets { raw: !arguments.allow_raw, transports: true },
    }
}

pub(crate) fn say(value: &Value) {
    println!("{value}");
}

struct Stand {
    kernel: Kernel,
    pods: BTreeMap<String, Pod>,
}

impl Stand {
    fn run(&mut self, line: &str) -> Result<Value> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["hold", name, path, addresses, extra @ ..] => self.hold(name, path, addresses, extra),
            ["capture", name] => self.capture(name),
            ["pass", name] => {
                let pod = self.pods.get_mut(*name).context("no such pod")?;
                self.kernel.pass(pod.namespace.cookie(), &pod.facts)?;
                pod.stop();
                Ok(Value::Null)
            }
            ["release", name] => {
                let pod = self.pods.remove(*name).context("no such pod")?;
                Ok(json!(self.kernel.release(pod.namespace.cookie())?))
            }
            ["retain"] => {
                let live: BTreeSet<u64> = self.pods.values().map(|pod| pod.namespace.cookie()).collect();
                Ok(json!(self.kernel.retain(&live)?))
            }
            ["namespaces"] => Ok(json!(self.kernel.namespaces().count())),
            ["detached"] => Ok(json!(self.kernel.detached())),
            ["repair"] => Ok(json!(self.kernel.repair()?)),
            ["verdicts"] => Ok(self.verdicts()),
            ["refusals"] => Ok(self.refusals()),
            ["costs"] => Ok(self.costs()),
            ["descriptors"] => Ok(json!(std::fs::read_dir("/proc/self/fd")?.count())),
            _ => bail!("no such command"),
        }
    }

    fn hold(&mut self, name: &str, path: &str, addresses: &str, extra: &[&str]) -> Result<Value> {
        let pod = parse_pod(path, addresses, extra)?;
        self.kernel.hold(pod.namespace.cookie(), pod.namespace.as_fd(), &pod.facts)?;
        let cookie = pod.namespace.cookie();
        self.pods.insert(name.to_owned(), pod);
        Ok(json!(cookie))
    }

    fn capture(&mut self, name: &str) -> Result<Value> {
        let pod = self.pods.get_mut(name).context("no such pod")?;
        pod.capture(&mut self.kernel)?;
        Ok(json!(pod.ports()))
    }

    fn verdicts(&self) -> Value {
        let counts = self.kernel.verdicts();
        counts.iter().map(|count| (count.verdict.reason().to_owned(), json!(count.count))).collect()
    }

    fn refusals(&mut self) -> Value {
        let refusals = self.kernel.refusals(10_000);
        let text = |address: Option<std::net::SocketAddr>| address.map(|address| address.to_string());
        refusals
            .iter()
            .map(|refusal| {
                json!({
                    "reason": refusal.reason, "source": text(refusal.source),
                    "destination": text(refusal.destination), "netns_cookie": refusal.netns_cookie,
                })
            })
            .collect()
    }

    fn costs(&self) -> Value {
        let costs = self.kernel.program_costs();
        costs
            .iter()
            .map(|cost| {
                json!({ "name": cost.name, "verified": cost.verified_instructions, "bytes": cost.bytes })
            })
            .collect()
    }
}
