//! HTTP/2 and gRPC: each request decided at the destination, carried in mutual TLS, counted as what it is.

use std::net::SocketAddr;
use std::thread;

use anyhow::Result;
use mesh_test_e2e::{
    SERVER, dry_run, dry_run_is_reported, from_account, peer_authentication, policy, server, service,
    unreadable_is_told,
};
use mesh_test_harness::clients::Called;
use mesh_test_harness::eventually::{PATIENCE, eventually, eventually_true};
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::servers::{Kind, Server};

/// Declared `grpc` on Service and pod.
const GRPC: u16 = 50051;
/// Declared `http2` on Service and pod.
const HTTP2: u16 = 8081;
const UNARY: &str = "/echo.Echo/Unary";
const SECRET: &str = "/echo.Echo/Secret";
const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";

#[test]
fn a_call_passes_with_its_trailers_and_is_counted_as_grpc_on_both_sides() {
    with_server(pair(), GRPC, |mesh, server| {
        let calls = mesh.pod("client").call(at(GRPC), UNARY, 3)?;
        for called in &calls {
            assert_eq!((called.status, called.grpc_status.as_deref()), (Some(200), Some("0")), "{called:?}");
        }
        assert_eq!(
            (calls.len(), server.connections()),
            (3, 1),
            "calls share a connection to the application"
        );
        for (node, reporter) in [("node-a", "source"), ("node-b", "destination")] {
            let labels = [
                ("reporter", reporter),
                ("request_protocol", "grpc"),
                ("response_code", "200"),
                ("grpc_response_status", "0"),
                ("source_principal", CLIENT),
                ("destination_service_name", "server"),
                ("connection_security_policy", "mutual_tls"),
            ];
            mesh.node(node).metric("istio_requests_total", &labels, |found| found == 3.0)?;
            let record = mesh.node(node).record("the call", |record| record["http.path"] == UNARY)?;
            assert_eq!(record["protocol"], "grpc");
            assert_eq!(record["grpc.status"], 0);
            assert_eq!(record["src.identity"], CLIENT);
            assert_eq!(record["dst.identity"], "spiffe://cluster.local/ns/shop/sa/server");
        }
        Ok(())
    });
}

#[test]
fn a_call_ends_when_its_time_is_over_though_neither_side_keeps_it() {
    with_server(pair(), GRPC, |mesh, _| {
        let started = std::time::Instant::now();
        let call = mesh.pod("client").open_call_with(at(GRPC), UNARY, &["--grpc-timeout", "2S"])?;
        let ended = eventually("the call ends", PATIENCE, || call.ended())?;
        assert_eq!((ended.status, ended.grpc_status.as_deref()), (Some(200), Some("4")), "{ended:?}");
        assert_eq!(ended.ended, "eof");
        assert!(started.elapsed() >= std::time::Duration::from_secs(2), "{:?}", started.elapsed());
        for (node, reporter) in [("node-a", "source"), ("node-b", "destination")] {
            let labels = [("reporter", reporter), ("grpc_response_status", "4"), ("response_flags", "UT")];
            mesh.node(node).metric("istio_requests_total", &labels, |found| found == 1.0)?;
            let record = mesh.node(node).record("the call", |record| record["http.path"] == UNARY)?;
            assert_eq!((&record["reason"], &record["grpc.status"]), (&"deadline_exceeded".into(), &4.into()));
        }
        Ok(())
    });
}

