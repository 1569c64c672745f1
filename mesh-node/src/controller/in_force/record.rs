//! The ConfigMap in which replicas note what their agents have in force: each writes its own entry, who leads reads all.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Error};
use serde_json::json;
use tokio::task::JoinError;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::warn;

use super::entry::{Entry, Fingerprints, Tag};
use crate::controller::FIELD_MANAGER;
use crate::controller::backoff::Backoff;
use crate::controller::discovery::Discovery;
use crate::controller::world::Known;
use crate::telemetry::chain::Chain;

/// The ConfigMap.
const RECORD: &str = "nodemesh-in-force";
/// Begins the names of the entries.
const REPLICA: &str = "replica.";
/// Between two looks at what is to be noted, and so between two writes.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// An entry is written this often at least, so that readers see that its replica lives.
const BEAT: Duration = Duration::from_secs(10);
/// A replica whose entry has not changed for so long is gone, or cut off, and an agent of which nobody has said anything for
/// so long follows nobody. An agent that begins again, or goes over to another replica, takes less.
const GONE: Duration = Duration::from_secs(30);
/// An entry that has not changed for so long is removed.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// For one answer of the API server.
const PATIENCE: Duration = Duration::from_secs(10);

/// What this replica notes now. What policies it has seen is asked first: what agents are told of those is known by then.
async fn own(known: &Arc<Known>, discovery: &Arc<Discovery>) -> Result<Entry, JoinError> {
    let (known, discovery) = (Arc::clone(known), Arc::clone(discovery));
    // Every policy is looked at: not on a thread that agents wait for.
    let entry = move || {
        let policies = Fingerprints::of(&known.policies());
        Entry::new(policies, &discovery.progress())
    };
    tokio::task::spawn_blocking(entry).await
}

/// Notes what agents of this replica have in force.
pub(in crate::controller) struct Noter {
    pub(in crate::controller) client: Client,
    pub(in crate::controller) namespace: String,
    /// The name of this replica.
    pub(in crate::controller) me: String,
    pub(in crate::controller) known: Arc<Known>,
    pub(in crate::controller) discovery: Arc<Discovery>,
}

impl Noter {
    /// Notes it until it is dropped.
    pub(in crate::controller) async fn run(self) {
        let mut looks = interval(LOOK_AGAIN);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut backoff, mut written, mut has_failed) = (Backoff::default(), None, false);
        loop {
            looks.tick().await;
            if self.known.generation().borrow().is_none() {
                continue;
            }
            let Ok(mut entry) = own(&self.known, &self.discovery).await else { continue };
            let before = written.as_ref().map(|(entry, at): &(Entry, Instant)| (entry, at.elapsed()));
            let Some(beat) = due(&entry, before) else { continue };
            entry.beat = beat;
            let begun = Instant::now();
            match self.write(&entry).await {
                Ok(()) => {
                    written = Some((entry, begun));
                    has_failed = false;
                    backoff.reset();
                }
                Err(error) => {
                    if !std::mem::replace(&mut has_failed, true) {
                        warn!(error = %Chain(&error), config_map = RECORD, "what agents have in force is not noted");
                    }
                    // The back-off: an API server in trouble is not asked by everybody at once.
                    sleep(backoff.next()).await;
                }
            }
        }
    }

    // Each writes with a name of its own, and so takes no entry of another away.
    async fn write(&self, entry: &Entry) -> Result<(), Error> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let text = serde_json::to_string(entry).map_err(Error::SerdeError)?;
        let body = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": RECORD},
            "data": {format!("{REPLICA}{}", self.me): text},
        });
        let manager = format!("{FIELD_MANAGER}-in-force-{}", self.me);
        let apply = PatchParams::apply(&manager).force();
        let answer = timeout(PATIENCE, api.patch(RECORD, &apply, &Patch::Apply(&body))).await;
        answer.map_err(|late| Error::Service(late.into()))?.map(drop)
    }
}

/// PURE. The beat with which an entry is to be written, if it is; `before` is what was written, and how long ago.
fn due(entry: &Entry, before: Option<(&Entry, Duration)>) -> Option<u64> {
    match before {
        // Whatever another replica of this name wrote: it counts on from a number that is hardly the same.
        None => Some(fastrand::u64(..1 << 32)),
        Some((before, since)) => {
            let is_same = Entry { beat: before.beat, ..entry.clone() } == *before;
            (!is_same || since >= BEAT).then_some(before.beat.wrapping_add(1))
        }
    }
}

