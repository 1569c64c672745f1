//! What is counted of keys that are fetched.

use std::time::UNIX_EPOCH;

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec};

use super::error::FetchError;
use super::schedule::Counts;
use crate::telemetry::registry::Registry;

/// Its metrics.
#[derive(Clone, Debug)]
pub struct KeySetMetrics {
    fetches: IntCounterVec,
    sets: IntGaugeVec,
    oldest: IntGauge,
}

impl KeySetMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// If they are registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            fetches: registry.counters(
                "nodemesh_control_key_fetches_total",
                "result",
                "Fetches of the keys of issuers (jwksUri), by how they ended; fetched is the good one.",
            )?,
            sets: registry.gauges(
                "nodemesh_control_key_sets",
                "state",
                "URIs of issuers' keys: fetched; failing, with keys of before in use; missing, never fetched; expired, too old.",
            )?,
            oldest: registry.gauge(
                "nodemesh_control_oldest_key_set_timestamp_seconds",
                "When the keys in use were fetched that were fetched the longest ago, seconds since the epoch; 0 if there are none.",
            )?,
        };
        for result in ["fetched"].into_iter().chain(FetchError::CODES) {
            metrics.fetches.with_label_values(&[result]);
        }
        Ok(metrics)
    }

    pub(super) fn fetched(&self, result: &str) {
        self.fetches.with_label_values(&[result]).inc();
    }

    pub(super) fn observe(&self, counts: Counts) {
        let Counts { fetched, failing, missing, expired, oldest } = counts;
        for (state, count) in
            [("fetched", fetched), ("failing", failing), ("missing", missing), ("expired", expired)]
        {
            self.sets.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let since = oldest.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        self.oldest.set(since.map_or(0, |since| since.as_secs()).cast_signed());
    }
}
