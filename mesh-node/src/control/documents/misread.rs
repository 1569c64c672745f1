//! PURE. What a policy that is not understood may have been meant to be, so that it is not skipped.
//!
//! In: the object as YAML says it. Out: the kind that it seems to be, and every namespace that it might be about. A
//! guess only ever makes more be denied.

use std::collections::BTreeSet;

use serde_json::Value;

use super::read::scalar;
use crate::control::object::Kind;
use crate::control::resources;
use crate::control::translate::{DEFAULT_NAMESPACE, resembles};

/// Most namespaces that one policy may seem to be about; with more it is about all.
const MAX_NAMESPACES: usize = 16;

/// The fields of any object.
const OBJECT_FIELDS: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];

/// The fields of `metadata`.
const METADATA_FIELDS: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Where a policy stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Namespaces {
    /// In this one.
    One(String),
    /// In one of these; it cannot be said in which.
    Some(BTreeSet<String>),
    /// In any.
    Any,
}

impl Namespaces {
    /// What a person should know of a policy that it cannot be said where it stands.
    pub(super) fn doubt(&self) -> Option<String> {
        match self {
            Self::One(_) => None,
            Self::Some(names) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                Some(format!("is in doubt, so the policy counts in each of {}", names.join(", ")))
            }
            Self::Any => Some("is in doubt, so the policy counts in every namespace".to_owned()),
        }
    }
}

/// The policy kind that an object seems to be; `None` if it does not seem to be a policy.
pub(super) fn policy_kind(kind: &str, api_version: &str) -> Option<Kind> {
    let group = api_version.split('/').next().unwrap_or_default();
    let policies = || Kind::ALL.into_iter().filter(|kind| kind.is_policy());
    policies().find(|policy| resembles(kind, policy.name())).or_else(|| {
        let is_ours =
            (resembles(group, resources::GROUP) || group.contains("nodemesh")) && !is_another_kind(kind);
        is_ours.then_some(Kind::AuthorizationPolicy)
    })
}

/// The text of a field of an object, or of one that may have been meant to be it.
pub(super) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    let given = object[field].as_str();
    let meant = || unknown(object, &OBJECT_FIELDS).find(|(name, _)| resembles(name, field))?.1.as_str();
    given.or_else(meant).unwrap_or_default()
}

/// A kind that is read, and no policy: in the wrong group it is a mistake, and asks for nobody's denial.
fn is_another_kind(kind: &str) -> bool {
    Kind::ALL.into_iter().any(|known| !known.is_policy() && known.name() == kind)
}

/// Where a policy stands that was read as a value.
pub(super) fn namespaces(object: &Value) -> Namespaces {
    let metadata = &object["metadata"];
    let given = &metadata["namespace"];
    if let Some(namespace) = scalar(given).filter(|namespace| is_label(namespace)) {
        return Namespaces::One(namespace);
    }
    let mut found = Found { is_unsure: !metadata.is_object() || !is_nothing(given), names: BTreeSet::new() };
    let lower = given.as_str().map(str::to_ascii_lowercase);
    found.names.extend(lower.filter(|namespace| is_label(namespace)));
    found.look(unknown(object, &OBJECT_FIELDS), true);
    found.look(unknown(metadata, &METADATA_FIELDS), true);
    found.look(unknown(&object["spec"], &[]), false);
    found.namespaces()
}

/// Where a policy stands of which only these namespaces were found.
pub(super) fn one_of(mut names: BTreeSet<String>) -> Namespaces {
    match names.len() {
        1 => names.pop_first().map_or(Namespaces::Any, Namespaces::One),
        2..=MAX_NAMESPACES => Namespaces::Some(names),
        _ => Namespaces::Any,
    }
}

/// What was found behind fields that no policy has.
struct Found {
    /// Whether a namespace may be meant that could not be read.
    is_unsure: bool,
    names: BTreeSet<String>,
}

impl Found {
    /// `any_text`: whether the text of any of the fields may be the namespace, whatever the field is called.
    fn look<'a>(&mut self, fields: impl Iterator<Item = (&'a String, &'a Value)>, any_text: bool) {
        for (name, value) in fields {
            let is_meant = resembles(name, "namespace") && !name.ends_with(['s', 'S']);
            match value.as_str().filter(|text| is_label(text)) {
                Some(text) if is_meant || any_text => drop(self.names.insert(text.to_owned())),
                _ => self.is_unsure |= is_meant,
            }
            match value {
                Value::Object(inner) => self.look(inner.iter(), false),
                Value::Array(list) => {
                    list.iter().for_each(|entry| self.look(unknown(entry, &[]), false));
                }
                _ => {}
            }
        }
    }

    fn namespaces(mut self) -> Namespaces {
        if self.names.is_empty() && self.is_unsure {
            return Namespaces::Any;
        }
        self.names.insert(DEFAULT_NAMESPACE.to_owned());
        one_of(self.names)
    }
}

