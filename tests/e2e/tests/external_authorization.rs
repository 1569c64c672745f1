//! Authorization servers: asked over gRPC and HTTP about each request that a CUSTOM policy matches, as the called pod, and
//! with nothing passed where they say nothing that counts.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::{self as config, HeaderValueOption};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::rpc::Status;
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_test_e2e::{HTTP, at, decision_id, explained, node, policy, refusal_is_told, server, service};
use mesh_test_harness::clients::Response;
use mesh_test_harness::eventually::{PATIENCE, eventually};
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::{PodSpec, ServiceSpec};
use mesh_test_harness::pod::Pod;
use mesh_test_harness::servers::{Kind, Server};
use prost::Message as _;

/// Declared `http2` on Service and pod.
const HTTP2: u16 = 8082;
/// The Service of the authorization server.
const OPA: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 30);
/// Its port for gRPC, declared `grpc`.
const GRPC: u16 = 9191;
/// For HTTP, declared `http`.
const PLAIN: u16 = 9192;
/// Nothing of it is slower than this, besides what is meant to be.
const TIMEOUT: Duration = Duration::from_secs(2);

#[test]
fn what_custom_matches_is_asked_of_its_server_over_grpc() {
    with_servers("", |mesh, server, checks| {
        assert_eq!(ask(mesh, "/open", &[], &[])?.status, 200, "nobody is asked");
        let answer = ask(mesh, "/staff/list?a=1", &["x-user: alice", "x-role: forged"], &[])?;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.body.contains("x-checked: yes"), "{answer:?}");
        let seen = server.event("request", 2, PATIENCE)?.to_string();
        assert!(seen.contains("staff-of-alice") && !seen.contains("forged"), "{seen}");
        let attributes = checks.recv_timeout(PATIENCE)?;
        let principal = |peer: Option<Peer>| peer.unwrap_or_default().principal;
        assert_eq!(principal(attributes.source.clone()), "spiffe://cluster.local/ns/shop/sa/client");
        assert_eq!(principal(attributes.destination.clone()), "spiffe://cluster.local/ns/shop/sa/server");
        let http = http_of(attributes);
        assert_eq!((&*http.method, &*http.path, &*http.host), ("GET", "/staff/list?a=1", "10.96.0.10"));
        assert_eq!(http.headers.get("x-user").map(String::as_str), Some("alice"), "{http:?}");
        let answer = ask(mesh, "/staff/list", &["x-user: mallory"], &[])?;
        assert_eq!(answer.status, 418, "{answer:?}");
        assert!(
            answer.body.contains("x-why: because") && answer.body.ends_with("not you, mallory"),
            "{answer:?}"
        );
        let record =
            mesh.node(node(1)).record("the refusal", |record| record["reason"] == "ext_authz_denied")?;
        assert_eq!(record["http.status"], 418, "{record}");
        assert!(record["policy"].to_string().contains("shop/ask"), "{record}");
        let told = refusal_is_told(mesh, 1, &answer.body, "ext_authz_denied")?;
        assert!(told.contains("AuthorizationPolicy shop/ask") && told.contains("/staff/list"), "{told}");
        assert!(told.contains("asks the authorization server opa"), "what follows now is said: {told}");
        assert_eq!(server.events("request").len(), 2, "the server saw what was let through alone");
        Ok(())
    });
}

#[test]
fn over_http2_and_between_pods_of_one_node_it_is_the_same() {
    with_servers("", |mesh, _, _| {
        let _http2 = mesh.pod("server").serve(Kind::Http2, HTTP2)?;
        for (pod, url, version) in [
            ("client", "http://10.96.0.10:8082/staff/x", "--http2-prior-knowledge"),
            ("near", "http://10.96.0.10:8082/staff/x", "--http2-prior-knowledge"),
            ("near", "http://10.96.0.10/staff/x", "--http1.1"),
        ] {
            let ask =
                |user: &str| mesh.pod(pod).curl(url, &[version, "-i", "-H", &format!("x-user: {user}")]);
            let allowed = ask("alice")?;
            assert_eq!(allowed.status, 200, "{pod} {url}: {allowed:?}");
            assert!(allowed.body.contains("x-checked: yes"), "{pod} {url}: {allowed:?}");
            let refused = ask("mallory")?;
            assert_eq!(refused.status, 418, "{pod} {url}: {refused:?}");
            assert!(refused.body.contains("not you, mallory"), "{pod} {url}: {refused:?}");
            refusal_is_told(mesh, 1, &refused.body, "ext_authz_denied")?;
        }
        let grpc = [
            "--http2-prior-knowledge",
            "-i",
            "-H",
            "content-type: application/grpc",
            "-H",
            "x-user: mallory",
        ];
        let answer = mesh.pod("client").curl("http://10.96.0.10:8082/staff/Z", &grpc)?;
        assert!(answer.body.contains("grpc-status: 2") && answer.body.contains("not you"), "{answer:?}");
        refusal_is_told(mesh, 1, &answer.body, "ext_authz_denied")?;
        Ok(())
    });
}

