//! What else a head says of where a request comes from: ids of requests and traces pass, and a stranger's word of who sent it
//! to him does not.

use anyhow::{Context, Result, ensure};
use mesh_test_e2e::{HTTP, SERVER, at, node, request, server, service};
use mesh_test_harness::eventually::PATIENCE;
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::servers::{Kind, Server};
use serde_json::Value;

/// Declared `http2`.
const HTTP2: u16 = 8081;
/// Of a trace: of W3C's recommendation, and of B3 in both its forms.
const TRACE: [(&str, &str); 8] = [
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("tracestate", "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"),
    ("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90"),
    ("x-b3-traceid", "80f198ee56343ba864fe8b2a57d3eff7"),
    ("x-b3-spanid", "e457b5a2e4d86bd1"),
    ("x-b3-parentspanid", "05e3ac9a4f6e3b90"),
    ("x-b3-sampled", "1"),
    ("x-b3-flags", "0"),
];
/// What a proxy in front says of whom it speaks for.
const FORWARDED: [(&str, &str); 8] = [
    ("x-forwarded-for", "203.0.113.7, 198.51.100.2"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "shop.example"),
    ("x-forwarded-port", "443"),
    ("forwarded", "for=203.0.113.7;proto=https"),
    ("x-real-ip", "203.0.113.7"),
    ("x-envoy-external-address", "203.0.113.7"),
    ("baggage", "user=alice"),
];

#[test]
fn what_a_pod_says_of_a_trace_and_of_whom_it_speaks_for_is_carried() {
    with_pods(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        let _http2 = mesh.pod("server").serve(Kind::Http2, HTTP2)?;
        for pod in ["client", "near"] {
            let count = server.events("request").len();
            mesh.pod(pod).http_bytes(at(80), request("GET /", &lines(TRACE.iter().chain(&FORWARDED))))?;
            let event = server.event("request", count + 1, PATIENCE)?;
            let head = event["head"].as_str().context("a head")?;
            for (name, value) in TRACE.iter().chain(&FORWARDED) {
                ensure!(head.contains(&format!("{name}: {value}\r\n")), "{pod}, {name}: {head}");
            }
            let headers = over_http2(mesh, &_http2, pod, TRACE.iter().chain(&FORWARDED))?;
            for (name, value) in TRACE.iter().chain(&FORWARDED) {
                ensure!(headers[*name] == **value, "{pod}, {name}: {headers}");
            }
        }
        Ok(())
    });
}

#[test]
fn a_request_without_an_id_is_given_one_that_all_records_have() {
    with_pods(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        let http2 = mesh.pod("server").serve(Kind::Http2, HTTP2)?;
        for pod in ["client", "near"] {
            let count = server.events("request").len();
            mesh.pod(pod).http_bytes(at(80), request("GET /none", ""))?;
            let event = server.event("request", count + 1, PATIENCE)?;
            let head = event["head"].as_str().context("a head")?.to_owned();
            let id =
                head.lines().find_map(|line| line.strip_prefix("x-request-id: ")).context(head.clone())?;
            is_recorded_as(mesh, pod, id)?;
            let headers = over_http2(mesh, &http2, pod, [].iter())?;
            is_recorded_as(mesh, pod, headers["x-request-id"].as_str().context("an id")?)?;
        }
        Ok(())
    });
}

#[test]
fn an_id_that_a_caller_gave_is_kept() {
    with_pods(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        mesh.pod("client").http_bytes(at(80), request("GET /given", "X-Request-ID: Root=1-67891233\r\n"))?;
        let event = server.event("request", 1, PATIENCE)?;
        let head = event["head"].as_str().context("a head")?.to_lowercase();
        ensure!(head.matches("x-request-id").count() == 1, "{head}");
        ensure!(head.contains("x-request-id: root=1-67891233\r\n"), "{head}");
        for at in 0..2 {
            mesh.node(node(at))
                .record("with the id", |record| record["http.request_id"] == "Root=1-67891233")?;
        }
        // What would break a record is carried and not written.
        let forged =
            b"GET /forged HTTP/1.1\r\nHost: server\r\nx-request-id: a\x80b\r\nConnection: close\r\n\r\n";
        mesh.pod("client").http_bytes(at(80), forged.to_vec())?;
        let record = mesh.node(node(1)).record("without one", |record| record["http.path"] == "/forged")?;
        ensure!(record.get("http.request_id").is_none(), "{record}");
        Ok(())
    });
}

