//! Records on the ring buffer: refusals that somebody may want to read about.

use super::addr::{IpKey, Port};
use super::layout::abi_layout;

/// A connection or a socket that a program refused.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusalEvent {
    /// Nanoseconds of the monotonic clock.
    pub monotonic_ns: u64,
    /// Cookie of the network namespace; 0 where the hook cannot know it (inbound).
    pub netns_cookie: u64,
    /// Address of the side that connects, or [`IpKey::UNSPECIFIED`].
    pub source: IpKey,
    /// Address that was asked for, or [`IpKey::UNSPECIFIED`].
    pub destination: IpKey,
    /// Port of the side that connects, or [`Port::NONE`].
    pub source_port: Port,
    /// Port that was asked for, or [`Port::NONE`].
    pub destination_port: Port,
    /// [`Verdict::code`](super::verdict::Verdict::code).
    pub verdict: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

abi_layout!(RefusalEvent {
    monotonic_ns: u64, netns_cookie: u64, source: IpKey, destination: IpKey, source_port: Port,
    destination_port: Port, verdict: u8, reserved: [u8; 3]
} size 56 align 8);
