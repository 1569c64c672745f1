//! Istio's sample of an authorization server, asked over gRPC and over HTTP about what CUSTOM policies match.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use anyhow::Result;
use mesh_test_conformance::istio_authorizer;
use mesh_test_e2e::{HTTP, policy, server, service};
use mesh_test_harness::clients::Response;
use mesh_test_harness::eventually::{PATIENCE, eventually, eventually_true};
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::{PodSpec, ServiceSpec};
use mesh_test_harness::servers::Kind;

/// The Service of the authorization server, in namespace `shop` as all here.
const AUTHORIZER: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 30);
/// Declared `grpc`.
const GRPC: u16 = 9000;
/// Declared `http`.
const PLAIN: u16 = 8000;
/// Its fields, as the guide of Istio's sample has them, and what it writes itself.
const OVER_HTTP: &str = "includeRequestHeadersInCheck: [x-ext-authz], headersToUpstreamOnAllow: [x-ext-authz-check-result], \
                         headersToDownstreamOnDeny: [x-ext-authz-check-result]";

#[test]
fn istios_sample_decides_over_grpc_and_over_http() {
    let authorizer =
        PodSpec::new("authorizer").label("app", "authorizer").port("grpc", GRPC).port("http", PLAIN);
    let address = [IpAddr::V4(AUTHORIZER)];
    let of_authorizer =
        ServiceSpec::new("authorizer", &address).port("grpc", GRPC, GRPC).port("http", PLAIN, PLAIN);
    let rules = "- to:\n    - operation:\n        paths: [\"/headers*\"]\n";
    Scenario::new(vec![PodSpec::new("client")], vec![server("server"), authorizer])
        .service(service())
        .service(of_authorizer)
        .objects("mesh", &configuration("envoyExtAuthzGrpc", GRPC, ""))
        .objects("policy", &policy("ask", "CUSTOM\n  provider: {name: sample}", rules))
        .run(|mesh| {
            let program = istio_authorizer()?;
            let flags = [
                format!("-grpc={GRPC}"),
                format!("-http={PLAIN}"),
                "-allow_service_account=nobody".to_owned(),
            ];
            let _authorizer = mesh.pod("authorizer").place().spawn("authorizer", &program, &flags)?;
            listens(mesh)?;
            let application = mesh.pod("server").serve(Kind::Http, HTTP)?;
            decides(mesh)?;
            let seen = application.events("request").last().map(ToString::to_string).unwrap_or_default();
            assert!(
                seen.contains("grpc-additional-header-override-value"),
                "written by the server over gRPC: {seen}"
            );
            assert!(
                seen.contains("spiffe://cluster.local/ns/shop/sa/client"),
                "it was shown who calls: {seen}"
            );

            mesh.config().write("mesh", &configuration("envoyExtAuthzHttp", PLAIN, OVER_HTTP))?;
            eventually("it is asked over HTTP", PATIENCE, || {
                let _ = ask(mesh, "/headers", Some("allow")).ok()?;
                let seen = application.events("request").last()?.to_string();
                (!seen.contains("grpc-additional-header-override-value")).then_some(())
            })?;
            decides(mesh)?;
            let seen = application.events("request").last().map(ToString::to_string).unwrap_or_default();
            assert!(seen.contains("x-ext-authz-check-result"), "{seen}");
            assert!(
                !seen.contains("x-ext-authz-check-received"),
                "not among what the configuration lets pass: {seen}"
            );
            Ok(())
        });
}

/// What its guide says of it.
fn decides(mesh: &Mesh) -> Result<()> {
    let other = ask(mesh, "/ip", None)?;
    assert_eq!(other.status, 200, "nobody is asked: {other:?}");
    let allowed = ask(mesh, "/headers", Some("allow"))?;
    assert_eq!(allowed.status, 200, "{allowed:?}");
    for word in [Some("deny"), Some("ALLOW"), None] {
        let denied = ask(mesh, "/headers", word)?;
        assert_eq!(denied.status, 403, "{word:?}: {denied:?}");
        assert!(denied.body.contains("x-ext-authz-check-result: denied"), "{word:?}: {denied:?}");
        assert!(denied.body.contains("denied by ext_authz for not found header"), "{word:?}: {denied:?}");
    }
    Ok(())
}

fn configuration(kind: &str, port: u16, fields: &str) -> String {
    let comma = if fields.is_empty() { "" } else { ", " };
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: nodemesh, namespace: nodemesh-system}}\ndata:\n  mesh: |\n    \
         extensionProviders:\n      - name: sample\n        {kind}: {{service: authorizer.shop.svc.cluster.local, \
         port: {port}, timeout: 10s{comma}{fields}}}\n"
    )
}

/// What curl says of a request of `client`, head and body.
fn ask(mesh: &Mesh, path: &str, word: Option<&str>) -> Result<Response> {
    let field = word.map(|word| format!("x-ext-authz: {word}"));
    let mut flags = vec!["--http1.1", "-i"];
    flags.extend(field.iter().flat_map(|field| ["-H", field]));
    mesh.pod("client").curl(&format!("http://10.96.0.10{path}"), &flags)
}

/// The server takes a moment to listen.
fn listens(mesh: &Mesh) -> Result<()> {
    let pod = mesh.pod("authorizer");
    for port in [GRPC, PLAIN] {
        eventually_true(&format!("the authorization server listens on port {port}"), PATIENCE, || {
            let at = SocketAddr::from(([127, 0, 0, 1], port));
            pod.place().netns().run(|| Ok(TcpStream::connect(at).is_ok())).unwrap_or(false)
        })?;
    }
    Ok(())
}
