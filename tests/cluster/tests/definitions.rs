//! What a real API server makes of our definitions and of objects of their kinds.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{Context, Result};
use mesh_test_cluster::api_server::ApiServer;

/// One API server for all tests of this file: objects have names of their own.
static SERVER: LazyLock<ApiServer> = LazyLock::new(|| {
    let server = ApiServer::start().expect("an API server starts");
    server.kubectl(&["apply", "-f", &manifests("base/crds")]).expect("the definitions are taken");
    let wait = ["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"];
    server.kubectl(&wait).expect("the definitions are established");
    server
});

fn manifests(name: &str) -> String {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../../manifests", name].iter().collect();
    folder.display().to_string()
}

/// Applies one object; returns what the API server says against it.
fn apply(text: &str) -> Result<(), String> {
    let file = tempfile(text).map_err(|error| format!("{error:#}"))?;
    let words = ["apply", "--validate=strict", "-f", &file.path().display().to_string()];
    SERVER.kubectl(&words).map(drop).map_err(|error| format!("{error:#}"))
}

fn tempfile(text: &str) -> Result<tempfile::NamedTempFile> {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().context("make a file")?;
    file.write_all(text.as_bytes()).context("write a file")?;
    Ok(file)
}

fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: {kind}\nmetadata:\n  name: {name}\n  \
         namespace: default\nspec: {spec}\n"
    )
}

#[test]
fn the_definitions_are_structural_and_served() -> Result<()> {
    let conditions = SERVER.kubectl(&[
        "get",
        "crd",
        "-o",
        "jsonpath={range .items[*]}{.metadata.name} {.status.conditions[*].type}{\"\\n\"}{end}",
    ])?;
    for name in ["authorizationpolicies.policy.nodemesh.dev", "peerauthentications.policy.nodemesh.dev"] {
        let line = conditions.lines().find(|line| line.starts_with(name)).context("it is there")?;
        assert!(line.contains("Established") && !line.contains("NonStructuralSchema"), "{line}");
    }
    for short in ["nmap", "nmpa", "nodemesh"] {
        SERVER.kubectl(&["get", short, "--all-namespaces"])?;
    }
    let explained = SERVER.kubectl(&["explain", "nmap.spec.rules.to.operation.paths"])?;
    assert!(explained.contains("paths"), "{explained}");
    Ok(())
}

#[test]
fn every_sample_is_taken() -> Result<()> {
    let samples = manifests("samples");
    for sample in std::fs::read_dir(Path::new(&samples)).context("find the samples")? {
        let path = sample?.path();
        let text = std::fs::read_to_string(&path)?;
        let namespaces = text.lines().filter_map(|line| line.trim().strip_prefix("namespace: "));
        for namespace in namespaces {
            // Fails if it is there.
            let _ = SERVER.kubectl(&["create", "namespace", namespace]);
        }
        SERVER
            .kubectl(&["apply", "--validate=strict", "-f", &path.display().to_string()])
            .with_context(|| format!("apply {}", path.display()))?;
    }
    Ok(())
}

#[test]
fn what_is_wrong_is_refused_with_its_field() {
    for (kind, spec, field) in [
        ("AuthorizationPolicy", "{action: PERMIT}", "spec.action"),
        ("AuthorizationPolicy", "{rulez: []}", "spec.rulez"),
        ("AuthorizationPolicy", "{rules: [{to: [{operation: {method: [GET]}}]}]}", "method"),
        ("AuthorizationPolicy", "{rules: {}}", "spec.rules"),
        ("AuthorizationPolicy", "{mode: audit}", "spec.mode"),
        ("PeerAuthentication", "{mtls: {mode: strict}}", "spec.mtls.mode"),
        ("PeerAuthentication", "{selector: [a]}", "spec.selector"),
    ] {
        let refusal = apply(&object(kind, "wrong", spec)).expect_err(spec);
        assert!(refusal.contains(field), "{spec}: {refusal}");
    }
    apply(&object("AuthorizationPolicy", "right", "{action: DENY, rules: [{}]}")).unwrap();
}
