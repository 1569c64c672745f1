//! What the controller has told this agent, and what of it is in force.
//!
//! In: the responses of one stream after another, and what was saved. Out: the answer to each, and, whenever a round is
//! whole, the snapshot that it makes. Pure: no clock, no I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource,
};
use mesh_common::model::{MeshSettings, Question, Text};
use mesh_common::snapshot::{Delta, Snapshot, Tables};

use super::asks::Batch;
use crate::xds::refusal::{Refusal, error_detail};
use crate::xds::{
    EVERYTHING, FieldError, Key, Outgoing, Reading, Resource, ResourceType, Shared, Trust, Update, Version,
    encode, keep_keys, read, removal,
};

/// All that this agent knows.
#[derive(Debug)]
pub(super) struct World {
    node: Text,
    tables: Tables,
    /// Of which policies that are not understood are about all.
    root_namespace: Text,
    /// What came, in force or about to be.
    versions: BTreeMap<Key, Version>,
    /// As it came, of that which the tables cannot say again.
    values: BTreeMap<Key, Bytes>,
    /// What came since the last round that was whole.
    pending: BTreeMap<Key, Option<Update>>,
    /// Types of which this stream has said nothing yet.
    missing: Vec<ResourceType>,
    /// The controller did not know every type when it was asked last.
    leaves_out_newest: bool,
    refused: BTreeMap<Key, Refused>,
    shared: Shared,
    /// Whether the agent asks, instead of being told everything.
    asks: bool,
    /// Questions that were taken back on this stream: an answer under way is of before.
    taken_back: BTreeSet<Text>,
    /// Questions of which the controller has said that it knows, since the last round that was whole.
    settled: Vec<Question>,
}

/// A resource for the disk.
#[derive(Clone, Debug)]
pub(super) enum Kept {
    /// As it came.
    Came(Key, Bytes),
    /// As the tables have it: of pods, Services and endpoints there are too many to keep their bytes as well.
    Known(Delta),
}

/// What was not understood of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) error: FieldError,
    /// It is a policy, and denies now what it might have denied.
    pub(super) denies: bool,
}

/// What a response led to.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) answer: DeltaDiscoveryRequest,
    /// All that the controller had to say at that moment has come.
    pub(super) is_whole: bool,
}

/// What is in force now.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) snapshot: Arc<Snapshot>,
    /// The roots, if they came anew.
    pub(super) trust: Option<Arc<Trust>>,
    /// How many resources came for it.
    pub(super) came: usize,
    /// Questions that were answered, or are known to be taken back.
    pub(super) settled: Vec<Question>,
}

/// A response that means nothing here: the stream is given up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the controller sent {0:?}, which was not asked for; see that agent and controller have the same version"
)]
pub(super) struct Unasked(String);

impl World {
    /// Knows only what the agent was told by its flags.
    pub(super) fn new(node: Text, settings: MeshSettings, asks: bool) -> Self {
        let mut tables = Tables::default();
        let root_namespace = Arc::clone(&settings.root_namespace);
        tables.apply(Delta::Settings(Arc::new(settings)));
        Self {
            node,
            tables,
            root_namespace,
            versions: BTreeMap::new(),
            values: BTreeMap::new(),
            pending: BTreeMap::new(),
            missing: Vec::new(),
            leaves_out_newest: false,
            refused: BTreeMap::new(),
            shared: Shared::default(),
            asks,
            taken_back: BTreeSet::new(),
            settled: Vec::new(),
        }
    }

    /// Takes what was saved, all of it at once.
    pub(super) fn restore(&mut self, resources: Vec<(Key, Bytes)>) -> InForce {
        let mut resources = resources;
        // Settings first: they say what a policy that is not understood is about.
        resources.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (key, value) in resources {
            if key == everything() {
                self.tables.know_what_was_asked();
            } else {
                self.put(key, value);
            }
        }
        self.apply()
    }

    /// The controller refused a stream for the type that earlier versions do not know. The next stream asks without it;
    /// the one after that asks again, since the controller may be another one by then.
    pub(super) fn leave_out_newest(&mut self) {
        self.leaves_out_newest = true;
    }

