//! `v1` Namespace: whether its pods are enrolled.

use k8s_openapi::api::core::v1::Namespace;
use mesh_common::model::{Enrolment, Text};

use super::{Effect, FieldError, METADATA, Translated, enrolment, object_name, own_keys};

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
    own_keys::unread(&object.metadata, &[enrolment::MODE], &[], &mut findings);
    Ok(Translated { value: NamespaceEnrolment { name, enrolment }, findings })
}
