//! What the controller knows, kept up to date: the one task that works on what the watches hear.
//!
//! In: the news of the watches. Out: deltas for the agents, a snapshot for everybody in the controller, and the faults
//! of objects. Nothing is told before a whole list of every kind was read: a policy that is missing would open doors.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use arc_swap::ArcSwap;
use kube::Client;
use mesh_common::model::{MeshSettings, NamespacedName, Text};
use mesh_common::snapshot::{Delta, Snapshot, Tables};
use tokio::sync::watch;
use tracing::{info, warn};

use super::discovery::Discovery;
use super::doubts::Doubts;
use super::inventory::{Faults, Heard, Inventory, Policy, Route, needed};
use super::metrics::Metrics;
use super::watch::{News, watch_all};
use crate::control::enroller::{Change, Enroller};
use crate::control::key_ring::{KeyOrders, KeyStanding};
use crate::control::object::{Kind, ObjectKey};

/// News that are worked on in one go.
const BATCH: usize = 1024;
/// Faults of one batch that are logged one by one.
const MAX_LOGGED: usize = 20;

/// Where deltas go.
pub(super) trait Publish: Send + Sync {
    /// Takes what changed; the first call has all that there is.
    fn publish(&self, deltas: &[Delta]);
}

impl Publish for Discovery {
    fn publish(&self, deltas: &[Delta]) {
        Discovery::publish(self, deltas);
        self.begin();
    }
}

/// What is known now, for the other parts of the controller. Readers hardly ever wait.
#[derive(Debug, Default)]
pub struct Known {
    snapshot: ArcSwap<Snapshot>,
    accounts: RwLock<HashSet<NamespacedName>>,
    faults: ArcSwap<BTreeMap<ObjectKey, Faults>>,
    policies: ArcSwap<BTreeMap<ObjectKey, Arc<Policy>>>,
    routes: ArcSwap<BTreeMap<ObjectKey, Arc<Route>>>,
    missing: ArcSwap<Vec<Kind>>,
    key_standings: ArcSwap<BTreeMap<ObjectKey, KeyStanding>>,
    generation: watch::Sender<Option<u64>>,
}

impl Known {
    /// All workloads, Services and policies. Empty before the first sync.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The generation of the snapshot; `None` before the first sync. Changes after each publication.
    pub fn generation(&self) -> watch::Receiver<Option<u64>> {
        self.generation.subscribe()
    }

    /// Whether a service account is there.
    pub fn has_account(&self, name: &NamespacedName) -> bool {
        self.accounts.read().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    /// What is wrong with objects.
    pub fn faults(&self) -> Arc<BTreeMap<ObjectKey, Faults>> {
        self.faults.load_full()
    }

    /// All policies, with their status.
    pub(super) fn policies(&self) -> Arc<BTreeMap<ObjectKey, Arc<Policy>>> {
        self.policies.load_full()
    }

    /// All routes that are about Services, with their status.
    pub(super) fn routes(&self) -> Arc<BTreeMap<ObjectKey, Arc<Route>>> {
        self.routes.load_full()
    }

    /// How the keys stand of each RequestAuthentication that has them fetched.
    pub(super) fn key_standings(&self) -> Arc<BTreeMap<ObjectKey, KeyStanding>> {
        self.key_standings.load_full()
    }

    /// Kinds that are needed, and of which no whole list was read yet.
    pub fn missing(&self) -> Arc<Vec<Kind>> {
        self.missing.load_full()
    }
}

/// Works on what the watches hear.
pub struct World {
    client: Client,
    root_namespace: Text,
    inventory: Inventory,
    enroller: Enroller,
    tables: Tables,
    /// Deltas that nobody was told yet: those of before the first sync.
    untold: Vec<Delta>,
    is_synced: bool,
    known: Arc<Known>,
    publish: Arc<dyn Publish>,
    orders: KeyOrders,
    metrics: Metrics,
}

impl World {
    /// Begins with nothing.
    pub(super) fn new(
        client: Client,
        settings: Arc<MeshSettings>,
        publish: Arc<dyn Publish>,
        orders: KeyOrders,
        metrics: Metrics,
    ) -> Self {
        let known = Known { missing: ArcSwap::from_pointee(needed().collect()), ..Known::default() };
        let mut world = Self {
            client,
            root_namespace: settings.root_namespace.clone(),
            inventory: Inventory::new(Arc::clone(&settings)),
            enroller: Enroller::default(),
            tables: Tables::default(),
            untold: Vec::new(),
            is_synced: false,
            known: Arc::new(known),
            publish,
            orders,
            metrics,
        };
        world.take(vec![Delta::Settings(settings)]);
        world
    }

