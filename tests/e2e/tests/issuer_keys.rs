//! Keys that issuers publish: fetched by who runs the reconciler, kept when their server is gone, changed without a refusal.

use std::sync::LazyLock;

use anyhow::{Result, ensure};
use aws_lc_rs::signature::Ed25519KeyPair;
use mesh_test_e2e::issuer::{ISSUER, KeyServer, key_set, new_key, signed};
use mesh_test_e2e::{HTTP, at, policy, request, server, service};
use mesh_test_harness::eventually::{PATIENCE, eventually};
use mesh_test_harness::mesh::{Mesh, Scenario};
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::servers::Kind;

/// Where the issuer's server listens.
const KEYS: u16 = 8090;
/// So that tests need not wait for minutes.
const REFRESH: [&str; 2] = ["--jwks-refresh-interval", "1s"];

static KEY: LazyLock<Ed25519KeyPair> = LazyLock::new(new_key);
static NEXT_KEY: LazyLock<Ed25519KeyPair> = LazyLock::new(new_key);

#[test]
fn keys_are_fetched_and_outlive_their_server() {
    with_issuer(scenario().flags(&REFRESH), 200, |mesh, keys| {
        let alice = token(&KEY);
        eventually_answers(mesh, &alice, 200)?;
        ensure!(get(mesh, &token(&NEXT_KEY))? == 401, "a key that nobody published");
        drop(keys);
        let failed = [("result", "unreachable")];
        mesh.b().metric("nodemesh_control_key_fetches_total", &failed, |count| count >= 2.0)?;
        ensure!(get(mesh, &alice)? == 200, "the last good keys count");
        let status = mesh.b().command(&["status"])?.success("mesh-node status")?;
        ensure!(status.contains("keys cannot be fetched from http://"), "{status}");
        ensure!(status.contains("those of before are used until"), "{status}");
        mesh.b().metric("nodemesh_control_key_sets", &[("state", "failing")], |count| count == 1.0)?;
        Ok(())
    });
}

#[test]
fn keys_that_cannot_be_fetched_again_are_used_up_to_an_age() {
    let flags = ["--jwks-refresh-interval", "1s", "--jwks-max-age", "4s"];
    with_issuer(scenario().flags(&flags), 200, |mesh, keys| {
        let alice = token(&KEY);
        eventually_answers(mesh, &alice, 200)?;
        keys.answers(500, "no");
        eventually_answers(mesh, &alice, 401)?;
        keys.answers(200, &key_set(&[&KEY]));
        eventually_answers(mesh, &alice, 200)
    });
}

#[test]
fn until_the_first_fetch_tokens_are_refused_and_nothing_else_is() {
    with_issuer(scenario().flags(&REFRESH), 500, |mesh, keys| {
        let alice = token(&KEY);
        mesh.b()
            .metric("nodemesh_control_key_fetches_total", &[("result", "refused")], |count| count >= 1.0)?;
        let answer = ask(mesh, &alice)?;
        ensure!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        let record = mesh.b().record("the refusal", |record| record["reason"] == "token_keys_missing")?;
        ensure!(record["policy"] == "RequestAuthentication shop/users", "{record}");
        let plain = mesh.pod("client").http_bytes(at(80), request("GET /open", ""))?.received;
        ensure!(plain.starts_with("HTTP/1.1 200 "), "{plain}");
        eventually("the status says why", PATIENCE, || {
            let status = mesh.b().command(&["status"]).and_then(|ended| ended.success("status")).ok()?;
            status.contains("answered 500; tokens of the issuer are refused").then_some(())
        })?;
        keys.answers(200, &key_set(&[&KEY]));
        eventually_answers(mesh, &alice, 200)
    });
}

#[test]
fn keys_change_without_a_refused_request() {
    with_issuer(scenario().flags(&REFRESH), 200, |mesh, keys| {
        let (old, new) = (token(&KEY), token(&NEXT_KEY));
        eventually_answers(mesh, &old, 200)?;
        ensure!(get(mesh, &new)? == 401, "nobody has published the key so far");
        keys.answers(200, &key_set(&[&KEY, &NEXT_KEY]));
        eventually("the new key counts", PATIENCE, || {
            assert_eq!(get(mesh, &old).ok(), Some(200), "the old one still does");
            (get(mesh, &new).ok()? == 200).then_some(())
        })?;
        keys.answers(200, &key_set(&[&NEXT_KEY]));
        eventually("the old key counts no more", PATIENCE, || {
            assert_eq!(get(mesh, &new).ok(), Some(200));
            (get(mesh, &old).ok()? == 401).then_some(())
        })?;
        Ok(())
    });
}

