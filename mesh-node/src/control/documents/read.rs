//! One document becomes objects: which kind it is, typed, translated.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use mesh_common::model::{MeshSettings, NamespacedName};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::line::Lines;
use super::{Claim, Complaint, Document, ObjectName, salvage, strict, yaml};
use crate::control::object::{Kind, Meaning, ObjectKey};
use crate::control::resources;
use crate::control::translate::{
    DEFAULT_NAMESPACE, Effect, FieldError, Translated, authorization_policy, endpoint_slice, namespace, node,
    peer_authentication, pod, service,
};

/// Most complaints that are kept of one document. The first ones tell what is wrong.
const MAX_COMPLAINTS: usize = 100;

/// Reads documents.
#[derive(Clone, Debug)]
pub struct Reader {
    settings: Arc<MeshSettings>,
}

/// One object of a document, before it is known to be good.
struct Draft<'a> {
    value: &'a Value,
    /// Where it stands in its document: empty, or `items[3].`.
    prefix: String,
    name: ObjectName,
}

/// What is made of an object.
struct Outcome {
    claim: Claim,
    errors: Vec<(FieldError, Effect)>,
}

impl Reader {
    /// A reader for one mesh.
    pub fn new(settings: Arc<MeshSettings>) -> Self {
        Self { settings }
    }

    /// Reads one document.
    pub fn document(&self, text: &str) -> Document {
        let mut document = Document { objects: Vec::new(), complaints: Vec::new(), is_readable: true };
        match yaml::read::<Value>(text) {
            Ok(Value::Null) => {}
            Ok(value) => self.value(&value, text, &mut document),
            Err(error) => self.unreadable(&error, text, &mut document),
        }
        let has_fields = document.is_readable && !document.complaints.is_empty();
        let lines = has_fields.then(|| Lines::of(text));
        for complaint in &mut document.complaints {
            let field = complaint.field.as_deref();
            let line = field.zip(lines.as_ref()).and_then(|(field, lines)| lines.line(field));
            complaint.line = line.unwrap_or(complaint.line);
        }
        document
    }

    fn value(&self, value: &Value, text: &str, document: &mut Document) {
        let drafts = match items(value) {
            Some(items) => items
                .iter()
                .enumerate()
                .map(|(index, value)| draft(value, format!("items[{index}]")))
                .collect(),
            None => vec![draft(value, String::new())],
        };
        let mut seen = BTreeSet::new();
        for draft in drafts {
            let Some(kind) = self.kind(&draft, document) else { continue };
            let (key, outcome) = self.object(kind, &draft, text);
            if let Some(key) = key {
                if !seen.insert(key.clone()) {
                    let error = FieldError {
                        field: "metadata.name".to_owned(),
                        reason: format!("{key} stands twice in this document; the last one counts"),
                    };
                    complain(document, &draft, error, Effect::Warning);
                }
                document.objects.push((key, outcome.claim));
            }
            for (error, effect) in outcome.errors {
                complain(document, &draft, error, effect);
            }
        }
    }

    /// The kind of a draft; `None`, and a complaint, if it is not one that is read.
    fn kind(&self, draft: &Draft<'_>, document: &mut Document) -> Option<Kind> {
        let api_version = draft.value["apiVersion"].as_str();
        let group = api_version.unwrap_or_default().split_once('/').map_or("", |(group, _)| group);
        let known = Kind::ALL.into_iter().find(|kind| kind.name() == draft.name.kind);
        match known {
            Some(kind) if api_version == Some(kind.api_version()) => Some(kind),
            // A policy of ours in a version that is not read, or in none, is a policy all the same.
            Some(kind) if kind.is_policy() && matches!(group, "" | resources::GROUP) => Some(kind),
            _ => {
                let (field, reason, effect) = match (api_version, &*draft.name.kind) {
                    _ if !draft.value.is_object() => {
                        ("", "is not an object with apiVersion and kind".to_owned(), Effect::NotInForce)
                    }
                    (_, "") => ("kind", "is missing, or is not text".to_owned(), Effect::NotInForce),
                    (None, _) => ("apiVersion", "is missing, or is not text".to_owned(), Effect::NotInForce),
                    (Some(version), kind) if group == resources::GROUP => {
                        ("kind", format!("{kind} of {version} is not known"), Effect::NotInForce)
                    }
                    (Some(version), kind) => {
                        ("kind", format!("{kind} of {version} is not read"), Effect::NotRead)
                    }
                };
                let error = FieldError { field: field.to_owned(), reason };
                complain(document, draft, error, effect);
                None
            }
        }
    }

