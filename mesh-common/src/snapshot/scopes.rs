//! Policies in the tables: whom each is about, collected into sets that share a scope.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::policy_set::PolicySet;
use super::record::WorkloadRecord;
use super::tables::{Applied, Stale, Tables, take_from};
use crate::model::policy::Scope;
use crate::model::{AuthorizationPolicy, NamespacedName, PeerAuthentication, Text, Workload, WorkloadUid};

/// The policies of both kinds.
#[derive(Debug, Default)]
pub(super) struct Policies {
    authorization: HashMap<NamespacedName, Arc<AuthorizationPolicy>>,
    authorization_scopes: Scopes,
    peer: HashMap<NamespacedName, Arc<PeerAuthentication>>,
    peer_scopes: Scopes,
    /// Sets by the names in them, so that the replicas of one Deployment share one.
    shared: HashMap<Vec<NamespacedName>, Option<Arc<PolicySet>>>,
}

/// Names of policies by whom they are about.
#[derive(Debug, Default)]
struct Scopes {
    mesh: BTreeSet<NamespacedName>,
    namespaces: HashMap<Text, BTreeSet<NamespacedName>>,
    services: HashMap<NamespacedName, BTreeSet<NamespacedName>>,
    /// By the first label of the selector.
    labels: HashMap<(Text, Text), BTreeSet<NamespacedName>>,
}

impl Scopes {
    fn insert(&mut self, scope: &Scope, name: &NamespacedName) {
        match scope {
            Scope::Mesh => drop(self.mesh.insert(name.clone())),
            Scope::Namespace(namespace) => {
                self.namespaces.entry(Arc::clone(namespace)).or_default().insert(name.clone());
            }
            Scope::Services(services) => {
                for service in services {
                    self.services.entry(service.clone()).or_default().insert(name.clone());
                }
            }
            Scope::Selector { namespace, labels } => match first(labels) {
                Some(label) => drop(self.labels.entry(label).or_default().insert(name.clone())),
                None => self.insert(&everyone_of(namespace.as_ref()), name),
            },
        }
    }

    fn remove(&mut self, scope: &Scope, name: &NamespacedName) {
        match scope {
            Scope::Mesh => drop(self.mesh.remove(name)),
            Scope::Namespace(namespace) => take_from(&mut self.namespaces, namespace, name),
            Scope::Services(services) => {
                services.iter().for_each(|service| take_from(&mut self.services, service, name));
            }
            Scope::Selector { namespace, labels } => match first(labels) {
                Some(label) => take_from(&mut self.labels, &label, name),
                None => self.remove(&everyone_of(namespace.as_ref()), name),
            },
        }
    }

    /// The policies whose selector may select a pod, by name.
    fn selecting(&self, workload: &Workload) -> BTreeSet<&NamespacedName> {
        let label = |(key, value): (&Text, &Text)| (Arc::clone(key), Arc::clone(value));
        workload.details.labels.iter().filter_map(|pair| self.labels.get(&label(pair))).flatten().collect()
    }
}

fn first(labels: &BTreeMap<Text, Text>) -> Option<(Text, Text)> {
    labels.first_key_value().map(|(key, value)| (Arc::clone(key), Arc::clone(value)))
}

/// A selector without labels selects everyone.
fn everyone_of(namespace: Option<&Text>) -> Scope {
    namespace.map_or(Scope::Mesh, |namespace| Scope::Namespace(Arc::clone(namespace)))
}

impl Tables {
    pub(super) fn put_authorization_policy(&mut self, policy: Arc<AuthorizationPolicy>) -> Applied {
        if self.policies.authorization.get(&policy.name) == Some(&policy) {
            return Applied::Same;
        }
        self.remove_authorization_policy(&policy.name);
        self.policies.authorization_scopes.insert(&policy.scope, &policy.name);
        self.mark_policies_of(&policy.scope);
        self.state.authorization_policies.insert(policy.name.clone(), Arc::clone(&policy));
        self.policies.authorization.insert(policy.name.clone(), policy);
        Applied::Changed
    }

    pub(super) fn remove_authorization_policy(&mut self, name: &NamespacedName) -> Applied {
        let Some(policy) = self.policies.authorization.remove(name) else { return Applied::Same };
        self.state.authorization_policies.remove(name);
        self.policies.authorization_scopes.remove(&policy.scope, name);
        self.mark_policies_of(&policy.scope);
        Applied::Changed
    }

    pub(super) fn put_peer_authentication(&mut self, policy: Arc<PeerAuthentication>) -> Applied {
        if self.policies.peer.get(&policy.name) == Some(&policy) {
            return Applied::Same;
        }
        self.remove_peer_authentication(&policy.name);
        self.policies.peer_scopes.insert(&policy.scope, &policy.name);
        self.mark_policies_of(&policy.scope);
        self.state.peer_authentications.insert(policy.name.clone(), Arc::clone(&policy));
        self.policies.peer.insert(policy.name.clone(), policy);
        Applied::Changed
    }

