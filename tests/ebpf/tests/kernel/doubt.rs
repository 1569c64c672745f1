//! Pods whose processes are in several network namespaces, which they can make and give any address.

use std::time::Duration;

use anyhow::{Context as _, Result};
use mesh_test_ebpf::stand::Stand;
use mesh_test_harness::binary::test_pod;
use mesh_test_harness::eventually::{PATIENCE, eventually_true};
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::pod::Pod;
use mesh_test_harness::process::Process;
use mesh_test_harness::servers::{Kind, events};
use mesh_test_harness::topology::Topology;
use serde_json::{Value, json};

use crate::stand;

/// A pod of a kubelet on node A, beside one that has an annotation, and a server on node B.
fn pods() -> Result<Topology> {
    let client = PodSpec::new("client").kubelet_cgroup("kubepods/podclient/1");
    Topology::two_nodes(vec![client, PodSpec::new("other")], vec![PodSpec::new("web")])
}

fn told(pod: &Pod, mode: &str) -> String {
    let path = match pod.name() {
        "client" => "-".to_owned(),
        _ => pod.place().netns().path().display().to_string(),
    };
    format!("{}:{mode}:{path}:{}", pod.name(), pod.ip())
}

/// A process of the pod in a namespace that it makes, with the pod's address, if `flags` let it.
fn elsewhere(pod: &Pod, flags: &[&str]) -> Result<Process> {
    let script =
        format!("ip link set lo up && ip address add {}/32 dev lo && echo made; exec sleep 600", pod.ip());
    let words = [flags, &["--net", "sh", "-c", &script]].concat();
    let process = pod.place().spawn("elsewhere", "unshare", &words)?;
    eventually_true("the pod has made a namespace", PATIENCE, || process.stdout().contains("made"))?;
    Ok(process)
}

/// How a connect is refused to a process of the pod in the namespace of another.
fn refusal_at(pod: &Pod, process: &Process, to: &Pod) -> Result<String> {
    let namespace = format!("--net=/proc/{}/ns/net", process.id());
    let (program, to) = (test_pod()?.display().to_string(), to.at(8080).to_string());
    let words = [&namespace, &program, "dial", "--to", &to];
    let said = pod.place().spawn("dial", "nsenter", &words)?.wait(PATIENCE)?.success("a dial")?;
    let refused = events(&said, "refused").pop().with_context(|| format!("not refused: {said}"))?;
    Ok(refused["how"].as_str().unwrap_or_default().to_owned())
}

fn sandbox(pod: &Pod) -> Result<Process> {
    pod.place().spawn("sandbox", "sleep", &["600"])
}

fn failure(changes: &Value) -> Result<&str> {
    changes["failed"][0].as_str().with_context(|| format!("nothing fails: {changes}"))
}

#[test]
fn a_pod_that_has_its_address_twice_is_where_only_its_runtime_could_put_it() -> Result<()> {
    let topology = pods()?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let _server = web.serve(Kind::Echo, 8080)?;
    // Older than what is the pod's.
    let _elsewhere = elsewhere(client, &["--user", "--map-root-user"])?;
    let _sandbox = sandbox(client)?;
    let mut stand = stand(&topology, 0, &[])?;
    let changes = stand.all(&told(client, "enabled"))?;
    assert_eq!((&changes["captured"], &changes["failed"]), (&json!(["client"]), &json!([])));
    assert_eq!(stand.tell("namespaces")?, 1);
    Ok(())
}

#[test]
fn in_doubt_a_pod_is_held_wherever_it_may_be_and_nowhere_else_afterwards() -> Result<()> {
    let topology = pods()?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let server = web.serve(Kind::Echo, 8080)?;
    let mut elsewhere = elsewhere(client, &[])?;
    let _sandbox = sandbox(client)?;
    // Nothing but what holds the pod refuses anything.
    let mut stand = stand(&topology, 0, &["--unknown-pods-pass"])?;
    for _ in 0..2 {
        let changes = stand.all(&told(client, "enabled"))?;
        assert!(failure(&changes)?.contains("in doubt"), "{changes}");
        assert_eq!(stand.tell("namespaces")?, 2);
    }
    let outcome = client.dial(web.at(8080)).run()?;
    assert_eq!(outcome.refusal(), Some("not permitted"), "{outcome:?}");
    assert_eq!(refusal_at(client, &elsewhere, web)?, "not permitted");
    elsewhere.kill()?;
    assert_eq!(stand.all(&told(client, "enabled"))?["captured"], json!(["client"]));
    eventually_true("what it made is let go when it has ended", PATIENCE, || {
        stand.all(&told(client, "enabled")).is_ok() && stand.tell("namespaces").is_ok_and(|count| count == 1)
    })?;
    assert_eq!(server.connections(), 0);
    Ok(())
}

