//! Held, captured, passed, released; the daemon killed, replaced, doubled, removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_test_ebpf::stand::Stand;
use mesh_test_harness::clients::Dialled;
use mesh_test_harness::eventually::{PATIENCE, eventually, eventually_true};
use mesh_test_harness::servers::{Kind, events};
use mesh_test_harness::topology::{NODES, Topology};

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

/// Programs that stand on cgroups, in the order in which they are attached and pinned.
const ON_CGROUPS: [&str; 10] = [
    "sock_ops",
    "host_connect4",
    "host_connect6",
    "getpeername4",
    "getpeername6",
    "getsockname4",
    "getsockname6",
    "sock_create",
    "connect4",
    "connect6",
];

/// What is pinned in a folder.
fn pinned(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn maps(pin_dir: &Path) -> Result<PathBuf> {
    let is_of_maps =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("maps-"));
    pinned(pin_dir)?.into_iter().find(is_of_maps).context("there is a folder of maps")
}

/// A link that is not pinned ends with its process: what a daemon leaves that died so far on its way is the same as what is
/// left of a whole one without the pins that it did not come to.
#[test]
fn a_start_that_broke_off_anywhere_is_taken_up_by_the_next_one() -> Result<()> {
    let topology = two_pods()?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let _server = web.serve(Kind::Echo, 8080)?;
    for links in [0, 1, 5, 8, 9] {
        let first = stand(&topology, 0, &[])?;
        let pin_dir = first.pin_dir().to_owned();
        first.kill()?;
        let mut all = ON_CGROUPS.map(|name| pin_dir.join("links").join(name));
        all[links..].iter().try_for_each(fs::remove_file)?;
        all.sort();
        if links == 0 {
            // It died while it made the maps.
            pinned(&maps(&pin_dir)?)?[1..].iter().try_for_each(fs::remove_file)?;
        }
        // Without the program that refuses there is no mesh yet; with it nobody is let out who is not known.
        if links <= 8 {
            // The kernel frees a link in its own time.
            eventually_true("the links have ended", PATIENCE, || client.echo(web.at(8080)).is_ok())?;
        } else {
            assert_eq!(client.dial(web.at(8080)).run()?.refusal(), Some("not permitted"), "{links} links");
        }

        let mut second = stand(&topology, 0, &[])?;
        assert_eq!(pinned(&pin_dir.join("links"))?, all, "{links} links");
        assert_eq!(second.tell("detached")?, serde_json::json!([]), "{links} links");
        second.capture(client, "")?;
        client.echo(web.at(8080))?;
        assert_eq!(second.events("outbound").len(), 1, "{links} links: the pod is captured");
        second.kill()?;
        assert_eq!(client.dial(web.at(8080)).run()?.refusal(), Some("not permitted"), "{links} links");
        uninstalls(&topology, &pin_dir)?;
        client.echo(web.at(8080))?;
    }
    Ok(())
}

/// All that is pinned goes, and nothing is left attached.
fn uninstalls(topology: &Topology, pin_dir: &Path) -> Result<()> {
    let done = Stand::spawn(program(), topology, topology.site(NODES[0]), &["--uninstall"])?;
    let text = wait_for_end(done)?;
    let done = events(&text, "uninstalled").pop().with_context(|| text.clone())?;
    ensure!(done["left"] == serde_json::json!([]), "{done}");
    ensure!(!pin_dir.exists(), "{} is there", pin_dir.display());
    Ok(())
}

#[test]
fn a_pod_whose_link_was_not_pinned_yet_is_captured_or_let_go() -> Result<()> {
    let topology = two_pods()?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let (server, of_client) = (web.serve(Kind::Echo, 8080)?, client.serve(Kind::Echo, 8080)?);
    let mut first = stand(&topology, 0, &[])?;
    first.hold(client, "")?;
    let pin_dir = first.pin_dir().to_owned();
    let unpin = || pinned(&pin_dir.join("namespaces"))?.iter().try_for_each(fs::remove_file).context("unpin");
    first.kill()?;
    // The maps say that it is held, and the link to its namespace died with the daemon.
    unpin()?;
    assert_eq!(client.dial(web.at(8080)).run()?.refusal(), Some("not permitted"));

    let mut second = stand(&topology, 0, &[])?;
    assert_eq!(second.tell("namespaces")?, 1, "the pod is still known");
    assert_eq!(client.dial(web.at(8080)).run()?.refusal(), Some("not permitted"), "nobody carries it yet");
    second.capture(client, "")?;
    client.echo(web.at(8080))?;
    web.echo(client.at(8080))?;
    assert_eq!((second.events("outbound").len(), second.events("inbound").len()), (1, 1), "both ways");
    assert_eq!(pinned(&pin_dir.join("namespaces"))?.len(), 1);
    second.kill()?;
    unpin()?;

    // It is not enrolled any more.
    let mut third = stand(&topology, 0, &["--unknown-pods-pass"])?;
    third.tell("sync")?;
    assert_eq!(third.tell("namespaces")?, 0);
    client.echo(web.at(8080))?;
    web.echo(client.at(8080))?;
    assert!(third.events("outbound").is_empty() && third.events("inbound").is_empty());
    assert_eq!((server.connections(), of_client.connections()), (2, 2));
    third.kill()?;
    uninstalls(&topology, &pin_dir)
}

#[test]
fn a_link_whose_maps_are_gone_holds_its_pod_until_it_is_known_anew() -> Result<()> {
    let topology = two_pods()?;
    let (client, web) = (topology.pod("client"), topology.pod("web"));
    let of_client = client.serve(Kind::Echo, 8080)?;
    let mut first = stand(&topology, 0, &[])?;
    first.capture(client, "")?;
    let pin_dir = first.pin_dir().to_owned();
    first.kill()?;
    fs::remove_dir_all(maps(&pin_dir)?)?;

    let mut second = stand(&topology, 0, &[])?;
    assert_eq!(second.tell("namespaces")?, 1);
    let outcome = web.dial(client.at(8080)).run()?;
    assert!(outcome.refusal().is_some(), "it is open: {outcome:?}");
    assert_eq!(of_client.connections(), 0);
    second.capture(client, "")?;
    web.echo(client.at(8080))?;
    assert_eq!(second.events("inbound").len(), 1);
    second.kill()?;
    uninstalls(&topology, &pin_dir)
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