    pub(super) fn remove_peer_authentication(&mut self, name: &NamespacedName) -> Applied {
        let Some(policy) = self.policies.peer.remove(name) else { return Applied::Same };
        self.state.peer_authentications.remove(name);
        self.policies.peer_scopes.remove(&policy.scope, name);
        self.mark_policies_of(&policy.scope);
        Applied::Changed
    }

    fn mark_policies_of(&mut self, scope: &Scope) {
        self.policies.shared.clear();
        match scope {
            Scope::Mesh => self.stale.mesh_policies = true,
            Scope::Namespace(namespace) => {
                self.stale.namespace_policies.insert(Arc::clone(namespace));
            }
            Scope::Services(services) => self.stale.service_policies.extend(services.iter().cloned()),
            Scope::Selector { namespace, labels } if labels.is_empty() => {
                self.mark_policies_of(&everyone_of(namespace.as_ref()));
            }
            Scope::Selector { namespace, labels } => {
                let selected =
                    self.labels.selected(namespace.as_ref(), labels, |uid| self.state.workload(uid));
                self.stale
                    .workload_policies
                    .extend(selected.into_iter().map(|workload| workload.uid.clone()));
            }
        }
    }

    pub(super) fn refresh_policies(&mut self) {
        let Stale { workload_policies, mesh_policies, namespace_policies, service_policies, .. } =
            &mut self.stale;
        if std::mem::take(mesh_policies) {
            self.state.mesh_policies = self.policies.set(&self.policies.authorization_scopes.mesh);
            self.state.mesh_peer_authentication = self.policies.in_force(&self.policies.peer_scopes.mesh);
        }
        for namespace in std::mem::take(namespace_policies) {
            let names = self.policies.authorization_scopes.namespaces.get(&namespace);
            let set = names.and_then(|names| self.policies.set(names));
            put(&mut self.state.namespace_policies, &namespace, set);
            let names = self.policies.peer_scopes.namespaces.get(&namespace);
            let in_force = names.and_then(|names| self.policies.in_force(names));
            put(&mut self.state.namespace_peer_authentications, &namespace, in_force);
        }
        for service in std::mem::take(service_policies) {
            let names = self.policies.authorization_scopes.services.get(&service);
            let set = names.and_then(|names| self.policies.set(names));
            put(&mut self.state.service_policies, &service, set);
        }
        for uid in std::mem::take(workload_policies) {
            self.refresh_policies_of_workload(&uid);
        }
    }

    fn refresh_policies_of_workload(&mut self, uid: &WorkloadUid) {
        let Some(record) = self.state.workloads.get(uid) else { return };
        let workload = Arc::clone(&record.workload);
        let policies = self.policies.selecting(&workload);
        let peer_authentication = self.policies.peer_selecting(&workload);
        let record = WorkloadRecord { workload, policies, peer_authentication };
        self.state.workloads.insert(uid.clone(), record);
    }
}

impl Policies {
    fn set<'a>(&self, names: impl IntoIterator<Item = &'a NamespacedName>) -> Option<Arc<PolicySet>> {
        PolicySet::new(names.into_iter().map(|name| Arc::clone(&self.authorization[name])).collect())
    }

    /// Of several at the same level the oldest is in force, as with Istio. Of those as old, and of those of which the
    /// age is not known, the stricter mode of each port.
    fn in_force<'a>(
        &self,
        names: impl IntoIterator<Item = &'a NamespacedName>,
    ) -> Option<Arc<PeerAuthentication>> {
        let policies: Vec<_> = names.into_iter().map(|name| &self.peer[name]).collect();
        let oldest = policies.iter().map(|policy| policy.created).filter(|created| *created > 0).min();
        let mut counting =
            policies.into_iter().filter(|policy| policy.created == 0 || Some(policy.created) == oldest);
        let first = Arc::clone(counting.next()?);
        Some(counting.fold(first, |strictest, other| {
            let both = strictest.or_stricter(other);
            if both == *strictest { strictest } else { Arc::new(both) }
        }))
    }

    fn selecting(&mut self, workload: &Workload) -> Option<Arc<PolicySet>> {
        let candidates = self.authorization_scopes.selecting(workload).into_iter();
        let names: Vec<_> =
            candidates.filter(|name| self.authorization[*name].scope.selects(workload)).cloned().collect();
        if let Some(shared) = self.shared.get(&names) {
            return shared.clone();
        }
        let set = self.set(&names);
        self.shared.insert(names, set.clone());
        set
    }

    fn peer_selecting(&self, workload: &Workload) -> Option<Arc<PeerAuthentication>> {
        let candidates = self.peer_scopes.selecting(workload).into_iter();
        self.in_force(candidates.filter(|name| self.peer[*name].scope.selects(workload)))
    }
}

fn put<K, V>(table: &mut super::table::Table<K, V>, key: &K, value: Option<V>)
where
    K: std::hash::Hash + Eq + Clone,
    V: Clone,
{
    match value {
        Some(value) => table.insert(key.clone(), value),
        None => drop(table.remove(key)),
    }
}
