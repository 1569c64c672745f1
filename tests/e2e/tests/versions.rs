//! Callers and applications that speak different versions of HTTP: what a message means to one side it means to the other, over
//! two nodes and over one.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use mesh_test_e2e::{HTTP, SERVER, at, decision_id, policy, server, service};
use mesh_test_harness::attacks::frames::{self, Method};
use mesh_test_harness::eventually::{PATIENCE, eventually_true};
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::servers::{Kind, Server};

/// Declared `http2` on Service and pod.
const HTTP2: u16 = 8081;
/// Declared `grpc` on both.
const GRPC: u16 = 50051;
/// Kinds and flags of frames (RFC 9113 section 6).
const HEADERS: u8 = 1;
const DATA: u8 = 0;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;

/// `client` on node A, `near` on that of `server`.
fn scenario() -> Scenario {
    let server = server("server").port("http2", HTTP2).port("grpc", GRPC);
    Scenario::new(vec![PodSpec::new("client")], vec![server, PodSpec::new("near")])
        .service(service().port("http2", HTTP2, HTTP2).port("grpc", GRPC, GRPC))
}

fn to(port: u16) -> SocketAddr {
    SocketAddr::from((SERVER, port))
}

/// Sends these requests of HTTP/1.1; all that comes back.
fn ask(mesh: &Mesh, pod: &str, port: u16, requests: &[u8]) -> Result<String> {
    Ok(mesh.pod(pod).http_bytes(to(port), requests)?.received)
}

/// Sends a POST over HTTP/2 with these fields, body and trailers.
fn post(mesh: &Mesh, pod: &str, port: u16, fields: &[(&[u8], &[u8])], rest: &[Vec<u8>]) -> Result<String> {
    let mut block = frames::head(Method::Post);
    fields.iter().for_each(|(name, value)| block.extend(frames::literal(name, value, false)));
    let flags = if rest.is_empty() { END_HEADERS | END_STREAM } else { END_HEADERS };
    let mut sent = [frames::PREFACE, &frames::frame(4, 0, 0, b"")].concat();
    sent.extend(frames::frame(HEADERS, flags, 1, &block));
    sent.extend(rest.iter().flatten());
    Ok(mesh.pod(pod).http_bytes(to(port), sent)?.received)
}

/// Every byte that an application of HTTP/1.1 read.
fn read_by(server: &Server) -> String {
    server.events("bytes").iter().filter_map(|event| event["text"].as_str()).collect()
}

#[test]
fn a_caller_of_http_1_reaches_an_application_of_http_2() {
    scenario().run(|mesh| {
        let ports = [(HTTP2, mesh.pod("server").serve(Kind::Http2, HTTP2)?)];
        let grpc = mesh.pod("server").serve(Kind::Http2, GRPC)?;
        let both = ports.iter().map(|(port, server)| (*port, server)).chain([(GRPC, &grpc)]);
        for (port, server) in both {
            for pod in ["client", "near"] {
                let before = server.events("request").len();
                let requests = b"GET /1?q=1 HTTP/1.1\r\nHost: SERVER.shop\r\nConnection: x-hop\r\nX-Hop: 1\r\nX-Own: 2\r\n\r\n\
                                 POST /2 HTTP/1.1\r\nHost: server.shop\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n\
                                 4\r\ntext\r\n0\r\nX-Sum: 7\r\n\r\nGET /3 HTTP/1.0\r\nHost: server.shop\r\n\r\n";
                let seen = ask(mesh, pod, port, requests)?;
                assert_eq!(seen.matches(" 200 OK\r\n").count(), 3, "{pod} {port}: {seen}");
                let requests = server.events("request");
                let of = |name: &str| requests[before..].iter().map(|seen| seen[name].clone()).collect::<Vec<_>>();
                assert_eq!(of("path"), ["/1?q=1", "/2", "/3"], "{pod} {port}");
                assert_eq!(requests[before]["uri"], "http://server.shop/1?q=1");
                let fields = &requests[before]["headers"];
                assert_eq!((&fields["x-own"], &fields["x-hop"]), (&"2".into(), &serde_json::Value::Null), "{fields}");
                assert!(requests[before + 1]["headers"].get("expect").is_none(), "{requests:?}");
            }
        }
        Ok(())
    });
}

