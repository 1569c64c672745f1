//! Messages to model.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use mesh_common::model::endpoint::{Endpoint, EndpointSlice, EndpointState, SlicePort};
use mesh_common::model::service::{
    InternalTrafficPolicy, Service, ServicePort, TargetPort, TrafficDistribution,
};
use mesh_common::model::workload::{CanonicalNames, Exclusions, PodDetails, Workload, WorkloadUid};
use mesh_common::model::{Enrolment, MeshSettings, NamespacedName, Node, Protocol, Text, TrustDomain};
use mesh_common::snapshot::Delta;
use prost::Message;

use super::decode_policy;
use super::messages;
use super::resource::{FieldError, Key, ResourceType, Trust, Update};
use super::shared::Shared;

/// What an agent makes of a resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// All of it is understood.
    Understood(Update),
    /// A policy of which something is not: it denies what it might have denied.
    Denies(Update, FieldError),
    /// Something else of which something is not: what was known of it before stays.
    Refused(FieldError),
}

/// Reads a resource. `root_namespace` is the one of the mesh: a policy of it that is not understood is about all. What many
/// resources say is kept once, in `shared`.
pub fn read(key: &Key, value: &[u8], root_namespace: &str, shared: &mut Shared) -> Reading {
    let read = match key.kind {
        ResourceType::AuthorizationPolicy
        | ResourceType::PeerAuthentication
        | ResourceType::RequestAuthentication => {
            return decode_policy::read(key, value, root_namespace);
        }
        ResourceType::Mesh => mesh(value).map(|settings| Delta::Settings(settings.into())),
        ResourceType::Node => node(&key.name, value).map(|node| Delta::UpsertNode(node.into())),
        ResourceType::Service => {
            service(&key.name, value).map(|service| Delta::UpsertService(service.into()))
        }
        ResourceType::EndpointSlice => {
            endpoint_slice(&key.name, value, shared).map(|slice| Delta::UpsertEndpointSlice(slice.into()))
        }
        ResourceType::Workload => {
            workload(&key.name, value, shared).map(|workload| Delta::UpsertWorkload(workload.into()))
        }
        ResourceType::Address => {
            return match key.name.parse() {
                Ok(question) => Reading::Understood(Update::Answered(question)),
                Err(error) => Reading::Refused(FieldError::whole(error.to_string())),
            };
        }
        ResourceType::TrustBundle => {
            return match trust(&key.name, value) {
                Ok(trust) => Reading::Understood(Update::Trust(Arc::new(trust))),
                Err(error) => Reading::Refused(error),
            };
        }
    };
    match read {
        Ok(delta) => Reading::Understood(Update::Delta(delta)),
        Err(error) => Reading::Refused(error),
    }
}

/// What the removal of a resource means to the tables. Nothing for settings and roots, of which the last ones stay, and
/// for answers.
pub fn removal(key: &Key) -> Option<Delta> {
    let name = || lenient_name(&key.name);
    match key.kind {
        ResourceType::Mesh | ResourceType::TrustBundle | ResourceType::Address => None,
        ResourceType::Node => Some(Delta::RemoveNode(Arc::clone(&key.name))),
        ResourceType::AuthorizationPolicy => Some(Delta::RemoveAuthorizationPolicy(name())),
        ResourceType::PeerAuthentication => Some(Delta::RemovePeerAuthentication(name())),
        ResourceType::RequestAuthentication => Some(Delta::RemoveRequestAuthentication(name())),
        ResourceType::Service => Some(Delta::RemoveService(name())),
        ResourceType::EndpointSlice => Some(Delta::RemoveEndpointSlice(name())),
        ResourceType::Workload => Some(Delta::RemoveWorkload(WorkloadUid(Arc::clone(&key.name)))),
    }
}

/// A name without a namespace is one of the cluster: a policy of that name is still told from every other.
pub(super) fn lenient_name(name: &str) -> NamespacedName {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    NamespacedName::new(namespace, name)
}

