//! What an agent is told that asks: of Services, EndpointSlices and pods those that it needs to decide about its own pods
//! and about what it asked for.
//!
//! In: the cache, and the agent's questions. Out: what differs from what it has. Pure. A question counts as answered with
//! the round that has everything about it, and from then on the agent is told what changes of that. So an agent decides of
//! what it asked for as one that is told everything:
//!
//! | of | it is told |
//! |---|---|
//! | each pod of its node | the pod, and the Services with an endpoint at its addresses, with their slices |
//! | an address | the Services that have it, with their slices and the pods at the endpoints; the pods that have it, and the Services with an endpoint there, with their slices |
//! | a node port | the Services that have it, with their slices and the pods at the endpoints |

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use mesh_common::model::{Question, Text};

use super::cache::{Cache, Place};
use super::index::{Index, addresses, endpoints, named, node_ports};
use super::view::{Part, Versions};
use crate::xds::{Key, ResourceType, Version, encode_answer};

/// What one agent asked, and what it has.
#[derive(Debug, Default)]
pub(super) struct Partial {
    /// By type, whether it is told only what it needs.
    kinds: [bool; ResourceType::ALL.len()],
    /// With whether it was answered.
    questions: BTreeMap<Question, bool>,
    /// Questions that it took back, and has not heard of since.
    taken_back: Vec<Question>,
    has: HashMap<Key, Version>,
    /// The agent asked or took back.
    is_stale: bool,
}

impl Partial {
    /// The agent wants of a type only what it needs, and says what it has.
    pub(super) fn begin(&mut self, kind: ResourceType, versions: Versions) {
        self.kinds[kind.index()] = true;
        self.is_stale = true;
        let key = |name| Key { kind, name };
        self.has.extend(versions.into_iter().map(|(name, version)| (key(name), version)));
    }

    /// How many questions there are.
    pub(super) fn questions(&self) -> usize {
        self.questions.len()
    }

    /// Whether something was asked or taken back that the agent has heard nothing of.
    pub(super) fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// Takes questions back, and takes new ones.
    pub(super) fn ask(&mut self, taken_back: Vec<Question>, asked: Vec<Question>) {
        self.is_stale = true;
        for question in &taken_back {
            self.questions.remove(question);
        }
        self.taken_back.extend(taken_back);
        for question in asked {
            self.questions.insert(question, false);
        }
    }

    /// Tells what differs, if anything may.
    pub(super) fn tell(&mut self, cache: &Cache, since: Place, node: &str, parts: &mut [Part]) {
        let is_any = self.is_stale || self.kinds.contains(&true);
        if !is_any || !(self.is_stale || cache.keys_since(since).any(|key| self.may_need(cache, key, node))) {
            return;
        }
        self.is_stale = false;
        let needed = Needed::of(cache, node, self.questions.keys().copied());
        for key in &needed.keys {
            let Some(resource) = cache.resource(key, node).filter(|_| self.kinds[key.kind.index()]) else {
                continue;
            };
            if self.has.insert(key.clone(), resource.version) != Some(resource.version) {
                parts[key.kind.index()].upserts.push(resource.clone());
            }
        }
        self.has.retain(|key, _| {
            let stays = needed.keys.contains(key);
            if !stays {
                parts[key.kind.index()].removals.push(key.name.clone());
            }
            stays
        });
        self.answer(&mut parts[ResourceType::Address.index()]);
    }

    fn answer(&mut self, part: &mut Part) {
        part.removals.extend(self.taken_back.drain(..).map(|question| Text::from(question.to_string())));
        for (question, is_answered) in &mut self.questions {
            if !std::mem::replace(is_answered, true) {
                part.upserts.push(encode_answer(*question).into());
            }
        }
    }

