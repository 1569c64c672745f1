//! Changed objects become deltas.
//!
//! In: what an object meant before and means now, from a folder or from watches. Out: what the tables, or the agents of
//! a controller, are told. The only place where one object's meaning depends on something else: a pod is enrolled by its
//! own labels or by its namespace's; a CUSTOM policy asks the server that the mesh's configuration has under its name; a rule
//! has the keys that its issuer published. Never: I/O.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mesh_common::model::policy::Action;
use mesh_common::model::{AuthorizationPolicy, Custom, Enrolment, ExternalAuthorizer, NamespacedName, Text};
use mesh_common::snapshot::Delta;

use super::key_ring::{KeyNews, KeyRing, KeyStanding, Wanted};
use super::object::{Meaning, ObjectKey};
use super::translate::mesh_config::MeshConfig;
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

/// What is known of namespaces and their pods, and of keys.
#[derive(Debug, Default)]
pub struct Enroller {
    enrolments: HashMap<Text, Enrolment>,
    /// By namespace and name, to enrol them anew when their namespace changes.
    pods: HashMap<Text, BTreeMap<Text, Arc<PodWorkload>>>,
    authorizers: HashMap<Text, Arc<ExternalAuthorizer>>,
    /// CUSTOM policies, to be told anew when the mesh's configuration changes.
    asking: BTreeMap<NamespacedName, Arc<AuthorizationPolicy>>,
    keys: KeyRing,
}

impl Enroller {
    /// Takes keys that were fetched, or were not; says what they come to.
    pub fn learn(&mut self, news: impl IntoIterator<Item = KeyNews>) -> Vec<Delta> {
        self.keys.learn(news)
    }

    /// The URIs to fetch keys from, if they changed since this was asked last.
    pub fn take_wanted(&mut self) -> Option<Wanted> {
        self.keys.take_wanted()
    }

    /// How the keys stand of each object that has them fetched.
    pub fn key_standings(&self) -> BTreeMap<ObjectKey, KeyStanding> {
        self.keys.standings()
    }

