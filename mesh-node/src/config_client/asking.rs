//! Asking, in time: questions gather a little, and what nobody uses is taken back.

use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use mesh_common::model::Question;
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep_until, timeout};

use super::ConfigClient;
use super::asker::{Asker, Wanted};
use super::asks::{Asks, Batch};
use super::metrics::AskMetrics;
use super::stream::{Ended, Failure, WRITTEN};

/// Batches follow each other no sooner: each is a snapshot, on which what is open is decided again.
const GATHER: Duration = Duration::from_millis(20);
/// How often it is looked what nobody uses.
const LOOK: Duration = Duration::from_secs(30);

/// What is asked, and by whom.
pub(super) struct Asking {
    asks: Asks,
    asker: Asker,
    wanted: mpsc::Receiver<Wanted>,
    /// When something may be said next.
    next: Instant,
    look: Instant,
}

impl Asking {
    pub(super) fn new(metrics: AskMetrics) -> Self {
        let (asker, wanted) = Asker::new(metrics);
        Self { asks: Asks::default(), asker, wanted, next: Instant::now(), look: Instant::now() + LOOK }
    }

    pub(super) fn asker(&self) -> Asker {
        self.asker.clone()
    }

    pub(super) fn restore(&mut self, questions: Vec<Question>) {
        self.asks.restore(questions.into_iter());
    }

    /// All that a new stream begins with.
    pub(super) fn begin(&mut self) -> Vec<Question> {
        self.asks.begin()
    }

    /// The controller has told all; these it knows of.
    pub(super) fn settle(&mut self, questions: &[Question]) {
        questions.iter().for_each(|question| self.asks.settle(*question));
        self.asker.set_answered(true);
        self.asker.metrics().said(&Batch::default(), self.asks.len());
    }

    pub(super) fn is_cut_off(&mut self) {
        self.asker.set_answered(false);
    }

    fn want(&mut self, (question, pod): Wanted) {
        if !self.asks.want(question, &pod) {
            self.asker.metrics().dropped();
        }
    }

    /// Waits until something may be said. Cancel safe.
    async fn batch(&mut self, may_ask: bool) -> Batch {
        loop {
            tokio::select! {
                Some(wanted) = self.wanted.recv() => self.want(wanted),
                () = sleep_until(self.next), if may_ask && self.asks.has_next() => {
                    self.next = Instant::now() + GATHER;
                    return self.asks.next(|question| self.asker.usage(question));
                }
                () = sleep_until(self.look), if may_ask => {
                    self.look = Instant::now() + LOOK;
                    let batch = self.asks.idle(|question| self.asker.usage(question));
                    if !batch.taken_back.is_empty() {
                        return batch;
                    }
                }
            }
        }
    }
}

/// Waits until something may be said; for ever if nothing is asked, or may be. Cancel safe.
pub(super) async fn batch(asking: &mut Option<Asking>, may_ask: bool) -> Batch {
    match asking {
        Some(asking) => asking.batch(may_ask).await,
        None => std::future::pending().await,
    }
}

impl ConfigClient {
    /// Says a batch. What is taken back is out of force first.
    pub(super) async fn ask(
        &mut self,
        batch: Batch,
        requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    ) -> Result<(), Failure> {
        if batch == Batch::default() {
            return Ok(());
        }
        let (request, snapshot) = self.asked(batch).await?;
        if self.publication.publish(snapshot) {
            self.saver.changed();
        }
        match timeout(WRITTEN, requests.send(request)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Ended::Closed.into()),
            Err(_) => Err(Ended::Unread.into()),
        }
    }

    async fn asked(
        &mut self,
        batch: Batch,
    ) -> Result<(DeltaDiscoveryRequest, std::sync::Arc<mesh_common::snapshot::Snapshot>), JoinError> {
        if let Some(asking) = &self.asking {
            asking.asker.metrics().said(&batch, asking.asks.len());
        }
        self.aside(move |world| world.ask(&batch)).await
    }
}
