//! The commands: pods are changed one by one or all at once, always through `capture::Pods`, as the agent does it.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use mesh_common::model::{Enrolment, Workload};
use mesh_node::capture::{CapturedPod, PodChanges, Pods};
use mesh_node::kernel::Kernel;
use mesh_node::telemetry::chain::Chain;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::relay::Relays;
use crate::workloads::{described, named};

pub(crate) struct Stand {
    pods: Pods,
    /// What the configuration says.
    wanted: BTreeMap<String, Arc<Workload>>,
    /// Pods with listeners, and those who serve these.
    open: BTreeMap<String, (Arc<CapturedPod>, Option<Relays>)>,
}

impl Stand {
    pub(crate) fn new(pods: Pods) -> Self {
        Self { pods, wanted: BTreeMap::new(), open: BTreeMap::new() }
    }

    pub(crate) fn run(&mut self, line: &str) -> Result<Value> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["hold", name, path, addresses, facts @ ..] => {
                self.want(described(name, path, addresses, facts)?)
            }
            ["capture", name] => self.capture(name),
            ["pass", name] => {
                let known = self.wanted.get(*name).context("no such pod")?;
                self.want(Workload { enrolment: Enrolment::Disabled, ..known.as_ref().clone() })
            }
            ["release", name] => {
                self.wanted.remove(*name);
                self.sync_all()
            }
            ["sync"] => self.sync_all(),
            ["all", pods @ ..] => self.all(pods),
            ["outside"] => {
                self.pods.look_outside(1_000);
                Ok(json!(self.pods.connections_outside()))
            }
            ["held"] => self.held(),
            [question] => self.ask(question),
            _ => bail!("no such command"),
        }
    }

    fn ask(&mut self, question: &str) -> Result<Value> {
        let kernel = self.pods.kernel();
        match question {
            "namespaces" => Ok(json!(kernel.namespaces().count())),
            "detached" => Ok(json!(kernel.detached())),
            "repair" => Ok(json!(kernel.repair()?)),
            "verdicts" => {
                let counts = kernel.verdicts();
                Ok(counts
                    .iter()
                    .map(|count| (count.verdict.reason().to_owned(), json!(count.count)))
                    .collect())
            }
            "refusals" => Ok(refusals(kernel)),
            "costs" => Ok(costs(kernel)),
            _ => bail!("no such command"),
        }
    }

    /// Changes one pod, or makes it. What became of others is theirs.
    fn want(&mut self, workload: Workload) -> Result<Value> {
        let name = workload.name.clone();
        self.wanted.insert(name.name.to_string(), Arc::new(workload));
        match self.sync().failed.iter().find(|(workload, _)| workload.name == name) {
            Some((_, error)) => bail!("{name}: {}", Chain(error)),
            None => Ok(Value::Null),
        }
    }

    fn sync_all(&mut self) -> Result<Value> {
        match self.sync().failed.first() {
            Some((workload, error)) => bail!("{}: {}", workload.name, Chain(error)),
            None => Ok(Value::Null),
        }
    }

    fn sync(&mut self) -> PodChanges {
        let changes = self.pods.sync(self.wanted.values());
        for pod in &changes.stopped {
            self.open.remove(&*pod.workload.name.name);
        }
        for pod in &changes.opened {
            self.open.insert(pod.workload.name.name.to_string(), (Arc::clone(pod), None));
        }
        changes
    }

    /// Carries a pod's connections from now on: the ports of its listeners.
    fn capture(&mut self, name: &str) -> Result<Value> {
        let (pod, relays) = self.open.get_mut(name).context("no such pod")?;
        if relays.is_none() {
            self.pods.capture(pod)?;
            let kernel = self.pods.kernel();
            *relays = Some(Relays::start(pod, &kernel.original_dsts(), &kernel.callers()));
        }
        Ok(pod.listeners.iter().map(|listener| listener.port()).collect())
    }

    /// Every pod there is, all at once; nothing carries their connections. The answer is what changed.
    fn all(&mut self, pods: &[&str]) -> Result<Value> {
        let workloads = pods.iter().map(|pod| named(pod)).collect::<Result<Vec<_>>>()?;
        self.wanted = workloads.into_iter().map(|pod| (pod.name.name.to_string(), Arc::new(pod))).collect();
        let start = cpu_us()?;
        let changes = self.sync();
        for pod in &changes.opened {
            self.pods.capture(pod)?;
        }
        let cpu_us = cpu_us()? - start;
        let names = |pods: &[Arc<CapturedPod>]| -> Vec<String> {
            pods.iter().map(|pod| pod.workload.name.name.to_string()).collect()
        };
        let failed: Vec<String> =
            changes.failed.iter().map(|(pod, error)| format!("{}: {error}", pod.name)).collect();
        Ok(json!({
            "captured": names(&changes.opened), "stopped": names(&changes.stopped), "failed": failed,
            "unreleased": changes.unreleased.len(), "outside": self.pods.connections_outside(), "cpu_us": cpu_us,
        }))
    }

    /// What this process holds: descriptors, namespaces in the maps, kilobytes of memory.
    fn held(&mut self) -> Result<Value> {
        let status = std::fs::read_to_string("/proc/self/status").context("read the memory in use")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        let resident = resident.split_whitespace().next().unwrap_or_default();
        Ok(json!({
            "descriptors": std::fs::read_dir("/proc/self/fd").context("count descriptors")?.count(),
            "namespaces": self.pods.kernel().namespaces().count(),
            "resident_kb": resident.parse::<u64>().context("read VmRSS")?,
        }))
    }
}

/// CPU time of this thread so far.
fn cpu_us() -> Result<u64> {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Ok(u64::try_from(time.tv_sec)? * 1_000_000 + u64::try_from(time.tv_nsec)? / 1_000)
}

fn refusals(kernel: &mut Kernel) -> Value {
    let text = |address: Option<std::net::SocketAddr>| address.map(|address| address.to_string());
    let refusals = kernel.refusals(10_000);
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

fn costs(kernel: &Kernel) -> Value {
    let costs = kernel.program_costs();
    costs
        .iter()
        .map(|cost| json!({ "name": cost.name, "verified": cost.verified_instructions, "bytes": cost.bytes }))
        .collect()
}
