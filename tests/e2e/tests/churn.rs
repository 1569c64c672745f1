//! Pods come and go by the thousand: afterwards the agents hold what they held before.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::DirEntry;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_test_e2e::{ECHO, at, pair};
use mesh_test_harness::eventually::eventually;
use mesh_test_harness::mesh::Mesh;
use mesh_test_harness::netns::{FOLDER, ip_batch};
use mesh_test_harness::servers::Kind;
use mesh_test_harness::topology::{NODES, WIRE};

/// Names how many pods come and go, instead of a thousand: `MESH_TEST_CHURN=10000`.
const VARIABLE: &str = "MESH_TEST_CHURN";
const USUALLY: usize = 1_000;
/// How many there are at a time: a quarter of all, and never more than this.
const MOST_AT_ONCE: usize = 1_000;
/// Longest time for one batch to be captured, or forgotten: some milliseconds for each pod, and the machine's moods.
const LIMIT: Duration = Duration::from_secs(120);
/// What may be left: memory that the allocator keeps for the next pods. A leak of 2 kB per pod is above it.
const LEFT_KIB: u64 = 2_048;

/// Looks in a row, some milliseconds each, that find the same: longer than a trial of capture takes.
const AT_REST: usize = 50;

/// What one agent holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holdings {
    /// Open descriptors by what they are: sockets, namespaces, maps, programs, links.
    descriptors: BTreeMap<String, usize>,
    /// Without those that the runtime lends to what waits, and takes back ten seconds later.
    threads: usize,
    /// Programs pinned into pods' network namespaces.
    pins: usize,
    certificates: usize,
}

#[test]
fn pods_that_come_and_go_leave_nothing_behind() {
    let total = std::env::var(VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(USUALLY);
    let at_once = (total / 4).clamp(1, MOST_AT_ONCE);
    pair().capture_only(WIRE).run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let held = mesh.pod("client").hold(at(ECHO))?;
        // Once round before counting, for what is allocated once.
        let base = settled(mesh, NODES[0])?;
        churn(mesh, at_once, &base)?;
        let before = [settled(mesh, NODES[0])?, settled(mesh, NODES[1])?];
        let memory_before = [resident_kib(mesh, NODES[0])?, resident_kib(mesh, NODES[1])?];
        let mut slowest = Duration::ZERO;
        for _ in (0..total).step_by(at_once) {
            slowest = slowest.max(churn(mesh, at_once, &base)?);
        }
        for (index, node) in NODES.into_iter().enumerate() {
            wait(mesh, node, "it holds what it held before", |now| *now == before[index])?;
            let (then, now) = (memory_before[index], resident_kib(mesh, node)?);
            mesh_test_harness::figure(&format!(
                "{node}: {total} pods, {at_once} at once; {:.1} ms each until captured, at most; {then} KiB before, \
                 {now} KiB after",
                slowest.as_secs_f64() * 1000.0 / at_once as f64
            ));
            ensure!(now < then + LEFT_KIB, "{node} had {then} KiB, and has {now} now");
        }
        held.finish().map(drop)
    });
}

/// Makes pods, waits until the agent holds each, deletes them, waits until it holds none: the time until captured.
fn churn(mesh: &Mesh, count: usize, base: &Holdings) -> Result<Duration> {
    let prefix = mesh.topology().run().name();
    let names: Vec<String> = (0..count).map(|number| format!("{prefix}-churn{number}")).collect();
    let lines = |verb: &str| names.iter().map(|name| format!("netns {verb} {name}")).collect::<Vec<_>>();
    ip_batch(&lines("add"))?;
    let start = Instant::now();
    mesh.config().write("churn", &objects(&names)?)?;
    let is_captured = |now: &Holdings| {
        now.pins == base.pins + count
            && now.certificates == base.certificates + count
            && listens(now, base, count)
    };
    wait(mesh, NODES[0], "every pod is captured", is_captured)?;
    let took = start.elapsed();
    mesh.config().remove("churn")?;
    wait(mesh, NODES[0], "every pod is forgotten", |now| now == base)?;
    ip_batch(&lines("delete"))?;
    Ok(took)
}

/// A listener per direction at least, and the namespace itself. Loopback is down in these pods: they have no IPv6.
fn listens(now: &Holdings, base: &Holdings, count: usize) -> bool {
    let more =
        |kind: &str| now.descriptors.get(kind).unwrap_or(&0) - base.descriptors.get(kind).unwrap_or(&0);
    more("socket") >= 2 * count && more("namespace") >= count
}

fn wait(mesh: &Mesh, node: &str, reason: &str, wanted: impl Fn(&Holdings) -> bool) -> Result<()> {
    let mut last = None;
    let found = eventually(&format!("{node}: {reason}"), LIMIT, || {
        last = holdings(mesh, node).ok();
        last.as_ref().is_some_and(&wanted).then_some(())
    });
    found.with_context(|| format!("the agent holds {last:?}"))
}

fn objects(names: &[String]) -> Result<String> {
    let mut yaml = String::new();
    for (index, name) in names.iter().enumerate() {
        write!(
            yaml,
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: shop\n  uid: {name}\n  \
             annotations:\n    nodemesh.dev/netns: {}\nspec:\n  nodeName: node-a\n  serviceAccountName: {name}\n  \
             containers: []\nstatus:\n  phase: Running\n  podIP: 10.78.{}.{}\n",
            Path::new(FOLDER).join(name).display(),
            index / 200,
            index % 200 + 1,
        )?;
    }
    Ok(yaml)
}

/// What an agent holds when nothing is under way: a trial of capture, or a file that is read.
fn settled(mesh: &Mesh, node: &str) -> Result<Holdings> {
    let (mut last, mut times) = (None, 0);
    eventually(&format!("{node} is at rest"), LIMIT, || {
        let now = holdings(mesh, node).ok();
        times = if now == last { times + 1 } else { 0 };
        last = now;
        (times >= AT_REST).then(|| last.clone()).flatten()
    })
}

fn holdings(mesh: &Mesh, node: &str) -> Result<Holdings> {
    let agent = mesh.node(node);
    let process = Path::new("/proc").join(agent.id().to_string());
    let mut descriptors = BTreeMap::new();
    for entry in std::fs::read_dir(process.join("fd"))?.flatten() {
        // One that was closed meanwhile is gone.
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        // `socket:[12]` and `anon_inode:bpf-map` by their kind, other files by their path.
        let is_namespace = target.starts_with(FOLDER);
        let kind = if is_namespace { "namespace" } else { target.split(":[").next().unwrap_or_default() };
        *descriptors.entry(kind.to_owned()).or_default() += 1;
    }
    Ok(Holdings {
        descriptors,
        threads: std::fs::read_dir(process.join("task"))?.flatten().filter(is_its_own).count(),
        pins: std::fs::read_dir(agent.pin_dir().join("namespaces"))?.count(),
        certificates: agent.metrics()?.sum("nodemesh_identity_usable_certificates", &[]) as usize,
    })
}

fn is_its_own(task: &DirEntry) -> bool {
    std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() != "tokio-rt-worker")
}

fn resident_kib(mesh: &Mesh, node: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", mesh.node(node).id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("memory is told")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
