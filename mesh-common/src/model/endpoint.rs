//! Where a Service port leads.

use std::net::IpAddr;
use std::sync::Arc;

use super::name::{NamespacedName, Text};
use super::workload::WorkloadUid;

/// One address and port behind a Service port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The pod's address, or one outside the cluster.
    pub address: IpAddr,
    /// The target port.
    pub port: u16,
    /// The pod behind it, where `targetRef` or the derivation names one.
    pub workload: Option<WorkloadUid>,
    /// Whether it takes new connections.
    pub state: EndpointState,
    /// `nodeName`; empty if unknown.
    pub node: Text,
    /// `zone`; where it is empty, that of the node.
    pub zone: Text,
    /// `hints.forZones`; empty means every zone.
    pub hint_zones: Box<[Text]>,
    /// `hints.forNodes`; empty means every node.
    pub hint_nodes: Box<[Text]>,
}

/// A `discovery.k8s.io/v1` EndpointSlice over TCP. Where a Service has any, they are its endpoints; where it has
/// none, the snapshot derives them from its selector and the pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub name: NamespacedName,
    /// Label `kubernetes.io/service-name`, in the slice's namespace.
    pub service: NamespacedName,
    /// Endpoints by the name of the Service's port.
    pub ports: Vec<SlicePort>,
}

/// The endpoints of an EndpointSlice on one of its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// `ports[].name`, which is the name of the Service's port; empty where there is only one.
    pub name: Text,
    /// Every endpoint, with this port's number. Sorted, they are the snapshot's own without a copy.
    pub endpoints: Arc<[Endpoint]>,
}

/// `conditions` of an endpoint (`discovery.k8s.io/v1`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndpointState {
    /// `ready`.
    Ready,
    /// Not ready, but `serving` and `terminating`: used when no endpoint is ready (KEP-1669).
    ServingTerminating,
    /// Takes nothing.
    NotReady,
}
