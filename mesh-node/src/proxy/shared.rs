//! What the cores share: handles that are read without waiting.

use std::sync::Arc;

use arc_swap::ArcSwap;
use mesh_common::snapshot::Snapshot;
use prometheus::{IntCounterVec, Opts};

use super::limits::Places;
use crate::identity::Identities;
use crate::kernel::{CallerWriter, OriginalDstReader};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::registry::Registry;
use crate::telemetry::traffic::TrafficMetrics;

/// What the cores share.
pub struct Shared {
    /// What is known now. Written by the control thread alone.
    pub snapshots: Arc<ArcSwap<Snapshot>>,
    /// Certificates of this node's pods.
    pub identities: Arc<Identities>,
    /// Limits of connections.
    pub places: Places,
    /// Istio's metrics.
    pub traffic: TrafficMetrics,
    /// Access records.
    pub access_log: AccessLog,
    /// What applications dialled.
    pub original_dsts: OriginalDstReader,
    /// Tells applications who calls them.
    pub callers: CallerWriter,
    /// The conductor's own metrics.
    pub metrics: ProxyMetrics,
}

/// What the conductor counts.
#[derive(Debug)]
pub struct ProxyMetrics {
    refusals: IntCounterVec,
    tunnels_lost: IntCounterVec,
}

impl ProxyMetrics {
    /// Registers the conductor's metrics.
    ///
    /// # Errors
    /// If `registry` has them already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let refusals = IntCounterVec::new(
            Opts::new(
                "nodemesh_proxy_refusals_total",
                "Connections, streams, requests and peers refused, counted when they are.",
            ),
            &["reason"],
        )?;
        let tunnels_lost = IntCounterVec::new(
            Opts::new(
                "nodemesh_proxy_tunnels_lost_total",
                "Tunnels that ended otherwise than by agreement, counted when they did.",
            ),
            &["reason"],
        )?;
        registry.register(Box::new(refusals.clone()))?;
        registry.register(Box::new(tunnels_lost.clone()))?;
        Ok(Self { refusals, tunnels_lost })
    }

    /// Counts a refusal. `reason` is one of a closed set of words.
    pub(super) fn refused(&self, reason: &'static str) {
        self.refusals.with_label_values(&[reason]).inc();
    }

    /// Counts a lost tunnel. `reason` is one of a closed set of words.
    pub(super) fn tunnel_lost(&self, reason: &'static str) {
        self.tunnels_lost.with_label_values(&[reason]).inc();
    }
}
