//! `v1` Pod: a workload.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use mesh_common::model::workload::{CanonicalNames, Exclusions};
use mesh_common::model::{
    Enrolment, MeshSettings, NamespacedName, PodDetails, SpiffeId, Text, Workload, WorkloadUid,
};
use smallvec::SmallVec;

use super::{
    Effect, Field, FieldError, Finding, METADATA, SPEC, STATUS, Translated, enrolment, ip_address,
    namespaced_name, own_keys, pattern, port_text,
};

const NETNS: &str = "nodemesh.dev/netns";
/// A kubelet made the object, of a static pod.
const MIRROR: &str = "kubernetes.io/config.mirror";
const STATIC_UID: &str = "kubernetes.io/config.hash";
const EXCLUDE_OUTBOUND_PORTS: &str = "nodemesh.dev/exclude-outbound-ports";
const EXCLUDE_OUTBOUND_CIDRS: &str = "nodemesh.dev/exclude-outbound-cidrs";
const EXCLUDE_INBOUND_PORTS: &str = "nodemesh.dev/exclude-inbound-ports";
/// Every annotation of the mesh's own that is read of a pod.
const ANNOTATIONS: [&str; 4] = [NETNS, EXCLUDE_OUTBOUND_PORTS, EXCLUDE_OUTBOUND_CIDRS, EXCLUDE_INBOUND_PORTS];
/// Most entries of one such annotation that count: a node's pods share the kernel's maps, and none is to fill them.
const MAX_EXCLUSIONS: usize = 64;
/// Most ports of a pod's probes that count, for the same reason.
const MAX_PROBE_PORTS: usize = 64;

/// Where a Pod comes from, and so how far its annotations are to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Written by whoever runs the agent: it may name the pod's network namespace.
    Folder,
    /// Written by whoever may create pods: a path of its own could name any network namespace of the node.
    ApiServer,
}

/// A pod, with what the mesh's other objects need of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodWorkload {
    /// The pod as if its namespace said nothing: enrolled only if its own labels enrol it.
    pub workload: Workload,
    /// Whether its own labels enrol it; `None` if they say nothing and its namespace decides.
    pub own_enrolment: Option<Enrolment>,
}

impl PodWorkload {
    /// The workload in a namespace that says this of its pods.
    pub fn in_namespace(&self, namespace: Option<Enrolment>) -> Workload {
        let wanted = self.own_enrolment.or(namespace).unwrap_or(Enrolment::Disabled);
        let enrolment = if self.workload.host_network { Enrolment::Disabled } else { wanted };
        Workload { enrolment, ..self.workload.clone() }
    }
}

/// Translates a Pod. One that has run to its end has no address left: it may be another's by now.
///
/// # Errors
/// If it has no name, an address that is none, or a service account that cannot stand in a SPIFFE id.
pub fn pod(
    object: &core::Pod,
    settings: &MeshSettings,
    origin: Origin,
) -> Result<Translated<PodWorkload>, FieldError> {
    let name = namespaced_name(&object.metadata)?;
    let default = core::PodSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&default);
    let mut findings = Vec::new();
    let identity = identity(spec, &name, settings)?;
    let addresses = addresses(object)?;
    let node: Text = spec.node_name.as_deref().unwrap_or_default().into();
    let own_enrolment =
        enrolment::from_labels(&METADATA.name("labels"), object.metadata.labels.as_ref(), &mut findings);
    let mut workload = Workload {
        uid: uid(&object.metadata, &name, &node, &identity, &addresses),
        addresses: if has_ended(object) { SmallVec::new() } else { addresses },
        node,
        labels_for_metrics: Arc::new(canonical_names(&object.metadata, &name)),
        name,
        identity,
        enrolment: Enrolment::Disabled,
        host_network: spec.host_network.unwrap_or(false),
        ready: ready_condition(object),
        terminating: object.metadata.deletion_timestamp.is_some(),
        details: Arc::new(details(object, spec, origin, &mut findings)),
    };
    own_keys::unread(&object.metadata, &[enrolment::MODE], &ANNOTATIONS, &mut findings);
    if !workload.host_network {
        workload.enrolment = own_enrolment.unwrap_or(Enrolment::Disabled);
    }
    Ok(Translated { value: PodWorkload { workload, own_enrolment }, findings })
}

fn details(
    object: &core::Pod,
    spec: &core::PodSpec,
    origin: Origin,
    findings: &mut Vec<Finding>,
) -> PodDetails {
    PodDetails {
        labels: labels(&object.metadata),
        netns: match origin {
            Origin::Folder => path_annotation(object, NETNS, findings),
            Origin::ApiServer => None,
        },
        exclusions: exclusions(object, findings),
        probe_ports: probe_ports(spec, findings),
        named_ports: named_ports(spec),
        static_uid: static_uid(object),
    }
}

