//! `v1` Service.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use mesh_common::model::service::{InternalTrafficPolicy, TrafficDistribution};
use mesh_common::model::{MeshSettings, NamespacedName, Protocol, Service, ServicePort, TargetPort, Text};
use smallvec::SmallVec;

use super::{
    Effect, Field, FieldError, Finding, SPEC, STATUS, Translated, ip_address, namespaced_name, port_number,
    protocol,
};

/// `sessionAffinityConfig.clientIP.timeoutSeconds`, where it is not given.
const DEFAULT_AFFINITY: Duration = Duration::from_secs(10_800);

/// Translates a Service. `ExternalName` gives `None`: it is an alias in DNS, which the mesh never sees.
///
/// # Errors
/// If it has no name, or an address or port that is none.
pub fn service(
    object: &core::Service,
    settings: &MeshSettings,
) -> Result<Translated<Option<Service>>, FieldError> {
    let name = namespaced_name(&object.metadata)?;
    let default = core::ServiceSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&default);
    if spec.type_.as_deref() == Some("ExternalName") {
        return Ok(None.into());
    }
    let mut findings = Vec::new();
    let is_headless = spec.cluster_ip.as_deref() == Some("None");
    if spec.ports.as_ref().is_none_or(Vec::is_empty) && !is_headless {
        let reason = "has no port: nothing can be reached by this Service";
        findings.push(Finding::new(Effect::Warning, &SPEC.name("ports"), reason));
    }
    let service = Service {
        host: host(&name, settings),
        name,
        cluster_ips: cluster_ips(spec)?,
        external_addresses: external_addresses(object, spec)?,
        selector: spec
            .selector
            .iter()
            .flatten()
            .map(|(k, v)| (k.as_str().into(), v.as_str().into()))
            .collect(),
        ports: ports(spec, opaque_ports(object))?,
        client_ip_affinity: client_ip_affinity(spec),
        internal_traffic_policy: internal_traffic_policy(spec, &mut findings),
        traffic_distribution: traffic_distribution(spec, &mut findings),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
    };
    Ok(Translated { value: Some(service), findings })
}

fn host(name: &NamespacedName, settings: &MeshSettings) -> Text {
    format!("{}.{}.svc.{}", name.name, name.namespace, settings.cluster_domain).into()
}

fn cluster_ips(spec: &core::ServiceSpec) -> Result<SmallVec<[IpAddr; 2]>, FieldError> {
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    let (field, texts) = match (listed, &spec.cluster_ip) {
        ([], Some(single)) => ("clusterIP", std::slice::from_ref(single)),
        _ => ("clusterIPs", listed),
    };
    let path = SPEC.name(field);
    let mut addresses = SmallVec::new();
    for (index, text) in texts.iter().enumerate().filter(|(_, text)| !matches!(text.as_str(), "" | "None")) {
        let entry = path.index(index);
        addresses.push(ip_address(if field == "clusterIP" { &path } else { &entry }, text)?);
    }
    Ok(addresses)
}

/// `spec.externalIPs`, and what a load balancer was given (`ipMode: Proxy` means: do not take a short way to it).
fn external_addresses(
    object: &core::Service,
    spec: &core::ServiceSpec,
) -> Result<SmallVec<[IpAddr; 1]>, FieldError> {
    let path = SPEC.name("externalIPs");
    let mut addresses = SmallVec::new();
    for (index, text) in spec.external_ips.iter().flatten().enumerate() {
        addresses.push(ip_address(&path.index(index), text)?);
    }
    let balancer = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let path = STATUS.name("loadBalancer");
    let path = path.name("ingress");
    for (index, ingress) in ingress.iter().enumerate() {
        if let (Some(text), None | Some("VIP")) = (&ingress.ip, ingress.ip_mode.as_deref()) {
            addresses.push(ip_address(&path.index(index).name("ip"), text)?);
        }
    }
    Ok(addresses)
}

/// Ports that are to be carried as bytes where they declare nothing.
fn opaque_ports(object: &core::Service) -> &str {
    let annotations = object.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(protocol::OPAQUE_PORTS)).map_or("", String::as_str)
}

fn ports(spec: &core::ServiceSpec, opaque: &str) -> Result<Vec<ServicePort>, FieldError> {
    let path = SPEC.name("ports");
    let mut ports = Vec::new();
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
            continue;
        }
        let field = path.index(index);
        let number = port_number(&field.name("port"), port.port)?;
        let node_port = match port.node_port {
            None | Some(0) => None,
            Some(node_port) => Some(port_number(&field.name("nodePort"), node_port)?),
        };
        ports.push(ServicePort {
            name: port.name.as_deref().unwrap_or_default().into(),
            port: number,
            target_port: target_port(&field, port.target_port.as_ref(), number)?,
            node_port,
            protocol: match protocol::declared(port.app_protocol.as_deref(), port.name.as_deref()) {
                Protocol::Undeclared if protocol::is_listed(opaque, number, port.name.as_deref()) => {
                    Protocol::Tcp
                }
                declared => declared,
            },
        });
    }
    Ok(ports)
}

/// `targetPort`, by default the port itself.
fn target_port(field: &Field<'_>, target: Option<&IntOrString>, port: u16) -> Result<TargetPort, FieldError> {
    Ok(match target {
        None | Some(IntOrString::Int(0)) => TargetPort::Number(port),
        Some(IntOrString::Int(target)) => {
            TargetPort::Number(port_number(&field.name("targetPort"), *target)?)
        }
        // kubectl and hand-written YAML both give numbers in quotes at times.
        Some(IntOrString::String(text)) => match text.parse::<u16>() {
            Ok(target) if target != 0 => TargetPort::Number(target),
            _ => TargetPort::Named(text.as_str().into()),
        },
    })
}

fn client_ip_affinity(spec: &core::ServiceSpec) -> Option<Duration> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|client_ip| client_ip.timeout_seconds);
    let given = seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    Some(given.unwrap_or(DEFAULT_AFFINITY))
}

fn internal_traffic_policy(spec: &core::ServiceSpec, findings: &mut Vec<Finding>) -> InternalTrafficPolicy {
    match spec.internal_traffic_policy.as_deref() {
        None | Some("Cluster") => InternalTrafficPolicy::Cluster,
        Some("Local") => InternalTrafficPolicy::Local,
        Some(other) => {
            let reason = format!("{other:?} is neither Cluster nor Local");
            findings.push(Finding::new(Effect::FieldIgnored, &SPEC.name("internalTrafficPolicy"), reason));
            InternalTrafficPolicy::Cluster
        }
    }
}

fn traffic_distribution(spec: &core::ServiceSpec, findings: &mut Vec<Finding>) -> TrafficDistribution {
    match spec.traffic_distribution.as_deref() {
        None | Some("") => TrafficDistribution::Any,
        Some("PreferSameZone" | "PreferClose") => TrafficDistribution::PreferSameZone,
        Some("PreferSameNode") => TrafficDistribution::PreferSameNode,
        Some(other) => {
            let reason = format!("{other:?} is not PreferSameZone, PreferSameNode or PreferClose");
            findings.push(Finding::new(Effect::FieldIgnored, &SPEC.name("trafficDistribution"), reason));
            TrafficDistribution::Any
        }
    }
}
