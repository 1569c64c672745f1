//! `sock_create`: sockets that no connect hook would see are refused to enrolled pods.

use aya_ebpf::programs::SockContext;
use mesh_common::abi::addr::{IpKey, Port};
use mesh_common::abi::capture::NamespaceRules;
use mesh_common::abi::verdict::Verdict;

use crate::context::NewSocket;
use crate::lookup;
use crate::record::Refusal;
use crate::verdict::Judgement;

const SOCK_RAW: u32 = 3;
const IPPROTO_ICMP: u32 = 1;
const IPPROTO_ICMPV6: u32 = 58;
const IPPROTO_DCCP: u32 = 33;
const IPPROTO_SCTP: u32 = 132;

/// Judges a socket that is being made.
#[inline(always)]
pub fn judge(ctx: &SockContext) -> Judgement {
    let socket = NewSocket::read(ctx);
    let Some(rules) = lookup::namespace(socket.netns_cookie) else {
        return Ok(Verdict::SocketMade);
    };
    if rules.state == NamespaceRules::STATE_PASSED {
        return Ok(Verdict::SocketMade);
    }
    match refusal(rules.flags, &socket) {
        None => Ok(Verdict::SocketMade),
        Some(verdict) => Err(Refusal {
            verdict,
            netns_cookie: socket.netns_cookie,
            source: IpKey::UNSPECIFIED,
            source_port: Port::NONE,
            destination: IpKey::UNSPECIFIED,
            destination_port: Port::NONE,
        }),
    }
}

#[inline(always)]
fn refusal(flags: u8, socket: &NewSocket) -> Option<Verdict> {
    let is_ping = socket.protocol == IPPROTO_ICMP || socket.protocol == IPPROTO_ICMPV6;
    if flags & NamespaceRules::REFUSE_RAW != 0 && socket.kind == SOCK_RAW && !is_ping {
        return Some(Verdict::RefusedRawSocket);
    }
    let is_uncaptured = socket.protocol == IPPROTO_SCTP || socket.protocol == IPPROTO_DCCP;
    if flags & NamespaceRules::REFUSE_UNCAPTURED != 0 && is_uncaptured {
        return Some(Verdict::RefusedTransport);
    }
    None
}
