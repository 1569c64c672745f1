//! getpeername, getsockname and accept: the application sees the addresses that it would see without a mesh.

use aya_ebpf::programs::SockAddrContext;
use mesh_common::abi::flow::SocketFacts;

use crate::context::{self, Family};
use crate::lookup;

/// Shows the address that was dialled, or the real caller. Runs inside `accept` too.
#[inline(always)]
pub fn show_peer<F: Family>(ctx: &SockAddrContext) {
    if !context::is_tcp(ctx) {
        return;
    }
    let Some(facts) = lookup::facts(context::socket(ctx)) else {
        return;
    };
    if facts.kind == SocketFacts::KIND_CAPTURED || facts.kind == SocketFacts::KIND_CALLED {
        F::set_ip(ctx, facts.peer);
        context::set_port(ctx, facts.peer_port);
    }
}

/// Shows the pod's address where a captured socket has a loopback address. The port is the real one.
#[inline(always)]
pub fn show_local<F: Family>(ctx: &SockAddrContext) {
    if !context::is_tcp(ctx) || !F::ip(ctx).is_loopback() {
        return;
    }
    let Some(facts) = lookup::facts(context::socket(ctx)) else {
        return;
    };
    if facts.kind == SocketFacts::KIND_CAPTURED && !facts.local.is_unspecified() {
        F::set_ip(ctx, facts.local);
    }
}
