//! What one agent was told, and what it is to be told next.
//!
//! In: the cache, and what the agent says that it has. Out: a [`Round`]: all that differs, as of one generation. What an
//! agent was sent is not listed but told by a place in the order of changes; only policies, of which each agent is sent
//! its own, are, and what an agent is told that [asks](super::partial).

use std::collections::HashMap;
use std::sync::Arc;

use mesh_common::model::{Question, Text};

use super::cache::{Cache, News, Place};
use super::partial::Partial;
use crate::xds::{Key, Resource, ResourceType, Version};

/// What an agent of a type says that it has.
pub(super) type Versions = HashMap<Text, Version>;

/// What one agent was told.
#[derive(Debug)]
pub(super) struct View {
    node: Text,
    /// Of all types that were asked for, everything up to here was told.
    place: Place,
    /// Types that were asked for; with what the agent has of them, until they are part of a round.
    types: [Asked; ResourceType::ALL.len()],
    /// The policies that the agent has, with when they changed last.
    policies: HashMap<Key, Place>,
    partial: Partial,
}

/// Whether a type was asked for.
#[derive(Clone, Debug, Default)]
enum Asked {
    #[default]
    Not,
    New(Versions),
    Told,
    /// Of it only what is needed; before its first round, and from then on.
    NewPart,
    Part,
}

/// All that one agent is to be told at once.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Round {
    /// As of which generation.
    pub(super) generation: u64,
    /// By type.
    pub(super) parts: Vec<Part>,
}

/// What is to be told of one type.
#[derive(Debug, PartialEq)]
pub(super) struct Part {
    pub(super) kind: ResourceType,
    pub(super) upserts: Vec<Arc<Resource>>,
    pub(super) removals: Vec<Text>,
}

/// The agent is so far behind that removals are forgotten: it must begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooFarBehind;

impl View {
    pub(super) fn new(node: Text) -> Self {
        Self {
            node,
            place: 0,
            types: Default::default(),
            policies: HashMap::new(),
            partial: Partial::default(),
        }
    }

    /// The agent asks for a type, and says what it has of it. Again does not matter.
    pub(super) fn ask(&mut self, kind: ResourceType, versions: Versions) {
        let asked = &mut self.types[kind.index()];
        if matches!(asked, Asked::Not) {
            *asked = Asked::New(versions);
        }
    }

    /// The agent wants of a type only what it needs, and says what it has of it. Again does not matter.
    pub(super) fn ask_for_part(&mut self, kind: ResourceType, versions: Versions) {
        let asked = &mut self.types[kind.index()];
        if matches!(asked, Asked::Not) {
            *asked = Asked::NewPart;
            self.partial.begin(kind, versions);
        }
    }

    /// The agent takes back what it asked, and asks.
    pub(super) fn ask_about(&mut self, taken_back: Vec<Question>, asked: Vec<Question>) {
        let address = &mut self.types[ResourceType::Address.index()];
        if matches!(address, Asked::Not) {
            *address = Asked::NewPart;
        }
        self.partial.ask(taken_back, asked);
    }

    /// What the agent asked.
    pub(super) fn partial(&self) -> &Partial {
        &self.partial
    }

    /// Whether the type was asked for.
    pub(super) fn has(&self, kind: ResourceType) -> bool {
        !matches!(self.types[kind.index()], Asked::Not)
    }

    /// Whether there may be something to tell.
    pub(super) fn is_behind(&self, cache: &Cache) -> bool {
        let is_new = |asked: &Asked| matches!(asked, Asked::New(_) | Asked::NewPart);
        self.place < cache.place() || self.partial.is_stale() || self.types.iter().any(is_new)
    }

    /// All that differs now; from here on it counts as told. A type that is new has a part also if it is empty.
    pub(super) fn round(&mut self, cache: &Cache) -> Result<Round, TooFarBehind> {
        let is_begun = self.types.iter().any(|asked| matches!(asked, Asked::Told));
        if is_begun && !cache.remembers(self.place) {
            return Err(TooFarBehind);
        }
        let mut parts: Vec<Part> = ResourceType::ALL.into_iter().map(Part::new).collect();
        let mut is_new = [false; ResourceType::ALL.len()];
        self.tell_changes(cache, &mut parts);
        self.partial.tell(cache, self.place, &self.node, &mut parts);
        for kind in ResourceType::ALL {
            let asked = &mut self.types[kind.index()];
            if matches!(asked, Asked::NewPart) {
                *asked = Asked::Part;
                is_new[kind.index()] = true;
            }
            if let Asked::New(versions) = asked {
                let versions = std::mem::take(versions);
                *asked = Asked::Told;
                is_new[kind.index()] = true;
                self.tell_all(cache, versions, &mut parts[kind.index()]);
            }
        }
        self.place = cache.place();
        parts.retain(|part| {
            !part.upserts.is_empty() || !part.removals.is_empty() || is_new[part.kind.index()]
        });
        Ok(Round { generation: cache.generation(), parts })
    }

    /// What changed since the last round, of types that were part of it.
    fn tell_changes(&mut self, cache: &Cache, parts: &mut [Part]) {
        let every_policy = cache.pods_changed_after(self.place, &self.node);
        for news in cache.since(self.place, &Arc::clone(&self.node)) {
            let kind = match &news {
                News::Upsert(resource) => resource.key.kind,
                News::Remove(key) => key.kind,
            };
            if !matches!(self.types[kind.index()], Asked::Told) {
                continue;
            }
            let part = &mut parts[kind.index()];
            match news {
                News::Upsert(resource) if kind.is_policy() => {
                    if !every_policy {
                        self.tell_policy(cache, &resource.key, part);
                    }
                }
                News::Remove(key) if kind.is_policy() => self.tell_policy(cache, &key, part),
                News::Upsert(resource) => part.upserts.push(resource),
                News::Remove(key) => part.removals.push(key.name),
            }
        }
        if every_policy {
            for (key, _) in cache.policies() {
                if matches!(self.types[key.kind.index()], Asked::Told) {
                    self.tell_policy(cache, key, &mut parts[key.kind.index()]);
                }
            }
        }
    }

    /// One policy, if it differs from what the agent has.
    fn tell_policy(&mut self, cache: &Cache, key: &Key, part: &mut Part) {
        let needed = cache.policy(key).filter(|(_, selection, _)| selection.needs(cache.pods(&self.node)));
        match needed {
            Some((changed, _, resource)) => {
                if self.policies.insert(key.clone(), changed) != Some(changed) {
                    part.upserts.push(Arc::clone(resource));
                }
            }
            None => {
                if self.policies.remove(key).is_some() {
                    part.removals.push(Arc::clone(&key.name));
                }
            }
        }
    }

    /// All of a type, but what the agent has already; what it has and is not there is gone.
    fn tell_all(&mut self, cache: &Cache, mut versions: Versions, part: &mut Part) {
        let pods = cache.pods(&self.node);
        for resource in cache.all(part.kind, &self.node) {
            if part.kind.is_policy() {
                let Some((changed, selection, _)) = cache.policy(&resource.key) else { continue };
                if !selection.needs(pods) {
                    continue;
                }
                self.policies.insert(resource.key.clone(), changed);
            }
            if versions.remove(&resource.key.name) != Some(resource.version) {
                part.upserts.push(Arc::clone(resource));
            }
        }
        part.removals.extend(versions.into_keys());
    }
}

impl Part {
    fn new(kind: ResourceType) -> Self {
        Self { kind, upserts: Vec::new(), removals: Vec::new() }
    }
}