/// What is known of all agents at one time.
#[derive(Debug, Default)]
pub(in crate::controller) struct Picture {
    /// Of the replicas that live.
    pub(super) entries: Vec<Arc<Entry>>,
    /// The policies that the reader has seen.
    pub(super) mine: Fingerprints,
    /// Nodes whose agents followed some replica a moment ago, or may have.
    pub(super) recent: Recent,
}

/// Nodes whose agents followed some replica a moment ago.
#[derive(Debug)]
pub(super) enum Recent {
    /// Nobody has looked for long enough to say that any did not.
    Any,
    Only(HashSet<Tag>),
}

impl Default for Recent {
    fn default() -> Self {
        Self::Only(HashSet::new())
    }
}

impl Recent {
    pub(super) fn contains(&self, tag: &Tag) -> bool {
        match self {
            Self::Any => true,
            Self::Only(tags) => tags.contains(tag),
        }
    }
}

/// Reads the entries of all, for as long as its replica leads.
pub(in crate::controller) struct Reader {
    client: Client,
    namespace: String,
    me: String,
    known: Arc<Known>,
    discovery: Arc<Discovery>,
    memory: Memory,
}

/// What the reader has seen.
#[derive(Debug, Default)]
struct Memory {
    /// Since when it looks.
    begun: Option<Instant>,
    others: BTreeMap<String, Other>,
    /// When somebody last said of a node that its agent follows him.
    listed: HashMap<Tag, Instant>,
}

/// The entry of another replica.
#[derive(Debug)]
struct Other {
    text: String,
    entry: Arc<Entry>,
    /// When it changed last, by our own clock.
    at: Instant,
}

impl Reader {
    /// The reader of the replica `me`.
    pub(in crate::controller) fn new(
        client: Client,
        namespace: &str,
        me: &str,
        known: Arc<Known>,
        discovery: Arc<Discovery>,
    ) -> Self {
        let (namespace, me) = (namespace.to_owned(), me.to_owned());
        Self { client, namespace, me, known, discovery, memory: Memory::default() }
    }

    /// Forgets what was read: another replica leads.
    pub(in crate::controller) fn rest(&mut self) {
        self.memory = Memory::default();
    }

    /// What is known now; `None` if the API server does not say.
    pub(in crate::controller) async fn picture(&mut self) -> Option<Picture> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let data = match timeout(PATIENCE, api.get_opt(RECORD)).await {
            Ok(Ok(found)) => found.and_then(|found| found.data).unwrap_or_default(),
            Ok(Err(error)) => {
                warn!(error = %Chain(&error), config_map = RECORD, "what agents have in force is not known");
                return None;
            }
            Err(_) => {
                warn!(
                    config_map = RECORD,
                    "what agents have in force is not known: the API server does not answer"
                );
                return None;
            }
        };
        let own = own(&self.known, &self.discovery).await.ok()?;
        let now = Instant::now();
        let picture = self.memory.take(data, &self.me, own, now);
        let forgotten = self.memory.forgotten(now);
        if !forgotten.is_empty() {
            let patch = Patch::Merge(json!({"data": forgotten}));
            // Tried again with the next look.
            let _ = timeout(PATIENCE, api.patch(RECORD, &PatchParams::default(), &patch)).await;
        }
        Some(picture)
    }
}

impl Memory {
    /// PURE. Takes the entries of all but `me`, and our own.
    fn take(&mut self, data: BTreeMap<String, String>, me: &str, own: Entry, now: Instant) -> Picture {
        let begun = *self.begun.get_or_insert(now);
        self.others.retain(|name, _| data.contains_key(name));
        let own_name = format!("{REPLICA}{me}");
        for (name, text) in data {
            let is_known = self.others.get(&name).is_some_and(|other| other.text == text);
            if is_known || name == own_name || !name.starts_with(REPLICA) {
                continue;
            }
            // Of another version, perhaps: it is known only that there is one.
            let entry = serde_json::from_str(&text).unwrap_or_default();
            self.others.insert(name, Other { text, entry: Arc::new(entry), at: now });
        }
        let is_alive = |other: &&Other| now.saturating_duration_since(other.at) < GONE;
        let live: Vec<&Other> = self.others.values().filter(is_alive).collect();
        for (entry, at) in live.iter().map(|other| (&*other.entry, other.at)).chain([(&own, now)]) {
            for tag in &entry.nodes.0 {
                let listed = self.listed.entry(*tag).or_insert(at);
                *listed = at.max(*listed);
            }
        }
        self.listed.retain(|_, at| now.saturating_duration_since(*at) < GONE);
        let recent = match now.saturating_duration_since(begun) < GONE {
            true => Recent::Any,
            false => Recent::Only(self.listed.keys().copied().collect()),
        };
        let mine = own.policies.clone();
        let others = live.into_iter().map(|other| Arc::clone(&other.entry));
        Picture { entries: others.chain([Arc::new(own)]).collect(), mine, recent }
    }

