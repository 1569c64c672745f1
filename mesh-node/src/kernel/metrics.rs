//! Verdicts of the kernel programs, as they are counted per core.

use std::sync::Arc;

use aya::maps::{MapData, PerCpuArray};
use mesh_common::abi::verdict::Verdict;

use crate::telemetry::readout::{Readout, Sample};
use crate::telemetry::registry::Registry;

/// How often a verdict was reached since the maps were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerdictCount {
    /// The verdict.
    pub verdict: Verdict,
    /// The sum over all cores.
    pub count: u64,
}

/// Reads what the programs count, from any thread. A clone reads the same.
#[derive(Clone)]
pub struct VerdictReader(Arc<PerCpuArray<MapData, u64>>);

impl VerdictReader {
    pub(super) fn new(counters: PerCpuArray<MapData, u64>) -> Self {
        Self(Arc::new(counters))
    }

    /// Reads every counter.
    pub fn counts(&self) -> Vec<VerdictCount> {
        Verdict::ALL
            .iter()
            .filter_map(|&verdict| {
                let values = self.0.get(&u32::from(verdict.code()), 0).ok()?;
                Some(VerdictCount { verdict, count: values.iter().sum() })
            })
            .collect()
    }
}

/// Registers what the programs count; `read` is asked at each scrape.
///
/// # Errors
/// If `registry` has series of the same name already.
pub fn register_metrics(
    registry: &Registry,
    read: impl Fn() -> Vec<VerdictCount> + Send + Sync + 'static,
) -> Result<(), prometheus::Error> {
    let sample =
        |counted: VerdictCount| Sample { label: Some(counted.verdict.reason()), value: counted.count };
    let verdicts = Readout::counter(
        "nodemesh_kernel_verdicts_total",
        "Verdicts of the kernel programs on sockets, counted when they are reached; they go on over a restart.",
        "reason",
        move || read().into_iter().map(sample).collect(),
    )?;
    registry.register(Box::new(verdicts))
}
