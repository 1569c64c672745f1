//! The cores' side of asking: a queue to who asks the controller, and which addresses are in use.
//!
//! Never waits, and takes no lock: uses are counted by bucket, so two addresses of one bucket keep each other in use.

use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mesh_common::model::{Question, WorkloadUid};
use mesh_common::snapshot::Snapshot;
use smallvec::SmallVec;
use tokio::sync::mpsc;

use super::asks::Usage;
use super::metrics::AskMetrics;

/// Questions that wait to be taken; more than connections are held.
const QUEUE: usize = 4096;
/// Some for each question that is kept.
const BUCKETS: usize = 16_384;

/// A controller is away once there was no stream for so many seconds.
const AWAY: u32 = 10;

/// A question of a pod.
pub(super) type Wanted = (Question, WorkloadUid);

/// Asks the controller. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Asker {
    queue: mpsc::Sender<Wanted>,
    uses: Arc<Uses>,
    /// Since when no controller answers, in seconds since the beginning; 0 while one does.
    cut_off: Arc<AtomicU32>,
    metrics: AskMetrics,
}

/// Keeps what was asked from being taken back, as long as it lives.
#[derive(Debug)]
pub struct InUse {
    uses: Arc<Uses>,
    buckets: SmallVec<[u16; 2]>,
}

#[derive(Debug)]
pub(super) struct Uses {
    hasher: foldhash::fast::RandomState,
    began: Instant,
    buckets: Box<[Bucket]>,
}

#[derive(Debug, Default)]
struct Bucket {
    open: AtomicU32,
    /// In seconds since the beginning.
    last: AtomicU32,
}

impl Asker {
    pub(super) fn new(metrics: AskMetrics) -> (Self, mpsc::Receiver<Wanted>) {
        let (queue, wanted) = mpsc::channel(QUEUE);
        let cut_off = Arc::new(AtomicU32::new(1));
        (Self { queue, uses: Arc::new(Uses::new()), cut_off, metrics }, wanted)
    }

    /// Asks for a pod; says whether it will be. A new snapshot has the answer.
    pub fn ask(&self, pod: &WorkloadUid, questions: &[Question]) -> bool {
        questions.iter().all(|question| {
            // What is asked counts as used, or the next question could push it out.
            drop(self.uses.take(&[*question]));
            let is_asked = self.queue.try_send((*question, pod.clone())).is_ok();
            if !is_asked {
                self.metrics.dropped();
            }
            is_asked
        })
    }

    /// Whether it pays to wait for an answer: streams end and begin again now and then.
    pub fn is_answered(&self) -> bool {
        let cut_off = self.cut_off.load(Ordering::Relaxed);
        cut_off == 0 || self.uses.now().saturating_sub(cut_off) < AWAY
    }

    /// Keeps what this address depends on.
    pub fn using(&self, snapshot: &Snapshot, address: SocketAddr) -> InUse {
        self.uses.take(&snapshot.questions(address))
    }

    pub(super) fn set_answered(&self, is_answered: bool) {
        let was_cut_off = self.cut_off.load(Ordering::Relaxed);
        match (is_answered, was_cut_off) {
            (true, _) => self.cut_off.store(0, Ordering::Relaxed),
            (false, 0) => self.cut_off.store(self.uses.now().max(1), Ordering::Relaxed),
            (false, _) => {}
        }
    }

    pub(super) fn usage(&self, question: Question) -> Usage {
        self.uses.of(question)
    }

    pub(super) fn metrics(&self) -> &AskMetrics {
        &self.metrics
    }
}

impl Uses {
    fn new() -> Self {
        let buckets = (0..BUCKETS).map(|_| Bucket::default()).collect();
        Self { hasher: foldhash::fast::RandomState::default(), began: Instant::now(), buckets }
    }

    fn take(self: &Arc<Self>, questions: &[Question]) -> InUse {
        let buckets: SmallVec<_> = questions.iter().map(|question| self.bucket(*question)).collect();
        for bucket in &buckets {
            // Relaxed, here and below: the number alone matters, it orders no other memory.
            self.buckets[usize::from(*bucket)].open.fetch_add(1, Ordering::Relaxed);
        }
        InUse { uses: Arc::clone(self), buckets }
    }

    fn of(&self, question: Question) -> Usage {
        let bucket = &self.buckets[usize::from(self.bucket(question))];
        if bucket.open.load(Ordering::Relaxed) > 0 {
            return Usage::Open;
        }
        Usage::Idle(
            self.began
                .elapsed()
                .saturating_sub(Duration::from_secs(bucket.last.load(Ordering::Relaxed).into())),
        )
    }

    /// In seconds since the beginning.
    fn now(&self) -> u32 {
        u32::try_from(self.began.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    fn bucket(&self, question: Question) -> u16 {
        (self.hasher.hash_one(question) % BUCKETS as u64) as u16
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let now = self.uses.now();
        for bucket in &self.buckets {
            let bucket = &self.uses.buckets[usize::from(*bucket)];
            bucket.last.store(now, Ordering::Relaxed);
            bucket.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_is_open_and_then_idle() {
        let uses = Arc::new(Uses::new());
        let question = Question::Address([10, 0, 0, 1].into());
        let held = [uses.take(&[question]), uses.take(&[question])];
        let [one, other] = held;
        drop(one);
        assert_eq!(uses.of(question), Usage::Open);
        drop(other);
        assert!(matches!(uses.of(question), Usage::Idle(idle) if idle < Duration::from_secs(60)));
    }
}
