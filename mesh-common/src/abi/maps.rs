//! Names and capacities of the maps, and names of the programs.

/// Rules of network namespaces.
pub const NAMESPACES: &str = "NAMESPACES";
/// Destination ports left outside.
pub const OUTBOUND_PORTS: &str = "OUTBOUND_PORTS";
/// Destination ranges left outside.
pub const OUTBOUND_RANGES: &str = "OUTBOUND_RANGES";
/// The daemon's listeners for connects.
pub const OUTBOUND_LISTENERS: &str = "OUTBOUND_LISTENERS";
/// The daemon's listeners for pods' addresses.
pub const INBOUND_LISTENERS: &str = "INBOUND_LISTENERS";
/// Ports of pods for which something else holds.
pub const INBOUND_PORTS: &str = "INBOUND_PORTS";
/// Facts of sockets.
pub const SOCKET_FACTS: &str = "SOCKET_FACTS";
/// What applications dialled.
pub const ORIGINAL_DSTS: &str = "ORIGINAL_DSTS";
/// Who really calls.
pub const CALLERS: &str = "CALLERS";
/// Probes under way.
pub const PROBE_FLOWS: &str = "PROBE_FLOWS";
/// Verdicts counted.
pub const COUNTERS: &str = "COUNTERS";
/// Refusals.
pub const EVENTS: &str = "EVENTS";

/// Every map that is pinned.
pub const ALL: &[&str] = &[
    NAMESPACES,
    OUTBOUND_PORTS,
    OUTBOUND_RANGES,
    OUTBOUND_LISTENERS,
    INBOUND_LISTENERS,
    INBOUND_PORTS,
    SOCKET_FACTS,
    ORIGINAL_DSTS,
    CALLERS,
    PROBE_FLOWS,
    COUNTERS,
    EVENTS,
];

/// Network namespaces of one node, enrolled or known as not enrolled: 16 times kubelet's default of 110 pods,
/// with room for the churn of Jobs.
pub const NAMESPACES_CAPACITY: u32 = 4_096;
/// Excluded destination ports of all pods.
pub const OUTBOUND_PORTS_CAPACITY: u32 = 16_384;
/// Excluded destination ranges of all pods.
pub const OUTBOUND_RANGES_CAPACITY: u32 = 16_384;
/// Two families per namespace.
pub const OUTBOUND_LISTENERS_CAPACITY: u32 = 2 * NAMESPACES_CAPACITY;
/// Four addresses per namespace.
pub const INBOUND_LISTENERS_CAPACITY: u32 = 4 * NAMESPACES_CAPACITY;
/// Excluded and probed ports of all addresses of all pods.
pub const INBOUND_PORTS_CAPACITY: u32 = 65_536;
/// Connections between an application's connect and the daemon's accept (least recently used goes first).
pub const ORIGINAL_DSTS_CAPACITY: u32 = 16_384;
/// Connections between the daemon's connect and the application's accept (least recently used goes first).
pub const CALLERS_CAPACITY: u32 = 16_384;
/// Probes between SYN and the end of the handshake (least recently used goes first).
pub const PROBE_FLOWS_CAPACITY: u32 = 16_384;
/// Bytes of the ring buffer: about 3,600 refusals between two readings.
pub const EVENTS_BYTES: u32 = 256 * 1024;