#[test]
fn who_says_that_it_is_a_static_pod_is_where_it_has_its_address() -> Result<()> {
    let topology = pods()?;
    let client = topology.pod("client");
    let _sandbox = sandbox(client)?;
    let mut stand = stand(&topology, 0, &[])?;
    // Somebody's annotations say so; the kubelet gives it no address.
    let claim = "claim:disabled:=client:";
    for _ in 0..2 {
        assert_eq!(stand.all(claim)?["captured"], json!([]));
        assert_eq!(stand.tell("namespaces")?, 0);
    }
    let real = format!("real:enabled:=client:{}", client.ip());
    let changes = stand.all(&format!("{claim} {real}"))?;
    assert_eq!((&changes["captured"], &changes["failed"]), (&json!(["real"]), &json!([])));
    Ok(())
}

#[test]
fn a_pod_that_hides_its_processes_stays_held_where_it_was() -> Result<()> {
    let topology = pods()?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let server = web.serve(Kind::Echo, 8080)?;
    let mut sandbox = sandbox(client)?;
    let mut stand = stand(&topology, 0, &["--unknown-pods-pass"])?;
    assert_eq!(stand.all(&told(client, "enabled"))?["captured"], json!(["client"]));
    // All that is seen of it is in a namespace that it made; the first one lives on.
    let _elsewhere = elsewhere(client, &[])?;
    sandbox.kill()?;
    for captured in [json!(["client"]), json!([])] {
        assert_eq!(stand.all(&told(client, "enabled"))?["captured"], captured);
        let outcome = client.dial(web.at(8080)).run()?;
        assert_eq!(outcome.refusal(), Some("not permitted"), "{outcome:?}");
    }
    assert_eq!(server.connections(), 0);
    // A pod that goes, or that is outside the mesh, is held nowhere.
    stand.all(&told(client, "disabled"))?;
    client.echo(web.at(8080))?;
    stand.all("")?;
    assert_eq!(stand.tell("namespaces")?, 0);
    Ok(())
}

#[test]
fn a_pod_in_doubt_stays_held_where_no_other_is_found() -> Result<()> {
    let topology = pods()?;
    let (client, other, web) = (topology.pod("client"), topology.pod("other"), topology.pod("web"));
    let server = web.serve(Kind::Echo, 8080)?;
    let elsewhere = elsewhere(client, &[])?;
    let _sandbox = sandbox(client)?;
    let mut stand = stand(&topology, 0, &["--unknown-pods-pass"])?;
    let first = stand.all(&told(client, "enabled"))?;
    assert!(failure(&first)?.contains("in doubt"), "{first}");
    // Of the two the older one, which is taken for the pod's until more is known.
    let taken = format!("other:enabled:/proc/{}/ns/net:{}", elsewhere.id(), other.ip());
    let both = [told(client, "enabled"), taken].join(" ");
    for captured in [json!(["other"]), json!([])] {
        let changes = stand.all(&both)?;
        assert_eq!(changes["captured"], captured, "{changes}");
        assert!(failure(&changes)?.contains("in doubt"), "{changes}");
        assert_eq!(stand.tell("namespaces")?, 2);
        let outcome = client.dial(web.at(8080)).run()?;
        assert_eq!(outcome.refusal(), Some("not permitted"), "{outcome:?}");
    }
    assert_eq!(server.connections(), 0);
    Ok(())
}

#[test]
fn a_pod_outside_the_mesh_is_left_alone_where_it_has_its_address() -> Result<()> {
    let topology = pods()?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let _server = web.serve(Kind::Echo, 8080)?;
    let elsewhere = elsewhere(client, &[])?;
    let _sandbox = sandbox(client)?;
    let mut stand = stand(&topology, 0, &[])?;
    let changes = stand.all(&told(client, "disabled"))?;
    assert!(failure(&changes)?.contains("in doubt"), "{changes}");
    client.echo(web.at(8080))?;
    // No way leads out of there, but the mesh refuses nothing.
    assert_eq!(refusal_at(client, &elsewhere, web)?, "unreachable");
    Ok(())
}

#[test]
fn who_enters_an_enrolled_pod_from_outside_the_mesh_does_not_take_it_out() -> Result<()> {
    let topology = pods()?;
    let (client, other, web) = (topology.pod("client"), topology.pod("other"), topology.pod("web"));
    let server = web.serve(Kind::Echo, 8080)?;
    let intruder = other.place().with_cgroup(client.place().cgroup().to_owned())?;
    let _intruder = intruder.spawn("intruder", "sleep", &["600"])?;
    let mut stand = stand(&topology, 0, &[])?;
    // Nothing is known of the other pod yet.
    stand.all(&told(client, "disabled"))?;
    let both = [told(client, "disabled"), told(other, "enabled")].join(" ");
    for captured in [json!(["other"]), json!([])] {
        let changes = stand.all(&both)?;
        assert_eq!(changes["captured"], captured, "{changes}");
        assert!(failure(&changes)?.contains("in doubt"), "{changes}");
    }
    is_captured(&mut stand, other, web)?;
    assert_eq!(server.connections(), 0);
    Ok(())
}

/// Nobody serves the listeners: who is captured is not answered, and is not at the server.
fn is_captured(stand: &mut Stand, pod: &Pod, to: &Pod) -> Result<()> {
    let before = stand.verdicts("captured")?;
    pod.dial(to.at(8080)).send("x").quiet(Duration::from_millis(100)).run()?;
    assert_eq!(stand.verdicts("captured")?, before + 1);
    Ok(())
}
