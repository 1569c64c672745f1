//! PURE. Whether a route could attach to the Services that it is about, and whether what it sends requests to is there.
//!
//! In: what a route names, and a snapshot. Out: what is wrong, in the reasons of the Gateway API. A backend in another
//! namespace needs no ReferenceGrant: a route of a mesh opens no way that was not open before (GEP-1294).

use std::sync::Arc;

use mesh_common::snapshot::Snapshot;

use super::advice::Advice;
use super::object::ObjectKey;
use super::translate::Effect;
use super::translate::route::{Backend, ParentReference, RouteReferences, Target};

/// `Accepted` is false: what it is to attach to is not there, or cannot be attached to.
pub const NO_MATCHING_PARENT: &str = "NoMatchingParent";
/// `ResolvedRefs` is false: a backend is of a kind that is none.
pub const INVALID_KIND: &str = "InvalidKind";
/// `ResolvedRefs` is false: a backend is not there.
pub const BACKEND_NOT_FOUND: &str = "BackendNotFound";

/// Something that a route names and that is not as it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where the route names it.
    pub field: String,
    /// The reason of a condition.
    pub reason: &'static str,
    /// What is wrong, and what to do.
    pub message: String,
}

/// Why a route cannot attach to a parent; `None` if it could.
pub fn unmatched(
    route: &RouteReferences,
    (index, parent): &(usize, ParentReference),
    snapshot: &Snapshot,
) -> Option<Fault> {
    let name = parent.service(&route.name.namespace);
    let fault = |field: &str, message: String| {
        let field = format!("spec.parentRefs[{index}].{field}");
        Some(Fault { field, reason: NO_MATCHING_PARENT, message })
    };
    let Some(record) = snapshot.service(&name) else {
        return fault("name", format!("there is no Service {name}, or it is of type ExternalName"));
    };
    if record.service.cluster_ips.is_empty() {
        return fault(
            "name",
            format!("Service {name} has no cluster IP that requests could be told by: give it one"),
        );
    }
    let ports = &record.service.ports;
    let is_port = |number: i32| move |port: u16| i32::from(port) == number;
    let (number, section) = (parent.port, parent.section_name.as_deref());
    if let Some(number) = number.filter(|number| !ports.iter().any(|port| is_port(*number)(port.port))) {
        return fault("port", format!("Service {name} has no TCP port {number}"));
    }
    let fits = |section: &str| {
        let mut named = ports.iter().filter(|port| &*port.name == section);
        named.any(|port| number.is_none_or(|number| is_port(number)(port.port)))
    };
    let section = section.filter(|section| !section.is_empty() && !fits(section))?;
    fault(
        "sectionName",
        format!("Service {name} has no TCP port of this name, {section}, or it is not the one of port"),
    )
}

/// Backends of a route that are not there.
pub fn unresolved(route: &RouteReferences, snapshot: &Snapshot) -> Vec<Fault> {
    route.backends.iter().filter_map(|backend| missing(backend, snapshot)).collect()
}

fn missing(Backend { field, target }: &Backend, snapshot: &Snapshot) -> Option<Fault> {
    let fault =
        |part: &str, reason, message| Some(Fault { field: format!("{field}{part}"), reason, message });
    let (name, port) = match target {
        Target::Other(kind) => {
            return fault(".kind", INVALID_KIND, format!("{kind} is no backend: only a Service is"));
        }
        Target::Service(name, port) => (name, port),
    };
    let Some(record) = snapshot.service(name) else {
        let message = format!("there is no Service {name}, or it is of type ExternalName");
        return fault(".name", BACKEND_NOT_FOUND, message);
    };
    let Some(port) = port else {
        return fault("", BACKEND_NOT_FOUND, format!("says no port of Service {name}: give port"));
    };
    if record.service.ports.iter().any(|known| i32::from(known.port) == *port) {
        return None;
    }
    fault(".port", BACKEND_NOT_FOUND, format!("Service {name} has no TCP port {port}"))
}

