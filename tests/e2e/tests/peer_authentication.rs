//! Who must prove an identity: STRICT and PERMISSIVE, and callers outside the mesh.

use anyhow::Result;
use mesh_test_e2e::{ECHO, HTTP, at, from_account, peer_authentication, policy, server, service};
use mesh_test_harness::eventually::{PATIENCE, eventually_true};
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::servers::Kind;

fn with_outsider() -> Scenario {
    let outsider = PodSpec::new("outsider").mode("disabled");
    Scenario::new(vec![PodSpec::new("client"), outsider], vec![server("server")]).service(service())
}

#[test]
fn strict_refuses_plaintext_from_outside_the_mesh() {
    with_outsider().objects("strict", &peer_authentication("STRICT")).run(|mesh| {
        let (echo, http) =
            (mesh.pod("server").serve(Kind::Echo, ECHO)?, mesh.pod("server").serve(Kind::Http, HTTP)?);
        for to in [mesh.pod("server").at(ECHO), mesh.pod("server").at_v6(ECHO)] {
            assert_refused(mesh, to)?;
        }
        let url = format!("http://{}/", mesh.pod("server").at(HTTP));
        assert_eq!(mesh.pod("outsider").curl(&url, &[])?.status, 0);
        assert_eq!((echo.connections(), http.connections()), (0, 0), "the application saw nobody");
        mesh.pod("client").echo(at(ECHO)).map(drop)
    });
}

#[test]
fn without_a_peer_authentication_plaintext_is_permitted() {
    with_outsider().run(|mesh| {
        let echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let connected = mesh.pod("outsider").echo(mesh.pod("server").at(ECHO))?;
        assert_eq!(
            echo.accepted(1)?.caller()?.to_string(),
            connected.local,
            "the caller's address is preserved"
        );
        mesh.pod("client").echo(at(ECHO)).map(drop)
    });
}

#[test]
fn permissive_plaintext_has_no_identity() {
    let allow = policy("client-alone", "ALLOW", &from_account("client"));
    with_outsider().objects("permissive", &peer_authentication("PERMISSIVE")).objects("policy", &allow).run(
        |mesh| {
            let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
            assert_refused(mesh, mesh.pod("server").at(ECHO))?;
            mesh.pod("client").echo(at(ECHO)).map(drop)
        },
    );
}

#[test]
fn a_port_may_differ_from_its_workload() {
    let mixed = peer_authentication("STRICT").replace(
        "spec:\n",
        &format!(
            "spec:\n  selector:\n    matchLabels:\n      app: server\n  portLevelMtls:\n    {ECHO}:\n      mode: PERMISSIVE\n"
        ),
    );
    with_outsider().objects("mixed", &mixed).run(|mesh| {
        let _servers =
            (mesh.pod("server").serve(Kind::Echo, ECHO)?, mesh.pod("server").serve(Kind::Echo, HTTP)?);
        mesh.pod("outsider").echo(mesh.pod("server").at(ECHO))?;
        assert_refused(mesh, mesh.pod("server").at(HTTP))
    });
}

#[test]
fn strict_takes_effect_while_everything_runs() {
    with_outsider().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let to = mesh.pod("server").at(ECHO);
        let held = mesh.pod("outsider").hold(to)?;
        mesh.config().write("strict", &peer_authentication("STRICT"))?;
        eventually_true("the plaintext connection is closed", PATIENCE, || held.broken().is_some())?;
        assert_refused(mesh, to)?;
        mesh.config().write("strict", &peer_authentication("PERMISSIVE"))?;
        eventually_true("plaintext is let in again", PATIENCE, || mesh.pod("outsider").echo(to).is_ok())?;
        Ok(())
    });
}

#[test]
fn an_enrolled_pod_reaches_a_server_outside_the_mesh() {
    with_outsider().run(|mesh| {
        let echo = mesh.pod("outsider").serve(Kind::Echo, ECHO)?;
        let connected = mesh.pod("client").echo(mesh.pod("outsider").at(ECHO))?;
        assert_eq!(
            echo.accepted(1)?.caller()?.to_string(),
            connected.local,
            "the caller's address is preserved"
        );
        Ok(())
    });
}

fn assert_refused(mesh: &Mesh, to: std::net::SocketAddr) -> Result<()> {
    let dialled = mesh.pod("outsider").dial(to).send("x").run()?;
    assert_eq!(dialled.refusal(), Some("reset"), "{to}: {dialled:?}");
    Ok(())
}
