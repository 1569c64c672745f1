//! Held, captured, passed, released; the daemon killed, replaced, doubled, removed.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mesh_test_ebpf::stand::Stand;
use mesh_test_harness::clients::Dialled;
use mesh_test_harness::eventually::{PATIENCE, eventually};
use mesh_test_harness::servers::{Kind, events};
use mesh_test_harness::topology::NODES;

use crate::{program, stand, two_pods};

/// Longest time for a refusal: nothing waits for a timeout.
const FAST_MS: f64 = 1_000.0;

#[test]
fn a_held_pod_connects_nowhere_until_it_is_captured() -> Result<()> {
    let topology = two_pods()?;
    let mut stand = stand(&topology, 0, &[])?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let server = web.serve(Kind::Echo, 8080)?;
    stand.hold(client, "")?;
    for to in [web.at(8080), web.at_v6(8080)] {
        let outcome = client.dial(to).run()?;
        assert!(matches!(&outcome, Dialled::Refused { how, .. } if how == "not permitted"), "{outcome:?}");
    }
    assert_eq!(server.connections(), 0);
    stand.tell("capture client")?;
    client.echo(web.at(8080))?;
    assert_eq!(server.connections(), 1);
    Ok(())
}

#[test]
fn without_a_daemon_connects_fail_fast_and_closed() -> Result<()> {
    let topology = two_pods()?;
    let mut stand = stand(&topology, 0, &[])?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let server = web.serve(Kind::Echo, 8080)?;
    stand.capture(client, "")?;
    client.echo(web.at(8080))?;
    stand.kill()?;
    let cases: &[&[&str]] =
        &[&[], &["--nonblocking"], &["--mapped"], &["--mark", "1337"], &["--device", "eth0"]];
    for flags in cases {
        let outcome = client.dial(web.at(8080)).flags(flags).run()?;
        let Dialled::Refused { how, after_ms } = &outcome else {
            panic!("{flags:?} connected without a daemon: {outcome:?}");
        };
        assert_eq!(how, "not permitted", "{flags:?}");
        assert!(*after_ms < FAST_MS, "{flags:?} refused after {after_ms} ms");
    }
    assert_eq!(server.connections(), 1, "nothing reached the server in the clear");
    Ok(())
}

#[test]
fn a_pod_cannot_take_the_place_of_a_dead_daemon() -> Result<()> {
    let topology = two_pods()?;
    let mut stand = stand(&topology, 0, &[])?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    stand.capture(client, "")?;
    stand.kill()?;
    let (program, to) = (mesh_test_harness::binary::test_pod()?, web.at(8080).to_string());
    let ended =
        client.place().spawn("squat", program, &["squat", "--to", &to])?.wait(Duration::from_secs(60))?;
    let report = events(&ended.success("squat")?, "squatted").pop().context("squat reports")?;
    assert_eq!(report["reached"], 0, "{report}");
    let answers = report["answers"].as_object().context("answers are counted")?;
    assert_eq!(answers.keys().collect::<Vec<_>>(), ["not permitted"]);
    Ok(())
}

#[test]
fn a_new_daemon_takes_over_and_forgets_pods_that_went() -> Result<()> {
    let topology = two_pods()?;
    let mut first = stand(&topology, 0, &[])?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let _server = web.serve(Kind::Echo, 8080)?;
    first.capture(client, "exclude-ports=8081 probes=80")?;
    first.kill()?;
    let mut second = stand(&topology, 0, &[])?;
    assert_eq!(second.tell("namespaces")?, 1, "the pod is still known");
    let outcome = client.dial(web.at(8080)).run()?;
    assert!(matches!(&outcome, Dialled::Refused { how, .. } if how == "not permitted"), "{outcome:?}");
    second.capture(client, "")?;
    client.echo(web.at(8080))?;
    second.kill()?;
    let mut third = stand(&topology, 0, &["--unknown-pods-pass"])?;
    third.tell("sync")?;
    assert_eq!(third.tell("namespaces")?, 0, "a pod that is not enrolled any more is forgotten");
    client.echo(web.at(8080))?;
    assert!(third.events("outbound").is_empty());
    Ok(())
}

