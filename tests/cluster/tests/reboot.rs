//! Pods that ask in their first instruction while their node's agent is replaced, and after their node lost its power: with
//! the hold nothing of them is ever in the clear. Without it how long they are is measured.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_test_cluster::first_answers::FirstAnswers;
use mesh_test_cluster::mesh::{AGENTS, MANIFESTS, Mesh, PATIENCE, SYSTEM, WAIT};
use mesh_test_cluster::node::Node;
use mesh_test_cluster::node_files::STATIC_PODS;
use mesh_test_cluster::remains;
use mesh_test_harness::capture::{Capture, Carried};
use mesh_test_harness::eventually::eventually;
use mesh_test_harness::{PLAINTEXT_MARKER, figure};
use rustix::process::{Pid, Signal, kill_process};

const PODS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pods.yaml");
const FIRST: &str = include_str!("first.yaml");
/// Made of the file above: pods with the users of their node, and each with users of its own.
const NAMES: [&str; 2] = ["first", "first-own-users"];
/// All of them.
const CALLED: &str = "app=first";
const ASKS_ON: &str = include_str!("asks-on.yaml");
const HOLDS: &str = "--selector=app.kubernetes.io/name=nodemesh-hold";
/// What it has on a node.
const FILES: [&str; 2] = ["/etc/cni/net.d/00-00-nodemesh.conflist", "/opt/cni/bin/nodemesh-hold"];
/// What a container runtime waits for while a pod is held.
const HELD: &str = "nodemesh-hold";
/// How many pods begin each time, an even number, if the variable of this name does not say: 100 are what a measurement
/// wants.
const MANY: &str = "MESH_TEST_STARTS";
const FEW: usize = 20;
/// Where the pods are; what they ask is on the other, where is listened.
const HERE: &str = "node-a";

#[test]
fn a_pod_is_not_in_the_clear_when_its_agent_or_its_node_begins_anew() -> Result<()> {
    let pods = std::env::var(MANY).ok().and_then(|text| text.parse().ok()).unwrap_or(FEW);
    let mut mesh = Mesh::install(2)?;
    prepare(&mesh).with_context(|| mesh.told())?;
    after_a_reboot_without_the_hold(&mut mesh).with_context(|| told(&mesh))?;
    put_in_the_hold(&mesh)
        .and_then(|()| while_the_agent_is_replaced(&mesh, pods))
        .with_context(|| mesh.told())?;
    after_a_reboot_with_the_hold(&mut mesh, pods).with_context(|| told(&mesh))?;
    take_out_the_hold(&mesh).with_context(|| mesh.told())
}

/// What is asked, and who asks.
fn prepare(mesh: &Mesh) -> Result<()> {
    mesh.populate(Path::new(PODS))?;
    let address = mesh.kubectl(&["get", "service", "web-b", "-o", "jsonpath={.spec.clusterIP}"])?;
    let filled = |objects: &str| objects.replace("ADDRESS", &address).replace("MARKER", PLAINTEXT_MARKER);
    let static_pod = node(mesh, HERE)?.folder().join(STATIC_PODS).join("asks-on.yaml");
    fs::write(static_pod, filled(ASKS_ON)).context("give a node a static pod")?;
    for (name, host_users) in NAMES.into_iter().zip(["true", "false"]) {
        let objects = filled(FIRST).replace("NAME", name).replace("HOST_USERS", host_users);
        let file = mesh.cluster().control_plane().kubeconfig().with_file_name(name);
        fs::write(&file, objects).context("write the objects of pods")?;
        mesh.kubectl(&["apply", "-f", &file.display().to_string()])?;
    }
    mesh.answers("web-a", &format!("http://{address}/"), "200")
}

/// A measurement: what the documents say of the window that is left.
fn after_a_reboot_without_the_hold(mesh: &mut Mesh) -> Result<()> {
    let wire = listen(mesh)?;
    mesh.cluster_mut().reboot_node(HERE)?;
    all_have_begun_again(mesh, "app=web-a", 1)?;
    let heard = wire.finish()?;
    let clear = || heard.streams.iter().filter(|stream| stream.count(PLAINTEXT_MARKER.as_bytes()) > 0);
    let times = || clear().map(|stream| stream.begun);
    let window = times().max().zip(times().min()).map_or(Duration::ZERO, |(last, first)| last - first);
    figure(&format!(
        "after a reboot without the hold {} connections of a pod are in the clear, {} bytes within {} ms",
        clear().count(),
        clear().map(|stream| stream.bytes.len()).sum::<usize>(),
        window.as_millis()
    ));
    Ok(())
}

fn put_in_the_hold(mesh: &Mesh) -> Result<()> {
    mesh.kubectl(&["apply", "-k", &format!("{MANIFESTS}/hold")])?;
    mesh.rolled_out("daemonset/nodemesh-hold")
}