#[test]
fn a_stranger_may_not_say_whom_it_speaks_for() {
    let stranger = PodSpec::new("stranger").mode("disabled");
    let scenario = Scenario::new(vec![stranger], vec![server("server")]).service(service());
    scenario.run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        mesh.allow_plaintext("stranger");
        let to = mesh.pod("server").at(HTTP);
        let shouted: Vec<(String, &str)> = FORWARDED
            .iter()
            .flat_map(|(name, value)| [(name.to_uppercase(), *value), (name.replace('-', "_"), *value)])
            .collect();
        let forged: Vec<(&str, &str)> = shouted.iter().map(|(name, value)| (&**name, *value)).collect();
        let hop = format!("Connection: {}\r\n", FORWARDED.map(|(name, _)| name).join(", "));
        let fields = lines(FORWARDED.iter().chain(&forged).chain(&TRACE)) + &hop;
        mesh.pod("stranger").http_bytes(to, request("GET /", &fields))?;
        let event = server.event("request", 1, PATIENCE)?;
        let head = event["head"].as_str().context("a head")?.to_lowercase().replace('_', "-");
        for (name, _) in FORWARDED {
            ensure!(!head.contains(&format!("{name}:")), "{name}: {head}");
        }
        for (name, value) in TRACE {
            ensure!(head.contains(&format!("{name}: {}\r\n", value.to_lowercase())), "{name}: {head}");
        }
        ensure!(head.contains("x-request-id: "), "{head}");
        Ok(())
    });
}

/// `client` on one node, `server` and `near` on the other.
fn with_pods(test: impl FnOnce(&mut Mesh) -> Result<()>) {
    let far = vec![server("server").port("http2", HTTP2), PodSpec::new("near")];
    let service = service().port("http2", HTTP2, HTTP2);
    Scenario::new(vec![PodSpec::new("client")], far).service(service).run(test);
}

fn lines<'a>(fields: impl Iterator<Item = &'a (&'a str, &'a str)>) -> String {
    fields.map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

/// The fields that the application saw of a request over HTTP/2.
fn over_http2<'a>(
    mesh: &Mesh,
    server: &Server,
    pod: &str,
    fields: impl Iterator<Item = &'a (&'a str, &'a str)>,
) -> Result<Value> {
    let count = server.events("request").len();
    let fields: Vec<String> = fields.map(|(name, value)| format!("{name}: {value}")).collect();
    let mut flags = vec!["--http2-prior-knowledge"];
    flags.extend(fields.iter().flat_map(|field| ["-H", &**field]));
    let response = mesh.pod(pod).curl(&format!("http://{SERVER}:{HTTP2}/"), &flags)?;
    ensure!(response.status == 200, "{response:?}");
    Ok(server.event("request", count + 1, PATIENCE)?["headers"].clone())
}

/// A UUID of version 4, which is in the records of both sides.
fn is_recorded_as(mesh: &Mesh, pod: &str, id: &str) -> Result<()> {
    ensure!(id.len() == 36 && id.as_bytes()[14] == b'4', "{id}");
    let caller = if pod == "client" { 0 } else { 1 };
    for (at, direction) in [(caller, "outbound"), (1, "inbound")] {
        let is_it = |record: &Value| record["http.request_id"] == id && record["direction"] == direction;
        mesh.node(node(at)).record(&format!("{direction} of {id}"), is_it)?;
    }
    Ok(())
}
