//! Services, as the mesh sees them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use smallvec::SmallVec;

use super::name::{NamespacedName, Text};
use super::protocol::Protocol;

/// A `v1` Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: NamespacedName,
    /// `NAME.NAMESPACE.svc.CLUSTER-DOMAIN`.
    pub host: Text,
    /// `spec.clusterIPs`; empty for a headless Service.
    pub cluster_ips: SmallVec<[IpAddr; 2]>,
    /// `spec.externalIPs` and the addresses of `status.loadBalancer.ingress`: a pod that dials one means this
    /// Service, as with kube-proxy.
    pub external_addresses: SmallVec<[IpAddr; 1]>,
    /// `spec.selector`; empty for a Service whose endpoints are given by EndpointSlices only.
    pub selector: BTreeMap<Text, Text>,
    /// `spec.ports` over TCP, in their order.
    pub ports: Vec<ServicePort>,
    /// `spec.sessionAffinity: ClientIP`, with how long it lasts.
    pub client_ip_affinity: Option<Duration>,
    /// `spec.internalTrafficPolicy`.
    pub internal_traffic_policy: InternalTrafficPolicy,
    /// `spec.trafficDistribution`.
    pub traffic_distribution: TrafficDistribution,
    /// `spec.publishNotReadyAddresses`: endpoints count as ready whatever their pods say.
    pub publish_not_ready: bool,
}

/// One port of a Service. Endpoints belong to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `name`; empty where there is only one port.
    pub name: Text,
    /// `port`: what clients dial on the cluster IP.
    pub port: u16,
    /// `targetPort`, by default the same as `port`.
    pub target_port: TargetPort,
    /// `nodePort`, where there is one: from a pod it means this Service.
    pub node_port: Option<u16>,
    /// `appProtocol`, else the prefix of the port's name.
    pub protocol: Protocol,
}

/// `targetPort` of a Service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// A number: the same in every pod.
    Number(u16),
    /// The name of a container port: what it is, each pod says for itself.
    Named(Text),
}

/// `spec.internalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InternalTrafficPolicy {
    /// Endpoints of every node.
    #[default]
    Cluster,
    /// Endpoints of the caller's node only; none there means none.
    Local,
}

/// `spec.trafficDistribution` (Kubernetes 1.35).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficDistribution {
    /// No preference.
    #[default]
    Any,
    /// `PreferSameZone`, and its older name `PreferClose`.
    PreferSameZone,
    /// `PreferSameNode`, then the same zone.
    PreferSameNode,
}
