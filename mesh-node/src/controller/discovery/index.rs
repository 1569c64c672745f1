//! What an address leads to: who has it, and which Services have endpoints there.
//!
//! In: the deltas that the cache takes. Out: names of resources, for agents that are told only what they ask for.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_common::model::{Endpoint, EndpointSlice, NamespacedName, Service, Text, Workload};
use mesh_common::snapshot::Delta;
use smallvec::SmallVec;

/// Names of resources of one type.
type Names = SmallVec<[Text; 1]>;

/// Services, EndpointSlices and pods, by the names of their resources and by what they have to do with addresses.
#[derive(Debug, Default)]
pub(super) struct Index {
    services: HashMap<Text, Arc<Service>>,
    slices: HashMap<Text, Arc<EndpointSlice>>,
    workloads: HashMap<Text, Arc<Workload>>,
    services_at: HashMap<IpAddr, Names>,
    services_on: HashMap<u16, Names>,
    slices_of: HashMap<Text, Names>,
    slices_at: HashMap<IpAddr, Names>,
    workloads_at: HashMap<IpAddr, Names>,
}

impl Index {
    pub(super) fn take(&mut self, delta: &Delta) {
        match delta {
            Delta::UpsertService(service) => self.put_service(service),
            Delta::RemoveService(name) => self.remove_service(&named(name)),
            Delta::UpsertEndpointSlice(slice) => self.put_slice(slice),
            Delta::RemoveEndpointSlice(name) => self.remove_slice(&named(name)),
            Delta::UpsertWorkload(workload) => self.put_workload(workload),
            Delta::RemoveWorkload(uid) => self.remove_workload(&uid.0),
            _ => {}
        }
    }

    /// The Service of a resource's name.
    pub(super) fn service(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// The EndpointSlice of a resource's name.
    pub(super) fn slice(&self, name: &str) -> Option<&Arc<EndpointSlice>> {
        self.slices.get(name)
    }

    /// The pod of a uid.
    pub(super) fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The Services that are dialled at an address.
    pub(super) fn services_at(&self, address: IpAddr) -> &[Text] {
        names(&self.services_at, &address)
    }

    /// The Services that have a node port.
    pub(super) fn services_on(&self, port: u16) -> &[Text] {
        names(&self.services_on, &port)
    }

    /// The EndpointSlices of a Service.
    pub(super) fn slices_of(&self, service: &str) -> &[Text] {
        names(&self.slices_of, service)
    }

    /// The EndpointSlices with an endpoint at an address.
    pub(super) fn slices_at(&self, address: IpAddr) -> &[Text] {
        names(&self.slices_at, &address)
    }

    /// The pods that have an address, those of the node's network too.
    pub(super) fn workloads_at(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Workload>> {
        names(&self.workloads_at, &address).iter().filter_map(|uid| self.workloads.get(uid))
    }

    fn put_service(&mut self, service: &Arc<Service>) {
        let name = named(&service.name);
        self.remove_service(&name);
        for address in addresses(service) {
            add(&mut self.services_at, address, &name);
        }
        for port in node_ports(service) {
            add(&mut self.services_on, port, &name);
        }
        self.services.insert(name, Arc::clone(service));
    }

    fn remove_service(&mut self, name: &str) {
        let Some(service) = self.services.remove(name) else { return };
        addresses(&service).for_each(|address| take_away(&mut self.services_at, &address, name));
        node_ports(&service).for_each(|port| take_away(&mut self.services_on, &port, name));
    }

    fn put_slice(&mut self, slice: &Arc<EndpointSlice>) {
        let name = named(&slice.name);
        self.remove_slice(&name);
        for endpoint in endpoints(slice) {
            add(&mut self.slices_at, endpoint.address, &name);
        }
        add(&mut self.slices_of, named(&slice.service), &name);
        self.slices.insert(name, Arc::clone(slice));
    }

    fn remove_slice(&mut self, name: &str) {
        let Some(slice) = self.slices.remove(name) else { return };
        endpoints(&slice).for_each(|endpoint| take_away(&mut self.slices_at, &endpoint.address, name));
        take_away(&mut self.slices_of, &*named(&slice.service), name);
    }

    fn put_workload(&mut self, workload: &Arc<Workload>) {
        let name = &workload.uid.0;
        self.remove_workload(name);
        for address in &workload.addresses {
            add(&mut self.workloads_at, *address, name);
        }
        self.workloads.insert(Arc::clone(name), Arc::clone(workload));
    }

    fn remove_workload(&mut self, name: &str) {
        let Some(workload) = self.workloads.remove(name) else { return };
        workload.addresses.iter().for_each(|address| take_away(&mut self.workloads_at, address, name));
    }
}

/// The endpoints of all ports of a slice.
pub(super) fn endpoints(slice: &EndpointSlice) -> impl Iterator<Item = &Endpoint> {
    slice.ports.iter().flat_map(|port| port.endpoints.iter())
}

/// The addresses at which a Service is dialled.
pub(super) fn addresses(service: &Service) -> impl Iterator<Item = IpAddr> {
    service.cluster_ips.iter().chain(&service.external_addresses).copied()
}

/// The ports of nodes at which a Service is dialled.
pub(super) fn node_ports(service: &Service) -> impl Iterator<Item = u16> {
    service.ports.iter().filter_map(|port| port.node_port)
}

/// The name of a resource of an object.
pub(super) fn named(name: &NamespacedName) -> Text {
    format!("{}/{}", name.namespace, name.name).into()
}

fn names<'a, K, Q>(map: &'a HashMap<K, Names>, key: &Q) -> &'a [Text]
where
    K: Hash + Eq + std::borrow::Borrow<Q>,
    Q: Hash + Eq + ?Sized,
{
    map.get(key).map_or(&[], |names| names)
}

/// A slice names an address once for each of its ports.
fn add<K: Hash + Eq>(map: &mut HashMap<K, Names>, key: K, name: &Text) {
    let names = map.entry(key).or_default();
    if !names.contains(name) {
        names.push(Arc::clone(name));
    }
}

fn take_away<K, Q>(map: &mut HashMap<K, Names>, key: &Q, name: &str)
where
    K: Hash + Eq + std::borrow::Borrow<Q>,
    Q: Hash + Eq + ?Sized,
{
    let Some(names) = map.get_mut(key) else { return };
    names.retain(|other| **other != *name);
    if names.is_empty() {
        map.remove(key);
    }
}
