//! Nodes, as the mesh sees them.

use std::net::IpAddr;

use ipnet::IpNet;
use smallvec::SmallVec;

use super::name::Text;

/// A `v1` Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`.
    pub name: Text,
    /// Label `topology.kubernetes.io/zone`; empty if unknown.
    pub zone: Text,
    /// `status.addresses` of types InternalIP and ExternalIP: node ports are dialled there.
    pub addresses: SmallVec<[IpAddr; 2]>,
    /// `spec.podCIDRs`: an address in one of them is a pod, known yet or not.
    pub pod_cidrs: SmallVec<[IpNet; 2]>,
}
