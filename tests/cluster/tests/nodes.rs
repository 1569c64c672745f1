//! A cluster with nodes: pods on both, names, Services; and that nothing is left of it.

mod machine;

use std::path::Path;
use std::process::{Command, Stdio, id};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_test_cluster::cluster::Cluster;
use mesh_test_harness::eventually::{eventually, eventually_true};
use mesh_test_harness::{binary, figure};

/// How long what is killed may take to be gone, on a machine that does other work too.
const GONE: Duration = Duration::from_secs(30);
/// How long a cluster may take to come as far as its first node.
const FIRST_NODE: Duration = Duration::from_secs(120);
/// How long pods may take to be ready.
const PODS: &str = "--timeout=120s";
/// A web server on each node, and a Service for each.
const OBJECTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pods.yaml");

#[test]
fn pods_of_two_nodes_reach_each_other_by_name_and_nothing_is_left() -> Result<()> {
    let run = format!("nmt-{}-", id());
    let before = machine::everything(&run);
    let begun = Instant::now();
    let cluster = Cluster::start(2, |step| eprintln!("{step}"))?;
    let took = begun.elapsed().as_secs_f64();
    figure(&format!("a cluster of two nodes is ready after {took:.1} s"));
    cluster.kubectl(&["apply", "-f", OBJECTS])?;
    let ready = ["wait", "--for=condition=Ready", PODS, "pod", "--all"];
    cluster.kubectl(&ready).with_context(|| described(&cluster))?;
    for (from, to) in [("a", "b"), ("b", "a"), ("a", "a")] {
        reach(&cluster, from, to)?;
    }
    let processes = machine::processes(&run);
    figure(&format!("it holds {} MiB in {} processes", machine::memory(&processes), processes.len()));
    let inside = cluster.nodes().iter().map(|node| {
        let process = Path::new("/proc").join(node.process()?.to_string());
        Ok(machine::namespaces(&process))
    });
    let inside = inside.collect::<Result<Vec<_>>>()?.into_iter().flatten();
    let inside = &inside.filter(|own| !machine::namespaces(Path::new("/proc/self")).contains(own)).collect();
    let begun = Instant::now();
    drop(cluster);
    figure(&format!("it is gone after {:.1} s", begun.elapsed().as_secs_f64()));
    ensure!(machine::inhabitants(inside).is_empty(), "still there: {:?}", machine::inhabitants(inside));
    is_as_before(&run, &before)
}

#[test]
fn nothing_is_left_of_a_cluster_whose_start_is_killed() -> Result<()> {
    let mut hold = Command::new(binary::cluster()?);
    hold.args(["hold", "--nodes", "1"]).stdin(Stdio::piped()).stderr(Stdio::null());
    let mut holder = hold.spawn().context("start the process that holds a cluster")?;
    let run = format!("nmt-{}-", holder.id());
    let before = machine::everything(&format!("{run}nobody"));
    let kubelet = format!("{run}0/node-a/kubelet.json");
    let begun = eventually("a kubelet runs", FIRST_NODE, || {
        machine::processes(&run).iter().any(|process| called_with(process, &kubelet)).then_some(())
    });
    holder.kill().context("kill the process that holds a cluster")?;
    holder.wait().context("wait for it")?;
    begun?;
    is_as_before(&run, &before)
}

fn called_with(process: &Path, word: &str) -> bool {
    let words = std::fs::read(process.join("cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words).contains(word)
}

/// Asks the Service of the web server on node `to` from the pod on node `from`.
fn reach(cluster: &Cluster, from: &str, to: &str) -> Result<()> {
    let (pod, url) = (format!("web-{from}"), format!("http://web-{to}.default.svc.cluster.local/"));
    let curl = ["exec", &pod, "--", "curl", "--silent", "--show-error", "--max-time", "5", &url];
    // Rules and names follow the objects a moment later.
    let said = eventually(&format!("{pod} reaches {url}"), GONE, || cluster.kubectl(&curl).ok());
    let said = said.with_context(|| format!("{:?}\n{}", cluster.kubectl(&curl), described(cluster)))?;
    ensure!(said.trim() == format!("web-{to} on node-{to}"), "{url} answered {said}");
    Ok(())
}

fn described(cluster: &Cluster) -> String {
    let pods = cluster.kubectl(&["describe", "pods"]).unwrap_or_default();
    let all = cluster.kubectl(&["get", "pods,services,endpointslices", "--all-namespaces", "-o", "wide"]);
    format!("{pods}\n{}", all.unwrap_or_default())
}

fn is_as_before(run: &str, before: &std::collections::BTreeSet<String>) -> Result<()> {
    let now = || machine::everything(run);
    let gone = eventually_true("the machine is as it was before", GONE, || now() == *before);
    gone.map(drop).with_context(|| {
        let now = now();
        format!("more: {:#?}\nless: {:#?}", now.difference(before), before.difference(&now))
    })
}
