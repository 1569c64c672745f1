//! PURE. PeerAuthentications that speak about the same pods: which of them counts.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mesh_common::model::policy::{PeerAuthentication, Scope};
use mesh_common::model::{NamespacedName, Text};
use mesh_common::snapshot::Snapshot;

use super::advice::{Advice, Budget, others, unfinished};
use super::object::{Kind, ObjectKey};
use super::store::first_of;
use super::translate::Effect;

/// Most comparisons of two policies that select one pod: some 10 ms.
const MAX_COMPARED: usize = 50_000;

/// What is to be known of each that is not alone.
pub(super) fn rivals(snapshot: &Snapshot) -> Vec<Advice> {
    let mut advice = of_one_scope(snapshot);
    advice.extend(of_one_pod(snapshot, &mut Budget::default(), &mut Budget::of(MAX_COMPARED)));
    advice
}

/// Those of which all workloads are the same.
fn of_one_scope(snapshot: &Snapshot) -> Vec<Advice> {
    let mut scopes: BTreeMap<String, Vec<&PeerAuthentication>> = BTreeMap::new();
    for policy in snapshot.all_peer_authentications() {
        scopes.entry(format!("{:?}", policy.scope)).or_default().push(policy);
    }
    let mut advice = Vec::new();
    for policies in scopes.values_mut().filter(|policies| policies.len() > 1) {
        policies.sort_unstable_by_key(|policy| &policy.name);
        let oldest = policies.iter().map(|policy| policy.created).filter(|created| *created > 0).min();
        let counts = |policy: &PeerAuthentication| policy.created == 0 || Some(policy.created) == oldest;
        let tied = policies.iter().filter(|policy| counts(policy)).count();
        let names: Vec<&NamespacedName> = policies.iter().map(|policy| &policy.name).collect();
        for policy in policies {
            let (outcome, effect) = match (counts(policy), tied) {
                (true, 1) => ("this one is the oldest and counts", Effect::Warning),
                (true, _) => ("no age ranks them, so the stricter mode of each port counts", Effect::Warning),
                (false, _) => ("an older one counts, this one does not", Effect::NotInForce),
            };
            let others = others(Kind::PeerAuthentication, &names, &policy.name);
            advice.push(about(policy, format!("is about the same workloads as {others}: {outcome}"), effect));
        }
    }
    advice
}

/// How one counts beside another one where both select a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Older,
    Tied,
    Younger,
}

impl Rank {
    fn of(policy: &PeerAuthentication, other: &PeerAuthentication) -> Self {
        match (policy.created, other.created) {
            (0, _) | (_, 0) => Self::Tied,
            (own, other) if own < other => Self::Older,
            (own, other) if own > other => Self::Younger,
            _ => Self::Tied,
        }
    }

    fn outcome(self) -> &'static str {
        match self {
            Self::Older => "this one is older and counts there",
            Self::Tied => "no age ranks them, so the stricter mode of each port counts there",
            Self::Younger => "that one is older and counts there, this one does not",
        }
    }
}

/// Those with different selectors that select one pod.
fn of_one_pod(snapshot: &Snapshot, looks: &mut Budget, comparisons: &mut Budget) -> Vec<Advice> {
    let mut found: BTreeMap<(&NamespacedName, Rank), Overlap<'_>> = BTreeMap::new();
    let by_name = by_name(snapshot);
    for (group, pod) in groups(snapshot, &by_name, looks) {
        let policies: Vec<&PeerAuthentication> =
            group.iter().map(|number| by_name[*number as usize]).collect();
        for (index, policy) in policies.iter().enumerate().take_while(|_| comparisons.take(policies.len())) {
            for (rank, others) in ranked(&policies, index) {
                let overlap = found.entry((&policy.name, rank));
                let overlap = overlap.or_insert_with(|| Overlap { policy, pod, others: BTreeSet::new() });
                overlap.pod = overlap.pod.min(pod);
                overlap.others.extend(others);
            }
        }
    }
    let found = found.into_iter().map(|((_, rank), Overlap { policy, pod, others })| {
        let count = others.len();
        let named = others.into_iter().map(|name| format!("{} {name}", Kind::PeerAuthentication.name()));
        let named = first_of(named, count);
        let reason = format!("Pod {pod} is also selected by {named}: {}", rank.outcome());
        about(policy, reason, Effect::Warning)
    });
    let mut advice: Vec<Advice> = found.collect();
    if looks.is_spent() || comparisons.is_spent() {
        let names = snapshot.all_peer_authentications().map(|policy| &policy.name);
        advice.extend(names.min().map(|name| unfinished(Kind::PeerAuthentication, name)));
    }
    advice
}

/// The others of a group that select otherwise than one of it, by how that one counts beside them.
fn ranked<'a>(policies: &[&'a PeerAuthentication], index: usize) -> BTreeMap<Rank, Vec<&'a NamespacedName>> {
    let policy = policies[index];
    let mut ranked: BTreeMap<Rank, Vec<&NamespacedName>> = BTreeMap::new();
    for other in policies.iter().filter(|other| other.scope != policy.scope) {
        ranked.entry(Rank::of(policy, other)).or_default().push(&other.name);
    }
    ranked
}

/// Those that rank alike against a policy, and the first pod that they share with it.
struct Overlap<'a> {
    policy: &'a PeerAuthentication,
    pod: &'a NamespacedName,
    others: BTreeSet<&'a NamespacedName>,
}

/// Those that select pods by label, by name: a number in it stands for each, and costs little to sort and to compare.
fn by_name(snapshot: &Snapshot) -> Vec<&PeerAuthentication> {
    let selects = |policy: &&PeerAuthentication| matches!(policy.scope, Scope::Selector { .. });
    let policies = snapshot.all_peer_authentications().map(|policy| &**policy);
    let mut policies: Vec<&PeerAuthentication> = policies.filter(selects).collect();
    policies.sort_unstable_by_key(|policy| &policy.name);
    policies
}

/// Policies of which two or more select one pod, by number; each group once, with the first of its pods.
fn groups<'a>(
    snapshot: &'a Snapshot,
    by_name: &[&'a PeerAuthentication],
    looks: &mut Budget,
) -> BTreeMap<Vec<u32>, &'a NamespacedName> {
    let mut by_label: HashMap<(&Text, &Text), Vec<u32>> = HashMap::new();
    for (number, policy) in (0..).zip(by_name) {
        if let Scope::Selector { labels, .. } = &policy.scope
            && let Some(label) = labels.first_key_value()
        {
            by_label.entry(label).or_default().push(number);
        }
    }
    let mut groups: BTreeMap<Vec<u32>, &NamespacedName> = BTreeMap::new();
    for pod in snapshot.workloads().filter(|_| !by_label.is_empty()) {
        let candidates = pod.details.labels.iter().filter_map(|label| by_label.get(&label)).flatten();
        let candidates = candidates.copied().take_while(|_| looks.take(1));
        let mut policies: Vec<u32> =
            candidates.filter(|number| by_name[*number as usize].scope.selects(pod)).collect();
        if policies.len() > 1 {
            policies.sort_unstable();
            let first = groups.entry(policies).or_insert(&pod.name);
            *first = (*first).min(&pod.name);
        }
    }
    groups
}

fn about(policy: &PeerAuthentication, reason: String, effect: Effect) -> Advice {
    let key = ObjectKey { kind: Kind::PeerAuthentication, name: policy.name.clone() };
    Advice { key, field: "spec.selector".to_owned(), reason, effect }
}
