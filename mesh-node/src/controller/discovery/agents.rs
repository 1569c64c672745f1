//! The agents that are connected: how far each has answered, and what it refuses.
//!
//! In: what streams say. Out: for whoever writes status, what is in force where. One stream per agent: a newer one ends
//! the one before.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mesh_common::model::Text;
use tokio::sync::{oneshot, watch};

use crate::controller::agents::AgentCaller;
use crate::xds::Key;
use crate::xds::refusal::Refusal;

/// How one agent stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentStanding {
    /// Its node.
    pub node: Text,
    /// The generation up to which it has answered all that it was sent.
    pub generation: u64,
    /// What it does not understand.
    pub refused: BTreeMap<Key, Refusal>,
}

/// All agents.
#[derive(Debug)]
pub(super) struct Agents {
    /// By the uid of the agent's pod.
    connected: Mutex<Connected>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Connected {
    streams: u64,
    by_pod: HashMap<Text, Stream>,
}

#[derive(Debug)]
struct Stream {
    number: u64,
    standing: AgentStanding,
    /// Dropped to end the stream.
    _end: oneshot::Sender<()>,
}

/// A place among the connected agents; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    agents: &'a Agents,
    pod_uid: Text,
    number: u64,
}

impl Default for Agents {
    fn default() -> Self {
        Self { connected: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

impl Agents {
    /// Takes in an agent; what it returns besides resolves when a newer stream of it came. `None` if there are `most`.
    pub(super) fn enter(
        &self,
        caller: &AgentCaller,
        most: usize,
    ) -> Option<(Place<'_>, oneshot::Receiver<()>)> {
        let mut connected = self.lock();
        if connected.by_pod.len() >= most && !connected.by_pod.contains_key(&caller.pod_uid) {
            return None;
        }
        connected.streams += 1;
        let number = connected.streams;
        let (end, ended) = oneshot::channel();
        let standing = AgentStanding { node: caller.node.clone(), ..AgentStanding::default() };
        connected.by_pod.insert(caller.pod_uid.clone(), Stream { number, standing, _end: end });
        drop(connected);
        self.tell();
        Some((Place { agents: self, pod_uid: caller.pod_uid.clone(), number }, ended))
    }

    /// How every connected agent stands, by node.
    pub(super) fn standing(&self) -> Vec<AgentStanding> {
        let mut all: Vec<_> = self.lock().by_pod.values().map(|stream| stream.standing.clone()).collect();
        all.sort_by(|one, other| one.node.cmp(&other.node));
        all
    }

    /// The uids of the pods of those of which something holds, in no order.
    pub(super) fn those(&self, holds: impl Fn(&AgentStanding) -> bool) -> Vec<Text> {
        let connected = self.lock();
        let those = connected.by_pod.iter().filter(|(_, stream)| holds(&stream.standing));
        those.map(|(uid, _)| uid.clone()).collect()
    }

    /// Looks at every connected agent, in no order.
    pub(super) fn each(&self, mut look: impl FnMut(&AgentStanding)) {
        self.lock().by_pod.values().for_each(|stream| look(&stream.standing));
    }

    /// Changes whenever an agent came, answered or went.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Connected> {
        // Nothing that can panic happens under the lock.
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// Notes how the agent stands, if that is new.
    pub(super) fn note(&self, generation: u64, refused: &BTreeMap<Key, Refusal>) {
        let mut connected = self.agents.lock();
        let stream = connected.by_pod.get_mut(&self.pod_uid).filter(|stream| stream.number == self.number);
        let Some(Stream { standing, .. }) = stream else { return };
        if standing.generation == generation && standing.refused == *refused {
            return;
        }
        standing.generation = generation;
        standing.refused.clone_from(refused);
        drop(connected);
        self.agents.tell();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut connected = self.agents.lock();
        if connected.by_pod.get(&self.pod_uid).is_some_and(|stream| stream.number == self.number) {
            connected.by_pod.remove(&self.pod_uid);
        }
        drop(connected);
        self.agents.tell();
    }
}
