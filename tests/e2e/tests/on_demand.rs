//! Agents that ask what their pods dial, instead of being told everything.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_test_e2e::{ECHO, HTTP, at, node, nodes_in, pair, policy, server, service};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::eventually::{PATIENCE, eventually_true};
use mesh_test_harness::figure;
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::{PodSpec, ServiceSpec};
use mesh_test_harness::servers::Kind;

const ASKED: &str = "nodemesh_xds_questions_asked_total";
/// The address of a Service that comes later.
const LATER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 20)), ECHO);
/// Where nobody ever is.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 7, 7)), ECHO);
/// Longest hold of a connection, and some for the machine.
const HELD: Duration = Duration::from_secs(20);

fn asking() -> Scenario {
    pair().with_controller().flags(&["--on-demand"])
}

fn echoes(mesh: &Mesh, pod: &str, to: SocketAddr) -> Result<f64> {
    let dial = mesh.pod(pod).dial(to).send(PLAINTEXT_MARKER).until_bytes(PLAINTEXT_MARKER.len());
    let seen = dial.limit(HELD).connected()?;
    ensure!(seen.received == PLAINTEXT_MARKER, "{seen:?}");
    Ok(seen.after_ms)
}

fn asked(mesh: &Mesh, index: usize) -> Result<f64> {
    Ok(mesh.node(node(index)).metrics()?.sum(ASKED, &[]))
}

/// It is let go without one byte, and its node says why.
fn is_refused(mesh: &Mesh, to: SocketAddr, reason: &str) -> Result<()> {
    let dialled = mesh.pod("client").dial(to).send("x").limit(HELD).run()?;
    ensure!(dialled.refusal() == Some("reset"), "{dialled:?}");
    let told = |record: &serde_json::Value| {
        record["reason"] == reason && record["dst.addr"].as_str() == Some(&to.to_string())
    };
    mesh.node(node(0)).record(reason, told).map(drop)
}

fn later() -> ServiceSpec {
    ServiceSpec::new("later", &[LATER.ip()]).selector("app", "server").port("tcp-echo", ECHO, ECHO)
}

#[test]
fn the_first_connection_asks_once_and_both_ends_know_who_speaks() {
    asking().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let _http = mesh.pod("server").serve(Kind::Http, HTTP)?;
        ensure!(asked(mesh, 0)? == 0.0, "nobody dialled anything");
        let first = echoes(mesh, "client", at(ECHO))?;
        mesh.node(node(0)).metric(ASKED, &[], |count| count == 1.0)?;
        let mut again: Vec<f64> = (0..9).map(|_| echoes(mesh, "client", at(ECHO))).collect::<Result<_>>()?;
        again.sort_by(f64::total_cmp);
        figure(&format!("first connection to a Service {first:.1} ms, later ones {:.1} ms", again[4]));
        let response = mesh.pod("other").curl("http://10.96.0.10/over", &[])?;
        ensure!(response.status == 200, "{response:?}");
        ensure!(asked(mesh, 0)? == 1.0, "what one pod asked is known to the other");
        for (index, direction) in ["outbound", "inbound"].into_iter().enumerate() {
            let told = |record: &serde_json::Value| {
                record["direction"] == direction
                    && record["src.workload"] == "shop/client"
                    && record["dst.workload"] == "shop/server"
                    && record["dst.service"].as_str().is_some_and(|name| name.starts_with("server.shop"))
            };
            mesh.node(node(index)).record("both names", told)?;
        }
        Ok(())
    });
}

#[test]
fn what_comes_later_and_goes_is_told_without_being_asked_again() {
    asking().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        ensure!(echoes(mesh, "client", LATER).is_err(), "nobody has the address");
        let questions = asked(mesh, 0)?;
        mesh.config().write_service(&later())?;
        eventually_true("the Service is reached", PATIENCE, || echoes(mesh, "client", LATER).is_ok())?;
        mesh.config().write("policy", &policy("nobody", "DENY", "- {}\n"))?;
        eventually_true("policy holds", PATIENCE, || echoes(mesh, "client", LATER).is_err())?;
        mesh.config().remove("policy")?;
        eventually_true("policy is gone", PATIENCE, || echoes(mesh, "client", LATER).is_ok())?;
        mesh.config()
            .write_service(&ServiceSpec::new("later", &[NOWHERE.ip()]).port("tcp-echo", ECHO, ECHO))?;
        eventually_true("the Service is gone", PATIENCE, || echoes(mesh, "client", LATER).is_err())?;
        ensure!(asked(mesh, 0)? == questions, "asked again");
        Ok(())
    });
}

#[test]
fn without_a_controller_what_was_asked_goes_on_and_nothing_else_also_after_a_restart() {
    asking().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        echoes(mesh, "client", at(ECHO))?;
        let held = mesh.pod("client").hold(at(ECHO))?;
        let state = mesh.controller().state_file(node(0));
        eventually_true("the state is on disk", PATIENCE, || {
            fs::read(&state).is_ok_and(|state| state.windows(10).any(|part| part == b"10.96.0.10"))
        })?;
        mesh.config().write_service(&later())?;
        mesh.controller().kill()?;
        let stale = "nodemesh_xds_stale_since_timestamp_seconds";
        mesh.a().metric(stale, &[], |since| since > 0.0)?;
        echoes(mesh, "client", at(ECHO))?;
        echoes(mesh, "other", at(ECHO))?;
        let begun = Instant::now();
        is_refused(mesh, LATER, "address_not_asked")?;
        figure(&format!("without a controller an unknown address is refused after {:?}", begun.elapsed()));
        mesh.controller().restart()?;
        eventually_true("the Service is reached", PATIENCE, || echoes(mesh, "client", LATER).is_ok())?;
        ensure!(held.broken().is_none(), "the connection of before was cut: {:?}", held.broken());
        ensure!(held.finish()? > 0, "the connection of before carried nothing");
        Ok(())
    });
}

