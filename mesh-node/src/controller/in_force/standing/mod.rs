//! PURE. What the replicas' entries say together of each policy.

use std::collections::{BTreeMap, HashMap};

use mesh_common::model::Text;

use super::MAX_NAMED;
use super::audience::{Audience, Place};
use super::entry::{Entry, Exception, Fingerprints, Tag, resource};
use super::record::Picture;
use crate::control::object::ObjectKey;

/// How a policy stands in the agents that need it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::controller) struct Standing {
    /// How many agents need it.
    pub(in crate::controller) needed: usize,
    /// How many have it in force.
    pub(in crate::controller) in_force: usize,
    /// Those that do not understand it, by what they say of it.
    pub(in crate::controller) refused: BTreeMap<String, Named>,
    /// Those that follow a replica and have not answered, as far as is known.
    pub(in crate::controller) behind: Named,
    /// Those that follow no replica.
    pub(in crate::controller) away: Named,
    /// Some of those behind or away may have it in force all the same: what their replica last said is not of the policy as
    /// it is now, or they were there a moment ago.
    pub(in crate::controller) is_open: bool,
}

/// Some nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::controller) struct Named {
    /// How many there are.
    pub(in crate::controller) count: usize,
    /// The first of them.
    pub(in crate::controller) first: Vec<Text>,
}

/// What is said of all policies.
pub(in crate::controller) struct Said<'a> {
    picture: &'a Picture,
    audience: &'a Audience<'a>,
    entries: Vec<Heard<'a>>,
    /// By the node's place: who says that its agent follows him, and the node's place with him.
    claims: Vec<Vec<(usize, usize)>>,
}

/// One entry.
struct Heard<'a> {
    entry: &'a Entry,
    exceptions: HashMap<&'a str, Vec<&'a Exception>>,
}

/// How a policy stands in one agent, the best first: what one replica knows counts for more than what another has not heard.
enum State<'a> {
    InForce,
    Refused(&'a str),
    Behind,
    Unknown,
    Away,
}

/// What one entry says of one policy.
struct OfPolicy<'a> {
    is_known: bool,
    exceptions: Vec<&'a Exception>,
}

impl<'a> Said<'a> {
    /// What a picture says of the policies that an audience needs.
    pub(in crate::controller) fn of(picture: &'a Picture, audience: &'a Audience<'a>) -> Self {
        let entries: Vec<Heard<'a>> = picture.entries.iter().map(|entry| Heard::of(entry)).collect();
        let places: HashMap<Tag, Place> =
            audience.nodes.iter().enumerate().map(|(place, (_, tag))| (*tag, place)).collect();
        let mut claims = vec![Vec::new(); audience.nodes.len()];
        for (number, heard) in entries.iter().enumerate() {
            for (there, tag) in heard.entry.nodes.0.iter().enumerate() {
                if let Some(place) = places.get(tag) {
                    claims[*place].push((number, there));
                }
            }
        }
        Self { picture, audience, entries, claims }
    }

    /// How a policy stands; `None` if nothing of it is in force anywhere.
    pub(in crate::controller) fn standing(&self, policy: &ObjectKey) -> Option<Standing> {
        let (nodes, resource) = (self.audience.of_policy(policy)?, resource(policy)?);
        let names = [resource.to_string(), format!("{} *", resource.kind)];
        let mine = &self.picture.mine;
        let said: Vec<OfPolicy<'_>> =
            self.entries.iter().map(|heard| heard.of_policy(policy, &names, mine)).collect();
        let mut standing = Standing { needed: nodes.len(), ..Standing::default() };
        for place in nodes.iter().copied() {
            let (node, tag) = self.audience.nodes[place];
            match self.state(&said, place) {
                State::InForce => standing.in_force += 1,
                State::Refused(reason) => match standing.refused.get_mut(reason) {
                    Some(nodes) => nodes.add(node),
                    None => {
                        let mut nodes = Named::default();
                        nodes.add(node);
                        standing.refused.insert(reason.to_owned(), nodes);
                    }
                },
                State::Behind => standing.behind.add(node),
                State::Unknown => {
                    standing.behind.add(node);
                    standing.is_open = true;
                }
                State::Away => {
                    standing.away.add(node);
                    standing.is_open |= self.picture.recent.contains(&tag);
                }
            }
        }
        Some(standing)
    }

    fn state(&self, said: &[OfPolicy<'a>], place: Place) -> State<'a> {
        let claims = self.claims[place].iter();
        let states = claims.map(|(number, there)| said[*number].state(*there, self.entries[*number].entry));
        states.min_by_key(State::rank).unwrap_or(State::Away)
    }
}

impl<'a> Heard<'a> {
    fn of(entry: &'a Entry) -> Self {
        let mut exceptions: HashMap<&str, Vec<&Exception>> = HashMap::new();
        for exception in &entry.exceptions {
            exceptions.entry(&exception.policy).or_default().push(exception);
        }
        Self { entry, exceptions }
    }

    fn of_policy(&self, policy: &ObjectKey, names: &[String], mine: &Fingerprints) -> OfPolicy<'a> {
        let is_known = self.entry.policies.agree(mine, policy);
        let exceptions = names.iter().filter_map(|name| self.exceptions.get(name.as_str()));
        OfPolicy { is_known, exceptions: exceptions.flatten().copied().collect() }
    }
}

impl<'a> OfPolicy<'a> {
    /// Of the node in this place of the entry.
    fn state(&self, there: usize, entry: &Entry) -> State<'a> {
        if !self.is_known {
            return State::Unknown;
        }
        let mut named =
            self.exceptions.iter().filter(|exception| exception.nodes.binary_search(&there).is_ok());
        match named.next() {
            Some(Exception { reason: Some(reason), .. }) => State::Refused(reason),
            Some(Exception { reason: None, .. }) => State::Behind,
            None if entry.is_cut => State::Unknown,
            None => State::InForce,
        }
    }
}

impl State<'_> {
    fn rank(&self) -> u8 {
        match self {
            Self::InForce => 0,
            Self::Refused(_) => 1,
            Self::Behind => 2,
            Self::Unknown => 3,
            Self::Away => 4,
        }
    }
}

impl Named {
    fn add(&mut self, node: &Text) {
        self.count += 1;
        if self.first.len() < MAX_NAMED {
            self.first.push(node.clone());
        }
    }
}

#[cfg(test)]
mod tests;
