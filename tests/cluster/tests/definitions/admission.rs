//! What the admission policies refuse, beside the code that would report it.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_common::model::MeshSettings;
use mesh_node::control::resources::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication};
use mesh_node::control::translate::Finding;
use mesh_node::control::translate::authorization_policy::authorization_policy;
use mesh_node::control::translate::peer_authentication::peer_authentication;
use mesh_node::control::translate::request_authentication::request_authentication;
use mesh_test_cluster::api_server::ApiServer;
use mesh_test_harness::eventually::eventually;
use serde_json::Value;

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
---
apiVersion: policy.nodemesh.dev/v1alpha1
kind: RequestAuthentication
metadata: {name: before, namespace: default}
spec: {jwtRules: [{issuer: a, jwksUri: 'https://a.example/keys', outputPayloadToHeader: Host}]}
";

/// Objects that no policy saw.
pub fn make_what_was_there_before(server: &ApiServer) -> Result<()> {
    let file = super::tempfile(BEFORE)?;
    server.kubectl(&["apply", "-f", &file.path().display().to_string()]).map(drop)
}

/// All of them, not just one.
pub fn wait_until_in_force(server: &ApiServer) -> Result<()> {
    let wrong: String =
        BEFORE.split("---").map(|object| format!("{}---\n", object.replace("before", "after"))).collect();
    let file = super::tempfile(&wrong)?;
    eventually("the admission policies are in force", IN_FORCE, || {
        let dry_run = ["apply", "--dry-run=server", "-f", &file.path().display().to_string()];
        let refusal = server.kubectl(&dry_run).err()?.to_string();
        (refusal.matches("denied request").count() == BEFORE.split("---").count()).then_some(())
    })
}

/// Where the code finds a fault in an object that the API server does not refuse.
fn findings(kind: &str, spec: &str) -> Vec<Finding> {
    translated(yaml(&object(kind, "wrong", spec))).expect("the schema has its fields")
}

/// What the code finds wrong with an object.
///
/// # Errors
/// If it is none of its kind at all.
pub fn translated(object: Value) -> Result<Vec<Finding>> {
    let settings = MeshSettings::default();
    Ok(match object["kind"].as_str() {
        Some("AuthorizationPolicy") => {
            let object: AuthorizationPolicy = serde_json::from_value(object)?;
            authorization_policy(&object, &settings)?.findings
        }
        Some("PeerAuthentication") => {
            let object: PeerAuthentication = serde_json::from_value(object)?;
            peer_authentication(&object, &settings)?.findings
        }
        _ => {
            let object: RequestAuthentication = serde_json::from_value(object)?;
            request_authentication(&object, &settings)?.findings
        }
    })
}

pub fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("it is YAML")
}

/// Refused with the field and `said`, and reported by the code with `path` where nobody refuses it.
#[track_caller]
pub fn refused_and_reported(kind: &str, spec: &str, said: &str, path: &str) {
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
fn custom_needs_a_server_to_ask_and_is_never_only_tried() -> Result<()> {
    for (spec, said, path) in [
        ("{action: CUSTOM}", "spec.provider: is missing", "spec.provider.name"),
        ("{action: DENY, provider: {name: opa}}", "spec.provider: is for action: CUSTOM", "spec.provider"),
        ("{provider: {name: opa}}", "spec.provider: is for action: CUSTOM", "spec.provider"),
        ("{action: CUSTOM, provider: {name: opa}, mode: Audit}", "spec.mode: CUSTOM cannot be", "spec.mode"),
    ] {
        refused_and_reported("AuthorizationPolicy", spec, said, path);
    }
    let custom = "{action: CUSTOM, mode: Enforce, provider: {name: opa}, rules: [{}]}";
    apply(&object("AuthorizationPolicy", "custom", custom)).map_err(anyhow::Error::msg)?;
    let tried = SERVER.kubectl(&["annotate", "nmap", "custom", "istio.io/dry-run=true"]);
    let said = tried.expect_err("its server would have to be asked").to_string();
    ensure!(said.contains("metadata.annotations[istio.io/dry-run]: CUSTOM cannot be tried"), "{said}");
    SERVER.kubectl(&["annotate", "nmap", "custom", "istio.io/dry-run=false"]).map(drop)
}

#[test]
fn what_was_there_before_can_be_changed_in_everything_else() -> Result<()> {
    for what in ["nmap/before", "nmpa/before", "nmra/before", "namespace/before"] {
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
