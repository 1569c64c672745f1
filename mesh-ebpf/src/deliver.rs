//! `sk_lookup`: hands what arrives at an enrolled namespace to the daemon, or refuses it.
//!
//! A miss is a refusal, whatever address it names: with a daemon that is dead, a second address of the pod or a
//! link-local one, a miss that passed would be an open door.

use aya_ebpf::programs::SkLookupContext;
use mesh_common::abi::capture::InboundPortKey;
use mesh_common::abi::flow::ProbeFlowKey;
use mesh_common::abi::verdict::Verdict;

use crate::context::{self, Arrival};
use crate::lookup;
use crate::maps::{INBOUND_LISTENERS, PROBE_FLOWS};
use crate::record::Refusal;
use crate::verdict::Judgement;

/// `-ENOENT`, which the map gives when no socket is there.
const NOT_THERE: i32 = -2;

/// Judges a packet that looks for a listening socket.
#[inline(always)]
pub fn deliver(ctx: &SkLookupContext) -> Judgement {
    if !context::arrives_on_tcp(ctx) {
        return Ok(Verdict::DeliveredNotTcp);
    }
    let arrival = Arrival::read(ctx);
    if let Some(verdict) = exempt(&arrival) {
        return Ok(verdict);
    }
    match INBOUND_LISTENERS.redirect_sk_lookup(ctx, arrival.local, 0) {
        Ok(()) => Ok(Verdict::Delivered),
        Err(NOT_THERE) => Err(arrival.refused(Verdict::RefusedNoInboundListener)),
        Err(_) => Err(arrival.refused(Verdict::RefusedAssign)),
    }
}

#[inline(always)]
fn exempt(arrival: &Arrival) -> Option<Verdict> {
    // The kernel drops packets from outside that claim a loopback destination.
    if arrival.local.is_loopback() {
        return Some(Verdict::DeliveredLoopback);
    }
    // Only the pod itself and the daemon in its namespace have the pod's address; nobody else would get the
    // answer to a SYN with it.
    if arrival.remote.same_as(arrival.local) {
        return Some(Verdict::DeliveredOwn);
    }
    let flags = lookup::inbound_port(arrival.local, arrival.local_port);
    if flags & InboundPortKey::EXCLUDED != 0 {
        return Some(Verdict::DeliveredExcluded);
    }
    if flags & InboundPortKey::PROBE != 0 && is_probe(arrival) {
        return Some(Verdict::DeliveredProbe);
    }
    None
}

#[inline(always)]
fn is_probe(arrival: &Arrival) -> bool {
    let key = ProbeFlowKey {
        source: arrival.remote,
        destination: arrival.local,
        source_port: arrival.remote_port,
        destination_port: arrival.local_port,
    };
    // SAFETY: only whether the entry is there is looked at.
    unsafe { PROBE_FLOWS.get(&key).is_some() }
}

impl Arrival {
    #[inline(always)]
    fn refused(&self, verdict: Verdict) -> Refusal {
        Refusal {
            verdict,
            netns_cookie: 0,
            source: self.remote,
            source_port: self.remote_port,
            destination: self.local,
            destination_port: self.local_port,
        }
    }
}
