//! Services in the tables: their addresses, and the endpoints of their ports.
//!
//! Endpoints come from the Service's EndpointSlices; where there is none and the Service has a selector, they are
//! derived from the pods as the EndpointSlice controller of Kubernetes would.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::addresses_of;
use super::record::{Membership, ServiceRecord};
use super::table::Left;
use super::tables::{Applied, Tables, take_from};
use crate::model::{
    Endpoint, EndpointSlice, EndpointState, NamespacedName, Service, ServicePort, TargetPort, Text, Workload,
    WorkloadUid,
};

/// What endpoints are made of.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    slices: HashMap<NamespacedName, Arc<EndpointSlice>>,
    slices_by_service: HashMap<NamespacedName, BTreeSet<NamespacedName>>,
    /// Services by namespace and the first label of their selector.
    by_selector: HashMap<(Text, Text, Text), BTreeSet<NamespacedName>>,
}

impl Endpoints {
    pub(super) fn slice(&self, name: &NamespacedName) -> Option<&Arc<EndpointSlice>> {
        self.slices.get(name)
    }
}

impl Tables {
    pub(super) fn put_service(&mut self, service: Arc<Service>) -> Applied {
        if self.state.services.get(&service.name).is_some_and(|record| record.service == service) {
            return Applied::Same;
        }
        self.remove_service(&service.name);
        if let Some(label) = selector_key(&service) {
            self.endpoints.by_selector.entry(label).or_default().insert(service.name.clone());
        }
        self.stale.services.insert(service.name.clone());
        let endpoints = service.ports.iter().map(|_| Arc::default()).collect();
        self.index(Arc::new(ServiceRecord { service, endpoints }));
        Applied::Changed
    }

    pub(super) fn remove_service(&mut self, name: &NamespacedName) -> Applied {
        let Some(record) = self.state.services.remove(name) else { return Applied::Same };
        if let Some(label) = selector_key(&record.service) {
            take_from(&mut self.endpoints.by_selector, &label, name);
        }
        self.forget_memberships(&record);
        for address in addresses_of(&record.service) {
            self.state.service_addresses.update(&address, |claims| claims.remove(name));
        }
        for node_port in node_ports(&record.service) {
            self.state.node_ports.update(&node_port, |claims| claims.remove(name));
        }
        Applied::Changed
    }

    pub(super) fn put_endpoint_slice(&mut self, slice: Arc<EndpointSlice>) -> Applied {
        if self.endpoints.slices.get(&slice.name) == Some(&slice) {
            return Applied::Same;
        }
        self.remove_endpoint_slice(&slice.name);
        let of_service = self.endpoints.slices_by_service.entry(slice.service.clone()).or_default();
        of_service.insert(slice.name.clone());
        self.stale.services.insert(slice.service.clone());
        self.endpoints.slices.insert(slice.name.clone(), slice);
        Applied::Changed
    }

    pub(super) fn remove_endpoint_slice(&mut self, name: &NamespacedName) -> Applied {
        let Some(slice) = self.endpoints.slices.remove(name) else { return Applied::Same };
        take_from(&mut self.endpoints.slices_by_service, &slice.service, name);
        self.stale.services.insert(slice.service.clone());
        Applied::Changed
    }

    pub(super) fn mark_services_that_select(&mut self, workload: &Workload) {
        let namespace = &workload.name.namespace;
        for (key, value) in &workload.details.labels {
            let label = (Arc::clone(namespace), Arc::clone(key), Arc::clone(value));
            for name in self.endpoints.by_selector.get(&label).into_iter().flatten() {
                let service = self.state.services.get(name).map(|record| &record.service);
                if service.is_some_and(|service| workload.has_labels(&service.selector)) {
                    self.stale.services.insert(name.clone());
                }
            }
        }
    }

    pub(super) fn refresh_services(&mut self) {
        for name in std::mem::take(&mut self.stale.services) {
            let Some(record) = self.state.services.get(&name).cloned() else { continue };
            let endpoints = self.endpoints_of(&record.service);
            if endpoints == record.endpoints {
                continue;
            }
            let renewed = Arc::new(ServiceRecord { service: Arc::clone(&record.service), endpoints });
            self.renew_memberships(&record, &renewed);
            self.index(renewed);
        }
    }

    fn index(&mut self, record: Arc<ServiceRecord>) {
        for address in addresses_of(&record.service) {
            self.state.service_addresses.update(&address, |claims| claims.insert(Arc::clone(&record)));
        }
        for node_port in node_ports(&record.service) {
            self.state.node_ports.update(&node_port, |claims| claims.insert(Arc::clone(&record)));
        }
        self.state.services.insert(record.service.name.clone(), record);
    }

    /// Endpoints that only changed their state, as most changes are, keep their memberships.
    fn renew_memberships(&mut self, old: &ServiceRecord, new: &ServiceRecord) {
        let (before, after) = (members(old), members(new));
        before.difference(&after).for_each(|member| self.forget_membership(&new.service, *member));
        after.difference(&before).for_each(|member| self.learn_membership(&new.service, *member));
    }

    fn forget_memberships(&mut self, record: &ServiceRecord) {
        members(record).into_iter().for_each(|member| self.forget_membership(&record.service, member));
    }

