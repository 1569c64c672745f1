//! What the Unix socket answers: JSON documents, apart from the domain's types.
//!
//! A field may be added; one that is there keeps its name and meaning.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `GET /v1/status`
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// The node's name.
    pub node: String,
    /// The agent's process.
    pub process_id: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Cores that carry traffic.
    pub workers: usize,
    /// Whether it is ready.
    pub ready: bool,
    /// What keeps it from being ready.
    pub unmet: Vec<String>,
    /// Generation of what it knows.
    pub generation: u64,
    /// Pods that it knows.
    pub workloads: usize,
    /// Pods of this node that are enrolled.
    pub enrolled: usize,
    /// Services that it knows.
    pub services: usize,
    /// Addresses and node ports that it asked the controller about and knows besides its own pods (`--on-demand`); nothing if it
    /// is told the whole cluster.
    #[serde(default)]
    pub answered: Option<usize>,
    /// Policies in force, of both kinds.
    pub policies: usize,
    /// Certificates that would be shown to a peer now.
    pub certificates_usable: usize,
    /// Identities of this node.
    pub certificates: usize,
    /// Open connections.
    pub connections: usize,
    /// TCP connections that enrolled pods had before they were captured: they go on outside the mesh until they end.
    pub connections_outside: usize,
    /// Pods of this node that are held because it is in doubt in which network namespace they are: namespace and name.
    #[serde(default)]
    pub in_doubt: Vec<String>,
    /// Pods of this node that run and that nobody has told the agent of, those that wait longest first: their connections are
    /// refused until a controller says who they are.
    #[serde(default)]
    pub untold: Vec<UntoldPod>,
    /// Files that changed and are being read: what they said before is in force until they are.
    #[serde(default)]
    pub being_read: Option<BeingRead>,
    /// Pods of this node that are not captured and refused their connections, those too.
    #[serde(default)]
    pub not_captured: Vec<NotCaptured>,
    /// Ports of Services that declare no protocol, with what connections to them spoke here.
    #[serde(default)]
    pub detected: Vec<DetectedPort>,
    /// What was found out about the kernel.
    pub kernel: Vec<Capability>,
    /// Objects that are not in force as they are written; those that deny come first.
    pub problems: Vec<Problem>,
    /// Problems that are not listed, because there are too many.
    #[serde(default)]
    pub problems_left_out: usize,
}

/// A pod that nobody has told the agent of.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct UntoldPod {
    /// Its UID, as its cgroup has it.
    pub uid: String,
    /// Namespace and name, as the kubelet's folder of logs has them.
    pub pod: Option<String>,
    /// For how long this agent has seen it.
    pub seconds: u64,
}

/// Files whose change is not in force yet.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct BeingRead {
    /// The files, below the configuration folder.
    pub files: Vec<String>,
    /// For how long.
    pub seconds: u64,
}

/// A pod that is not captured: its connections are refused, and it is tried again.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct NotCaptured {
    /// Namespace and name.
    pub pod: String,
    /// Why.
    pub reason: String,
    /// Whether it keeps the agent from being ready: the cause is the agent's, and not the pod's own.
    pub keeps_unready: bool,
}

/// A port of a Service that declares no protocol.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct DetectedPort {
    /// Namespace and name of the Service.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// Connections since the agent started or the port changed, by what they spoke: `http/1.1`, `http/2`, `tls`,
    /// `server-first` or `client-first`.
    pub connections: BTreeMap<String, u64>,
}

/// Something that the kernel offers, or does not.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Capability {
    /// What.
    pub name: String,
    /// Whether it is there.
    pub present: bool,
    /// The version or state that was found; where it is missing, what is lost.
    pub detail: String,
}

/// An object that is not in force as it is written.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands: a file below the configuration folder.
    pub file: String,
    /// Its line, from 1; 0 if it is about the whole file.
    #[serde(default)]
    pub line: usize,
    /// Which document of the file, from 1; 0 if it is about the whole file.
    pub document: usize,
    /// Kind, namespace and name, if they could be read.
    pub object: Option<String>,
    /// The field, as in `spec.rules[0].from[0].source.ipBlocks[1]`; empty if it is about the whole object.
    pub field: String,
    /// What is wrong.
    pub reason: String,
    /// What the mesh does about it.
    pub effect: String,
}

