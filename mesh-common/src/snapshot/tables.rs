//! The one writer: takes deltas in any order, keeps the working copy of the snapshot up to date.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use super::network::Networks;
use super::scopes::Policies;
use super::services::Endpoints;
use super::workloads::Labels;
use super::{Delta, Snapshot};
use crate::model::{EndpointSlice, MeshSettings, NamespacedName, Node, Service, Text, Workload, WorkloadUid};

/// The tables behind the snapshots.
#[derive(Debug, Default)]
pub struct Tables {
    /// The working copy. What is listed in `stale` lags behind the objects.
    pub(super) state: Snapshot,
    pub(super) labels: Labels,
    pub(super) endpoints: Endpoints,
    pub(super) policies: Policies,
    pub(super) stale: Stale,
    pub(super) changed: bool,
}

/// What must be computed again before the next snapshot.
#[derive(Debug, Default)]
pub(super) struct Stale {
    pub(super) services: HashSet<NamespacedName>,
    pub(super) workload_policies: HashSet<WorkloadUid>,
    pub(super) mesh_policies: bool,
    pub(super) namespace_policies: HashSet<Text>,
    pub(super) service_policies: HashSet<NamespacedName>,
    pub(super) inside: bool,
    pub(super) request_authentications: bool,
}

/// Whether a delta made a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The next snapshot will differ.
    Changed,
    /// What was said was known.
    Same,
}

impl Tables {
    /// Takes one change. Costs what the change touches; the rest waits for [`Self::snapshot`].
    pub fn apply(&mut self, delta: Delta) -> Applied {
        let applied = match delta {
            Delta::Settings(settings) => self.put_settings(settings),
            Delta::UpsertWorkload(workload) => self.put_workload(workload),
            Delta::RemoveWorkload(uid) => self.remove_workload(&uid),
            Delta::UpsertService(service) => self.put_service(service),
            Delta::RemoveService(name) => self.remove_service(&name),
            Delta::UpsertEndpointSlice(slice) => self.put_endpoint_slice(slice),
            Delta::RemoveEndpointSlice(name) => self.remove_endpoint_slice(&name),
            Delta::UpsertAuthorizationPolicy(policy) => self.put_authorization_policy(policy),
            Delta::RemoveAuthorizationPolicy(name) => self.remove_authorization_policy(&name),
            Delta::UpsertPeerAuthentication(policy) => self.put_peer_authentication(policy),
            Delta::RemovePeerAuthentication(name) => self.remove_peer_authentication(&name),
            Delta::UpsertRequestAuthentication(policy) => self.put_request_authentication(policy),
            Delta::RemoveRequestAuthentication(name) => self.remove_request_authentication(&name),
            Delta::UpsertNode(node) => self.put_node(node),
            Delta::RemoveNode(name) => self.remove_node(&name),
        };
        self.changed |= applied == Applied::Changed;
        applied
    }

    /// What is known after all deltas so far. Without a change since the last one it has the same generation.
    pub fn snapshot(&mut self) -> Snapshot {
        self.refresh_services();
        self.refresh_policies();
        self.refresh_inside();
        self.refresh_request_authentications();
        if std::mem::take(&mut self.changed) {
            self.state.generation += 1;
        }
        self.state.clone()
    }

    /// A pod, as it was said last.
    pub fn workload(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.state.workload(uid)
    }

    /// A Service, as it was said last.
    pub fn service(&self, name: &NamespacedName) -> Option<&Arc<Service>> {
        self.state.services.get(name).map(|record| &record.service)
    }

    /// An EndpointSlice, as it was said last.
    pub fn endpoint_slice(&self, name: &NamespacedName) -> Option<&Arc<EndpointSlice>> {
        self.endpoints.slice(name)
    }

    fn put_settings(&mut self, settings: Arc<MeshSettings>) -> Applied {
        if self.state.settings == settings {
            return Applied::Same;
        }
        self.state.settings = settings;
        self.stale.inside = true;
        Applied::Changed
    }

    fn put_node(&mut self, node: Arc<Node>) -> Applied {
        if self.state.nodes.get(&node.name) == Some(&node) {
            return Applied::Same;
        }
        self.remove_node(&node.name);
        for &address in &node.addresses {
            self.state.node_addresses.update(&address, |claims| claims.insert(Arc::clone(&node)));
        }
        self.state.nodes.insert(Arc::clone(&node.name), node);
        self.stale.inside = true;
        Applied::Changed
    }

    fn remove_node(&mut self, name: &str) -> Applied {
        let Some(node) = self.state.nodes.remove(name) else { return Applied::Same };
        for address in &node.addresses {
            self.state.node_addresses.update(address, |claims| claims.remove(name));
        }
        self.stale.inside = true;
        Applied::Changed
    }

    fn refresh_inside(&mut self) {
        if !std::mem::take(&mut self.stale.inside) {
            return;
        }
        let mut inside = Networks::default();
        let pod_cidrs = self.state.nodes.iter().flat_map(|(_, node)| &node.pod_cidrs);
        for range in self.state.settings.mesh_cidrs.iter().chain(pod_cidrs) {
            *inside.entry(*range) = ();
        }
        self.state.inside = Arc::new(inside);
    }
}

/// Takes a value out of the set of a key, and the key out when nothing is left of the set.
pub(super) fn take_from<K: Hash + Eq, T: Ord>(sets: &mut HashMap<K, BTreeSet<T>>, key: &K, value: &T) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}