    /// The first requests of a stream: every type, with what is known of it, and all that is asked.
    pub(super) fn begin(&mut self, questions: &[Question]) -> Vec<DeltaDiscoveryRequest> {
        let kinds = if self.asks { &ResourceType::ALL[..] } else { &ResourceType::OF_EVERYBODY };
        let leaves_out_newest = std::mem::take(&mut self.leaves_out_newest);
        let goes = |kind: &ResourceType| !(leaves_out_newest && *kind == ResourceType::RequestAuthentication);
        let kinds: Vec<ResourceType> = kinds.iter().copied().filter(goes).collect();
        self.missing.clone_from(&kinds);
        self.taken_back.clear();
        let request = |kind: &ResourceType| {
            let mut request = DeltaDiscoveryRequest {
                node: Some(Node { id: self.node.to_string(), ..Node::default() }),
                type_url: kind.type_url(),
                ..DeltaDiscoveryRequest::default()
            };
            if *kind == ResourceType::Address {
                request.resource_names_subscribe = names(questions);
            } else {
                request.initial_resource_versions = self.versions(*kind);
            }
            if self.asks && (kind.is_on_demand() || *kind == ResourceType::Address) {
                // Nothing as a matter of course.
                request.resource_names_subscribe.push(EVERYTHING.to_owned());
                request.resource_names_unsubscribe.push(EVERYTHING.to_owned());
            }
            request
        };
        kinds.iter().map(request).collect()
    }

    /// The request of a batch. What it takes back is not known any more from here on.
    pub(super) fn ask(&mut self, batch: &Batch) -> (DeltaDiscoveryRequest, Arc<Snapshot>) {
        for question in &batch.taken_back {
            let key = Key { kind: ResourceType::Address, name: question.to_string().into() };
            self.tables.forget(*question);
            self.versions.remove(&key);
            self.values.remove(&key);
            self.pending.remove(&key);
            self.taken_back.insert(key.name);
        }
        let request = DeltaDiscoveryRequest {
            type_url: ResourceType::Address.type_url(),
            resource_names_subscribe: names(&batch.asked),
            resource_names_unsubscribe: names(&batch.taken_back),
            ..DeltaDiscoveryRequest::default()
        };
        (request, Arc::new(self.tables.snapshot()))
    }

    /// What was asked and answered.
    pub(super) fn questions(&self) -> Vec<Question> {
        let first = Key { kind: ResourceType::Address, name: "".into() };
        let answered = self.versions.range(first..).take_while(|(key, _)| key.kind == ResourceType::Address);
        answered.filter_map(|(key, _)| key.name.parse().ok()).collect()
    }

    /// Takes a response in; nothing of it is in force before [`Self::commit`].
    pub(super) fn take(&mut self, response: DeltaDiscoveryResponse) -> Result<Taken, Unasked> {
        let DeltaDiscoveryResponse { type_url, resources, removed_resources, nonce, .. } = response;
        let kind = ResourceType::of_url(&type_url);
        let Some(kind) = kind.filter(|kind| self.asks || *kind != ResourceType::Address) else {
            return Err(Unasked(type_url));
        };
        let mut refusals = Vec::new();
        for name in removed_resources {
            if kind == ResourceType::Address {
                self.taken_back.remove(&*name);
                self.settled.extend(name.parse::<Question>());
                continue;
            }
            self.remove(Key { kind, name: name.into() });
        }
        for resource in resources {
            // A slice has named its pods by then.
            if kind == ResourceType::Address && self.taken_back.contains(&*resource.name) {
                continue;
            }
            let name = self.shared.text(&resource.name);
            let key = Key { kind, name };
            match value(resource, &type_url) {
                Ok(value) => self.put(key.clone(), value),
                Err(error) => self.refuse(key.clone(), error, false),
            }
            if let Some(Refused { error, denies }) = self.refused.get(&key) {
                refusals.push(Refusal::new(&key.name, error.clone(), *denies));
            }
        }
        self.missing.retain(|missing| *missing != kind);
        let is_whole = self.missing.is_empty() && !response.system_version_info.ends_with('+');
        let answer = DeltaDiscoveryRequest {
            type_url,
            response_nonce: nonce,
            error_detail: error_detail(kind, refusals),
            ..DeltaDiscoveryRequest::default()
        };
        Ok(Taken { answer, is_whole })
    }

    /// Puts into force what came.
    pub(super) fn commit(&mut self) -> InForce {
        if self.asks {
            self.tables.know_what_was_asked();
        } else if self.tables.is_partial() {
            self.tables.know_everything();
            self.versions.retain(|key, _| key.kind != ResourceType::Address);
        }
        self.apply()
    }

    fn apply(&mut self) -> InForce {
        let (mut trust, came) = (None, self.pending.len());
        for (key, update) in std::mem::take(&mut self.pending) {
            match update {
                Some(Update::Delta(delta)) => drop(self.tables.apply(delta)),
                Some(Update::Trust(new)) => trust = Some(new),
                Some(Update::Answered(question)) => {
                    self.tables.learn(question);
                    self.settled.push(question);
                }
                None => drop(removal(&key).map(|delta| self.tables.apply(delta))),
            }
        }
        let settled = std::mem::take(&mut self.settled);
        InForce { snapshot: Arc::new(self.tables.snapshot()), trust, came, settled }
    }

