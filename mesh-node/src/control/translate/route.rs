//! The routes of the Gateway API, HTTPRoute, GRPCRoute, TCPRoute and TLSRoute: which Services one is about, and what it
//! sends requests to. No rule of a route is applied, so no more of it is read.
//!
//! The types are ours: those of the crate `gateway-api` are for an older kube, and hold on to everything.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_common::model::NamespacedName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Effect, Field, FieldError, Finding, SPEC, Translated, namespaced_name};

/// The group of the Gateway API.
pub const GROUP: &str = "gateway.networking.k8s.io";

/// What a route names. Nothing else of it is kept; without a Service among its parents, nothing at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteReferences {
    /// Namespace and name.
    pub name: NamespacedName,
    /// The Services that it is about, by their place in `spec.parentRefs`.
    pub parents: Vec<(usize, ParentReference)>,
    /// What its rules send requests to, or mirror them to.
    pub backends: Vec<Backend>,
}

/// An entry of `spec.parentRefs`, and of its copy in the status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentReference {
    /// The API group of what it names; that of the Gateway API if it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Its kind; Gateway if it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its namespace; the route's own if it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Of a Service, the name of a port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// Of a Service, the number of a port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
}

/// What a rule sends requests to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where the route says so, as in `spec.rules[0].backendRefs[1]`.
    pub field: Box<str>,
    /// The backend itself.
    pub target: Target,
}

/// What a backend is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A port of a Service; `None` if no port is given.
    Service(NamespacedName, Option<i32>),
    /// Something else, as in `Bucket of example.com`.
    Other(Box<str>),
}

/// A route of any kind, as far as it is read.
#[derive(Clone, Debug, Deserialize)]
pub struct Route {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: RouteSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RouteSpec {
    parent_refs: Option<Vec<ParentReference>>,
    rules: Option<Vec<Rule>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    filters: Option<Vec<Filter>>,
    backend_refs: Option<Vec<BackendReference>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    request_mirror: Option<Mirror>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mirror {
    backend_ref: BackendReference,
}

#[derive(Clone, Debug, Deserialize)]
struct BackendReference {
    group: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
    port: Option<i32>,
    filters: Option<Vec<Filter>>,
}

impl ParentReference {
    /// Whether it names a Service. Its group is the empty one, which has to be written; `core` is read as that.
    pub fn is_service(&self) -> bool {
        self.kind.as_deref() == Some("Service") && self.group.as_deref().is_some_and(is_core)
    }

    /// The Service of a route that stands in this namespace.
    pub fn service(&self, namespace: &str) -> NamespacedName {
        named(self.namespace.as_deref(), &self.name, namespace)
    }
}

/// Reads a route, whatever else its version has: that is the API server's to judge.
///
/// # Errors
/// A field of those that are read is of another type, or missing.
pub fn read(object: &Value) -> Result<Route, FieldError> {
    serde_path_to_error::deserialize(object).map_err(|error| {
        let field = error.path().to_string();
        // The path of the whole is a dot.
        FieldError { field: field.trim_start_matches('.').to_owned(), reason: error.inner().to_string() }
    })
}

/// Translates a route.
///
/// # Errors
/// If it has no name.
pub fn route(object: &Route) -> Result<Translated<RouteReferences>, FieldError> {
    let name = namespaced_name(&object.metadata)?;
    let given = object.spec.parent_refs.as_deref().unwrap_or_default();
    let parents: Vec<_> =
        given.iter().cloned().enumerate().filter(|(_, parent)| parent.is_service()).collect();
    let mut findings = misnamed(given);
    let mut backends = Vec::new();
    if !parents.is_empty() {
        let reason = "no rule of a route is applied by this version: requests to its Services go to their own endpoints";
        findings.push(Finding::new(Effect::FieldIgnored, &SPEC.name("rules"), reason));
        backends = every_backend(&object.spec, &name.namespace);
    }
    Ok(Translated { value: RouteReferences { name, parents, backends }, findings })
}

/// What is to be known of every BackendTLSPolicy.
pub fn unapplied_policy() -> (FieldError, Effect) {
    let reason =
        "is not applied by this version: the mesh's own encryption is as without it, and it adds no other";
    (FieldError { field: "spec".to_owned(), reason: reason.to_owned() }, Effect::FieldIgnored)
}

/// Parents that are meant to be Services, and are none.
fn misnamed(parents: &[ParentReference]) -> Vec<Finding> {
    let path = SPEC.name("parentRefs");
    let is_misnamed = |parent: &ParentReference| {
        parent.kind.as_deref() == Some("Service")
            && parent.group.as_deref().is_none_or(|group| group == GROUP)
    };
    let places = (0..).zip(parents).filter(|(_, parent)| is_misnamed(parent));
    let finding = |(index, _)| {
        let reason = format!(
            "a Service is not of the group {GROUP}, which this one is of by default: write group: \"\""
        );
        Finding::new(Effect::FieldIgnored, &path.index(index).name("group"), reason)
    };
    places.map(finding).collect()
}

fn every_backend(spec: &RouteSpec, namespace: &str) -> Vec<Backend> {
    let (mut backends, rules) = (Vec::new(), SPEC.name("rules"));
    for (index, rule) in spec.rules.iter().flatten().enumerate() {
        let rule_field = rules.index(index);
        mirrored(rule.filters.as_deref(), &rule_field, namespace, &mut backends);
        let references = rule_field.name("backendRefs");
        for (index, reference) in rule.backend_refs.iter().flatten().enumerate() {
            let field = references.index(index);
            backends.push(backend(reference, &field, namespace));
            mirrored(reference.filters.as_deref(), &field, namespace, &mut backends);
        }
    }
    backends
}

/// What filters mirror requests to.
fn mirrored(filters: Option<&[Filter]>, parent: &Field<'_>, namespace: &str, backends: &mut Vec<Backend>) {
    let filters_field = parent.name("filters");
    for (index, filter) in filters.unwrap_or_default().iter().enumerate() {
        if let Some(Mirror { backend_ref }) = &filter.request_mirror {
            let filter_field = filters_field.index(index);
            let mirror = filter_field.name("requestMirror");
            backends.push(backend(backend_ref, &mirror.name("backendRef"), namespace));
        }
    }
}

fn backend(reference: &BackendReference, field: &Field<'_>, namespace: &str) -> Backend {
    let BackendReference { group, kind, namespace: given, name, port, .. } = reference;
    let (group, kind) = (group.as_deref().unwrap_or_default(), kind.as_deref().unwrap_or("Service"));
    let target = if is_core(group) && kind == "Service" {
        Target::Service(named(given.as_deref(), name, namespace), *port)
    } else {
        Target::Other(format!("{kind} of {}", if is_core(group) { "v1" } else { group }).into())
    };
    Backend { field: field.to_string().into(), target }
}

fn is_core(group: &str) -> bool {
    matches!(group, "" | "core")
}

fn named(given: Option<&str>, name: &str, namespace: &str) -> NamespacedName {
    NamespacedName::new(given.filter(|given| !given.is_empty()).unwrap_or(namespace), name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn translated(spec: &Value) -> Translated<RouteReferences> {
        let object = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec});
        route(&read(&object).unwrap()).unwrap()
    }

