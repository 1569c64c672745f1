//! Pods in the tables: who has which address, which node, which labels.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::record::WorkloadRecord;
use super::table::Left;
use super::tables::{Applied, Tables};
use crate::model::{Text, Workload, WorkloadUid};

/// Pods by label and namespace, so that a selector finds its pods without asking all.
#[derive(Debug, Default)]
pub(super) struct Labels(HashMap<(Text, Text), BTreeMap<Text, BTreeSet<WorkloadUid>>>);

impl Labels {
    fn insert(&mut self, workload: &Workload) {
        for (key, value) in &workload.details.labels {
            let by_namespace = self.0.entry((Arc::clone(key), Arc::clone(value))).or_default();
            by_namespace
                .entry(Arc::clone(&workload.name.namespace))
                .or_default()
                .insert(workload.uid.clone());
        }
    }

    fn remove(&mut self, workload: &Workload) {
        for (key, value) in &workload.details.labels {
            let label = (Arc::clone(key), Arc::clone(value));
            let Some(by_namespace) = self.0.get_mut(&label) else { continue };
            if let Some(uids) = by_namespace.get_mut(&workload.name.namespace) {
                uids.remove(&workload.uid);
                if uids.is_empty() {
                    by_namespace.remove(&workload.name.namespace);
                }
            }
            if by_namespace.is_empty() {
                self.0.remove(&label);
            }
        }
    }

    /// The pods that have all labels of a selector that is not empty, in one namespace or in all.
    pub(super) fn selected<'a>(
        &'a self,
        namespace: Option<&'a Text>,
        selector: &BTreeMap<Text, Text>,
        workload: impl Fn(&WorkloadUid) -> Option<&'a Arc<Workload>>,
    ) -> Vec<&'a Arc<Workload>> {
        let mut rarest: Option<Vec<&BTreeSet<WorkloadUid>>> = None;
        let count = |sets: &[&BTreeSet<WorkloadUid>]| sets.iter().map(|set| set.len()).sum::<usize>();
        for (key, value) in selector {
            let by_namespace = self.0.get(&(Arc::clone(key), Arc::clone(value)));
            let sets: Vec<_> = match (by_namespace, namespace) {
                (None, _) => Vec::new(),
                (Some(sets), Some(namespace)) => sets.get(namespace).into_iter().collect(),
                (Some(sets), None) => sets.values().collect(),
            };
            if rarest.as_ref().is_none_or(|rarest| count(&sets) < count(rarest)) {
                rarest = Some(sets);
            }
        }
        let candidates = rarest.into_iter().flatten().flatten().filter_map(workload);
        candidates.filter(|workload| workload.has_labels(selector)).collect()
    }
}

impl Tables {
    pub(super) fn put_workload(&mut self, workload: Arc<Workload>) -> Applied {
        if self.state.workload(&workload.uid) == Some(&workload) {
            return Applied::Same;
        }
        self.remove_workload(&workload.uid);
        for &address in claimed_addresses(&workload) {
            self.update_address(address, |claims| claims.insert(Arc::clone(&workload)));
        }
        self.state.workloads_by_node.update(&workload.node, |workloads| {
            Arc::make_mut(workloads).insert(workload.uid.clone(), Arc::clone(&workload));
            Left::Something
        });
        self.labels.insert(&workload);
        self.mark_services_that_select(&workload);
        self.stale.workload_policies.insert(workload.uid.clone());
        let record =
            WorkloadRecord { workload: Arc::clone(&workload), policies: None, peer_authentication: None };
        self.state.workloads.insert(workload.uid.clone(), record);
        Applied::Changed
    }

    pub(super) fn remove_workload(&mut self, uid: &WorkloadUid) -> Applied {
        let Some(record) = self.state.workloads.remove(uid) else { return Applied::Same };
        let workload = &record.workload;
        for &address in claimed_addresses(workload) {
            self.update_address(address, |claims| claims.remove(uid));
        }
        self.state.workloads_by_node.update(&workload.node, |workloads| {
            Arc::make_mut(workloads).remove(uid);
            Left::unless(workloads.is_empty())
        });
        self.labels.remove(workload);
        self.mark_services_that_select(workload);
        Applied::Changed
    }

    fn update_address(
        &mut self,
        address: IpAddr,
        change: impl FnOnce(&mut super::claims::Claims<Workload>) -> Left,
    ) {
        let contested = &mut self.state.contested;
        self.state.workload_addresses.update(&address, |claims| {
            *contested -= usize::from(claims.all().len() > 1);
            let left = change(claims);
            *contested += usize::from(claims.all().len() > 1);
            left
        });
    }
}

/// The addresses that are a pod's own: those of a hostNetwork pod are its node's.
fn claimed_addresses(workload: &Workload) -> &[IpAddr] {
    if workload.host_network { &[] } else { &workload.addresses }
}
