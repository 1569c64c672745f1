//! Labels and annotations of the mesh's own that nobody reads: misspelt, or in the wrong place.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Effect, Finding, METADATA, nearest, resembles};

/// What stands before the slash of the mesh's own keys.
const PREFIX: &str = "nodemesh.dev";

/// Most keys of one object that are named.
const MAX_NAMED: usize = 16;

/// Says of each key that looks like the mesh's own and is read nowhere on this object what it may have been meant to be.
pub(super) fn unread(
    metadata: &ObjectMeta,
    labels: &[&str],
    annotations: &[&str],
    findings: &mut Vec<Finding>,
) {
    let sets = [
        (METADATA.name("labels"), &metadata.labels, labels, ("a label", "an annotation"), annotations),
        (
            METADATA.name("annotations"),
            &metadata.annotations,
            annotations,
            ("an annotation", "a label"),
            labels,
        ),
    ];
    for (field, keys, known, (own, other), elsewhere) in sets {
        for key in unknown(keys.as_ref(), known).take(MAX_NAMED) {
            let reason = if elsewhere.contains(&key) {
                format!("is not read here: it is {other}, not {own}")
            } else if let Some(near) = nearest(key, known.iter().copied()) {
                format!("is not read: did you mean {near}?")
            } else if let Some(near) = nearest(key, elsewhere.iter().copied()) {
                format!("is not read: did you mean {other}, {near}?")
            } else {
                let all: Vec<&str> = labels.iter().chain(annotations).copied().collect();
                format!("is not read: there are {}", all.join(", "))
            };
            findings.push(Finding::new(Effect::Warning, &field.key(key), reason));
        }
    }
}

fn unknown<'a>(
    keys: Option<&'a BTreeMap<String, String>>,
    known: &'a [&str],
) -> impl Iterator<Item = &'a str> {
    let keys = keys.into_iter().flat_map(BTreeMap::keys).map(String::as_str);
    keys.filter(move |key| is_ours(key) && !known.contains(key))
}

fn is_ours(key: &str) -> bool {
    key.split_once('/').is_some_and(|(prefix, _)| resembles(prefix, PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_is_told_of_with_what_it_was_meant_to_be() {
        let keys = |keys: &[&str]| Some(keys.iter().map(|key| ((*key).to_owned(), String::new())).collect());
        let labels =
            ["nodemesh.dev/mod", "nodmesh.dev/mode", "nodemesh.dev/netns", "app", "example.dev/mode"];
        let annotations = ["nodemesh.dev/mode", "nodemesh.dev/netn", "nodemesh.dev/color"];
        let metadata =
            ObjectMeta { labels: keys(&labels), annotations: keys(&annotations), ..ObjectMeta::default() };
        let mut findings = Vec::new();
        unread(&metadata, &["nodemesh.dev/mode"], &["nodemesh.dev/netns"], &mut findings);
        let said: Vec<String> = findings.iter().map(|finding| finding.error.to_string()).collect();
        assert_eq!(
            said,
            [
                "metadata.labels[nodemesh.dev/mod]: is not read: did you mean nodemesh.dev/mode?",
                "metadata.labels[nodemesh.dev/netns]: is not read here: it is an annotation, not a label",
                "metadata.labels[nodmesh.dev/mode]: is not read: did you mean nodemesh.dev/mode?",
                "metadata.annotations[nodemesh.dev/color]: is not read: there are nodemesh.dev/mode, nodemesh.dev/netns",
                "metadata.annotations[nodemesh.dev/mode]: is not read here: it is a label, not an annotation",
                "metadata.annotations[nodemesh.dev/netn]: is not read: did you mean nodemesh.dev/netns?",
            ]
        );
    }
}
