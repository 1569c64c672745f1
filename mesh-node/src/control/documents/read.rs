//! One document becomes objects: which kind it is, typed, translated.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use mesh_common::model::{MeshSettings, NamespacedName};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::line::{Lines, Source};
use super::misread::{self, Namespaces};
use super::{
    Claim, Complaint, Denial, Document, MAX_OBJECTS, ObjectName, documents, salvage, shortened, strict, yaml,
};
use crate::control::object::{Kind, Meaning, ObjectKey};
use crate::control::resources;
use crate::control::translate::{
    DEFAULT_NAMESPACE, Effect, FieldError, Translated, authorization_policy, endpoint_slice, mesh_config,
    namespace, node, peer_authentication, pod, request_authentication, resembles, route, service,
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
    /// One claim; several of a policy of which it cannot be said where it stands.
    claims: Vec<(ObjectKey, Claim)>,
    errors: Vec<(FieldError, Effect)>,
}

/// What an object says.
struct Said {
    meaning: Meaning,
    errors: Vec<(FieldError, Effect)>,
}

impl Reader {
    /// A reader for one mesh.
    pub fn new(settings: Arc<MeshSettings>) -> Self {
        Self { settings }
    }

    /// Reads one document.
    pub fn document(&self, text: &str) -> Document {
        let mut document = Document {
            objects: Vec::new(),
            complaints: Vec::new(),
            is_readable: true,
            source: Source::default(),
        };
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
        let mut places = BTreeMap::new();
        for draft in drafts {
            let Some(kind) = self.kind(&draft, document) else { continue };
            let outcome = self.object(kind, &draft, text);
            for (key, claim) in outcome.claims {
                if !seen.insert(key.clone()) {
                    let error = FieldError {
                        field: "metadata.name".to_owned(),
                        reason: format!("{key} stands twice in this document; the last one counts"),
                    };
                    complain(document, &draft, error, Effect::Warning);
                }
                if !draft.prefix.is_empty() {
                    places.insert(key.clone(), draft.prefix.clone());
                }
                document.objects.push((key, claim));
            }
            for (error, effect) in outcome.errors {
                complain(document, &draft, error, effect);
            }
        }
        // Not of EndpointSlices alone: most of a large folder is them, and nothing is wrong with one beside others.
        if document.objects.iter().any(|(key, _)| key.kind != Kind::EndpointSlice) {
            document.source = Source::new(text, places);
        }
    }

    /// The kind of a draft; `None`, and a complaint, if it is not one that is read.
    fn kind(&self, draft: &Draft<'_>, document: &mut Document) -> Option<Kind> {
        let api_version = draft.value["apiVersion"].as_str();
        let known = Kind::ALL.into_iter().find(|kind| kind.name() == draft.name.kind);
        let is_read = |kind: &Kind| api_version.is_some_and(|version| kind.api_versions().contains(&version));
        if let Some(kind) = known.filter(is_read).filter(|kind| self.is_wanted(*kind, draft)) {
            return Some(kind);
        }
        let [kind, version] = ["kind", "apiVersion"].map(|field| misread::text(draft.value, field));
        if let Some(kind) = misread::policy_kind(kind, version) {
            return Some(kind);
        }
        let (field, reason, effect) = match (api_version, &*draft.name.kind) {
            _ if !draft.value.is_object() => {
                ("", "is not an object with apiVersion and kind".to_owned(), Effect::NotInForce)
            }
            (_, "") => ("kind", "is missing, or is not text".to_owned(), Effect::NotInForce),
            (None, _) => ("apiVersion", "is missing, or is not text".to_owned(), Effect::NotInForce),
            (Some(version), kind) => ("kind", format!("{kind} of {version} is not read"), Effect::NotRead),
        };
        complain(document, draft, FieldError { field: field.to_owned(), reason }, effect);
        None
    }

