//! connect of host processes: marks those that dial a port that a pod's probe names.
//!
//! Attached at the top of the cgroup tree, so that it sees the processes outside the pods' subtree. A process
//! inside that subtree (a hostNetwork pod) is not marked, and a connection that the host merely forwards or
//! masquerades never passes here.

use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::abi::capture::InboundPortKey;
use mesh_common::abi::flow::SocketFacts;
use mesh_common::abi::verdict::Verdict;

use crate::context::{self, Family};
use crate::{globals, lookup, record};

/// Marks the socket if it is a probe's.
#[inline(always)]
pub fn mark<F: Family>(ctx: &SockAddrContext) {
    if !context::is_tcp(ctx) || context::netns_cookie(ctx) != globals::host_netns() {
        return;
    }
    if lookup::inbound_port(F::ip(ctx), context::port(ctx)) & InboundPortKey::PROBE == 0 {
        return;
    }
    // SAFETY: the helper reads the current task; a level that it has not gives 0.
    let ancestor = unsafe { bpf_get_current_ancestor_cgroup_id(globals::pods_level()) };
    if ancestor == globals::pods_cgroup() {
        return;
    }
    match lookup::facts_or_new(context::socket(ctx)) {
        Some(facts) => *facts = SocketFacts { kind: SocketFacts::KIND_PROBE, ..SocketFacts::NONE },
        None => record::count(Verdict::LostProbe),
    }
}
