//! Reads kernel contexts into typed values. Every conversion of byte order is here.
//!
//! Fields are read and written by single instructions with a constant offset: the verifier accepts nothing else, and
//! the compiler would merge accesses or compute their addresses first.

use core::arch::asm;
use core::mem::offset_of;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{bpf_sk_lookup, bpf_sock, bpf_sock_addr, bpf_sock_ops};
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

/// Defines a load of one size from a pointer and a constant offset, in one instruction.
macro_rules! loads {
    ($(#[$attribute:meta])* $name:ident, $instruction:literal) => {
        $(#[$attribute])*
        ///
        /// # Safety
        /// `pointer` is a kernel's context or socket that lives, and has a field of this size at `OFFSET`. The
        /// verifier checks both.
        #[inline(always)]
        pub unsafe fn $name<const OFFSET: usize, T>(pointer: *const T) -> u64 {
            let value: u64;
            // SAFETY: as the caller promises; nothing but the one register is changed.
            unsafe {
                asm!($instruction, value = lateout(reg) value, pointer = in(reg) pointer, offset = const OFFSET,
                    options(nostack, preserves_flags, readonly));
            }
            value
        }
    };
}

loads!(
    /// Loads two bytes.
    load_half, "{value} = *(u16 *)({pointer} + {offset})"
);
loads!(
    /// Loads four bytes.
    load_word, "{value} = *(u32 *)({pointer} + {offset})"
);
loads!(
    /// Loads eight bytes.
    load_double, "{value} = *(u64 *)({pointer} + {offset})"
);

macro_rules! read {
    ($kind:ty, $pointer:expr, $($field:tt)+) => {
        // SAFETY: the kernel's context lives as long as the call; the field is within it and has four bytes.
        (unsafe { load_word::<{ offset_of!($kind, $($field)+) }, $kind>($pointer) }) as u32
    };
}

macro_rules! read4 {
    ($kind:ty, $pointer:expr, $field:ident) => {{
        const FIRST: usize = offset_of!($kind, $field);
        // SAFETY: as in `read!`; the field is four words.
        unsafe {
            join([
                load_word::<FIRST, $kind>($pointer) as u32,
                load_word::<{ FIRST + 4 }, $kind>($pointer) as u32,
                load_word::<{ FIRST + 8 }, $kind>($pointer) as u32,
                load_word::<{ FIRST + 12 }, $kind>($pointer) as u32,
            ])
        }
    }};
}

/// Stores four bytes into a context.
#[inline(always)]
fn store<const OFFSET: usize>(ctx: &SockAddrContext, value: u32) {
    // SAFETY: the kernel's context lives as long as the call; the verifier checks that the field at the offset is
    // within it and writable at this hook.
    unsafe {
        asm!("*(u32 *)({pointer} + {offset}) = {value}", value = in(reg) u64::from(value),
            pointer = in(reg) ctx.sock_addr, offset = const OFFSET, options(nostack, preserves_flags));
    }
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
        IpKey::from_v4(read!(bpf_sock_addr, ctx.sock_addr, user_ip4).to_ne_bytes())
    }

    #[inline(always)]
    fn set_ip(ctx: &SockAddrContext, ip: IpKey) {
        store::<{ offset_of!(bpf_sock_addr, user_ip4) }>(ctx, u32::from_ne_bytes(ip.v4_octets()));
    }
}

impl Family for ConnectV6 {
    #[inline(always)]
    fn ip(ctx: &SockAddrContext) -> IpKey {
        read4!(bpf_sock_addr, ctx.sock_addr, user_ip6)
    }

    #[inline(always)]
    fn set_ip(ctx: &SockAddrContext, ip: IpKey) {
        const FIRST: usize = offset_of!(bpf_sock_addr, user_ip6);
        let [a, b, c, d] = split(ip);
        store::<{ FIRST }>(ctx, a);
        store::<{ FIRST + 4 }>(ctx, b);
        store::<{ FIRST + 8 }>(ctx, c);
        store::<{ FIRST + 12 }>(ctx, d);
    }
}

/// The port in a socket-address hook.
#[inline(always)]
pub fn port(ctx: &SockAddrContext) -> Port {
    network_port(read!(bpf_sock_addr, ctx.sock_addr, user_port))
}

/// Replaces the port in a socket-address hook.
#[inline(always)]
pub fn set_port(ctx: &SockAddrContext, port: Port) {
    store::<{ offset_of!(bpf_sock_addr, user_port) }>(ctx, u32::from(u16::from_ne_bytes(port.octets())));
}

/// Whether the socket of a socket-address hook speaks TCP (or Multipath TCP, whose first subflow is TCP).
#[inline(always)]
pub fn is_tcp(ctx: &SockAddrContext) -> bool {
    let protocol = read!(bpf_sock_addr, ctx.sock_addr, protocol);
    protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP
}

/// The socket of a socket-address hook.
#[inline(always)]
pub fn socket(ctx: &SockAddrContext) -> *mut bpf_sock {
    // SAFETY: as in `read!`; the union is the pointer's eight bytes.
    let address = unsafe {
        load_double::<{ offset_of!(bpf_sock_addr, __bindgen_anon_1) }, bpf_sock_addr>(ctx.sock_addr)
    };
    address as *mut bpf_sock
}

/// Whether a socket has not been connected yet.
#[inline(always)]
pub fn is_unconnected(socket: *mut bpf_sock) -> bool {
    !socket.is_null() && read!(bpf_sock, socket, state) == TCP_CLOSE
}

/// Whether a socket is bound to a device.
#[inline(always)]
pub fn is_bound_to_device(socket: *mut bpf_sock) -> bool {
    !socket.is_null() && read!(bpf_sock, socket, bound_dev_if) != 0
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
            kind: read!(bpf_sock, ctx.sock, type_),
            protocol: read!(bpf_sock, ctx.sock, protocol),
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
    read!(bpf_sk_lookup, ctx.lookup, protocol) == IPPROTO_TCP
}

impl Arrival {
    /// Reads the context of `sk_lookup`.
    #[inline(always)]
    pub fn read(ctx: &SkLookupContext) -> Self {
        let lookup: *mut bpf_sk_lookup = ctx.lookup;
        let (remote, local) = if read!(bpf_sk_lookup, lookup, family) == AF_INET {
            (
                IpKey::from_v4(read!(bpf_sk_lookup, lookup, remote_ip4).to_ne_bytes()),
                IpKey::from_v4(read!(bpf_sk_lookup, lookup, local_ip4).to_ne_bytes()),
            )
        } else {
            (read4!(bpf_sk_lookup, lookup, remote_ip6), read4!(bpf_sk_lookup, lookup, local_ip6))
        };
        // SAFETY: as in `read!`; the port has two bytes.
        let remote_port =
            unsafe { load_half::<{ offset_of!(bpf_sk_lookup, remote_port) }, bpf_sk_lookup>(lookup) } as u16;
        Self {
            remote,
            local,
            remote_port: Port::from_octets(remote_port.to_ne_bytes()),
            // In host order, by the kernel's contract.
            local_port: Port::new(read!(bpf_sk_lookup, lookup, local_port) as u16),
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
        let (local, remote) = if read!(bpf_sock_ops, ops, family) == AF_INET {
            (
                IpKey::from_v4(read!(bpf_sock_ops, ops, local_ip4).to_ne_bytes()),
                IpKey::from_v4(read!(bpf_sock_ops, ops, remote_ip4).to_ne_bytes()),
            )
        } else {
            (read4!(bpf_sock_ops, ops, local_ip6), read4!(bpf_sock_ops, ops, remote_ip6))
        };
        Self {
            // SAFETY: the context is the kernel's own.
            netns_cookie: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
            local,
            local_port: Port::new(read!(bpf_sock_ops, ops, local_port) as u16),
            remote,
            // Four bytes of which the first two in network order are the port.
            remote_port: Port::new(u32::from_be(read!(bpf_sock_ops, ops, remote_port)) as u16),
        }
    }
}

/// The socket of `sock_ops`; null before it is a full one.
#[inline(always)]
pub fn sock_ops_socket(ctx: &SockOpsContext) -> *mut bpf_sock {
    // SAFETY: as in `read!`; the union is the pointer's eight bytes.
    let address =
        unsafe { load_double::<{ offset_of!(bpf_sock_ops, __bindgen_anon_2) }, bpf_sock_ops>(ctx.ops) };
    address as *mut bpf_sock
}

/// Which event of `sock_ops` this is.
#[inline(always)]
pub fn sock_ops_event(ctx: &SockOpsContext) -> u32 {
    read!(bpf_sock_ops, ctx.ops, op)
}

/// The callbacks that are asked for on the socket of `sock_ops`.
#[inline(always)]
pub fn callbacks(ctx: &SockOpsContext) -> u32 {
    read!(bpf_sock_ops, ctx.ops, bpf_sock_ops_cb_flags)
}

/// The port of a socket's own side.
#[inline(always)]
pub fn own_port(socket: *mut bpf_sock) -> Port {
    // In host order, by the kernel's contract.
    Port::new(read!(bpf_sock, socket, src_port) as u16)
}

/// The state that a socket goes to, in the state callback of `sock_ops`.
#[inline(always)]
pub fn next_state(ctx: &SockOpsContext) -> u32 {
    const SECOND: usize = offset_of!(bpf_sock_ops, __bindgen_anon_1) + 4;
    // SAFETY: as in `read!`; the union is four words of arguments.
    (unsafe { load_word::<SECOND, bpf_sock_ops>(ctx.ops) }) as u32
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
