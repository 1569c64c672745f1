//! connect: is this socket captured? Remembers what was dialled and sends the connection to the daemon.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::bpf_get_current_cgroup_id;
use aya_ebpf::helpers::generated::bpf_setsockopt;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::abi::addr::{IpKey, Port};
use mesh_common::abi::capture::{NamespaceRules, OutboundListenerKey};
use mesh_common::abi::flow::SocketFacts;
use mesh_common::abi::verdict::Verdict;

use crate::context::{self, Family};
use crate::record::Refusal;
use crate::verdict::Judgement;
use crate::{globals, lookup};

const SOL_SOCKET: i32 = 1;
const SO_BINDTODEVICE: i32 = 25;

/// What was dialled, and from where.
struct Dial {
    netns_cookie: u64,
    ip: IpKey,
    port: Port,
}

/// Judges a connect, and rewrites its destination if it is captured.
#[inline(always)]
pub fn connect<F: Family>(ctx: &SockAddrContext) -> Judgement {
    if !context::is_tcp(ctx) {
        return Ok(Verdict::PassedNotTcp);
    }
    let dial = Dial { netns_cookie: context::netns_cookie(ctx), ip: F::ip(ctx), port: context::port(ctx) };
    match destination::<F>(ctx, &dial) {
        Ok(Verdict::Captured) => Ok(Verdict::Captured),
        Ok(passed) => {
            forget(ctx);
            Ok(passed)
        }
        Err(verdict) => Err(dial.refused(verdict)),
    }
}

#[inline(always)]
fn destination<F: Family>(ctx: &SockAddrContext, dial: &Dial) -> Result<Verdict, Verdict> {
    // SAFETY: the helper reads the current task.
    if unsafe { bpf_get_current_cgroup_id() } == globals::agent_cgroup() {
        return Ok(Verdict::PassedAgent);
    }
    if dial.ip.is_loopback() || dial.ip.is_unspecified() {
        return Ok(Verdict::PassedLoopback);
    }
    let Some(rules) = lookup::namespace(dial.netns_cookie) else {
        return unknown(dial);
    };
    if let Some(verdict) = passes(rules, dial) {
        return Ok(verdict);
    }
    if rules.state != NamespaceRules::STATE_CAPTURED {
        return Err(Verdict::RefusedHeld);
    }
    redirect::<F>(ctx, rules, dial)
}

#[inline(always)]
fn unknown(dial: &Dial) -> Result<Verdict, Verdict> {
    if dial.netns_cookie == globals::host_netns() {
        Ok(Verdict::PassedHostNamespace)
    } else if globals::unknown_pods_pass() {
        Ok(Verdict::PassedUnknownPod)
    } else {
        Err(Verdict::RefusedUnknownPod)
    }
}

#[inline(always)]
fn passes(rules: &NamespaceRules, dial: &Dial) -> Option<Verdict> {
    if rules.state == NamespaceRules::STATE_PASSED {
        return Some(Verdict::PassedNotEnrolled);
    }
    let [first, second, third, fourth] = &rules.addresses;
    if dial.ip.same_as(*first)
        || dial.ip.same_as(*second)
        || dial.ip.same_as(*third)
        || dial.ip.same_as(*fourth)
    {
        return Some(Verdict::PassedOwnAddress);
    }
    if rules.flags & NamespaceRules::HAS_OUTBOUND_PORTS != 0
        && lookup::is_port_excluded(dial.netns_cookie, dial.port)
    {
        return Some(Verdict::PassedExcludedPort);
    }
    if rules.flags & NamespaceRules::HAS_OUTBOUND_RANGES != 0
        && lookup::is_range_excluded(dial.netns_cookie, dial.ip)
    {
        return Some(Verdict::PassedExcludedRange);
    }
    None
}

#[inline(always)]
fn redirect<F: Family>(
    ctx: &SockAddrContext,
    rules: &NamespaceRules,
    dial: &Dial,
) -> Result<Verdict, Verdict> {
    let (family, loopback, shown) = if dial.ip.is_v4() {
        (OutboundListenerKey::FAMILY_V4, IpKey::LOOPBACK_V4, rules.addresses[0])
    } else {
        (OutboundListenerKey::FAMILY_V6, IpKey::LOOPBACK_V6, rules.addresses[1])
    };
    let listener =
        lookup::outbound_listener_port(dial.netns_cookie, family).ok_or(Verdict::RefusedNoListener)?;
    remember(ctx, dial, shown)?;
    free_from_device(ctx)?;
    F::set_ip(ctx, loopback);
    context::set_port(ctx, listener);
    Ok(Verdict::Captured)
}

/// Writes down what was dialled. A socket that is connected or connecting keeps what it has: a second connect
/// on it changes nothing.
#[inline(always)]
fn remember(ctx: &SockAddrContext, dial: &Dial, shown: IpKey) -> Result<(), Verdict> {
    let socket = context::socket(ctx);
    if !context::is_unconnected(socket) {
        return Ok(());
    }
    let facts = lookup::facts_or_new(socket).ok_or(Verdict::RefusedNoMemory)?;
    *facts = SocketFacts {
        peer: dial.ip,
        local: shown,
        peer_port: dial.port,
        kind: SocketFacts::KIND_CAPTURED,
        reserved: 0,
    };
    Ok(())
}

/// A socket that failed to connect somewhere and now dials what is not captured shows real names again.
#[inline(always)]
fn forget(ctx: &SockAddrContext) {
    let socket = context::socket(ctx);
    if context::is_unconnected(socket)
        && let Some(facts) = lookup::facts(socket)
        && facts.kind == SocketFacts::KIND_CAPTURED
    {
        facts.kind = SocketFacts::KIND_NONE;
    }
}

/// A socket bound to a device cannot reach a listener on loopback.
#[inline(always)]
fn free_from_device(ctx: &SockAddrContext) -> Result<(), Verdict> {
    if !context::is_bound_to_device(context::socket(ctx)) {
        return Ok(());
    }
    let no_device = [0_u8; 4];
    // SAFETY: the context is the kernel's own, the value lives on this stack and has the length given.
    let result = unsafe {
        bpf_setsockopt(ctx.as_ptr(), SOL_SOCKET, SO_BINDTODEVICE, no_device.as_ptr().cast_mut().cast(), 4)
    };
    if result == 0 { Ok(()) } else { Err(Verdict::RefusedBoundToDevice) }
}

impl Dial {
    #[inline(always)]
    fn refused(&self, verdict: Verdict) -> Refusal {
        Refusal {
            verdict,
            netns_cookie: self.netns_cookie,
            source: IpKey::UNSPECIFIED,
            source_port: Port::NONE,
            destination: self.ip,
            destination_port: self.port,
        }
    }
}
