//! The thinnest whole chain: captured in one pod, encrypted on the wire, delivered to another.

use anyhow::Result;
use mesh_test_e2e::{ECHO, HTTP, at, at_v6, pair};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::mesh::Mesh;
use mesh_test_harness::servers::Kind;
use serde_json::Value;

#[test]
fn tcp_crosses_the_wire_as_a_tunnel() {
    pair().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.pod("client").echo(at(ECHO))?;
        mesh.pod("client").echo(at_v6(ECHO))?;
        mesh.pod("client").echo(mesh.pod("server").at(ECHO))?;
        assert_both_sides_logged(mesh)?;
        assert_only_tunnels_on_the_wire(mesh)
    });
}

#[test]
fn http_crosses_the_wire_as_a_tunnel() {
    pair().run(|mesh| {
        let http = mesh.pod("server").serve(Kind::Http, HTTP)?;
        let response = mesh.pod("client").curl("http://10.96.0.10/over", &[])?;
        assert_eq!(response.status, 200);
        assert!(response.body.contains(PLAINTEXT_MARKER), "{}", response.body);
        assert!(http.bytes_seen().starts_with("GET /over HTTP/1.1\r\n"), "{}", http.bytes_seen());
        assert_both_sides_logged(mesh)?;
        assert_only_tunnels_on_the_wire(mesh)
    });
}

#[test]
fn two_pods_of_one_node_reach_each_other() {
    pair().run(|mesh| {
        let _echo = mesh.pod("other").serve(Kind::Echo, ECHO)?;
        mesh.pod("client").echo(mesh.pod("other").at(ECHO))?;
        mesh.a().record("the caller's identity, inbound", |record| {
            record["direction"] == "inbound"
                && record["src.identity"] == "spiffe://cluster.local/ns/shop/sa/client"
        })?;
        Ok(())
    });
}

fn assert_both_sides_logged(mesh: &mut Mesh) -> Result<()> {
    let both = |record: &Value| {
        record["src.identity"] == "spiffe://cluster.local/ns/shop/sa/client"
            && record["dst.identity"] == "spiffe://cluster.local/ns/shop/sa/server"
    };
    mesh.a().record("outbound with both identities", |record| {
        record["direction"] == "outbound" && both(record)
    })?;
    mesh.b()
        .record("inbound with both identities", |record| record["direction"] == "inbound" && both(record))?;
    Ok(())
}

fn assert_only_tunnels_on_the_wire(mesh: &mut Mesh) -> Result<()> {
    let carried = mesh.finish_captures()?;
    let hellos = carried[0].client_hellos();
    assert!(!hellos.is_empty(), "a TLS handshake is seen");
    for hello in &hellos {
        assert_eq!(hello.alpn, ["nodemesh/mux1"]);
        assert!(hello.is_tls13_only(), "{hello:?}");
    }
    assert_eq!(carried[0].tls13_answers(), hellos.len());
    Ok(())
}