    /// What is known, as it comes to be known.
    pub fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known)
    }

    /// Watches, and works on what is heard, until it is dropped. Returns only if every watch has failed for good.
    pub async fn run(mut self) {
        let (_watches, mut heard) = watch_all(&self.client, &self.metrics, &self.root_namespace);
        let mut doubts = Doubts::new(self.client.clone());
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let changes = tokio::select! {
                news = self.orders.next() => {
                    let deltas = self.enroller.learn(news);
                    self.take(deltas);
                    Vec::new()
                }
                count = heard.recv_many(&mut batch, BATCH) => match count {
                    0 => return,
                    _ => self.hear(batch.drain(..), &mut doubts),
                },
                (key, answer) = doubts.next() => self.inventory.answer(key, answer).into_iter().collect(),
            };
            doubts.extend(self.inventory.take_unasked());
            if let Some(routes) = self.inventory.take_routes() {
                self.known.routes.store(Arc::new(routes));
            }
            self.apply(changes, doubts.len());
            // After what agents are to be told of them: who saw a policy here finds it there.
            if let Some(policies) = self.inventory.take_policies() {
                self.known.policies.store(Arc::new(policies));
            }
        }
    }

    fn hear(&mut self, batch: impl Iterator<Item = News>, doubts: &mut Doubts) -> Vec<Change> {
        let one = |(kind, heard): News| {
            if matches!(heard, Heard::Served(_) | Heard::Withdrawn) {
                doubts.forget(kind);
            }
            self.inventory.hear(kind, heard)
        };
        batch.flat_map(one).collect()
    }

    fn apply(&mut self, changes: Vec<Change>, doubtful: usize) {
        self.account(&changes);
        let deltas = self.enroller.apply(changes);
        self.take(deltas);
        if let Some(wanted) = self.enroller.take_wanted() {
            self.orders.place(wanted);
        }
        if !self.is_synced && self.inventory.is_complete() {
            self.is_synced = true;
            info!("the first lists of every kind are complete");
        }
        self.known.missing.store(Arc::new(self.inventory.missing().collect()));
        self.report(doubtful);
        if self.is_synced {
            self.tell();
        }
    }

    /// Takes deltas into the tables, and keeps them for the agents.
    fn take(&mut self, deltas: Vec<Delta>) {
        for delta in &deltas {
            self.tables.apply(delta.clone());
        }
        self.untold.extend(deltas);
    }

    fn tell(&mut self) {
        if self.untold.is_empty() {
            return;
        }
        let snapshot = self.tables.snapshot();
        let generation = snapshot.generation();
        self.known.snapshot.store(Arc::new(snapshot));
        self.publish.publish(&std::mem::take(&mut self.untold));
        self.known.generation.send_replace(Some(generation));
    }

    fn account(&self, changes: &[Change]) {
        if !changes.iter().any(|change| change.key.kind == Kind::ServiceAccount) {
            return;
        }
        let mut accounts = self.known.accounts.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes.iter().filter(|change| change.key.kind == Kind::ServiceAccount) {
            match &change.after {
                Some(_) => accounts.insert(change.key.name.clone()),
                None => accounts.remove(&change.key.name),
            };
        }
    }

    /// Says what is wrong now and was not before.
    fn report(&self, doubtful: usize) {
        let standings = self.enroller.key_standings();
        let faults = with_keys(self.inventory.faults(), &standings);
        let mut counts = BTreeMap::new();
        for (_, effect) in faults.values().flat_map(|said| &**said) {
            *counts.entry(*effect).or_default() += 1;
        }
        let generation = self.known.snapshot.load().generation();
        self.metrics.observe(self.inventory.counts(), &counts, doubtful, generation);
        let before = self.known.faults.load();
        if **self.known.key_standings.load() != standings {
            self.known.key_standings.store(Arc::new(standings));
        }
        if **before == *faults {
            return;
        }
        let new = faults.iter().filter(|(key, said)| before.get(*key) != Some(*said));
        for (key, (error, effect)) in
            new.flat_map(|(key, said)| said.iter().map(move |said| (key, said))).take(MAX_LOGGED)
        {
            warn!(object = %key, field = error.field, effect = effect.code(), reason = error.reason, "object has a fault");
        }
        self.known.faults.store(Arc::new(faults.into_owned()));
    }
}

/// What is wrong with objects, their keys included.
fn with_keys<'f>(
    faults: &'f BTreeMap<ObjectKey, Faults>,
    standings: &BTreeMap<ObjectKey, KeyStanding>,
) -> Cow<'f, BTreeMap<ObjectKey, Faults>> {
    let mut all = Cow::Borrowed(faults);
    for (key, standing) in standings.iter().filter(|(_, standing)| !standing.faults.is_empty()) {
        let said = faults.get(key).into_iter().flat_map(|said| said.iter());
        all.to_mut().insert(key.clone(), said.chain(&standing.faults).cloned().collect());
    }
    all
}
