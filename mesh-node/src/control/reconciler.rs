//! Changed objects become deltas, and deltas tables.
//!
//! In: what an object meant before and means now, from a folder or from watches. Out: the snapshot after it. The
//! only place where one object's meaning depends on another's: a pod is enrolled by its own labels or by its
//! namespace's. Never: I/O.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mesh_common::model::{Enrolment, MeshSettings, Text};
use mesh_common::snapshot::{Delta, Snapshot, Tables};

use super::object::{Meaning, ObjectKey};
use super::translate::pod::PodWorkload;

/// One object that changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Which one.
    pub key: ObjectKey,
    /// What it meant; `None` if it was not there.
    pub before: Option<Meaning>,
    /// What it means; `None` if it is gone.
    pub after: Option<Meaning>,
}

/// The one writer of the tables.
#[derive(Debug)]
pub struct Reconciler {
    tables: Tables,
    enrolments: HashMap<Text, Enrolment>,
    /// By namespace and name, to enrol them anew when their namespace changes.
    pods: HashMap<Text, BTreeMap<Text, Arc<PodWorkload>>>,
}

impl Reconciler {
    /// Empty tables of one mesh.
    pub fn new(settings: Arc<MeshSettings>) -> Self {
        let mut tables = Tables::default();
        tables.apply(Delta::Settings(settings));
        Self { tables, enrolments: HashMap::new(), pods: HashMap::new() }
    }

    /// Takes changes, in any order.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            self.apply_one(change);
        }
    }

    /// What is known after all changes so far.
    pub fn snapshot(&mut self) -> Snapshot {
        self.tables.snapshot()
    }

    fn apply_one(&mut self, Change { key, before, after }: Change) {
        match (before, after) {
            (before, Some(Meaning::Pod(pod))) => self.put_pod(&key, before, pod),
            (_, Some(Meaning::Namespace(namespace))) => self.enrol(&key.name.name, namespace.enrolment),
            (_, Some(Meaning::Node(node))) => self.apply_delta(Delta::UpsertNode(node)),
            (_, Some(Meaning::Service(service))) => self.apply_delta(Delta::UpsertService(service)),
            (_, Some(Meaning::EndpointSlice(slice))) => self.apply_delta(Delta::UpsertEndpointSlice(slice)),
            (_, Some(Meaning::AuthorizationPolicy(policy))) => {
                self.apply_delta(Delta::UpsertAuthorizationPolicy(policy));
            }
            (_, Some(Meaning::PeerAuthentication(policy))) => {
                self.apply_delta(Delta::UpsertPeerAuthentication(policy));
            }
            (Some(before), None | Some(Meaning::Nothing)) => self.forget(key, &before),
            (None, None | Some(Meaning::Nothing)) => {}
        }
    }

    fn forget(&mut self, key: ObjectKey, before: &Meaning) {
        match before {
            Meaning::Namespace(_) => self.enrol(&key.name.name, None),
            Meaning::Node(_) => self.apply_delta(Delta::RemoveNode(key.name.name)),
            Meaning::Pod(pod) => {
                self.apply_delta(Delta::RemoveWorkload(pod.workload.uid.clone()));
                if let Some(pods) = self.pods.get_mut(&key.name.namespace) {
                    pods.remove(&key.name.name);
                    if pods.is_empty() {
                        self.pods.remove(&key.name.namespace);
                    }
                }
            }
            Meaning::Service(_) => self.apply_delta(Delta::RemoveService(key.name)),
            Meaning::EndpointSlice(_) => self.apply_delta(Delta::RemoveEndpointSlice(key.name)),
            Meaning::AuthorizationPolicy(_) => self.apply_delta(Delta::RemoveAuthorizationPolicy(key.name)),
            Meaning::PeerAuthentication(_) => self.apply_delta(Delta::RemovePeerAuthentication(key.name)),
            Meaning::Nothing => {}
        }
    }

    /// A pod of the same name but another uid is another pod: the one before it is gone.
    fn put_pod(&mut self, key: &ObjectKey, before: Option<Meaning>, pod: Arc<PodWorkload>) {
        if let Some(Meaning::Pod(before)) = before
            && before.workload.uid != pod.workload.uid
        {
            self.apply_delta(Delta::RemoveWorkload(before.workload.uid.clone()));
        }
        let namespace = &key.name.namespace;
        let workload = pod.in_namespace(self.enrolments.get(namespace).copied());
        self.apply_delta(Delta::UpsertWorkload(Arc::new(workload)));
        self.pods.entry(namespace.clone()).or_default().insert(key.name.name.clone(), pod);
    }

    fn enrol(&mut self, namespace: &Text, enrolment: Option<Enrolment>) {
        let before = match enrolment {
            Some(enrolment) => self.enrolments.insert(namespace.clone(), enrolment),
            None => self.enrolments.remove(namespace),
        };
        if before == enrolment {
            return;
        }
        for pod in self.pods.get(namespace).into_iter().flat_map(BTreeMap::values) {
            let workload = pod.in_namespace(enrolment);
            self.tables.apply(Delta::UpsertWorkload(Arc::new(workload)));
        }
    }

    // Whether it changed anything, the tables say with the next snapshot's generation.
    fn apply_delta(&mut self, delta: Delta) {
        self.tables.apply(delta);
    }
}