#[test]
fn a_server_that_says_nothing_that_counts_lets_nothing_pass() {
    with_servers("", |mesh, server, _| {
        for (user, reason) in [
            ("silent", "ext_authz_error_timeout"),
            ("broken", "ext_authz_error_bad_answer"),
            ("framing", "ext_authz_error_bad_answer"),
            ("splitting", "ext_authz_error_bad_answer"),
            ("status-99", "ext_authz_error_bad_answer"),
            ("status-700", "ext_authz_error_bad_answer"),
            ("huge", "ext_authz_error_bad_answer"),
            ("many", "ext_authz_error_bad_answer"),
            ("failing", "ext_authz_error_bad_answer"),
        ] {
            let began = Instant::now();
            let answer = ask(mesh, "/staff/x", &[&format!("x-user: {user}")], &[])?;
            assert_eq!(answer.status, 403, "{user}: {answer:?}");
            let record = mesh.node(node(1)).record(user, |record| record["reason"] == reason)?;
            assert!(record["policy"].to_string().contains("shop/ask"), "{record}");
            let told = refusal_is_told(mesh, 1, &answer.body, reason)?;
            assert!(told.contains("AuthorizationPolicy shop/ask"), "{user}: {told}");
            assert!(began.elapsed() < 10 * TIMEOUT, "{user} took {:?}", began.elapsed());
        }
        assert_eq!(ask(mesh, "/staff/x", &["x-user: status-0"], &[])?.status, 403);
        assert_eq!(ask(mesh, "/staff/x", &["x-user: redirect"], &[])?.status, 302);
        assert_eq!(ask(mesh, "/staff/x", &["x-user: alice"], &[])?.status, 200, "it is asked as before");
        assert_eq!(server.events("request").len(), 1);
        // Others are not held up by one that waits.
        let held = std::thread::scope(|scope| {
            let silent = scope.spawn(|| ask(mesh, "/staff/x", &["x-user: silent"], &[]));
            let began = Instant::now();
            let others = (0..20).map(|_| ask(mesh, "/staff/x", &["x-user: alice"], &[])).collect::<Vec<_>>();
            let took = began.elapsed();
            let silent = silent.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (took, others, silent)
        });
        assert!(held.1.into_iter().all(|answer| answer.is_ok_and(|answer| answer.status == 200)));
        assert_eq!(held.2?.status, 403);
        Ok(())
    });
}