    /// What is not understood.
    pub(super) fn refused(&self) -> &BTreeMap<Key, Refused> {
        &self.refused
    }

    /// All that came, for the disk; nothing while a round is not whole.
    pub(super) fn saved(&self) -> Option<Vec<Kept>> {
        let kept = |key: &Key| match self.values.get(key) {
            Some(value) => Some(Kept::Came(key.clone(), value.clone())),
            None => self.known(key).map(Kept::Known),
        };
        let is_partial = self.tables.is_partial().then(|| Kept::Came(everything(), Bytes::new()));
        self.pending
            .is_empty()
            .then(|| is_partial.into_iter().chain(self.versions.keys().filter_map(kept)).collect())
    }

    /// A resource as the tables have it, of the types whose bytes are not kept.
    fn known(&self, key: &Key) -> Option<Delta> {
        let tables = &self.tables;
        match removal(key)? {
            Delta::RemoveWorkload(uid) => tables.workload(&uid).cloned().map(Delta::UpsertWorkload),
            Delta::RemoveService(name) => tables.service(&name).cloned().map(Delta::UpsertService),
            Delta::RemoveEndpointSlice(name) => {
                tables.endpoint_slice(&name).cloned().map(Delta::UpsertEndpointSlice)
            }
            _ => None,
        }
    }

    /// What is not understood is left out, so that it comes again and is refused to whoever asks now.
    fn versions(&self, kind: ResourceType) -> HashMap<String, String> {
        let first = Key { kind, name: "".into() };
        let of_kind = self.versions.range(first..).take_while(|(key, _)| key.kind == kind);
        let understood = of_kind.filter(|(key, _)| !self.refused.contains_key(key));
        understood.map(|(key, version)| (key.name.to_string(), version.to_string())).collect()
    }

    fn put(&mut self, key: Key, came: Bytes) {
        let version = Version::of(&came);
        let value = match self.values.get(&key) {
            Some(before) if key.kind == ResourceType::RequestAuthentication => keep_keys(before, came),
            _ => came,
        };
        match read(&key, &value, &self.root_namespace, &mut self.shared) {
            Reading::Refused(error) => self.refuse(key, error, false),
            Reading::Understood(update) => {
                self.refused.remove(&key);
                self.hold(key, version, value, update);
            }
            Reading::Denies(update, error) => {
                self.refuse(key.clone(), error, true);
                self.hold(key, version, value, update);
            }
        }
    }

    fn hold(&mut self, key: Key, version: Version, value: Bytes, update: Update) {
        if let Update::Delta(Delta::Settings(settings)) = &update {
            self.root_namespace = Arc::clone(&settings.root_namespace);
        }
        self.versions.insert(key.clone(), version);
        if !matches!(key.kind, ResourceType::Workload | ResourceType::Service | ResourceType::EndpointSlice) {
            // A copy of its own: it may be a part of something large.
            self.values.insert(key.clone(), Bytes::copy_from_slice(&value));
        }
        self.pending.insert(key, Some(update));
    }

    fn remove(&mut self, key: Key) {
        self.refused.remove(&key);
        // Settings and roots stay.
        if removal(&key).is_some() {
            self.versions.remove(&key);
            self.values.remove(&key);
            self.pending.insert(key, None);
        }
    }

    fn refuse(&mut self, key: Key, error: FieldError, denies: bool) {
        self.refused.insert(key, Refused { error, denies });
    }
}

impl Kept {
    /// Its key and bytes.
    pub(super) fn resource(self) -> (Key, Bytes) {
        match self {
            Self::Came(key, value) => (key, value),
            Self::Known(delta) => match encode(&delta) {
                Outgoing::Upsert(Resource { key, value, .. }) => (key, value),
                Outgoing::Remove(key) => (key, Bytes::new()),
            },
        }
    }
}

/// In the state on disk: that all else is only what was asked.
fn everything() -> Key {
    Key { kind: ResourceType::Address, name: EVERYTHING.into() }
}

fn names(questions: &[Question]) -> Vec<String> {
    questions.iter().map(ToString::to_string).collect()
}

fn value(resource: WireResource, type_url: &str) -> Result<Bytes, FieldError> {
    let any = resource.resource.ok_or_else(|| FieldError::whole("has no content"))?;
    if any.type_url != type_url {
        return Err(FieldError::whole(format!("is of another type, {:?}", any.type_url)));
    }
    Ok(any.value.into())
}
