//! What is known, as documents.

use std::collections::BTreeMap;

use mesh_common::model::endpoint::EndpointState;
use mesh_common::model::policy::MutualTls;
use mesh_common::model::{self, Enrolment, Protocol};
use mesh_common::snapshot::{ServiceRecord, Snapshot};

use super::documents::{Certificate, Endpoint, Service, ServicePort, Workload};
use crate::identity::CertificateSummary;

/// All pods, by name.
pub fn workloads(snapshot: &Snapshot) -> Vec<Workload> {
    let mut workloads: Vec<Workload> = snapshot.workloads().map(|pod| workload(snapshot, pod)).collect();
    workloads.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    workloads
}

fn workload(snapshot: &Snapshot, pod: &model::Workload) -> Workload {
    Workload {
        namespace: pod.name.namespace.to_string(),
        name: pod.name.name.to_string(),
        uid: pod.uid.0.to_string(),
        node: pod.node.to_string(),
        addresses: pod.addresses.iter().map(ToString::to_string).collect(),
        identity: pod.identity.to_string(),
        enrolled: pod.enrolment == Enrolment::Enabled,
        mutual_tls: mutual_tls(snapshot, pod).to_owned(),
        mutual_tls_ports: mutual_tls_ports(snapshot, pod),
        ready: pod.ready,
        terminating: pod.terminating,
        host_network: pod.host_network,
    }
}

/// The most specific PeerAuthentication that says something; without one PERMISSIVE holds.
fn mutual_tls(snapshot: &Snapshot, pod: &model::Workload) -> &'static str {
    let said = snapshot.peer_authentications(&pod.uid).and_then(|found| {
        [found.workload, found.namespace, found.mesh].into_iter().flatten().find_map(|policy| policy.mode)
    });
    mode(said.unwrap_or(MutualTls::Permissive))
}

/// The ports for which a mode is set.
fn mutual_tls_ports(snapshot: &Snapshot, pod: &model::Workload) -> BTreeMap<u16, String> {
    let found = snapshot.peer_authentications(&pod.uid).and_then(|found| found.workload);
    let ports = found.into_iter().flat_map(|policy| &policy.ports);
    ports.filter_map(|(port, set)| Some((*port, mode((*set)?).to_owned()))).collect()
}

fn mode(mode: MutualTls) -> &'static str {
    match mode {
        MutualTls::Strict => "STRICT",
        MutualTls::Permissive => "PERMISSIVE",
    }
}

/// All Services with their endpoints, by name.
pub fn services(snapshot: &Snapshot) -> Vec<Service> {
    let mut services: Vec<Service> = snapshot.services().map(|record| service(snapshot, record)).collect();
    services.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    services
}

fn service(snapshot: &Snapshot, record: &ServiceRecord) -> Service {
    let model::Service { name, host, cluster_ips, ports, .. } = &*record.service;
    Service {
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
        host: host.to_string(),
        cluster_ips: cluster_ips.iter().map(ToString::to_string).collect(),
        ports: ports
            .iter()
            .enumerate()
            .map(|(index, port)| ServicePort {
                name: port.name.to_string(),
                port: port.port,
                protocol: protocol(port.protocol).to_owned(),
                endpoints: record.endpoints_of(index).iter().map(|found| endpoint(snapshot, found)).collect(),
            })
            .collect(),
    }
}

fn endpoint(snapshot: &Snapshot, endpoint: &model::Endpoint) -> Endpoint {
    let pod = endpoint.workload.as_ref().and_then(|uid| snapshot.workload(uid));
    Endpoint {
        address: std::net::SocketAddr::new(endpoint.address, endpoint.port).to_string(),
        workload: endpoint.workload.as_ref().map(|uid| uid.0.to_string()),
        pod: pod.map(|pod| pod.name.to_string()),
        state: match endpoint.state {
            EndpointState::Ready => "ready",
            EndpointState::ServingTerminating => "terminating",
            EndpointState::NotReady => "not ready",
        }
        .to_owned(),
        node: endpoint.node.to_string(),
    }
}

pub(super) fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Http1 => "http/1.1",
        Protocol::Http2 => "http/2",
        Protocol::Grpc => "grpc",
        Protocol::Tls => "tls",
        Protocol::Undeclared => "undeclared",
    }
}

/// The certificates of this node, by identity.
pub fn certificates(summaries: Vec<CertificateSummary>) -> Vec<Certificate> {
    let mut certificates: Vec<Certificate> = summaries
        .into_iter()
        .map(|summary| Certificate {
            identity: summary.identity.to_string(),
            serial: summary.serial,
            not_before: summary.not_before,
            not_after: summary.not_after,
            usable: summary.usable,
            failures: summary.failures,
            last_error: summary.last_error,
            refused: summary.refused,
        })
        .collect();
    certificates.sort_by(|a, b| a.identity.cmp(&b.identity));
    certificates
}