/// The UID that a kubelet runs a static pod under, which it notes in the object that it makes of it. A hash in hexadecimal,
/// never the UID of a Pod object. Whoever may create pods may write it too: it counts once the kubelet has given the
/// object an address.
fn static_uid(object: &core::Pod) -> Option<WorkloadUid> {
    annotation(object, MIRROR)?;
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_hash = |uid: &&str| uid.len() == 32 && uid.bytes().all(is_digit);
    annotation(object, STATIC_UID).filter(is_hash).map(|uid| WorkloadUid(uid.into()))
}

fn phase(object: &core::Pod) -> Option<&str> {
    object.status.as_ref()?.phase.as_deref()
}

fn has_ended(object: &core::Pod) -> bool {
    matches!(phase(object), Some("Succeeded" | "Failed"))
}

fn identity(
    spec: &core::PodSpec,
    name: &NamespacedName,
    settings: &MeshSettings,
) -> Result<SpiffeId, FieldError> {
    let account = spec.service_account_name.as_deref().filter(|account| !account.is_empty());
    let account = account.or(spec.service_account.as_deref()).unwrap_or("default");
    SpiffeId::new(&settings.trust_domain, &name.namespace, account)
        .map_err(|error| FieldError::new(&SPEC.name("serviceAccountName"), error.to_string()))
}

/// `status.podIPs`, else `status.podIP`.
fn addresses(object: &core::Pod) -> Result<SmallVec<[IpAddr; 2]>, FieldError> {
    let Some(status) = &object.status else { return Ok(SmallVec::new()) };
    let path = STATUS.name("podIPs");
    let mut addresses = SmallVec::new();
    for (index, entry) in status.pod_ips.iter().flatten().enumerate() {
        addresses.push(ip_address(&path.index(index).name("ip"), &entry.ip)?);
    }
    if let (true, Some(single)) = (addresses.is_empty(), &status.pod_ip) {
        addresses.push(ip_address(&STATUS.name("podIP"), single)?);
    }
    Ok(addresses)
}

/// `metadata.uid`. A hand-written pod has none: then its name with all that makes it another pod.
fn uid(
    metadata: &ObjectMeta,
    name: &NamespacedName,
    node: &str,
    identity: &SpiffeId,
    addresses: &[IpAddr],
) -> WorkloadUid {
    if let Some(uid) = metadata.uid.as_deref().filter(|uid| !uid.is_empty()) {
        return WorkloadUid(uid.into());
    }
    let mut text = format!("{name}@{node}/{}", identity.service_account());
    for address in addresses {
        text.push('/');
        text.push_str(&address.to_string());
    }
    WorkloadUid(text.into())
}

/// The `Ready` condition. A kubelet always writes conditions, so a pod with none at all was written by a person:
/// it is ready unless its phase says that it does not run yet.
fn ready_condition(object: &core::Pod) -> bool {
    let status = object.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    if conditions.is_empty() {
        return matches!(phase(object), None | Some("Running"));
    }
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn labels(metadata: &ObjectMeta) -> BTreeMap<Text, Text> {
    metadata
        .labels
        .iter()
        .flatten()
        .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
        .collect()
}

fn annotation<'a>(object: &'a core::Pod, key: &str) -> Option<&'a str> {
    object.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn path_annotation(object: &core::Pod, key: &str, findings: &mut Vec<Finding>) -> Option<PathBuf> {
    let path = PathBuf::from(annotation(object, key)?);
    if path.is_absolute() {
        return Some(path);
    }
    let field = METADATA.name("annotations");
    findings.push(Finding::new(Effect::FieldIgnored, &field.key(key), "is not an absolute path"));
    None
}

/// Entries that cannot be read are left out of the list: what they name stays in the mesh.
fn exclusions(object: &core::Pod, findings: &mut Vec<Finding>) -> Exclusions {
    let mut outbound_cidrs = Vec::new();
    each_entry(object, EXCLUDE_OUTBOUND_CIDRS, findings, |field, entry| {
        outbound_cidrs.push(pattern::ip_block(field, entry)?);
        Ok(())
    });
    Exclusions {
        outbound_ports: excluded_ports(object, EXCLUDE_OUTBOUND_PORTS, findings),
        outbound_cidrs,
        inbound_ports: excluded_ports(object, EXCLUDE_INBOUND_PORTS, findings),
    }
}

