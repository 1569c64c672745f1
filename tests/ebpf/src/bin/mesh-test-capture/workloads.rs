//! Pods as the daemon's configuration names them, kept captured by `capture::Pods`. Nothing carries their connections.

use std::io::BufRead as _;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use mesh_common::model::workload::{CanonicalNames, Exclusions};
use mesh_common::model::{Enrolment, NamespacedName, SpiffeId, TrustDomain, Workload, WorkloadUid};
use mesh_node::capture::Pods;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use smallvec::SmallVec;

use crate::say;

/// Each line is `NAME:MODE:PATH:ADDRESS` for every pod there is, the address IPv4; the answer is what changed.
pub(crate) fn serve(mut pods: Pods) -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let answer = match sync(&mut pods, &line?) {
            Ok(result) => json!({ "event": "answer", "result": result }),
            Err(error) => json!({ "event": "answer", "error": format!("{error:#}") }),
        };
        say(&answer);
    }
    Ok(())
}

fn sync(pods: &mut Pods, line: &str) -> Result<Value> {
    if line == "held" {
        return held(pods);
    }
    let workloads = line.split_whitespace().map(workload).collect::<Result<Vec<_>>>()?;
    let start = cpu_us()?;
    let changes = pods.sync(&workloads);
    let cpu_us = cpu_us()? - start;
    let names = |pods: &[Arc<mesh_node::capture::CapturedPod>]| -> Vec<String> {
        pods.iter().map(|pod| pod.workload.0.to_string()).collect()
    };
    let failed: Vec<String> =
        changes.failed.iter().map(|(uid, error)| format!("{}: {error}", uid.0)).collect();
    let outside: usize = changes.captured.iter().map(|pod| pod.connections_outside).sum();
    Ok(json!({
        "captured": names(&changes.captured), "stopped": names(&changes.stopped), "failed": failed,
        "outside": outside, "cpu_us": cpu_us,
    }))
}

/// CPU time of this thread so far.
fn cpu_us() -> Result<u64> {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Ok(u64::try_from(time.tv_sec)? * 1_000_000 + u64::try_from(time.tv_nsec)? / 1_000)
}

/// What this process holds: descriptors, namespaces in the maps, pins, kilobytes of memory.
fn held(pods: &mut Pods) -> Result<Value> {
    let status = std::fs::read_to_string("/proc/self/status").context("read the memory in use")?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let resident = resident.split_whitespace().next().unwrap_or_default();
    Ok(json!({
        "descriptors": std::fs::read_dir("/proc/self/fd").context("count descriptors")?.count(),
        "namespaces": pods.kernel().namespaces().count(),
        "resident_kb": resident.parse::<u64>().context("read VmRSS")?,
    }))
}

fn workload(text: &str) -> Result<Arc<Workload>> {
    let parts: Vec<&str> = text.split(':').collect();
    let [name, mode, path, address] = parts.as_slice() else {
        bail!("not a pod: {text}");
    };
    let enrolment = match *mode {
        "enabled" => Enrolment::Enabled,
        "disabled" => Enrolment::Disabled,
        _ => bail!("not a mode: {mode}"),
    };
    Ok(Arc::new(Workload {
        uid: WorkloadUid((*name).into()),
        name: NamespacedName::new("shop", *name),
        node: "node-a".into(),
        identity: SpiffeId::new(&TrustDomain::parse("cluster.local")?, "shop", name)?,
        addresses: SmallVec::from_iter([address.parse()?]),
        labels: Default::default(),
        netns: Some(path.into()),
        cgroup: None,
        enrolment,
        host_network: false,
        ready: true,
        terminating: false,
        exclusions: Exclusions::default(),
        probe_ports: SmallVec::new(),
        named_ports: SmallVec::new(),
        labels_for_metrics: CanonicalNames {
            workload: (*name).into(),
            service: (*name).into(),
            revision: "latest".into(),
            app: "unknown".into(),
            version: "unknown".into(),
        },
    }))
}