    #[test]
    fn a_parent_is_ours_if_it_is_a_service() {
        for (parent, is_ours, is_said) in [
            (json!({"group": "", "kind": "Service", "name": "web"}), true, false),
            (json!({"group": "core", "kind": "Service", "name": "web", "namespace": "other"}), true, false),
            (json!({"name": "web"}), false, false),
            (json!({"kind": "Gateway", "name": "web"}), false, false),
            (json!({"kind": "Service", "name": "web"}), false, true),
            (json!({"group": GROUP, "kind": "Service", "name": "web"}), false, true),
            (json!({"group": "example.com", "kind": "Service", "name": "web"}), false, false),
            (json!({"group": "", "kind": "ConfigMap", "name": "web"}), false, false),
        ] {
            let rules = json!([{"backendRefs": [{"name": "web", "port": 80}]}]);
            let Translated { value, findings } = translated(&json!({"parentRefs": [parent], "rules": rules}));
            assert_eq!(
                (value.parents.len(), value.backends.len()),
                (is_ours.into(), is_ours.into()),
                "{parent}"
            );
            let has = |field: &str| findings.iter().any(|finding| finding.error.field == field);
            assert_eq!(has("spec.parentRefs[0].group"), is_said, "{parent}");
            assert_eq!(has("spec.rules"), is_ours, "{parent}");
        }
    }

    #[test]
    fn every_backend_is_found_where_it_stands() {
        let mirror =
            |name: &str| json!([{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": name}}}]);
        let spec = json!({
            "parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
            "rules": [{"newField": {}}, {
                "filters": mirror("shadow"),
                "backendRefs": [
                    {"name": "web", "namespace": "other", "port": 80, "weight": 1, "filters": mirror("copy")},
                    {"group": "example.com", "kind": "Bucket", "name": "files"},
                ],
            }],
        });
        let service =
            |namespace: &str, name: &str, port| Target::Service(NamespacedName::new(namespace, name), port);
        let expected = [
            ("spec.rules[1].filters[0].requestMirror.backendRef", service("shop", "shadow", None)),
            ("spec.rules[1].backendRefs[0]", service("other", "web", Some(80))),
            (
                "spec.rules[1].backendRefs[0].filters[0].requestMirror.backendRef",
                service("shop", "copy", None),
            ),
            ("spec.rules[1].backendRefs[1]", Target::Other("Bucket of example.com".into())),
        ];
        let found = translated(&spec).value.backends;
        let found: Vec<_> = found.iter().map(|backend| (&*backend.field, backend.target.clone())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_of_another_type_is_named() {
        let object = json!({"metadata": {"name": "web"}, "spec": {"parentRefs": [{"name": 7}]}});
        let error = read(&object).unwrap_err();
        assert_eq!(error.field, "spec.parentRefs[0].name");
        assert!(read(&json!([])).is_err());
    }
}
