//! Typed access to maps: the only place that dereferences what a map gives.

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::helpers::{bpf_map_lookup_elem, bpf_sk_release};
use aya_ebpf::maps::lpm_trie::Key;
use mesh_common::abi::addr::{IpKey, Port};
use mesh_common::abi::capture::{
    InboundPortKey, NamespaceRules, OutboundListenerKey, OutboundPortKey, OutboundRangeKey,
};
use mesh_common::abi::flow::SocketFacts;

use crate::context;
use crate::maps::{
    INBOUND_PORTS, NAMESPACES, OUTBOUND_LISTENERS, OUTBOUND_PORTS, OUTBOUND_RANGES, SOCKET_FACTS,
};

/// The rules of a network namespace.
#[inline(always)]
pub fn namespace(netns_cookie: u64) -> Option<&'static NamespaceRules> {
    // SAFETY: the entry may be replaced while it is read, never freed (RCU); a torn read mixes two states that
    // the agent wrote, and both were right at some time within this call.
    unsafe { NAMESPACES.get(&netns_cookie) }
}

/// Whether a port is left outside for a namespace.
#[inline(always)]
pub fn is_port_excluded(netns_cookie: u64, port: Port) -> bool {
    let key = OutboundPortKey { netns_cookie, port, reserved: [0; 6] };
    // SAFETY: only whether the entry is there is looked at.
    unsafe { OUTBOUND_PORTS.get(&key).is_some() }
}

/// Whether an address is in a range that is left outside for a namespace.
#[inline(always)]
pub fn is_range_excluded(netns_cookie: u64, ip: IpKey) -> bool {
    let bits = OutboundRangeKey::COOKIE_BITS + 128;
    OUTBOUND_RANGES.get(Key::new(bits, OutboundRangeKey::new(netns_cookie, ip))).is_some()
}

/// What holds for a port of a pod.
#[inline(always)]
pub fn inbound_port(ip: IpKey, port: Port) -> u32 {
    // SAFETY: one aligned word is read.
    unsafe { INBOUND_PORTS.get(&InboundPortKey::new(ip, port)).copied().unwrap_or(0) }
}

/// The port of the daemon's living listener for a namespace and family.
///
/// A socket leaves the map when it closes, so an answer means that the daemon listens there at this moment.
#[inline(always)]
pub fn outbound_listener_port(netns_cookie: u64, family: u32) -> Option<Port> {
    let key = OutboundListenerKey { netns_cookie, family, reserved: 0 };
    let map: *mut c_void = (&raw const OUTBOUND_LISTENERS).cast_mut().cast();
    // SAFETY: map and key live; the verifier checks that the socket is released on every path.
    let listener: *mut bpf_sock = unsafe { bpf_map_lookup_elem(map, (&raw const key).cast()) }.cast();
    if listener.is_null() {
        return None;
    }
    let port = context::own_port(listener);
    // SAFETY: released once, not used afterwards.
    unsafe { bpf_sk_release(listener.cast()) };
    Some(port)
}

/// The facts of a socket, if it has any.
#[inline(always)]
pub fn facts(socket: *mut bpf_sock) -> Option<&'static mut SocketFacts> {
    storage(socket, 0)
}

/// The facts of a socket, made if need be; `None` without memory.
#[inline(always)]
pub fn facts_or_new(socket: *mut bpf_sock) -> Option<&'static mut SocketFacts> {
    storage(socket, u64::from(BPF_SK_STORAGE_GET_F_CREATE))
}

#[inline(always)]
fn storage(socket: *mut bpf_sock, flags: u64) -> Option<&'static mut SocketFacts> {
    if socket.is_null() {
        return None;
    }
    let map: *mut c_void = (&raw const SOCKET_FACTS).cast_mut().cast();
    // SAFETY: the map lives, the socket is the context's own and not null.
    let facts: *mut SocketFacts =
        unsafe { bpf_sk_storage_get(map, socket.cast(), ptr::null_mut(), flags) }.cast();
    // SAFETY: the storage lives as long as the socket, which outlives this call of the program.
    unsafe { facts.as_mut() }
}
