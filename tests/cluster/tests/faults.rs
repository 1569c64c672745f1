//! The mesh while parts of it and of its cluster are away: agents that are replaced, a node that dies, an API server that
//! is silent, controllers that are gone. Pods are served or refused, and nothing is said in the clear.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use mesh_test_cluster::load::{Load, Outcome};
use mesh_test_cluster::mesh::{AGENTS, Mesh, PATIENCE, SYSTEM, WAIT};
use mesh_test_cluster::node::Node;
use mesh_test_cluster::remains;
use mesh_test_harness::eventually::eventually;
use mesh_test_harness::figure;
use rustix::process::{Pid, Signal, kill_process};

/// A web server on each of two nodes, and a Service for each.
const PODS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pods.yaml");
/// The same on a third.
const THIRD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/third.yaml");
/// Only certificates, and nobody is allowed anything.
const CLOSED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/closed.yaml");
const CONTROLLERS: &str = "--selector=app.kubernetes.io/name=nodemesh-controller";
/// How long pods of a node may be without an agent that is being replaced: its end, its image's start, and its own.
const REPLACED: f64 = 30.0;

#[test]
fn pods_are_served_or_refused_while_parts_are_away() -> Result<()> {
    let mut mesh = Mesh::install(3)?;
    mesh.populate(Path::new(PODS))
        .and_then(|()| mesh.populate(Path::new(THIRD)))
        .with_context(|| mesh.told())?;
    for (from, to) in [("a", "b"), ("b", "a"), ("a", "c"), ("c", "b")] {
        mesh.answers(&pod(from), &url(&mesh, to)?, "200").with_context(|| mesh.told())?;
    }
    replaced(&mesh).with_context(|| mesh.told())?;
    all_controllers_are_lost(&mesh).with_context(|| mesh.told())?;
    a_node_dies(&mut mesh).with_context(|| mesh.told())?;
    nobody_says_what_an_end_means(&mesh).with_context(|| mesh.told())?;
    without_controllers(&mesh).with_context(|| mesh.told())
}

/// A rolling update of the agents, under load between two nodes.
fn replaced(mesh: &Mesh) -> Result<()> {
    let wire = mesh.cluster().listen(node(mesh, "node-a")?)?;
    let loads = [("a", "b"), ("b", "a")].map(|(from, to)| begin(mesh, from, to, "replaced"));
    mesh.kubectl(&[SYSTEM, "rollout", "restart", "daemonset/nodemesh-agent"])?;
    mesh.rolled_out("daemonset/nodemesh-agent")?;
    for (from, to) in [("a", "b"), ("b", "a")] {
        mesh.answers(&pod(from), &url(mesh, to)?, "200")?;
    }
    for load in loads {
        let outcome = load?.stop(mesh.cluster())?;
        figure(&format!("while the agents were replaced, {outcome}"));
        ensure!(outcome.longest < REPLACED, "{outcome}: {:?}", outcome.statuses);
    }
    ensure!(wire.finish()?.markers() == 0, "while agents were replaced pods were heard on the wire");
    Ok(())
}

/// Others come up, with nobody in the mesh to ask whether they may; pods are served meanwhile, and what is said then is in
/// force.
fn all_controllers_are_lost(mesh: &Mesh) -> Result<()> {
    let load = begin(mesh, "a", "b", "lost")?;
    let before = controllers(mesh)?;
    let lost: Vec<&str> = before.lines().collect();
    ensure!(lost.len() == 2, "not two controllers: {before}");
    mesh.kubectl(&[&[SYSTEM, "delete", "--force", "--grace-period=0"], &lost[..]].concat())?;
    eventually("other controllers are made", PATIENCE, || {
        let made = controllers(mesh).ok()?;
        (made.lines().count() == 2 && !made.lines().any(|pod| lost.contains(&pod))).then_some(())
    })?;
    mesh.kubectl(&[SYSTEM, "wait", "--for=condition=Ready", WAIT, "pod", CONTROLLERS])?;
    unharmed("both controllers were lost and replaced", &load.stop(mesh.cluster())?)?;
    mesh.kubectl(&["apply", "-f", CLOSED])?;
    mesh.answers("web-a", &url(mesh, "b")?, "403")?;
    mesh.kubectl(&["delete", "-f", CLOSED])?;
    mesh.answers("web-a", &url(mesh, "b")?, "200")
}

fn controllers(mesh: &Mesh) -> Result<String> {
    mesh.kubectl(&[SYSTEM, "get", "pods", CONTROLLERS, "-o", "name"])
}

/// The pods of the other nodes do not notice.
fn a_node_dies(mesh: &mut Mesh) -> Result<()> {
    let loads = [("a", "b"), ("b", "a")].map(|(from, to)| begin(mesh, from, to, "death"));
    mesh.cluster_mut().kill_node("node-c")?;
    mesh.kubectl(&["wait", "--for=condition=Ready=false", WAIT, "pod/web-c"])?;
    for load in loads {
        unharmed("a node died", &load?.stop(mesh.cluster())?)?;
    }
    // Whom nothing answers is told so.
    mesh.answers("web-a", &url(mesh, "c")?, "503")
}

