//! What holds for the whole mesh, and nodes.

use prost::Message;

/// Settings of the mesh. Its name is `mesh`.
#[derive(Clone, PartialEq, Message)]
pub struct Mesh {
    /// Namespace whose policies are about the whole mesh.
    #[prost(string, tag = "1")]
    pub root_namespace: String,
    /// Trust domain of every identity.
    #[prost(string, tag = "2")]
    pub trust_domain: String,
    /// DNS suffix of Services.
    #[prost(string, tag = "3")]
    pub cluster_domain: String,
    /// Ranges of pods and cluster IPs besides those of Nodes.
    #[prost(message, repeated, tag = "4")]
    pub mesh_cidrs: Vec<Cidr>,
}

/// A range of addresses.
#[derive(Clone, PartialEq, Message)]
pub struct Cidr {
    /// Its address, with the bits behind the prefix as they were written.
    #[prost(bytes = "vec", tag = "1")]
    pub address: Vec<u8>,
    /// Bits of the prefix.
    #[prost(uint32, tag = "2")]
    pub prefix: u32,
}

/// Whom to trust. Its name is the trust domain.
#[derive(Clone, PartialEq, Message)]
pub struct TrustBundle {
    /// Root certificates.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub roots: Vec<Vec<u8>>,
    /// Revocation lists.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub revocation_lists: Vec<Vec<u8>>,
    /// Root certificates that vouch for connections that are open, and for nobody new.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub retired: Vec<Vec<u8>>,
}

/// A node. Its name is the node's.
#[derive(Clone, PartialEq, Message)]
pub struct Node {
    /// `topology.kubernetes.io/zone`; empty if unknown.
    #[prost(string, tag = "1")]
    pub zone: String,
    /// `status.addresses` at which node ports are dialled.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub addresses: Vec<Vec<u8>>,
    /// `spec.podCIDRs`.
    #[prost(message, repeated, tag = "3")]
    pub pod_cidrs: Vec<Cidr>,
}
