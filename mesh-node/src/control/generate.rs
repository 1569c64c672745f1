//! The CustomResourceDefinitions of our kinds, made from their Rust types.

use kube::CustomResourceExt as _;
use serde_json::Value;

use super::resources::{AuthorizationPolicy, PeerAuthentication};

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
    for definition in [AuthorizationPolicy::crd(), PeerAuthentication::crd()] {
        let mut definition = serde_json::to_value(definition).map_err(GenerateError::Json)?;
        null_is_left_out(&mut definition);
        text += "---\n";
        text += &serde_saphyr::to_string(&definition).map_err(GenerateError::Yaml)?;
    }
    Ok(text)
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
