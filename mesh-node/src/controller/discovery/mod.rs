//! Tells every agent what it needs to know: the server of the delta xDS stream.
//!
//! In: deltas from the reconciler, and the streams of agents that proved who they are. Out: rounds of resources, and how
//! far each agent has answered. `cache`, `view` and `session` are pure; `server` has the clock and the streams.
//! `docs/xds.md` is the text of the protocol. Never: a resource to an agent that does not need it.

mod agents;
mod cache;
mod index;
mod partial;
mod progress;
mod selection;
mod server;
mod session;
mod turns;
mod view;

#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use mesh_common::model::{Text, TrustDomain};
use mesh_common::snapshot::Delta;
use tokio::sync::watch;

pub use self::agents::AgentStanding;
pub use self::progress::Progress;
pub use self::server::DiscoveryService;

use self::agents::Agents;
use self::cache::Cache;
use self::turns::Turns;
use super::agents::Authenticate;
use crate::xds::{Key, ResourceType, Trust};

/// Most bytes of a request: what an agent has of 200,000 pods, with their versions.
const MAX_REQUEST: usize = 16 << 20;

/// How streams are kept.
#[derive(Clone, Debug)]
pub struct DiscoverySettings {
    /// How long changes gather before a round.
    pub debounce: Duration,
    /// How long an agent may take to answer a response, or to read one.
    pub answer_timeout: Duration,
    /// Age at which a stream ends, so that its agent proves again who it is; up to a tenth less.
    pub max_stream_age: Duration,
    /// Most agents at a time.
    pub max_agents: usize,
    /// Most of them that begin at a time, saying what they have and being told the rest.
    pub max_beginning: usize,
    /// How long one of them may hold up those that wait.
    pub longest_turn: Duration,
}

impl Default for DiscoverySettings {
    fn default() -> Self {
        Self {
            // A change is in force within 100 ms, and a rollout is not a round for each of its pods.
            debounce: Duration::from_millis(20),
            // Reading half a megabyte and 8,000 resources takes milliseconds, also on a busy node.
            answer_timeout: Duration::from_secs(60),
            // As long as the kubelet's tokens are good.
            max_stream_age: Duration::from_secs(3600),
            // Twice the nodes of the largest cluster that Kubernetes supports.
            max_agents: 10_000,
            // More than keep the cores busy; some ten megabytes for each, where there are 100,000 pods.
            max_beginning: 16,
            // A node that is told 100,000 pods answers within seconds.
            longest_turn: Duration::from_secs(20),
        }
    }
}

/// What there is to tell, and to whom it was told.
#[derive(Debug)]
pub struct Discovery {
    settings: DiscoverySettings,
    cache: RwLock<Cache>,
    agents: Agents,
    turns: Turns,
    /// The last generation, once the world is complete; streams wait for that.
    published: watch::Sender<Option<u64>>,
}

impl Discovery {
    /// Knows nothing, and tells nothing before [`Self::begin`].
    pub fn new(settings: DiscoverySettings) -> Self {
        let (cache, agents) = (RwLock::default(), Agents::default());
        let turns = Turns::new(settings.max_beginning, settings.longest_turn);
        Self { settings, cache, agents, turns, published: watch::Sender::new(None) }
    }

    /// Takes changes in; agents are told soon. Returns the generation that they make.
    pub fn publish(&self, deltas: &[Delta]) -> u64 {
        let generation = self.write().apply(deltas);
        self.tell(generation)
    }

    /// Takes the roots of the mesh in. Returns the generation that they make.
    pub fn publish_trust(&self, trust: &Trust) -> u64 {
        let generation = self.write().apply_trust(trust);
        self.tell(generation)
    }

    /// All there is was published once. Until then no agent is told anything: it would take what is missing for gone.
    pub fn begin(&self) {
        let generation = self.read().generation();
        self.published.send_replace(Some(generation));
    }

    /// How every connected agent stands, by node.
    pub fn agents(&self) -> Vec<AgentStanding> {
        self.agents.standing()
    }

    /// Changes whenever an agent came, answered or went.
    pub fn agent_changes(&self) -> watch::Receiver<u64> {
        self.agents.changes()
    }

    /// What the connected agents have in force of the policies.
    pub fn progress(&self) -> Progress {
        progress::progress(&self.read(), &self.agents)
    }

    /// The connected agents that have the roots of the mesh in force as they were published last, by their pods' uids.
    pub fn trusting(&self, trust_domain: &TrustDomain) -> Vec<Text> {
        let trust = Key { kind: ResourceType::TrustBundle, name: trust_domain.as_str().into() };
        let Some(generation) = self.read().generation_of(&trust) else { return Vec::new() };
        self.agents.those(|agent| agent.generation >= generation && !agent.refused.contains_key(&trust))
    }

    /// All connected agents, by their pods' uids.
    pub fn connected(&self) -> Vec<Text> {
        self.agents.those(|_| true)
    }

    /// The service for agents, who prove themselves by `authenticate`.
    pub fn service(
        self: Arc<Self>,
        authenticate: Arc<dyn Authenticate>,
    ) -> AggregatedDiscoveryServiceServer<DiscoveryService> {
        AggregatedDiscoveryServiceServer::new(DiscoveryService::new(self, authenticate))
            .max_decoding_message_size(MAX_REQUEST)
    }

    fn tell(&self, generation: u64) -> u64 {
        self.published.send_if_modified(|published| {
            let is_complete = published.is_some();
            if is_complete {
                *published = Some(generation);
            }
            is_complete
        });
        generation
    }

    fn read(&self) -> RwLockReadGuard<'_, Cache> {
        // A cache that a panic left half changed still only misses a change.
        self.cache.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Cache> {
        self.cache.write().unwrap_or_else(PoisonError::into_inner)
    }
}
