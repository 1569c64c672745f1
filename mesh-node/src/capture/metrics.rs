//! What the capture stage counts.

use prometheus::IntGauge;

use crate::telemetry::registry::Registry;

/// Levels of the capture stage. A clone is the same series.
#[derive(Clone, Debug)]
pub struct CaptureMetrics {
    /// TCP connections of captured pods that go on outside the mesh.
    pub connections_outside: IntGauge,
    /// Pods that are held because of what they do themselves.
    pub pods_in_doubt: IntGauge,
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
        registry.register(Box::new(connections_outside.clone()))?;
        registry.register(Box::new(pods_in_doubt.clone()))?;
        Ok(Self { connections_outside, pods_in_doubt })
    }
}
