//! What the controller counts.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec};

use crate::control::object::Kind;
use crate::control::translate::Effect;
use crate::telemetry::registry::Registry;

/// The controller's metrics.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    objects: IntGaugeVec,
    problems: IntGaugeVec,
    watch_failures: IntCounterVec,
    last_heard: IntGaugeVec,
    doubtful: IntGauge,
    generation: IntGauge,
    certificates: IntCounterVec,
    roots_due: IntGauge,
    streams: IntCounterVec,
}

/// What became of an agent that began a stream.
#[derive(Clone, Copy, Debug)]
pub(super) enum StreamOutcome {
    /// Served, on a connection that shows its certificate.
    Mutual,
    /// Served without: of an earlier version.
    WithoutCertificate,
    Refused,
}

impl StreamOutcome {
    const fn code(self) -> &'static str {
        match self {
            Self::Mutual => "mutual_tls",
            Self::WithoutCertificate => "without_certificate",
            Self::Refused => "refused",
        }
    }
}

impl Metrics {
    /// Registers them.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            objects: registry.gauges(
                "nodemesh_controller_objects",
                "kind",
                "Objects that are understood, by kind; those of the Gateway API are not applied.",
            )?,
            problems: registry.gauges(
                "nodemesh_controller_problems",
                "effect",
                "Faults of objects, by what they mean; the status of each object names them.",
            )?,
            watch_failures: registry.counters(
                "nodemesh_controller_watch_failures_total",
                "kind",
                "Failures of the watches on the API server, by kind, counted per failure.",
            )?,
            last_heard: registry.gauges(
                "nodemesh_controller_watch_last_heard_timestamp_seconds",
                "kind",
                "When the API server last told of an object of the kind, seconds since the epoch; 0 if it never did.",
            )?,
            doubtful: registry.gauge(
                "nodemesh_controller_doubtful_objects",
                "Objects that a list did not have and that stay until the API server, asked for each, has them no more.",
            )?,
            generation: registry.gauge(
                "nodemesh_controller_generation",
                "Generation of what agents are told; counts up with every change.",
            )?,
            certificates: registry.counters(
                "nodemesh_controller_certificates_total",
                "outcome",
                "Answers to agents that asked for a certificate, by what came of it; issued is one.",
            )?,
            roots_due: registry.gauge(
                "nodemesh_controller_ca_root_due",
                "Namespaces whose ConfigMap nodemesh-ca-root is still to be written, as the replica that leads sees them; 0 in others.",
            )?,
            streams: registry.counters(
                "nodemesh_controller_streams_total",
                "outcome",
                "Streams that agents began: mutual_tls and without_certificate are served, refused are not.",
            )?,
        })
    }

    /// Takes that the watch of a kind works.
    pub(super) fn heard(&self, kind: Kind) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        self.last_heard.with_label_values(&[kind.name()]).set(now.cast_signed());
    }

    /// Takes that a kind is gone: that nothing is heard of it is no fault.
    pub(super) fn withdrawn(&self, kind: Kind) {
        // Fails if nothing was ever heard of it.
        let _ = self.last_heard.remove_label_values(&[kind.name()]);
    }

    pub(super) fn watch_failed(&self, kind: Kind) {
        self.watch_failures.with_label_values(&[kind.name()]).inc();
    }

    pub(super) fn certificate(&self, outcome: &str) {
        self.certificates.with_label_values(&[outcome]).inc();
    }

    /// Takes in how many namespaces the roots are still to be written.
    pub(super) fn roots_due(&self, count: usize) {
        self.roots_due.set(gauge(count));
    }

    pub(super) fn stream(&self, outcome: StreamOutcome) {
        self.streams.with_label_values(&[outcome.code()]).inc();
    }

    /// Takes what is in force after a batch.
    pub(super) fn observe(
        &self,
        objects: &BTreeMap<Kind, usize>,
        problems: &BTreeMap<Effect, usize>,
        doubtful: usize,
        generation: u64,
    ) {
        for (kind, count) in objects {
            self.objects.with_label_values(&[kind.name()]).set(gauge(*count));
        }
        for effect in Effect::ALL {
            let count = problems.get(&effect).copied().unwrap_or_default();
            self.problems.with_label_values(&[effect.code()]).set(gauge(count));
        }
        self.doubtful.set(gauge(doubtful));
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