    fn learn_membership(&mut self, service: &Arc<Service>, (address, port, index, workload): Member<'_>) {
        let membership = Membership { service: Arc::clone(service), index, workload: workload.cloned() };
        self.state.memberships.update(&(address, port), |memberships| {
            let place = memberships.binary_search_by(|other| other.order().cmp(&membership.order()));
            memberships.insert(place.unwrap_or_else(|place| place), membership);
            Left::Something
        });
    }

    fn forget_membership(&mut self, service: &Service, (address, port, index, workload): Member<'_>) {
        let order = (&service.name, index, workload);
        self.state.memberships.update(&(address, port), |memberships| {
            if let Ok(place) = memberships.binary_search_by(|other| other.order().cmp(&order)) {
                memberships.remove(place);
            }
            Left::unless(memberships.is_empty())
        });
    }

    fn endpoints_of(&self, service: &Service) -> SmallVec<[Arc<[Endpoint]>; 1]> {
        let mut by_port: BTreeMap<&Text, Vec<Arc<[Endpoint]>>> = BTreeMap::new();
        match self.endpoints.slices_by_service.get(&service.name) {
            Some(names) => {
                for port in names.iter().flat_map(|name| &self.endpoints.slices[name].ports) {
                    by_port.entry(&port.name).or_default().push(Arc::clone(&port.endpoints));
                }
            }
            None if service.selector.is_empty() => {}
            None => {
                let namespace = Some(&service.name.namespace);
                let pods = self.labels.selected(namespace, &service.selector, |uid| self.state.workload(uid));
                for port in &service.ports {
                    let endpoints = pods.iter().flat_map(|pod| derive(service, port, pod));
                    by_port.entry(&port.name).or_default().push(endpoints.collect());
                }
            }
        }
        let of_port = |port: &ServicePort| merged(&by_port.remove(&port.name).unwrap_or_default());
        service.ports.iter().map(of_port).collect()
    }
}

/// The endpoints of a port, sorted, each once. Those of one slice, as most are, are not copied if they are so already.
fn merged(parts: &[Arc<[Endpoint]>]) -> Arc<[Endpoint]> {
    fn place(endpoint: &Endpoint) -> (IpAddr, u16, Option<&WorkloadUid>) {
        (endpoint.address, endpoint.port, endpoint.workload.as_ref())
    }
    if let [only] = parts
        && only.is_sorted_by(|one, next| place(one) < place(next))
    {
        return Arc::clone(only);
    }
    let mut endpoints = parts.concat();
    endpoints.sort_unstable();
    // One pod may stand in two slices for a moment; the better state sorts first.
    endpoints.dedup_by(|later, earlier| place(later) == place(earlier));
    endpoints.into()
}

/// An endpoint as a member of a Service: its address and port, which port of the Service, the pod it is about.
type Member<'a> = (IpAddr, u16, usize, Option<&'a WorkloadUid>);

fn members(record: &ServiceRecord) -> BTreeSet<Member<'_>> {
    let mut members = BTreeSet::new();
    for (index, endpoints) in record.endpoints.iter().enumerate() {
        members.extend(
            endpoints.iter().map(|member| (member.address, member.port, index, member.workload.as_ref())),
        );
    }
    members
}

/// The endpoints of one pod behind one Service port: one for each of its addresses.
fn derive<'a>(
    service: &'a Service,
    port: &'a ServicePort,
    pod: &'a Workload,
) -> impl Iterator<Item = Endpoint> + 'a {
    let target = match &port.target_port {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Named(name) => {
            pod.details.named_ports.iter().find(|(other, _)| other == name).map(|(_, port)| *port)
        }
    };
    // As EndpointSlice's `ready` is computed: `publishNotReadyAddresses`, or ready and not being deleted.
    let state_of_pod = match (service.publish_not_ready, pod.ready, pod.terminating) {
        (true, _, _) | (false, true, false) => EndpointState::Ready,
        (false, true, true) => EndpointState::ServingTerminating,
        (false, false, _) => EndpointState::NotReady,
    };
    let endpoint = move |(&address, port): (&IpAddr, u16)| Endpoint {
        address,
        port,
        workload: Some(pod.uid.clone()),
        state: state_of_pod,
        node: Arc::clone(&pod.node),
        zone: Text::default(),
        hint_zones: Box::default(),
        hint_nodes: Box::default(),
    };
    // A Service has endpoints of its own families (`ipFamilies`), which are those of its cluster IPs.
    let is_of_family = |address: &&IpAddr| {
        service.cluster_ips.is_empty()
            || service.cluster_ips.iter().any(|own| own.is_ipv4() == address.is_ipv4())
    };
    let addresses = pod.addresses.iter().filter(is_of_family);
    target
        .into_iter()
        .flat_map(move |port| addresses.clone().map(move |address| (address, port)))
        .map(endpoint)
}

fn selector_key(service: &Service) -> Option<(Text, Text, Text)> {
    let (key, value) = service.selector.first_key_value()?;
    Some((Arc::clone(&service.name.namespace), Arc::clone(key), Arc::clone(value)))
}

fn node_ports(service: &Service) -> impl Iterator<Item = u16> {
    service.ports.iter().filter_map(|port| port.node_port)
}