fn excluded_ports(object: &core::Pod, key: &str, findings: &mut Vec<Finding>) -> SmallVec<[u16; 2]> {
    let mut ports = SmallVec::new();
    each_entry(object, key, findings, |field, entry| {
        ports.push(port_text(field, entry)?);
        Ok(())
    });
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Calls `read` for each entry of a list with commas, as far as [`MAX_EXCLUSIONS`]; reports those that it refuses.
fn each_entry(
    object: &core::Pod,
    key: &str,
    findings: &mut Vec<Finding>,
    mut read: impl FnMut(&Field<'_>, &str) -> Result<(), FieldError>,
) {
    let annotations = METADATA.name("annotations");
    let field = annotations.key(key);
    let text = annotation(object, key).unwrap_or_default();
    let mut entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    for entry in entries.by_ref().take(MAX_EXCLUSIONS) {
        if let Err(error) = read(&field, entry) {
            findings.push(Finding { error, effect: Effect::FieldIgnored });
        }
    }
    if entries.next().is_some() {
        let reason =
            format!("has more than {MAX_EXCLUSIONS} entries: what the others name stays in the mesh");
        findings.push(Finding::new(Effect::FieldIgnored, &field, reason));
    }
}

/// Containers that run beside each other: the ordinary ones, and the init containers that stay (`restartPolicy:
/// Always`).
fn lasting_containers(spec: &core::PodSpec) -> impl Iterator<Item = &core::Container> {
    let stays = |container: &&core::Container| container.restart_policy.as_deref() == Some("Always");
    spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(stays))
}

/// What the kubelet dials to learn how a container is.
fn probe_ports(spec: &core::PodSpec, findings: &mut Vec<Finding>) -> SmallVec<[u16; 2]> {
    let mut ports: SmallVec<[u16; 2]> = SmallVec::new();
    for container in lasting_containers(spec) {
        for probe in [&container.liveness_probe, &container.readiness_probe, &container.startup_probe] {
            ports.extend(probe.as_ref().and_then(|probe| probe_port(probe, container)));
        }
    }
    ports.sort_unstable();
    ports.dedup();
    if ports.len() > MAX_PROBE_PORTS {
        ports.truncate(MAX_PROBE_PORTS);
        let reason = format!(
            "have probes of more than {MAX_PROBE_PORTS} ports: those of the highest ports are refused as anybody's connection is"
        );
        findings.push(Finding::new(Effect::FieldIgnored, &SPEC.name("containers"), reason));
    }
    ports
}

/// A probe with a `host` of its own is dialled there, not at the pod.
fn probe_port(probe: &core::Probe, container: &core::Container) -> Option<u16> {
    if let Some(http) = &probe.http_get {
        return own_host(http.host.as_deref()).and_then(|()| container_port(&http.port, container));
    }
    if let Some(tcp) = &probe.tcp_socket {
        return own_host(tcp.host.as_deref()).and_then(|()| container_port(&tcp.port, container));
    }
    let grpc = probe.grpc.as_ref()?;
    u16::try_from(grpc.port).ok().filter(|port| *port != 0)
}

fn own_host(host: Option<&str>) -> Option<()> {
    host.is_none_or(str::is_empty).then_some(())
}

fn container_port(port: &IntOrString, container: &core::Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())?
        }
    };
    u16::try_from(number).ok().filter(|port| *port != 0)
}

fn named_ports(spec: &core::PodSpec) -> SmallVec<[(Text, u16); 2]> {
    let mut ports: SmallVec<[(Text, u16); 2]> = SmallVec::new();
    let mut names = BTreeSet::new();
    for port in lasting_containers(spec).flat_map(|container| container.ports.iter().flatten()) {
        let tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        let number = u16::try_from(port.container_port).ok().filter(|number| tcp && *number != 0);
        // The first of a name counts, as in Kubernetes.
        if let (Some(name), Some(number)) = (port.name.as_deref(), number)
            && names.insert(name)
        {
            ports.push((name.into(), number));
        }
    }
    ports
}

fn canonical_names(metadata: &ObjectMeta, name: &NamespacedName) -> CanonicalNames {
    let label = |key: &str| -> Option<Text> {
        metadata
            .labels
            .as_ref()?
            .get(key)
            .filter(|value| !value.is_empty())
            .map(|value| value.as_str().into())
    };
    let workload = label("service.istio.io/workload-name").unwrap_or_else(|| owner_name(metadata, name));
    let app = label("app");
    let version = label("version");
    CanonicalNames {
        service: label("service.istio.io/canonical-name")
            .or_else(|| label("app.kubernetes.io/name"))
            .or_else(|| app.clone())
            .unwrap_or_else(|| workload.clone()),
        revision: label("service.istio.io/canonical-revision")
            .or_else(|| label("app.kubernetes.io/version"))
            .or_else(|| version.clone())
            .unwrap_or_else(|| "latest".into()),
        workload,
        app: app.unwrap_or_else(|| "unknown".into()),
        version: version.unwrap_or_else(|| "unknown".into()),
    }
}

/// The owner that people know: a ReplicaSet's Deployment, a Job's CronJob. Their names are the owner's name
/// with a suffix, which is all that a pod tells of them.
fn owner_name(metadata: &ObjectMeta, name: &NamespacedName) -> Text {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    let Some(owner) = owners.iter().find(|owner| owner.controller == Some(true)) else {
        return name.name.clone();
    };
    let template = metadata.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
    let stripped = match owner.kind.as_str() {
        "ReplicaSet" => template
            .and_then(|hash| owner.name.strip_suffix(hash.as_str()))
            .and_then(|rest| rest.strip_suffix('-')),
        // A CronJob names its Jobs by the scheduled minute since the epoch: eight digits until 2160.
        "Job" => owner.name.rsplit_once('-').and_then(|(cron_job, minute)| {
            (minute.len() >= 8 && minute.bytes().all(|byte| byte.is_ascii_digit())).then_some(cron_job)
        }),
        _ => None,
    };
    stripped.filter(|name| !name.is_empty()).unwrap_or(&owner.name).into()
}
