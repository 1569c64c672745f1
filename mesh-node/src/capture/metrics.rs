//! What the capture stage counts.

use prometheus::{IntGauge, IntGaugeVec};

use crate::telemetry::registry::Registry;

/// Levels of the capture stage. A clone is the same series.
#[derive(Clone, Debug)]
pub struct CaptureMetrics {
    /// TCP connections of captured pods that go on outside the mesh.
    pub connections_outside: IntGauge,
    /// Pods that are held because of what they do themselves.
    pub pods_in_doubt: IntGauge,
    /// Pods that nobody has told of.
    pub pods_untold: IntGauge,
    not_captured: IntGaugeVec,
}

/// Whose cause it is that a pod is not captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CausedBy {
    /// This node, or what the agent depends on: it is not ready.
    Agent,
    /// The pod, or what is said of it.
    Pod,
}

impl CaptureMetrics {
    /// Makes the series and registers them.
    ///
    /// # Errors
    /// If `registry` has series of the same names already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let connections_outside = IntGauge::new(
            "nodemesh_capture_connections_outside",
            "TCP connections that captured pods had before, and that go on outside the mesh until they end.",
        )?;
        let pods_in_doubt = IntGauge::new(
            "nodemesh_capture_pods_in_doubt",
            "Pods of which it is in doubt in which network namespace they are; connections are refused in each.",
        )?;
        let pods_untold = IntGauge::new(
            "nodemesh_capture_pods_untold",
            "Pods that the agent sees run for two seconds or more and was told nothing of, so that their connections are \
             refused: no controller answers it, or none has said who they are.",
        )?;
        let not_captured = registry.gauges(
            "nodemesh_capture_pods_not_captured",
            "cause",
            "Pods that are not as they should be and refused their connections, by whose cause it is: the `agent`'s, which \
             is not ready then, or the `pod`'s own.",
        )?;
        registry.register(Box::new(connections_outside.clone()))?;
        registry.register(Box::new(pods_in_doubt.clone()))?;
        registry.register(Box::new(pods_untold.clone()))?;
        Ok(Self { connections_outside, pods_in_doubt, pods_untold, not_captured })
    }

    /// How many pods are not captured.
    pub fn not_captured(&self, cause: CausedBy) -> IntGauge {
        let cause = match cause {
            CausedBy::Agent => "agent",
            CausedBy::Pod => "pod",
        };
        self.not_captured.with_label_values(&[cause])
    }
}
