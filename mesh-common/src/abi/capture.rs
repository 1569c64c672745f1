//! Which network namespaces are captured, and how.

use super::addr::{IpKey, Port};
use super::layout::abi_layout;

/// What is done with the sockets of one network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespaceRules {
    /// The pod's own addresses: first IPv4, first IPv6, then two more; unused ones are
    /// [`IpKey::UNSPECIFIED`]. The first two are what `getsockname` shows for a captured socket.
    pub addresses: [IpKey; 4],
    /// One of the `STATE_` constants; any other value is as [`STATE_HELD`](Self::STATE_HELD).
    pub state: u8,
    /// `HAS_` and `REFUSE_` flags.
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

impl NamespaceRules {
    /// Known as enrolled, not captured yet: connects are refused.
    pub const STATE_HELD: u8 = 0;
    /// Captured: connects go to the daemon.
    pub const STATE_CAPTURED: u8 = 1;
    /// Known as not enrolled: left alone.
    pub const STATE_PASSED: u8 = 2;

    /// There are entries in `OUTBOUND_PORTS`.
    pub const HAS_OUTBOUND_PORTS: u8 = 1;
    /// There are entries in `OUTBOUND_RANGES`.
    pub const HAS_OUTBOUND_RANGES: u8 = 2;
    /// RAW sockets other than ICMP's are refused.
    pub const REFUSE_RAW: u8 = 4;
    /// Transports that no hook captures (SCTP, DCCP) are refused.
    pub const REFUSE_UNCAPTURED: u8 = 8;
}

/// A destination port that a namespace's sockets may reach outside the mesh.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutboundPortKey {
    /// The network namespace's cookie.
    pub netns_cookie: u64,
    /// The port.
    pub port: Port,
    /// Zero.
    pub reserved: [u8; 6],
}

/// A range of destinations that a namespace's sockets may reach outside the mesh: the data part of a key of a
/// longest-prefix map. The cookie is always matched whole: a prefix has 64 bits and those of the range.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutboundRangeKey {
    netns_cookie: [u8; 8],
    ip: IpKey,
}

impl OutboundRangeKey {
    /// Bits of the key that are the cookie.
    pub const COOKIE_BITS: u32 = 64;

    /// A range, or a single address to look up.
    #[inline(always)]
    pub const fn new(netns_cookie: u64, ip: IpKey) -> Self {
        Self { netns_cookie: netns_cookie.to_ne_bytes(), ip }
    }

    /// The cookie and the first address.
    pub const fn parts(self) -> (u64, IpKey) {
        (u64::from_ne_bytes(self.netns_cookie), self.ip)
    }
}

/// The daemon's listener for one namespace and family.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutboundListenerKey {
    /// The network namespace's cookie.
    pub netns_cookie: u64,
    /// [`FAMILY_V4`](Self::FAMILY_V4) or [`FAMILY_V6`](Self::FAMILY_V6), of the destination: an IPv4-mapped one is IPv4.
    pub family: u32,
    /// Zero.
    pub reserved: u32,
}

impl OutboundListenerKey {
    /// IPv4, mapped or not.
    pub const FAMILY_V4: u32 = 4;
    /// IPv6.
    pub const FAMILY_V6: u32 = 6;
}

/// A port of a pod for which something else holds than for its other ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InboundPortKey {
    /// The pod's address.
    pub ip: IpKey,
    /// The port.
    pub port: Port,
    /// Zero.
    pub reserved: [u8; 2],
}

impl InboundPortKey {
    /// Connections go to the application as if there was no mesh.
    pub const EXCLUDED: u32 = 1;
    /// A probe names this port: connections in `PROBE_FLOWS` go to the application.
    pub const PROBE: u32 = 2;

    /// The key of one port.
    #[inline(always)]
    pub const fn new(ip: IpKey, port: Port) -> Self {
        Self { ip, port, reserved: [0; 2] }
    }
}

abi_layout!(NamespaceRules { addresses: [IpKey; 4], state: u8, flags: u8, reserved: [u8; 6] } size 72 align 1);
abi_layout!(OutboundPortKey { netns_cookie: u64, port: Port, reserved: [u8; 6] } size 16 align 8);
abi_layout!(OutboundRangeKey { netns_cookie: [u8; 8], ip: IpKey } size 24 align 1);
abi_layout!(OutboundListenerKey { netns_cookie: u64, family: u32, reserved: u32 } size 16 align 8);
abi_layout!(InboundPortKey { ip: IpKey, port: Port, reserved: [u8; 2] } size 20 align 1);