#[test]
fn an_agent_that_starts_alone_knows_what_it_asked() {
    asking().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        echoes(mesh, "client", at(ECHO))?;
        let state = mesh.controller().state_file(node(0));
        eventually_true("the state is on disk", PATIENCE, || {
            fs::read(&state).is_ok_and(|state| state.windows(10).any(|part| part == b"10.96.0.10"))
        })?;
        mesh.controller().kill()?;
        mesh.a().kill()?;
        mesh.a().spawn()?;
        eventually_true("the state is restored", PATIENCE, || {
            mesh.node(node(0)).log().contains("state of before restored")
        })?;
        mesh.controller().restart()?;
        mesh.a().wait_until_ready()?;
        eventually_true("the server is reached", PATIENCE, || echoes(mesh, "client", at(ECHO)).is_ok())?;
        mesh.a().metric(ASKED, &[], |count| count == 0.0).context("it was asked before")?;
        Ok(())
    });
}

#[test]
fn a_pod_that_dials_everywhere_holds_up_no_other() {
    let services: Vec<_> = (1..=20_u8).map(|number| Ipv4Addr::new(10, 96, 1, number)).collect();
    let mut scenario = asking();
    for (number, address) in services.iter().enumerate() {
        let name = format!("server-{number}");
        let spec = ServiceSpec::new(&name, &[IpAddr::V4(*address)]).selector("app", "server");
        scenario = scenario.service(spec.port("tcp-echo", ECHO, ECHO));
    }
    scenario.run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let everywhere = "http://10.[97-99].[0-9].[1-250]/";
        let flags = ["-s", "-o", "/dev/null", "-Z", "--parallel-max", "200", everywhere];
        // Ends with the test.
        let _flood = mesh.pod("other").place().spawn("flood", "curl", &flags)?;
        eventually_true("the flood is on", PATIENCE, || asked(mesh, 0).is_ok_and(|count| count > 200.0))?;
        let to = services.iter().map(|address| SocketAddr::new(IpAddr::V4(*address), ECHO));
        let mut took = to.map(|to| echoes(mesh, "client", to)).collect::<Result<Vec<_>>>()?;
        took.sort_by(f64::total_cmp);
        let (count, kept) = (asked(mesh, 0)?, mesh.node(node(0)).metrics()?.sum("nodemesh_xds_questions", &[]));
        figure(&format!(
            "beside a pod that dials everywhere ({count} questions, {kept} kept) a first connection takes {:.1} ms, the slowest {:.1} ms",
            took[took.len() / 2],
            took[took.len() - 1]
        ));
        ensure!(kept <= 8192.0, "{kept} questions are kept");
        ensure!(took.iter().all(|took| *took < 2000.0), "{took:?}");
        Ok(())
    });
}

#[test]
fn a_pods_own_address_and_services_of_many_are_asked_like_any() {
    let a = vec![PodSpec::new("client"), server("near")];
    Scenario::new(a, vec![server("server")])
        .service(service())
        .with_controller()
        .flags(&["--on-demand"])
        .run(|mesh| {
            let _far = mesh.pod("server").serve(Kind::Echo, ECHO)?;
            let _near = mesh.pod("near").serve(Kind::Echo, ECHO)?;
            for to in [mesh.pod("server").at(ECHO), mesh.pod("near").at(ECHO), at(ECHO), at(ECHO)] {
                echoes(mesh, "client", to)?;
            }
            Ok(())
        });
}

#[test]
fn a_node_port_is_asked_like_an_address_and_status_counts_both() {
    let service = service().node_port("tcp-echo", 30_900);
    let pods = (vec![PodSpec::new("client")], vec![server("server")]);
    let scenario =
        Scenario::new(pods.0, pods.1).service(service).objects("nodes", &nodes_in(["zone-a", "zone-b"]));
    scenario.with_controller().flags(&["--on-demand"]).run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let status =
            || -> Result<String> { mesh.node(node(0)).command(&["status"])?.success("mesh-node status") };
        ensure!(status()?.contains("only what it asked: 0 addresses"), "{}", status()?);
        for node in ["10.77.0.1", "10.77.0.2"] {
            echoes(mesh, "client", format!("{node}:30900").parse()?)?;
        }
        // Both nodes' addresses, and the port once: it is the same at each.
        ensure!(asked(mesh, 0)? == 3.0, "{}", asked(mesh, 0)?);
        ensure!(status()?.contains("only what it asked: 3 addresses"), "{}", status()?);
        let nobody = mesh.pod("client").dial("10.77.0.2:30901".parse()?).send("x").limit(HELD).run()?;
        ensure!(nobody.refusal().is_some(), "a port that no Service has: {nobody:?}");
        Ok(())
    });
}