#[test]
fn a_takeover_leaves_no_moment_without_programs() -> Result<()> {
    let topology = two_pods()?;
    let mut first = stand(&topology, 0, &[])?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let server = web.serve(Kind::Echo, 8080)?;
    first.capture(client, "")?;
    first.kill()?;
    // Dials go on while the second daemon starts.
    let starting = Instant::now();
    let mut second = Stand::spawn(program(), &topology, topology.site(NODES[0]), &[])?;
    let mut dials = 0;
    // Each dial is a program of its own, beside which the daemon starts: on an emulated machine that takes its time.
    while second.events("ready").is_empty() && starting.elapsed() < 4 * PATIENCE {
        let outcome = client.dial(web.at(8080)).run()?;
        assert!(matches!(outcome, Dialled::Refused { .. }), "{outcome:?}");
        dials += 1;
    }
    assert!(dials > 0 && !second.events("ready").is_empty());
    assert_eq!(server.connections(), 0);
    second.capture(client, "")?;
    client.echo(web.at(8080))?;
    Ok(())
}

#[test]
fn a_second_daemon_exits_naming_the_first() -> Result<()> {
    let topology = two_pods()?;
    let mut first = stand(&topology, 0, &[])?;
    let mut second = Stand::spawn(program(), &topology, topology.site(NODES[0]), &[])?;
    eventually("the second daemon ends", Duration::from_secs(30), || second.process().ended())?;
    let said = second.process().stderr();
    assert!(said.contains(&format!("process {} (", first.process().id())), "{said}");
    Ok(())
}

#[test]
fn enrolment_is_live_in_both_directions() -> Result<()> {
    let topology = two_pods()?;
    let mut stand = stand(&topology, 0, &[])?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let _server = web.serve(Kind::Echo, 8080)?;
    stand.capture(client, "")?;
    let captured = client.hold(web.at(8080))?;
    stand.tell("pass client")?;
    client.echo(web.at(8080))?;
    let outside = client.hold(web.at(8080))?;
    assert_eq!(stand.events("outbound").len(), 1, "not captured any more");
    stand.capture(client, "")?;
    client.echo(web.at(8080))?;
    assert_eq!(stand.events("outbound").len(), 2, "captured again");
    captured.finish()?;
    outside.finish()?;
    Ok(())
}

#[test]
fn a_detached_program_is_noticed_and_attached_again() -> Result<()> {
    let topology = two_pods()?;
    let mut stand = stand(&topology, 0, &[])?;
    assert_eq!(stand.tell("detached")?, serde_json::json!([]));
    std::fs::remove_file(stand.pin_dir().join("links/connect4"))?;
    assert_eq!(stand.tell("detached")?, serde_json::json!(["connect4"]));
    stand.tell("repair")?;
    assert_eq!(stand.tell("detached")?, serde_json::json!([]));
    Ok(())
}

#[test]
fn uninstall_leaves_nothing_and_says_so() -> Result<()> {
    let topology = two_pods()?;
    let mut first = stand(&topology, 0, &[])?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let _server = web.serve(Kind::Echo, 8080)?;
    first.capture(client, "")?;
    let refused = Stand::spawn(program(), &topology, topology.site(NODES[0]), &["--uninstall"])?;
    let text = wait_for_end(refused)?;
    assert!(text.contains("another agent uses"), "{text}");
    let pin_dir = first.pin_dir().to_owned();
    first.kill()?;
    let done = Stand::spawn(program(), &topology, topology.site(NODES[0]), &["--uninstall"])?;
    let text = wait_for_end(done)?;
    let done = events(&text, "uninstalled").pop().with_context(|| text.clone())?;
    assert_eq!(done["left"], serde_json::json!([]));
    // 12 maps, 10 links on cgroups, one link in the pod's namespace.
    assert_eq!(done["removed"].as_array().map(Vec::len), Some(23), "{done}");
    assert!(!pin_dir.exists());
    client.echo(web.at(8080))?;
    Ok(())
}

fn wait_for_end(mut stand: Stand) -> Result<String> {
    eventually("the stand ends", Duration::from_secs(30), || stand.process().ended())?;
    Ok(stand.process().stdout() + &stand.process().stderr())
}

#[test]
fn an_address_that_is_used_again_belongs_to_the_last_pod() -> Result<()> {
    let mut topology = two_pods()?;
    let mut stand = stand(&topology, 1, &[])?;
    stand.capture(topology.pod("web"), "exclude-inbound=8080")?;
    let spec = mesh_test_harness::objects::PodSpec::new("again").at(topology.pod("web").addresses());
    let old = topology.remove_pod("web");
    // The new pod comes before the old one is known to be gone.
    let gone = old.addresses();
    old.delete()?;
    topology.add_pod("node-b", spec)?;
    let again = topology.pod("again");
    assert_eq!(again.addresses(), gone);
    let _server = again.serve(Kind::Echo, 8080)?;
    stand.capture(again, "")?;
    stand.tell("release web")?;
    let client = topology.pod("client");
    client.echo(again.at(8080))?;
    assert_eq!(stand.events("inbound").len(), 1, "the old pod's exclusion is gone, the new listener is not");
    Ok(())
}
