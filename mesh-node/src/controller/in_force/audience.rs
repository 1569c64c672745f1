//! PURE. Which nodes' agents need each policy: those with a pod that it may be about, as `discovery` sends it.

use std::borrow::Cow;
use std::collections::HashMap;

use mesh_common::model::policy::Scope;
use mesh_common::model::{SpiffeId, Text, Workload};
use mesh_common::snapshot::Snapshot;

use super::entry::{Tag, tag};
use crate::control::object::ObjectKey;
use crate::controller::selection::scopes;

/// A node's place among [`Audience::nodes`].
pub(in crate::controller) type Place = usize;

/// The nodes that have an agent, so that one pass over the pods serves every policy.
pub(in crate::controller) struct Audience<'a> {
    scopes: HashMap<ObjectKey, &'a Scope>,
    /// By name.
    pub(super) nodes: Vec<(&'a Text, Tag)>,
    all: Vec<Place>,
    by_namespace: HashMap<&'a Text, Vec<Place>>,
    /// Pods by one label that a selector asks for, with their nodes.
    by_label: HashMap<(&'a Text, &'a Text), Vec<(&'a Workload, Place)>>,
}

impl<'a> Audience<'a> {
    /// Of agents that run as `agent`.
    pub(in crate::controller) fn of(snapshot: &'a Snapshot, agent: &SpiffeId) -> Self {
        let agents = snapshot.workloads().filter(|pod| pod.identity == *agent);
        let mut names: Vec<&Text> = agents.map(|pod| &pod.node).filter(|node| !node.is_empty()).collect();
        names.sort_unstable();
        names.dedup();
        let places: HashMap<&Text, Place> =
            names.iter().enumerate().map(|(place, node)| (*node, place)).collect();
        let scopes = scopes(snapshot);
        let first = |scope: &&'a Scope| match scope {
            Scope::Selector { labels, .. } => labels.first_key_value(),
            Scope::Mesh | Scope::Namespace(_) | Scope::Services(_) => None,
        };
        let mut by_label: HashMap<_, Vec<_>> =
            scopes.values().filter_map(first).map(|label| (label, Vec::new())).collect();
        let mut by_namespace: HashMap<&Text, Vec<Place>> = HashMap::new();
        for pod in snapshot.workloads() {
            let Some(place) = places.get(&pod.node).copied() else { continue };
            let nodes = by_namespace.entry(&pod.name.namespace).or_default();
            if nodes.last() != Some(&place) {
                nodes.push(place);
            }
            for label in &pod.details.labels {
                if let Some(pods) = by_label.get_mut(&label) {
                    pods.push((&**pod, place));
                }
            }
        }
        by_namespace.values_mut().for_each(tidy);
        let nodes: Vec<(&Text, Tag)> = names.into_iter().map(|node| (node, tag(node))).collect();
        Self { scopes, all: (0..nodes.len()).collect(), nodes, by_namespace, by_label }
    }

    /// The nodes whose agents need a policy, in order; `None` if nothing of it is in force anywhere.
    pub(super) fn of_policy(&self, policy: &ObjectKey) -> Option<Cow<'_, [Place]>> {
        let of_namespace = |namespace: &Text| self.by_namespace.get(namespace).map_or(&[][..], |nodes| nodes);
        Some(match *self.scopes.get(policy)? {
            Scope::Mesh => Cow::Borrowed(&*self.all),
            Scope::Namespace(namespace) => Cow::Borrowed(of_namespace(namespace)),
            Scope::Services(names) => {
                let nodes = names.iter().flat_map(|name| of_namespace(&name.namespace)).copied();
                Cow::Owned(tidied(nodes.collect()))
            }
            Scope::Selector { namespace, labels } => {
                let label = labels.first_key_value();
                let pods = label.and_then(|label| self.by_label.get(&label)).map_or(&[][..], |pods| pods);
                let is_meant = |pod: &Workload| {
                    namespace.as_ref().is_none_or(|namespace| *namespace == pod.name.namespace)
                        && pod.has_labels(labels)
                };
                let nodes = pods.iter().filter(|(pod, _)| is_meant(pod)).map(|(_, place)| *place);
                Cow::Owned(tidied(nodes.collect()))
            }
        })
    }
}

fn tidied(mut nodes: Vec<Place>) -> Vec<Place> {
    tidy(&mut nodes);
    nodes
}

fn tidy(nodes: &mut Vec<Place>) {
    nodes.sort_unstable();
    nodes.dedup();
}
