//! Whom a policy is about: `selector`, `targetRefs`, and the namespace that it stands in.

use std::collections::BTreeMap;

use mesh_common::model::policy::Scope;
use mesh_common::model::{MeshSettings, NamespacedName};

use super::{Field, FieldError, SPEC};
use crate::control::resources::{PolicyTargetReference, WorkloadSelector};

/// The scope of a policy without `targetRefs`.
pub(super) fn of_selector(
    name: &NamespacedName,
    selector: Option<&WorkloadSelector>,
    settings: &MeshSettings,
) -> Result<Scope, FieldError> {
    let labels = selector.and_then(|selector| selector.match_labels.as_ref());
    let Some(labels) = labels.filter(|labels| !labels.is_empty()) else {
        return Ok(whole(name, settings));
    };
    let selector = SPEC.name("selector");
    let path = selector.name("matchLabels");
    let mut parsed = BTreeMap::new();
    for (key, value) in labels {
        if key.is_empty() || key.contains('*') || value.contains('*') {
            return Err(FieldError::new(&path.key(key), "labels are compared whole: no wildcards"));
        }
        parsed.insert(key.as_str().into(), value.as_str().into());
    }
    let namespace = (name.namespace != settings.root_namespace).then(|| name.namespace.clone());
    Ok(Scope::Selector { namespace, labels: parsed })
}

/// The scope of a policy that may have `targetRefs`.
pub(super) fn of_targets(
    name: &NamespacedName,
    selector: Option<&WorkloadSelector>,
    targets: &[PolicyTargetReference],
    settings: &MeshSettings,
) -> Result<Scope, FieldError> {
    if targets.is_empty() {
        return of_selector(name, selector, settings);
    }
    let path = SPEC.name("targetRefs");
    if selector.is_some() {
        return Err(FieldError::new(&path, "cannot be given together with selector"));
    }
    let services =
        targets.iter().enumerate().map(|(index, target)| service(name, &path.index(index), target));
    Ok(Scope::Services(services.collect::<Result<_, _>>()?))
}

/// The widest that a policy can be about: its namespace, or the mesh.
pub(super) fn whole(name: &NamespacedName, settings: &MeshSettings) -> Scope {
    if name.namespace == settings.root_namespace {
        Scope::Mesh
    } else {
        Scope::Namespace(name.namespace.clone())
    }
}

fn service(
    policy: &NamespacedName,
    field: &Field<'_>,
    target: &PolicyTargetReference,
) -> Result<NamespacedName, FieldError> {
    if !matches!(target.group.as_deref(), None | Some("" | "core")) || target.kind != "Service" {
        let reason = format!("{:?} is not supported: only Service of the core group is", target.kind);
        return Err(FieldError::new(&field.name("kind"), reason));
    }
    if target.namespace.as_deref().is_some_and(|namespace| *namespace != *policy.namespace) {
        return Err(FieldError::new(
            &field.name("namespace"),
            "a policy cannot reach into another namespace",
        ));
    }
    if target.name.is_empty() {
        return Err(FieldError::new(&field.name("name"), "is missing"));
    }
    Ok(NamespacedName::new(policy.namespace.clone(), target.name.as_str()))
}