fn namespaced_name(name: &str) -> Result<NamespacedName, FieldError> {
    match name.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(NamespacedName::new(namespace, name))
        }
        _ => Err(FieldError::whole(format!("its name {name:?} is not NAMESPACE/NAME"))),
    }
}

pub(super) fn message<M: Message + Default>(value: &[u8]) -> Result<M, FieldError> {
    M::decode(value).map_err(|error| FieldError::whole(format!("is not the message of its type: {error}")))
}

fn mesh(value: &[u8]) -> Result<MeshSettings, FieldError> {
    let mesh: messages::Mesh = message(value)?;
    Ok(MeshSettings {
        root_namespace: filled("root_namespace", mesh.root_namespace)?,
        trust_domain: trust_domain("trust_domain", &mesh.trust_domain)?,
        cluster_domain: filled("cluster_domain", mesh.cluster_domain)?,
        mesh_cidrs: each("mesh_cidrs", &mesh.mesh_cidrs, cidr)?,
    })
}

fn trust(name: &str, value: &[u8]) -> Result<Trust, FieldError> {
    let bundle: messages::TrustBundle = message(value)?;
    if bundle.roots.is_empty() {
        return Err(FieldError::new("roots", "is empty: nobody could be verified"));
    }
    let messages::TrustBundle { roots, revocation_lists, retired } = bundle;
    let trust_domain = TrustDomain::parse(name).map_err(|error| FieldError::whole(error.to_string()))?;
    Ok(Trust { trust_domain, roots, revocation_lists, retired })
}

fn trust_domain(field: &str, text: &str) -> Result<TrustDomain, FieldError> {
    TrustDomain::parse(text).map_err(|error| FieldError::new(field, error.to_string()))
}

fn node(name: &Text, value: &[u8]) -> Result<Node, FieldError> {
    let node: messages::Node = message(value)?;
    Ok(Node {
        name: Arc::clone(name),
        zone: node.zone.into(),
        addresses: each("addresses", &node.addresses, |bytes| address(bytes))?,
        pod_cidrs: each("pod_cidrs", &node.pod_cidrs, cidr)?,
    })
}

fn workload(uid: &Text, value: &[u8], shared: &mut Shared) -> Result<Workload, FieldError> {
    let mut pod: messages::Workload = message(value)?;
    let identity = shared.identity(&pod.identity);
    let identity =
        identity.map_err(|error| FieldError::new("identity", format!("{:?}: {error}", pod.identity)))?;
    let enrolment = match known("enrolment", pod.enrolment)? {
        messages::Enrolment::Enabled => Enrolment::Enabled,
        messages::Enrolment::Disabled => Enrolment::Disabled,
        messages::Enrolment::Unspecified => return Err(unspecified("enrolment")),
    };
    let names = canonical_names(pod.canonical_names.take(), shared)?;
    let exclusions = Exclusions {
        outbound_ports: each("excluded_outbound_ports", &pod.excluded_outbound_ports, port)?,
        outbound_cidrs: each("excluded_outbound_cidrs", &pod.excluded_outbound_cidrs, cidr)?,
        inbound_ports: each("excluded_inbound_ports", &pod.excluded_inbound_ports, port)?,
    };
    let details = PodDetails {
        labels: texts(pod.labels),
        netns: pod.netns.map(|path| OsString::from_vec(path).into()),
        exclusions,
        probe_ports: each("probe_ports", &pod.probe_ports, port)?,
        named_ports: each("named_ports", &pod.named_ports, |named: &messages::NamedPort| {
            Ok((named.name.as_str().into(), port(&named.port).map_err(|error| error.within("port"))?))
        })?,
        static_uid: pod.static_uid.map(|uid| WorkloadUid(uid.into())),
    };
    Ok(Workload {
        uid: WorkloadUid(Arc::clone(uid)),
        name: NamespacedName {
            namespace: shared.text(&filled("namespace", pod.namespace)?),
            name: filled("name", pod.name)?,
        },
        node: shared.text(&pod.node),
        identity,
        addresses: each("addresses", &pod.addresses, |bytes| address(bytes))?,
        enrolment,
        host_network: pod.host_network,
        ready: pod.ready,
        terminating: pod.terminating,
        details: shared.details(details),
        labels_for_metrics: names,
    })
}

