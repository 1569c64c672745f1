//! Pods.

use std::collections::BTreeMap;

use prost::{Enumeration, Message};

/// A pod. Its name is the pod's uid.
#[derive(Clone, PartialEq, Message)]
pub struct Workload {
    /// Namespace of the pod.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// Name of the pod.
    #[prost(string, tag = "2")]
    pub name: String,
    /// `spec.nodeName`; empty while it is not scheduled.
    #[prost(string, tag = "3")]
    pub node: String,
    /// `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
    #[prost(string, tag = "4")]
    pub identity: String,
    /// `status.podIPs`.
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub addresses: Vec<Vec<u8>>,
    /// `metadata.labels`.
    #[prost(btree_map = "string, string", tag = "6")]
    pub labels: BTreeMap<String, String>,
    /// `nodemesh.dev/netns`: a path of the pod's network namespace.
    #[prost(bytes = "vec", optional, tag = "7")]
    pub netns: Option<Vec<u8>>,
    /// Whether the mesh carries its traffic; labels of pod and namespace are resolved already.
    #[prost(enumeration = "Enrolment", tag = "8")]
    pub enrolment: i32,
    /// `spec.hostNetwork`.
    #[prost(bool, tag = "9")]
    pub host_network: bool,
    /// The pod's Ready condition.
    #[prost(bool, tag = "10")]
    pub ready: bool,
    /// It is being deleted.
    #[prost(bool, tag = "11")]
    pub terminating: bool,
    /// `nodemesh.dev/exclude-outbound-ports`.
    #[prost(uint32, repeated, tag = "12")]
    pub excluded_outbound_ports: Vec<u32>,
    /// `nodemesh.dev/exclude-outbound-cidrs`.
    #[prost(message, repeated, tag = "13")]
    pub excluded_outbound_cidrs: Vec<super::Cidr>,
    /// `nodemesh.dev/exclude-inbound-ports`.
    #[prost(uint32, repeated, tag = "14")]
    pub excluded_inbound_ports: Vec<u32>,
    /// TCP ports that the pod's probes name.
    #[prost(uint32, repeated, tag = "15")]
    pub probe_ports: Vec<u32>,
    /// Container ports that have a name.
    #[prost(message, repeated, tag = "16")]
    pub named_ports: Vec<NamedPort>,
    /// What dashboards call it.
    #[prost(message, optional, tag = "17")]
    pub canonical_names: Option<CanonicalNames>,
    /// Of a static pod, the UID that its kubelet runs it under.
    #[prost(string, optional, tag = "18")]
    pub static_uid: Option<String>,
}

/// Whether the mesh carries the traffic of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum Enrolment {
    /// Never sent.
    Unspecified = 0,
    /// Captured, encrypted, authorised.
    Enabled = 1,
    /// Left alone.
    Disabled = 2,
}

/// A container port that has a name.
#[derive(Clone, PartialEq, Message)]
pub struct NamedPort {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its number.
    #[prost(uint32, tag = "2")]
    pub port: u32,
}

/// Names for the standard metric labels.
#[derive(Clone, PartialEq, Message)]
pub struct CanonicalNames {
    /// Name of the owner that people know.
    #[prost(string, tag = "1")]
    pub workload: String,
    /// The canonical service.
    #[prost(string, tag = "2")]
    pub service: String,
    /// Its revision.
    #[prost(string, tag = "3")]
    pub revision: String,
    /// Label `app`.
    #[prost(string, tag = "4")]
    pub app: String,
    /// Label `version`.
    #[prost(string, tag = "5")]
    pub version: String,
}
