//! All that there is to send, by name, and in the order in which it changed.
//!
//! In: deltas. Out: what changed since a place in that order, the removals of a bounded past with it. A pod has two
//! forms: its own node's agent is told all, the others what they need of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mesh_common::model::workload::Exclusions;
use mesh_common::model::{PodDetails, Service, Text, Workload, WorkloadUid};
use mesh_common::snapshot::Delta;

use super::index::Index;
use super::selection::{Selection, selection};
use crate::xds::{Key, Outgoing, Resource, ResourceType, Trust, encode, encode_trust};

/// Most removals that are remembered; an agent that is further behind begins anew. Some 10 MB.
const MAX_REMOVALS: usize = 100_000;

/// A place in the order of changes.
pub(super) type Place = u64;

/// What there is.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// Counts batches.
    generation: u64,
    /// Counts changes.
    place: Place,
    /// An agent that was last here, or later, has heard of every removal.
    remembered_since: Place,
    /// By type and name.
    entries: [HashMap<Text, Entry>; ResourceType::ALL.len()],
    changes: BTreeMap<Place, Change>,
    /// By place.
    removals: BTreeMap<Place, Key>,
    policies: HashMap<Key, Selection>,
    pods: HashMap<Text, Pods>,
    index: Index,
}

/// Something that was sent, or can be.
#[derive(Debug)]
struct Entry {
    /// To its own node if it is a pod there, else to everybody; `None` once it is gone.
    resource: Option<Arc<Resource>>,
    /// A pod, to others.
    reduced: Option<Arc<Resource>>,
    /// A pod's node.
    node: Option<Text>,
    /// Last change that everybody is told.
    told_all: Place,
    /// Last change that only the own node is told; 0 if there was none.
    told_own: Place,
    /// Batch of the last change.
    generation: u64,
}

#[derive(Clone, Debug)]
struct Change {
    key: Key,
    whom: Whom,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    All,
    OwnNode,
}

/// The pods of a node.
#[derive(Debug, Default)]
pub(super) struct Pods {
    pub(super) by_namespace: BTreeMap<Text, BTreeMap<WorkloadUid, Arc<Workload>>>,
    /// When the pods last changed in what policies look at.
    changed: Place,
}

/// What an agent is to be told of one resource.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum News {
    Upsert(Arc<Resource>),
    Remove(Key),
}

impl Cache {
    /// Takes one batch; says which generation it is.
    pub(super) fn apply(&mut self, deltas: &[Delta]) -> u64 {
        self.generation += 1;
        for delta in deltas {
            self.index.take(delta);
            match delta {
                // Agents see their own pods in full only, so that they cannot derive endpoints.
                Delta::UpsertService(service) => {
                    let service = Service { selector: BTreeMap::new(), ..Service::clone(service) };
                    self.take(&Delta::UpsertService(Arc::new(service)));
                }
                delta => self.take(delta),
            }
        }
        self.forget_removals();
        self.generation
    }