#[test]
fn messages_are_counted_by_both_reporters_while_their_call_goes_on() {
    with_server(pair(), GRPC, |mesh, _| {
        let counted = |mesh: &Mesh, node: &str, name: &str, found: &dyn Fn(f64) -> bool| {
            let labels = [("source_principal", CLIENT), ("destination_service_name", "server")];
            mesh.node(node).metric(name, &labels, found)
        };
        mesh.pod("client").call(at(GRPC), UNARY, 3)?;
        for node in ["node-a", "node-b"] {
            for name in ["istio_request_messages_total", "istio_response_messages_total"] {
                counted(mesh, node, name, &|found| found == 3.0)?;
            }
        }
        let call = mesh.pod("client").open_call(at(GRPC), UNARY)?;
        for node in ["node-a", "node-b"] {
            for name in ["istio_request_messages_total", "istio_response_messages_total"] {
                counted(mesh, node, name, &|found| found >= 5.0)?;
            }
        }
        let ended = call.finish()?;
        assert_eq!(ended.grpc_status.as_deref(), Some("0"), "{ended:?}");
        let all = 3.0 + ended.rounds as f64;
        for node in ["node-a", "node-b"] {
            for name in ["istio_request_messages_total", "istio_response_messages_total"] {
                counted(mesh, node, name, &|found| found == all)?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_dry_run_says_what_it_would_refuse() {
    with_server(pair().objects("policy", &dry_run()), GRPC, |mesh, _| {
        assert_eq!(one(mesh, "client", UNARY)?.grpc_status.as_deref(), Some("0"));
        dry_run_is_reported(mesh, "grpc")
    });
}

#[test]
fn the_application_sees_the_callers_address() {
    with_server(pair(), GRPC, |mesh, server| {
        mesh.pod("client").call(at(GRPC), UNARY, 1)?;
        assert_eq!(server.accepted(1)?.caller()?.ip(), mesh.pod("client").ip());
        Ok(())
    });
}

#[test]
fn a_rule_on_a_method_of_grpc_is_told_as_a_grpc_status() {
    let rules = format!("- to:\n    - operation:\n        paths: [{SECRET}]\n");
    with_server(pair().objects("policy", &policy("no-secret", "DENY", &rules)), GRPC, |mesh, server| {
        let denied = one(mesh, "client", SECRET)?;
        assert_eq!((denied.status, denied.grpc_status.as_deref()), (Some(200), Some("7")));
        assert_eq!(one(mesh, "client", UNARY)?.grpc_status.as_deref(), Some("0"));
        assert_eq!(server.events("request").len(), 1, "the server saw the other call alone");
        let record = mesh.b().record("the denial", |record| record["policy"].is_string())?;
        assert!(record["policy"].as_str().is_some_and(|name| name.contains("shop/no-secret")), "{record}");
        let labels = [("grpc_response_status", "7"), ("response_flags", "DENY"), ("reporter", "destination")];
        mesh.b().metric("istio_requests_total", &labels, |found| found == 1.0)?;
        Ok(())
    });
}

#[test]
fn a_rule_on_the_caller_tells_callers_apart() {
    let scenario = pair().objects("policy", &policy("client-only", "ALLOW", &from_account("client")));
    with_server(scenario, GRPC, |mesh, _| {
        assert_eq!(one(mesh, "client", UNARY)?.grpc_status.as_deref(), Some("0"));
        assert_eq!(one(mesh, "other", UNARY)?.grpc_status.as_deref(), Some("7"));
        Ok(())
    });
}

#[test]
fn plain_http2_is_judged_by_method_and_path() {
    let rules = "- to:\n    - operation:\n        methods: [GET]\n        paths: [/public/*]\n";
    with_server(pair().objects("policy", &policy("public", "ALLOW", rules)), HTTP2, |mesh, server| {
        let ask = |path: &str, flags: &[&str]| {
            let url = format!("http://{}{path}", at(HTTP2));
            let flags = [&["--http2-prior-knowledge", "--path-as-is"], flags].concat();
            mesh.pod("client").curl(&url, &flags)
        };
        assert_eq!(ask("/public/a", &[])?.status, 200);
        let denied = ask("/public/a", &["-X", "DELETE"])?;
        assert_eq!((denied.status, denied.body.as_str()), (403, "RBAC: access denied"));
        for path in ["/private", "/public/../private", "/public/%2e%2e/private", "//private"] {
            assert_eq!(ask(path, &[])?.status, 403, "{path}");
        }
        assert_eq!(ask("/public/%zz", &[])?.status, 400);
        unreadable_is_told(mesh, "/public/%zz")?;
        assert_eq!(ask("/x/..//public/b", &[])?.status, 200);
        let paths: Vec<_> = server.events("request").iter().map(|seen| seen["path"].clone()).collect();
        assert_eq!(paths, ["/public/a", "/public/b"], "the server saw what was permitted, as it was matched");
        let labels = [("request_protocol", "http"), ("response_code", "403"), ("reporter", "destination")];
        mesh.b().metric("istio_requests_total", &labels, |found| found == 5.0)?;
        Ok(())
    });
}

#[test]
fn an_edit_ends_the_calls_that_it_no_longer_permits_and_no_other() {
    with_server(pair(), GRPC, |mesh, _| {
        let secret = mesh.pod("client").open_call(at(GRPC), SECRET)?;
        let open = mesh.pod("client").open_call(at(GRPC), UNARY)?;
        let rules = format!("- to:\n    - operation:\n        paths: [{SECRET}]\n");
        mesh.config().write("policy", &policy("no-secret", "DENY", &rules))?;
        let ended = eventually("the call that is denied now ends", PATIENCE, || secret.ended())?;
        assert_ne!(ended.grpc_status.as_deref(), Some("0"), "{ended:?}");
        let whole = open.finish()?;
        assert_eq!((whole.ended.as_str(), whole.grpc_status.as_deref()), ("eof", Some("0")), "{whole:?}");
        let record = mesh.b().record("the cut", |record| {
            record["http.path"] == SECRET && record["reason"] == "no_longer_permitted"
        })?;
        assert_eq!(record["policy"], "AuthorizationPolicy shop/no-secret rules[0]", "{record}");
        assert_eq!(record["verdict"], "denied", "{record}");
        Ok(())
    });
}

#[test]
fn an_edit_on_the_caller_ends_all_its_calls() {
    with_server(pair(), GRPC, |mesh, _| {
        let other = mesh.pod("other").open_call(at(GRPC), UNARY)?;
        let kept = mesh.pod("client").open_call(at(GRPC), UNARY)?;
        mesh.config().write("policy", &policy("not-other", "DENY", &from_account("other")))?;
        eventually("the denied caller's call ends", PATIENCE, || other.ended())?;
        assert_eq!(kept.finish()?.grpc_status.as_deref(), Some("0"));
        assert_eq!(one(mesh, "other", UNARY)?.grpc_status.as_deref(), Some("7"));
        Ok(())
    });
}

#[test]
fn pods_of_one_node_are_decided_and_counted_on_both_sides() {
    let scenario = Scenario::new(vec![PodSpec::new("client"), declared("server")], vec![])
        .service(service().port("grpc", GRPC, GRPC))
        .objects(
            "policy",
            &policy("no-secret", "DENY", &format!("- to:\n    - operation:\n        paths: [{SECRET}]\n")),
        );
    with_server(scenario, GRPC, |mesh, server| {
        assert_eq!(one(mesh, "client", UNARY)?.grpc_status.as_deref(), Some("0"));
        assert_eq!(one(mesh, "client", SECRET)?.grpc_status.as_deref(), Some("7"));
        assert_eq!(server.events("request").len(), 1);
        for reporter in ["source", "destination"] {
            let labels = [("reporter", reporter), ("grpc_response_status", "0")];
            mesh.a().metric("istio_requests_total", &labels, |found| found == 1.0)?;
        }
        Ok(())
    });
}

#[test]
fn a_caller_without_identity_is_judged_by_policy_and_peer_authentication() {
    let rules = format!("- to:\n    - operation:\n        paths: [{UNARY}]\n");
    let scenario = Scenario::new(vec![PodSpec::new("outsider").mode("disabled")], vec![declared("server")])
        .service(service().port("grpc", GRPC, GRPC))
        .objects("policy", &policy("unary", "ALLOW", &rules))
        .objects("peers", &peer_authentication("PERMISSIVE"));
    scenario.run(|mesh| {
        mesh.allow_plaintext("outsider");
        let server = mesh.pod("server").serve(Kind::Http2, GRPC)?;
        let to = mesh.pod("server").at(GRPC);
        let status = |mesh: &Mesh, path: &str| -> Result<Option<String>> {
            Ok(mesh.pod("outsider").call(to, path, 1)?.remove(0).grpc_status)
        };
        assert_eq!(status(mesh, UNARY)?.as_deref(), Some("0"));
        assert_eq!(status(mesh, SECRET)?.as_deref(), Some("7"));
        mesh.config().write("peers", &peer_authentication("STRICT"))?;
        eventually_true("plaintext is refused", PATIENCE, || {
            mesh.pod("outsider").call(to, UNARY, 1).map_or(true, |calls| calls[0].grpc_status.is_none())
        })?;
        let seen = server.events("request").len();
        assert!(mesh.pod("outsider").call(to, UNARY, 1).map_or(true, |calls| calls[0].status.is_none()));
        assert_eq!(server.events("request").len(), seen, "nothing more reached the application");
        Ok(())
    });
}

#[test]
fn without_an_endpoint_the_caller_is_told_so() {
    pair().run(|mesh| {
        let gone = one(mesh, "client", UNARY)?;
        assert_eq!((gone.status, gone.grpc_status.as_deref()), (Some(200), Some("14")), "nothing listens");
        mesh.change_pod("server", |pod| pod.set_ready(false))?;
        let url = format!("http://{}/", at(HTTP2));
        eventually_true("no endpoint is 503", PATIENCE, || {
            let answer = mesh.pod("client").curl(&url, &["--http2-prior-knowledge"]);
            answer.is_ok_and(|answer| answer.status == 503 && answer.body.contains("no healthy upstream"))
        })?;
        Ok(())
    });
}

#[test]
fn a_call_to_a_port_that_is_called_http_is_a_call_nevertheless() {
    with_server(pair(), mesh_test_e2e::HTTP, |mesh, server| {
        let called = mesh.pod("client").call(at(80), UNARY, 1)?.remove(0);
        assert_eq!(called.grpc_status.as_deref(), Some("0"), "{called:?}");
        assert_eq!(server.events("request").len(), 1);
        Ok(())
    });
}

#[test]
fn a_caller_of_http_1_is_judged_by_rules_of_requests_on_a_port_that_is_called_grpc() {
    let rules = "- to:\n    - operation:\n        methods: [GET]\n";
    with_server(pair().objects("policy", &policy("readers", "ALLOW", rules)), GRPC, |mesh, server| {
        let url = format!("http://{}/", at(GRPC));
        assert_eq!(mesh.pod("client").curl(&url, &["--http1.1"])?.status, 200);
        assert_eq!(mesh.pod("client").curl(&url, &["--http1.1", "-X", "POST"])?.status, 403);
        assert_eq!(server.events("request").len(), 1);
        Ok(())
    });
}

#[test]
fn a_caller_of_http_2_reaches_an_application_of_http_1() {
    pair().run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, mesh_test_e2e::HTTP)?;
        let answer = mesh.pod("client").curl("http://10.96.0.10/x", &["--http2-prior-knowledge"])?;
        assert_eq!(answer.status, 200);
        assert_eq!(server.event("request", 1, PATIENCE)?["path"], "/x");
        Ok(())
    });
}

#[test]
fn a_request_over_http_1_that_an_edit_denies_is_cut() {
    Scenario::new(vec![PodSpec::new("client")], vec![server("server")]).service(service()).run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, mesh_test_e2e::HTTP)?;
        let rules = "- to:\n    - operation:\n        paths: [/delay/*]\n";
        let mesh = &*mesh;
        let cut = thread::scope(|scope| {
            let slow = scope.spawn(|| mesh.pod("client").curl("http://10.96.0.10/delay/8000", &[]));
            server.event("request", 1, PATIENCE)?;
            mesh.config().write("policy", &policy("no-delay", "DENY", rules))?;
            slow.join().expect("curl's thread ends")
        })?;
        assert_eq!((cut.status, cut.body.as_str()), (403, "RBAC: access denied"));
        Ok(())
    });
}

