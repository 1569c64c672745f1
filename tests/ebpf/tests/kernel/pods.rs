//! Pods that come and go as the configuration says, and what is left of them.

use std::path::Path;

use anyhow::{Context as _, Result};
use mesh_test_ebpf::stand::Stand;
use mesh_test_harness::clients::Dialled;
use mesh_test_harness::netns::{FOLDER, ip_batch};
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::pod::Pod;
use mesh_test_harness::servers::Kind;
use mesh_test_harness::topology::Topology;
use serde_json::{Value, json};

use crate::{stand, two_pods};

fn named(pod: &Pod, mode: &str) -> String {
    format!("{}:{mode}:{}:{}", pod.name(), pod.place().netns().path().display(), pod.ip())
}

#[test]
fn a_pod_is_captured_passed_and_forgotten_as_its_object_says() -> Result<()> {
    let topology = two_pods()?;
    let mut stand = stand(&topology, 0, &[])?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let _server = web.serve(Kind::Echo, 8080)?;
    let passed = stand.all(&named(client, "disabled"))?;
    assert_eq!(passed["failed"], json!([]), "{passed}");
    let open = client.hold(web.at(8080))?;
    let captured = stand.all(&named(client, "enabled"))?;
    assert_eq!(captured["captured"], json!(["client"]));
    assert_eq!(captured["outside"], 1, "the connection that was open is counted");
    assert_eq!(stand.tell("outside")?, 1, "as long as it lasts");
    open.finish()?;
    assert_eq!(stand.tell("outside")?, 0, "and no longer");
    let again = stand.all(&named(client, "enabled"))?;
    assert_eq!((&again["captured"], &again["stopped"]), (&json!([]), &json!([])), "nothing changed");
    let passed = stand.all(&named(client, "disabled"))?;
    assert_eq!(passed["stopped"], json!(["client"]));
    client.echo(web.at(8080))?;
    stand.all(&named(client, "enabled"))?;
    assert_eq!(stand.all("")?["stopped"], json!(["client"]));
    assert_eq!(stand.tell("held")?["namespaces"], 0);
    Ok(())
}

#[test]
fn a_pod_of_the_same_name_in_another_namespace_is_another_pod() -> Result<()> {
    let mut topology = two_pods()?;
    let mut stand = stand(&topology, 0, &[])?;
    let line = named(topology.pod("client"), "enabled");
    stand.all(&line)?;
    let old = topology.remove_pod("client");
    let (name, spec) = (old.place().netns().name().to_owned(), old.spec().clone().at(old.addresses()));
    // The name lives as long as the last who holds the namespace.
    old.delete()?;
    topology.add_pod("node-a", spec)?;
    assert_eq!(topology.pod("client").place().netns().name(), name);
    let changes = stand.all(&line)?;
    assert_eq!((&changes["captured"], &changes["stopped"]), (&json!(["client"]), &json!(["client"])));
    assert_eq!(stand.tell("held")?["namespaces"], 1);
    Ok(())
}

#[test]
fn a_pod_without_a_namespace_is_reported_and_the_others_are_captured() -> Result<()> {
    let topology = two_pods()?;
    let mut stand = stand(&topology, 0, &[])?;
    let client = topology.pod("client");
    let changes = stand.all(&format!(
        "ghost:enabled:/run/netns/no-such-namespace:10.77.1.99 {}",
        named(client, "enabled")
    ))?;
    assert_eq!(changes["captured"], json!(["client"]));
    assert_eq!(changes["failed"].as_array().map(Vec::len), Some(1), "{changes}");
    Ok(())
}

#[test]
fn a_pod_that_went_while_no_daemon_ran_is_forgotten() -> Result<()> {
    let topology = two_pods()?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let _server = web.serve(Kind::Echo, 8080)?;
    let mut first = stand(&topology, 0, &[])?;
    first.all(&named(client, "enabled"))?;
    first.kill()?;
    let mut second = stand(&topology, 0, &[])?;
    assert_eq!(second.tell("held")?["namespaces"], 1);
    let outcome = client.dial(web.at(8080)).run()?;
    assert!(matches!(&outcome, Dialled::Refused { how, .. } if how == "not permitted"), "{outcome:?}");
    second.all("")?;
    assert_eq!(second.tell("held")?["namespaces"], 0);
    Ok(())
}

