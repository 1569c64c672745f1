//! Reads kernel contexts into typed values. Every conversion of byte order is here.
//!
//! Fields are read and written one by one with volatile accesses of their own size: the verifier rejects a wider
//! access that the compiler might otherwise make of two.

use core::ptr;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{bpf_sk_lookup, bpf_sock, bpf_sock_ops};
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockContext, SockOpsContext};
use mesh_common::abi::addr::{IpKey, Port};

/// Number of TCP in the protocol field.
pub const IPPROTO_TCP: u32 = 6;
/// Number of Multipath TCP in the protocol field of a socket.
pub const IPPROTO_MPTCP: u32 = 262;
/// IPv4.
pub const AF_INET: u32 = 2;
/// A TCP socket that is not connected (`enum tcp_state`).
pub const TCP_CLOSE: u32 = 7;
/// A TCP socket whose handshake is done.
pub const TCP_ESTABLISHED: u32 = 1;

macro_rules! read {
    ($pointer:expr, $($field:tt)+) => {
        // SAFETY: the kernel's context lives as long as the call; the field is within it.
        unsafe { ptr::read_volatile(&raw const (*$pointer).$($field)+) }
    };
}

macro_rules! write {
    ($value:expr => $pointer:expr, $($field:tt)+) => {
        // SAFETY: the kernel's context lives as long as the call; the field is within it and writable at this hook.
        unsafe { ptr::write_volatile(&raw mut (*$pointer).$($field)+, $value) }
    };
}

/// The address of a socket-address hook, by the family of the hook.
pub trait Family {
    /// The address in the context.
    fn ip(ctx: &SockAddrContext) -> IpKey;
    /// Replaces the address in the context. An address of another family is written in the form of this one.
    fn set_ip(ctx: &SockAddrContext, ip: IpKey);
}

/// Hooks whose name ends in 4.
pub struct ConnectV4;
/// Hooks whose name ends in 6; IPv4 is in the mapped form here.
pub struct ConnectV6;

impl Family for ConnectV4 {
    #[inline(always)]
    fn ip(ctx: &SockAddrContext) -> IpKey {
        IpKey::from_v4(read!(ctx.sock_addr, user_ip4).to_ne_bytes())
    }

    #[inline(always)]
    fn set_ip(ctx: &SockAddrContext, ip: IpKey) {
        write!(u32::from_ne_bytes(ip.v4_octets()) => ctx.sock_addr, user_ip4);
    }
}

impl Family for ConnectV6 {
    #[inline(always)]
    fn ip(ctx: &SockAddrContext) -> IpKey {
        join([
            read!(ctx.sock_addr, user_ip6[0]),
            read!(ctx.sock_addr, user_ip6[1]),
            read!(ctx.sock_addr, user_ip6[2]),
            read!(ctx.sock_addr, user_ip6[3]),
        ])
    }

    #[inline(always)]
    fn set_ip(ctx: &SockAddrContext, ip: IpKey) {
        let [a, b, c, d] = split(ip);
        write!(a => ctx.sock_addr, user_ip6[0]);
        write!(b => ctx.sock_addr, user_ip6[1]);
        write!(c => ctx.sock_addr, user_ip6[2]);
        write!(d => ctx.sock_addr, user_ip6[3]);
    }
}

/// The port in a socket-address hook.
#[inline(always)]
pub fn port(ctx: &SockAddrContext) -> Port {
    network_port(read!(ctx.sock_addr, user_port))
}

/// Replaces the port in a socket-address hook.
#[inline(always)]
pub fn set_port(ctx: &SockAddrContext, port: Port) {
    write!(u32::from(u16::from_ne_bytes(port.octets())) => ctx.sock_addr, user_port);
}

/// Whether the socket of a socket-address hook speaks TCP (or Multipath TCP, whose first subflow is TCP).
#[inline(always)]
pub fn is_tcp(ctx: &SockAddrContext) -> bool {
    let protocol = read!(ctx.sock_addr, protocol);
    protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP
}

/// The socket of a socket-address hook.
#[inline(always)]
pub fn socket(ctx: &SockAddrContext) -> *mut bpf_sock {
    // SAFETY: as in `read!`; both members of the union are the pointer's bytes.
    unsafe { ptr::read_volatile(&raw const (*ctx.sock_addr).__bindgen_anon_1.sk) }
}

/// Whether a socket has not been connected yet.
#[inline(always)]
pub fn is_unconnected(socket: *mut bpf_sock) -> bool {
    !socket.is_null() && read!(socket, state) == TCP_CLOSE
}

/// Whether a socket is bound to a device.
#[inline(always)]
pub fn is_bound_to_device(socket: *mut bpf_sock) -> bool {
    !socket.is_null() && read!(socket, bound_dev_if) != 0
}

/// The cookie of the network namespace of a socket-address hook's socket.
#[inline(always)]
pub fn netns_cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is the kernel's own.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// A socket that is being made.
pub struct NewSocket {
    /// Cookie of its network namespace.
    pub netns_cookie: u64,
    /// `SOCK_STREAM`, `SOCK_RAW`, ...
    pub kind: u32,
    /// The protocol.
    pub protocol: u32,
}

