//! Changed objects become tables.
//!
//! In: what an object meant before and means now. Out: the snapshot after it. Never: I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_common::model::MeshSettings;
use mesh_common::snapshot::{Delta, Snapshot, Tables};

use super::enroller::{Change, Enroller};
use super::key_ring::{KeyNews, KeyStanding, Wanted};
use super::object::ObjectKey;

/// The one writer of the tables.
#[derive(Debug)]
pub struct Reconciler {
    enroller: Enroller,
    tables: Tables,
}

impl Reconciler {
    /// Empty tables of one mesh.
    pub fn new(settings: Arc<MeshSettings>) -> Self {
        let mut tables = Tables::default();
        tables.apply(Delta::Settings(settings));
        Self { enroller: Enroller::default(), tables }
    }

    /// Takes changes, in any order. Whether they made a difference, the next snapshot's generation says.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
        for delta in self.enroller.apply(changes) {
            self.tables.apply(delta);
        }
    }

    /// Takes keys that were fetched, or were not.
    pub fn learn(&mut self, news: impl IntoIterator<Item = KeyNews>) {
        for delta in self.enroller.learn(news) {
            self.tables.apply(delta);
        }
    }

    /// The URIs to fetch keys from, if they changed since this was asked last.
    pub fn take_wanted(&mut self) -> Option<Wanted> {
        self.enroller.take_wanted()
    }

    /// How the keys stand of each object that has them fetched.
    pub fn key_standings(&self) -> BTreeMap<ObjectKey, KeyStanding> {
        self.enroller.key_standings()
    }

    /// What is known after all changes so far.
    pub fn snapshot(&mut self) -> Snapshot {
        self.tables.snapshot()
    }
}