/// What a person should know of routes.
pub(super) fn advice<'a>(
    routes: impl Iterator<Item = (&'a ObjectKey, &'a Arc<RouteReferences>)>,
    snapshot: &Snapshot,
) -> Vec<Advice> {
    let of_route = |(key, route): (&'a ObjectKey, &'a Arc<RouteReferences>)| {
        let parents = route.parents.iter().filter_map(|parent| unmatched(route, parent, snapshot));
        let faults: Vec<Fault> = parents.chain(unresolved(route, snapshot)).collect();
        faults.into_iter().map(|Fault { field, message, .. }| Advice {
            key: key.clone(),
            field,
            reason: message,
            effect: Effect::Warning,
        })
    };
    routes.flat_map(of_route).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1 as core;
    use mesh_common::model::MeshSettings;
    use mesh_common::snapshot::{Delta, Tables};
    use serde_json::{Value, json};

    use super::super::translate::{route, service};
    use super::*;

    fn snapshot() -> Snapshot {
        let mut tables = Tables::default();
        let ports = json!([{"name": "http", "port": 80}, {"name": "admin", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
        for (namespace, name, address) in
            [("shop", "web", "10.96.0.1"), ("other", "web", "10.96.0.2"), ("shop", "headless", "None")]
        {
            let object: core::Service = serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"clusterIP": address, "ports": ports},
            }))
            .unwrap();
            let translated = service::service(&object, &MeshSettings::default()).unwrap();
            tables.apply(Delta::UpsertService(Arc::new(translated.value.unwrap())));
        }
        tables.snapshot()
    }

    fn references(spec: &Value) -> RouteReferences {
        let object = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec});
        route::route(&route::read(&object).unwrap()).unwrap().value
    }

    #[test]
    fn a_parent_is_a_service_with_an_address_and_with_the_port() {
        for (more, field) in [
            (json!({}), None),
            (json!({"namespace": "other"}), None),
            (json!({"port": 80}), None),
            (json!({"sectionName": "admin"}), None),
            (json!({"sectionName": "admin", "port": 8080}), None),
            (json!({"name": "away"}), Some("name")),
            (json!({"namespace": "nowhere"}), Some("name")),
            (json!({"name": "headless"}), Some("name")),
            (json!({"port": 81}), Some("port")),
            (json!({"port": 53}), Some("port")),
            (json!({"port": 65_616}), Some("port")),
            (json!({"sectionName": "grpc"}), Some("sectionName")),
            (json!({"sectionName": "admin", "port": 80}), Some("sectionName")),
        ] {
            let mut parent = json!({"group": "", "kind": "Service", "name": "web"});
            parent.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let route = references(&json!({"parentRefs": [{"name": "gateway"}, parent]}));
            let fault = unmatched(&route, &route.parents[0], &snapshot());
            let expected = field.map(|field| (format!("spec.parentRefs[1].{field}"), NO_MATCHING_PARENT));
            assert_eq!(fault.map(|fault| (fault.field, fault.reason)), expected, "{more}");
        }
    }

    #[test]
    fn a_backend_is_a_port_of_a_service_that_is_there() {
        for (backend, expected) in [
            (json!({"name": "web", "port": 80}), None),
            (json!({"group": "core", "kind": "Service", "name": "web", "port": 80}), None),
            // In another namespace too: a mesh needs no grant for that.
            (json!({"name": "web", "namespace": "other", "port": 80}), None),
            (json!({"name": "headless", "port": 80}), None),
            (json!({"name": "web"}), Some(("", BACKEND_NOT_FOUND))),
            (json!({"name": "web", "port": 81}), Some((".port", BACKEND_NOT_FOUND))),
            (json!({"name": "web", "port": 53}), Some((".port", BACKEND_NOT_FOUND))),
            (json!({"name": "away", "port": 80}), Some((".name", BACKEND_NOT_FOUND))),
            (json!({"name": "web", "namespace": "nowhere", "port": 80}), Some((".name", BACKEND_NOT_FOUND))),
            (json!({"kind": "ConfigMap", "name": "web"}), Some((".kind", INVALID_KIND))),
            (
                json!({"group": "example.com", "kind": "Service", "name": "web"}),
                Some((".kind", INVALID_KIND)),
            ),
        ] {
            let parent = json!({"group": "", "kind": "Service", "name": "web"});
            let route = references(&json!({"parentRefs": [parent], "rules": [{"backendRefs": [backend]}]}));
            let faults = unresolved(&route, &snapshot());
            let found: Vec<_> = faults.iter().map(|fault| (&*fault.field, fault.reason)).collect();
            let expected =
                expected.map(|(part, reason)| (format!("spec.rules[0].backendRefs[0]{part}"), reason));
            let expected: Vec<_> = expected.iter().map(|(field, reason)| (&**field, *reason)).collect();
            assert_eq!(found, expected, "{backend}");
        }
    }
}
