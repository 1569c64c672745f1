//! The kubelet's probes work under STRICT and default deny; nothing else that comes from the node does.

use anyhow::Result;
use mesh_test_e2e::{ECHO, HTTP, from_account, node, peer_authentication, policy, server, service};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::clients::{Dial, Dialled};
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::process::Place;
use mesh_test_harness::servers::Kind;

fn closed() -> Scenario {
    Scenario::new(
        vec![PodSpec::new("client")],
        vec![server("server").probe(ECHO), PodSpec::new("masked").mode("disabled")],
    )
    .service(service())
    .objects("strict", &peer_authentication("STRICT"))
    .objects("nobody", &policy("nobody", "ALLOW", &from_account("nobody")))
}

#[test]
fn a_probe_of_the_node_reaches_its_port_and_no_other() {
    closed().run(|mesh| {
        let _servers =
            (mesh.pod("server").serve(Kind::Echo, ECHO)?, mesh.pod("server").serve(Kind::Echo, HTTP)?);
        let host = mesh.topology().site(node(1)).host();
        assert!(answers(mesh, host, ECHO)?, "the probe's port");
        assert!(!answers(mesh, host, HTTP)?, "another port of the same pod");
        Ok(())
    });
}

#[test]
fn a_pod_on_the_network_of_the_node_is_no_probe() {
    closed().run(|mesh| {
        let _server = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let site = mesh.topology().site(node(1));
        // hostNetwork: the node's network namespace, but a cgroup among the pods'.
        let pod = site.host().with_cgroup(site.pods_cgroup().join("pod-hostnetwork"))?;
        assert!(!answers(mesh, &pod, ECHO)?);
        Ok(())
    });
}

#[test]
fn a_connection_that_the_node_masquerades_is_no_probe() {
    closed().run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        // As kube-proxy does: what comes from a pod leaves with the node's address.
        mesh.topology()
            .site(node(1))
            .host()
            .spawn("nft", "nft", &["-f", &masquerade(mesh)?])?
            .wait(mesh_test_harness::eventually::PATIENCE)?
            .success("nft")?;
        assert!(!answers(mesh, mesh.pod("masked").place(), ECHO)?);
        assert_eq!(server.connections(), 0);
        Ok(())
    });
}

/// Whether the echo server answers a connection from `place`.
fn answers(mesh: &Mesh, place: &Place, port: u16) -> Result<bool> {
    let to = mesh.pod("server").at(port);
    let dial = Dial::new(place, "probe", to).send(PLAINTEXT_MARKER).until_bytes(PLAINTEXT_MARKER.len());
    let dialled = dial.run()?;
    Ok(matches!(dialled, Dialled::Connected(connected) if connected.received == PLAINTEXT_MARKER))
}

/// Rules that masquerade what goes from the bridge back to the bridge.
fn masquerade(mesh: &Mesh) -> Result<String> {
    let file = mesh.topology().run().folder().join("masquerade.nft");
    let server = mesh.pod("server").ip();
    let masked = mesh.pod("masked").ip();
    std::fs::write(
        &file,
        format!(
            "table ip masked {{\n  chain out {{\n    type nat hook postrouting priority 100;\n    \
             ip saddr {masked} ip daddr {server} snat to 10.77.2.1\n  }}\n}}\n"
        ),
    )?;
    Ok(file.display().to_string())
}
