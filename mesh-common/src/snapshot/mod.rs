//! What is known now: an immutable [`Snapshot`], made by [`Tables`] from [`Delta`]s.
//!
//! One task owns the tables and publishes snapshots; everybody else reads. A snapshot shares all that did not
//! change with the one before. Any order of the same deltas gives the same snapshot. Endpoints are derived here,
//! from Services and pods, where a Service has no EndpointSlice: only the tables see both, in whatever order they
//! come. An address that two claim is nobody's, until one of them is gone.

mod asked;
mod claims;
mod delta;
mod network;
mod policy_set;
mod record;
mod request_authentications;
mod rule_index;
mod scopes;
mod services;
mod table;
mod tables;
mod workloads;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use smallvec::SmallVec;

pub use asked::Questions;
pub use delta::Delta;
pub use policy_set::{Effect, EffectRules, PolicySet, RuleId};
pub use record::{Membership, ServicePortRecord, ServiceRecord};
pub use rule_index::{Query, RequestQuery, RuleIndex};
pub use tables::{Applied, Tables};

use self::claims::Claims;
use self::network::Networks;
use self::record::WorkloadRecord;
use self::request_authentications::ByScope;
use self::table::Table;
use crate::model::{
    AuthorizationPolicy, MeshSettings, NamespacedName, Node, PeerAuthentication, Question,
    RequestAuthentication, Service, Text, Workload, WorkloadUid,
};

/// The policy sets that speak about one workload and port: of the mesh, its namespace, its labels, its Services.
pub type PolicySets<'a> = SmallVec<[&'a PolicySet; 4]>;

/// Everything that is known, at one moment. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    generation: u64,
    settings: Arc<MeshSettings>,
    workloads: Table<WorkloadUid, WorkloadRecord>,
    workload_addresses: Table<IpAddr, Claims<Workload>>,
    workloads_by_node: Table<Text, Arc<BTreeMap<WorkloadUid, Arc<Workload>>>>,
    services: Table<NamespacedName, Arc<ServiceRecord>>,
    service_addresses: Table<IpAddr, Claims<ServiceRecord>>,
    node_ports: Table<u16, Claims<ServiceRecord>>,
    memberships: Table<(IpAddr, u16), SmallVec<[Membership; 1]>>,
    nodes: Table<Text, Arc<Node>>,
    node_addresses: Table<IpAddr, Claims<Node>>,
    /// Where pods and Services live, known or not.
    inside: Arc<Networks<()>>,
    authorization_policies: Table<NamespacedName, Arc<AuthorizationPolicy>>,
    peer_authentications: Table<NamespacedName, Arc<PeerAuthentication>>,
    request_authentications: Table<NamespacedName, Arc<RequestAuthentication>>,
    request_authentications_by_scope: Arc<ByScope>,
    mesh_policies: Option<Arc<PolicySet>>,
    namespace_policies: Table<Text, Arc<PolicySet>>,
    service_policies: Table<NamespacedName, Arc<PolicySet>>,
    mesh_peer_authentication: Option<Arc<PeerAuthentication>>,
    namespace_peer_authentications: Table<Text, Arc<PeerAuthentication>>,
    /// Addresses that more than one pod claims.
    contested: usize,
    /// What is known whole; `None` if that is everything.
    asked: Option<Table<Question, ()>>,
}

/// What an address is known as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known<'a, T> {
    /// Nobody claims it.
    Nobody,
    /// It is this one's.
    Sole(&'a Arc<T>),
    /// Several claim it: it cannot be said whose it is.
    Contested,
}

/// What a Service address and port is known as.
#[derive(Clone, Debug, PartialEq)]
pub enum KnownService {
    /// No Service has the address.
    Nobody,
    /// This port of this Service.
    Port(ServicePortRecord),
    /// A Service has the address, none has the port there.
    NoSuchPort,
    /// Several Services claim the address and port.
    Contested,
}