    /// What changes, in any order, come to.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Vec<Delta> {
        let mut deltas = Vec::new();
        for change in changes {
            self.apply_one(change, &mut deltas);
        }
        deltas
    }

    fn apply_one(&mut self, Change { key, before, after }: Change, deltas: &mut Vec<Delta>) {
        match (before, after) {
            (before, Some(Meaning::Pod(pod))) => self.put_pod(&key, before, pod, deltas),
            (_, Some(Meaning::Namespace(namespace))) => {
                self.enrol(&key.name.name, namespace.enrolment, deltas);
            }
            (_, Some(Meaning::Node(node))) => deltas.push(Delta::UpsertNode(node)),
            (_, Some(Meaning::Service(service))) => deltas.push(Delta::UpsertService(service)),
            (_, Some(Meaning::EndpointSlice(slice))) => deltas.push(Delta::UpsertEndpointSlice(slice)),
            (_, Some(Meaning::MeshConfig(config))) => self.configure(Some(&config), deltas),
            (_, Some(Meaning::AuthorizationPolicy(policy))) => self.put_policy(policy, deltas),
            (_, Some(Meaning::PeerAuthentication(policy))) => {
                deltas.push(Delta::UpsertPeerAuthentication(policy));
            }
            (_, Some(Meaning::RequestAuthentication(rules))) => {
                deltas.push(Delta::UpsertRequestAuthentication(self.keys.put(&key.name, &rules)));
            }
            (Some(before), None | Some(Meaning::Nothing | Meaning::Route(_))) => {
                self.forget(key, &before, deltas)
            }
            (None, None | Some(Meaning::Nothing | Meaning::Route(_))) => {}
        }
    }

    fn forget(&mut self, key: ObjectKey, before: &Meaning, deltas: &mut Vec<Delta>) {
        deltas.push(match before {
            Meaning::Namespace(_) => return self.enrol(&key.name.name, None, deltas),
            // No rule of a route is applied: nobody is told of one.
            Meaning::Nothing | Meaning::Route(_) => return,
            Meaning::Pod(pod) => {
                self.forget_pod(&key);
                Delta::RemoveWorkload(pod.workload.uid.clone())
            }
            Meaning::Node(_) => Delta::RemoveNode(key.name.name),
            Meaning::Service(_) => Delta::RemoveService(key.name),
            Meaning::EndpointSlice(_) => Delta::RemoveEndpointSlice(key.name),
            Meaning::MeshConfig(_) => return self.configure(None, deltas),
            Meaning::AuthorizationPolicy(_) => {
                self.asking.remove(&key.name);
                Delta::RemoveAuthorizationPolicy(key.name)
            }
            Meaning::PeerAuthentication(_) => Delta::RemovePeerAuthentication(key.name),
            Meaning::RequestAuthentication(_) => {
                self.keys.forget(&key.name);
                Delta::RemoveRequestAuthentication(key.name)
            }
        });
    }

    fn forget_pod(&mut self, key: &ObjectKey) {
        if let Some(pods) = self.pods.get_mut(&key.name.namespace) {
            pods.remove(&key.name.name);
            if pods.is_empty() {
                self.pods.remove(&key.name.namespace);
            }
        }
    }

    /// A pod of the same name but another uid is another pod: the one before it is gone.
    fn put_pod(
        &mut self,
        key: &ObjectKey,
        before: Option<Meaning>,
        pod: Arc<PodWorkload>,
        deltas: &mut Vec<Delta>,
    ) {
        if let Some(Meaning::Pod(before)) = before
            && before.workload.uid != pod.workload.uid
        {
            deltas.push(Delta::RemoveWorkload(before.workload.uid.clone()));
        }
        let namespace = &key.name.namespace;
        let workload = pod.in_namespace(self.enrolments.get(namespace).copied());
        deltas.push(Delta::UpsertWorkload(Arc::new(workload)));
        self.pods.entry(namespace.clone()).or_default().insert(key.name.name.clone(), pod);
    }

    /// A policy, and whom it asks.
    fn put_policy(&mut self, policy: Arc<AuthorizationPolicy>, deltas: &mut Vec<Delta>) {
        if matches!(policy.action, Action::Custom(_)) {
            self.asking.insert(policy.name.clone(), Arc::clone(&policy));
        } else {
            self.asking.remove(&policy.name);
        }
        deltas.push(Delta::UpsertAuthorizationPolicy(self.with_authorizer(policy)));
    }

    /// The mesh's configuration is another one, or gone.
    fn configure(&mut self, config: Option<&MeshConfig>, deltas: &mut Vec<Delta>) {
        let authorizers = config.into_iter().flat_map(|config| &config.authorizers);
        let authorizers =
            authorizers.map(|authorizer| (authorizer.name.clone(), Arc::clone(authorizer))).collect();
        if self.authorizers == authorizers {
            return;
        }
        self.authorizers = authorizers;
        let policies = self.asking.values().map(|policy| self.with_authorizer(Arc::clone(policy)));
        deltas.extend(policies.map(Delta::UpsertAuthorizationPolicy));
    }

    fn with_authorizer(&self, policy: Arc<AuthorizationPolicy>) -> Arc<AuthorizationPolicy> {
        let Action::Custom(custom) = &policy.action else { return policy };
        let authorizer = self.authorizers.get(&custom.provider).cloned();
        let custom = Custom { provider: custom.provider.clone(), authorizer };
        Arc::new(AuthorizationPolicy { action: Action::Custom(Arc::new(custom)), ..(*policy).clone() })
    }

    fn enrol(&mut self, namespace: &Text, enrolment: Option<Enrolment>, deltas: &mut Vec<Delta>) {
        let before = match enrolment {
            Some(enrolment) => self.enrolments.insert(namespace.clone(), enrolment),
            None => self.enrolments.remove(namespace),
        };
        if before == enrolment {
            return;
        }
        let pods = self.pods.get(namespace).into_iter().flat_map(BTreeMap::values);
        deltas.extend(pods.map(|pod| Delta::UpsertWorkload(Arc::new(pod.in_namespace(enrolment)))));
    }
}
