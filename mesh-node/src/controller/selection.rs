//! PURE. How many enrolled pods each policy is about.

use std::collections::{BTreeSet, HashMap};

use mesh_common::model::policy::Scope;
use mesh_common::model::{Enrolment, NamespacedName, Text, Workload};
use mesh_common::snapshot::{ServiceRecord, Snapshot};

use crate::control::object::{Kind, ObjectKey};

/// The enrolled pods, so that one pass over them serves every policy.
pub(super) struct Selection<'a> {
    snapshot: &'a Snapshot,
    scopes: HashMap<ObjectKey, &'a Scope>,
    all: usize,
    by_namespace: HashMap<&'a Text, usize>,
    /// Pods by one label that a selector asks for.
    by_label: HashMap<(&'a Text, &'a Text), Vec<&'a Workload>>,
}

impl<'a> Selection<'a> {
    pub(super) fn of(snapshot: &'a Snapshot) -> Self {
        let scopes = scopes(snapshot);
        let first = |scope: &&'a Scope| match scope {
            Scope::Selector { labels, .. } => labels.first_key_value(),
            Scope::Mesh | Scope::Namespace(_) | Scope::Services(_) => None,
        };
        let mut by_label: HashMap<_, _> =
            scopes.values().filter_map(first).map(|label| (label, Vec::new())).collect();
        let (mut all, mut by_namespace) = (0, HashMap::new());
        for pod in snapshot.workloads().filter(|pod| pod.enrolment == Enrolment::Enabled) {
            all += 1;
            *by_namespace.entry(&pod.name.namespace).or_default() += 1;
            for label in &pod.details.labels {
                if let Some(pods) = by_label.get_mut(&label) {
                    pods.push(&**pod);
                }
            }
        }
        Self { snapshot, scopes, all, by_namespace, by_label }
    }

    /// How many pods a policy is about.
    pub(super) fn count(&self, policy: &ObjectKey) -> usize {
        match self.scopes.get(policy) {
            None => 0,
            Some(Scope::Mesh) => self.all,
            Some(Scope::Namespace(namespace)) => {
                self.by_namespace.get(namespace).copied().unwrap_or_default()
            }
            Some(scope @ Scope::Selector { labels, .. }) => {
                let pods = labels.first_key_value().and_then(|label| self.by_label.get(&label));
                pods.into_iter().flatten().filter(|pod| scope.selects(pod)).count()
            }
            Some(Scope::Services(services)) => {
                let records = services.iter().filter_map(|name| self.snapshot.service(name));
                records.flat_map(|record| self.pods_of(record)).collect::<BTreeSet<_>>().len()
            }
        }
    }

    /// The enrolled pods of a Service, by their addresses.
    fn pods_of(&self, record: &'a ServiceRecord) -> impl Iterator<Item = &'a NamespacedName> {
        let ports = 0..record.service.ports.len();
        let endpoints = ports.flat_map(|port| record.endpoints_of(port));
        let pods = endpoints.filter_map(|endpoint| self.snapshot.workload_at(endpoint.address));
        pods.filter(|pod| pod.enrolment == Enrolment::Enabled).map(|pod| &pod.name)
    }
}

/// Whom each policy is about, of those that are in force.
pub(super) fn scopes(snapshot: &Snapshot) -> HashMap<ObjectKey, &Scope> {
    let authorization = snapshot.authorization_policies();
    let authorization = authorization.map(|policy| (Kind::AuthorizationPolicy, &policy.name, &policy.scope));
    let peer = snapshot.all_peer_authentications();
    let peer = peer.map(|policy| (Kind::PeerAuthentication, &policy.name, &policy.scope));
    let request = snapshot.all_request_authentications();
    let request = request.map(|policy| (Kind::RequestAuthentication, &policy.name, &policy.scope));
    let all = authorization.chain(peer).chain(request);
    all.map(|(kind, name, scope)| (ObjectKey { kind, name: name.clone() }, scope)).collect()
}