#[test]
fn what_a_caller_of_http_1_may_not_ask_an_application_of_http_2_never_hears_of() {
    let rules = "- to:\n    - operation:\n        paths: [/secret]\n";
    scenario().objects("policy", &policy("no-secret", "DENY", rules)).run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http2, HTTP2)?;
        for (pod, own) in [("client", 0), ("near", 1)] {
            let seen = ask(mesh, pod, HTTP2, b"GET /x/../secret HTTP/1.1\r\nHost: a\r\n\r\n")?;
            assert!(seen.starts_with("HTTP/1.1 403 ") && decision_id(&seen).is_some(), "{pod}: {seen}");
            for (request, status) in [
                (&b"GET /2 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"[..], 400),
                (b"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
                (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 501),
                (
                    b"GET /2 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                    501,
                ),
            ] {
                let seen = ask(mesh, pod, HTTP2, request)?;
                assert!(seen.starts_with(&format!("HTTP/1.1 {status} ")), "{pod}: {seen}");
                let id = decision_id(&seen).with_context(|| format!("no id in {seen}"))?;
                let node = mesh.node(mesh_test_e2e::node(own));
                node.record("the refusal", |record| record["decision"] == id.as_str())?;
                node.command(&["authz", "explain", &id])?.success(&seen)?;
            }
            // No HTTP at all: closed, without a word of it.
            assert_eq!(ask(mesh, pod, HTTP2, b"\x16\x03\x01\x00\x01\x00\r\n\r\n")?, "", "{pod}");
        }
        assert_eq!(server.events("request").len(), 0, "{:?}", server.events("request"));
        Ok(())
    });
}

#[test]
fn trailers_of_a_request_reach_an_application_of_http_1_named_or_not() {
    scenario().run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        for (number, pod) in ["client", "near"].iter().enumerate() {
            let trailers =
                [frames::literal(b"x-sum", b"7", false), frames::literal(b"x-pod", pod.as_bytes(), false)];
            let data = frames::frame(DATA, 0, 1, b"text");
            let end = frames::frame(HEADERS, END_HEADERS | END_STREAM, 1, &trailers.concat());
            post(mesh, pod, 80, &[], &[data, end])?;
            server.event("request", number + 1, PATIENCE)?;
            let expected = format!("4\r\ntext\r\n0\r\nx-sum: 7\r\nx-pod: {pod}\r\n\r\n");
            assert!(read_by(&server).ends_with(&expected), "{pod}: {}", read_by(&server));
        }
        Ok(())
    });
}

/// The rule's words: one of ASCII, and one that is two bytes of UTF-8 and one of ISO 8859-1.
const ROLES: &str = "- when:\n    - key: request.headers[x-role]\n      values: [\"admin\", \"caf\u{e9}\"]\n";
/// What is not the rule's, byte for byte, and what is.
const OTHERS: [&[u8]; 3] = [b"\x85admin\xa0", b"caf\xe9", b"\xc2\xa0admin"];
const RULED: [&[u8]; 2] = [b"admin", b"caf\xc3\xa9"];

#[test]
fn bytes_beyond_ascii_pass_unchanged_and_are_matched_as_bytes() {
    scenario().objects("policy", &policy("roles", "DENY", ROLES)).run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        let mut denied = 0.0;
        for pod in ["client", "near"] {
            for http2 in [false, true] {
                let ask = |value: &[u8]| match http2 {
                    true => post(mesh, pod, 80, &[(b"x-role", value)], &[]),
                    false => {
                        let before = b"POST / HTTP/1.1\r\nhost: server.shop\r\ncontent-length: 0\r\nx-role: ";
                        ask(mesh, pod, 80, &[before, value, b"\r\n\r\n"].concat())
                    }
                };
                for value in OTHERS {
                    let before = server.events("request").len();
                    ask(value)?;
                    server.event("request", before + 1, PATIENCE)?;
                    let field: String = value.iter().map(|byte| char::from(*byte)).collect();
                    let read = read_by(&server);
                    let last = read.rfind("POST / HTTP/1.1").context("it was asked")?;
                    assert!(read[last..].contains(&format!("x-role: {field}\r\n")), "{pod} {http2}: {read}");
                }
                for value in RULED {
                    ask(value)?;
                    denied += 1.0;
                    let labels = [("response_code", "403"), ("reporter", "destination")];
                    mesh.node("node-b").metric("istio_requests_total", &labels, |found| found == denied)?;
                }
            }
        }
        assert_eq!(server.events("request").len(), 4 * OTHERS.len());
        Ok(())
    });
}

#[test]
fn a_connection_of_http_2_without_requests_is_closed_at_its_deadline() {
    // Who does not go when it is told to has the time of a handshake.
    scenario().flags(&["--http-idle-timeout", "1s", "--handshake-timeout", "2s"]).run(|mesh| {
        let _server = mesh.pod("server").serve(Kind::Http2, HTTP2)?;
        let mut sent = [frames::PREFACE, &frames::frame(4, 0, 0, b"")].concat();
        sent.extend(frames::frame(HEADERS, END_HEADERS | END_STREAM, 1, &frames::head(Method::Get)));
        let seen = mesh.pod("client").dial(at(HTTP2)).send(sent).connected()?;
        assert!(seen.ended == "eof" && (3000.0..9000.0).contains(&seen.after_ms), "{seen:?}");
        // GOAWAY without an error comes before the end.
        assert!(seen.received.contains("\u{7}\0\0\0\0\0"), "{seen:?}");
        eventually_true("its request was served", PATIENCE, || {
            mesh.node("node-b").records().iter().any(|record| record["http.status"] == 200)
        })?;
        Ok(())
    });
}

