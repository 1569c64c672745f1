//! What is counted and logged is what happened, on both sides, under Istio's names.

use anyhow::Result;
use mesh_test_e2e::{ECHO, HTTP, at, from_account, pair, policy};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::mesh::Mesh;
use mesh_test_harness::servers::Kind;

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/server";

#[test]
fn requests_are_counted_by_both_reporters() {
    let allow = from_account("client") + "  to:\n    - operation:\n        methods: [GET]\n";
    pair().objects("policy", &policy("readers", "ALLOW", &allow)).run(|mesh| {
        let _http = mesh.pod("server").serve(Kind::Http, HTTP)?;
        for _ in 0..3 {
            assert_eq!(mesh.pod("client").curl("http://10.96.0.10/x", &[])?.status, 200);
        }
        assert_eq!(mesh.pod("client").curl("http://10.96.0.10/x", &["-X", "POST"])?.status, 403);
        for (reporter, code, count) in [
            ("source", "200", 3.0),
            ("destination", "200", 3.0),
            ("source", "403", 1.0),
            ("destination", "403", 1.0),
        ] {
            let labels = [
                ("reporter", reporter),
                ("response_code", code),
                ("request_protocol", "http"),
                ("source_principal", CLIENT),
                ("source_workload", "client"),
                ("source_workload_namespace", "shop"),
                ("destination_principal", SERVER),
                ("destination_workload", "server"),
                ("destination_service", "server.shop.svc.cluster.local"),
                ("destination_service_name", "server"),
                ("destination_service_namespace", "shop"),
                ("connection_security_policy", "mutual_tls"),
            ];
            let node = if reporter == "source" { "node-a" } else { "node-b" };
            mesh.node(node).metric("istio_requests_total", &labels, |found| found == count)?;
        }
        let labels = [("reporter", "destination")];
        mesh.b().metric("istio_request_duration_milliseconds_count", &labels, |found| found == 4.0)?;
        Ok(())
    });
}

#[test]
fn connections_and_their_bytes_are_counted_by_both_reporters() {
    pair().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        mesh.pod("client").echo(at(ECHO))?;
        mesh.pod("client").echo(at(ECHO))?;
        for (node, reporter) in [("node-a", "source"), ("node-b", "destination")] {
            let labels =
                [("reporter", reporter), ("source_principal", CLIENT), ("destination_principal", SERVER)];
            let bytes = 2.0 * PLAINTEXT_MARKER.len() as f64;
            for (name, count) in [
                ("istio_tcp_connections_opened_total", 2.0),
                ("istio_tcp_connections_closed_total", 2.0),
                ("istio_tcp_sent_bytes_total", bytes),
                ("istio_tcp_received_bytes_total", bytes),
            ] {
                mesh.node(node).metric(name, &labels, |found| found == count)?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_long_connection_shows_its_bytes_while_it_is_open() {
    pair().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let held = mesh.pod("client").hold(at(ECHO))?;
        let (sent, received) = ("istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total");
        for node in ["node-a", "node-b"] {
            for name in [sent, received] {
                let first = mesh.node(node).metric(name, &[], |bytes| bytes > 0.0)?;
                mesh.node(node).metric(name, &[], |bytes| bytes > first)?;
            }
            mesh.node(node).metric("istio_tcp_connections_closed_total", &[], |closed| closed == 0.0)?;
        }
        let bytes = held.finish()? as f64 * PLAINTEXT_MARKER.len() as f64;
        for node in ["node-a", "node-b"] {
            mesh.node(node).metric("istio_tcp_connections_closed_total", &[], |closed| closed == 1.0)?;
            for name in [sent, received] {
                mesh.node(node).metric(name, &[], |total| total == bytes)?;
            }
        }
        Ok(())
    });
}

#[test]
fn the_daemon_counts_what_kernel_and_engines_did() {
    pair().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        // The agent's own trial of capture is counted too.
        let (verdicts, captured) = ("nodemesh_kernel_verdicts_total", [("reason", "captured")]);
        let before = mesh.node("node-a").metrics()?.sum(verdicts, &captured);
        mesh.pod("client").echo(at(ECHO))?;
        mesh.node("node-a").metric(verdicts, &captured, |count| count == before + 1.0)?;
        let accepted = [("event", "streams_accepted")];
        mesh.node("node-b").metric("nodemesh_transport_events_total", &accepted, |count| count == 1.0)?;
        mesh.node("node-b").metric("nodemesh_transport_tunnels", &[], |count| count == 1.0)?;
        Ok(())
    });
}

#[test]
fn every_connection_has_one_record_on_each_side() {
    pair().run(|mesh| {
        let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
        let seen = mesh.pod("client").echo(at(ECHO))?;
        for (node, direction) in [("node-a", "outbound"), ("node-b", "inbound")] {
            let record =
                mesh.node(node).record("the connection", |record| record["direction"] == direction)?;
            assert_eq!(record["src.identity"], CLIENT, "{record}");
            assert_eq!(record["dst.identity"], SERVER, "{record}");
            assert_eq!(record["src.addr"], seen.local, "{record}");
            for (field, value) in
                [("src.workload", "client"), ("dst.workload", "server"), ("dst.service", "server")]
            {
                assert!(
                    record[field].as_str().is_some_and(|text| text.contains(value)),
                    "{field} of {record}"
                );
            }
            assert_eq!(record["bytes_sent"], PLAINTEXT_MARKER.len(), "{record}");
            assert_eq!(record["bytes_received"], PLAINTEXT_MARKER.len(), "{record}");
            assert!(record["duration_ms"].is_number(), "{record}");
            assert_eq!(connections(mesh, node), 1);
        }
        Ok(())
    });
}

#[test]
fn names_from_outside_make_no_series() -> Result<()> {
    pair().run(|mesh| {
        let _http = mesh.pod("server").serve(Kind::Http, HTTP)?;
        mesh.pod("client").curl("http://10.96.0.10/", &[])?;
        let before = series(mesh)?;
        for number in 0..30 {
            let host = format!("host: host-{number}.example");
            mesh.pod("client").curl(&format!("http://10.96.0.10/{number}"), &["-H", &host])?;
        }
        assert_eq!(series(mesh)?, before);
        Ok(())
    });
    Ok(())
}

fn connections(mesh: &Mesh, node: &str) -> usize {
    mesh.node(node).records().iter().filter(|record| record["direction"].is_string()).count()
}

fn series(mesh: &Mesh) -> Result<usize> {
    let metrics = mesh.node("node-b").metrics()?;
    Ok(metrics.samples().iter().filter(|sample| sample.name.starts_with("istio_")).count())
}
