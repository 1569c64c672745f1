//! Every refusal has an id, in the response and in the record, and the agent that made it tells what it was; what
//! policy says of anything else can be asked, of an agent or of a folder.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use mesh_test_e2e::{ECHO, HTTP, at, decision_id, explained, node, policy, refusal_is_told, server, service};
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::{PodSpec, ServiceSpec};
use mesh_test_harness::process::Ended;
use mesh_test_harness::servers::Kind;

/// Declared `http2` on Service and pod.
const HTTP2: u16 = 8081;
/// Service `empty`, without an endpoint.
const EMPTY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 40));
const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
const READERS: &str = "- from:\n    - source:\n        serviceAccounts: [shop/client]\n  to:\n    - operation:\n        \
                       methods: [GET]\n        paths: [\"/public*\"]\n";

#[test]
fn a_refused_request_has_an_id_that_its_agent_tells() {
    with_servers(|mesh| {
        let http2 = "--http2-prior-knowledge";
        let grpc = [http2, "-H", "content-type: application/grpc", "-X", "POST"];
        for (pod, url, flags, protocol) in [
            ("client", "http://10.96.0.10/private?secret=1", &["--http1.1"][..], "http/1.1"),
            ("near", "http://10.96.0.10/private", &["--http1.1"], "http/1.1"),
            ("client", "http://10.96.0.10:8081/private", &[http2], "http/2"),
            ("near", "http://10.96.0.10:8081/private", &[http2], "http/2"),
            ("client", "http://10.96.0.10:8081/echo.Echo/Unary", &grpc, "grpc"),
        ] {
            let what = format!("{pod} {url} {flags:?}");
            let answer = mesh.pod(pod).curl(url, &[&["-i"], flags].concat())?;
            let id = decision_id(&answer.body).with_context(|| format!("{what}: {answer:?}"))?;
            let is_it = |record: &serde_json::Value| {
                record["decision"] == id.as_str() && record["direction"] == "inbound"
            };
            let record = mesh.b().record(&what, is_it)?;
            assert_eq!((&record["verdict"], &record["protocol"]), (&"denied".into(), &protocol.into()));
            assert_eq!(record["policy"], "AuthorizationPolicy shop/readers", "{record}");
            assert!(!answer.body.contains("readers"), "the caller learns no policy's name: {answer:?}");
            let told = mesh.b().command(&["authz", "explain", &id])?.success(&what)?;
            for part in [
                &*format!("shop/{pod}, "),
                "no rule allows it (AuthorizationPolicy shop/readers)",
                &*format!("id:          {id}"),
                "it misses:\n",
                "is not one of /public*",
            ] {
                assert!(told.contains(part), "{what}: {part:?} in {told}");
            }
            assert!(!told.contains("secret"), "{told}");
            if pod == "near" {
                let both = |record: &serde_json::Value| {
                    record["decision"] == id.as_str() && record["direction"] == "outbound"
                };
                mesh.b().record("the caller's side of the same node", both)?;
            }
            let elsewhere = mesh.a().command(&["authz", "explain", &id])?;
            assert_eq!(elsewhere.status.code(), Some(2), "{what}");
            assert!(elsewhere.stderr.contains("is of node node-b"), "{}", elsewhere.stderr);
        }
        Ok(())
    });
}

#[test]
fn a_refused_connection_has_an_id_in_its_record() {
    with_servers(|mesh| {
        let dialled = mesh.pod("client").dial(at(ECHO)).send("x").run()?;
        ensure!(dialled.refusal().is_some(), "{dialled:?}");
        let record = mesh
            .b()
            .record("the refusal", |record| record["decision"].is_string() && record["protocol"] == "tcp")?;
        let id = record["decision"].as_str().context("it is text")?;
        let told = mesh.b().command(&["authz", "explain", id, "-o", "json"])?.success("explain")?;
        let told: serde_json::Value = serde_json::from_str(&told)?;
        assert_eq!(told["caller"]["identity"], CLIENT, "{told}");
        assert_eq!(told["called"]["pod"], "shop/server", "{told}");
        assert_eq!((&told["code"], &told["request"]), (&record["reason"], &serde_json::Value::Null));
        assert_eq!(told["now"]["answer"], "refused", "{told}");
        mesh.b().restart()?;
        let after = mesh.b().command(&["authz", "explain", id])?;
        assert_eq!(after.status.code(), Some(2), "{}", after.stdout);
        assert!(after.stderr.contains("an earlier run of the agent of node-b"), "{}", after.stderr);
        Ok(())
    });
}