#[test]
fn where_the_server_is_gone_it_is_as_the_configuration_says() {
    with_servers("", |mesh, _, _| {
        let ask = |field: &str| ask(mesh, "/staff/x", &[field], &[]);
        let question = ["--from", "shop/client", "--to", "shop/server:80", "--path", "/staff/x"];
        let said = explained(mesh, &question)?;
        assert_eq!(said.status.code(), Some(2), "its word decides: {said:?}");
        for part in [
            "DEPENDS: the authorization server opa is asked; if it allows: no ALLOW policy is about it",
            "AuthorizationPolicy shop/ask rules[0] asks the authorization server opa (shop/opa:9191) first",
            "if it says nothing in time, refused",
        ] {
            assert!(said.stdout.contains(part), "{part:?} in {}", said.stdout);
        }
        let other = explained(mesh, &["--from", "shop/client", "--to", "shop/server:80", "--path", "/open"])?;
        assert!(other.status.success() && !other.stdout.contains("opa"), "nobody is asked: {other:?}");
        mesh.config().write("mesh", &configuration("envoyExtAuthzGrpc", 9999, "statusOnError: '503'"))?;
        eventually("nobody answers at that port", PATIENCE, || {
            (ask("x-user: alice").ok()?.status == 503).then_some(())
        })?;
        let answer = ask("x-user: alice")?;
        let id = decision_id(&answer.body).with_context(|| format!("{answer:?}"))?;
        let told = mesh.node(node(1)).command(&["authz", "explain", &id])?.success("explain")?;
        assert!(told.contains("AuthorizationPolicy shop/ask") && told.contains("ext_authz_error"), "{told}");
        mesh.config().write("mesh", &configuration("envoyExtAuthzGrpc", 9999, "failOpen: true"))?;
        eventually("what is not answered passes", PATIENCE, || {
            (ask("x-user: mallory").ok()?.status == 200).then_some(())
        })?;
        let said = explained(mesh, &question)?;
        assert!(said.stdout.contains("if it says nothing in time, as if it allowed"), "{}", said.stdout);
        mesh.config().remove("mesh")?;
        eventually("without a server nothing passes", PATIENCE, || {
            (ask("x-user: alice").ok()?.status == 403).then_some(())
        })?;
        refusal_is_told(mesh, 1, &ask("x-user: alice")?.body, "ext_authz_unknown_provider")?;
        let said = explained(mesh, &question)?;
        assert_eq!(said.status.code(), Some(1), "there is nobody to ask: {said:?}");
        assert!(said.stdout.starts_with("REFUSED: "), "{}", said.stdout);
        Ok(())
    });
}

#[test]
fn a_server_without_a_cluster_ip_is_not_asked_and_the_status_says_so() {
    with_servers("", |mesh, _, checks| {
        for (fields, said) in [
            ("clusterIP: None", "Service shop/opa has no cluster IP to be asked at: it is headless"),
            ("type: ExternalName, externalName: a.b", "no Service shop/opa to be asked, or its type is"),
        ] {
            let head = "apiVersion: v1\nkind: Service\nmetadata: {name: opa, namespace: shop}";
            let spec = format!("spec: {{{fields}, ports: [{{name: grpc, port: {GRPC}}}]}}");
            mesh.config().write("service-shop-opa", &format!("{head}\n{spec}\n"))?;
            eventually("the status says why", PATIENCE, || {
                let status = mesh.b().command(&["status"]).and_then(|ended| ended.success("status")).ok()?;
                status.contains(said).then_some(())
            })?;
            let answer = ask(mesh, "/staff/x", &["x-user: alice"], &[])?;
            refusal_is_told(mesh, 1, &answer.body, "ext_authz_error_unreachable")?;
        }
        assert!(checks.try_recv().is_err(), "somebody was asked");
        mesh.config().write("mesh", &configuration("envoyExtAuthzGrpc", GRPC, "failOpen: true"))?;
        let passes = || (ask(mesh, "/staff/x", &[], &[]).ok()?.status == 200).then_some(());
        eventually("what is not answered passes", PATIENCE, passes)
    });
}

#[test]
fn a_body_is_shown_as_far_as_the_configuration_says() {
    with_servers("includeRequestBodyInCheck: {maxRequestBytes: 16}", |mesh, server, checks| {
        let post = |body: &str| ask(mesh, "/staff/x", &["x-user: alice"], &["-d", body]);
        assert_eq!(post("sixteen letters.")?.status, 200);
        assert_eq!(next(checks)?.body, "sixteen letters.");
        assert!(server.event("request", 1, PATIENCE)?.to_string().contains("sixteen letters."));
        let answer = post("seventeen letters")?;
        assert_eq!(answer.status, 413, "{answer:?}");
        refusal_is_told(mesh, 1, &answer.body, "ext_authz_body_too_large")?;
        let partial = "includeRequestBodyInCheck: {maxRequestBytes: 16, allowPartialMessage: true}";
        mesh.config().write("mesh", &configuration("envoyExtAuthzGrpc", GRPC, partial))?;
        eventually("of a longer one the beginning is shown", PATIENCE, || {
            (post("seventeen letters").ok()?.status == 200).then_some(())
        })?;
        let check = next(checks)?;
        assert_eq!(check.body, "seventeen letter");
        assert_eq!(check.headers.get("x-envoy-auth-partial-body").map(String::as_str), Some("true"));
        assert!(server.event("request", 2, PATIENCE)?.to_string().contains("seventeen letters"));
        let _http2 = mesh.pod("server").serve(Kind::Http2, HTTP2)?;
        let flags = ["--http2-prior-knowledge", "-i", "-H", "x-user: alice", "-d", "seventeen letters"];
        assert_eq!(mesh.pod("client").curl("http://10.96.0.10:8082/staff/x", &flags)?.status, 200);
        assert_eq!(next(checks)?.body, "seventeen letter");
        Ok(())
    });
}

