//! One stream of one agent, without the stream: requests in, responses out.
//!
//! Pure: no clock, no I/O. Each type has at most one response that is not answered; what changes meanwhile gathers in
//! the cache.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource,
};
use envoy_types::pb::google::protobuf::Any;
use mesh_common::model::{NoQuestion, Question, Text};

use super::cache::Cache;
use super::view::{Part, Round, TooFarBehind, Versions, View};
use crate::xds::refusal::{Refusal, refusals};
use crate::xds::{EVERYTHING, Key, Resource, ResourceType, Version};

/// About how many bytes one response has: what a slow agent reads in one go, and one resource more at most. Each stream keeps
/// the buffer of its largest one, up to twice as much.
const CHUNK: usize = 64 << 10;

/// Most refusals that are kept of one agent.
const MAX_REFUSALS: usize = 1000;

/// Most questions of one agent: more than agents keep. Some 2 MB of each that asks them all.
const MAX_QUESTIONS: usize = 16_384;

/// Name that is refused when an agent refuses a response without naming resources.
pub(super) const UNNAMED: &str = "*";

/// One stream.
#[derive(Debug)]
pub(super) struct Session {
    view: View,
    /// What is left of the round under way, in the order of the types.
    pieces: VecDeque<Piece>,
    round: u64,
    /// The generation up to which all was answered.
    answered: u64,
    /// By type: the nonce that is to be answered.
    outstanding: [Option<Outstanding>; ResourceType::ALL.len()],
    nonces: u64,
    refused: BTreeMap<Key, Refusal>,
}

/// A response that is to be answered.
#[derive(Debug)]
struct Outstanding {
    nonce: String,
    names: Vec<Text>,
}

/// One response to be.
#[derive(Debug)]
struct Piece {
    kind: ResourceType,
    upserts: Vec<Arc<Resource>>,
    removals: Vec<Text>,
}

/// Why a stream cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    /// A request of a type that there is not.
    #[error("there is no type {0:?} here; see that agent and controller have the same version")]
    Type(String),
    /// The agent says that it is another one.
    #[error(
        "the token is of an agent on node {proved:?}, the request says {said:?}; see --node-name of the agent"
    )]
    Node {
        /// By the token.
        proved: Text,
        /// By the request.
        said: String,
    },
    /// Neither the first request of its type nor the answer to a response: reading it would cost us, not the agent.
    #[error("a request for {0} is neither the first one nor the answer to a response")]
    Unexpected(ResourceType),
    /// A name of type Address that is none.
    #[error("it asks about something that is no address")]
    Question(#[from] NoQuestion),
    /// More questions than are answered.
    #[error("it asks more than {MAX_QUESTIONS} questions")]
    Questions,
    /// A version that is none of ours.
    #[error("the version {version:?} of {key} is no version of a controller")]
    Version {
        /// Of which resource.
        key: Key,
        /// What it says.
        version: String,
    },
}

impl Session {
    pub(super) fn new(node: Text) -> Self {
        Self {
            view: View::new(node),
            pieces: VecDeque::new(),
            round: 0,
            answered: 0,
            outstanding: Default::default(),
            nonces: 0,
            refused: BTreeMap::new(),
        }
    }

    /// Takes a request of the agent on `node`, which its token proved: a first one of its type, or an answer.
    pub(super) fn request(&mut self, request: DeltaDiscoveryRequest, node: &Text) -> Result<(), Violation> {
        let said = request.node.map(|node| node.id).unwrap_or_default();
        if !said.is_empty() && *said != **node {
            return Err(Violation::Node { proved: node.clone(), said });
        }
        let kind = ResourceType::of_url(&request.type_url).ok_or(Violation::Type(request.type_url))?;
        let (subscribed, unsubscribed) =
            (request.resource_names_subscribe, request.resource_names_unsubscribe);
        if kind == ResourceType::Address && request.response_nonce.is_empty() {
            return self.ask_about(&unsubscribed, &subscribed);
        }
        if !self.view.has(kind) {
            let versions = versions(kind, request.initial_resource_versions)?;
            let is_everything = |names: &[String]| names.iter().any(|name| name == EVERYTHING);
            if kind.is_on_demand() && is_everything(&subscribed) && is_everything(&unsubscribed) {
                self.view.ask_for_part(kind, versions);
            } else {
                self.view.ask(kind, versions);
            }
            return Ok(());
        }
        let outstanding = &mut self.outstanding[kind.index()];
        let Some(Outstanding { names, .. }) =
            outstanding.take_if(|outstanding| outstanding.nonce == request.response_nonce)
        else {
            return Err(Violation::Unexpected(kind));
        };
        self.answer(kind, names, request.error_detail);
        Ok(())
    }

    /// One set of questions at a time: the next ones once these were answered.
    fn ask_about(&mut self, taken_back: &[String], asked: &[String]) -> Result<(), Violation> {
        if self.view.has(ResourceType::Address) && !self.is_answered() {
            return Err(Violation::Unexpected(ResourceType::Address));
        }
        if self.view.partial().questions() + asked.len() > MAX_QUESTIONS + 1 {
            return Err(Violation::Questions);
        }
        self.view.ask_about(questions(taken_back)?, questions(asked)?);
        Ok(())
    }

