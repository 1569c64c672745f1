//! `x-forwarded-client-cert`: what an application is told of its caller, and that nobody but the mesh says it.

use anyhow::{Context, Result, ensure};
use mesh_test_e2e::{HTTP, SERVER, at, pair, request, server, service};
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::servers::{Kind, Server};

const BY: &str = "By=spiffe://cluster.local/ns/shop/sa/server;";
const URI: &str = "URI=spiffe://cluster.local/ns/shop/sa/client";
/// Declared `http2`.
const HTTP2: u16 = 8081;
/// Every spelling that some application takes for the real one, and the trick to have it removed as hop-by-hop.
const FORGED: &str = "x-forwarded-client-cert: By=a;URI=spiffe://cluster.local/ns/shop/sa/admin\r\n\
    X-Forwarded-Client-Cert: URI=b\r\nx_forwarded_client_cert: URI=c\r\nX-FORWARDED_client-cert: URI=d\r\n\
    l5d-client-id: e\r\nx-nodemesh-caller: f\r\nconnection: x-forwarded-client-cert\r\n";

#[test]
fn an_application_is_told_by_which_certificate_its_caller_is_known() {
    pair().run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        let asked = [request("GET /first", FORGED), request("GET /second", "")].concat();
        mesh.pod("client").http_bytes(at(80), asked)?;
        let told = told(&server)?;
        ensure!(told.len() == 2 && told[0] == told[1], "{told:?}");
        let hash = told[0].strip_prefix(BY).and_then(|rest| rest.strip_suffix(&format!(";{URI}")));
        let hash = hash.and_then(|hash| hash.strip_prefix("Hash=")).context(told[0].clone())?;
        ensure!(hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hash}");
        Ok(())
    });
}

#[test]
fn between_pods_of_one_node_no_certificate_is_shown() {
    let scenario = Scenario::new(vec![PodSpec::new("client"), server("server")], vec![]).service(service());
    scenario.run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        mesh.pod("client").http_bytes(at(80), request("GET /", FORGED))?;
        ensure!(told(&server)? == [format!("{BY}{URI}")], "{:?}", told(&server)?);
        Ok(())
    });
}

#[test]
fn of_a_caller_without_a_certificate_nothing_is_said() {
    let stranger = PodSpec::new("stranger").mode("disabled");
    let scenario = Scenario::new(vec![stranger], vec![server("server")]).service(service());
    scenario.run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        mesh.allow_plaintext("stranger");
        let to = mesh.pod("server").at(HTTP);
        mesh.pod("stranger").http_bytes(to, request("GET /", FORGED))?;
        let head = heads(&server)?.pop().context("a request")?.to_lowercase();
        for name in ["client-cert", "client_cert", "l5d-client-id", "x-nodemesh"] {
            ensure!(!head.contains(name), "{head}");
        }
        Ok(())
    });
}

#[test]
fn a_caller_over_http_2_is_told_of_alike() {
    let pods = vec![server("server").port("http2", HTTP2)];
    let scenario =
        Scenario::new(vec![PodSpec::new("client")], pods).service(service().port("http2", HTTP2, HTTP2));
    scenario.run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http2, HTTP2)?;
        forged_over_http2(mesh)?;
        let headers = server.event("request", 1, mesh_test_harness::eventually::PATIENCE)?["headers"].clone();
        let told = headers["x-forwarded-client-cert"].as_str().unwrap_or_default();
        ensure!(told.starts_with(&format!("{BY}Hash=")) && told.ends_with(URI), "{headers}");
        ensure!(headers.get("x_forwarded_client_cert").is_none(), "{headers}");
        Ok(())
    });
}

fn forged_over_http2(mesh: &Mesh) -> Result<()> {
    let flags = [
        "--http2-prior-knowledge",
        "-H",
        "x-forwarded-client-cert: URI=a",
        "-H",
        "x_forwarded_client_cert: URI=b",
    ];
    let response = mesh.pod("client").curl(&format!("http://{SERVER}:{HTTP2}/"), &flags)?;
    ensure!(response.status == 200, "{response:?}");
    Ok(())
}

/// What each request said of its caller. Each says it once, in one spelling.
fn told(server: &Server) -> Result<Vec<String>> {
    let said = |head: &String| {
        let lines = || head.lines().filter_map(|line| line.split_once(':'));
        let about =
            lines().filter(|(name, _)| name.to_lowercase().replace('_', "-") == "x-forwarded-client-cert");
        let values: Vec<&str> = about.map(|(_, value)| value.trim()).collect();
        ensure!(values.len() == 1, "{head}");
        Ok(values[0].to_owned())
    };
    heads(server)?.iter().map(said).collect()
}

fn heads(server: &Server) -> Result<Vec<String>> {
    let head = |event: &serde_json::Value| event["head"].as_str().map(str::to_owned).context("a head");
    server.events("request").iter().map(head).collect()
}
