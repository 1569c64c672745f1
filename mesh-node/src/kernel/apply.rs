//! Runs map operations: the only writer of the maps that steer the programs.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf, SockHash};
use mesh_common::abi::addr::{IpKey, Port};
use mesh_common::abi::capture::{
    InboundPortKey, NamespaceRules, OutboundListenerKey, OutboundPortKey, OutboundRangeKey,
};
use mesh_common::abi::maps;

use super::desired::Entries;
use super::diff::MapOp;
use super::handles::{CallerWriter, OriginalDstReader};

/// Why a map cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A map of the object has another type than its name says.
    #[error("open the map {map}; the object is of another version")]
    Open {
        /// The map.
        map: &'static str,
        /// Why.
        #[source]
        source: MapError,
    },
    /// The object has no such map.
    #[error("the object has no map {map}; it is of another version")]
    Absent {
        /// The map.
        map: &'static str,
    },
    /// A map is full: the pod stays as it was, which is closed.
    #[error("the map {map} is full; the pod of namespace {netns_cookie} is not captured")]
    Full {
        /// The map.
        map: &'static str,
        /// Whose entry did not fit.
        netns_cookie: u64,
    },
    /// The kernel refuses an operation.
    #[error("{operation} in the map {map} for namespace {netns_cookie}")]
    Operation {
        /// What was tried.
        operation: &'static str,
        /// The map.
        map: &'static str,
        /// For which namespace.
        netns_cookie: u64,
        /// Why it failed.
        #[source]
        source: MapError,
    },
    /// A map's descriptor cannot be shared.
    #[error("share the map {map} with the cores")]
    Share {
        /// The map.
        map: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The maps that the agent writes.
pub(super) struct Maps {
    namespaces: HashMap<MapData, u64, NamespaceRules>,
    outbound_ports: HashMap<MapData, OutboundPortKey, u8>,
    outbound_ranges: LpmTrie<MapData, OutboundRangeKey, u8>,
    outbound_listeners: SockHash<MapData, OutboundListenerKey>,
    inbound_listeners: SockHash<MapData, IpKey>,
    inbound_ports: HashMap<MapData, InboundPortKey, u32>,
}

/// What is read from the maps beside.
pub(super) struct Readers {
    pub counters: PerCpuArray<MapData, u64>,
    pub events: RingBuf<MapData>,
    pub original_dsts: OriginalDstReader,
    pub callers: CallerWriter,
}

impl Maps {
    /// Takes the maps out of the loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<(Self, Readers), ApplyError> {
        let readers = Readers {
            counters: typed(ebpf, maps::COUNTERS)?,
            events: typed(ebpf, maps::EVENTS)?,
            original_dsts: OriginalDstReader::new(shared(ebpf, maps::ORIGINAL_DSTS)?),
            callers: CallerWriter::new(shared(ebpf, maps::SOCKET_FACTS)?),
        };
        let maps = Self {
            namespaces: typed(ebpf, maps::NAMESPACES)?,
            outbound_ports: typed(ebpf, maps::OUTBOUND_PORTS)?,
            outbound_ranges: typed(ebpf, maps::OUTBOUND_RANGES)?,
            outbound_listeners: typed(ebpf, maps::OUTBOUND_LISTENERS)?,
            inbound_listeners: typed(ebpf, maps::INBOUND_LISTENERS)?,
            inbound_ports: typed(ebpf, maps::INBOUND_PORTS)?,
        };
        Ok((maps, readers))
    }

    /// What an agent before this one left, by namespace.
    pub(super) fn entries(&self) -> Result<BTreeMap<u64, Entries>, ApplyError> {
        let mut found: BTreeMap<u64, Entries> = BTreeMap::new();
        for entry in self.namespaces.iter() {
            let (cookie, rules) = entry.map_err(failed("read", maps::NAMESPACES, 0))?;
            found.entry(cookie).or_default().rules = Some(rules);
        }
        for key in self.outbound_ports.keys() {
            let key = key.map_err(failed("read", maps::OUTBOUND_PORTS, 0))?;
            found.entry(key.netns_cookie).or_default().outbound_ports.insert(key.port);
        }
        for key in self.outbound_ranges.keys() {
            let key = key.map_err(failed("read", maps::OUTBOUND_RANGES, 0))?;
            let bits = key.prefix_len().saturating_sub(OutboundRangeKey::COOKIE_BITS);
            let (cookie, ip) = key.data().parts();
            found.entry(cookie).or_default().outbound_ranges.insert((ip, bits));
        }
        let owners: BTreeMap<IpKey, u64> = found
            .iter()
            .flat_map(|(cookie, entries)| {
                entries.addresses().map(|address| (address, *cookie)).collect::<Vec<_>>()
            })
            .collect();
        for entry in self.inbound_ports.iter() {
            let (key, flags) = entry.map_err(failed("read", maps::INBOUND_PORTS, 0))?;
            let cookie = owners.get(&key.ip).copied().unwrap_or(0);
            found.entry(cookie).or_default().inbound_ports.insert((key.ip, key.port), flags);
        }
        Ok(found)
    }

    /// Runs the operations of one namespace, in their order, and notes in `applied` what was done, also when one
    /// fails.
    pub(super) fn apply(
        &mut self,
        netns_cookie: u64,
        ops: &[MapOp],
        applied: &mut Entries,
    ) -> Result<(), ApplyError> {
        for op in ops {
            self.run(netns_cookie, op)?;
            op.note(applied);
        }
        Ok(())
    }

    fn run(&mut self, netns_cookie: u64, op: &MapOp) -> Result<(), ApplyError> {
        let outbound_port = |port: Port| OutboundPortKey { netns_cookie, port, reserved: [0; 6] };
        let range = |ip: IpKey, bits: u32| {
            Key::new(OutboundRangeKey::COOKIE_BITS + bits, OutboundRangeKey::new(netns_cookie, ip))
        };
        match *op {
            MapOp::PutRules(rules) => {
                put(self.namespaces.insert(netns_cookie, rules, 0), maps::NAMESPACES, netns_cookie)
            }
            MapOp::RemoveRules => {
                removed(self.namespaces.remove(&netns_cookie), maps::NAMESPACES, netns_cookie)
            }
            MapOp::PutOutboundPort(port) => {
                put(self.outbound_ports.insert(outbound_port(port), 1, 0), maps::OUTBOUND_PORTS, netns_cookie)
            }
            MapOp::RemoveOutboundPort(port) => {
                removed(self.outbound_ports.remove(&outbound_port(port)), maps::OUTBOUND_PORTS, netns_cookie)
            }
            MapOp::PutOutboundRange(ip, bits) => {
                put(self.outbound_ranges.insert(&range(ip, bits), 1, 0), maps::OUTBOUND_RANGES, netns_cookie)
            }
            MapOp::RemoveOutboundRange(ip, bits) => {
                removed(self.outbound_ranges.remove(&range(ip, bits)), maps::OUTBOUND_RANGES, netns_cookie)
            }
            MapOp::PutInboundPort(ip, port, flags) => put(
                self.inbound_ports.insert(InboundPortKey::new(ip, port), flags, 0),
                maps::INBOUND_PORTS,
                netns_cookie,
            ),
            MapOp::RemoveInboundPort(ip, port) => removed(
                self.inbound_ports.remove(&InboundPortKey::new(ip, port)),
                maps::INBOUND_PORTS,
                netns_cookie,
            ),
        }
    }

    /// Makes a listening socket the one that a namespace's connects of a family are sent to.
    pub(super) fn put_outbound_listener(
        &mut self,
        netns_cookie: u64,
        family: u32,
        listener: BorrowedFd<'_>,
    ) -> Result<(), ApplyError> {
        let key = OutboundListenerKey { netns_cookie, family, reserved: 0 };
        let result = self.outbound_listeners.insert(key, listener.as_raw_fd(), 0);
        put(result, maps::OUTBOUND_LISTENERS, netns_cookie)
    }

    /// Makes a listening socket the one that an address's connections are given to.
    pub(super) fn put_inbound_listener(
        &mut self,
        netns_cookie: u64,
        address: IpKey,
        listener: BorrowedFd<'_>,
    ) -> Result<(), ApplyError> {
        let result = self.inbound_listeners.insert(address, listener.as_raw_fd(), 0);
        put(result, maps::INBOUND_LISTENERS, netns_cookie)
    }

    /// Forgets the listeners of a namespace. A listener that was closed is gone already.
    pub(super) fn remove_outbound_listeners(&mut self, netns_cookie: u64) -> Result<(), ApplyError> {
        for family in [OutboundListenerKey::FAMILY_V4, OutboundListenerKey::FAMILY_V6] {
            let key = OutboundListenerKey { netns_cookie, family, reserved: 0 };
            removed(self.outbound_listeners.remove(&key), maps::OUTBOUND_LISTENERS, netns_cookie)?;
        }
        Ok(())
    }

    /// Forgets the listener of an address.
    pub(super) fn remove_inbound_listener(
        &mut self,
        netns_cookie: u64,
        address: IpKey,
    ) -> Result<(), ApplyError> {
        removed(self.inbound_listeners.remove(&address), maps::INBOUND_LISTENERS, netns_cookie)
    }
}

