//! What an object means that an API server gave: well-formed, stored, and of whatever version of its kind.
//!
//! In: JSON. Out: its meaning, and what is wrong with it. Other than in a folder, a field of a built-in kind that is
//! not known says nothing: the cluster may be newer. One of a policy does, since it may narrow it. Never: I/O.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use mesh_common::model::{MeshSettings, NamespacedName};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::documents::{mesh_config, strict};
use super::object::{Kind, Meaning, ObjectKey};
use super::resources;
use super::translate::pod::Origin;
use super::translate::{
    Effect, FieldError, Translated, authorization_policy, endpoint_slice, namespace, node,
    peer_authentication, pod, request_authentication, route, service,
};

/// Most faults of one object that are kept: it may have as many as it has entries.
const MAX_FAULTS: usize = 20;

/// An object that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// What it means; `None` if it is no policy and cannot be understood: what it meant before stays.
    pub meaning: Option<Meaning>,
    /// What is wrong with it.
    pub errors: Vec<(FieldError, Effect)>,
}

/// Reads an object. A policy always means something: what is not understood of it denies.
pub fn served(key: &ObjectKey, object: &Value, settings: &MeshSettings) -> Served {
    match meaning(key.kind, object, settings) {
        Ok((meaning, errors)) => Served { meaning: Some(meaning), errors: gravest(errors) },
        Err(errors) => {
            let effect = if key.kind.is_policy() { Effect::Denies } else { Effect::NotInForce };
            let meaning = denying(key, object, &errors, settings);
            Served { meaning, errors: gravest(errors.into_iter().map(|error| (error, effect)).collect()) }
        }
    }
}

/// Those that are kept: what denies before what does not, otherwise in their order.
fn gravest(mut errors: Vec<(FieldError, Effect)>) -> Vec<(FieldError, Effect)> {
    if errors.len() > MAX_FAULTS {
        errors.sort_by_key(|(_, effect)| *effect != Effect::Denies);
        errors.truncate(MAX_FAULTS);
    }
    errors
}

type Read = Result<(Meaning, Vec<(FieldError, Effect)>), Vec<FieldError>>;

fn meaning(kind: Kind, object: &Value, settings: &MeshSettings) -> Read {
    match kind {
        Kind::Namespace => {
            let read = lenient::<core::Namespace>(object)?;
            finish(namespace::namespace(&read), |value| Meaning::Namespace(Arc::new(value)))
        }
        Kind::Node => {
            let read = lenient::<core::Node>(object)?;
            finish(node::node(&read), |value| Meaning::Node(Arc::new(value)))
        }
        Kind::ServiceAccount => Ok((Meaning::Nothing, Vec::new())),
        Kind::Pod => {
            let read = lenient::<core::Pod>(object)?;
            finish(pod::pod(&read, settings, Origin::ApiServer), |value| Meaning::Pod(Arc::new(value)))
        }
        Kind::Service => {
            let read = lenient::<core::Service>(object)?;
            let meaning =
                |value: Option<_>| value.map_or(Meaning::Nothing, |value| Meaning::Service(Arc::new(value)));
            finish(service::service(&read, settings), meaning)
        }
        Kind::EndpointSlice => {
            let read = lenient::<discovery::EndpointSlice>(object)?;
            let meaning = |value: Option<_>| {
                value.map_or(Meaning::Nothing, |value| Meaning::EndpointSlice(Arc::new(value)))
            };
            finish(endpoint_slice::endpoint_slice(&read), meaning)
        }
        Kind::MeshConfig => {
            let read = lenient::<core::ConfigMap>(object)?;
            let meaning = |value: Option<_>| {
                value.map_or(Meaning::Nothing, |value| Meaning::MeshConfig(Arc::new(value)))
            };
            finish(mesh_config(&read, settings), meaning)
        }
        Kind::AuthorizationPolicy => {
            let read = strict::read::<resources::AuthorizationPolicy>(object)?;
            let translated = authorization_policy::authorization_policy(&read, settings);
            finish(translated, |value| Meaning::AuthorizationPolicy(Arc::new(value)))
        }
        Kind::PeerAuthentication => {
            let read = strict::read::<resources::PeerAuthentication>(object)?;
            let translated = peer_authentication::peer_authentication(&read, settings);
            finish(translated, |value| Meaning::PeerAuthentication(Arc::new(value)))
        }
        Kind::RequestAuthentication => {
            let read = strict::read::<resources::RequestAuthentication>(object)?;
            let translated = request_authentication::request_authentication(&read, settings);
            finish(translated, |value| Meaning::RequestAuthentication(Arc::new(value)))
        }
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute | Kind::TlsRoute => {
            let read = route::read(object).map_err(|error| vec![error])?;
            finish(route::route(&read), |value| Meaning::Route(Arc::new(value)))
        }
        Kind::ReferenceGrant => Ok((Meaning::Nothing, Vec::new())),
        Kind::BackendTlsPolicy => Ok((Meaning::Nothing, vec![route::unapplied_policy()])),
    }
}

fn lenient<K: DeserializeOwned>(object: &Value) -> Result<K, Vec<FieldError>> {
    K::deserialize(object)
        .map_err(|error| vec![FieldError { field: String::new(), reason: error.to_string() }])
}

