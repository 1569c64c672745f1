//! Where it is told what the objects say: one task writes, everybody reads.
//!
//! In: snapshots, and what is wrong. Out: the same, to whoever looks or waits. Never: a look at what it publishes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use mesh_common::model::Text;
use mesh_common::snapshot::Snapshot;
use tokio::sync::watch;
use tracing::{info, warn};

use super::documents::Problem;

/// Most problems of one batch that are logged one by one.
const MAX_LOGGED: usize = 50;

/// Files that changed, and whose change is not taken yet because reading takes a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeingRead {
    /// The files, by name.
    pub files: Vec<Text>,
    /// Since when the first of them is read.
    pub since: Instant,
}

/// Snapshots and problems, as they are now.
#[derive(Debug)]
pub struct Publication {
    snapshots: Arc<ArcSwap<Snapshot>>,
    problems: Arc<ArcSwap<Vec<Problem>>>,
    being_read: ArcSwapOption<BeingRead>,
    generation: watch::Sender<Option<u64>>,
}

impl Default for Publication {
    fn default() -> Self {
        Self {
            snapshots: Arc::default(),
            problems: Arc::default(),
            being_read: ArcSwapOption::default(),
            generation: watch::Sender::new(None),
        }
    }
}

impl Publication {
    /// Where snapshots are published. Empty before the first sync.
    pub fn snapshots(&self) -> Arc<ArcSwap<Snapshot>> {
        Arc::clone(&self.snapshots)
    }

    /// The generation of the published snapshot; `None` before the first sync. Changes after each publication, and at once
    /// if something is published already.
    pub fn generation(&self) -> watch::Receiver<Option<u64>> {
        let mut generation = self.generation.subscribe();
        if generation.borrow().is_some() {
            generation.mark_changed();
        }
        generation
    }

    /// What is wrong now.
    pub fn problems(&self) -> Arc<ArcSwap<Vec<Problem>>> {
        Arc::clone(&self.problems)
    }

    /// What is being read now; what it said last is in force.
    pub fn being_read(&self) -> Option<Arc<BeingRead>> {
        self.being_read.load_full()
    }

    /// Tells what is being read.
    pub fn set_being_read(&self, being_read: Option<BeingRead>) {
        self.being_read.store(being_read.map(Arc::new));
    }

    /// Publishes a snapshot, if it is another one than before; says whether it was.
    pub fn publish(&self, snapshot: Arc<Snapshot>) -> bool {
        let now = Some(snapshot.generation());
        let is_new = *self.generation.borrow() != now;
        if is_new {
            self.snapshots.store(snapshot);
            self.generation.send_replace(now);
        }
        is_new
    }

    /// Publishes what is wrong, and logs what is wrong now and was not before.
    pub fn report(&self, wrong: Vec<Problem>) {
        log(&self.problems.load(), &wrong);
        self.problems.store(Arc::new(wrong));
    }
}

/// Logs what is wrong now and was not before, and that nothing is any more.
fn log(before: &[Problem], after: &[Problem]) {
    let known: BTreeSet<&Problem> = before.iter().collect();
    let new: Vec<&Problem> = after.iter().filter(|problem| !known.contains(problem)).collect();
    for problem in new.iter().take(MAX_LOGGED) {
        let object = problem.complaint.object.as_ref().map(ToString::to_string).unwrap_or_default();
        warn!(
            file = %problem.place.file,
            document = problem.place.document,
            line = problem.line,
            object,
            field = problem.complaint.field.as_deref().unwrap_or_default(),
            effect = problem.complaint.effect.code(),
            reason = problem.complaint.reason,
            "configuration problem",
        );
    }
    if new.len() > MAX_LOGGED {
        warn!(count = new.len() - MAX_LOGGED, "more configuration problems: see mesh-node status");
    }
    if !before.is_empty() && after.is_empty() {
        info!("no configuration problem any more");
    }
}
