//! PURE. What is wrong between objects that are each fine by themselves.
//!
//! In: a snapshot. Out: for each object that another one contradicts, or that names what is not there, what a person
//! should know of it. Looked at after the snapshot is published. The next edit waits for it: what grows faster than the
//! number of objects has a [`Budget`], and says when that ends.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use mesh_common::model::policy::Scope;
use mesh_common::model::{NamespacedName, Text};
use mesh_common::snapshot::Snapshot;

use super::object::{Kind, ObjectKey};
use super::policy_advice::policy_advice;
use super::rivals;
use super::store::first_of;
use super::translate::Effect;
use super::unserved;

/// What should be known of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Advice {
    pub(crate) key: ObjectKey,
    pub(crate) field: String,
    pub(crate) reason: String,
    pub(crate) effect: Effect,
}

/// Most looks whether a policy selects a pod: some 50 ms. Of 100,000 pods, each may be looked at by 20 policies.
const MAX_LOOKS: usize = 2_000_000;

/// How much more is looked at.
#[derive(Debug)]
pub(super) struct Budget {
    left: usize,
    is_spent: bool,
}

impl Default for Budget {
    fn default() -> Self {
        Self::of(MAX_LOOKS)
    }
}

impl Budget {
    pub(super) fn of(left: usize) -> Self {
        Self { left, is_spent: false }
    }

    /// Takes some, if there is as much; if not, nothing is left from then on.
    pub(super) fn take(&mut self, count: usize) -> bool {
        match self.left.checked_sub(count) {
            Some(left) if !self.is_spent => self.left = left,
            _ => self.is_spent = true,
        }
        !self.is_spent
    }

    /// Whether more was wanted than there was.
    pub(super) fn is_spent(&self) -> bool {
        self.is_spent
    }
}

/// What is known of a kind of policies whose pods were not all looked at.
pub(super) fn unfinished(kind: Kind, name: &NamespacedName) -> Advice {
    let kind_name = kind.name();
    Advice {
        key: ObjectKey { kind, name: name.clone() },
        field: "spec.selector".to_owned(),
        reason: format!(
            "too many policies select the same pods: they were not all compared, and more of {kind_name} may be about \
             nobody, or about pods that another is about"
        ),
        effect: Effect::Warning,
    }
}

/// All that should be known, in no order.
pub(super) fn advice(snapshot: &Snapshot) -> Vec<Advice> {
    let mut advice = contested_services(snapshot);
    advice.extend(contested_pods(snapshot));
    advice.extend(rivals::rivals(snapshot));
    advice.extend(missing_services(snapshot));
    advice.extend(selecting_nobody(snapshot));
    advice.extend(in_empty_namespaces(snapshot));
    advice.extend(unserved::unserved(snapshot));
    advice.extend(policy_advice(snapshot));
    advice
}

/// Services that share an address and port: it is nobody's.
fn contested_services(snapshot: &Snapshot) -> Vec<Advice> {
    let mut claims: HashMap<SocketAddr, Vec<(&NamespacedName, &str)>> = HashMap::new();
    for record in snapshot.services() {
        let service = &*record.service;
        let cluster_ips = service.cluster_ips.iter().map(|address| (*address, "spec.clusterIP"));
        let external = service.external_addresses.iter().map(|address| (*address, "spec.externalIPs"));
        for (address, field) in cluster_ips.chain(external) {
            for port in &service.ports {
                let claim = claims.entry(SocketAddr::new(address, port.port)).or_default();
                if claim.last().is_none_or(|(name, _)| *name != &service.name) {
                    claim.push((&service.name, field));
                }
            }
        }
    }
    contested(Kind::Service, claims, "every connection to it is reset")
}

/// Pods that share an address: it is nobody's.
fn contested_pods(snapshot: &Snapshot) -> Vec<Advice> {
    if snapshot.contested_addresses() == 0 {
        return Vec::new();
    }
    let mut claims: HashMap<IpAddr, Vec<(&NamespacedName, &str)>> = HashMap::new();
    for pod in snapshot.workloads().filter(|pod| !pod.host_network) {
        for address in &pod.addresses {
            claims.entry(*address).or_default().push((&pod.name, "status.podIPs"));
        }
    }
    contested(Kind::Pod, claims, "nobody is known by it")
}

