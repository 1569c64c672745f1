//! HTTP/1.1 through both codecs: what is legal passes unchanged in meaning, body and order.

use anyhow::Result;
use mesh_test_e2e::{HTTP, at, pair, request};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::clients::Connected;
use mesh_test_harness::eventually::PATIENCE;
use mesh_test_harness::mesh::Mesh;
use mesh_test_harness::servers::{Kind, Server};
use mesh_test_harness::topology::WIRE;

#[test]
fn a_kept_connection_answers_in_order() {
    with_server(|mesh, server| {
        let pipelined: String = (0..5).map(|number| request(&format!("GET /bytes/{number}"), "")).collect();
        let seen = ask(mesh, pipelined)?;
        let lengths: Vec<String> = fields(&seen, "content-length");
        assert_eq!(lengths, ["0", "1", "2", "3", "4"]);
        assert_eq!(server.events("request").len(), 5);
        Ok(())
    });
}

#[test]
fn a_connection_to_the_application_is_used_again() {
    with_server(|mesh, server| {
        let response = mesh.pod("client").curl("http://10.96.0.10/a", &["http://10.96.0.10/b"])?;
        assert_eq!(response.status, 200);
        assert_eq!(server.events("request").len(), 2);
        assert_eq!(server.connections(), 1, "one kept connection");
        Ok(())
    });
}

#[test]
fn bodies_by_length_and_in_chunks_arrive_whole() {
    with_server(|mesh, server| {
        let body = PLAINTEXT_MARKER.repeat(4);
        let by_length = format!("content-length: {}\r\n", body.len());
        ask(mesh, request("POST /length", &by_length) + &body)?;
        let chunks = "5\r\nNODEM\r\n3;extension=1\r\nESH\r\n0\r\nx-trailer: yes\r\n\r\n";
        ask(mesh, request("POST /chunks", "transfer-encoding: chunked\r\n") + chunks)?;
        let requests = server.events("request");
        assert_eq!((&requests[0]["body"], &requests[0]["body_bytes"]), (&body.into(), &100.into()));
        assert_eq!(requests[1]["body"], "NODEMESH");
        Ok(())
    });
}

#[test]
fn chunked_answers_and_trailers_come_back() {
    with_server(|mesh, _| {
        let response = mesh.pod("client").curl("http://10.96.0.10/chunked/300000", &[])?;
        assert_eq!((response.status, response.body.len()), (200, 300_000));
        let seen = ask(mesh, request("GET /trailers", "te: trailers\r\n"))?;
        assert!(seen.received.contains("4\r\nbody\r\n0\r\n"), "{}", seen.received);
        Ok(())
    });
}

#[test]
fn head_and_empty_answers_have_no_body() {
    with_server(|mesh, _| {
        let all = [
            request("HEAD /bytes/1000", ""),
            request("GET /status/204", ""),
            request("GET /status/304", ""),
            request("GET /bytes/3", ""),
        ];
        let seen = ask(mesh, all.concat())?.received;
        let statuses: Vec<&str> = seen.split("HTTP/1.1 ").skip(1).map(|text| &text[..3]).collect();
        assert_eq!(statuses, ["200", "204", "304", "200"]);
        assert!(seen.ends_with("\r\n\r\nNOD"), "{seen}");
        Ok(())
    });
}

#[test]
fn expect_continue_is_answered_before_the_body() {
    with_server(|mesh, server| {
        let body = "x".repeat(2000);
        let response =
            mesh.pod("client").curl("http://10.96.0.10/", &["-H", "expect: 100-continue", "-d", &body])?;
        assert_eq!(response.status, 200);
        assert_eq!(server.event("request", 1, PATIENCE)?["body_bytes"], 2000);
        Ok(())
    });
}

#[test]
fn large_bodies_pass_in_both_directions() {
    pair().capture_only(WIRE).run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        let response = mesh.pod("client").curl("http://10.96.0.10/bytes/8000000", &["-o", "/dev/null"])?;
        assert_eq!(response.status, 200);
        let body = "y".repeat(3_000_000);
        let upload = request("POST /", &format!("content-length: {}\r\n", body.len())) + &body;
        let seen = ask(mesh, upload)?;
        assert!(seen.received.starts_with("HTTP/1.1 200"), "{seen:?}");
        assert_eq!(server.event("request", 2, PATIENCE)?["body_bytes"], 3_000_000);
        Ok(())
    });
}

#[test]
fn an_early_answer_does_not_poison_the_next_request() {
    with_server(|mesh, server| {
        let body = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2000);
        let early = request("POST /early", &format!("content-length: {}\r\n", body.len())) + &body;
        ask(mesh, early)?;
        let seen = ask(mesh, request("GET /after", ""))?;
        assert!(seen.received.starts_with("HTTP/1.1 200"), "{seen:?}");
        let paths: Vec<String> = paths(server);
        assert!(!paths.iter().any(|path| path.contains("smuggled")), "{paths:?}");
        Ok(())
    });
}

#[test]
fn an_answer_that_nobody_asked_for_reaches_nobody() {
    with_server(|mesh, _| {
        let seen = ask(mesh, request("GET /twice", "") + &request("GET /bytes/3", ""))?;
        assert!(!seen.received.contains("smuggled"), "{}", seen.received);
        Ok(())
    });
}

#[test]
fn http_is_found_on_a_port_that_declares_nothing() {
    pair().run(|mesh| {
        let _server = mesh.pod("server").serve(Kind::Http, mesh_test_e2e::UNDECLARED)?;
        let url = format!("http://{}/", mesh.pod("server").at(mesh_test_e2e::UNDECLARED));
        assert_eq!(mesh.pod("client").curl(&url, &[])?.status, 200);
        Ok(())
    });
}

fn with_server(test: impl FnOnce(&mut Mesh, &Server) -> Result<()>) {
    pair().run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        test(mesh, &server)
    });
}

fn ask(mesh: &Mesh, bytes: impl Into<Vec<u8>>) -> Result<Connected> {
    mesh.pod("client").http_bytes(at(80), bytes)
}

fn fields(seen: &Connected, name: &str) -> Vec<String> {
    let lines = seen.received.lines().filter_map(|line| line.split_once(": "));
    lines
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
        .collect()
}

fn paths(server: &Server) -> Vec<String> {
    server.events("request").iter().filter_map(|event| event["path"].as_str()).map(str::to_owned).collect()
}

#[test]
fn the_called_side_says_that_the_application_does_not_listen() {
    pair().run(|mesh| {
        assert_eq!(mesh.pod("client").curl("http://10.96.0.10/", &[])?.status, 503);
        for node in ["node-a", "node-b"] {
            mesh.node(node)
                .record("why it was not served", |record| record["reason"] == "connect_refused")?;
        }
        Ok(())
    });
}