/// The fields of an object that are none of these.
fn unknown<'a>(object: &'a Value, known: &'a [&str]) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let fields = object.as_object().into_iter().flatten();
    fields.filter(move |(name, _)| !known.contains(&name.as_str()))
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value == ""
}

/// Whether a text can be the name of a namespace (RFC 1123 label).
pub(super) fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.len() <= 63 && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_namespaces(object: &str, expected: &str) {
        let found = match namespaces(&serde_saphyr::from_str(object).unwrap()) {
            Namespaces::One(name) => name,
            Namespaces::Some(names) => names.into_iter().collect::<Vec<_>>().join(" "),
            Namespaces::Any => "*".to_owned(),
        };
        assert_eq!(found, expected, "{object}");
    }

    #[test]
    fn a_policy_stands_wherever_its_text_might_mean() {
        check_namespaces("metadata: {namespace: shop, namespce: other}", "shop");
        check_namespaces("metadata: {name: a}", "default");
        check_namespaces("metadata: {name: a, labels: {namespace: shop}}", "default");
        check_namespaces("metadata: {name: a, lables: {app: web}}", "default");
        check_namespaces("metadata: {name: a, namespce: shop}", "default shop");
        check_namespaces("metadata: {name: a, Namespace: shop}", "default shop");
        check_namespaces("metadata: {name: a, ns: shop}", "default shop");
        check_namespaces("metadata: {name: a, lables: {namespace: shop}}", "default shop");
        check_namespaces("{metadata: {name: a}, namespace: shop}", "default shop");
        check_namespaces("{metadata: {name: a}, spec: {namespace: shop}}", "default shop");
        check_namespaces("{metdata: {name: a, namespace: shop}}", "default shop");
        check_namespaces("{metdata: {name: a}}", "*");
        check_namespaces("{spec: {}}", "*");
        check_namespaces("metadata: {name: a, namespce: [shop]}", "*");
        check_namespaces("metadata: {name: a, namespace: [shop]}", "*");
        check_namespaces("metadata: {name: a, namespace: true}", "*");
        check_namespaces("metadata: {name: a, namespace: Shop}", "default shop");
        check_namespaces("metadata: {name: a, namespace: my shop}", "*");
        check_namespaces("metadata: {name: a, namespce: Not a Name}", "*");
    }

    #[track_caller]
    fn check_kind(kind: &str, group: &str, expected: Option<Kind>) {
        assert_eq!(policy_kind(kind, group), expected, "{kind} of {group}");
    }

    #[test]
    fn a_field_is_read_under_a_name_that_looks_like_it() {
        let of = |object: &str| text(&serde_saphyr::from_str(object).unwrap(), "kind").to_owned();
        assert_eq!(of("{kind: A, Kind: B}"), "A");
        assert_eq!(
            (of("{Kind: B}"), of("{kimd: B}"), of("{spec: B}")),
            ("B".into(), "B".into(), String::new())
        );
        assert_eq!((of("[kind]"), of("kind")), (String::new(), String::new()));
    }

    #[test]
    fn a_kind_is_a_policy_by_its_name_or_by_its_group() {
        let (authorization, peer) = (Some(Kind::AuthorizationPolicy), Some(Kind::PeerAuthentication));
        check_kind("AuthorizationPolicy", "security.istio.io", authorization);
        check_kind("AuthorizationPolcy", "", authorization);
        check_kind("AuthorisationPolicy", "policy.nodemsh.dev", authorization);
        check_kind("authorizationpolicy", "x", authorization);
        check_kind("PeerAuthentification", "policy.nodemesh.dev", peer);
        check_kind("PeerAuthentication", "security.istio.io", peer);
        check_kind("TrafficPolicy", "policy.nodemesh.dev", authorization);
        check_kind("", "policy.nodemsh.dev", authorization);
        check_kind("TrafficPolicy", "policy.nodemesh.dev/v1", authorization);
        check_kind("NetworkPolicy", "networking.k8s.io", None);
        check_kind("RequestAuthentication", "security.istio.io", Some(Kind::RequestAuthentication));
        check_kind("Pod", "policy.nodemesh.dev", None);
        check_kind("Deployment", "apps", None);
        check_kind("", "", None);
    }
}
