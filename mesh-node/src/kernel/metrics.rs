//! Verdicts of the kernel programs, as they are counted per core.

use aya::maps::{MapData, PerCpuArray};
use mesh_common::abi::verdict::Verdict;

/// How often a verdict was reached since the maps were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerdictCount {
    /// The verdict.
    pub verdict: Verdict,
    /// The sum over all cores.
    pub count: u64,
}

/// Reads every counter.
pub(super) fn counts(counters: &PerCpuArray<MapData, u64>) -> Vec<VerdictCount> {
    Verdict::ALL
        .iter()
        .filter_map(|&verdict| {
            let values = counters.get(&u32::from(verdict.code()), 0).ok()?;
            Some(VerdictCount { verdict, count: values.iter().sum() })
        })
        .collect()
}
