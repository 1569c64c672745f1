//! What the agent's side of the stream counts.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{IntCounter, IntGauge};

use super::asks::Batch;
use crate::telemetry::registry::Registry;

/// Metrics of an agent that asks.
#[derive(Clone, Debug)]
pub struct AskMetrics {
    asked: IntCounter,
    taken_back: IntCounter,
    dropped: IntCounter,
    questions: IntGauge,
}

impl AskMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// If they are registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            asked: registry.counter(
                "nodemesh_xds_questions_asked_total",
                "Addresses and node ports that the controller was asked about, where --on-demand is given.",
            )?,
            taken_back: registry.counter(
                "nodemesh_xds_questions_taken_back_total",
                "Of these, those that nobody used for long or that left no room for others.",
            )?,
            dropped: registry.counter(
                "nodemesh_xds_questions_dropped_total",
                "Addresses and node ports that were not asked about, because too many waited to be, of the pod or at all.",
            )?,
            questions: registry.gauge(
                "nodemesh_xds_questions",
                "Addresses and node ports that the controller tells the agent about because it asked.",
            )?,
        })
    }

    pub(super) fn said(&self, batch: &Batch, questions: usize) {
        self.asked.inc_by(batch.asked.len() as u64);
        self.taken_back.inc_by(batch.taken_back.len() as u64);
        self.questions.set(i64::try_from(questions).unwrap_or(i64::MAX));
    }

    pub(super) fn dropped(&self) {
        self.dropped.inc();
    }
}

/// Metrics of the stream from the controller.
#[derive(Clone, Debug)]
pub struct Metrics {
    streams: IntCounter,
    stale_since: IntGauge,
    refused: IntGauge,
    generation: IntGauge,
    saves_failed: IntCounter,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// If they are registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            streams: registry.counter(
                "nodemesh_xds_streams_total",
                "Streams to a controller that were begun, counted when it let the agent in.",
            )?,
            stale_since: registry.gauge(
                "nodemesh_xds_stale_since_timestamp_seconds",
                "Since when what is in force may be out of date; 0 while a controller keeps it current.",
            )?,
            refused: registry.gauge(
                "nodemesh_xds_refused_resources",
                "Resources that this version does not understand; mesh-node status lists them.",
            )?,
            generation: registry.gauge(
                "nodemesh_xds_snapshot_generation",
                "Generation of the snapshot that is published; counts up with every change.",
            )?,
            saves_failed: registry.counter(
                "nodemesh_xds_saves_failed_total",
                "Times that the state could not be written to --state-dir, counted per try.",
            )?,
        })
    }

    pub(super) fn begun(&self) {
        self.streams.inc();
    }

    pub(super) fn is_current(&self, generation: u64, refused: usize) {
        self.stale_since.set(0);
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.refused.set(i64::try_from(refused).unwrap_or(i64::MAX));
    }

    /// From now on, if it was not before.
    pub(super) fn is_stale(&self) {
        if self.stale_since.get() == 0 {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.stale_since.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        }
    }

    pub(super) fn save_failed(&self) {
        self.saves_failed.inc();
    }
}
