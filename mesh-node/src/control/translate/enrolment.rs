//! Whether labels enrol: `nodemesh.dev/mode`, and the alias `istio.io/dataplane-mode`.

use std::collections::BTreeMap;

use mesh_common::model::Enrolment;

use super::{Effect, Field, Finding};

/// `enabled` or `disabled`, on a namespace or a pod.
pub(super) const MODE: &str = "nodemesh.dev/mode";
/// Istio's label. `nodemesh` enrols, `none` does not; other values are about other meshes.
const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";

/// What the labels of one object say; `None` if nothing.
pub(super) fn from_labels(
    field: &Field<'_>,
    labels: Option<&BTreeMap<String, String>>,
    findings: &mut Vec<Finding>,
) -> Option<Enrolment> {
    let labels = labels?;
    match labels.get(MODE).map(String::as_str) {
        Some("enabled") => return Some(Enrolment::Enabled),
        Some("disabled") => return Some(Enrolment::Disabled),
        Some(other) => findings.push(Finding::new(
            Effect::FieldIgnored,
            &field.key(MODE),
            format!("{other:?} is neither enabled nor disabled: write one of them, or remove the label"),
        )),
        None => {}
    }
    match labels.get(DATAPLANE_MODE).map(String::as_str) {
        Some("nodemesh") => Some(Enrolment::Enabled),
        Some("none") => Some(Enrolment::Disabled),
        Some("ambient") => {
            findings.push(Finding::new(
                Effect::Warning,
                &field.key(DATAPLANE_MODE),
                format!(
                    "\"ambient\" is left to Istio, and enrols nothing here: Nodemesh reads \"nodemesh\", or {MODE}: enabled"
                ),
            ));
            None
        }
        _ => None,
    }
}