/// Each is refused by the caller's own node, which has decided nothing about it.
#[test]
fn what_cannot_be_read_and_what_is_not_there_has_an_id_too() {
    with_servers(|mesh| {
        let fields = "a: b\r\n".repeat(1000);
        for (what, status, reason, words) in [
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "http1_host_repeated", "Host is repeated"),
            ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505, "http1_version", "neither HTTP/1.1 nor HTTP/1.0"),
            (&*format!("GET / HTTP/1.1\r\n{fields}\r\n"), 431, "http1_too_many_fields", "more fields than"),
            (
                "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nZ",
                400,
                "http1_chunk_size",
                "chunk size line is malformed",
            ),
        ] {
            let answer = mesh.pod("client").http_bytes(at(80), what)?.received;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{reason}: {answer}");
            let told = refusal_is_told(mesh, 0, &answer, reason)?;
            assert!(told.contains(words) && told.contains(&status.to_string()), "{told}");
            assert!(told.contains("can be asked with --from and --to"), "{told}");
        }
        let http2 = "--http2-prior-knowledge";
        for (url, flag, status, reason, words) in [
            ("http://10.96.0.10:8081/%zz", http2, 400, "path_bad_escape", "path has no normal form"),
            ("http://10.96.0.40/a", "--http1.1", 503, "no_endpoints", "the Service has no endpoints"),
            ("http://10.96.0.40:8081/a", http2, 503, "no_endpoints", "the Service has no endpoints"),
        ] {
            let answer = mesh.pod("client").curl(url, &["-i", flag])?;
            assert_eq!(answer.status, status, "{url}: {answer:?}");
            let told = refusal_is_told(mesh, 0, &answer.body, reason)?;
            assert!(told.contains(words) && told.contains("shop/client, "), "{url}: {told}");
        }
        let dialled = mesh.pod("client").dial(SocketAddr::new(EMPTY, ECHO)).send("x").run()?;
        ensure!(dialled.refusal().is_some(), "{dialled:?}");
        let record = mesh.a().record("the connection", |record| {
            record["reason"] == "no_endpoints" && record["protocol"] == "tcp"
        })?;
        let id = record["decision"].as_str().with_context(|| format!("no id in {record}"))?;
        let told = mesh.a().command(&["authz", "explain", id])?.success("explain")?;
        assert!(told.contains("REFUSED: the Service has no endpoints\n"), "{told}");
        Ok(())
    });
}

#[test]
fn an_agent_and_its_folder_say_the_same_and_it_is_what_happens() {
    with_servers(|mesh| {
        for (pod, path, status) in
            [("client", "/public/a", 200), ("client", "/private", 403), ("other", "/public/a", 403)]
        {
            let response = mesh.pod(pod).curl(&format!("http://10.96.0.10{path}"), &[])?;
            assert_eq!(response.status, status, "{pod} {path}");
            let from = format!("shop/{pod}");
            let question = ["--from", &from, "--to", "shop/server:80", "--path", path];
            let said = explained(mesh, &question)?;
            assert_eq!(said.status.code(), Some(i32::from(status != 200)), "{said:?}");
            let elsewhere = explain(mesh, node(0), &question)?;
            assert_eq!((elsewhere.stdout, elsewhere.status), (said.stdout, said.status));
        }
        let other =
            explain(mesh, node(1), &["--from", "shop/other", "--to", "shop/server:80", "--path", "/x"])?;
        for part in [
            "REFUSED: no rule allows it (AuthorizationPolicy shop/readers)\n",
            "nearest to allowing it is AuthorizationPolicy shop/readers rules[0]:\n",
            "  from[0].source.serviceAccounts: shop/other is not one of shop/client\n",
            "  to[0].operation.paths: /x is not one of /public*\n",
        ] {
            assert!(other.stdout.contains(part), "{part:?} in {}", other.stdout);
        }
        Ok(())
    });
}

#[test]
fn a_question_that_cannot_be_answered_says_why() {
    with_servers(|mesh| {
        for (question, wanted) in [
            (&["--from", "shop/clint", "--to", "shop/server:80"][..], "is shop/client meant?"),
            (&["--from", "shop/client", "--to", "service/shop/server:81"], "it has 80 http"),
            (&["--from", "shop/client", "--to", "shop/server"], "names no port"),
            (&["--from", "shop/client", "--to", "shop/server:80"], ""),
            (&["--from", "shop/client"], "--to"),
            (&["no-id"], "is no id of a refusal"),
            (
                &["--from", "outside", "--to", "shop/server:80", "--config-dir", "/nonexistent"],
                "/nonexistent",
            ),
        ] {
            let said = explain(mesh, node(1), question)?;
            assert_eq!(said.status.code(), Some(2), "{question:?}: {said:?}");
            assert!(said.stderr.contains(wanted), "{question:?}: {said:?}");
        }
        Ok(())
    });
}

/// A server on node B for whose HTTP ports only `client` may read what is public, beside a pod of its own node.
fn with_servers(test: impl FnOnce(&mut Mesh) -> Result<()>) {
    let near = vec![PodSpec::new("client"), PodSpec::new("other")];
    let empty = ServiceSpec::new("empty", &[EMPTY]).port("http", 80, HTTP).port("http2", HTTP2, HTTP2);
    let empty = empty.port("tcp-echo", ECHO, ECHO);
    Scenario::new(near, vec![server("server").port("http2", HTTP2), PodSpec::new("near")])
        .service(service().port("http2", HTTP2, HTTP2))
        .service(empty)
        .objects("policy", &policy("readers", "ALLOW", READERS))
        .run(|mesh| {
            let _http = mesh.pod("server").serve(Kind::Http, HTTP)?;
            let _http2 = mesh.pod("server").serve(Kind::Http2, HTTP2)?;
            let _echo = mesh.pod("server").serve(Kind::Echo, ECHO)?;
            test(mesh)
        });
}

fn explain(mesh: &Mesh, node: &str, question: &[&str]) -> Result<Ended> {
    mesh.node(node).command(&[&["authz", "explain"], question].concat())
}
