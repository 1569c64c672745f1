//! The mesh's configuration stands as YAML in a key of a ConfigMap.

use k8s_openapi::api::core::v1::ConfigMap;
use mesh_common::model::{MeshSettings, NamespacedName};
use serde_json::Value;

use super::yaml;
use crate::control::translate::mesh_config::{self, KEY, MeshConfig, ROOT, is_mesh_config};
use crate::control::translate::{DEFAULT_NAMESPACE, Effect, FieldError, Finding, Translated};

/// Translates a ConfigMap; one that is not the mesh's configuration is nothing.
///
/// # Errors
/// A key that is no YAML.
pub(in crate::control) fn mesh_config(
    object: &ConfigMap,
    settings: &MeshSettings,
) -> Result<Translated<Option<MeshConfig>>, FieldError> {
    let metadata = &object.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    let name = NamespacedName::new(namespace, metadata.name.as_deref().unwrap_or_default());
    if !is_mesh_config(&name, settings) {
        return Ok(Translated { value: None, findings: Vec::new() });
    }
    let keys = object.data.iter().flatten();
    let unread = |name: &str| Finding {
        error: FieldError {
            field: format!("data[{name}]"),
            reason: format!("is not read: the key is {KEY}"),
        },
        effect: Effect::FieldIgnored,
    };
    let mut findings: Vec<Finding> =
        keys.filter(|(name, _)| *name != KEY).take(8).map(|(name, _)| unread(name)).collect();
    let text = object.data.as_ref().and_then(|data| data.get(KEY)).map_or("", String::as_str);
    let value: Value = yaml::read(text).map_err(|error| {
        let line = error.line.map_or(String::new(), |line| format!("line {line}: "));
        FieldError { field: ROOT.to_owned(), reason: format!("{line}{}", error.reason) }
    })?;
    let read = mesh_config::mesh_config(&value, settings);
    findings.extend(read.findings);
    Ok(Translated { value: Some(read.value), findings })
}