    /// What an object of a known kind says. Without a name, a policy gets one, and all else has no key.
    fn object(&self, kind: Kind, draft: &Draft<'_>, text: &str) -> (Option<ObjectKey>, Outcome) {
        let settings = &*self.settings;
        let outcome = match kind {
            Kind::Namespace => read::<core::Namespace, _>(draft, kind, namespace::namespace, |value| {
                Meaning::Namespace(Arc::new(value))
            }),
            Kind::Node => {
                read::<core::Node, _>(draft, kind, node::node, |value| Meaning::Node(Arc::new(value)))
            }
            Kind::ServiceAccount => {
                read::<core::ServiceAccount, _>(draft, kind, |_| Ok(().into()), |()| Meaning::Nothing)
            }
            Kind::Pod => read::<core::Pod, _>(
                draft,
                kind,
                |object| pod::pod(object, settings),
                |value| Meaning::Pod(Arc::new(value)),
            ),
            Kind::Service => read::<core::Service, _>(
                draft,
                kind,
                |object| service::service(object, settings),
                |value| value.map_or(Meaning::Nothing, |value| Meaning::Service(Arc::new(value))),
            ),
            Kind::EndpointSlice => {
                read::<discovery::EndpointSlice, _>(draft, kind, endpoint_slice::endpoint_slice, |value| {
                    value.map_or(Meaning::Nothing, |value| Meaning::EndpointSlice(Arc::new(value)))
                })
            }
            Kind::AuthorizationPolicy => read::<resources::AuthorizationPolicy, _>(
                draft,
                kind,
                |object| authorization_policy::authorization_policy(object, settings),
                |value| Meaning::AuthorizationPolicy(Arc::new(value)),
            ),
            Kind::PeerAuthentication => read::<resources::PeerAuthentication, _>(
                draft,
                kind,
                |object| peer_authentication::peer_authentication(object, settings),
                |value| Meaning::PeerAuthentication(Arc::new(value)),
            ),
        };
        match outcome {
            Ok(outcome) => (key(kind, &draft.name), outcome),
            Err(errors) if kind.is_policy() => {
                let key = policy_key(kind, &draft.name, text);
                let meaning = self.faulty(&key, draft.value, &errors[0]);
                let errors = errors.into_iter().map(|error| (error, Effect::Denies)).collect();
                (Some(key), Outcome { claim: Claim::Good(meaning), errors })
            }
            Err(errors) => {
                let errors = errors.into_iter().map(|error| (error, Effect::NotInForce)).collect();
                (key(kind, &draft.name), Outcome { claim: Claim::Refused, errors })
            }
        }
    }

    /// What a policy that is not understood means.
    fn faulty(&self, key: &ObjectKey, value: &Value, error: &FieldError) -> Meaning {
        let name = key.name.clone();
        if key.kind == Kind::PeerAuthentication {
            let policy = peer_authentication::unreadable(value, name, &self.settings);
            return Meaning::PeerAuthentication(Arc::new(policy));
        }
        let policy = authorization_policy::unreadable(value, name, error, &self.settings);
        Meaning::AuthorizationPolicy(Arc::new(policy))
    }