#[test]
fn over_http_the_head_is_shown_and_200_lets_it_pass() {
    with_servers("", |mesh, server, _| {
        let fields = "pathPrefix: /check, includeRequestHeadersInCheck: [x-user], headersToUpstreamOnAllow: [x-role], \
                      headersToDownstreamOnAllow: [x-checked]";
        mesh.config().write("mesh", &configuration("envoyExtAuthzHttp", PLAIN, fields))?;
        let ask = |user: &str| ask(mesh, "/staff/x", &[&format!("x-user: {user}"), "x-role: forged"], &[]);
        eventually("it is asked over HTTP", PATIENCE, || (ask("alice").ok()?.status == 200).then_some(()))?;
        let answer = ask("alice")?;
        assert!(answer.body.contains("x-checked: yes") && !answer.body.contains("x-secret"), "{answer:?}");
        let seen = server.events("request").last().map(ToString::to_string).unwrap_or_default();
        assert!(
            seen.contains("/check/staff/x") && !seen.contains("forged") && !seen.contains("x-secret"),
            "{seen}"
        );
        let answer = ask("mallory")?;
        assert_eq!(answer.status, 401, "{answer:?}");
        assert!(
            answer.body.contains("www-authenticate: Who") && answer.body.ends_with("not you"),
            "{answer:?}"
        );
        assert_eq!(ask("failing")?.status, 403);
        Ok(())
    });
}

#[test]
fn a_request_that_may_wait_no_longer_is_refused_for_that() {
    // The server has a minute, a request has less.
    let patient = configuration("envoyExtAuthzGrpc", GRPC, "").replace("timeout: 2s", "timeout: 60s");
    with_configuration(&["--tcp-idle-timeout", "3s"], &patient, |mesh, server, _| {
        let _http2 = mesh.pod("server").serve(Kind::Http2, HTTP2)?;
        let silent = ["-i", "-X", "POST", "-H", "x-user: silent"];
        let call =
            ["--http2-prior-knowledge", "-H", "content-type: application/grpc", "-H", "grpc-timeout: 500m"];
        // Of one node: elsewhere the caller's own daemon may be the first to end it, which has asked nobody.
        let answer = mesh.pod("near").curl("http://10.96.0.10:8082/staff/call", &[silent, call].concat())?;
        assert!(answer.body.contains("grpc-status: 4"), "{answer:?}");
        let id = decision_id(&answer.body).with_context(|| format!("{answer:?}"))?;
        for direction in ["inbound", "outbound"] {
            let is_it = |record: &serde_json::Value| {
                record["http.path"] == "/staff/call" && record["direction"] == direction
            };
            let record = mesh.node(node(1)).record(direction, is_it)?;
            assert_eq!(
                (&record["reason"], &record["decision"]),
                (&"deadline_exceeded".into(), &id.as_str().into())
            );
            let is_called = direction == "inbound";
            assert_eq!(record["verdict"] == "denied", is_called, "{record}");
            assert_eq!(record["policy"].to_string().contains("shop/ask"), is_called, "{record}");
        }
        let told = mesh.node(node(1)).command(&["authz", "explain", &id])?.success("explain")?;
        let reason = "\nreason:      ext_authz_error_timeout\n";
        assert!(told.contains("AuthorizationPolicy shop/ask") && told.contains(reason), "{told}");
        // The call to the server is an exchange like any other: it ends when the request does, or a moment before.
        let answer =
            mesh.pod("near").curl("http://10.96.0.10/staff/x", &[&silent[..], &["--http1.1"]].concat())?;
        let (status, reason) = match answer.status {
            504 => (504, "ext_authz_error_timeout"),
            status => (status, "ext_authz_error_unreachable"),
        };
        assert!([403, 504].contains(&status), "{answer:?}");
        let told = refusal_is_told(mesh, 1, &answer.body, reason)?;
        assert!(told.contains("AuthorizationPolicy shop/ask"), "{told}");
        assert!(server.events("request").is_empty());
        Ok(())
    });
}

