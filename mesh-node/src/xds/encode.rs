//! Model to messages.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use bytes::Bytes;
use ipnet::IpNet;
use mesh_common::model::endpoint::{Endpoint, EndpointSlice, EndpointState, SlicePort};
use mesh_common::model::service::{
    InternalTrafficPolicy, Service, ServicePort, TargetPort, TrafficDistribution,
};
use mesh_common::model::workload::{CanonicalNames, Workload};
use mesh_common::model::{Enrolment, MeshSettings, NamespacedName, Node, Protocol, Question, Text};
use mesh_common::snapshot::Delta;
use prost::Message;

use super::encode_policy::{authorization_policy, peer_authentication};
use super::encode_request_authentication::request_authentication;
use super::resource::{Key, Outgoing, Resource, ResourceType, Trust};
use super::{MESH, messages};

/// What a delta is on the stream.
pub fn encode(delta: &Delta) -> Outgoing {
    use ResourceType as Type;
    match delta {
        Delta::Settings(settings) => upsert(Type::Mesh, MESH.into(), &mesh(settings)),
        Delta::UpsertWorkload(pod) => upsert(Type::Workload, Arc::clone(&pod.uid.0), &workload(pod)),
        Delta::RemoveWorkload(uid) => remove(Type::Workload, Arc::clone(&uid.0)),
        Delta::UpsertService(found) => upsert(Type::Service, named(&found.name), &service(found)),
        Delta::RemoveService(name) => remove(Type::Service, named(name)),
        Delta::UpsertEndpointSlice(slice) => {
            upsert(Type::EndpointSlice, named(&slice.name), &endpoint_slice(slice))
        }
        Delta::RemoveEndpointSlice(name) => remove(Type::EndpointSlice, named(name)),
        Delta::UpsertAuthorizationPolicy(policy) => {
            upsert(Type::AuthorizationPolicy, named(&policy.name), &authorization_policy(policy))
        }
        Delta::RemoveAuthorizationPolicy(name) => remove(Type::AuthorizationPolicy, named(name)),
        Delta::UpsertPeerAuthentication(policy) => {
            upsert(Type::PeerAuthentication, named(&policy.name), &peer_authentication(policy))
        }
        Delta::RemovePeerAuthentication(name) => remove(Type::PeerAuthentication, named(name)),
        Delta::UpsertRequestAuthentication(policy) => {
            upsert(Type::RequestAuthentication, named(&policy.name), &request_authentication(policy))
        }
        Delta::RemoveRequestAuthentication(name) => remove(Type::RequestAuthentication, named(name)),
        Delta::UpsertNode(found) => upsert(Type::Node, Arc::clone(&found.name), &node(found)),
        Delta::RemoveNode(name) => remove(Type::Node, Arc::clone(name)),
    }
}

/// The roots of a trust domain as a resource.
pub fn encode_trust(trust: &Trust) -> Resource {
    let message = messages::TrustBundle {
        roots: trust.roots.clone(),
        revocation_lists: trust.revocation_lists.clone(),
        retired: trust.retired.clone(),
    };
    resource(ResourceType::TrustBundle, trust.trust_domain.as_str().into(), &message)
}

/// That all was told about what was asked.
pub fn encode_answer(question: Question) -> Resource {
    Resource::new(Key { kind: ResourceType::Address, name: question.to_string().into() }, Bytes::new())
}

fn upsert(kind: ResourceType, name: Text, message: &impl Message) -> Outgoing {
    Outgoing::Upsert(resource(kind, name, message))
}

fn resource(kind: ResourceType, name: Text, message: &impl Message) -> Resource {
    Resource::new(Key { kind, name }, message.encode_to_vec().into())
}

fn remove(kind: ResourceType, name: Text) -> Outgoing {
    Outgoing::Remove(Key { kind, name })
}

/// `namespace/name`. Neither holds a slash.
fn named(name: &NamespacedName) -> Text {
    format!("{}/{}", name.namespace, name.name).into()
}

fn mesh(settings: &MeshSettings) -> messages::Mesh {
    messages::Mesh {
        root_namespace: settings.root_namespace.to_string(),
        trust_domain: settings.trust_domain.to_string(),
        cluster_domain: settings.cluster_domain.to_string(),
        mesh_cidrs: settings.mesh_cidrs.iter().map(cidr).collect(),
    }
}

fn node(node: &Node) -> messages::Node {
    messages::Node {
        zone: node.zone.to_string(),
        addresses: addresses(&node.addresses),
        pod_cidrs: node.pod_cidrs.iter().map(cidr).collect(),
    }
}

