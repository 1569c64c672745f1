//! Where a Service port leads.

use std::net::IpAddr;

use smallvec::SmallVec;

use super::name::Text;
use super::workload::WorkloadUid;

/// One address and port behind a Service port.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// `zone`; empty if unknown.
    pub zone: Text,
    /// `hints.forZones`; empty means every zone.
    pub hint_zones: SmallVec<[Text; 1]>,
}

/// `conditions` of an endpoint (`discovery.k8s.io/v1`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointState {
    /// `ready`.
    Ready,
    /// Not ready, but `serving` and `terminating`: used when no endpoint is ready (KEP-1669).
    ServingTerminating,
    /// Takes nothing.
    NotReady,
}
