//! `discovery.k8s.io/v1` EndpointSlice.

use k8s_openapi::api::discovery::v1 as discovery;
use mesh_common::model::{Endpoint, EndpointSlice, EndpointState, NamespacedName, SlicePort, WorkloadUid};

use super::{
    Effect, Field, FieldError, Finding, METADATA, Translated, ip_address, namespaced_name, port_number,
};

/// The label that names the Service of a slice.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Translates an EndpointSlice. One without a Service, or of names (`addressType: FQDN`), gives `None`.
///
/// # Errors
/// If it has no name, or an address or port that is none.
pub fn endpoint_slice(
    object: &discovery::EndpointSlice,
) -> Result<Translated<Option<EndpointSlice>>, FieldError> {
    let name = namespaced_name(&object.metadata)?;
    let labels = METADATA.name("labels");
    let Some(service) = object.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME)) else {
        let reason = "is missing: the slice belongs to no Service";
        let finding = Finding::new(Effect::Warning, &labels.key(SERVICE_NAME), reason);
        return Ok(Translated { value: None, findings: vec![finding] });
    };
    if object.address_type == "FQDN" {
        let reason = "FQDN endpoints are not read: give addresses";
        let finding = Finding::new(Effect::Warning, &Field::Root("addressType"), reason);
        return Ok(Translated { value: None, findings: vec![finding] });
    }
    let service = NamespacedName::new(name.namespace.clone(), service.as_str());
    let endpoints = endpoints(object)?;
    let path = Field::Root("ports");
    let mut ports = Vec::new();
    for (index, port) in object.ports.iter().flatten().enumerate() {
        let tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        if let (true, Some(number)) = (tcp, port.port) {
            let number = port_number(&path.index(index).name("port"), number)?;
            let at_port = |endpoint: &Endpoint| Endpoint { port: number, ..endpoint.clone() };
            ports.push(SlicePort {
                name: port.name.as_deref().unwrap_or_default().into(),
                endpoints: endpoints.iter().map(at_port).collect(),
            });
        }
    }
    Ok(Some(EndpointSlice { name, service, ports }).into())
}

/// One for each address, with no port yet.
fn endpoints(object: &discovery::EndpointSlice) -> Result<Vec<Endpoint>, FieldError> {
    let path = Field::Root("endpoints");
    let mut endpoints = Vec::new();
    for (index, endpoint) in object.endpoints.iter().flatten().enumerate() {
        let field = path.index(index);
        let addresses = field.name("addresses");
        let hints = endpoint.hints.as_ref();
        let zones = hints.and_then(|hints| hints.for_zones.as_deref()).unwrap_or_default();
        let nodes = hints.and_then(|hints| hints.for_nodes.as_deref()).unwrap_or_default();
        for (index, text) in endpoint.addresses.iter().enumerate() {
            endpoints.push(Endpoint {
                address: ip_address(&addresses.index(index), text)?,
                port: 0,
                workload: pod_uid(endpoint),
                state: state(endpoint.conditions.as_ref()),
                node: endpoint.node_name.as_deref().unwrap_or_default().into(),
                zone: endpoint.zone.as_deref().unwrap_or_default().into(),
                hint_zones: zones.iter().map(|zone| zone.name.as_str().into()).collect(),
                hint_nodes: nodes.iter().map(|node| node.name.as_str().into()).collect(),
            });
        }
    }
    // As the snapshot has them, which then needs no copy.
    endpoints.sort_unstable();
    Ok(endpoints)
}

/// `ready` that is not given counts as true, `serving` as `ready`, `terminating` as false (API reference of
/// `discovery.k8s.io/v1` EndpointConditions).
fn state(conditions: Option<&discovery::EndpointConditions>) -> EndpointState {
    let Some(conditions) = conditions else { return EndpointState::Ready };
    let ready = conditions.ready.unwrap_or(true);
    let serving = conditions.serving.unwrap_or(ready);
    let terminating = conditions.terminating.unwrap_or(false);
    match (ready, serving && terminating) {
        (true, _) => EndpointState::Ready,
        (false, true) => EndpointState::ServingTerminating,
        (false, false) => EndpointState::NotReady,
    }
}

/// The pod that `targetRef` names. A hand-written slice seldom has its uid; then the address tells the pod.
fn pod_uid(endpoint: &discovery::Endpoint) -> Option<WorkloadUid> {
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"))?;
    target.uid.as_deref().map(|uid| WorkloadUid(uid.into()))
}