#[test]
fn a_pod_that_cannot_be_let_go_keeps_no_other_and_is_tried_again() -> Result<()> {
    let specs = ["client", "other"].map(PodSpec::new).to_vec();
    let topology = Topology::two_nodes(specs, vec![PodSpec::new("web")])?;
    let pods = ["client", "other"].map(|name| named(topology.pod(name), "enabled")).join(" ");
    let mut first = stand(&topology, 0, &[])?;
    first.all(&pods)?;
    first.kill()?;
    let mut second = stand(&topology, 0, &[])?;
    // Of the one whose turn is first: its pin cannot be removed.
    let folder = second.pin_dir().join("namespaces");
    let pins = std::fs::read_dir(&folder)?.map(|pin| Ok(pin?.path())).collect::<Result<Vec<_>>>()?;
    let pin = pins.into_iter().min_by_key(|pin| cookie(pin)).context("two are pinned")?;
    std::fs::remove_file(&pin)?;
    std::fs::create_dir(&pin)?;
    for _ in 0..2 {
        assert_eq!(second.all("")?["unreleased"], 1);
        assert_eq!(second.tell("namespaces")?, 1, "the other one is let go, this one is not forgotten");
    }
    std::fs::remove_dir(&pin)?;
    assert_eq!(second.all("")?["unreleased"], 0);
    assert_eq!(second.tell("namespaces")?, 0);
    Ok(())
}

fn cookie(pin: &Path) -> Option<u64> {
    pin.file_name()?.to_str()?.parse().ok()
}

/// How many pods come and go, and how many there are at a time.
const CHURN: usize = 1_000;
const AT_ONCE: usize = 20;
/// What capturing one pod may cost; the time on the clock depends on who else wants the cores. Most of it is the
/// kernel's walk over all TCP sockets of the machine for the count of open connections.
const CPU_US: u64 = 20_000;

#[test]
fn a_thousand_pods_leave_nothing_behind_and_are_enrolled_fast() -> Result<()> {
    let topology = two_pods()?;
    let mut stand = stand(&topology, 0, &[])?;
    let prefix = topology.run().name().to_owned();
    // Once round before counting, for what is allocated once.
    churn(&mut stand, &prefix, 0, AT_ONCE)?;
    let before = held(&mut stand)?;
    let mut slowest_us = 0;
    for first in (0..CHURN).step_by(AT_ONCE) {
        slowest_us = slowest_us.max(churn(&mut stand, &prefix, first, AT_ONCE)?);
    }
    let after = held(&mut stand)?;
    println!("slowest batch: {slowest_us} us of CPU per pod; before {before:?}, after {after:?}");
    assert_eq!(before[..3], after[..3], "descriptors, namespaces, pins");
    assert!(after[3] < before[3] + 1_024, "resident kB grew from {} to {}", before[3], after[3]);
    assert!(slowest_us < CPU_US, "{slowest_us} us of CPU for one pod");
    Ok(())
}

/// Makes pods, has them captured, deletes them: microseconds of CPU per pod.
fn churn(stand: &mut Stand, prefix: &str, first: usize, count: usize) -> Result<u64> {
    let names: Vec<String> = (first..first + count).map(|number| format!("{prefix}-churn{number}")).collect();
    let lines = |verb: &str| names.iter().map(|name| format!("netns {verb} {name}")).collect::<Vec<_>>();
    ip_batch(&lines("add"))?;
    let pods: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let path = Path::new(FOLDER).join(name);
            format!("{name}:enabled:{}:10.78.{}.{}", path.display(), index / 200, index % 200 + 1)
        })
        .collect();
    let changes = stand.all(&pods.join(" "))?;
    assert_eq!(changes["captured"].as_array().map(Vec::len), Some(count), "{changes}");
    let took = changes["cpu_us"].as_u64().context("the time is told")?;
    ip_batch(&lines("delete"))?;
    let gone = stand.all("")?;
    assert_eq!(gone["stopped"].as_array().map(Vec::len), Some(count), "{gone}");
    Ok(took / count as u64)
}

/// Descriptors, namespaces in the maps, pins, resident kB.
fn held(stand: &mut Stand) -> Result<[u64; 4]> {
    let answer = stand.tell("held")?;
    let pins = std::fs::read_dir(stand.pin_dir().join("namespaces"))?.count();
    let number = |value: &Value| value.as_u64().context("a number");
    Ok([
        number(&answer["descriptors"])?,
        number(&answer["namespaces"])?,
        pins as u64,
        number(&answer["resident_kb"])?,
    ])
}