    /// A document that is no YAML. If it seems to be a policy, it denies, unless a former state of it is in force.
    fn unreadable(&self, error: &yaml::YamlError, text: &str, document: &mut Document) {
        document.is_readable = false;
        let name = salvage::object_name(text);
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name.kind);
        let mut effect = Effect::NotInForce;
        if let Some(kind) = kind.filter(|kind| kind.is_policy()) {
            let key = policy_key(kind, &name, text);
            let error = FieldError { field: String::new(), reason: error.reason.clone() };
            // Of its action nothing is known: the fallback is the strictest, DENY.
            let unknown = serde_json::json!({ "spec": { "action": "unknown" } });
            document.objects.push((key.clone(), Claim::Unreadable(self.faulty(&key, &unknown, &error))));
            effect = Effect::Denies;
        }
        document.complaints.push(Complaint {
            line: error.line.unwrap_or(1),
            object: kind.map(|_| name),
            field: None,
            reason: error.reason.clone(),
            effect,
        });
    }
}

/// The entries of a `v1` List; `None` if it is another object.
fn items(value: &Value) -> Option<&[Value]> {
    let is_list = value["kind"] == "List" && value["apiVersion"] == "v1";
    is_list.then(|| value["items"].as_array().map(Vec::as_slice).unwrap_or_default())
}

fn draft(value: &Value, prefix: String) -> Draft<'_> {
    let metadata = &value["metadata"];
    let kind = scalar(&value["kind"]).unwrap_or_default();
    let name = ObjectName {
        namespace: scalar(&metadata["namespace"]).unwrap_or_default(),
        name: scalar(&metadata["name"]).unwrap_or_default(),
        kind,
    };
    Draft { value, prefix, name }
}

/// Text, or what stands in its place: a name that looks like a number still tells which object is meant.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn read<K: DeserializeOwned, T>(
    draft: &Draft<'_>,
    kind: Kind,
    translate: impl Fn(&K) -> Result<Translated<T>, FieldError>,
    meaning: impl Fn(T) -> Meaning,
) -> Result<Outcome, Vec<FieldError>> {
    if draft.value["apiVersion"] != kind.api_version() {
        let reason = format!("must be {}", kind.api_version());
        return Err(vec![FieldError { field: "apiVersion".to_owned(), reason }]);
    }
    let object: K = strict::read(draft.value)?;
    if draft.name.name.is_empty() {
        return Err(vec![FieldError { field: "metadata.name".to_owned(), reason: "is missing".to_owned() }]);
    }
    let translated = translate(&object).map_err(|error| vec![error])?;
    let errors = translated.findings.into_iter().map(|finding| (finding.error, finding.effect)).collect();
    Ok(Outcome { claim: Claim::Good(meaning(translated.value)), errors })
}

fn key(kind: Kind, name: &ObjectName) -> Option<ObjectKey> {
    (!name.name.is_empty()).then(|| ObjectKey { kind, name: namespaced(kind, name, &name.name) })
}

/// The key of a policy, which always has one: without a name, its text tells it from every other.
fn policy_key(kind: Kind, name: &ObjectName, text: &str) -> ObjectKey {
    key(kind, name).unwrap_or_else(|| {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        ObjectKey { kind, name: namespaced(kind, name, &format!("unnamed-{:016x}", hasher.finish())) }
    })
}

fn namespaced(kind: Kind, object: &ObjectName, name: &str) -> NamespacedName {
    let namespace = match (kind.is_namespaced(), &*object.namespace) {
        (false, _) => "",
        (true, "") => DEFAULT_NAMESPACE,
        (true, namespace) => namespace,
    };
    NamespacedName::new(namespace, name)
}

fn complain(document: &mut Document, draft: &Draft<'_>, error: FieldError, effect: Effect) {
    if document.complaints.len() >= MAX_COMPLAINTS {
        return;
    }
    let field = match (&*draft.prefix, &*error.field) {
        ("", "") => None,
        ("", field) => Some(field.to_owned()),
        (prefix, "") => Some(prefix.to_owned()),
        (prefix, field) => Some(format!("{prefix}.{field}")),
    };
    let named = !draft.name.kind.is_empty() || !draft.name.name.is_empty();
    document.complaints.push(Complaint {
        line: 1,
        object: named.then(|| draft.name.clone()),
        field,
        reason: error.reason,
        effect,
    });
}
