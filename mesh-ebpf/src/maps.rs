//! Every map; names, types and capacities are those of `mesh_common::abi`.

use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SockHash};
use mesh_common::abi::addr::IpKey;
use mesh_common::abi::capture::{
    InboundPortKey, NamespaceRules, OutboundListenerKey, OutboundPortKey, OutboundRangeKey,
};
use mesh_common::abi::flow::{FlowKey, OriginalDst, ProbeFlowKey, SocketFacts};
use mesh_common::abi::maps as capacity;
use mesh_common::abi::verdict::Verdict;

/// Memory is taken entry by entry: most nodes use little of what the capacity allows.
const NO_PREALLOC: u32 = aya_ebpf::bindings::BPF_F_NO_PREALLOC;

#[map]
pub static NAMESPACES: HashMap<u64, NamespaceRules> =
    HashMap::with_max_entries(capacity::NAMESPACES_CAPACITY, NO_PREALLOC);

#[map]
pub static OUTBOUND_PORTS: HashMap<OutboundPortKey, u8> =
    HashMap::with_max_entries(capacity::OUTBOUND_PORTS_CAPACITY, NO_PREALLOC);

#[map]
pub static OUTBOUND_RANGES: LpmTrie<OutboundRangeKey, u8> =
    LpmTrie::with_max_entries(capacity::OUTBOUND_RANGES_CAPACITY, 0);

#[map]
pub static OUTBOUND_LISTENERS: SockHash<OutboundListenerKey> =
    SockHash::with_max_entries(capacity::OUTBOUND_LISTENERS_CAPACITY, 0);

#[map]
pub static INBOUND_LISTENERS: SockHash<IpKey> =
    SockHash::with_max_entries(capacity::INBOUND_LISTENERS_CAPACITY, 0);

#[map]
pub static INBOUND_PORTS: HashMap<InboundPortKey, u32> =
    HashMap::with_max_entries(capacity::INBOUND_PORTS_CAPACITY, NO_PREALLOC);

#[btf_map]
pub static SOCKET_FACTS: SkStorage<SocketFacts> = SkStorage::new();

#[map]
pub static ORIGINAL_DSTS: LruHashMap<FlowKey, OriginalDst> =
    LruHashMap::with_max_entries(capacity::ORIGINAL_DSTS_CAPACITY, 0);

#[map]
pub static CALLERS: LruHashMap<FlowKey, OriginalDst> =
    LruHashMap::with_max_entries(capacity::CALLERS_CAPACITY, 0);

#[map]
pub static PROBE_FLOWS: LruHashMap<ProbeFlowKey, u8> =
    LruHashMap::with_max_entries(capacity::PROBE_FLOWS_CAPACITY, 0);

#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Verdict::COUNTERS, 0);

#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(capacity::EVENTS_BYTES, 0);
