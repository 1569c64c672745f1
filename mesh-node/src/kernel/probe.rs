//! What this kernel offers, told at start: every feature that enforcement needs, and whether it is there.

use std::fmt;

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{is_map_supported, is_program_supported};

/// One feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// What it is.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// The lowest kernel that has it.
    pub since: &'static str,
    /// Whether it is there.
    pub present: bool,
}

/// What this kernel offers.
#[derive(Clone, Debug)]
pub struct KernelReport {
    /// As `uname -r` says.
    pub release: String,
    /// What enforcement needs; the agent does not start without one of these.
    pub needed: Vec<Feature>,
}

const PROGRAMS: &[(&str, &str, &str, ProgramType)] = &[
    (
        "cgroup sock_addr programs",
        "capture of connect, names that applications see",
        "5.8",
        ProgramType::CgroupSockAddr,
    ),
    ("cgroup sock programs", "refusal of RAW and SCTP sockets", "4.10", ProgramType::CgroupSock),
    ("sock_ops programs", "original destinations and callers", "5.15", ProgramType::SockOps),
    ("sk_lookup programs", "delivery of inbound connections", "5.9", ProgramType::SkLookup),
];

const MAPS: &[(&str, &str, &str, MapType)] = &[
    ("sockhash maps", "listeners that live", "4.18", MapType::SockHash),
    ("socket storage", "facts that live as long as a socket", "5.2", MapType::SkStorage),
    ("LRU hash maps", "connections under way", "4.10", MapType::LruHash),
    ("longest-prefix maps", "excluded ranges", "4.11", MapType::LpmTrie),
    ("ring buffers", "records of refusals", "5.8", MapType::RingBuf),
];

impl KernelReport {
    /// Asks the kernel, by making one small program or map of each type.
    pub fn probe() -> Self {
        let programs = PROGRAMS.iter().map(|&(name, purpose, since, kind)| Feature {
            name,
            purpose,
            since,
            present: is_program_supported(kind).unwrap_or(false),
        });
        let maps = MAPS.iter().map(|&(name, purpose, since, kind)| Feature {
            name,
            purpose,
            since,
            present: is_map_supported(kind).unwrap_or(false),
        });
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        Self { release, needed: programs.chain(maps).collect() }
    }

    /// The features that are missing.
    pub fn missing(&self) -> Vec<&Feature> {
        self.needed.iter().filter(|feature| !feature.present).collect()
    }
}

impl fmt::Display for KernelReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Linux {}:", self.release)?;
        self.needed.iter().try_for_each(|feature| {
            let present = if feature.present { "yes" } else { "MISSING" };
            write!(f, " {} {present} (since {});", feature.name, feature.since)
        })
    }
}
