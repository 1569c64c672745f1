//! Whom a request's token speaks of: verified at the destination, before rules and application see the request.

use std::sync::LazyLock;

use anyhow::Result;
use aws_lc_rs::signature::Ed25519KeyPair;
use mesh_test_e2e::issuer::{self, ISSUER, key_set, new_key};
use mesh_test_e2e::{HTTP, at, explained, policy, refusal_is_told, request, server, service};
use mesh_test_harness::eventually::{PATIENCE, eventually};
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::servers::{Kind, Server};

/// Declared `http2` on Service and pod.
const HTTP2: u16 = 8082;

static KEY: LazyLock<Ed25519KeyPair> = LazyLock::new(new_key);
static NEXT_KEY: LazyLock<Ed25519KeyPair> = LazyLock::new(new_key);

#[test]
fn tokens_are_verified_and_rules_speak_of_them() {
    with_server(|mesh, server| {
        let (alice, mallory) = (token("alice", &["staff"], 600), token("mallory", &["guests"], 600));
        assert_eq!(get(mesh, "/open", None)?, 200, "nobody may read what is open");
        assert_eq!(get(mesh, "/staff", None)?, 403, "nobody is not of the staff");
        assert_eq!(get(mesh, "/staff", Some(&alice))?, 200);
        assert_eq!(get(mesh, "/staff", Some(&mallory))?, 403, "a good token of somebody else");
        let expired = token("alice", &["staff"], -100);
        for (what, bad, reason) in [
            ("expired", &*expired, "token_expired"),
            ("another signature", &forged(), "token_signature_invalid"),
            ("no token", "a.b.c", "token_not_compact"),
        ] {
            let answer = ask(mesh, "GET /open", &format!("authorization: Bearer {bad}\r\n"))?;
            assert!(answer.starts_with("HTTP/1.1 401 "), "{what}: {answer}");
            let challenge = "www-authenticate: Bearer realm=\"nodemesh\", error=\"invalid_token\"";
            assert!(answer.contains(challenge), "{what}: {answer}");
            let told = refusal_is_told(mesh, 1, &answer, reason)?;
            assert!(told.contains("RequestAuthentication shop/users"), "{what}: {told}");
        }
        assert_eq!(server.events("request").len(), 2, "the server saw what was let through alone");
        let record = mesh.b().record("the end user", |record| record["http.principal"].is_string())?;
        assert_eq!(record["http.principal"], format!("{ISSUER}/alice"), "{record}");
        let record = mesh.b().record("the refusal", |record| record["reason"] == "token_expired")?;
        assert_eq!(record["policy"], "RequestAuthentication shop/users", "{record}");
        for (token, code, said) in [
            (None, 1, "end user:    no token, of those that RequestAuthentication shop/users takes\n"),
            (Some(&alice), 0, "end user:    https://issuer.example/alice, by a token that holds\n"),
            (Some(&mallory), 1, "end user:    https://issuer.example/mallory, by a token that holds\n"),
            (Some(&expired), 1, "end user:    its token does not hold: "),
            (Some(&forged()), 1, "end user:    its token does not hold: "),
        ] {
            let mut question = vec!["--from", "shop/client", "--to", "shop/server:80", "--path", "/staff"];
            question.extend(token.iter().flat_map(|token| ["--token", token.as_str()]));
            let answer = explained(mesh, &question)?;
            assert!(answer.status.code() == Some(code) && answer.stdout.contains(said), "{said}: {answer:?}");
            let shown = format!("{}{}", answer.stdout, answer.stderr);
            let tail = token.and_then(|token| token.rsplit('.').next());
            assert!(!tail.is_some_and(|tail| shown.contains(tail)), "the token is not shown: {shown}");
        }
        Ok(())
    });
}

#[test]
fn the_application_gets_the_claims_and_not_the_token() {
    with_server(|mesh, server| {
        let alice = token("alice", &["staff"], 600);
        let forged = "x-user: admin\r\nX_User: admin\r\n";
        let answer = ask(mesh, "GET /open", forged)?;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let head = server.event("request", 1, PATIENCE)?.to_string();
        assert!(!head.contains("admin"), "{head}");
        let fields = format!("{forged}authorization: Bearer {alice}\r\n");
        let answer = ask(mesh, &format!("GET /open?a=1&access_token={alice}&b=2"), &fields)?;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let request = server.event("request", 2, PATIENCE)?;
        let head = request.to_string();
        assert_eq!(request["path"], "/open?a=1&b=2", "{head}");
        assert!(head.contains("alice") && !head.contains("admin") && !head.contains(&alice), "{head}");
        Ok(())
    });
}

#[test]
fn over_http2_and_between_pods_of_one_node_it_is_the_same() {
    with_server(|mesh, server| {
        let _http2 = mesh.pod("server").serve(Kind::Http2, HTTP2)?;
        let alice = format!("authorization: Bearer {}", token("alice", &["staff"], 600));
        let expired = format!("authorization: Bearer {}", token("alice", &["staff"], -100));
        for (pod, url, version) in [
            ("client", "http://10.96.0.10:8082/staff", "--http2-prior-knowledge"),
            ("near", "http://10.96.0.10:8082/staff", "--http2-prior-knowledge"),
            ("near", "http://10.96.0.10/staff", "--http1.1"),
        ] {
            let status = |flags: &[&str]| Ok::<_, anyhow::Error>(mesh.pod(pod).curl(url, flags)?.status);
            assert_eq!(status(&[version])?, 403, "{pod} {url}");
            assert_eq!(status(&[version, "-H", &alice])?, 200, "{pod} {url}");
            assert_eq!(status(&[version, "-H", &expired])?, 401, "{pod} {url}");
        }
        let grpc = ["--http2-prior-knowledge", "-i", "-H", "content-type: application/grpc", "-H", &expired];
        let answer = mesh.pod("client").curl("http://10.96.0.10:8082/x.Y/Z", &grpc)?;
        assert!(answer.body.contains("grpc-status: 16"), "{answer:?}");
        let seen = server.event("request", 1, PATIENCE)?.to_string();
        assert!(!seen.contains("Bearer"), "{seen}");
        Ok(())
    });
}

