//! `v1` Node: its addresses and where it stands.

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use mesh_common::model::Node;
use smallvec::SmallVec;

use super::{FieldError, SPEC, STATUS, Translated, ip_address, object_name, pattern};

/// Translates a Node.
///
/// # Errors
/// If it has no name, or an address or range that is none.
pub fn node(object: &core::Node) -> Result<Translated<Node>, FieldError> {
    let name = object_name(&object.metadata)?.into();
    let path = STATUS.name("addresses");
    let mut addresses = SmallVec::new();
    let listed = object.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    for (index, address) in listed.iter().enumerate() {
        if matches!(address.type_.as_str(), "InternalIP" | "ExternalIP") {
            addresses.push(ip_address(&path.index(index).name("address"), &address.address)?);
        }
    }
    let labels = object.metadata.labels.as_ref();
    let zone = labels.and_then(|labels| labels.get("topology.kubernetes.io/zone"));
    let zone = zone.map(String::as_str).unwrap_or_default().into();
    Ok(Node { name, zone, addresses, pod_cidrs: pod_cidrs(object)? }.into())
}

/// `spec.podCIDRs`, else `spec.podCIDR`.
fn pod_cidrs(object: &core::Node) -> Result<SmallVec<[IpNet; 2]>, FieldError> {
    let Some(spec) = &object.spec else { return Ok(SmallVec::new()) };
    let path = SPEC.name("podCIDRs");
    let mut cidrs = SmallVec::new();
    for (index, text) in spec.pod_cidrs.iter().flatten().enumerate() {
        cidrs.push(pattern::ip_block(&path.index(index), text)?);
    }
    if let (true, Some(single)) = (cidrs.is_empty(), &spec.pod_cidr) {
        cidrs.push(pattern::ip_block(&SPEC.name("podCIDR"), single)?);
    }
    Ok(cidrs)
}