#[test]
fn a_request_that_breaks_off_before_its_server_is_asked_is_reported_once() {
    with_servers("includeRequestBodyInCheck: {maxRequestBytes: 16}", |mesh, _, _| {
        let broken = "POST /staff/broken HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nZ";
        let answer = mesh.pod("near").http_bytes(at(80), broken)?.received;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        refusal_is_told(mesh, 1, &answer, "http1_chunk_size")?;
        let is_of_it = |record: &serde_json::Value| record["http.path"] == "/staff/broken";
        let records = mesh.node(node(1)).records().into_iter().filter(is_of_it).collect::<Vec<_>>();
        assert_eq!(records.len(), 1, "{records:?}");
        Ok(())
    });
}

fn with_servers(
    fields: &str,
    test: impl FnOnce(&mut Mesh, &Server, &Receiver<AttributeContext>) -> Result<()>,
) {
    with_configuration(&[], &configuration("envoyExtAuthzGrpc", GRPC, fields), test);
}

/// `client` on one node, `server`, `near` and the authorization server `opa` on the other; `/staff*` is to be asked.
fn with_configuration(
    flags: &[&str],
    configuration: &str,
    test: impl FnOnce(&mut Mesh, &Server, &Receiver<AttributeContext>) -> Result<()>,
) {
    let opa = PodSpec::new("opa").label("app", "opa").port("grpc", GRPC).port("http", PLAIN);
    let far = vec![server("server").port("http2", HTTP2), PodSpec::new("near"), opa];
    let rules = "- to:\n    - operation:\n        paths: [\"/staff*\"]\n";
    let ask = policy("ask", "CUSTOM\n  provider: {name: opa}", rules);
    let opa = ServiceSpec::new("opa", &[IpAddr::V4(OPA)]).port("grpc", GRPC, GRPC).port("http", PLAIN, PLAIN);
    Scenario::new(vec![PodSpec::new("client")], far)
        .service(service().port("http2", HTTP2, HTTP2))
        .service(opa)
        .objects("mesh", configuration)
        .objects("policy", &ask)
        .flags(flags)
        .run(|mesh| {
            let (checks, asked) = channel();
            serve(mesh.pod("opa"), GRPC, move |connection| {
                let checks = checks.clone();
                let service = service_fn(move |request| answer(request, checks.clone()));
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(connection, service)
            })?;
            serve(mesh.pod("opa"), PLAIN, |connection| {
                hyper::server::conn::http1::Builder::new().serve_connection(connection, service_fn(plain))
            })?;
            let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
            test(mesh, &server, &asked)
        });
}

fn configuration(kind: &str, port: u16, fields: &str) -> String {
    let comma = if fields.is_empty() { "" } else { ", " };
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: nodemesh, namespace: nodemesh-system}}\ndata:\n  mesh: |\n    \
         extensionProviders:\n      - name: opa\n        {kind}: {{service: opa.shop.svc.cluster.local, port: {port}, \
         timeout: 2s{comma}{fields}}}\n"
    )
}

/// What curl says of a request of `client` to Service `server`, head and body.
fn ask(mesh: &Mesh, path: &str, fields: &[&str], flags: &[&str]) -> Result<Response> {
    let mut all = vec!["--http1.1", "-i"];
    fields.iter().for_each(|field| all.extend(["-H", field]));
    all.extend(flags);
    mesh.pod("client").curl(&format!("http://10.96.0.10{path}"), &all)
}

/// The last of what was asked so far.
fn next(checks: &Receiver<AttributeContext>) -> Result<HttpRequest> {
    let first = checks.recv_timeout(PATIENCE)?;
    Ok(http_of(checks.try_iter().last().unwrap_or(first)))
}