impl NewSocket {
    /// Reads the context of `sock_create`.
    #[inline(always)]
    pub fn read(ctx: &SockContext) -> Self {
        Self {
            // SAFETY: the context is the kernel's own.
            netns_cookie: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
            kind: read!(ctx.sock, type_),
            protocol: read!(ctx.sock, protocol),
        }
    }
}

/// A packet that looks for a listening socket.
pub struct Arrival {
    /// Where it comes from.
    pub remote: IpKey,
    /// The port it comes from.
    pub remote_port: Port,
    /// Where it goes to.
    pub local: IpKey,
    /// The port it goes to.
    pub local_port: Port,
}

/// Whether a packet that looks for a socket is TCP.
#[inline(always)]
pub fn arrives_on_tcp(ctx: &SkLookupContext) -> bool {
    read!(ctx.lookup, protocol) == IPPROTO_TCP
}

impl Arrival {
    /// Reads the context of `sk_lookup`.
    #[inline(always)]
    pub fn read(ctx: &SkLookupContext) -> Self {
        let lookup: *mut bpf_sk_lookup = ctx.lookup;
        let (remote, local) = if read!(lookup, family) == AF_INET {
            (
                IpKey::from_v4(read!(lookup, remote_ip4).to_ne_bytes()),
                IpKey::from_v4(read!(lookup, local_ip4).to_ne_bytes()),
            )
        } else {
            (
                join([
                    read!(lookup, remote_ip6[0]),
                    read!(lookup, remote_ip6[1]),
                    read!(lookup, remote_ip6[2]),
                    read!(lookup, remote_ip6[3]),
                ]),
                join([
                    read!(lookup, local_ip6[0]),
                    read!(lookup, local_ip6[1]),
                    read!(lookup, local_ip6[2]),
                    read!(lookup, local_ip6[3]),
                ]),
            )
        };
        let remote_port: u16 = read!(lookup, remote_port);
        Self {
            remote,
            local,
            remote_port: Port::from_octets(remote_port.to_ne_bytes()),
            // In host order, by the kernel's contract.
            local_port: Port::new(read!(lookup, local_port) as u16),
        }
    }
}

/// A TCP connection as `sock_ops` has it.
pub struct Connection {
    /// Cookie of its network namespace.
    pub netns_cookie: u64,
    /// This side.
    pub local: IpKey,
    /// This side's port.
    pub local_port: Port,
    /// The other side.
    pub remote: IpKey,
    /// The other side's port.
    pub remote_port: Port,
}

impl Connection {
    /// Reads the context of `sock_ops`.
    #[inline(always)]
    pub fn read(ctx: &SockOpsContext) -> Self {
        let ops: *mut bpf_sock_ops = ctx.ops;
        let (local, remote) = if read!(ops, family) == AF_INET {
            (
                IpKey::from_v4(read!(ops, local_ip4).to_ne_bytes()),
                IpKey::from_v4(read!(ops, remote_ip4).to_ne_bytes()),
            )
        } else {
            (
                join([
                    read!(ops, local_ip6[0]),
                    read!(ops, local_ip6[1]),
                    read!(ops, local_ip6[2]),
                    read!(ops, local_ip6[3]),
                ]),
                join([
                    read!(ops, remote_ip6[0]),
                    read!(ops, remote_ip6[1]),
                    read!(ops, remote_ip6[2]),
                    read!(ops, remote_ip6[3]),
                ]),
            )
        };
        Self {
            // SAFETY: the context is the kernel's own.
            netns_cookie: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
            local,
            local_port: Port::new(read!(ops, local_port) as u16),
            remote,
            // Four bytes of which the first two in network order are the port.
            remote_port: Port::new(u32::from_be(read!(ops, remote_port)) as u16),
        }
    }
}

/// The socket of `sock_ops`; null before it is a full one.
#[inline(always)]
pub fn sock_ops_socket(ctx: &SockOpsContext) -> *mut bpf_sock {
    // SAFETY: as in `read!`; both members of the union are the pointer's bytes.
    unsafe { ptr::read_volatile(&raw const (*ctx.ops).__bindgen_anon_2.sk) }
}

/// The state that a socket goes to, in the state callback of `sock_ops`.
#[inline(always)]
pub fn next_state(ctx: &SockOpsContext) -> u32 {
    // SAFETY: as in `read!`; arguments are four words.
    unsafe { ptr::read_volatile(&raw const (*ctx.ops).__bindgen_anon_1.args[1]) }
}

/// Two ports are packed in the context's words as two bytes in network order at the lowest address.
#[inline(always)]
fn network_port(word: u32) -> Port {
    Port::from_octets((word as u16).to_ne_bytes())
}

#[inline(always)]
fn join(words: [u32; 4]) -> IpKey {
    let [a, b, c, d] = words.map(u32::to_ne_bytes);
    IpKey::from_octets([
        a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3],
    ])
}

#[inline(always)]
fn split(ip: IpKey) -> [u32; 4] {
    let o = ip.octets();
    [
        u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
        u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
        u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
        u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
    ]
}
