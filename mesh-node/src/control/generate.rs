//! The CustomResourceDefinitions of our kinds, made from their Rust types.

use kube::CustomResourceExt as _;
use serde_json::Value;

use super::resources::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication};

/// Why the definitions could not be written.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// One has no form in JSON.
    #[error("write a definition as JSON")]
    Json(#[source] serde_json::Error),
    /// One has no form in YAML.
    #[error("write a definition as YAML")]
    Yaml(#[source] serde_saphyr::ser::Error),
}

/// The CustomResourceDefinition of every kind of ours, as documents of one YAML stream.
///
/// # Errors
/// If one cannot be written.
pub fn custom_resource_definitions() -> Result<String, GenerateError> {
    let mut text = "# Written by `cargo xtask docs` from the code: change it there.\n".to_owned();
    for definition in definitions()? {
        text += "---\n";
        text += &serde_saphyr::to_string(&definition).map_err(GenerateError::Yaml)?;
    }
    Ok(text)
}

/// The same, as JSON.
///
/// # Errors
/// If one cannot be written.
pub fn definitions() -> Result<Vec<Value>, GenerateError> {
    let definitions = [AuthorizationPolicy::crd(), PeerAuthentication::crd(), RequestAuthentication::crd()];
    let definitions = definitions.map(|definition| {
        let mut definition = serde_json::to_value(definition).map_err(GenerateError::Json)?;
        null_is_left_out(&mut definition);
        Ok(definition)
    });
    definitions.into_iter().collect()
}

/// Has the API server drop a `null` where nothing need be given, as the code does: else a rule would find a field
/// there, and a default would not be taken.
fn null_is_left_out(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.remove("nullable");
            fields.values_mut().for_each(null_is_left_out);
        }
        Value::Array(entries) => entries.iter_mut().for_each(null_is_left_out),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::LazyLock;

    use mesh_common::model::MeshSettings;
    use proptest::prelude::*;
    use regex::Regex;
    use serde_json::json;

    use super::*;
    use crate::control::translate::Effect;
    use crate::control::translate::authorization_policy::authorization_policy;

    const SOURCE: &[&str] = &["principals", "namespaces", "serviceAccounts", "ipBlocks"];
    const OPERATION: &[&str] = &["hosts", "ports", "methods", "paths"];
    const KEYS: &[&str] =
        &["source.ip", "source.principal", "destination.port", "connection.sni", "request.headers[a]"];

    fn rules() -> Value {
        let definition = serde_json::to_value(AuthorizationPolicy::crd()).unwrap();
        let path =
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/rules/items/properties";
        definition.pointer(path).unwrap().clone()
    }

    /// What the schema says of the values of each field.
    static PATTERNS: LazyLock<BTreeMap<&str, Regex>> = LazyLock::new(|| {
        let rules = rules();
        let pattern = |path: String| Regex::new(rules.pointer(&path).unwrap().as_str().unwrap()).unwrap();
        let of = |part: &str, inner: &str, name: &str| {
            pattern(format!("/{part}/items/properties/{inner}/properties/{name}/items/pattern"))
        };
        let sources = SOURCE.iter().map(|name| (*name, of("from", "source", name)));
        let operations = OPERATION.iter().map(|name| (*name, of("to", "operation", name)));
        let values = pattern("/when/items/properties/values/items/pattern".to_owned());
        let keys = KEYS.iter().map(|key| (*key, values.clone()));
        sources.chain(operations).chain(keys).collect()
    });

    fn rule(name: &str, value: &str) -> Value {
        match name {
            _ if SOURCE.contains(&name) => json!({"from": [{"source": {name: [value]}}]}),
            _ if OPERATION.contains(&name) => json!({"to": [{"operation": {name: [value]}}]}),
            key => json!({"when": [{"key": key, "values": [value]}]}),
        }
    }

    /// Whether the code takes a value as it is written.
    fn is_taken(name: &str, value: &str) -> bool {
        let object = json!({
            "apiVersion": "policy.nodemesh.dev/v1alpha1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "a", "namespace": "b"},
            "spec": {"rules": [rule(name, value)]},
        });
        let object = serde_json::from_value(object).unwrap();
        let translated = authorization_policy(&object, &MeshSettings::default()).unwrap();
        !translated.findings.iter().any(|finding| finding.effect == Effect::Denies)
    }

    fn value() -> impl Strategy<Value = String> {
        let pieces = prop::sample::select(vec![
            "*",
            "a",
            "Z",
            "7",
            "80",
            ".",
            ":",
            "/",
            "-",
            "_",
            "[",
            "]",
            "%2F",
            " ",
            "?",
            "#",
            "@",
            "é",
            "td",
            "/ns/a/sa/b",
            "GET",
            "/api",
            "10.0.0.1",
            "::",
            "/8",
            "\n",
            "|",
            "'",
            "{x}",
            "\\",
            "~",
        ]);
        prop::collection::vec(pieces, 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn the_schema_refuses_nothing_that_the_code_takes(value in value()) {
            for (name, pattern) in &*PATTERNS {
                if is_taken(name, &value) {
                    prop_assert!(pattern.is_match(&value), "{name}: {value:?}");
                }
            }
        }
    }

    #[test]
    fn the_schema_refuses_what_the_code_refuses() {
        for (name, right, wrong) in [
            ("principals", "td/ns/a/sa/b", "spiffe://td/ns/a/sa/b"),
            ("ports", "65535", "65536"),
            ("paths", "/a*", "/a*b"),
            ("source.ip", "10.0.0.0/8", ""),
        ] {
            let pattern = &PATTERNS[name];
            assert!(pattern.is_match(right) && is_taken(name, right), "{name}: {right}");
            assert!(!pattern.is_match(wrong) && !is_taken(name, wrong), "{name}: {wrong}");
        }
    }
}
