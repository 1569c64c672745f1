//! What the reconciler counts.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntGauge, IntGaugeVec};

use super::documents::Problem;
use super::object::Kind;
use super::translate::Effect;
use crate::telemetry::registry::Registry;

/// The reconciler's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    objects: IntGaugeVec,
    problems: IntGaugeVec,
    generation: IntGauge,
    apply_duration: Histogram,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// If they are registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let apply_duration = Histogram::with_opts(
            HistogramOpts::new(
                "nodemesh_control_apply_duration_seconds",
                "Time from having read changed files to the published snapshot, counted per batch.",
            )
            .buckets(vec![0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0]),
        )?;
        registry.register(Box::new(apply_duration.clone()))?;
        Ok(Self {
            objects: registry.gauges(
                "nodemesh_control_objects",
                "kind",
                "Objects that are understood, by kind; those of the Gateway API are not applied.",
            )?,
            problems: registry.gauges(
                "nodemesh_control_problems",
                "effect",
                "Problems of the configuration, by what they mean; mesh-node status lists them.",
            )?,
            generation: registry.gauge(
                "nodemesh_control_snapshot_generation",
                "Generation of the snapshot that is published; counts up with every change.",
            )?,
            apply_duration,
        })
    }

    /// Takes what a batch led to.
    pub fn observe(
        &self,
        objects: &BTreeMap<Kind, usize>,
        problems: &[Problem],
        generation: u64,
        took: Duration,
    ) {
        for (kind, count) in objects {
            self.objects.with_label_values(&[kind.name()]).set(gauge(*count));
        }
        for effect in Effect::ALL {
            let count = problems.iter().filter(|problem| problem.complaint.effect == effect).count();
            self.problems.with_label_values(&[effect.code()]).set(gauge(count));
        }
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.apply_duration.observe(took.as_secs_f64());
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