fn contested<A: std::fmt::Display>(
    kind: Kind,
    claims: HashMap<A, Vec<(&NamespacedName, &str)>>,
    effect: &str,
) -> Vec<Advice> {
    let mut advice = Vec::new();
    for (address, mut claimants) in claims.into_iter().filter(|(_, claimants)| claimants.len() > 1) {
        claimants.sort_unstable();
        let names: Vec<&NamespacedName> = claimants.iter().map(|(name, _)| *name).collect();
        for (name, field) in &claimants {
            let reason = format!("{address} is also that of {}: {effect}", others(kind, &names, name));
            advice.push(Advice {
                key: ObjectKey { kind, name: (*name).clone() },
                field: (*field).to_owned(),
                reason,
                effect: Effect::FieldIgnored,
            });
        }
    }
    advice
}

/// Policies on Services that are not there.
fn missing_services(snapshot: &Snapshot) -> Vec<Advice> {
    let mut advice = Vec::new();
    for policy in snapshot.authorization_policies() {
        let Scope::Services(services) = &policy.scope else { continue };
        for (index, service) in services.iter().enumerate() {
            if snapshot.service(service).is_none() {
                advice.push(Advice {
                    key: ObjectKey { kind: Kind::AuthorizationPolicy, name: policy.name.clone() },
                    field: format!("spec.targetRefs[{index}].name"),
                    reason: format!("there is no Service {service}: the policy protects nothing there"),
                    effect: Effect::Warning,
                });
            }
        }
    }
    advice
}

/// Policies about whole namespaces that have no pod. One in doubt may stand in several: nothing is said of it.
fn in_empty_namespaces(snapshot: &Snapshot) -> Vec<Advice> {
    let inhabited: HashSet<&Text> = snapshot.workloads().map(|pod| &pod.name.namespace).collect();
    let is_empty = |(_, _, scope): &Scoped<'_>| match scope {
        Scope::Namespace(namespace) => !inhabited.contains(namespace),
        Scope::Mesh | Scope::Selector { .. } | Scope::Services(_) => false,
    };
    let alone = scopes(snapshot).filter(is_empty).map(|(kind, name, _)| Advice {
        key: ObjectKey { kind, name: name.clone() },
        field: "metadata.namespace".to_owned(),
        reason: format!("no pod is in namespace {}: the policy is about nobody", name.namespace),
        effect: Effect::Warning,
    });
    alone.collect()
}

/// A policy of any kind, and whom it is about.
type Scoped<'a> = (Kind, &'a NamespacedName, &'a Scope);

/// Policies of every kind that are understood.
fn scopes(snapshot: &Snapshot) -> impl Iterator<Item = Scoped<'_>> {
    let authorization = snapshot.authorization_policies().filter(|policy| policy.fault.is_none());
    let authorization = authorization.map(|policy| (Kind::AuthorizationPolicy, &policy.name, &policy.scope));
    let peer = snapshot.all_peer_authentications();
    let request = snapshot.all_request_authentications().filter(|policy| policy.fault.is_none());
    let request = request.map(|policy| (Kind::RequestAuthentication, &policy.name, &policy.scope));
    let peer = peer.map(|policy| (Kind::PeerAuthentication, &policy.name, &policy.scope));
    authorization.chain(peer).chain(request)
}

/// Policies whose labels no pod has.
fn selecting_nobody(snapshot: &Snapshot) -> Vec<Advice> {
    let mut open: HashMap<(&Text, &Text), Vec<Scoped<'_>>> = HashMap::new();
    for (kind, name, scope) in scopes(snapshot) {
        if let Scope::Selector { labels, .. } = scope
            && let Some(label) = labels.first_key_value()
        {
            open.entry(label).or_default().push((kind, name, scope));
        }
    }
    let mut looks = Budget::default();
    for pod in snapshot.workloads() {
        if open.is_empty() || looks.is_spent() {
            break;
        }
        for label in &pod.details.labels {
            let Some(selecting) = open.get_mut(&label) else { continue };
            selecting.retain(|(_, _, scope)| !(looks.take(1) && scope.selects(pod)));
            if selecting.is_empty() {
                open.remove(&label);
            }
        }
    }
    let alone = open.into_values().flatten();
    if looks.is_spent() {
        return alone
            .min_by_key(|(kind, name, _)| (*kind, *name))
            .map(|(kind, name, _)| unfinished(kind, name))
            .into_iter()
            .collect();
    }
    let alone = alone.map(|(kind, name, _)| Advice {
        key: ObjectKey { kind, name: name.clone() },
        field: "spec.selector.matchLabels".to_owned(),
        reason: "no pod has these labels: the policy is about nobody".to_owned(),
        effect: Effect::Warning,
    });
    alone.collect()
}

/// The first of some objects but one, and how many more there are.
pub(super) fn others(kind: Kind, names: &[&NamespacedName], one: &NamespacedName) -> String {
    let others = names.iter().filter(|name| **name != one).map(|name| format!("{} {name}", kind.name()));
    first_of(others, names.len() - 1)
}