fn http_of(attributes: AttributeContext) -> HttpRequest {
    attributes.request.and_then(|request| request.http).unwrap_or_default()
}

/// Serves a pod's port on a thread of this process, for as long as that lives.
fn serve<F>(pod: &Pod, port: u16, connection: impl Fn(Io) -> F + Send + 'static) -> Result<()>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    let listener =
        pod.place().netns().run(|| Ok(TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))?))?;
    listener.set_nonblocking(true)?;
    std::thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(connection(TokioIo::new(stream)));
            }
        })
    });
    Ok(())
}

type Io = TokioIo<tokio::net::TcpStream>;
type Body = StreamBody<
    futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, std::convert::Infallible>>>,
>;

/// What the server over gRPC says: it depends on `x-user`.
async fn answer(asked: Request<Incoming>, checks: Sender<AttributeContext>) -> Result<http::Response<Body>> {
    let framed = asked.into_body().collect().await?.to_bytes();
    let check = CheckRequest::decode(&framed[5..])?;
    let http = http_of(check.attributes.clone().unwrap_or_default());
    let user = http.headers.get("x-user").cloned().unwrap_or_default();
    let _ = checks.send(check.attributes.unwrap_or_default());
    let mut code = "0";
    let response = match &*user {
        "alice" => allow(&[("x-role", "staff-of-alice")]),
        "silent" => std::future::pending().await,
        "framing" => allow(&[("content-length", "0")]),
        "splitting" => allow(&[("x-a", "b\r\nx-role: admin")]),
        "many" => allow(&vec![("x-a", "b"); 10_000]),
        "huge" => deny(403, &"a".repeat(1 << 20)),
        "status-99" => deny(99, ""),
        "status-700" => deny(700, ""),
        "status-0" => deny(0, ""),
        "redirect" => deny(302, ""),
        "failing" => {
            code = "13";
            CheckResponse::default()
        }
        user => deny(418, &format!("not you, {user}")),
    };
    let mut message = vec![0];
    let encoded = response.encode_to_vec();
    message.extend(u32::try_from(encoded.len())?.to_be_bytes());
    message.extend(encoded);
    if user == "broken" {
        message = b"what is this".to_vec();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    let frames = vec![Ok(Frame::data(Bytes::from(message))), Ok(Frame::trailers(trailers))];
    let response = http::Response::builder().header("content-type", "application/grpc");
    Ok(response.body(StreamBody::new(futures_util::stream::iter(frames)))?)
}

fn allow(headers: &[(&str, &str)]) -> CheckResponse {
    let response_headers_to_add = vec![option("x-checked", "yes")];
    let headers = headers.iter().map(|(name, value)| option(name, value)).collect();
    let ok = OkHttpResponse { headers, response_headers_to_add, ..OkHttpResponse::default() };
    CheckResponse { http_response: Some(HttpResponse::OkResponse(ok)), ..CheckResponse::default() }
}

fn deny(status: i32, body: &str) -> CheckResponse {
    let denied = DeniedHttpResponse {
        status: Some(HttpStatus { code: status }),
        headers: vec![option("x-why", "because")],
        body: body.to_owned(),
    };
    CheckResponse {
        status: Some(Status { code: 7, ..Status::default() }),
        http_response: Some(HttpResponse::DeniedResponse(denied)),
        ..CheckResponse::default()
    }
}

fn option(key: &str, value: &str) -> HeaderValueOption {
    let header = config::HeaderValue { key: key.to_owned(), value: value.to_owned(), ..Default::default() };
    HeaderValueOption { header: Some(header), ..HeaderValueOption::default() }
}

/// What the server over HTTP says.
async fn plain(asked: Request<Incoming>) -> Result<http::Response<String>> {
    let user = asked.headers().get("x-user").and_then(|user| user.to_str().ok()).unwrap_or_default();
    let role = format!("{}{}", user, asked.uri().path());
    let response = http::Response::builder().header("x-secret", "inside");
    Ok(match user {
        "alice" => response.header("x-role", role).header("x-checked", "yes").body(String::new())?,
        "failing" => response.status(500).body(String::new())?,
        _ => response.status(401).header("www-authenticate", "Who").body("not you".to_owned())?,
    })
}
