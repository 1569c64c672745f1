//! Certificates of ten seconds under traffic: renewed at half of it, and nothing fails.

use std::time::Duration;

use anyhow::Result;
use mesh_test_e2e::{ECHO, HTTP, SERVER, at, pair};
use mesh_test_harness::eventually::{PATIENCE, eventually};
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::{PodSpec, ServiceSpec};
use mesh_test_harness::servers::{Kind, Server};

/// Declared `grpc` on Service and pod.
const GRPC: u16 = 50051;

#[test]
fn certificates_rotate_under_load_without_one_failure() {
    pair().flags(&["--certificate-lifetime", "10s"]).run(|mesh| {
        let (_http, _echo) =
            (mesh.pod("server").serve(Kind::Http, HTTP)?, mesh.pod("server").serve(Kind::Echo, ECHO)?);
        let load = mesh.pod("client").load(at(80), &["--connections", "2", "--every-ms", "10"])?;
        let fresh =
            mesh.pod("client").load(at(80), &["--connections", "1", "--every-ms", "20", "--fresh"])?;
        let held = mesh.pod("client").hold(at(ECHO))?;
        three_rotations(mesh)?;
        for loaded in [load.finish()?, fresh.finish()?] {
            assert!(loaded.answered > 100 && loaded.failed == 0, "{loaded:?}");
        }
        held.finish()?;
        Ok(())
    });
}

#[test]
fn certificates_rotate_under_http2_load_without_one_failure() {
    let client = vec![PodSpec::new("client")];
    let called = vec![PodSpec::new("server").label("app", "server").port("grpc", GRPC)];
    let service = ServiceSpec::new("server", &[SERVER.into()]).port("grpc", GRPC, GRPC);
    Scenario::new(client, called).service(service).flags(&["--certificate-lifetime", "10s"]).run(|mesh| {
        let _server = mesh.pod("server").serve(Kind::Http2, GRPC)?;
        let client = mesh.pod("client");
        let calls = ["--grpc", "--path", "/echo.Echo/Unary"];
        let load =
            client.load(at(GRPC), &[&calls[..], &["--connections", "4", "--every-ms", "5"]].concat())?;
        let fresh = ["--connections", "1", "--every-ms", "20", "--fresh"];
        let fresh = client.load(at(GRPC), &[&calls[..], &fresh].concat())?;
        let open = client.open_call(at(GRPC), "/echo.Echo/Stream")?;
        three_rotations(mesh)?;
        for loaded in [load.finish()?, fresh.finish()?] {
            assert!(loaded.answered > 30 && loaded.failed == 0, "{loaded:?}");
        }
        let called = open.finish()?;
        assert_eq!(called.grpc_status.as_deref(), Some("0"), "{called:?}");
        Ok(())
    });
}

#[test]
fn an_agent_that_stops_under_http2_load_costs_no_call_that_another_pod_can_answer() {
    let called = |name: &str| PodSpec::new(name).label("app", "server").port("grpc", GRPC);
    let service = ServiceSpec::new("server", &[SERVER.into()]).port("grpc", GRPC, GRPC);
    let scenario = Scenario::new(vec![PodSpec::new("client"), called("near")], vec![called("far")]);
    scenario.service(service).run(|mesh| {
        let near = mesh.pod("near").serve(Kind::Http2, GRPC)?;
        let far = mesh.pod("far").serve(Kind::Http2, GRPC)?;
        let flags = ["--grpc", "--path", "/echo.Echo/Unary", "--connections", "4", "--every-ms", "5"];
        let load = mesh.pod("client").load(at(GRPC), &flags)?;
        let answers = |server: &Server, count: usize| {
            let wanted = server.events("request").len() + count;
            eventually("calls go on", PATIENCE, || (server.events("request").len() >= wanted).then_some(()))
        };
        answers(&far, 50)?;
        mesh.b().stop()?;
        answers(&near, 100)?;
        let loaded = load.finish()?;
        assert!(loaded.answered > 150 && loaded.failed == 0, "{loaded:?}");
        Ok(())
    });
}

/// Waits until three certificates were issued. One of 10 s is renewed every 4.5 to 5 s: the first two have expired then.
fn three_rotations(mesh: &mut Mesh) -> Result<()> {
    let issued = ("nodemesh_identity_certificate_requests_total", [("result", "issued")]);
    let first = mesh.b().metrics()?.sum(issued.0, &issued.1);
    eventually("three rotations are over", Duration::from_secs(40), || {
        (mesh.node("node-b").metrics().ok()?.sum(issued.0, &issued.1) >= first + 3.0).then_some(())
    })
}