/// What curl reads of a path, with the heads of all answers.
fn heads(mesh: &Mesh, pod: &str, port: u16, path: &str, flags: &[&str]) -> Result<String> {
    let flags = [&["--include"], flags].concat();
    let read = mesh.pod(pod).curl(&format!("http://{}{path}", to(port)), &flags)?;
    anyhow::ensure!(read.exit == 0, "{pod} {port} {path} {flags:?}: {read:?}");
    Ok(read.body)
}

/// The path at which an application of HTTP/1.1 answers this.
fn verbatim(answer: &str) -> String {
    let hexadecimal = answer.bytes().map(|byte| format!("{byte:02x}"));
    "/verbatim/".to_owned() + &hexadecimal.collect::<String>()
}

#[test]
fn interim_answers_reach_callers_over_every_pair_of_versions() {
    scenario().run(|mesh| {
        let _http1 = mesh.pod("server").serve(Kind::Http, HTTP)?;
        let _http2 = mesh.pod("server").serve(Kind::Interims, HTTP2)?;
        let answer = verbatim(
            "HTTP/1.1 103 Early Hints\r\nlink: </0>\r\nconnection: x-hop\r\nx-hop: 1\r\n\r\n\
             HTTP/1.1 102 Processing\r\nlink: </1>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        );
        for pod in ["client", "near"] {
            for (port, path) in [(80, &answer[..]), (HTTP2, "/103/102")] {
                for (flag, version) in [("--http2-prior-knowledge", "HTTP/2"), ("--http1.1", "HTTP/1.1")] {
                    let seen = heads(mesh, pod, port, path, &[flag])?.replace('\r', "");
                    let lines: Vec<_> = seen.lines().map(str::trim_end).collect();
                    let is_status = |line: &&&str| line.starts_with(version);
                    let statuses: Vec<_> =
                        lines.iter().filter(is_status).map(|line| line.split(' ').nth(1)).collect();
                    assert_eq!(
                        statuses,
                        [Some("103"), Some("102"), Some("200")],
                        "{pod} {port} {flag}: {seen}"
                    );
                    let links = lines.iter().filter(|line| line.starts_with("link: "));
                    assert!(links.eq(&["link: </0>", "link: </1>"]), "{pod} {port} {flag}: {seen}");
                    assert!(!seen.contains("x-hop"), "{pod} {port} {flag}: {seen}");
                }
                // HTTP/1.0 has none (RFC 9110 section 15.2).
                let seen = heads(mesh, pod, port, path, &["--http1.0"])?;
                assert!(seen.contains(" 200 OK") && !seen.contains("link"), "{pod} {port}: {seen}");
            }
        }
        Ok(())
    });
}

#[test]
fn a_body_that_waits_for_100_goes_when_its_application_says_so() {
    scenario().run(|mesh| {
        let _http1 = mesh.pod("server").serve(Kind::Http, HTTP)?;
        let _http2 = mesh.pod("server").serve(Kind::Interims, HTTP2)?;
        for pod in ["client", "near"] {
            for port in [80, HTTP2] {
                for version in ["--http2-prior-knowledge", "--http1.1"] {
                    // It would wait for longer than it may take in all.
                    let waits =
                        ["-H", "expect: 100-continue", "--expect100-timeout", "60", "-d", "text", version];
                    let seen = heads(mesh, pod, port, "/", &waits)?;
                    assert!(seen.contains(" 100") && seen.contains(" 200"), "{pod} {port} {version}: {seen}");
                }
            }
        }
        Ok(())
    });
}

#[test]
fn interim_answers_without_end_are_502_over_http_2() {
    scenario().run(|mesh| {
        let _http1 = mesh.pod("server").serve(Kind::Http, HTTP)?;
        let _http2 = mesh.pod("server").serve(Kind::Interims, HTTP2)?;
        let endless = verbatim(&"HTTP/1.1 102 Wait\r\n\r\n".repeat(17));
        for pod in ["client", "near"] {
            for (port, path, reason) in [
                (80, &endless[..], "http1_too_many_interim"),
                (HTTP2, &"/102".repeat(17), "http1_too_many_interim"),
                // It is of HTTP/1.1 alone (RFC 9113 section 8.6).
                (HTTP2, "/101", "no_valid_switch"),
            ] {
                let seen = heads(mesh, pod, port, path, &["--http2-prior-knowledge"])?;
                assert!(seen.contains("HTTP/2 502"), "{pod} {port}: {seen}");
                assert!(seen.contains(&format!("x-nodemesh-reason: {reason}")), "{pod} {port}: {seen}");
            }
        }
        Ok(())
    });
}