#[test]
fn what_an_application_breaks_is_no_tunnel_lost() {
    pair().run(|mesh| {
        let broken = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), vec![b'x'; 100]].concat();
        mesh.pod("client").http_bytes(at(HTTP2), broken)?;
        let reason = [("reason", "http2_violation")];
        mesh.a().metric("nodemesh_proxy_refusals_total", &reason, |found| found == 1.0)?;
        assert_eq!(mesh.a().metrics()?.sum("nodemesh_proxy_tunnels_lost_total", &[]), 0.0);
        Ok(())
    });
}

/// As the usual pair, with the ports of this file.
fn pair() -> Scenario {
    Scenario::new(vec![PodSpec::new("client"), PodSpec::new("other")], vec![declared("server")])
        .service(service().port("grpc", GRPC, GRPC).port("http2", HTTP2, HTTP2))
}

fn declared(name: &str) -> PodSpec {
    server(name).port("grpc", GRPC).port("http2", HTTP2)
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from((SERVER, port))
}

fn one(mesh: &Mesh, pod: &str, path: &str) -> Result<Called> {
    Ok(mesh.pod(pod).call(at(GRPC), path, 1)?.remove(0))
}

fn with_server(scenario: Scenario, port: u16, test: impl FnOnce(&mut Mesh, &Server) -> Result<()>) {
    scenario.run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http2, port)?;
        test(mesh, &server)
    });
}
