//! The application sees no mesh: every address is the one that it would have seen without one.

use std::net::SocketAddr;

use anyhow::Result;
use mesh_test_e2e::{ECHO, HTTP, at, at_v6, pair};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::mesh::Mesh;
use mesh_test_harness::servers::{Accepted, Kind};

#[test]
fn both_sides_see_the_addresses_they_would_see_without_a_mesh() {
    pair().run(|mesh| {
        let server = mesh.pod("server").at(ECHO);
        for flags in
            [&[][..], &["--nonblocking"], &["--device", "eth0"], &["--device", "eth0", "--nonblocking"]]
        {
            check(mesh, at(ECHO), server, flags)?;
            check(mesh, server, server, flags)?;
        }
        Ok(())
    });
}

#[test]
fn ipv6_is_no_different() {
    pair().run(|mesh| {
        let server = mesh.pod("server").at_v6(ECHO);
        for flags in [&[][..], &["--nonblocking"], &["--device", "eth0"]] {
            check(mesh, at_v6(ECHO), server, flags)?;
            check(mesh, server, server, flags)?;
        }
        Ok(())
    });
}

#[test]
fn an_ipv4_mapped_address_stays_mapped_for_the_client() {
    pair().run(|mesh| {
        let server = mesh.pod("server").at(ECHO);
        check(mesh, at(ECHO), server, &["--mapped"])?;
        check(mesh, server, server, &["--mapped", "--nonblocking"]).map(drop)
    });
}

#[test]
fn a_client_may_bind_its_address_and_its_port_first() {
    pair().run(|mesh| {
        let (server, client) = (mesh.pod("server").at(ECHO), mesh.pod("client").ip());
        let bound = SocketAddr::new(client, 0).to_string();
        check(mesh, at(ECHO), server, &["--bind", &bound])?;
        let bound = SocketAddr::new(client, 4321).to_string();
        let accepted = check(mesh, at(ECHO), server, &["--bind", &bound])?;
        assert_eq!(accepted.peer, bound);
        check(mesh, at(ECHO), server, &["--bind", "0.0.0.0:4322"]).map(drop)
    });
}

#[test]
fn an_http_server_sees_its_caller() {
    pair().run(|mesh| {
        let http = mesh.pod("server").serve_with(Kind::Http, &format!("0.0.0.0:{HTTP}"), &[])?;
        let client = mesh.pod("client");
        let request = "GET / HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n";
        let seen = client.dial(at(80)).send(request).connected()?;
        assert!(seen.received.starts_with("HTTP/1.1 200"), "{seen:?}");
        assert_eq!(seen.peer, at(80).to_string());
        let accepted = http.accepted(1)?;
        assert_eq!(
            accepted,
            Accepted {
                accept: seen.local.clone(),
                peer: seen.local,
                local: mesh.pod("server").at(HTTP).to_string(),
            }
        );
        Ok(())
    });
}

#[test]
fn a_marked_socket_is_captured_like_any_other() {
    pair().run(|mesh| {
        let server = mesh.pod("server").at(ECHO);
        for mark in ["1", "1337", "4294967295"] {
            check(mesh, at(ECHO), server, &["--mark", mark])?;
        }
        mesh.b().record("the caller's identity", |record| {
            record["src.identity"] == "spiffe://cluster.local/ns/shop/sa/client"
        })?;
        Ok(())
    });
}

/// Echoes the marker over one connection and compares every address that either side is told.
fn check(mesh: &Mesh, to: SocketAddr, server: SocketAddr, flags: &[&str]) -> Result<Accepted> {
    let (client_pod, server_pod) = (mesh.pod("client"), mesh.pod("server"));
    let echo = server_pod.serve_with(Kind::Echo, &server.to_string(), &[])?;
    let connected = client_pod
        .dial(to)
        .flags(flags)
        .send(PLAINTEXT_MARKER)
        .until_bytes(PLAINTEXT_MARKER.len())
        .connected()?;
    assert_eq!(connected.received, PLAINTEXT_MARKER, "{flags:?}");
    let (peer, local): (SocketAddr, SocketAddr) = (connected.peer.parse()?, connected.local.parse()?);
    let accepted = echo.accepted(1)?;
    let mapped = flags.contains(&"--mapped");
    assert_eq!(peer.ip().to_canonical(), to.ip(), "getpeername of the client with {flags:?}");
    assert_eq!(peer.ip() != to.ip(), mapped, "the client's own form of the address with {flags:?}");
    assert_eq!(peer.port(), to.port());
    let own = if to.is_ipv4() { client_pod.addresses()[0] } else { client_pod.addresses()[1] };
    assert_eq!(local.ip().to_canonical(), own, "getsockname of the client with {flags:?}");
    let caller = SocketAddr::new(own, local.port()).to_string();
    assert_eq!(accepted.peer, caller, "getpeername of the server with {flags:?}");
    assert_eq!(accepted.accept, caller, "accept of the server with {flags:?}");
    assert_eq!(accepted.local, server.to_string(), "getsockname of the server with {flags:?}");
    Ok(accepted)
}
