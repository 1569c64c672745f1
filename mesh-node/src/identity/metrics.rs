//! Counters of the identity stage.

use prometheus::{IntCounter, IntGauge};

use crate::telemetry::registry::Registry;

use super::reason::Reason;

/// What the identity stage counts. A clone counts into the same series.
#[derive(Clone, Debug)]
pub struct IdentityMetrics {
    /// In the order of [`Reason::ALL`].
    refused: Vec<IntCounter>,
    /// Certificates obtained.
    pub(super) issued: IntCounter,
    /// Tries to obtain one that failed.
    pub(super) failed: IntCounter,
    /// Identities that have a usable certificate.
    pub(super) usable: IntGauge,
    /// `notAfter` of the certificate that expires first.
    pub(super) earliest_expiry: IntGauge,
    /// Changes of the trust bundle, the first bundle with them.
    pub(super) generation: IntGauge,
}

impl IdentityMetrics {
    /// Makes the counters and registers them.
    ///
    /// # Errors
    /// If `registry` has series of the same names already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let refusals = registry.counters(
            "nodemesh_identity_peers_refused_total",
            "reason",
            "Peers whose certificate was refused, counted at verification.",
        )?;
        let issues = registry.counters(
            "nodemesh_identity_certificate_requests_total",
            "result",
            "Workload certificates asked of the authority, counted at its answer.",
        )?;
        let of_reason = |reason: &Reason| refusals.with_label_values(&[reason.as_str()]);
        Ok(Self {
            refused: Reason::ALL.iter().map(of_reason).collect(),
            issued: issues.with_label_values(&["issued"]),
            failed: issues.with_label_values(&["failed"]),
            usable: registry.gauge(
                "nodemesh_identity_usable_certificates",
                "Identities of this node that have a valid certificate.",
            )?,
            earliest_expiry: registry.gauge(
                "nodemesh_identity_earliest_expiry_timestamp_seconds",
                "When the workload certificate that expires first does; 0 without certificates.",
            )?,
            generation: registry.gauge(
                "nodemesh_identity_trust_bundle_generation",
                "Trust bundles in force since the start, the first one with them.",
            )?,
        })
    }

    /// Counts a refusal.
    pub(super) fn refused(&self, reason: Reason) {
        self.refused[reason as usize].inc();
    }

    /// Refusals so far for one reason.
    pub fn refusals(&self, reason: Reason) -> u64 {
        self.refused[reason as usize].get()
    }
}
