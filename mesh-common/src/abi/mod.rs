//! The bytes shared with the kernel programs, defined once.
//!
//! Five rules hold here:
//! 1. `#[repr(C)]`, fixed integers and byte arrays only; every bit pattern is a valid value.
//! 2. Network values are big-endian bytes in private fields behind typed constructors and getters.
//! 3. No implicit padding: reserved bytes have names, and `abi_layout!` fails the build on a wrong size, a
//!    wrong alignment, padding, or a field that was left out.
//! 4. One form of address: IPv4 is mapped into IPv6, so there is one map and one program path per thing.
//! 5. Names, capacities, versions and reason codes are constants of both sides; a changed layout of a pinned map
//!    changes [`version::ABI_VERSION`].
//!
//! The maps. "Agent" is the one writer in user space (`mesh-node/src/kernel/apply.rs`), except where a core is
//! named.
//!
//! | map | key | value | writer | reader |
//! |---|---|---|---|---|
//! | `NAMESPACES` | network namespace's cookie | [`NamespaceRules`](capture::NamespaceRules) | agent | connect, sock_create, sock_ops |
//! | `OUTBOUND_PORTS` | [`OutboundPortKey`](capture::OutboundPortKey) | `u8` | agent | connect |
//! | `OUTBOUND_RANGES` | [`OutboundRangeKey`](capture::OutboundRangeKey), longest prefix | `u8` | agent | connect |
//! | `OUTBOUND_LISTENERS` | [`OutboundListenerKey`](capture::OutboundListenerKey) | the listening socket | agent | connect |
//! | `INBOUND_LISTENERS` | [`IpKey`](addr::IpKey) of the pod | the listening socket | agent | sk_lookup |
//! | `INBOUND_PORTS` | [`InboundPortKey`](capture::InboundPortKey) | flags | agent | sk_lookup, host connect |
//! | `SOCKET_FACTS` | the socket itself | [`SocketFacts`](flow::SocketFacts) | connect, sock_ops, cores (announce a caller) | sock_ops, getpeername, getsockname |
//! | `ORIGINAL_DSTS` | [`FlowKey`](flow::FlowKey) | [`OriginalDst`](flow::OriginalDst) | sock_ops | cores (taken at accept) |
//! | `CALLERS` | [`FlowKey`](flow::FlowKey) | [`OriginalDst`](flow::OriginalDst) | sock_ops | sock_ops (taken at accept) |
//! | `PROBE_FLOWS` | [`ProbeFlowKey`](flow::ProbeFlowKey) | `u8` | sock_ops | sk_lookup |
//! | `COUNTERS` | [`Verdict::code`](verdict::Verdict::code) | `u64` per core | every program | agent |
//! | `EVENTS` | ring buffer | [`RefusalEvent`](event::RefusalEvent) | every program | agent |

pub mod addr;
pub mod capture;
pub mod event;
pub mod flow;
mod layout;
pub mod maps;
#[cfg(feature = "user")]
mod pod;
pub mod verdict;
pub mod version;
