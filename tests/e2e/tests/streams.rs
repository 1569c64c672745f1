//! Opaque TCP: ends, resets, back-pressure and order are carried through from end to end.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use mesh_test_e2e::{ECHO, HTTP, UNDECLARED, at, node, pair, server, service};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::clients::Dialled;
use mesh_test_harness::eventually::PATIENCE;
use mesh_test_harness::mesh::Scenario;
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::servers::Kind;
use mesh_test_harness::topology::WIRE;

#[test]
fn a_half_closed_connection_still_answers() {
    pair().run(|mesh| {
        let _server = mesh.pod("server").serve(Kind::HalfClose, ECHO)?;
        let seen = mesh.pod("client").dial(at(ECHO)).send("five!").shutdown().connected()?;
        assert_eq!(seen.received, format!("5 bytes {PLAINTEXT_MARKER}"));
        assert_eq!(seen.ended, "eof");
        Ok(())
    });
}

#[test]
fn a_server_that_speaks_first_waits_for_nothing() {
    for port in [ECHO, UNDECLARED] {
        pair().run(|mesh| {
            let _server = mesh.pod("server").serve(Kind::Banner, port)?;
            let to = mesh.pod("server").at(port);
            let seen = mesh.pod("client").dial(to).flags(&["--until", "\r\n"]).connected()?;
            assert_eq!(seen.received, format!("220 {PLAINTEXT_MARKER}\r\n"));
            assert!(seen.after_ms < 1000.0, "nothing was waited for: {} ms on port {port}", seen.after_ms);
            Ok(())
        });
    }
}

/// They come one after the other to threads that sleep, of which the kernel wakes the same each time.
#[test]
fn connections_of_one_pod_are_carried_by_all_cores() {
    pair().flags(&["--workers", "2"]).run(|mesh| {
        let _server = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let held = (0..16).map(|_| mesh.pod("client").hold(at(ECHO))).collect::<Result<Vec<_>>>()?;
        let source = mesh.node(node(0));
        // Each core has a tunnel of its own.
        source.metric("nodemesh_transport_tunnels", &[], |tunnels| tunnels == 2.0)?;
        source.metric("nodemesh_transport_events_total", &[("event", "given")], |given| given > 0.0)?;
        held.into_iter().try_for_each(|held| held.finish().map(drop))
    });
}

#[test]
fn a_reset_of_the_server_reaches_the_client() {
    pair().run(|mesh| {
        let _server = mesh.pod("server").serve(Kind::Reset, ECHO)?;
        let seen = mesh.pod("client").dial(at(ECHO)).send("x").connected()?;
        assert_eq!((seen.ended.as_str(), seen.received_bytes), ("reset", 0));
        Ok(())
    });
}

#[test]
fn a_reset_of_the_client_reaches_the_server() {
    pair().run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.pod("client").dial(at(ECHO)).send("x").until_bytes(1).flags(&["--abort"]).connected()?;
        assert_eq!(server.event("closed", 1, PATIENCE)?["ended"], "reset");
        Ok(())
    });
}

#[test]
fn a_connection_that_nobody_accepts_ends_in_a_reset() {
    pair().run(|mesh| {
        let seen = mesh.pod("client").dial(at(ECHO)).send("x").run()?;
        assert!(matches!(seen.refusal(), Some("reset" | "refused")), "{seen:?}");
        Ok(())
    });
}

#[test]
fn bulk_arrives_whole_in_both_directions() {
    pair().capture_only(WIRE).run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let (block, times) = (PLAINTEXT_MARKER.repeat(40_000), 8);
        let total = block.len() * times;
        let flags = ["--repeat", &times.to_string(), "--shutdown"];
        let seen = mesh.pod("client").dial(at(ECHO)).flags(&flags).send(block).connected()?;
        assert_eq!((seen.received_bytes, seen.ended.as_str()), (total, "eof"));
        assert_eq!(server.event("closed", 1, PATIENCE)?["received"], total);
        Ok(())
    });
}

