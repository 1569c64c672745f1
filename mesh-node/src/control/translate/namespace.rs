//! `v1` Namespace: whether its pods are enrolled, and whether it is to have the mesh's roots.

use k8s_openapi::api::core::v1::Namespace;
use mesh_common::model::{Enrolment, Text};

use super::{Effect, FieldError, Finding, METADATA, Translated, enrolment, object_name, own_keys};

/// `enabled` or `disabled`: whether a ConfigMap of the namespace has the mesh's roots, whoever is enrolled.
pub const CA_ROOT: &str = "nodemesh.dev/ca-root";

/// A namespace, as the mesh sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceEnrolment {
    /// `metadata.name`.
    pub name: Text,
    /// What its labels say of its pods; `None` if nothing, which leaves them out.
    pub enrolment: Option<Enrolment>,
}

/// Translates a Namespace.
///
/// # Errors
/// If it has no name, or a label for enrolment that cannot be understood: many pods hang on it, so what it said before
/// counts on rather than that they leave the mesh by a slip.
pub fn namespace(object: &Namespace) -> Result<Translated<NamespaceEnrolment>, FieldError> {
    let name = object_name(&object.metadata)?.into();
    let mut findings = Vec::new();
    let labels = METADATA.name("labels");
    let enrolment = enrolment::from_labels(&labels, object.metadata.labels.as_ref(), &mut findings);
    if let Some(index) = findings.iter().position(|finding| finding.effect == Effect::FieldIgnored) {
        return Err(findings.swap_remove(index).error);
    }
    if let Some(other) = ca_root(object).filter(|value| !matches!(*value, "enabled" | "disabled")) {
        findings.push(Finding::new(
            Effect::Warning,
            &labels.key(CA_ROOT),
            format!("{other:?} is neither enabled nor disabled: write one of them, or remove the label"),
        ));
    }
    own_keys::unread(&object.metadata, &[enrolment::MODE, CA_ROOT], &[], &mut findings);
    Ok(Translated { value: NamespaceEnrolment { name, enrolment }, findings })
}

/// Why a namespace gets the mesh's roots in a ConfigMap of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootsFor {
    /// Its pods are enrolled.
    Enrolled,
    /// It asks for them by the label [`CA_ROOT`].
    Asked,
}

/// Says why a namespace gets the mesh's roots; `None` if it does not.
///
/// # Errors
/// As for [`namespace`]: what was before counts on.
pub fn roots_for(object: &Namespace) -> Result<Option<RootsFor>, FieldError> {
    let enrolment = namespace(object)?.value.enrolment;
    Ok(match ca_root(object) {
        Some("enabled") => Some(RootsFor::Asked),
        Some("disabled") => None,
        _ => (enrolment == Some(Enrolment::Enabled)).then_some(RootsFor::Enrolled),
    })
}

fn ca_root(object: &Namespace) -> Option<&str> {
    object.metadata.labels.as_ref()?.get(CA_ROOT).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(labels: serde_json::Value) -> Namespace {
        serde_json::from_value(json!({"metadata": {"name": "shop", "labels": labels}})).unwrap()
    }

    #[test]
    fn roots_are_for_the_enrolled_and_for_who_asks() {
        let (enrolled, asked) = (Some(RootsFor::Enrolled), Some(RootsFor::Asked));
        for (labels, expected) in [
            (json!({}), None),
            (json!({"nodemesh.dev/mode": "enabled"}), enrolled),
            (json!({"istio.io/dataplane-mode": "nodemesh"}), enrolled),
            (json!({"nodemesh.dev/mode": "disabled"}), None),
            (json!({"nodemesh.dev/ca-root": "enabled"}), asked),
            (json!({"nodemesh.dev/ca-root": "enabled", "nodemesh.dev/mode": "disabled"}), asked),
            (json!({"nodemesh.dev/ca-root": "disabled", "nodemesh.dev/mode": "enabled"}), None),
            (json!({"nodemesh.dev/ca-root": "yes", "nodemesh.dev/mode": "enabled"}), enrolled),
        ] {
            assert_eq!(roots_for(&object(labels.clone())).unwrap(), expected, "{labels}");
        }
        assert!(roots_for(&object(json!({"nodemesh.dev/mode": "on"}))).is_err(), "what was before counts on");
    }

    #[test]
    fn a_slip_in_the_label_is_said() {
        let said = namespace(&object(json!({"nodemesh.dev/ca-root": "yes"}))).unwrap().findings;
        assert_eq!(said.len(), 1, "{said:?}");
        assert_eq!(said[0].effect, Effect::Warning);
        assert!(namespace(&object(json!({"nodemesh.dev/ca-root": "enabled"}))).unwrap().findings.is_empty());
    }
}