    /// Whether what changed may be about this agent. Asked of every change, so it looks only.
    fn may_need(&self, cache: &Cache, key: &Key, node: &str) -> bool {
        if self.has.contains_key(key) {
            return true;
        }
        let index = cache.index();
        match key.kind {
            ResourceType::Workload => index.workload(&key.name).is_some_and(|pod| {
                *pod.node == *node || pod.addresses.iter().any(|address| self.knows_of(index, *address))
            }),
            ResourceType::Service => index.service(&key.name).is_some_and(|service| {
                let mut dialled = addresses(service).map(Question::Address);
                let mut ports = node_ports(service).map(Question::NodePort);
                let slices = index.slices_of(&key.name);
                dialled.any(|question| self.questions.contains_key(&question))
                    || ports.any(|question| self.questions.contains_key(&question))
                    || slices.iter().any(|slice| self.may_need_slice(index, slice, node))
            }),
            ResourceType::EndpointSlice => self.may_need_slice(index, &key.name, node),
            _ => false,
        }
    }

    fn may_need_slice(&self, index: &Index, name: &str, node: &str) -> bool {
        let Some(slice) = index.slice(name) else { return false };
        let service = Key { kind: ResourceType::Service, name: named(&slice.service) };
        self.has.contains_key(&service)
            || endpoints(slice).any(|endpoint| {
                self.questions.contains_key(&Question::Address(endpoint.address))
                    || index.workloads_at(endpoint.address).any(|pod| *pod.node == *node)
            })
    }

    /// Whether an address was asked for, or is one of an endpoint that the agent knows.
    fn knows_of(&self, index: &Index, address: IpAddr) -> bool {
        let has = |slice: &Text| {
            self.has.contains_key(&Key { kind: ResourceType::EndpointSlice, name: slice.clone() })
        };
        self.questions.contains_key(&Question::Address(address)) || index.slices_at(address).iter().any(has)
    }
}

/// All that an agent needs now.
struct Needed<'a> {
    index: &'a Index,
    keys: HashSet<Key>,
}

impl<'a> Needed<'a> {
    fn of(cache: &'a Cache, node: &str, questions: impl Iterator<Item = Question>) -> Self {
        let mut needed = Self { index: cache.index(), keys: HashSet::new() };
        for pod in cache
            .pods(node)
            .into_iter()
            .flat_map(|pods| pods.by_namespace.values().flat_map(BTreeMap::values))
        {
            needed.add(ResourceType::Workload, &pod.uid.0);
            pod.addresses.iter().for_each(|address| needed.add_services_behind(*address));
        }
        for question in questions {
            match question {
                Question::NodePort(port) => needed.add_dialled(needed.index.services_on(port)),
                Question::Address(address) => {
                    needed.add_dialled(needed.index.services_at(address));
                    needed.add_services_behind(address);
                    for pod in needed.index.workloads_at(address).filter(|pod| !pod.host_network) {
                        needed.add(ResourceType::Workload, &pod.uid.0);
                    }
                }
            }
        }
        needed
    }

    fn add(&mut self, kind: ResourceType, name: &Text) {
        self.keys.insert(Key { kind, name: name.clone() });
    }

    /// A Service, and where it leads; says what slices it has.
    fn add_service(&mut self, name: &Text) -> &'a [Text] {
        if self.index.service(name).is_none() {
            return &[];
        }
        self.add(ResourceType::Service, name);
        let slices = self.index.slices_of(name);
        slices.iter().for_each(|slice| self.add(ResourceType::EndpointSlice, slice));
        slices
    }

    /// Services that are dialled, and who answers there.
    fn add_dialled(&mut self, services: &'a [Text]) {
        for service in services {
            let index = self.index;
            let slices = self.add_service(service).iter().filter_map(|slice| index.slice(slice));
            for endpoint in slices.flat_map(|slice| endpoints(slice)) {
                for pod in index.workloads_at(endpoint.address) {
                    // Of those on the node's own network only the one that is meant: they share their address.
                    if !pod.host_network || endpoint.workload.as_ref() == Some(&pod.uid) {
                        self.add(ResourceType::Workload, &pod.uid.0);
                    }
                }
            }
        }
    }

    /// The Services with an endpoint at an address: they say what is spoken there, and policies may be about them.
    fn add_services_behind(&mut self, address: IpAddr) {
        for slice in self.index.slices_at(address) {
            if let Some(slice) = self.index.slice(slice) {
                self.add_service(&named(&slice.service));
            }
        }
    }
}