#[test]
fn an_issuer_that_is_out_of_bounds_or_hangs_holds_up_no_other() {
    with_issuer(scenario().flags(&REFRESH), 200, |mesh, keys| {
        // Takes connections and never answers.
        let _sink = mesh.pod("keys").serve(Kind::Sink, KEYS + 1)?;
        let hanging = keys.uri().replace(&KEYS.to_string(), &(KEYS + 1).to_string());
        let bad = [
            ("loopback", "http://127.0.0.1:15020/metrics"),
            ("name", "http://localhost:15020/metrics"),
            ("metadata", "http://169.254.169.254/latest/meta-data"),
            ("own", &*format!("http://{}:15020/metrics", mesh.topology().sites()[1].address())),
            ("hanging", &*hanging),
        ];
        let rules = bad.iter().map(|(issuer, uri)| format!("    - issuer: {issuer}\n      jwksUri: {uri}\n"));
        let rules: String = rules.collect();
        let other = users("", &["shop"]).replace("name: users", "name: others");
        let (head, _) = other.split_once("    - issuer:").expect("it has a rule");
        mesh.config().write("others", &format!("{head}{rules}"))?;
        eventually_answers(mesh, &token(&KEY), 200)?;
        eventually("the status names each", PATIENCE, || {
            let status = mesh.b().command(&["status"]).and_then(|ended| ended.success("status")).ok()?;
            let all = [
                "127.0.0.1 is a loopback",
                "a link-local address",
                "where the mesh itself listens",
                "within 5000 ms",
            ];
            all.iter().all(|part| status.contains(part)).then_some(())
        })?;
        ensure!(get(mesh, &token(&KEY))? == 200);
        Ok(())
    });
}

#[test]
fn a_controller_that_begins_anew_takes_no_keys_from_its_agents() {
    with_issuer(scenario().with_controller(), 200, |mesh, keys| {
        let (alice, bob) = (token(&KEY), signed(&KEY, "bob", "other", &[], 600));
        eventually_answers(mesh, &alice, 200)?;
        ensure!(get(mesh, &bob)? == 401, "another audience");
        keys.answers(500, "no");
        mesh.controller().kill()?;
        mesh.controller().restart()?;
        let before = keys.requests();
        eventually("the new controller asks, in vain", PATIENCE, || {
            (keys.requests() > before + 1).then_some(())
        })?;
        mesh.config().write("users", &users(&keys.uri(), &["shop", "other"]))?;
        eventually("what the new controller says is in force", PATIENCE, || {
            assert_eq!(get(mesh, &alice).ok(), Some(200), "with the keys of before, all the while");
            (get(mesh, &bob).ok()? == 200).then_some(())
        })?;
        keys.answers(200, &key_set(&[&NEXT_KEY]));
        eventually_answers(mesh, &token(&NEXT_KEY), 200)?;
        eventually_answers(mesh, &alice, 401)
    });
}

fn scenario() -> Scenario {
    let near = vec![PodSpec::new("client"), PodSpec::new("keys").namespace("outside")];
    Scenario::new(near, vec![server("server")]).service(service())
}

/// An issuer whose server answers so at first; whoever shows one of its tokens, or none, is let in.
fn with_issuer(scenario: Scenario, status: u16, test: impl FnOnce(&mut Mesh, KeyServer) -> Result<()>) {
    let rules = policy("everybody", "ALLOW", "- {}\n");
    scenario.objects("policy", &rules).run(|mesh| {
        let _server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        let keys = KeyServer::start(mesh.pod("keys"), KEYS, status, &key_set(&[&KEY]))?;
        mesh.config().write("users", &users(&keys.uri(), &["shop"]))?;
        test(mesh, keys)
    });
}

fn users(uri: &str, audiences: &[&str]) -> String {
    format!(
        "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: RequestAuthentication\nmetadata:\n  name: users\n  \
         namespace: shop\nspec:\n  selector:\n    matchLabels:\n      app: server\n  jwtRules:\n    - issuer: \
         {ISSUER}\n      audiences: {audiences:?}\n      jwksUri: {uri}\n"
    )
}

fn token(key: &Ed25519KeyPair) -> String {
    signed(key, "alice", "shop", &[], 600)
}

fn eventually_answers(mesh: &Mesh, token: &str, status: u16) -> Result<()> {
    eventually(&format!("the token is answered with {status}"), PATIENCE, || {
        (get(mesh, token).ok()? == status).then_some(())
    })
}

fn get(mesh: &Mesh, token: &str) -> Result<u16> {
    let answer = ask(mesh, token)?;
    Ok(answer.split(' ').nth(1).unwrap_or_default().parse()?)
}

fn ask(mesh: &Mesh, token: &str) -> Result<String> {
    let field = format!("authorization: Bearer {token}\r\n");
    Ok(mesh.pod("client").http_bytes(at(80), request("GET /staff", &field))?.received)
}