/// An agent is told to stop, and the API server does not say whether another comes: its pods stay closed.
fn nobody_says_what_an_end_means(mesh: &Mesh) -> Result<()> {
    let here = node(mesh, "node-a")?;
    let wire = mesh.cluster().listen(here)?;
    let load = begin(mesh, "a", "b", "silent")?;
    let [agent] = remains::agents(here)?[..] else { anyhow::bail!("node-a has not one agent") };
    mesh.cluster().control_plane().pause_api_server()?;
    let ended = stop(agent).and_then(|()| gone(here, agent));
    let has_pins = remains::has_pins(here);
    mesh.cluster().control_plane().resume_api_server()?;
    ended?;
    ensure!(has_pins?, "an agent that was not told removed its pins");
    mesh.answers("web-a", &url(mesh, "b")?, "200")?;
    let outcome = load.stop(mesh.cluster())?;
    figure(&format!("while an agent and the API server were away, {outcome}"));
    ensure!(wire.finish()?.markers() == 0, "without an agent a pod was heard on the wire");
    let said = mesh.kubectl(&[SYSTEM, "logs", "--previous", &agent_on(mesh, "node-a")?])?;
    ensure!(said.contains("whether the mesh is being removed is not known"), "{said}");
    Ok(())
}

/// No controller is left. Pods are served on, and what takes the mesh away is not theirs to say.
fn without_controllers(mesh: &Mesh) -> Result<()> {
    let load = begin(mesh, "a", "b", "alone")?;
    mesh.kubectl(&[SYSTEM, "scale", "deployment/nodemesh-controller", "--replicas=0"])?;
    let nodes = [node(mesh, "node-a")?, node(mesh, "node-b")?];
    eventually("the controllers are gone", PATIENCE, || {
        let left = nodes.iter().map(|node| node.processes(&["mesh-node", "controller"]));
        left.collect::<Result<Vec<_>>>().is_ok_and(|left| left.concat().is_empty()).then_some(())
    })?;
    // A stream that is gone is noticed, and begun anew, in this time.
    let noticed = eventually("an agent says that nobody tells it anything", PATIENCE, || {
        log_of(mesh, "node-a").is_ok_and(|log| log.contains("no stream from the controller")).then_some(())
    });
    unharmed("no controller was there", &load.stop(mesh.cluster())?)?;
    noticed?;
    let held = remains::held(nodes)?;
    mesh.kubectl(&["delete", "namespace", "nodemesh-system", "--wait=false"])?;
    eventually("no agent is left", PATIENCE, || {
        let left = nodes.iter().map(|node| remains::agents(node));
        left.collect::<Result<Vec<_>>>().is_ok_and(|left| left.concat().is_empty()).then_some(())
    })?;
    remains::none_on(nodes, &held)?;
    mesh.answers("web-a", &url(mesh, "b")?, "200")
}

fn begin(mesh: &Mesh, from: &str, to: &str, name: &str) -> Result<Load> {
    Load::start(mesh.cluster(), &pod(from), name, &url(mesh, to)?)
}

fn unharmed(when: &str, outcome: &Outcome) -> Result<()> {
    figure(&format!("while {when}, {outcome}"));
    ensure!(outcome.failed == 0, "while {when}, {outcome}: {:?}", outcome.statuses);
    Ok(())
}

fn stop(process: u32) -> Result<()> {
    let process = i32::try_from(process).ok().and_then(Pid::from_raw).context("a process has an id")?;
    kill_process(process, Signal::TERM).context("tell an agent to stop")
}

fn gone(node: &Node, agent: u32) -> Result<()> {
    eventually("an agent has ended", PATIENCE, || {
        remains::agents(node).is_ok_and(|agents| !agents.contains(&agent)).then_some(())
    })
}

fn agent_on(mesh: &Mesh, node: &str) -> Result<String> {
    let on = format!("--field-selector=spec.nodeName={node}");
    mesh.kubectl(&[SYSTEM, "get", "pods", AGENTS, &on, "-o", "name"]).map(|name| name.trim().to_owned())
}

fn log_of(mesh: &Mesh, node: &str) -> Result<String> {
    mesh.kubectl(&[SYSTEM, "logs", &agent_on(mesh, node)?])
}

fn node<'a>(mesh: &'a Mesh, name: &str) -> Result<&'a Node> {
    let mut nodes = mesh.cluster().nodes().iter();
    nodes.find(|node| node.name() == name).with_context(|| format!("find a node {name}"))
}

fn pod(name: &str) -> String {
    format!("web-{name}")
}

/// By the Service's address: the name server may have been on the node that died.
fn url(mesh: &Mesh, to: &str) -> Result<String> {
    let service = mesh.kubectl(&["get", "service", &pod(to), "-o", "jsonpath={.spec.clusterIP}"])?;
    Ok(format!("http://{service}/"))
}