    /// Takes the roots; says which generation that is.
    pub(super) fn apply_trust(&mut self, trust: &Trust) -> u64 {
        self.generation += 1;
        self.put(encode_trust(trust), None, None);
        self.generation
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Whether an agent that was last here can still be told all that was removed since.
    pub(super) fn remembers(&self, place: Place) -> bool {
        place >= self.remembered_since
    }

    /// What there is of a type for the agent of a node; of policies all.
    pub(super) fn all<'a>(
        &'a self,
        kind: ResourceType,
        node: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Resource>> {
        self.entries[kind.index()].values().filter_map(move |entry| entry.for_node(node))
    }

    /// What changed after a place, for the agent of a node; of policies all that did. Each resource once.
    pub(super) fn since<'a>(&'a self, place: Place, node: &'a str) -> impl Iterator<Item = News> + 'a {
        self.changes.range(place + 1..).filter_map(move |(at, change)| {
            let entry = self.entry(&change.key)?;
            let is_own = entry.node.as_deref() == Some(node);
            let is_meant = match change.whom {
                Whom::All => !is_own || entry.told_own < *at,
                Whom::OwnNode => is_own,
            };
            is_meant.then(|| match entry.for_node(node) {
                Some(resource) => News::Upsert(Arc::clone(resource)),
                None => News::Remove(change.key.clone()),
            })
        })
    }

    /// Which resources changed after a place.
    pub(super) fn keys_since(&self, place: Place) -> impl Iterator<Item = &Key> {
        self.changes.range(place + 1..).map(|(_, change)| &change.key)
    }

    /// A resource, as the agent of a node is told it.
    pub(super) fn resource(&self, key: &Key, node: &str) -> Option<&Arc<Resource>> {
        self.entry(key)?.for_node(node)
    }

    /// What addresses lead to.
    pub(super) fn index(&self) -> &Index {
        &self.index
    }

    /// The version of a policy's resource, so to speak: when it last changed. `None` if it is not there.
    pub(super) fn policy(&self, key: &Key) -> Option<(Place, &Selection, &Arc<Resource>)> {
        let entry = self.entry(key)?;
        Some((entry.told_all, self.policies.get(key)?, entry.resource.as_ref()?))
    }

    /// Every policy.
    pub(super) fn policies(&self) -> impl Iterator<Item = (&Key, &Selection)> {
        self.policies.iter()
    }

    /// The policies that changed after a generation, each with the generation that did it, the newest first.
    pub(super) fn policies_after(&self, generation: u64) -> impl Iterator<Item = (u64, &Key)> {
        let changes = self.changes.values().rev().map_while(move |change| {
            let entry = self.entry(&change.key)?;
            (entry.generation > generation).then_some((entry.generation, &change.key))
        });
        changes.filter(|(_, key)| self.policies.contains_key(*key))
    }

    /// The pods of a node.
    pub(super) fn pods(&self, node: &str) -> Option<&Pods> {
        self.pods.get(node)
    }

    /// Whether what policies look at of a node's pods changed after a place.
    pub(super) fn pods_changed_after(&self, place: Place, node: &str) -> bool {
        self.pods.get(node).is_some_and(|pods| pods.changed > place)
    }

    /// The batch in which a resource last changed; `None` if it is not there.
    pub(super) fn generation_of(&self, key: &Key) -> Option<u64> {
        let entry = self.entry(key)?;
        entry.resource.as_ref().map(|_| entry.generation)
    }

    fn take(&mut self, delta: &Delta) {
        match encode(delta) {
            Outgoing::Remove(key) => self.remove(&key),
            Outgoing::Upsert(resource) => self.upsert(delta, resource),
        }
    }

    fn entry(&self, key: &Key) -> Option<&Entry> {
        self.entries[key.kind.index()].get(&key.name)
    }

    fn upsert(&mut self, delta: &Delta, resource: Resource) {
        match delta {
            Delta::UpsertWorkload(workload) => {
                let reduced = encode(&Delta::UpsertWorkload(Arc::new(reduced(workload))));
                let Outgoing::Upsert(reduced) = reduced else { return };
                self.put_pod(workload);
                self.put(resource, Some(reduced), Some(Arc::clone(&workload.node)));
            }
            Delta::UpsertAuthorizationPolicy(policy) => self.put_policy(&policy.scope, resource),
            Delta::UpsertPeerAuthentication(policy) => self.put_policy(&policy.scope, resource),
            Delta::UpsertRequestAuthentication(policy) => self.put_policy(&policy.scope, resource),
            _ => self.put(resource, None, None),
        }
    }

    fn put_policy(&mut self, scope: &mesh_common::model::policy::Scope, resource: Resource) {
        self.policies.insert(resource.key.clone(), selection(scope));
        self.put(resource, None, None);
    }

    fn put(&mut self, resource: Resource, reduced: Option<Resource>, node: Option<Text>) {
        let key = resource.key.clone();
        let before = self.entry(&key).filter(|entry| entry.resource.is_some());
        let is_same = |old: &Option<Arc<Resource>>, new: &Resource| {
            old.as_ref().is_some_and(|old| old.version == new.version)
        };
        let whom = match before {
            None => Whom::All,
            Some(before) if before.node != node => Whom::All,
            Some(before) => match &reduced {
                Some(reduced) if !is_same(&before.reduced, reduced) => Whom::All,
                None if !is_same(&before.resource, &resource) => Whom::All,
                _ if !is_same(&before.resource, &resource) => Whom::OwnNode,
                _ => return,
            },
        };
        self.note(key, whom, |entry| {
            entry.resource = Some(Arc::new(resource));
            entry.reduced = reduced.map(Arc::new);
            entry.node = node;
        });
    }

    fn remove(&mut self, key: &Key) {
        let Some(entry) = self.entry(key).filter(|entry| entry.resource.is_some()) else { return };
        if let Some(node) = entry.node.clone() {
            self.take_pod(&node, &WorkloadUid(Arc::clone(&key.name)));
        }
        self.policies.remove(key);
        self.note(key.clone(), Whom::All, |entry| {
            entry.resource = None;
            entry.reduced = None;
            entry.node = None;
        });
        self.removals.insert(self.place, key.clone());
    }

    /// Changes an entry, and its place in the order.
    fn note(&mut self, key: Key, whom: Whom, change: impl FnOnce(&mut Entry)) {
        self.place += 1;
        let entries = &mut self.entries[key.kind.index()];
        let entry = entries.entry(Arc::clone(&key.name)).or_insert_with(Entry::new);
        change(entry);
        entry.generation = self.generation;
        if whom == Whom::All {
            self.changes.remove(&entry.told_all);
            self.removals.remove(&entry.told_all);
            entry.told_all = self.place;
        }
        // What all are told its own node is told too.
        self.changes.remove(&entry.told_own);
        entry.told_own = if whom == Whom::OwnNode { self.place } else { 0 };
        self.changes.insert(self.place, Change { key, whom });
    }

    fn forget_removals(&mut self) {
        while self.removals.len() > MAX_REMOVALS {
            let Some((place, key)) = self.removals.pop_first() else { return };
            self.changes.remove(&place);
            self.entries[key.kind.index()].remove(&key.name);
            self.remembered_since = place;
        }
    }

    fn put_pod(&mut self, workload: &Arc<Workload>) {
        let key = Key { kind: ResourceType::Workload, name: Arc::clone(&workload.uid.0) };
        let before = self.entry(&key).and_then(|entry| entry.node.clone());
        if let Some(node) = before.filter(|node| *node != workload.node) {
            self.take_pod(&node, &workload.uid);
        }
        let pods = self.pods.entry(Arc::clone(&workload.node)).or_default();
        let namespace = pods.by_namespace.entry(Arc::clone(&workload.name.namespace)).or_default();
        let old = namespace.insert(workload.uid.clone(), Arc::clone(workload));
        if old.is_none_or(|old| old.details.labels != workload.details.labels) {
            pods.changed = self.place + 1;
        }
    }

    fn take_pod(&mut self, node: &Text, uid: &WorkloadUid) {
        let Some(pods) = self.pods.get_mut(node) else { return };
        for pods in pods.by_namespace.values_mut() {
            pods.remove(uid);
        }
        pods.by_namespace.retain(|_, pods| !pods.is_empty());
        pods.changed = self.place + 1;
    }
}

impl Entry {
    fn new() -> Self {
        Self { resource: None, reduced: None, node: None, told_all: 0, told_own: 0, generation: 0 }
    }

    fn for_node(&self, node: &str) -> Option<&Arc<Resource>> {
        match &self.reduced {
            Some(reduced) if self.node.as_deref() != Some(node) => Some(reduced),
            _ => self.resource.as_ref(),
        }
    }
}

/// What agents of other nodes need of a pod.
fn reduced(workload: &Workload) -> Workload {
    let inbound_ports = workload.details.exclusions.inbound_ports.clone();
    let exclusions = Exclusions { inbound_ports, ..Exclusions::default() };
    let details = Arc::new(PodDetails { exclusions, ..PodDetails::default() });
    Workload { details, ..workload.clone() }
}