fn canonical_names(
    names: Option<messages::CanonicalNames>,
    shared: &mut Shared,
) -> Result<Arc<CanonicalNames>, FieldError> {
    let names = names.ok_or_else(|| FieldError::new("canonical_names", "is missing"))?;
    let names = CanonicalNames {
        workload: shared.text(&names.workload),
        service: shared.text(&names.service),
        revision: shared.text(&names.revision),
        app: shared.text(&names.app),
        version: shared.text(&names.version),
    };
    Ok(shared.names(names))
}

fn service(name: &str, value: &[u8]) -> Result<Service, FieldError> {
    let service: messages::Service = message(value)?;
    let internal_traffic_policy = match known("internal_traffic_policy", service.internal_traffic_policy)? {
        messages::InternalTrafficPolicy::Cluster => InternalTrafficPolicy::Cluster,
        messages::InternalTrafficPolicy::Local => InternalTrafficPolicy::Local,
        messages::InternalTrafficPolicy::Unspecified => return Err(unspecified("internal_traffic_policy")),
    };
    let traffic_distribution = match known("traffic_distribution", service.traffic_distribution)? {
        messages::TrafficDistribution::Any => TrafficDistribution::Any,
        messages::TrafficDistribution::PreferSameZone => TrafficDistribution::PreferSameZone,
        messages::TrafficDistribution::PreferSameNode => TrafficDistribution::PreferSameNode,
        messages::TrafficDistribution::Unspecified => return Err(unspecified("traffic_distribution")),
    };
    Ok(Service {
        name: namespaced_name(name)?,
        host: service.host.into(),
        cluster_ips: each("cluster_ips", &service.cluster_ips, |bytes| address(bytes))?,
        external_addresses: each("external_addresses", &service.external_addresses, |bytes| address(bytes))?,
        selector: texts(service.selector),
        ports: each("ports", &service.ports, service_port)?,
        client_ip_affinity: service.client_ip_affinity_seconds.map(Duration::from_secs),
        internal_traffic_policy,
        traffic_distribution,
        publish_not_ready: service.publish_not_ready,
    })
}

fn service_port(service_port: &messages::ServicePort) -> Result<ServicePort, FieldError> {
    let messages::ServicePort { name, port: number, target_port, node_port, protocol } = service_port;
    let target_port = match target_port {
        Some(messages::TargetPort::Number(number)) => {
            TargetPort::Number(port(number).map_err(|error| error.within("target_port"))?)
        }
        Some(messages::TargetPort::Named(name)) => TargetPort::Named(name.as_str().into()),
        None => return Err(unspecified("target_port")),
    };
    let protocol = match known("protocol", *protocol)? {
        messages::Protocol::Tcp => Protocol::Tcp,
        messages::Protocol::Http1 => Protocol::Http1,
        messages::Protocol::Http2 => Protocol::Http2,
        messages::Protocol::Grpc => Protocol::Grpc,
        messages::Protocol::Tls => Protocol::Tls,
        messages::Protocol::Undeclared => Protocol::Undeclared,
        messages::Protocol::Unspecified => return Err(unspecified("protocol")),
    };
    Ok(ServicePort {
        name: name.as_str().into(),
        port: port(number).map_err(|error| error.within("port"))?,
        target_port,
        node_port: node_port.as_ref().map(port).transpose().map_err(|error| error.within("node_port"))?,
        protocol,
    })
}