#[test]
fn keys_change_without_a_failed_request() {
    with_server(|mesh, _| {
        let (old, new) =
            (signed(&KEY, "alice", &["staff"], 600), signed(&NEXT_KEY, "alice", &["staff"], 600));
        assert_eq!(get(mesh, "/staff", Some(&old))?, 200);
        assert_eq!(get(mesh, "/staff", Some(&new))?, 401, "nobody has published the key so far");
        mesh.config().write("users", &users(&[&KEY, &NEXT_KEY]))?;
        let takes = |token: &str, wanted: u16| {
            let status = get(mesh, "/staff", Some(token)).ok()?;
            (status == wanted).then_some(())
        };
        eventually("the new key counts", PATIENCE, || {
            assert_eq!(get(mesh, "/staff", Some(&old)).ok(), Some(200), "the old one still does");
            takes(&new, 200)
        })?;
        mesh.config().write("users", &users(&[&NEXT_KEY]))?;
        eventually("the old key counts no more, whatever was verified with it", PATIENCE, || {
            assert_eq!(get(mesh, "/staff", Some(&new)).ok(), Some(200));
            takes(&old, 401)
        })?;
        Ok(())
    });
}

#[test]
fn what_is_not_understood_lets_nobody_in() {
    with_server(|mesh, _| {
        let alice = token("alice", &["staff"], 600);
        assert_eq!(get(mesh, "/staff", Some(&alice))?, 200);
        let remote = "jwksUri: http://127.0.0.1:1/keys".to_owned();
        let whole = users(&[&KEY]);
        let without = whole.lines().map(|line| match line.trim_start().starts_with("jwks:") {
            true => format!("      {remote}\n"),
            false => format!("{line}\n"),
        });
        let without: String = without.collect();
        mesh.config().write("users", &without)?;
        eventually("tokens without keys are refused", PATIENCE, || {
            (get(mesh, "/staff", Some(&alice)).ok()? == 401).then_some(())
        })?;
        assert_eq!(get(mesh, "/open", None)?, 200, "nobody still goes where nobody may");
        mesh.config().write("users", &users(&[&KEY]).replace("issuer:", "isuer:"))?;
        eventually("every request is refused", PATIENCE, || {
            (get(mesh, "/open", None).ok()? == 403).then_some(())
        })?;
        Ok(())
    });
}

/// A server that takes the issuer's tokens, gives `/open` to everybody and the rest to the staff.
fn with_server(test: impl FnOnce(&mut Mesh, &Server) -> Result<()>) {
    let far = vec![server("server").port("http2", HTTP2), PodSpec::new("near")];
    let rules = "- to:\n    - operation:\n        paths: [/open]\n- from:\n    - source:\n        \
                 requestPrincipals: [\"https://issuer.example/*\"]\n  when:\n    - key: \
                 request.auth.claims[realm][groups]\n      values: [staff]\n";
    Scenario::new(vec![PodSpec::new("client")], far)
        .service(service().port("http2", HTTP2, HTTP2))
        .objects("users", &users(&[&KEY]))
        .objects("policy", &policy("staff", "ALLOW", rules))
        .run(|mesh| {
            let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
            test(mesh, &server)
        });
}

fn users(keys: &[&Ed25519KeyPair]) -> String {
    let keys = key_set(keys);
    format!(
        "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: RequestAuthentication\nmetadata:\n  name: users\n  \
         namespace: shop\nspec:\n  selector:\n    matchLabels:\n      app: server\n  jwtRules:\n    - issuer: \
         {ISSUER}\n      audiences: [shop]\n      outputClaimToHeaders: [{{header: x-user, claim: sub}}]\n      \
         jwks: '{keys}'\n"
    )
}

fn token(subject: &str, groups: &[&str], left: i64) -> String {
    signed(&KEY, subject, groups, left)
}

fn signed(key: &Ed25519KeyPair, subject: &str, groups: &[&str], left: i64) -> String {
    issuer::signed(key, subject, "shop", groups, left)
}

/// A token whose signature is another's.
fn forged() -> String {
    signed(&NEXT_KEY, "alice", &["staff"], 600)
}

fn get(mesh: &Mesh, path: &str, token: Option<&str>) -> Result<u16> {
    let field = token.map(|token| format!("authorization: Bearer {token}\r\n"));
    let answer = ask(mesh, &format!("GET {path}"), &field.unwrap_or_default())?;
    let status = answer.split(' ').nth(1).unwrap_or_default();
    Ok(status.parse()?)
}

fn ask(mesh: &Mesh, line: &str, fields: &str) -> Result<String> {
    let answer = mesh.pod("client").http_bytes(at(80), request(line, fields))?;
    Ok(answer.received)
}