    /// Whether an object of a known kind is one that is read: of ConfigMaps only the mesh's configuration is.
    fn is_wanted(&self, kind: Kind, draft: &Draft<'_>) -> bool {
        let name = namespaced(kind, &draft.name, &draft.name.name);
        kind != Kind::MeshConfig || mesh_config::is_mesh_config(&name, &self.settings)
    }

    /// What an object of a known kind says, and who says it. Without a name, a policy gets one, and all else has none.
    fn object(&self, kind: Kind, draft: &Draft<'_>, text: &str) -> Outcome {
        let key = key(kind, &draft.name);
        match self.said(kind, draft) {
            Ok(said) => Outcome {
                claims: key.map(|key| (key, Claim::Good(said.meaning))).into_iter().collect(),
                errors: said.errors,
            },
            Err(errors) if kind.is_policy() => self.not_understood(kind, draft, errors, text),
            Err(errors) => Outcome {
                claims: key.map(|key| (key, Claim::Refused)).into_iter().collect(),
                errors: errors.into_iter().map(|error| (error, Effect::NotInForce)).collect(),
            },
        }
    }

    /// A policy that is not understood, in every namespace that it may stand in.
    fn not_understood(&self, kind: Kind, draft: &Draft<'_>, errors: Vec<FieldError>, text: &str) -> Outcome {
        let namespaces = misread::namespaces(draft.value);
        // Of another kind, or of no namespace, nothing else counts either.
        let counts = resembles(&draft.name.kind, kind.name()) && namespaces != Namespaces::Any;
        let value = if counts { draft.value } else { &Value::Null };
        let claims = policy_keys(kind, &draft.name, &namespaces, &(&draft.prefix, text), &self.settings)
            .into_iter()
            .map(|key| {
                let meaning = self.faulty(&key, value, &errors[0]);
                (key, Claim::Good(meaning))
            })
            .collect();
        let doubt =
            namespaces.doubt().map(|reason| FieldError { field: "metadata.namespace".to_owned(), reason });
        Outcome {
            claims,
            errors: errors.into_iter().chain(doubt).map(|error| (error, Effect::Denies)).collect(),
        }
    }

    fn said(&self, kind: Kind, draft: &Draft<'_>) -> Result<Said, Vec<FieldError>> {
        let settings = &*self.settings;
        match kind {
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
                |object| pod::pod(object, settings, pod::Origin::Folder),
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
            Kind::MeshConfig => read::<core::ConfigMap, _>(
                draft,
                kind,
                |object| super::mesh_config(object, settings),
                |value| value.map_or(Meaning::Nothing, |value| Meaning::MeshConfig(Arc::new(value))),
            ),
            Kind::AuthorizationPolicy | Kind::PeerAuthentication | Kind::RequestAuthentication => {
                self.policy_said(kind, draft)
            }
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute | Kind::TlsRoute => route_said(draft),
            Kind::ReferenceGrant => nothing_said(draft, Vec::new()),
            Kind::BackendTlsPolicy => nothing_said(draft, vec![route::unapplied_policy()]),
        }
    }

    fn policy_said(&self, kind: Kind, draft: &Draft<'_>) -> Result<Said, Vec<FieldError>> {
        let settings = &*self.settings;
        if kind == Kind::PeerAuthentication {
            return read::<resources::PeerAuthentication, _>(
                draft,
                kind,
                |object| peer_authentication::peer_authentication(object, settings),
                |value| Meaning::PeerAuthentication(Arc::new(value)),
            );
        }
        if kind == Kind::RequestAuthentication {
            return read::<resources::RequestAuthentication, _>(
                draft,
                kind,
                |object| request_authentication::request_authentication(object, settings),
                |value| Meaning::RequestAuthentication(Arc::new(value)),
            );
        }
        read::<resources::AuthorizationPolicy, _>(
            draft,
            kind,
            |object| authorization_policy::authorization_policy(object, settings),
            |value| Meaning::AuthorizationPolicy(Arc::new(value)),
        )
    }