#[test]
fn a_slow_reader_loses_nothing_and_grows_nobody() {
    pair().capture_only(WIRE).run(|mesh| {
        let _server = mesh.pod("server").serve(Kind::Http, UNDECLARED)?;
        let to = mesh.pod("server").at(UNDECLARED);
        let before = [resident_kib(mesh.a().id())?, resident_kib(mesh.b().id())?];
        let wanted = 6 << 20;
        let request = format!("GET /bytes/{wanted} HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n");
        let flags = ["--slow-ms", "1"];
        let seen = mesh
            .pod("client")
            .dial(to)
            .flags(&flags)
            .send(request)
            .limit(Duration::from_secs(60))
            .connected()?;
        assert!(seen.received_bytes > wanted, "{} of {wanted}", seen.received_bytes);
        let after = [resident_kib(mesh.a().id())?, resident_kib(mesh.b().id())?];
        for (before, after) in before.into_iter().zip(after) {
            assert!(after < before + 16 * 1024, "from {before} to {after} KiB");
        }
        Ok(())
    });
}

#[test]
fn what_is_not_read_when_a_connection_ends_well_still_arrives() {
    let beside = PodSpec::new("beside").port("http", HTTP).port("tcp-echo", ECHO);
    let scenario = Scenario::new(vec![PodSpec::new("client"), beside], vec![server("server")]);
    scenario.service(service()).capture_only(WIRE).run(|mesh| {
        let (server, beside) = (mesh.pod("server"), mesh.pod("beside"));
        let _servers = [server, beside].map(|pod| [ECHO, HTTP].map(|port| pod.serve(Kind::Http, port)));
        // Opaque and as HTTP/1.1, through a tunnel and on one node.
        let wanted = 6 << 20;
        let request = format!("GET /bytes/{wanted} HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n");
        let slow = |to: SocketAddr| {
            let dial = mesh.pod("client").dial(to).flags(&["--slow-ms", "1"]).send(request.clone());
            dial.limit(Duration::from_secs(60)).start()
        };
        let ways = [at(ECHO), at(80), beside.at(ECHO), beside.at(HTTP)];
        let reading = ways.into_iter().map(slow).collect::<Result<Vec<_>>>()?;
        for (reading, to) in reading.into_iter().zip(ways) {
            let Dialled::Connected(seen) = reading.finish()? else { bail!("no connection to {to}") };
            ensure!(seen.received_bytes > wanted, "{to}: {} of {wanted} bytes", seen.received_bytes);
            ensure!(seen.ended == "eof", "{to}: {}", seen.ended);
        }
        Ok(())
    });
}

#[test]
fn what_a_slow_server_has_not_read_still_arrives() {
    let beside = PodSpec::new("beside");
    let scenario = Scenario::new(vec![PodSpec::new("client"), beside], vec![server("server")]);
    scenario.service(service()).capture_only(WIRE).run(|mesh| {
        let block = PLAINTEXT_MARKER.repeat(40_000);
        for pod in ["server", "beside"] {
            let listen = format!("[::]:{UNDECLARED}");
            let sink = mesh.pod(pod).serve_with(Kind::Sink, &listen, &["--slow-ms", "5"])?;
            let dial = mesh.pod("client").dial(mesh.pod(pod).at(UNDECLARED)).shutdown();
            let seen = dial.flags(&["--repeat", "6"]).send(block.clone()).connected()?;
            ensure!(seen.ended == "eof", "{pod}: {}", seen.ended);
            let closed = sink.event("closed", 1, PATIENCE)?;
            ensure!(closed["received"] == block.len() * 6 && closed["ended"] == "eof", "{pod}: {closed}");
        }
        Ok(())
    });
}

#[test]
fn many_connections_share_a_tunnel() {
    pair().run(|mesh| {
        let _server = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let held = (0..20).map(|_| mesh.pod("client").hold(at(ECHO))).collect::<Result<Vec<_>>>()?;
        for held in held {
            held.finish()?;
        }
        let carried = mesh.finish_captures()?;
        let ports = carried[0].client_hellos().len();
        assert!(ports <= 8, "20 connections, {ports} handshakes on the interfaces of node A");
        Ok(())
    });
}

fn resident_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