    /// Whether the agent knows all that it asked.
    fn is_answered(&self) -> bool {
        let is_of_answers = |piece: &Piece| piece.kind == ResourceType::Address;
        let is_under_way = self.outstanding[ResourceType::Address.index()].is_some();
        !self.view.partial().is_stale() && !is_under_way && !self.pieces.iter().any(is_of_answers)
    }

    /// The next response, if there is something to say and the agent may be told.
    pub(super) fn respond(&mut self, cache: &Cache) -> Result<Option<DeltaDiscoveryResponse>, TooFarBehind> {
        if self.pieces.is_empty() && !self.is_waiting() && self.view.is_behind(cache) {
            let Round { generation, parts } = self.view.round(cache)?;
            self.round = generation;
            self.pieces = parts.into_iter().flat_map(pieces).collect();
            self.settle();
        }
        let is_free = |piece: &&Piece| self.outstanding[piece.kind.index()].is_none();
        if self.pieces.front().filter(is_free).is_none() {
            return Ok(None);
        }
        let Some(piece) = self.pieces.pop_front() else { return Ok(None) };
        Ok(Some(self.response(piece)))
    }

    /// Whether a response is not answered.
    pub(super) fn is_waiting(&self) -> bool {
        self.outstanding.iter().any(Option::is_some)
    }

    /// Whether the agent has asked for every type, and answered all of it.
    pub(super) fn is_told(&self) -> bool {
        let has_all = ResourceType::OF_EVERYBODY.into_iter().all(|kind| self.view.has(kind));
        has_all && self.pieces.is_empty() && !self.is_waiting()
    }

    /// The generation up to which the agent has answered all.
    pub(super) fn answered(&self) -> u64 {
        self.answered
    }

    /// What the agent has refused and not got since in another form.
    pub(super) fn refused(&self) -> &BTreeMap<Key, Refusal> {
        &self.refused
    }

    fn answer(
        &mut self,
        kind: ResourceType,
        names: Vec<Text>,
        error: Option<envoy_types::pb::google::rpc::Status>,
    ) {
        for name in &names {
            self.refused.remove(&Key { kind, name: Arc::clone(name) });
        }
        self.refused.remove(&Key { kind, name: UNNAMED.into() });
        if let Some(detail) = error {
            let (mut named, message) = refusals(detail);
            if named.is_empty() {
                let reason = message;
                named.push(Refusal { name: UNNAMED.to_owned(), reason, ..Refusal::default() });
            }
            let sent = |refusal: &Refusal| {
                refusal.name == UNNAMED || names.iter().any(|name| **name == *refusal.name)
            };
            for refusal in named.into_iter().filter(sent) {
                if self.refused.len() < MAX_REFUSALS {
                    self.refused.insert(Key { kind, name: refusal.name.as_str().into() }, refusal);
                }
            }
        }
        self.settle();
    }

    fn settle(&mut self) {
        if self.pieces.is_empty() && !self.is_waiting() {
            self.answered = self.round;
        }
    }

    fn response(&mut self, piece: Piece) -> DeltaDiscoveryResponse {
        let Piece { kind, upserts, removals } = piece;
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        let names = upserts.iter().map(|resource| &resource.key.name).chain(&removals).cloned().collect();
        self.outstanding[kind.index()] = Some(Outstanding { nonce: nonce.clone(), names });
        let more = if self.pieces.is_empty() { "" } else { "+" };
        let type_url = kind.type_url();
        DeltaDiscoveryResponse {
            system_version_info: format!("{}{more}", self.round),
            resources: upserts.iter().map(|resource| wire(resource, &type_url)).collect(),
            type_url,
            removed_resources: removals.iter().map(ToString::to_string).collect(),
            nonce,
            ..DeltaDiscoveryResponse::default()
        }
    }
}

fn wire(resource: &Resource, type_url: &str) -> WireResource {
    WireResource {
        name: resource.key.name.to_string(),
        version: resource.version.to_string(),
        resource: Some(Any { type_url: type_url.to_owned(), value: resource.value.to_vec() }),
        ..WireResource::default()
    }
}

/// A part in pieces of about [`CHUNK`] bytes; at least one.
fn pieces(part: Part) -> Vec<Piece> {
    let Part { kind, upserts, removals } = part;
    let piece = || Piece { kind, upserts: Vec::new(), removals: Vec::new() };
    let (mut pieces, mut bytes) = (vec![piece()], 0);
    let mut room_for = |pieces: &mut Vec<Piece>, size: usize| {
        if bytes > 0 && bytes + size > CHUNK {
            pieces.push(piece());
            bytes = 0;
        }
        bytes += size;
    };
    for name in removals {
        room_for(&mut pieces, name.len());
        pieces.last_mut().expect("begun with one").removals.push(name);
    }
    for resource in upserts {
        // Name, version and type URL come on top.
        room_for(&mut pieces, resource.value.len() + resource.key.name.len() + 90);
        pieces.last_mut().expect("begun with one").upserts.push(resource);
    }
    pieces
}

fn versions(kind: ResourceType, said: HashMap<String, String>) -> Result<Versions, Violation> {
    let read = |(name, version): (String, String)| match Version::parse(&version) {
        Some(read) => Ok((name.into(), read)),
        None => Err(Violation::Version { key: Key { kind, name: name.into() }, version }),
    };
    said.into_iter().map(read).collect()
}

fn questions(names: &[String]) -> Result<Vec<Question>, Violation> {
    let names = names.iter().filter(|name| *name != EVERYTHING);
    names.map(|name| name.parse().map_err(Violation::Question)).collect()
}