fn workload(pod: &Workload) -> messages::Workload {
    let enrolment = match pod.enrolment {
        Enrolment::Enabled => messages::Enrolment::Enabled,
        Enrolment::Disabled => messages::Enrolment::Disabled,
    };
    let details = &pod.details;
    messages::Workload {
        namespace: pod.name.namespace.to_string(),
        name: pod.name.name.to_string(),
        node: pod.node.to_string(),
        identity: pod.identity.to_string(),
        addresses: addresses(&pod.addresses),
        labels: texts(&details.labels),
        netns: details.netns.as_ref().map(|path| path.as_os_str().as_bytes().to_vec()),
        enrolment: enrolment.into(),
        host_network: pod.host_network,
        ready: pod.ready,
        terminating: pod.terminating,
        excluded_outbound_ports: ports(&details.exclusions.outbound_ports),
        excluded_outbound_cidrs: details.exclusions.outbound_cidrs.iter().map(cidr).collect(),
        excluded_inbound_ports: ports(&details.exclusions.inbound_ports),
        probe_ports: ports(&details.probe_ports),
        named_ports: details.named_ports.iter().map(named_port).collect(),
        canonical_names: Some(canonical_names(&pod.labels_for_metrics)),
        static_uid: details.static_uid.as_ref().map(|uid| uid.0.to_string()),
    }
}

fn named_port((name, port): &(Text, u16)) -> messages::NamedPort {
    messages::NamedPort { name: name.to_string(), port: (*port).into() }
}

fn canonical_names(names: &CanonicalNames) -> messages::CanonicalNames {
    messages::CanonicalNames {
        workload: names.workload.to_string(),
        service: names.service.to_string(),
        revision: names.revision.to_string(),
        app: names.app.to_string(),
        version: names.version.to_string(),
    }
}

fn service(service: &Service) -> messages::Service {
    let internal_traffic_policy = match service.internal_traffic_policy {
        InternalTrafficPolicy::Cluster => messages::InternalTrafficPolicy::Cluster,
        InternalTrafficPolicy::Local => messages::InternalTrafficPolicy::Local,
    };
    let traffic_distribution = match service.traffic_distribution {
        TrafficDistribution::Any => messages::TrafficDistribution::Any,
        TrafficDistribution::PreferSameZone => messages::TrafficDistribution::PreferSameZone,
        TrafficDistribution::PreferSameNode => messages::TrafficDistribution::PreferSameNode,
    };
    messages::Service {
        host: service.host.to_string(),
        cluster_ips: addresses(&service.cluster_ips),
        external_addresses: addresses(&service.external_addresses),
        selector: texts(&service.selector),
        ports: service.ports.iter().map(service_port).collect(),
        client_ip_affinity_seconds: service.client_ip_affinity.map(|lasts| lasts.as_secs()),
        internal_traffic_policy: internal_traffic_policy.into(),
        traffic_distribution: traffic_distribution.into(),
        publish_not_ready: service.publish_not_ready,
    }
}

fn service_port(port: &ServicePort) -> messages::ServicePort {
    let target_port = match &port.target_port {
        TargetPort::Number(number) => messages::TargetPort::Number((*number).into()),
        TargetPort::Named(name) => messages::TargetPort::Named(name.to_string()),
    };
    messages::ServicePort {
        name: port.name.to_string(),
        port: port.port.into(),
        target_port: Some(target_port),
        node_port: port.node_port.map(Into::into),
        protocol: protocol(port.protocol).into(),
    }
}

fn protocol(protocol: Protocol) -> messages::Protocol {
    match protocol {
        Protocol::Tcp => messages::Protocol::Tcp,
        Protocol::Http1 => messages::Protocol::Http1,
        Protocol::Http2 => messages::Protocol::Http2,
        Protocol::Grpc => messages::Protocol::Grpc,
        Protocol::Tls => messages::Protocol::Tls,
        Protocol::Undeclared => messages::Protocol::Undeclared,
    }
}

fn endpoint_slice(slice: &EndpointSlice) -> messages::EndpointSlice {
    let port = |port: &SlicePort| messages::SlicePort {
        name: port.name.to_string(),
        endpoints: port.endpoints.iter().map(endpoint).collect(),
    };
    messages::EndpointSlice {
        service: slice.service.name.to_string(),
        ports: slice.ports.iter().map(port).collect(),
    }
}

fn endpoint(endpoint: &Endpoint) -> messages::Endpoint {
    let state = match endpoint.state {
        EndpointState::Ready => messages::EndpointState::Ready,
        EndpointState::ServingTerminating => messages::EndpointState::ServingTerminating,
        EndpointState::NotReady => messages::EndpointState::NotReady,
    };
    messages::Endpoint {
        address: address(&endpoint.address),
        port: endpoint.port.into(),
        workload: endpoint.workload.as_ref().map(|uid| uid.0.to_string()),
        state: state.into(),
        node: endpoint.node.to_string(),
        zone: endpoint.zone.to_string(),
        hint_zones: endpoint.hint_zones.iter().map(ToString::to_string).collect(),
        hint_nodes: endpoint.hint_nodes.iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn cidr(range: &IpNet) -> messages::Cidr {
    messages::Cidr { address: address(&range.addr()), prefix: range.prefix_len().into() }
}

pub(super) fn texts(texts: &BTreeMap<Text, Text>) -> BTreeMap<String, String> {
    texts.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

pub(super) fn ports(ports: &[u16]) -> Vec<u32> {
    ports.iter().copied().map(Into::into).collect()
}

fn addresses(addresses: &[IpAddr]) -> Vec<Vec<u8>> {
    addresses.iter().map(address).collect()
}

fn address(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
