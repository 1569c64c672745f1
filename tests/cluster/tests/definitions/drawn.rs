//! Objects of drawn values: what the code takes, the API server takes.

use anyhow::{Result, ensure};
use kube::api::{Api, DynamicObject, GroupVersionKind, PostParams};
use kube::core::ApiResource;
use mesh_node::control::translate::Effect;
use mesh_node::controller::client::client;
use mesh_test_harness::figure;
use serde_json::{Value, json};

use super::SERVER;
use super::admission::translated;

/// Numbers that look drawn, and are the same each time.
struct Draws(u64);

impl Draws {
    fn one_of<'a>(&mut self, pieces: &[&'a str]) -> &'a str {
        // Knuth's MMIX constants; the high bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        pieces[usize::try_from(self.0 >> 33).unwrap_or_default() % pieces.len()]
    }
}

const PIECES: &[&str] = &[
    "",
    "",
    "*",
    "a",
    "Z",
    "80",
    ".",
    ":",
    "/",
    "-",
    "_",
    "[fd00::1]",
    "%2F",
    "%20",
    "%",
    "é",
    "td",
    "/ns/a/sa/b",
    "GET",
    "/api",
    "10.0.0.1",
    "::",
    "::ffff:1.2.3.4",
    "fd00",
    "/8",
    "/96",
    "/128",
    "|",
    "'",
    "~",
    ";",
    "..",
    "65535",
];
/// Objects that are tried.
const DRAWN: usize = 6_000;

/// Fields with a value, as they stand in a rule.
fn drawn(draws: &mut Draws) -> Value {
    let value: String = (0..4).map(|_| draws.one_of(PIECES)).collect();
    let name = draws.one_of(&[
        "principals",
        "ipBlocks",
        "hosts",
        "paths",
        "source.ip",
        "source.principal",
        "source.namespace",
        "source.serviceAccount",
        "destination.port",
        "connection.sni",
        "request.headers[a]",
    ]);
    match name {
        "principals" | "ipBlocks" => json!({"from": [{"source": {name: [value]}}]}),
        "hosts" | "paths" => json!({"to": [{"operation": {name: [value]}}]}),
        key => json!({"when": [{"key": key, "values": [value]}]}),
    }
}

/// Pieces of a URI, behind its scheme.
const URI_PIECES: &[&str] = &[
    "",
    "",
    "a.example",
    "localhost",
    "127.0.0.1",
    "10.0.0.1",
    "169.254.169.254",
    "[::1]",
    "[fd00::7]",
    "[::ffff:10.0.0.1]",
    "[::ffff:127.0.0.1]",
    ":80",
    ":0443",
    ":000443",
    ":65535",
    ":65536",
    ":0",
    ":",
    "/keys",
    "/%2F",
    "?a=b:99999",
    "?m=a@b",
    "#f",
    "me:it@",
    "..",
    "é",
];
const SET_BEGINNINGS: &[&str] = &[
    "{\"keys\":[",
    "\n {\t\"keys\" :\r\n[ ",
    "{\"a\":{\"keys\":1},\"keys\":[",
    "{\"key\\u0073\":[",
    "{\"keyz\":[",
    "[",
];
const KEYS: &[&str] = &[
    "",
    r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
    r#"{"x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","crv" : "Ed25519", "kty" : "OKP"}"#,
    r#"{"kt\u0079":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
    r#"{"kty":"oct","k":"AQAB"}"#,
    r#"{"kty":"OKP","crv":"X25519","x":"AA"}"#,
];
const SET_ENDS: &[&str] = &["]}", "]}\n", "],\"b\":[{}]}", "]", "]} x"];
const NAMES: &[&str] = &[
    "X-User",
    "x-hosts",
    "Host",
    "host",
    "TE",
    "Cookie",
    "Authorization",
    "Content-Typ",
    "Content-Type",
    "x_forwarded_for",
    "X_Forwarded-Client-Cert",
    "X-Nodemesh_",
    "x-nodemesh",
];

/// One entry of `jwtRules`.
fn drawn_issuer(draws: &mut Draws) -> Value {
    let text = |draws: &mut Draws| -> String { (0..3).map(|_| draws.one_of(PIECES)).collect() };
    let mut rule = json!({"issuer": text(draws)});
    match draws.one_of(&["uri", "uri", "set", "set", "names"]) {
        "uri" => {
            let scheme = draws.one_of(&["https://", "http://"]);
            let rest: String = (0..3).map(|_| draws.one_of(URI_PIECES)).collect();
            rule["jwksUri"] = json!(format!("{scheme}{rest}"));
            rule["timeout"] = json!(draws.one_of(&["5s", "60s", "1m", "500ms", "30s30s", "59s999ms"]));
        }
        "set" => {
            let pieces =
                [SET_BEGINNINGS, KEYS, &[",", "", ""], KEYS, SET_ENDS].map(|pieces| draws.one_of(pieces));
            rule["jwks"] = json!(pieces.concat());
        }
        _ => {
            rule["jwks"] = json!(format!("{{\"keys\":[{}]}}", KEYS[1]));
            rule["outputPayloadToHeader"] = json!(draws.one_of(NAMES));
            let audience = draws.one_of(&["a", "é"]).repeat(800);
            rule["audiences"] = json!([audience]);
            let header = draws.one_of(NAMES);
            rule["outputClaimToHeaders"] = json!([{"header": header, "claim": text(draws)}]);
        }
    }
    rule
}

#[tokio::test]
async fn no_authorization_policy_is_refused_that_the_code_takes() -> Result<()> {
    let spec = |draws: &mut Draws| json!({"rules": [drawn(draws)]});
    check("AuthorizationPolicy", "authorizationpolicies", spec).await
}

#[tokio::test]
async fn no_request_authentication_is_refused_that_the_code_takes() -> Result<()> {
    let spec = |draws: &mut Draws| json!({"jwtRules": [drawn_issuer(draws)]});
    check("RequestAuthentication", "requestauthentications", spec).await
}

async fn check(kind: &str, plural: &str, spec: impl Fn(&mut Draws) -> Value) -> Result<()> {
    let resource = GroupVersionKind::gvk("policy.nodemesh.dev", "v1alpha1", kind);
    let resource = ApiResource::from_gvk_with_plural(&resource, plural);
    let client = client(Some(SERVER.kubeconfig())).await?;
    let policies: Api<DynamicObject> = Api::namespaced_with(client, "default", &resource);
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let mut draws = Draws(1);
    let mut taken = 0;
    for _ in 0..DRAWN {
        let object = json!({
            "apiVersion": "policy.nodemesh.dev/v1alpha1",
            "kind": kind,
            "metadata": {"name": "drawn", "namespace": "default"},
            "spec": spec(&mut draws),
        });
        let is_denied = translated(object.clone())?.iter().any(|finding| finding.effect == Effect::Denies);
        if is_denied {
            continue;
        }
        taken += 1;
        let answer = policies.create(&dry_run, &serde_json::from_value(object.clone())?).await;
        ensure!(answer.is_ok(), "{object}: {answer:?}");
    }
    figure(&format!("{taken} of {DRAWN} drawn {kind} are taken by the code, and by the API server"));
    ensure!(taken > DRAWN / 20, "the drawn values are nearly all wrong");
    Ok(())
}
