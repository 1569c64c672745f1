//! Services and their endpoints.

use std::collections::BTreeMap;

use prost::{Enumeration, Message, Oneof};

/// A Service. Its name is `namespace/name`.
#[derive(Clone, PartialEq, Message)]
pub struct Service {
    /// `NAME.NAMESPACE.svc.CLUSTER-DOMAIN`.
    #[prost(string, tag = "1")]
    pub host: String,
    /// `spec.clusterIPs`.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub cluster_ips: Vec<Vec<u8>>,
    /// `spec.externalIPs`, and addresses of `status.loadBalancer.ingress`.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub external_addresses: Vec<Vec<u8>>,
    /// `spec.selector`.
    #[prost(btree_map = "string, string", tag = "4")]
    pub selector: BTreeMap<String, String>,
    /// `spec.ports` over TCP.
    #[prost(message, repeated, tag = "5")]
    pub ports: Vec<ServicePort>,
    /// How long `spec.sessionAffinity: ClientIP` lasts, where it is set.
    #[prost(uint64, optional, tag = "6")]
    pub client_ip_affinity_seconds: Option<u64>,
    /// `spec.internalTrafficPolicy`.
    #[prost(enumeration = "InternalTrafficPolicy", tag = "7")]
    pub internal_traffic_policy: i32,
    /// `spec.trafficDistribution`.
    #[prost(enumeration = "TrafficDistribution", tag = "8")]
    pub traffic_distribution: i32,
    /// `spec.publishNotReadyAddresses`.
    #[prost(bool, tag = "9")]
    pub publish_not_ready: bool,
}

/// One port of a Service.
#[derive(Clone, PartialEq, Message)]
pub struct ServicePort {
    /// `name`; empty where there is only one port.
    #[prost(string, tag = "1")]
    pub name: String,
    /// `port`.
    #[prost(uint32, tag = "2")]
    pub port: u32,
    /// `targetPort`.
    #[prost(oneof = "TargetPort", tags = "3, 4")]
    pub target_port: Option<TargetPort>,
    /// `nodePort`, where there is one.
    #[prost(uint32, optional, tag = "5")]
    pub node_port: Option<u32>,
    /// `appProtocol`, else the prefix of the port's name.
    #[prost(enumeration = "Protocol", tag = "6")]
    pub protocol: i32,
}

/// `targetPort`.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum TargetPort {
    /// The same number in every pod.
    #[prost(uint32, tag = "3")]
    Number(u32),
    /// The name of a container port.
    #[prost(string, tag = "4")]
    Named(String),
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum Protocol {
    /// Never sent.
    Unspecified = 0,
    /// Opaque bytes.
    Tcp = 1,
    /// HTTP/1.1.
    Http1 = 2,
    /// HTTP/2 without TLS.
    Http2 = 3,
    /// gRPC.
    Grpc = 4,
    /// The application's own TLS.
    Tls = 5,
    /// Nothing declared.
    Undeclared = 6,
}

/// `spec.internalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum InternalTrafficPolicy {
    /// Never sent.
    Unspecified = 0,
    /// Endpoints of every node.
    Cluster = 1,
    /// Endpoints of the caller's node only.
    Local = 2,
}

/// `spec.trafficDistribution`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum TrafficDistribution {
    /// Never sent.
    Unspecified = 0,
    /// No preference.
    Any = 1,
    /// `PreferSameZone`.
    PreferSameZone = 2,
    /// `PreferSameNode`.
    PreferSameNode = 3,
}

/// An EndpointSlice. Its name is `namespace/name`.
#[derive(Clone, PartialEq, Message)]
pub struct EndpointSlice {
    /// Name of the Service, in the slice's namespace.
    #[prost(string, tag = "1")]
    pub service: String,
    /// Endpoints by port.
    #[prost(message, repeated, tag = "2")]
    pub ports: Vec<SlicePort>,
}

/// The endpoints on one port of an EndpointSlice.
#[derive(Clone, PartialEq, Message)]
pub struct SlicePort {
    /// `ports[].name`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Every endpoint.
    #[prost(message, repeated, tag = "2")]
    pub endpoints: Vec<Endpoint>,
}

/// One address and port.
#[derive(Clone, PartialEq, Message)]
pub struct Endpoint {
    /// The pod's address, or one outside the cluster.
    #[prost(bytes = "vec", tag = "1")]
    pub address: Vec<u8>,
    /// The target port.
    #[prost(uint32, tag = "2")]
    pub port: u32,
    /// Uid of the pod behind it, where one is named.
    #[prost(string, optional, tag = "3")]
    pub workload: Option<String>,
    /// Whether it takes new connections.
    #[prost(enumeration = "EndpointState", tag = "4")]
    pub state: i32,
    /// `nodeName`; empty if unknown.
    #[prost(string, tag = "5")]
    pub node: String,
    /// `zone`; where it is empty, that of the node.
    #[prost(string, tag = "6")]
    pub zone: String,
    /// `hints.forZones`; none means every zone.
    #[prost(string, repeated, tag = "7")]
    pub hint_zones: Vec<String>,
    /// `hints.forNodes`; none means every node.
    #[prost(string, repeated, tag = "8")]
    pub hint_nodes: Vec<String>,
}

/// Whether an endpoint takes new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum EndpointState {
    /// Never sent.
    Unspecified = 0,
    /// `ready`.
    Ready = 1,
    /// `serving` and `terminating`.
    ServingTerminating = 2,
    /// Takes nothing.
    NotReady = 3,
}