fn typed<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, ApplyError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(ApplyError::Absent { map: name })?;
    M::try_from(map).map_err(|source| ApplyError::Open { map: name, source })
}

/// A descriptor of a map, for handles that many threads use.
fn shared(ebpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, ApplyError> {
    let map = ebpf.map(name).ok_or(ApplyError::Absent { map: name })?;
    let (Map::LruHashMap(data) | Map::SkStorage(data)) = map else {
        return Err(ApplyError::Absent { map: name });
    };
    let fd = data.fd().as_fd().try_clone_to_owned();
    fd.map_err(|source| ApplyError::Share { map: name, source })
}

fn put(result: Result<(), MapError>, map: &'static str, netns_cookie: u64) -> Result<(), ApplyError> {
    let full = [Some(libc::E2BIG), Some(libc::ENOSPC)];
    result.map_err(|source| match code(&source) {
        code if full.contains(&code) => ApplyError::Full { map, netns_cookie },
        _ => failed("put", map, netns_cookie)(source),
    })
}

fn removed(result: Result<(), MapError>, map: &'static str, netns_cookie: u64) -> Result<(), ApplyError> {
    match result {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(source) if code(&source) == Some(libc::ENOENT) || code(&source) == Some(libc::EINVAL) => Ok(()),
        result => result.map_err(failed("remove", map, netns_cookie)),
    }
}

fn code(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

fn failed(
    operation: &'static str,
    map: &'static str,
    netns_cookie: u64,
) -> impl FnOnce(MapError) -> ApplyError {
    move |source| ApplyError::Operation { operation, map, netns_cookie, source }
}
