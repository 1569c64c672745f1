//! What the admission policies refuse, beside the code that would report it.

use std::time::Duration;

use anyhow::{Result, ensure};
use kube::api::{Api, DynamicObject, GroupVersionKind, PostParams};
use kube::core::ApiResource;
use mesh_common::model::MeshSettings;
use mesh_node::control::resources::{AuthorizationPolicy, PeerAuthentication};
use mesh_node::control::translate::authorization_policy::authorization_policy;
use mesh_node::control::translate::peer_authentication::peer_authentication;
use mesh_node::control::translate::{Effect, Finding};
use mesh_node::controller::client::client;
use mesh_test_cluster::api_server::ApiServer;
use mesh_test_harness::eventually::eventually;
use mesh_test_harness::figure;
use serde_json::{Value, json};

use super::{SERVER, apply, object, operation, refused, rule, source};

/// The API server takes new policies up once a second.
const IN_FORCE: Duration = Duration::from_secs(30);

const BEFORE: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: before, labels: {nodemesh.dev/mode: on-please}}
---
apiVersion: policy.nodemesh.dev/v1alpha1
kind: PeerAuthentication
metadata: {name: before, namespace: default}
spec: {mtls: {mode: DISABLE}}
---
apiVersion: policy.nodemesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: before, namespace: default}
spec: {rules: [{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]}
";

/// Objects that no policy saw.
pub fn make_what_was_there_before(server: &ApiServer) -> Result<()> {
    let file = super::tempfile(BEFORE)?;
    server.kubectl(&["apply", "-f", &file.path().display().to_string()]).map(drop)
}

/// All three, not just one of them.
pub fn wait_until_in_force(server: &ApiServer) -> Result<()> {
    let wrong: String =
        BEFORE.split("---").map(|object| format!("{}---\n", object.replace("before", "after"))).collect();
    let file = super::tempfile(&wrong)?;
    eventually("the admission policies are in force", IN_FORCE, || {
        let dry_run = ["apply", "--dry-run=server", "-f", &file.path().display().to_string()];
        let refusal = server.kubectl(&dry_run).err()?.to_string();
        (refusal.matches("denied request").count() == 3).then_some(())
    })
}

/// Where the code finds a fault in an object that the API server does not refuse.
fn findings(kind: &str, spec: &str) -> Vec<Finding> {
    let text = object(kind, "wrong", spec);
    let settings = MeshSettings::default();
    let value = yaml(&text);
    if kind == "AuthorizationPolicy" {
        let object: AuthorizationPolicy = serde_json::from_value(value).expect("the schema has its fields");
        authorization_policy(&object, &settings).expect("it has a name").findings
    } else {
        let object: PeerAuthentication = serde_json::from_value(value).expect("the schema has its fields");
        peer_authentication(&object, &settings).expect("it has a name").findings
    }
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("it is YAML")
}

/// Refused with the field and `said`, and reported by the code with `path` where nobody refuses it.
#[track_caller]
fn refused_and_reported(kind: &str, spec: &str, said: &str, path: &str) {
    refused(kind, spec, said);
    let findings = findings(kind, spec);
    assert!(findings.iter().any(|finding| finding.error.field == path), "{spec}: {findings:?}");
}

#[test]
fn what_the_schema_cannot_say_is_refused_with_its_field() {
    let from = "spec.rules[0].from[0].source";
    let to = "spec.rules[0].to[0].operation";
    for (name, value) in [
        ("ipBlocks", "10.0.0.0/33"),
        ("ipBlocks", "256.0.0.1"),
        ("notIpBlocks", "10.0.0"),
        ("ipBlocks", "fd00::/129"),
        ("ipBlocks", "fd00:::1"),
        ("principals", "td/ns/a b/sa/c"),
        ("notPrincipals", "td/ns/a/sa/ü"),
        ("principals", "td/ns/../sa/a"),
    ] {
        let spec = source(&format!("{{{name}: ['{value}']}}"));
        let field = if name.ends_with("ocks") { "ipBlocks" } else { "principals" };
        let said = format!("spec.rules.from.source.{field}: \"{value}\" is ");
        refused_and_reported("AuthorizationPolicy", &spec, &said, &format!("{from}.{name}[0]"));
    }
    for (name, value) in [
        ("paths", "/a//b"),
        ("notPaths", "/a/../b"),
        ("paths", "/."),
        ("paths", "/%61dmin"),
        ("paths", "/a%2fb"),
        ("paths", "/a%2*"),
        ("paths", "/é"),
        ("hosts", "fd00::1"),
        ("notHosts", "*."),
    ] {
        let spec = operation(&format!("{{{name}: ['{value}']}}"));
        let field = name.trim_start_matches("not").to_lowercase();
        let said = format!("spec.rules.to.operation.{field}: \"{value}\" matches no");
        refused_and_reported("AuthorizationPolicy", &spec, &said, &format!("{to}.{name}[0]"));
    }
}

#[test]
fn a_value_of_a_condition_has_the_form_of_its_key() {
    for (key, value) in [
        ("source.ip", "10.0.0.0/33"),
        ("destination.ip", "here"),
        ("source.principal", "spiffe://td/ns/a/sa/b"),
        ("source.namespace", "Shop"),
        ("source.serviceAccount", "a/b/c"),
        ("destination.port", "65536"),
        ("destination.port", "http"),
        ("connection.sni", "api:443"),
    ] {
        for list in ["values", "notValues"] {
            let spec = rule(&format!("{{when: [{{key: {key}, {list}: ['{value}']}}]}}"));
            let said = format!("spec.rules.when.values: {key}: {value} is no such value");
            let path = format!("spec.rules[0].when[0].{list}[0]");
            refused_and_reported("AuthorizationPolicy", &spec, &said, &path);
        }
    }
}

#[test]
fn a_target_and_a_mode_that_cannot_be_are_refused() {
    let target = "{targetRefs: [{kind: Service, name: a, namespace: elsewhere}]}";
    let said = "spec.targetRefs.namespace: a policy cannot reach into another namespace";
    refused_and_reported("AuthorizationPolicy", target, said, "spec.targetRefs[0].namespace");
    let own = "{targetRefs: [{kind: Service, name: a, namespace: default}]}";
    apply(&object("AuthorizationPolicy", "own-target", own)).expect("its own namespace is taken");
    let dry_run = SERVER.kubectl(&["annotate", "nmap", "own-target", "istio.io/dry-run=yes"]);
    let said = dry_run.expect_err("it is neither true nor false").to_string();
    assert!(said.contains("metadata.annotations[istio.io/dry-run]: neither"), "{said}");
    let said = "spec.mtls.mode: DISABLE is not supported";
    refused_and_reported("PeerAuthentication", "{mtls: {mode: DISABLE}}", said, "spec.mtls.mode");
    let ports =
        "{selector: {matchLabels: {a: b}}, portLevelMtls: {'80': {mode: STRICT}, '81': {mode: DISABLE}}}";
    let said = "spec.portLevelMtls: DISABLE is not supported";
    refused_and_reported("PeerAuthentication", ports, said, "spec.portLevelMtls[81].mode");
}

#[test]
fn what_was_there_before_can_be_changed_in_everything_else() -> Result<()> {
    for what in ["nmap/before", "nmpa/before", "namespace/before"] {
        SERVER.kubectl(&["label", what, "team=a"])?;
    }
    let again = SERVER.kubectl(&["label", "--overwrite", "namespace", "before", "nodemesh.dev/mode=maybe"]);
    let said = again.expect_err("a slip is refused").to_string();
    ensure!(said.contains("metadata.labels[nodemesh.dev/mode]: neither enabled nor disabled"), "{said}");
    for right in ["nodemesh.dev/mode=disabled", "nodemesh.dev/mode=enabled", "nodemesh.dev/mode-"] {
        SERVER.kubectl(&["label", "--overwrite", "namespace", "before", right])?;
    }
    let patch = r#"{"spec": {"rules": [{"from": [{"source": {"ipBlocks": ["10.0.0.0/34"]}}]}]}}"#;
    let patched = SERVER.kubectl(&["patch", "nmap", "before", "--type=merge", "--patch", patch]);
    ensure!(patched.is_err_and(|error| error.to_string().contains("10.0.0.0/34")), "it says something new");
    SERVER.kubectl(&["delete", "nmpa", "before"]).map(drop)
}

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

#[tokio::test]
async fn nothing_is_refused_that_the_code_takes() -> Result<()> {
    let kind = GroupVersionKind::gvk("policy.nodemesh.dev", "v1alpha1", "AuthorizationPolicy");
    let resource = ApiResource::from_gvk_with_plural(&kind, "authorizationpolicies");
    let client = client(Some(SERVER.kubeconfig())).await?;
    let policies: Api<DynamicObject> = Api::namespaced_with(client, "default", &resource);
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let mut draws = Draws(1);
    let mut taken = 0;
    for _ in 0..DRAWN {
        let object = json!({
            "apiVersion": "policy.nodemesh.dev/v1alpha1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "drawn", "namespace": "default"},
            "spec": {"rules": [drawn(&mut draws)]},
        });
        let typed: AuthorizationPolicy = serde_json::from_value(object.clone())?;
        let translated = authorization_policy(&typed, &MeshSettings::default())?;
        if translated.findings.iter().any(|finding| finding.effect == Effect::Denies) {
            continue;
        }
        taken += 1;
        let answer = policies.create(&dry_run, &serde_json::from_value(object.clone())?).await;
        ensure!(answer.is_ok(), "{object}: {answer:?}");
    }
    figure(&format!("{taken} of {DRAWN} drawn policies are taken by the code, and by the API server"));
    ensure!(taken > DRAWN / 20, "the drawn values are nearly all wrong");
    Ok(())
}
