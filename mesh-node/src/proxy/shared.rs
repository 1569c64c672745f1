//! What the cores share: handles that are read without waiting.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mesh_common::model::Spoken;
use mesh_common::snapshot::Snapshot;
use prometheus::{IntCounter, IntCounterVec, Opts};

use super::decisions::Origin;
use super::detected::Learned;
use super::limits::Places;
use crate::config_client::Asker;
use crate::identity::Identities;
use crate::kernel::{CallerWriter, OriginalDstReader};
use crate::telemetry::access_log::{AccessLog, Audited};
use crate::telemetry::labels::{AskedName, AuditEffect};
use crate::telemetry::registry::Registry;
use crate::telemetry::traffic::TrafficMetrics;
use crate::transport::http2::RefusedUnseen;

/// What the cores share.
pub struct Shared {
    /// What is known now. Written by the control thread alone.
    pub snapshots: Arc<ArcSwap<Snapshot>>,
    /// Certificates of this node's pods.
    pub identities: Arc<Identities>,
    /// Limits of connections.
    pub places: Places,
    /// `--abuse-penalty`.
    pub abuse_penalty: Duration,
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
    /// What ports turned out to speak.
    pub learned: Learned,
    /// What ids of refusals begin with.
    pub origin: Origin,
    /// Asks what addresses are, where the agent is not told everything.
    pub asker: Option<Asker>,
}

/// What the conductor counts.
#[derive(Debug)]
pub struct ProxyMetrics {
    refusals: IntCounterVec,
    tunnels_lost: IntCounterVec,
    penalties: IntCounterVec,
    /// By [`RefusedUnseen::ALL`].
    refused_unseen: [IntCounter; RefusedUnseen::ALL.len()],
    would_deny: IntCounter,
    matched: IntCounter,
    /// By [`Spoken::ALL`], those of TLS by [`AskedName::ALL`].
    detected: [IntCounter; Spoken::ALL.len()],
    detected_tls: [IntCounter; AskedName::ALL.len()],
}

impl ProxyMetrics {
    /// Registers the conductor's metrics.
    ///
    /// # Errors
    /// If `registry` has them already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, label: &str| {
            let counter = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let refusals = counter(
            "nodemesh_proxy_refusals_total",
            "Connections, streams, requests and peers refused, counted when they are.",
            "reason",
        )?;
        let tunnels_lost = counter(
            "nodemesh_proxy_tunnels_lost_total",
            "Tunnels that ended otherwise than by agreement, counted when they did.",
            "reason",
        )?;
        let penalties = counter(
            "nodemesh_proxy_penalties_total",
            "Sources that were cut off for abuse so often that they begin connections only now and then, counted when that \
             begins on a core: pods of this node (pod), and addresses that connect to them (address).",
            "source",
        )?;
        let unseen = counter(
            "nodemesh_proxy_requests_refused_unseen_total",
            "Refusals of HTTP/2 requests that the other side did not look at, counted at each: sent_again, or failed, \
             because of what their caller asks there too much was sent again lately (over_budget), because it was the \
             third of the request (too_often), or because more of its body was sent than is kept (too_large).",
            "result",
        )?;
        let audited = counter(
            "nodemesh_policy_audited_total",
            "Connections and requests that policies which refuse nothing would deny or have matched, counted once for \
             each effect when they are let through.",
            "effect",
        )?;
        let refused_unseen = RefusedUnseen::ALL.map(|became| unseen.with_label_values(&[became.as_str()]));
        let [would_deny, matched] = [AuditEffect::WouldDeny, AuditEffect::Matched]
            .map(|effect| audited.with_label_values(&[effect.as_str()]));
        let detected = IntCounterVec::new(
            Opts::new(
                "nodemesh_proxy_detected_total",
                "Connections to ports that declare nothing, or TLS, counted when their first bytes told what they speak; \
                 of TLS, whether it asks for the name of the Service that was dialled.",
            ),
            &["protocol", "server_name"],
        )?;
        registry.register(Box::new(detected.clone()))?;
        let counter =
            |spoken: Spoken, name: AskedName| detected.with_label_values(&[spoken.as_str(), name.as_str()]);
        let detected_tls = std::array::from_fn(|name| counter(Spoken::Tls, AskedName::ALL[name]));
        let detected = Spoken::ALL.map(|spoken| counter(spoken, AskedName::None));
        Ok(Self {
            detected,
            detected_tls,
            refusals,
            tunnels_lost,
            penalties,
            refused_unseen,
            would_deny,
            matched,
        })
    }

    /// Counts what a connection turned out to speak.
    pub(super) fn detected(&self, spoken: Spoken, name: AskedName) {
        match spoken {
            Spoken::Tls => self.detected_tls[name as usize].inc(),
            _ => self.detected[spoken as usize].inc(),
        }
    }

    /// Counts a refusal. `reason` is one of a closed set of words.
    pub(super) fn refused(&self, reason: &'static str) {
        self.refusals.with_label_values(&[reason]).inc();
    }

    /// Counts a request that the other side refused without looking at it.
    pub(super) fn refused_unseen(&self, became: RefusedUnseen) {
        self.refused_unseen[became as usize].inc();
    }

    /// Counts what policies that refuse nothing found of a connection or request.
    pub(super) fn audited(&self, audited: &Audited) {
        if audited.would_deny > 0 {
            self.would_deny.inc();
        }
        if audited.matched > 0 {
            self.matched.inc();
        }
    }

    /// Counts a penalty that begins. `source` is one of a closed set of words.
    pub(super) fn penalty(&self, source: &'static str) {
        self.penalties.with_label_values(&[source]).inc();
    }

    /// Counts a lost tunnel. `reason` is one of a closed set of words.
    pub(super) fn tunnel_lost(&self, reason: &'static str) {
        self.tunnels_lost.with_label_values(&[reason]).inc();
    }
}
