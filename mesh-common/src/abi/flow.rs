//! What is remembered of one connection: what the application asked for, and who really calls it.

use super::addr::{IpKey, Port};
use super::layout::abi_layout;

/// The address that an application dialled, or the one that really calls it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginalDst {
    /// The address.
    pub ip: IpKey,
    /// The port.
    pub port: Port,
    /// Zero.
    pub reserved: [u8; 2],
}

/// A TCP connection inside one network namespace, seen from the side that opened it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey {
    /// The network namespace's cookie.
    pub netns_cookie: u64,
    /// Address of the side that opened it.
    pub source: IpKey,
    /// Port of the side that opened it.
    pub source_port: Port,
    /// Port of the side that accepts it: the daemon's listener, or the application.
    pub listener_port: Port,
    /// Zero.
    pub reserved: [u8; 4],
}

/// A connection of a host process to a port that a probe names.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeFlowKey {
    /// Address of the host.
    pub source: IpKey,
    /// Address of the pod.
    pub destination: IpKey,
    /// Port of the host process.
    pub source_port: Port,
    /// Port of the pod.
    pub destination_port: Port,
}

/// What is known of one socket, for as long as it lives (in its socket storage).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketFacts {
    /// What the application sees as its peer: the original destination, or the real caller.
    pub peer: IpKey,
    /// What the application sees as its own address while the socket has a loopback address;
    /// [`IpKey::UNSPECIFIED`] leaves it as it is.
    pub local: IpKey,
    /// Port of `peer`.
    pub peer_port: Port,
    /// One of the `KIND_` constants; any other value is as [`KIND_NONE`](Self::KIND_NONE).
    pub kind: u8,
    /// Zero.
    pub reserved: u8,
}

impl SocketFacts {
    /// Nothing: the socket is not captured (any more).
    pub const KIND_NONE: u8 = 0;
    /// An application's socket whose connect was sent to the daemon.
    pub const KIND_CAPTURED: u8 = 1;
    /// A daemon's socket that will call an application on behalf of `peer`.
    pub const KIND_ANNOUNCES: u8 = 2;
    /// An application's socket that was accepted from the daemon, on behalf of `peer`.
    pub const KIND_CALLED: u8 = 3;
    /// A host process's socket that dials a port that a probe names.
    pub const KIND_PROBE: u8 = 4;

    /// No facts.
    pub const NONE: Self = Self {
        peer: IpKey::UNSPECIFIED,
        local: IpKey::UNSPECIFIED,
        peer_port: Port::NONE,
        kind: Self::KIND_NONE,
        reserved: 0,
    };
}

abi_layout!(OriginalDst { ip: IpKey, port: Port, reserved: [u8; 2] } size 20 align 1);
abi_layout!(FlowKey { netns_cookie: u64, source: IpKey, source_port: Port, listener_port: Port, reserved: [u8; 4] } size 32 align 8);
abi_layout!(ProbeFlowKey { source: IpKey, destination: IpKey, source_port: Port, destination_port: Port } size 36 align 1);
abi_layout!(SocketFacts { peer: IpKey, local: IpKey, peer_port: Port, kind: u8, reserved: u8 } size 36 align 1);
