//! Pods, as the mesh sees them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use smallvec::SmallVec;

use super::identity::SpiffeId;
use super::name::{NamespacedName, Text};

/// `metadata.uid` of the Pod; where there is none (standalone), `namespace/name`. Never reused by another pod
/// that differs in node, addresses or service account.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadUid(pub Text);

/// Whether the mesh carries the traffic of a pod (label `nodemesh.dev/mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enrolment {
    /// Captured, encrypted, authorised.
    Enabled,
    /// Left alone.
    Disabled,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Tells this pod from every other, also from one that had its name or address before.
    pub uid: WorkloadUid,
    /// Namespace and name of the pod.
    pub name: NamespacedName,
    /// `spec.nodeName`; empty while it is not scheduled.
    pub node: Text,
    /// From the trust domain, the namespace and `spec.serviceAccountName`.
    pub identity: SpiffeId,
    /// `status.podIPs`, IPv4 first or IPv6 first as listed; IPv4 never in the mapped form. Empty once the pod
    /// has succeeded or failed: its addresses are free for another pod by then.
    pub addresses: SmallVec<[IpAddr; 2]>,
    /// Whether the mesh carries its traffic. Never enabled for a hostNetwork pod.
    pub enrolment: Enrolment,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// The pod's `Ready` condition, also while it is being deleted.
    pub ready: bool,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// What its own node has to know besides.
    pub details: Arc<PodDetails>,
    /// What dashboards call it; pods of one owner share it.
    pub labels_for_metrics: Arc<CanonicalNames>,
}

/// What is of use on a pod's own node, and where policies are matched. Apart from the rest because a node knows the pods
/// of all others, which say next to nothing of it and share that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodDetails {
    /// `metadata.labels`.
    pub labels: BTreeMap<Text, Text>,
    /// `nodemesh.dev/netns`: a path of the pod's network namespace, where it is given.
    pub netns: Option<PathBuf>,
    /// Destinations that stay outside the mesh, by annotation.
    pub exclusions: Exclusions,
    /// TCP ports that the pod's probes name (liveness, readiness, startup; httpGet, tcpSocket, grpc).
    pub probe_ports: SmallVec<[u16; 2]>,
    /// `containers[].ports[]` that have a name: what a Service's named target port means here.
    pub named_ports: SmallVec<[(Text, u16); 2]>,
    /// Of a static pod, the UID that its kubelet runs it under; that of its Pod object is the API server's.
    pub static_uid: Option<WorkloadUid>,
}

impl Workload {
    /// An enrolled, ready pod of which nothing else is known: no address, no label, no port. Its uid is its name.
    pub fn new(name: NamespacedName, node: impl Into<Text>, identity: SpiffeId) -> Self {
        let app = || name.name.clone();
        let labels_for_metrics = Arc::new(CanonicalNames {
            workload: app(),
            service: app(),
            revision: "latest".into(),
            app: app(),
            version: "unknown".into(),
        });
        Self {
            uid: WorkloadUid(app()),
            node: node.into(),
            identity,
            addresses: SmallVec::new(),
            enrolment: Enrolment::Enabled,
            host_network: false,
            ready: true,
            terminating: false,
            details: Arc::default(),
            labels_for_metrics,
            name,
        }
    }

    /// What its node knows it by: what its cgroup is named for.
    pub fn uid_on_node(&self) -> &WorkloadUid {
        self.details.static_uid.as_ref().unwrap_or(&self.uid)
    }

    /// Whether it has all labels of a selector.
    pub fn has_labels(&self, selector: &BTreeMap<Text, Text>) -> bool {
        selector.iter().all(|(key, value)| self.details.labels.get(key) == Some(value))
    }

    /// Whether the mesh carries what comes in at `port`.
    pub fn takes_mesh_traffic_on(&self, port: u16) -> bool {
        self.enrolment == Enrolment::Enabled && !self.details.exclusions.inbound_ports.contains(&port)
    }
}

/// What a pod's annotations leave outside the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exclusions {
    /// `nodemesh.dev/exclude-outbound-ports`: destination ports not captured.
    pub outbound_ports: SmallVec<[u16; 2]>,
    /// `nodemesh.dev/exclude-outbound-cidrs`: destination ranges not captured.
    pub outbound_cidrs: Vec<IpNet>,
    /// `nodemesh.dev/exclude-inbound-ports`: the pod's own ports that the daemon does not answer for.
    pub inbound_ports: SmallVec<[u16; 2]>,
}

/// Names for Istio's standard metric labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CanonicalNames {
    /// Name of the owner that people know: Deployment, StatefulSet, ...; else the pod's own name.
    pub workload: Text,
    /// `service.istio.io/canonical-name`, else `app.kubernetes.io/name`, else `app`, else the workload's name.
    pub service: Text,
    /// `service.istio.io/canonical-revision`, else `app.kubernetes.io/version`, else `version`, else `latest`.
    pub revision: Text,
    /// Label `app`, else `unknown`.
    pub app: Text,
    /// Label `version`, else `unknown`.
    pub version: Text,
}