    /// PURE. The entries that are to be removed.
    fn forgotten(&self, now: Instant) -> BTreeMap<&str, ()> {
        let old =
            self.others.iter().filter(|(_, other)| now.saturating_duration_since(other.at) >= FORGOTTEN);
        old.map(|(name, _)| (name.as_str(), ())).collect()
    }
}

#[cfg(test)]
mod tests {
    use mesh_common::model::Text;

    use super::*;
    use crate::controller::discovery::Progress;
    use crate::controller::in_force::entry::tag;

    fn entry(beat: u64, nodes: &[&str]) -> Entry {
        let nodes = nodes.iter().map(|node| Text::from(*node)).collect();
        let progress = Progress { nodes, ..Progress::default() };
        Entry { beat, ..Entry::new(Fingerprints::default(), &progress) }
    }

    fn data(entries: &[(&str, &Entry)]) -> BTreeMap<String, String> {
        let text = |entry: &Entry| serde_json::to_string(entry).unwrap();
        entries.iter().map(|(name, entry)| (format!("{REPLICA}{name}"), text(entry))).collect()
    }

    #[test]
    fn an_entry_is_written_when_it_says_something_else_and_so_often_that_its_replica_is_seen_to_live() {
        let (one, same, other) = (entry(7, &["a"]), entry(0, &["a"]), entry(0, &["b"]));
        let soon = Duration::from_secs(3);
        assert!(due(&same, None).is_some());
        assert_eq!(due(&same, Some((&one, soon))), None);
        assert_eq!(due(&same, Some((&one, BEAT))), Some(8));
        assert_eq!(due(&other, Some((&one, soon))), Some(8));
    }

    #[test]
    fn a_replica_whose_entry_does_not_change_is_gone_and_its_agents_with_it() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        let other = data(&[("b", &entry(1, &["b"])), ("me", &entry(1, &["old"]))]);
        let mut look = |seconds, data: &BTreeMap<_, _>| {
            let now = start + Duration::from_secs(seconds);
            let picture = memory.take(data.clone(), "me", entry(0, &["a"]), now);
            let is_recent = |node| picture.recent.contains(&tag(node));
            (picture.entries.len(), is_recent("a"), is_recent("b"), is_recent("c"))
        };
        assert_eq!(
            look(0, &other),
            (2, true, true, true),
            "who has just begun to look knows of nobody's absence"
        );
        assert_eq!(look(29, &other), (2, true, true, true));
        assert_eq!(look(30, &other), (1, true, false, false));
        // It lives after all.
        let again = data(&[("b", &entry(2, &["b"]))]);
        assert_eq!(look(60, &again), (2, true, true, false));
        // Its agent goes, and comes again a moment later.
        let left = data(&[("b", &entry(3, &[]))]);
        assert_eq!(look(62, &left), (2, true, true, false));
        assert_eq!(look(64, &data(&[("b", &entry(4, &["b"]))])), (2, true, true, false));
        assert_eq!(look(66, &data(&[("b", &entry(5, &[]))])), (2, true, true, false));
        assert_eq!(look(94, &data(&[("b", &entry(6, &[]))])), (2, true, false, false));
    }

    #[test]
    fn an_entry_of_one_that_is_gone_for_long_is_let_go_and_one_of_another_version_says_nothing() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        let mut kept = data(&[("b", &entry(1, &["b"]))]);
        kept.insert("replica.c".to_owned(), r#"{"nodes": 7}"#.to_owned());
        kept.insert("else".to_owned(), "{}".to_owned());
        assert_eq!(memory.take(kept.clone(), "me", Entry::default(), start).entries.len(), 3);
        assert_eq!(memory.forgotten(start + Duration::from_secs(599)), BTreeMap::new());
        let later = start + FORGOTTEN;
        memory.take(kept, "me", Entry::default(), later);
        assert_eq!(memory.forgotten(later), BTreeMap::from([("replica.b", ()), ("replica.c", ())]));
        memory.take(BTreeMap::new(), "me", Entry::default(), later);
        assert_eq!(memory.forgotten(later), BTreeMap::new());
    }
}