    /// What a policy that is not understood means.
    fn faulty(&self, key: &ObjectKey, value: &Value, error: &FieldError) -> Meaning {
        let name = key.name.clone();
        if key.kind == Kind::PeerAuthentication {
            let policy = peer_authentication::unreadable(value, name, &self.settings);
            return Meaning::PeerAuthentication(Arc::new(policy));
        }
        if key.kind == Kind::RequestAuthentication {
            let policy = request_authentication::unreadable(value, name, error, &self.settings);
            return Meaning::RequestAuthentication(Arc::new(policy));
        }
        let policy = authorization_policy::unreadable(value, name, error, &self.settings);
        Meaning::AuthorizationPolicy(Arc::new(policy))
    }

    /// What a text that is not read denies: for each policy that it seems to hold, the most that it might.
    pub(in crate::control) fn denials(&self, text: &str, reason: &str) -> Vec<Denial> {
        let mut denials = Vec::new();
        for chunk in documents(text) {
            let salvaged = salvage::salvage(chunk.text);
            let is_listed = salvaged.object.kind == "List";
            let namespaces = misread::one_of(salvaged.namespaces);
            for kind in salvaged.policies {
                let claims = self.denials_of(kind, &salvaged.object, &namespaces, chunk.text, reason);
                denials.extend(claims.into_iter().map(|(key, claim)| Denial { key, claim, is_listed }));
            }
        }
        if denials.len() <= MAX_OBJECTS {
            return denials;
        }
        // Each denies all of a namespace: of so many, one for all of them says the same.
        let kinds: BTreeSet<Kind> = denials.into_iter().map(|denial| denial.key.kind).collect();
        let everywhere = |kind| {
            self.denials_of(kind, &ObjectName::default(), &Namespaces::Any, text, reason)
                .into_iter()
                .map(|(key, claim)| Denial { key, claim, is_listed: false })
        };
        kinds.into_iter().flat_map(everywhere).collect()
    }

    /// A policy of which no more is known than its kind and where it may stand.
    fn denials_of(
        &self,
        kind: Kind,
        name: &ObjectName,
        namespaces: &Namespaces,
        text: &str,
        reason: &str,
    ) -> Vec<(ObjectKey, Claim)> {
        let error = FieldError { field: String::new(), reason: reason.to_owned() };
        let keys = policy_keys(kind, name, namespaces, &text, &self.settings);
        // Of its action nothing is known: the fallback is the strictest, DENY.
        let claim = |key| {
            let meaning = self.faulty(&key, &Value::Null, &error);
            (key, Claim::Unreadable(meaning))
        };
        keys.into_iter().map(claim).collect()
    }

