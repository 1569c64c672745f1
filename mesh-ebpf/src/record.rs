//! Counters per core, and records on the ring buffer.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use mesh_common::abi::addr::{IpKey, Port};
use mesh_common::abi::event::RefusalEvent;
use mesh_common::abi::verdict::Verdict;

use crate::maps::{COUNTERS, EVENTS};

/// A refusal: why, and what it was about.
pub struct Refusal {
    /// Why.
    pub verdict: Verdict,
    /// Cookie of the network namespace, or 0.
    pub netns_cookie: u64,
    /// The side that connects, or unspecified.
    pub source: IpKey,
    /// Its port, or none.
    pub source_port: Port,
    /// What was asked for, or unspecified.
    pub destination: IpKey,
    /// Its port, or none.
    pub destination_port: Port,
}

/// Counts a verdict.
#[inline(always)]
pub fn count(verdict: Verdict) {
    if let Some(counter) = COUNTERS.get_ptr_mut(u32::from(verdict.code())) {
        // SAFETY: the counter is this core's own.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}

/// Writes a refusal to the ring buffer. The agent reads by the clock: a flood of refusals must not wake it.
#[inline(always)]
pub fn refusal(refusal: &Refusal) {
    let Some(mut slot) = EVENTS.reserve::<RefusalEvent>(0) else {
        count(Verdict::LostEvent);
        return;
    };
    slot.write(RefusalEvent {
        // SAFETY: the helper reads a clock.
        monotonic_ns: unsafe { bpf_ktime_get_ns() },
        netns_cookie: refusal.netns_cookie,
        source: refusal.source,
        destination: refusal.destination,
        source_port: refusal.source_port,
        destination_port: refusal.destination_port,
        verdict: refusal.verdict.code(),
        reserved: [0; 3],
    });
    slot.submit(u64::from(BPF_RB_NO_WAKEUP));
}
