//! The CustomResourceDefinitions of our kinds, made from their Rust types. They are checked in under
//! `manifests/base/crds`; a test says when they are not those of the code any more.

use kube::CustomResourceExt as _;

use super::resources::{AuthorizationPolicy, PeerAuthentication};

/// One file of `manifests/base/crds`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneratedFile {
    /// Its name.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// Why a definition could not be written as YAML.
#[derive(Debug, thiserror::Error)]
#[error("write the definition of {kind} as YAML")]
pub struct GenerateError {
    kind: String,
    #[source]
    source: serde_saphyr::ser::Error,
}

/// The CustomResourceDefinition of every kind of ours.
///
/// # Errors
/// If one cannot be written as YAML.
pub fn custom_resource_definitions() -> Result<Vec<GeneratedFile>, GenerateError> {
    let definitions = [AuthorizationPolicy::crd(), PeerAuthentication::crd()];
    let file = |definition: &k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition| {
        let names = &definition.spec.names;
        let body = serde_saphyr::to_string(definition)
            .map_err(|source| GenerateError { kind: names.kind.clone(), source })?;
        let text = format!("# Made from the Rust types; see mesh-node/src/control/generate.rs.\n{body}");
        Ok(GeneratedFile { name: format!("{}.yaml", names.plural), text })
    };
    definitions.iter().map(file).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// To write them anew, run this with `NODEMESH_BLESS=1`.
    #[test]
    fn the_definitions_that_are_checked_in_are_those_of_the_code() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/base/crds");
        for file in custom_resource_definitions().unwrap() {
            let path = folder.join(&file.name);
            if std::env::var_os("NODEMESH_BLESS").is_some() {
                std::fs::write(&path, &file.text).unwrap();
            }
            assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), file.text, "{}", path.display());
        }
    }
}