    /// A document that is no YAML. If it seems to be a policy, it denies, unless a former state of it is in force.
    fn unreadable(&self, error: &yaml::YamlError, text: &str, document: &mut Document) {
        document.is_readable = false;
        let salvaged = salvage::salvage(text);
        let mut name = salvaged.object;
        let policies = salvaged.policies;
        let is_known = !policies.is_empty() || Kind::ALL.into_iter().any(|kind| kind.name() == name.kind);
        let effect = if policies.is_empty() { Effect::NotInForce } else { Effect::Denies };
        let namespaces = misread::one_of(salvaged.namespaces);
        for kind in &policies {
            document.objects.extend(self.denials_of(*kind, &name, &namespaces, text, &error.reason));
        }
        if !matches!(namespaces, Namespaces::One(_)) && !policies.is_empty() {
            name.namespace.clear();
        }
        document.complaints.push(Complaint {
            line: error.line.unwrap_or(1),
            object: is_known.then_some(name),
            field: None,
            reason: shortened(error.reason.clone()),
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

/// Text, or what stands in its place: a name that looks like a number still tells which object is meant. Of `true` it
/// cannot be said what was written: YAML also reads it where `y` or `on` stands.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn read<K: DeserializeOwned, T>(
    draft: &Draft<'_>,
    kind: Kind,
    translate: impl Fn(&K) -> Result<Translated<T>, FieldError>,
    meaning: impl Fn(T) -> Meaning,
) -> Result<Said, Vec<FieldError>> {
    let error = |field: &str, reason: String| vec![FieldError { field: field.to_owned(), reason }];
    if draft.name.kind != kind.name() {
        let policies = Kind::ALL.into_iter().filter(|kind| kind.is_policy());
        let kinds: Vec<String> = policies.map(|kind| format!("kind: {}", kind.name())).collect();
        let kinds = kinds.join(" or ");
        let reason = match &*draft.name.kind {
            "" => format!("is missing: write {kinds}"),
            other if resembles(other, kind.name()) => {
                format!("{other} is not known: write kind: {}", kind.name())
            }
            other => format!("{other} is not known: write {kinds}"),
        };
        return Err(error("kind", reason));
    }
    if draft.value["apiVersion"] != kind.api_version() {
        return Err(error("apiVersion", format!("write apiVersion: {}", kind.api_version())));
    }
    let object: K = strict::read(draft.value)?;
    let namespace = &*draft.name.namespace;
    if kind.is_policy() && !namespace.is_empty() && !misread::is_label(namespace) {
        let reason = format!("{namespace:?} is no namespace: 1 to 63 of a-z, 0-9 and '-'");
        return Err(error("metadata.namespace", reason));
    }
    if draft.name.name.is_empty() {
        return Err(error("metadata.name", "is missing".to_owned()));
    }
    let translated = translate(&object).map_err(|error| vec![error])?;
    let errors = translated.findings.into_iter().map(|finding| (finding.error, finding.effect)).collect();
    Ok(Said { meaning: meaning(translated.value), errors })
}

fn route_said(draft: &Draft<'_>) -> Result<Said, Vec<FieldError>> {
    let translated = route::read(draft.value).and_then(|object| route::route(&object));
    let Translated { value, findings } = translated.map_err(|error| vec![error])?;
    let errors = findings.into_iter().map(|finding| (finding.error, finding.effect)).collect();
    Ok(Said { meaning: Meaning::Route(Arc::new(value)), errors })
}

/// An object that is known to be there, and no more.
fn nothing_said(draft: &Draft<'_>, errors: Vec<(FieldError, Effect)>) -> Result<Said, Vec<FieldError>> {
    if draft.name.name.is_empty() {
        return Err(vec![FieldError { field: "metadata.name".to_owned(), reason: "is missing".to_owned() }]);
    }
    Ok(Said { meaning: Meaning::Nothing, errors })
}

fn key(kind: Kind, name: &ObjectName) -> Option<ObjectKey> {
    (!name.name.is_empty()).then(|| ObjectKey { kind, name: namespaced(kind, name, &name.name) })
}

/// The keys of a policy that is not understood, one for each namespace that it may stand in. It always has one: where
/// name or namespace is in doubt its text tells it from every other, so that none takes its place.
fn policy_keys(
    kind: Kind,
    name: &ObjectName,
    namespaces: &Namespaces,
    text: &impl Hash,
    settings: &MeshSettings,
) -> Vec<ObjectKey> {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let hash = hasher.finish();
    let new_name = match &*name.name {
        "" => format!("unnamed-{hash:016x}"),
        name => format!("{name}-unclear-{hash:016x}"),
    };
    let key = |namespace: &str, name: &str| ObjectKey { kind, name: NamespacedName::new(namespace, name) };
    match namespaces {
        Namespaces::One(namespace) if !name.name.is_empty() => vec![key(namespace, &name.name)],
        Namespaces::One(namespace) => vec![key(namespace, &new_name)],
        Namespaces::Some(namespaces) => {
            namespaces.iter().map(|namespace| key(namespace, &new_name)).collect()
        }
        // What stands in the root namespace is about every other.
        Namespaces::Any => vec![key(&settings.root_namespace, &new_name)],
    }
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
    // What denies is never left out: whoever takes the document asks for it.
    if document.complaints.len() >= MAX_COMPLAINTS && effect != Effect::Denies {
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
        object: named.then(|| draft.name.clone().shortened()),
        field: field.map(shortened),
        reason: shortened(error.reason),
        effect,
    });
}
