//! What changed, as the watches say it.

use std::sync::Arc;

use crate::model::{
    AuthorizationPolicy, EndpointSlice, MeshSettings, NamespacedName, Node, PeerAuthentication,
    RequestAuthentication, Service, Text, Workload, WorkloadUid,
};

/// One change of one object. An upsert replaces what had the same name (the same uid, for a workload); removing
/// what is not there changes nothing. Deltas about different objects may come in any order.
#[derive(Clone, Debug, PartialEq)]
pub enum Delta {
    /// The settings of the mesh. Until they come, [`MeshSettings::default`] holds.
    Settings(Arc<MeshSettings>),
    /// A pod is new or changed.
    UpsertWorkload(Arc<Workload>),
    /// A pod is gone.
    RemoveWorkload(WorkloadUid),
    /// A Service is new or changed.
    UpsertService(Arc<Service>),
    /// A Service is gone.
    RemoveService(NamespacedName),
    /// An EndpointSlice is new or changed.
    UpsertEndpointSlice(Arc<EndpointSlice>),
    /// An EndpointSlice is gone.
    RemoveEndpointSlice(NamespacedName),
    /// An AuthorizationPolicy is new or changed.
    UpsertAuthorizationPolicy(Arc<AuthorizationPolicy>),
    /// An AuthorizationPolicy is gone.
    RemoveAuthorizationPolicy(NamespacedName),
    /// A PeerAuthentication is new or changed.
    UpsertPeerAuthentication(Arc<PeerAuthentication>),
    /// A PeerAuthentication is gone.
    RemovePeerAuthentication(NamespacedName),
    /// A RequestAuthentication is new or changed.
    UpsertRequestAuthentication(Arc<RequestAuthentication>),
    /// A RequestAuthentication is gone.
    RemoveRequestAuthentication(NamespacedName),
    /// A node is new or changed.
    UpsertNode(Arc<Node>),
    /// A node is gone.
    RemoveNode(Text),
}