fn take_out_the_hold(mesh: &Mesh) -> Result<()> {
    mesh.kubectl(&["delete", "-k", &format!("{MANIFESTS}/hold"), WAIT])?;
    mesh.kubectl(&[SYSTEM, "wait", "--for=delete", "pod", HOLDS, WAIT])?;
    for node in mesh.cluster().nodes() {
        let root = format!("/proc/{}/root", node.process()?);
        for file in FILES.map(|file| format!("{root}{file}")) {
            ensure!(!Path::new(&file).exists(), "{file} is left");
        }
    }
    Ok(())
}

/// By another one, as an update does, and by itself, as when it is killed.
fn while_the_agent_is_replaced(mesh: &Mesh, pods: usize) -> Result<()> {
    let wire = listen(mesh)?;
    let replicas = format!("--replicas={}", pods / NAMES.len());
    mesh.kubectl(&[&["scale", "deployment", &replicas], &NAMES[..]].concat())?;
    some_are_ready(mesh, pods / 4)?;
    let [agent] = remains::agents(node(mesh, HERE)?)?[..] else { anyhow::bail!("{HERE} has not one agent") };
    kill(agent)?;
    some_are_ready(mesh, pods / 2)?;
    let on_node = format!("--field-selector=spec.nodeName={HERE}");
    mesh.kubectl(&[SYSTEM, "delete", "pod", AGENTS, &on_node, "--wait=false"])?;
    some_are_ready(mesh, pods)?;
    figure(&format!("first answers while an agent is killed and replaced: {}", first_answers(mesh, pods)?));
    never_in_the_clear(&wire.finish()?)
}

fn after_a_reboot_with_the_hold(mesh: &mut Mesh, pods: usize) -> Result<()> {
    let wire = listen(mesh)?;
    mesh.cluster_mut().reboot_node(HERE)?;
    let node = node(mesh, HERE)?;
    eventually("a pod is held before there are programs", PATIENCE, || {
        let is_held = !node.processes(&[HELD]).ok()?.is_empty();
        (is_held && !remains::has_pins(node).ok()?).then_some(())
    })?;
    all_have_begun_again(mesh, CALLED, pods)?;
    figure(&format!("first answers after a reboot with the hold: {}", first_answers(mesh, pods)?));
    never_in_the_clear(&wire.finish()?)
}

/// On what comes in on the other node: the wire of one that loses its power is gone.
fn listen(mesh: &Mesh) -> Result<Capture> {
    mesh.cluster().listen(node(mesh, "node-b")?)
}

fn never_in_the_clear(heard: &Carried) -> Result<()> {
    ensure!(heard.markers() == 0, "pods were heard {} times as they began", heard.markers());
    ensure!(!heard.client_hellos().is_empty(), "nothing was heard of them at all");
    Ok(())
}

fn some_are_ready(mesh: &Mesh, pods: usize) -> Result<()> {
    eventually(&format!("{pods} pods are ready"), PATIENCE, || {
        (ready(mesh, CALLED, 0).ok()? >= pods).then_some(())
    })
}

fn all_have_begun_again(mesh: &Mesh, selector: &str, pods: usize) -> Result<()> {
    eventually(&format!("pods of {selector} have begun again and are ready"), PATIENCE, || {
        (ready(mesh, selector, 1).ok()? == pods).then_some(())
    })
}

/// How many pods are ready whose containers have begun so often again.
fn ready(mesh: &Mesh, selector: &str, restarts: usize) -> Result<usize> {
    let each = "{range .items[*].status.containerStatuses[0]}{.restartCount} {.ready}{\"\\n\"}{end}";
    let path = format!("jsonpath={each}");
    let said = mesh.kubectl(&["get", "pods", "--selector", selector, "-o", &path])?;
    let is_ready = |line: &&str| {
        line.split_once(' ').is_some_and(|(count, ready)| {
            ready == "true" && count.parse::<usize>().is_ok_and(|count| count >= restarts)
        })
    };
    Ok(said.lines().filter(is_ready).count())
}

fn first_answers(mesh: &Mesh, pods: usize) -> Result<FirstAnswers> {
    let limit = format!("--max-log-requests={pods}");
    let said = mesh.kubectl(&["logs", "--selector", CALLED, "--container=asks", "--tail=-1", &limit])?;
    FirstAnswers::read(&said, pods)
}

/// What the mesh says, and the node itself.
fn told(mesh: &Mesh) -> String {
    mesh.told() + &node(mesh, HERE).map(Node::tail).unwrap_or_default()
}

fn kill(process: u32) -> Result<()> {
    let process = i32::try_from(process).ok().and_then(Pid::from_raw).context("a process has an id")?;
    kill_process(process, Signal::KILL).context("kill an agent")
}

fn node<'a>(mesh: &'a Mesh, name: &str) -> Result<&'a Node> {
    let mut nodes = mesh.cluster().nodes().iter();
    nodes.find(|node| node.name() == name).with_context(|| format!("find a node {name}"))
}