/// The PeerAuthentications that speak about one workload, the most specific first.
#[derive(Clone, Copy, Debug)]
pub struct PeerAuthentications<'a> {
    /// Selects the workload by labels; the only one whose `portLevelMtls` counts.
    pub workload: Option<&'a Arc<PeerAuthentication>>,
    /// Of its namespace.
    pub namespace: Option<&'a Arc<PeerAuthentication>>,
    /// Of the mesh.
    pub mesh: Option<&'a Arc<PeerAuthentication>>,
}

impl Snapshot {
    /// Counts up with every snapshot that differs from the one before.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What holds for the whole mesh.
    pub fn settings(&self) -> &MeshSettings {
        &self.settings
    }

    /// The pod of this uid.
    pub fn workload(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid).map(|record| &record.workload)
    }

    /// All pods, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.iter().map(|(_, record)| &record.workload)
    }

    /// The pod that has this address; `None` also if several claim it. Never a hostNetwork pod.
    pub fn workload_at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        match self.workload_claim(address) {
            Known::Sole(workload) => Some(workload),
            Known::Nobody | Known::Contested => None,
        }
    }

    /// Whose pod address this is, and whether that can be said.
    pub fn workload_claim(&self, address: IpAddr) -> Known<'_, Workload> {
        match self.workload_addresses.get(&address).map(Claims::all) {
            None | Some([]) => Known::Nobody,
            Some([workload]) => Known::Sole(workload),
            Some(_) => Known::Contested,
        }
    }

    /// How many addresses more than one pod claims.
    pub fn contested_addresses(&self) -> usize {
        self.contested
    }

    /// The pods of a node, by uid.
    pub fn workloads_on(&self, node: &str) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads_by_node.get(node).into_iter().flat_map(|workloads| workloads.values())
    }

    /// A Service with its endpoints.
    pub fn service(&self, name: &NamespacedName) -> Option<&Arc<ServiceRecord>> {
        self.services.get(name)
    }

    /// All Services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceRecord>> {
        self.services.iter().map(|(_, record)| record)
    }

    /// The Service port that a pod means by dialling an address: a cluster IP, an external address, or a node port
    /// at an address of a node.
    pub fn service_at(&self, address: SocketAddr) -> KnownService {
        if let Some(claims) = self.service_addresses.get(&address.ip()) {
            return service_port(claims, |port| port.port == address.port());
        }
        match self.node_addresses.get(&address.ip()).and_then(|_| self.node_ports.get(&address.port())) {
            Some(claims) => service_port(claims, |port| port.node_port == Some(address.port())),
            None => KnownService::Nobody,
        }
    }

    /// The Service ports that have this endpoint, in whatever state, by the Services' names.
    pub fn memberships(&self, address: SocketAddr) -> &[Membership] {
        self.memberships.get(&(address.ip(), address.port())).map_or(&[], |memberships| memberships)
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(name)
    }

    /// All nodes, in no order.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.iter().map(|(_, node)| node)
    }

    /// Whether an address belongs to a range of pods or Services, so that it is not outside the mesh even if
    /// nothing else is known of it.
    pub fn is_inside(&self, address: IpAddr) -> bool {
        self.inside.hold(address)
    }

    /// The AuthorizationPolicies that speak about connections to a pod at this address and port, however dialled.
    /// `None` if the pod is not known.
    pub fn policy_sets(&self, uid: &WorkloadUid, address: SocketAddr) -> Option<PolicySets<'_>> {
        let record = self.workloads.get(uid)?;
        let mut sets = PolicySets::new();
        sets.extend(self.mesh_policies.as_deref());
        sets.extend(self.namespace_policies.get(&*record.workload.name.namespace).map(|set| &**set));
        sets.extend(record.policies.as_deref());
        for membership in
            self.memberships(address).iter().filter(|membership| membership.is_about(&record.workload))
        {
            sets.extend(self.service_policies.get(&membership.service.name).map(|set| &**set));
        }
        Some(sets)
    }

    /// The PeerAuthentications that speak about a pod. `None` if the pod is not known.
    pub fn peer_authentications(&self, uid: &WorkloadUid) -> Option<PeerAuthentications<'_>> {
        let record = self.workloads.get(uid)?;
        Some(PeerAuthentications {
            workload: record.peer_authentication.as_ref(),
            namespace: self.namespace_peer_authentications.get(&*record.workload.name.namespace),
            mesh: self.mesh_peer_authentication.as_ref(),
        })
    }

    /// The RequestAuthentications that speak about requests to a pod at this address and port, however dialled, by their
    /// names. `None` if the pod is not known.
    pub fn request_authentications(
        &self,
        uid: &WorkloadUid,
        address: SocketAddr,
    ) -> Option<SmallVec<[&Arc<RequestAuthentication>; 4]>> {
        if self.request_authentications_by_scope.is_empty() {
            return Some(SmallVec::new());
        }
        let workload = self.workload(uid)?;
        let members = self.memberships(address).iter().filter(|membership| membership.is_about(workload));
        let services = members.map(|membership| &membership.service.name);
        Some(self.request_authentications_by_scope.about(workload, services))
    }

    /// All RequestAuthentications, in no order, also those that are about nobody.
    pub fn all_request_authentications(&self) -> impl Iterator<Item = &Arc<RequestAuthentication>> {
        self.request_authentications.iter().map(|(_, policy)| policy)
    }

    /// An AuthorizationPolicy.
    pub fn authorization_policy(&self, name: &NamespacedName) -> Option<&Arc<AuthorizationPolicy>> {
        self.authorization_policies.get(name)
    }

    /// All AuthorizationPolicies, in no order, also those that are about nobody.
    pub fn authorization_policies(&self) -> impl Iterator<Item = &Arc<AuthorizationPolicy>> {
        self.authorization_policies.iter().map(|(_, policy)| policy)
    }

    /// All PeerAuthentications, in no order, also those that are about nobody.
    pub fn all_peer_authentications(&self) -> impl Iterator<Item = &Arc<PeerAuthentication>> {
        self.peer_authentications.iter().map(|(_, policy)| policy)
    }

    /// Whether two snapshots say the same; their generations are not compared.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        self.settings == other.settings
            && self.workloads == other.workloads
            && self.workload_addresses == other.workload_addresses
            && self.workloads_by_node == other.workloads_by_node
            && self.services == other.services
            && self.service_addresses == other.service_addresses
            && self.node_ports == other.node_ports
            && self.memberships == other.memberships
            && self.nodes == other.nodes
            && self.node_addresses == other.node_addresses
            && self.inside == other.inside
            && self.authorization_policies == other.authorization_policies
            && self.peer_authentications == other.peer_authentications
            && self.request_authentications == other.request_authentications
            && self.request_authentications_by_scope == other.request_authentications_by_scope
            && self.mesh_policies == other.mesh_policies
            && self.namespace_policies == other.namespace_policies
            && self.service_policies == other.service_policies
            && self.mesh_peer_authentication == other.mesh_peer_authentication
            && self.namespace_peer_authentications == other.namespace_peer_authentications
            && self.contested == other.contested
            && self.asked == other.asked
    }
}

fn service_port(
    claims: &Claims<ServiceRecord>,
    is_meant: impl Fn(&crate::model::ServicePort) -> bool,
) -> KnownService {
    let mut found = KnownService::NoSuchPort;
    for record in claims.all() {
        let Some(index) = record.service.ports.iter().position(&is_meant) else { continue };
        if found != KnownService::NoSuchPort {
            return KnownService::Contested;
        }
        found = KnownService::Port(ServicePortRecord { record: Arc::clone(record), index });
    }
    found
}

/// The addresses at which a Service is dialled.
fn addresses_of(service: &Service) -> impl Iterator<Item = IpAddr> {
    service.cluster_ips.iter().chain(&service.external_addresses).copied()
}
