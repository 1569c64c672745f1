//! Which agents a policy is sent to: those with a pod that it may be about.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::model::Text;
use mesh_common::model::policy::Scope;

use super::cache::Pods;

/// Whom a policy may be about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Selection {
    /// Every pod, also the next one of a node that has none.
    All,
    /// Pods of these namespaces.
    Namespaces(BTreeSet<Text>),
    /// Pods with all these labels; without a namespace, of each.
    Labels(Option<Text>, BTreeMap<Text, Text>),
}

/// Whom a policy of this scope may be about. Of Services only the namespace counts: which pods are their endpoints
/// changes by itself, and may be known to an agent before it is known here.
pub(super) fn selection(scope: &Scope) -> Selection {
    match scope {
        Scope::Mesh => Selection::All,
        Scope::Namespace(namespace) => Selection::Namespaces([namespace.clone()].into()),
        Scope::Selector { namespace, labels } => Selection::Labels(namespace.clone(), labels.clone()),
        Scope::Services(names) => {
            Selection::Namespaces(names.iter().map(|name| name.namespace.clone()).collect())
        }
    }
}

impl Selection {
    /// Whether a node with these pods needs the policy.
    pub(super) fn needs(&self, pods: Option<&Pods>) -> bool {
        let Some(pods) = pods else { return *self == Self::All };
        let mut of_namespaces = pods.by_namespace.iter();
        match self {
            Self::All => true,
            Self::Namespaces(namespaces) => {
                namespaces.iter().any(|name| pods.by_namespace.contains_key(name))
            }
            Self::Labels(Some(namespace), labels) => {
                let pods = pods.by_namespace.get(namespace);
                pods.is_some_and(|pods| pods.values().any(|pod| pod.has_labels(labels)))
            }
            Self::Labels(None, labels) => {
                of_namespaces.any(|(_, pods)| pods.values().any(|pod| pod.has_labels(labels)))
            }
        }
    }
}
