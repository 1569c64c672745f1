//! What the agents that follow this replica have in force of the policies: all but what is named.
//!
//! In: what there is, and how far each agent has answered. Out: [`Progress`], bounded in size and in the work that it
//! takes, however far behind however many agents are. Never: an agent that is not connected.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::model::Text;

use super::agents::{AgentStanding, Agents};
use super::cache::Cache;
use super::session::UNNAMED;
use crate::xds::Key;

/// Most exceptions that are named. In most seconds there is none; more is an edit of everything that is under way.
const MAX_NAMED: usize = 4_000;
/// Most policies that are looked at for agents, each for each: some 10 ms, in which nothing is published.
const MAX_LOOKS: usize = 100_000;

/// What agents have in force. An agent whose stream ended is not in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Nodes whose agents have answered a whole round. What is not named below they have in force, if they need it.
    pub nodes: BTreeSet<Text>,
    /// Policies that changed since the last round that agents answered whole: their nodes.
    pub behind: BTreeMap<Key, BTreeSet<Text>>,
    /// Policies that agents do not understand: their nodes, with the reason of each. A name of `*` is every policy of the
    /// type.
    pub refused: BTreeMap<Key, BTreeMap<Text, String>>,
    /// There was more to name than is named: of a policy that is not, nothing is known.
    pub is_cut: bool,
}

/// Gathers, as long as the bounds let it.
struct Gathering {
    progress: Progress,
    named: usize,
    looks: usize,
}

/// Looks at every connected agent.
pub(super) fn progress(cache: &Cache, agents: &Agents) -> Progress {
    let mut gathering = Gathering { progress: Progress::default(), named: 0, looks: 0 };
    let (mut beginning, mut oldest) = (BTreeSet::new(), u64::MAX);
    agents.each(|agent| {
        if agent.generation == 0 {
            beginning.insert(agent.node.clone());
            return;
        }
        oldest = oldest.min(agent.generation);
        gathering.progress.nodes.insert(agent.node.clone());
        gathering.refusals(cache, agent);
    });
    let recent: Vec<(u64, &Key)> = match oldest {
        u64::MAX => Vec::new(),
        oldest => cache.policies_after(oldest).collect(),
    };
    if !recent.is_empty() {
        agents.each(|agent| gathering.behind(cache, &recent, agent));
    }
    // Where one agent takes the place of another, what the new one has is what will be.
    gathering.progress.nodes.retain(|node| !beginning.contains(node));
    gathering.progress
}

impl Gathering {
    fn refusals(&mut self, cache: &Cache, agent: &AgentStanding) {
        for (key, refusal) in agent.refused.iter().filter(|(key, _)| key.kind.is_policy()) {
            let is_needed = match cache.policy(key) {
                Some((_, selection, _)) => selection.needs(cache.pods(&agent.node)),
                None => &*key.name == UNNAMED,
            };
            if is_needed && self.may_name() {
                let reason = match &*refusal.field {
                    "" => refusal.reason.clone(),
                    field => format!("{field}: {}", refusal.reason),
                };
                let nodes = self.progress.refused.entry(key.clone()).or_default();
                nodes.insert(agent.node.clone(), reason);
            }
        }
    }

    /// `recent` is what changed, the newest first.
    fn behind(&mut self, cache: &Cache, recent: &[(u64, &Key)], agent: &AgentStanding) {
        if agent.generation == 0 {
            return;
        }
        for (_, key) in recent.iter().take_while(|(generation, _)| *generation > agent.generation) {
            self.looks += 1;
            if self.looks > MAX_LOOKS {
                self.progress.is_cut = true;
                return;
            }
            let is_needed =
                cache.policy(key).is_some_and(|(_, selection, _)| selection.needs(cache.pods(&agent.node)));
            if is_needed && self.may_name() {
                let nodes = self.progress.behind.entry((*key).clone()).or_default();
                nodes.insert(agent.node.clone());
            }
        }
    }

    fn may_name(&mut self) -> bool {
        self.named += 1;
        self.progress.is_cut |= self.named > MAX_NAMED;
        self.named <= MAX_NAMED
    }
}