fn endpoint_slice(name: &str, value: &[u8], shared: &mut Shared) -> Result<EndpointSlice, FieldError> {
    let slice: messages::EndpointSlice = message(value)?;
    let name = namespaced_name(name)?;
    let service =
        NamespacedName { namespace: Arc::clone(&name.namespace), name: filled("service", slice.service)? };
    let mut ports = Vec::with_capacity(slice.ports.len());
    for (index, port) in slice.ports.into_iter().enumerate() {
        let messages::SlicePort { name, endpoints } = port;
        let endpoints: Result<Vec<_>, _> = each("endpoints", &endpoints, |one| endpoint(one, shared));
        let endpoints = endpoints.map_err(|error| error.at("ports", index))?;
        ports.push(SlicePort { name: name.into(), endpoints: endpoints.into() });
    }
    Ok(EndpointSlice { name, service, ports })
}

fn endpoint(endpoint: &messages::Endpoint, shared: &mut Shared) -> Result<Endpoint, FieldError> {
    let state = match known("state", endpoint.state)? {
        messages::EndpointState::Ready => EndpointState::Ready,
        messages::EndpointState::ServingTerminating => EndpointState::ServingTerminating,
        messages::EndpointState::NotReady => EndpointState::NotReady,
        messages::EndpointState::Unspecified => return Err(unspecified("state")),
    };
    Ok(Endpoint {
        address: address(&endpoint.address).map_err(|error| error.within("address"))?,
        port: port(&endpoint.port).map_err(|error| error.within("port"))?,
        workload: endpoint.workload.as_deref().map(|uid| WorkloadUid(shared.text(uid))),
        state,
        node: shared.text(&endpoint.node),
        zone: shared.text(&endpoint.zone),
        hint_zones: endpoint.hint_zones.iter().map(|zone| shared.text(zone)).collect(),
        hint_nodes: endpoint.hint_nodes.iter().map(|node| shared.text(node)).collect(),
    })
}

/// Reads every member of a list.
pub(super) fn each<M, T, L: FromIterator<T>>(
    field: &str,
    members: &[M],
    mut read: impl FnMut(&M) -> Result<T, FieldError>,
) -> Result<L, FieldError> {
    let numbered = members.iter().enumerate();
    numbered.map(|(index, member)| read(member).map_err(|error| error.at(field, index))).collect()
}

pub(super) fn cidr(range: &messages::Cidr) -> Result<IpNet, FieldError> {
    let address = address(&range.address).map_err(|error| error.within("address"))?;
    let length = u8::try_from(range.prefix).ok();
    length
        .and_then(|length| IpNet::new(address, length).ok())
        .ok_or_else(|| FieldError::new("prefix", format!("{} is longer than the address", range.prefix)))
}

pub(super) fn texts(texts: BTreeMap<String, String>) -> BTreeMap<Text, Text> {
    texts.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
}

pub(super) fn port(number: &u32) -> Result<u16, FieldError> {
    u16::try_from(*number).map_err(|_| FieldError::whole(format!("{number} is not a port: at most 65535")))
}

/// Reads the value of an enumeration.
pub(super) fn known<E: TryFrom<i32>>(field: &str, value: i32) -> Result<E, FieldError> {
    let unknown = |_| FieldError::new(field, format!("this version does not know its value {value}"));
    E::try_from(value).map_err(unknown)
}

pub(super) fn unspecified(field: &str) -> FieldError {
    FieldError::new(field, "is missing, or has a form that this version does not know")
}

fn filled(field: &str, text: String) -> Result<Text, FieldError> {
    if text.is_empty() { Err(FieldError::new(field, "is missing")) } else { Ok(text.into()) }
}

fn address(bytes: &[u8]) -> Result<IpAddr, FieldError> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Ok(octets.into());
    }
    let octets = <[u8; 16]>::try_from(bytes);
    octets
        .map(IpAddr::from)
        .map_err(|_| FieldError::whole(format!("an address has 4 or 16 bytes, this one has {}", bytes.len())))
}
