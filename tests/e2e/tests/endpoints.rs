//! Which endpoint a connection goes to, and what becomes of it when there is none.

use std::collections::BTreeSet;

use anyhow::Result;
use mesh_test_e2e::{ECHO, HTTP, at, pair, server, service};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::eventually::{PATIENCE, eventually_true};
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::servers::Kind;

fn two_servers() -> Scenario {
    Scenario::new(vec![PodSpec::new("client")], vec![server("server-1"), server("server-2")])
        .service(service())
}

#[test]
fn an_unknown_address_inside_the_mesh_is_refused_and_never_dialled_in_the_clear() {
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: node-b}\nspec: {podCIDRs: [10.77.2.0/24]}\n";
    pair().objects("nodes", node).flags(&["--mesh-cidrs", "fd77:2::/64"]).run(|mesh| {
        let echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.config().remove("pod-server")?;
        eventually_true("no agent knows the pod", PATIENCE, || {
            ["node-a", "node-b"].into_iter().all(|node| {
                let dump = mesh.node(node).command(&["dump", "workloads"]);
                dump.and_then(|dump| dump.success("dump")).is_ok_and(|text| !text.contains(" server "))
            })
        })?;
        for to in [mesh.pod("server").at(ECHO), mesh.pod("server").at_v6(ECHO)] {
            let dialled = mesh.pod("client").dial(to).send(PLAINTEXT_MARKER).run()?;
            assert!(dialled.refusal().is_some(), "{to}: {dialled:?}");
        }
        assert_eq!(echo.connections(), 0);
        Ok(())
    });
}

#[test]
fn connections_and_requests_are_spread_over_ready_endpoints() {
    two_servers().run(|mesh| {
        let echo =
            [mesh.pod("server-1").serve(Kind::Echo, ECHO)?, mesh.pod("server-2").serve(Kind::Echo, ECHO)?];
        let http =
            [mesh.pod("server-1").serve(Kind::Http, HTTP)?, mesh.pod("server-2").serve(Kind::Http, HTTP)?];
        let held = (0..12).map(|_| mesh.pod("client").hold(at(ECHO))).collect::<Result<Vec<_>>>()?;
        assert!(
            echo.iter().all(|server| server.connections() >= 3),
            "{:?}",
            echo.each_ref().map(|s| s.connections())
        );
        drop(held);
        for _ in 0..20 {
            assert_eq!(mesh.pod("client").curl("http://10.96.0.10/", &[])?.status, 200);
        }
        let seen: BTreeSet<bool> = http.iter().map(|server| server.events("request").is_empty()).collect();
        assert!(!seen.contains(&true), "both servers got requests");
        Ok(())
    });
}

#[test]
fn an_endpoint_that_refuses_is_tried_once_elsewhere() {
    two_servers().run(|mesh| {
        let _one =
            (mesh.pod("server-1").serve(Kind::Echo, ECHO)?, mesh.pod("server-1").serve(Kind::Http, HTTP)?);
        for _ in 0..10 {
            mesh.pod("client").echo(at(ECHO))?;
            assert_eq!(mesh.pod("client").curl("http://10.96.0.10/", &[])?.status, 200);
        }
        Ok(())
    });
}

#[test]
fn an_endpoint_that_is_not_ready_gets_nothing() {
    two_servers().run(|mesh| {
        let second = mesh.pod("server-2").serve(Kind::Echo, ECHO)?;
        let _first = mesh.pod("server-1").serve(Kind::Echo, ECHO)?;
        mesh.change_pod("server-2", |spec| spec.set_ready(false))?;
        eventually_true("the second is left out", PATIENCE, || {
            let before = second.connections();
            (0..10).all(|_| mesh.pod("client").echo(at(ECHO)).is_ok()) && second.connections() == before
        })?;
        Ok(())
    });
}

#[test]
fn without_an_endpoint_http_gets_503_and_tcp_a_reset() {
    pair().run(|mesh| {
        mesh.change_pod("server", |spec| spec.set_ready(false))?;
        eventually_true("the answer is 503", PATIENCE, || {
            mesh.pod("client").curl("http://10.96.0.10/", &[]).is_ok_and(|response| response.status == 503)
        })?;
        let dialled = mesh.pod("client").dial(at(ECHO)).send("x").run()?;
        assert_eq!(dialled.refusal(), Some("reset"), "{dialled:?}");
        assert_reason(mesh)
    });
}

#[test]
fn a_pod_reaches_itself_through_its_own_service() {
    pair().run(|mesh| {
        let echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.pod("server").echo(at(ECHO))?;
        assert_eq!(echo.connections(), 1);
        Ok(())
    });
}

#[test]
fn headless_records_and_pod_addresses_are_dialled_as_they_are() {
    two_servers().run(|mesh| {
        let servers =
            [mesh.pod("server-1").serve(Kind::Echo, ECHO)?, mesh.pod("server-2").serve(Kind::Echo, ECHO)?];
        for _ in 0..3 {
            mesh.pod("client").echo(mesh.pod("server-2").at(ECHO))?;
        }
        assert_eq!(servers.each_ref().map(|server| server.connections()), [0, 3]);
        Ok(())
    });
}

fn assert_reason(mesh: &Mesh) -> Result<()> {
    mesh.node("node-a").record("a reason for no endpoint", |record| {
        record["reason"].as_str().is_some_and(|reason| reason.contains("endpoint"))
    })?;
    Ok(())
}
