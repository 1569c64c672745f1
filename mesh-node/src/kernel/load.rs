//! Loads the programs: object bytes, values set before loading, maps shared with whoever pinned them before.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use aya::programs::{CgroupSock, CgroupSockAddr, Program, ProgramError, SkLookup, SockOps};
use aya::{Ebpf, EbpfError, EbpfLoader};
use mesh_common::abi::maps;

use super::sys::AttachType;

/// The kernel programs that this binary carries, built from `mesh-ebpf/`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("MESH_EBPF_OBJECT_PATH"));

/// Names another object at run time, for who tries out programs without a new binary.
const OBJECT_VARIABLE: &str = "MESH_EBPF_OBJECT";

/// Which cgroup a program stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    /// The pods' cgroup.
    Pods,
    /// The top of the tree.
    Top,
    /// Every enrolled network namespace.
    Namespace,
}

/// One program of the object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub name: &'static str,
    pub kind: AttachType,
    pub stand: Stand,
}

/// The program that stands in enrolled network namespaces.
pub(super) const DELIVER: Entry =
    Entry { name: "deliver_inbound", kind: AttachType::SkLookup, stand: Stand::Namespace };

/// Every program, in the order in which they are attached: what others rely on comes first.
pub(super) const PROGRAMS: &[Entry] = &[
    Entry { name: "sock_ops", kind: AttachType::SockOps, stand: Stand::Top },
    Entry { name: "host_connect4", kind: AttachType::Connect4, stand: Stand::Top },
    Entry { name: "host_connect6", kind: AttachType::Connect6, stand: Stand::Top },
    Entry { name: "getpeername4", kind: AttachType::GetPeerName4, stand: Stand::Pods },
    Entry { name: "getpeername6", kind: AttachType::GetPeerName6, stand: Stand::Pods },
    Entry { name: "getsockname4", kind: AttachType::GetSockName4, stand: Stand::Pods },
    Entry { name: "getsockname6", kind: AttachType::GetSockName6, stand: Stand::Pods },
    Entry { name: "sock_create", kind: AttachType::SockCreate, stand: Stand::Pods },
    Entry { name: "connect4", kind: AttachType::Connect4, stand: Stand::Pods },
    Entry { name: "connect6", kind: AttachType::Connect6, stand: Stand::Pods },
    DELIVER,
];

/// Values that the programs have from the moment they are loaded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Globals {
    pub agent_cgroup: u64,
    pub host_netns: u64,
    pub pods_cgroup: u64,
    pub pods_level: i32,
    pub unknown_pods_pass: bool,
}

/// What the verifier found out about a program.
#[derive(Clone, Debug)]
pub struct ProgramCost {
    /// Name of the program.
    pub name: &'static str,
    /// Instructions that the verifier looked at, of at most 1,000,000; `None` where the kernel does not tell.
    pub verified_instructions: Option<u32>,
    /// Bytes of machine code.
    pub bytes: u32,
}

/// Why the programs cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The object that the environment names cannot be read.
    #[error("read the kernel programs that {OBJECT_VARIABLE}={path} names")]
    Object {
        /// The path.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The object or one of its maps is refused.
    #[error(
        "load the kernel programs' maps; CAP_BPF and CAP_NET_ADMIN in the host's user namespace are needed"
    )]
    Maps {
        /// Why.
        #[source]
        source: EbpfError,
    },
    /// The object has no such program: it is of another version.
    #[error("the object has no program {name}; it is of another version")]
    Absent {
        /// The program.
        name: &'static str,
    },
    /// The verifier refuses a program.
    #[error("load the program {name}")]
    Program {
        /// The program.
        name: &'static str,
        /// Why, with the verifier's log.
        #[source]
        source: ProgramError,
    },
}

/// The loaded programs and their maps.
#[derive(Debug)]
pub(super) struct Programs {
    ebpf: Ebpf,
}

impl Programs {
    /// Loads every program. With `pins`, maps are those pinned there, or are pinned there.
    pub(super) fn load(globals: &Globals, pins: Option<&Path>) -> Result<Self, LoadError> {
        let object = object()?;
        let mut loader = EbpfLoader::new();
        let unknown_pods_pass = u32::from(globals.unknown_pods_pass);
        loader
            .override_global("AGENT_CGROUP", &globals.agent_cgroup, true)
            .override_global("HOST_NETNS", &globals.host_netns, true)
            .override_global("PODS_CGROUP", &globals.pods_cgroup, true)
            .override_global("PODS_LEVEL", &globals.pods_level, true)
            .override_global("UNKNOWN_PODS_PASS", &unknown_pods_pass, true);
        if let Some(folder) = pins {
            for name in maps::ALL {
                loader.map_pin_path(name, folder.join(name));
            }
        }
        let mut ebpf = loader.load(&object).map_err(|source| LoadError::Maps { source })?;
        for entry in PROGRAMS {
            let program = ebpf.program_mut(entry.name).ok_or(LoadError::Absent { name: entry.name })?;
            load_one(program).map_err(|source| LoadError::Program { name: entry.name, source })?;
        }
        Ok(Self { ebpf })
    }

    /// A loaded program.
    pub(super) fn fd(&self, name: &'static str) -> BorrowedFd<'_> {
        let program = self.ebpf.program(name).expect("load fails without it");
        program.fd().expect("it is loaded").as_fd()
    }

    /// The maps.
    pub(super) fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// What the verifier found out.
    pub(super) fn costs(&self) -> Vec<ProgramCost> {
        PROGRAMS
            .iter()
            .filter_map(|entry| {
                let info = self.ebpf.program(entry.name)?.info().ok()?;
                Some(ProgramCost {
                    name: entry.name,
                    verified_instructions: info.verified_instruction_count(),
                    bytes: info.size_jitted(),
                })
            })
            .collect()
    }
}

fn object() -> Result<Vec<u8>, LoadError> {
    match std::env::var(OBJECT_VARIABLE) {
        Ok(path) => std::fs::read(&path).map_err(|source| LoadError::Object { path, source }),
        Err(_) => Ok(OBJECT.to_vec()),
    }
}

fn load_one(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSockAddr(_) => <&mut CgroupSockAddr>::try_from(program)?.load(),
        Program::CgroupSock(_) => <&mut CgroupSock>::try_from(program)?.load(),
        Program::SockOps(_) => <&mut SockOps>::try_from(program)?.load(),
        _ => <&mut SkLookup>::try_from(program)?.load(),
    }
}
