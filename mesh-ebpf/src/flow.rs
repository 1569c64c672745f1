//! `sock_ops`: carries what is known of a socket to the other end of its connection.
//!
//! At `TCP_CONNECT_CB` the source port is known and no packet has left: what connect remembered is put where the
//! accepting side finds it. Attached at the top of the cgroup tree, because it follows sockets of pods, of the
//! agent and of host processes; a socket without facts costs one look-up.

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
    BPF_SOCK_OPS_TCP_CONNECT_CB,
};
use aya_ebpf::programs::SockOpsContext;
use mesh_common::abi::flow::{FlowKey, OriginalDst, ProbeFlowKey, SocketFacts};
use mesh_common::abi::verdict::Verdict;

use crate::context::{self, Connection};
use crate::maps::{CALLERS, ORIGINAL_DSTS, PROBE_FLOWS};
use crate::{lookup, record};

/// Follows one event of a TCP socket.
#[inline(always)]
pub fn follow(ctx: &SockOpsContext) {
    match context::sock_ops_event(ctx) {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connects(ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(ctx),
        BPF_SOCK_OPS_STATE_CB => changes_state(ctx),
        _ => {}
    }
}

#[inline(always)]
fn connects(ctx: &SockOpsContext) {
    let Some(facts) = lookup::facts(context::sock_ops_socket(ctx)) else {
        return;
    };
    let connection = Connection::read(ctx);
    let stored = match facts.kind {
        SocketFacts::KIND_CAPTURED => ORIGINAL_DSTS
            .insert(&connection.opened_key(), &facts.dialled(), 0)
            .map_err(|_| Verdict::LostOriginalDst),
        SocketFacts::KIND_ANNOUNCES => {
            CALLERS.insert(&connection.opened_key(), &facts.dialled(), 0).map_err(|_| Verdict::LostCaller)
        }
        SocketFacts::KIND_PROBE => {
            PROBE_FLOWS.insert(&connection.probe_key(), &1, 0).map_err(|_| Verdict::LostProbe)
        }
        _ => return,
    };
    if let Err(verdict) = stored {
        record::count(verdict);
    }
    // What nobody takes is removed when the connect fails, or when a probe's handshake is over.
    let _: Result<(), i32> = ctx.set_cb_flags((context::callbacks(ctx) | BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
}

/// An application's socket was accepted: if the daemon called on somebody's behalf, remember whose.
#[inline(always)]
fn accepted(ctx: &SockOpsContext) {
    let connection = Connection::read(ctx);
    if !connection.remote.same_as(connection.local) || lookup::namespace(connection.netns_cookie).is_none() {
        return;
    }
    let key = connection.accepted_key();
    // SAFETY: copied at once; the entry is this connection's own.
    let Some(caller) = (unsafe { CALLERS.get(&key) }).copied() else {
        return;
    };
    let _: Result<(), i32> = CALLERS.remove(&key);
    match lookup::facts_or_new(context::sock_ops_socket(ctx)) {
        Some(facts) => {
            *facts = SocketFacts {
                peer: caller.ip,
                peer_port: caller.port,
                kind: SocketFacts::KIND_CALLED,
                ..SocketFacts::NONE
            };
        }
        None => record::count(Verdict::LostCaller),
    }
}

#[inline(always)]
fn changes_state(ctx: &SockOpsContext) {
    let next = context::next_state(ctx);
    if next != context::TCP_ESTABLISHED && next != context::TCP_CLOSE {
        return;
    }
    let Some(facts) = lookup::facts(context::sock_ops_socket(ctx)) else {
        return;
    };
    let failed = next == context::TCP_CLOSE;
    let connection = Connection::read(ctx);
    match facts.kind {
        SocketFacts::KIND_CAPTURED if failed => {
            let _: Result<(), i32> = ORIGINAL_DSTS.remove(&connection.opened_key());
        }
        SocketFacts::KIND_ANNOUNCES if failed => {
            let _: Result<(), i32> = CALLERS.remove(&connection.opened_key());
        }
        SocketFacts::KIND_PROBE => {
            let _: Result<(), i32> = PROBE_FLOWS.remove(&connection.probe_key());
        }
        SocketFacts::KIND_CAPTURED | SocketFacts::KIND_ANNOUNCES => {}
        _ => return,
    }
    let _: Result<(), i32> = ctx.set_cb_flags((context::callbacks(ctx) & !BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
}

trait Dialled {
    fn dialled(&self) -> OriginalDst;
}

impl Dialled for SocketFacts {
    #[inline(always)]
    fn dialled(&self) -> OriginalDst {
        OriginalDst { ip: self.peer, port: self.peer_port, reserved: [0; 2] }
    }
}

impl Connection {
    /// The key, seen from the side that opened the connection.
    #[inline(always)]
    fn opened_key(&self) -> FlowKey {
        FlowKey {
            netns_cookie: self.netns_cookie,
            source: self.local,
            source_port: self.local_port,
            listener_port: self.remote_port,
            reserved: [0; 4],
        }
    }

    /// The same key, seen from the side that accepted it.
    #[inline(always)]
    fn accepted_key(&self) -> FlowKey {
        FlowKey {
            netns_cookie: self.netns_cookie,
            source: self.remote,
            source_port: self.remote_port,
            listener_port: self.local_port,
            reserved: [0; 4],
        }
    }

    #[inline(always)]
    fn probe_key(&self) -> ProbeFlowKey {
        ProbeFlowKey {
            source: self.local,
            destination: self.remote,
            source_port: self.local_port,
            destination_port: self.remote_port,
        }
    }
}