fn finish<T>(translated: Result<Translated<T>, FieldError>, meaning: impl Fn(T) -> Meaning) -> Read {
    let translated = translated.map_err(|error| vec![error])?;
    let errors = translated.findings.into_iter().map(|finding| (finding.error, finding.effect)).collect();
    Ok((meaning(translated.value), errors))
}

/// What a policy that is not understood means.
fn denying(
    key: &ObjectKey,
    object: &Value,
    errors: &[FieldError],
    settings: &MeshSettings,
) -> Option<Meaning> {
    let name = key.name.clone();
    let unknown = FieldError { field: String::new(), reason: "cannot be read".to_owned() };
    let error = errors.first().unwrap_or(&unknown);
    match key.kind {
        Kind::AuthorizationPolicy => {
            let policy = authorization_policy::unreadable(object, name, error, settings);
            Some(Meaning::AuthorizationPolicy(Arc::new(policy)))
        }
        Kind::PeerAuthentication => {
            let policy = peer_authentication::unreadable(object, name, settings);
            Some(Meaning::PeerAuthentication(Arc::new(policy)))
        }
        Kind::RequestAuthentication => {
            let policy = request_authentication::unreadable(object, name, error, settings);
            Some(Meaning::RequestAuthentication(Arc::new(policy)))
        }
        _ => None,
    }
}

/// The name of an object of a kind; `None` if it has none, which no API server gives.
pub fn name_of(kind: Kind, object: &Value) -> Option<ObjectKey> {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().filter(|name| !name.is_empty())?;
    let namespace = metadata["namespace"].as_str().unwrap_or_default();
    if kind.is_namespaced() == namespace.is_empty() {
        return None;
    }
    Some(ObjectKey { kind, name: NamespacedName::new(namespace, name) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(kind: Kind, object: &Value) -> Served {
        let key = name_of(kind, object).unwrap();
        served(&key, object, &MeshSettings::default())
    }

    fn pod() -> Value {
        json!({
            "metadata": {
                "name": "web-1", "namespace": "shop", "uid": "1",
                "annotations": {"nodemesh.dev/netns": "/proc/1/ns/net"},
            },
            "spec": {"nodeName": "a", "containers": [{"name": "web", "newField": 1}], "newField": {"a": 1}},
            "status": {"podIPs": [{"ip": "10.0.0.1"}]},
        })
    }

    #[test]
    fn a_path_of_a_namespace_is_not_believed_and_a_newer_field_is_no_fault() {
        let served = read(Kind::Pod, &pod());
        assert_eq!(served.errors, []);
        let Some(Meaning::Pod(pod)) = served.meaning else { panic!("it is a pod") };
        assert_eq!(pod.workload.details.netns, None);
        assert_eq!(pod.workload.addresses[0].to_string(), "10.0.0.1");
    }

    #[test]
    fn a_pod_that_cannot_be_understood_means_nothing_new() {
        let mut object = pod();
        object["status"]["podIPs"][0]["ip"] = json!("localhost");
        let served = read(Kind::Pod, &object);
        assert_eq!(served.meaning, None);
        assert_eq!(served.errors[0].0.field, "status.podIPs[0].ip");
        let served = read(Kind::Pod, &json!({"metadata": {"name": "a", "namespace": "b"}, "spec": 7}));
        assert_eq!((served.meaning, served.errors.len()), (None, 1));
    }

    #[test]
    fn a_policy_with_a_field_that_is_not_known_denies() {
        let object = json!({
            "metadata": {"name": "a", "namespace": "shop"},
            "spec": {"rules": [{"newField": 1}]},
        });
        let served = read(Kind::AuthorizationPolicy, &object);
        let Some(Meaning::AuthorizationPolicy(policy)) = served.meaning else { panic!("it is a policy") };
        assert!(policy.fault.is_some());
        assert_eq!(served.errors[0].1, Effect::Denies);
        let object = json!({"metadata": {"name": "a", "namespace": "shop"}, "spec": {"mtls": 1}});
        let served = read(Kind::PeerAuthentication, &object);
        let Some(Meaning::PeerAuthentication(policy)) = served.meaning else { panic!("it is a policy") };
        assert_eq!(policy.mode, Some(mesh_common::model::policy::MutualTls::Strict));
    }

    #[test]
    fn of_many_faults_those_that_deny_are_kept() {
        let error = |field: usize| FieldError { field: field.to_string(), reason: String::new() };
        let warnings = (0..MAX_FAULTS).map(|field| (error(field), Effect::Warning));
        let kept = gravest(warnings.chain([(error(77), Effect::Denies)]).collect());
        assert_eq!((kept.len(), &kept[0]), (MAX_FAULTS, &(error(77), Effect::Denies)));
        assert_eq!(kept[1].0, error(0));
    }

    #[test]
    fn what_has_no_name_is_nobodys() {
        assert_eq!(name_of(Kind::Pod, &json!({"metadata": {"name": "a"}})), None);
        assert_eq!(name_of(Kind::Node, &json!({"metadata": {"name": ""}})), None);
        assert!(name_of(Kind::Node, &json!({"metadata": {"name": "a"}})).is_some());
    }
}