/// `GET /v1/check`
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// How it went.
    pub verdict: CheckVerdict,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// How a check went.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum CheckVerdict {
    /// As it should be.
    Passed,
    /// Works, but someone should look.
    Warned,
    /// Does not work.
    Failed,
}

/// `GET /v1/dump/workloads`
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Workload {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its node.
    pub node: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its identity.
    pub identity: String,
    /// Whether the mesh carries its traffic.
    pub enrolled: bool,
    /// `STRICT` or `PERMISSIVE`, as PeerAuthentications say for ports without a rule of their own.
    pub mutual_tls: String,
    /// The same for each port that has a rule of its own.
    #[serde(default)]
    pub mutual_tls_ports: BTreeMap<u16, String>,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Whether it has the node's network.
    pub host_network: bool,
}

/// `GET /v1/dump/services`
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Service {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// DNS name.
    pub host: String,
    /// Cluster IPs; none for a headless Service.
    pub cluster_ips: Vec<String>,
    /// Ports, with their endpoints.
    pub ports: Vec<ServicePort>,
}

/// A port of a Service.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct ServicePort {
    /// Name; empty if there is only one.
    pub name: String,
    /// Number.
    pub port: u16,
    /// What is spoken.
    pub protocol: String,
    /// Where it leads.
    pub endpoints: Vec<Endpoint>,
}

/// An endpoint of a port.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Endpoint {
    /// Address and port.
    pub address: String,
    /// Uid of the pod behind it.
    pub workload: Option<String>,
    /// Namespace and name of that pod.
    #[serde(default)]
    pub pod: Option<String>,
    /// `ready`, `terminating` (serving still) or `not ready`.
    pub state: String,
    /// Node; empty if unknown.
    pub node: String,
}

/// `GET /v1/dump/policies`
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Policy {
    /// `AuthorizationPolicy`, `PeerAuthentication` or `RequestAuthentication`.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Whom it is about.
    pub scope: String,
    /// Pods that it is about.
    pub pods: usize,
    /// `ALLOW`, `DENY`, `AUDIT`, `STRICT`, `PERMISSIVE` or `UNSET`; `AUTHENTICATE` of a RequestAuthentication.
    pub action: String,
    /// `Enforce` or `Audit`.
    pub mode: String,
    /// Rules, with Istio's field names; for a PeerAuthentication its ports.
    pub rules: Vec<serde_json::Value>,
    /// Why it denies what it might have denied.
    pub fault: Option<String>,
}

/// `GET /v1/dump/certificates`
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Certificate {
    /// Whose.
    pub identity: String,
    /// Serial number, in hex.
    pub serial: Option<String>,
    /// First valid second, UTC since the epoch.
    pub not_before: Option<u64>,
    /// Last valid second, UTC since the epoch.
    pub not_after: Option<u64>,
    /// Whether it would be shown to a peer now.
    pub usable: bool,
    /// Renewals that failed since the last good one.
    pub failures: u32,
    /// What the last one of them said.
    pub last_error: Option<String>,
    /// Whether that was the authority's refusal of this identity alone.
    #[serde(default)]
    pub refused: bool,
}

/// `GET /v1/dump/connections`
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Connection {
    /// The core that carries it.
    pub core: usize,
    /// `inbound` or `outbound`.
    pub direction: String,
    /// What is spoken.
    pub protocol: String,
    /// The caller's address.
    pub source: String,
    /// The caller's pod, as namespace/name.
    pub source_workload: Option<String>,
    /// The identity that the caller proved.
    pub source_identity: Option<String>,
    /// The address that was dialled.
    pub destination: String,
    /// The called pod, as namespace/name.
    pub destination_workload: Option<String>,
    /// The Service that was dialled.
    pub service: Option<String>,
    /// Policy and rule that let it through.
    pub policy: Option<String>,
    /// Seconds since it was opened.
    pub age_seconds: u64,
}

/// `GET` and `PUT /v1/log`
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Log {
    /// Directives of tracing's filter.
    pub filter: String,
}

/// Why a request was refused.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Refusal {
    /// For people.
    pub error: String,
}
