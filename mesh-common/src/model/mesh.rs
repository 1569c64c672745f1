//! What holds for the whole mesh.

use ipnet::IpNet;

use super::identity::TrustDomain;
use super::name::Text;

/// Settings of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshSettings {
    /// Whose policies without a selector hold for every namespace.
    pub root_namespace: Text,
    /// The trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// The DNS suffix of Services, `cluster.local` by default.
    pub cluster_domain: Text,
    /// Where known, the ranges of cluster IPs and pods: an address in one of them is never outside the mesh, also
    /// while nothing is known of it.
    pub mesh_cidrs: Vec<IpNet>,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            root_namespace: "nodemesh-system".into(),
            trust_domain: TrustDomain::parse("cluster.local").expect("a literal that is a trust domain"),
            cluster_domain: "cluster.local".into(),
            mesh_cidrs: Vec::new(),
        }
    }
}
