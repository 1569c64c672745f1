//! The kernel programs' user side: the only importer of aya and `mesh_common::abi`.
//!
//! In: what the agent was told, and pods by the cookie of their network namespace. Out: programs that stand,
//! maps that say what the pods are, and two handles for the cores: [`OriginalDstReader`] and [`CallerWriter`].
//! Never decides about a connection.
//!
//! A pod goes through these states:
//!
//! ```text
//! hold(): known as enrolled, connects refused, inbound SYNs refused
//!   -> capture(): both go to the daemon's listeners
//!   -> pass(): no longer enrolled, left alone
//!   -> release(): the pod is gone
//! ```
//!
//! When the agent ends, its listeners close, and the pinned programs refuse what they would have given it. The next
//! agent with the same folder of pins finds every pod held.

mod apply;
mod attach;
mod cgroup;
pub mod desired;
pub mod diff;
mod events;
mod handles;
mod load;
mod lock;
mod metrics;
mod pins;
mod probe;
mod sys;
mod uninstall;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use aya::maps::{MapData, RingBuf};
use mesh_common::abi::addr::IpKey;
use mesh_common::abi::capture::OutboundListenerKey;

pub use self::apply::ApplyError;
use self::attach::Links;
pub use self::attach::{AttachError, stands};
pub use self::cgroup::{CgroupError, members};
pub use self::desired::{PodFacts, PodState, RefusedSockets};
pub use self::events::Refusal;
pub use self::handles::{CallerWriter, OriginalDstReader};
pub use self::load::{LoadError, OBJECT, ProgramCost};
pub use self::metrics::{VerdictCount, VerdictReader, register_metrics};
pub use self::pins::{PinError, others_beside, unused};
pub use self::probe::{Feature, KernelReport};
pub use self::uninstall::{UninstallError, Uninstalled, uninstall};

use self::apply::Maps;
use self::cgroup::Cgroups;
use self::desired::Entries;
use self::load::{Globals, Programs};
use self::pins::Pins;
use crate::system::give_memory_back;

/// What the kernel's side needs to be told.
#[derive(Clone, Debug)]
pub struct KernelConfig {
    /// Cgroup that holds every pod.
    pub cgroup_root: PathBuf,
    /// Cgroup that the agent makes and enters; `None`: its container's if it is in a pod, else one beside the pods'.
    pub agent_cgroup: Option<PathBuf>,
    /// Folder on bpffs.
    pub pin_dir: PathBuf,
    /// Whether connects of pods that are not known yet pass.
    pub unknown_pods_pass: bool,
    /// Sockets that enrolled pods may not make.
    pub refused_sockets: RefusedSockets,
}

/// Why the kernel's side does not work.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel lacks what enforcement needs.
    #[error("this kernel lacks {missing}; Linux 5.15 or later is needed")]
    Lacks {
        /// The features.
        missing: String,
    },
    /// The host's network namespace cannot be told.
    #[error("tell the cookie of the host's network namespace")]
    HostNamespace(#[source] io::Error),
    /// The cgroups are not as they must be.
    #[error("prepare the cgroups")]
    Cgroups(#[from] CgroupError),
    /// The folder of pins cannot be used.
    #[error("prepare the folder of pins")]
    Pins(#[from] PinError),
    /// The programs cannot be loaded.
    #[error("load the kernel programs")]
    Load(#[from] LoadError),
    /// A program cannot be attached.
    #[error("attach a kernel program")]
    Attach(#[from] AttachError),
    /// A map cannot be read or written.
    #[error("write the kernel's maps")]
    Apply(#[from] ApplyError),
}

/// The daemon's listeners inside one network namespace. `None`: the namespace lacks that family.
#[derive(Clone, Copy, Debug)]
pub struct PodListeners<'a> {
    /// Gets the pod's own IPv4 connects (IPv4-mapped ones too).
    pub outbound_v4: Option<BorrowedFd<'a>>,
    /// Gets the pod's own IPv6 connects.
    pub outbound_v6: Option<BorrowedFd<'a>>,
    /// Gets what others dial at the pod's IPv4 addresses.
    pub inbound_v4: Option<BorrowedFd<'a>>,
    /// Gets what others dial at the pod's IPv6 addresses.
    pub inbound_v6: Option<BorrowedFd<'a>>,
}

/// The programs, attached, and the maps that steer them. One thread has it.
pub struct Kernel {
    programs: Programs,
    maps: Maps,
    verdicts: VerdictReader,
    events: RingBuf<MapData>,
    original_dsts: OriginalDstReader,
    callers: CallerWriter,
    cgroups: Cgroups,
    pins: Pins,
    links: Links,
    refused_sockets: RefusedSockets,
    /// What the maps have, by namespace.
    applied: BTreeMap<u64, Entries>,
    /// Which namespace has an address now: the last one that claimed it.
    owners: BTreeMap<IpKey, u64>,
}

impl Kernel {
    /// Enters the agent's cgroup, locks the pins, loads the programs and attaches them in the place of those of an
    /// agent before. Its pods are held until they are captured or released anew.
    ///
    /// Called where the host's network namespace is the thread's own.
    ///
    /// # Errors
    /// The kernel lacks something, a path is not what it must be, another agent runs, or the agent is not root.
    pub fn load(config: &KernelConfig) -> Result<Self, KernelError> {
        let report = KernelReport::probe();
        if !report.missing().is_empty() {
            let missing: Vec<&str> = report.missing().iter().map(|feature| feature.name).collect();
            return Err(KernelError::Lacks { missing: missing.join(", ") });
        }
        let host_netns = sys::netns_cookie().map_err(KernelError::HostNamespace)?;
        // First what leaves nothing behind if it cannot be used, or another agent has it.
        pins::check(&config.pin_dir)?;
        let cgroups = Cgroups::enter(&config.cgroup_root, config.agent_cgroup.as_deref())?;
        let pins = Pins::lock(&config.pin_dir)?;
        let globals = Globals {
            agent_cgroup: cgroups.agent.id,
            host_netns,
            pods_cgroup: cgroups.pods.id,
            pods_level: cgroups.pods.level,
            unknown_pods_pass: config.unknown_pods_pass,
        };
        let mut programs = Programs::load(&globals, Some(&pins.maps()))?;
        let (maps, readers) = Maps::take(programs.ebpf_mut())?;
        let mut kernel = Self {
            programs,
            maps,
            verdicts: VerdictReader::new(readers.counters),
            events: readers.events,
            original_dsts: readers.original_dsts,
            callers: readers.callers,
            cgroups,
            pins,
            links: Links::default(),
            refused_sockets: config.refused_sockets,
            applied: BTreeMap::new(),
            owners: BTreeMap::new(),
        };
        kernel.take_over()?;
        kernel.links.attach_to_cgroups(&kernel.programs, &kernel.cgroups, &kernel.pins)?;
        kernel.pins.remove_other_versions()?;
        // Reading the kernel's types took megabytes that are never needed again.
        give_memory_back();
        Ok(kernel)
    }

    /// Holds a pod: it is enrolled, and its connections are refused until it is captured. `netns` is its namespace.
    ///
    /// # Errors
    /// A map is full or a program cannot be attached: the pod is not captured, and refused where it can be.
    pub fn hold(
        &mut self,
        netns_cookie: u64,
        netns: BorrowedFd<'_>,
        pod: &PodFacts,
    ) -> Result<(), KernelError> {
        // Where the maps are full too: a namespace without rules is refused by the program, and open without it.
        let told = self.set(netns_cookie, pod, PodState::Held);
        self.links.attach_to_namespace(&self.programs, netns, netns_cookie, &self.pins)?;
        told
    }

    /// Captures a pod that is held, or changes what is known of one that is captured: its addresses, exclusions,
    /// probes or listeners.
    ///
    /// # Errors
    /// A map is full: the pod stays held.
    pub fn capture(
        &mut self,
        netns_cookie: u64,
        pod: &PodFacts,
        listeners: &PodListeners<'_>,
    ) -> Result<(), KernelError> {
        let outbound = [
            (OutboundListenerKey::FAMILY_V4, listeners.outbound_v4),
            (OutboundListenerKey::FAMILY_V6, listeners.outbound_v6),
        ];
        for (family, listener) in outbound {
            if let Some(listener) = listener {
                self.maps.put_outbound_listener(netns_cookie, family, listener)?;
            }
        }
        self.set(netns_cookie, pod, PodState::Captured)?;
        for &address in &pod.addresses {
            let listener = if address.is_ipv4() { listeners.inbound_v4 } else { listeners.inbound_v6 };
            if let Some(listener) = listener {
                self.maps.put_inbound_listener(netns_cookie, address.into(), listener)?;
            }
        }
        Ok(())
    }

    /// Leaves a pod alone: it is known and not enrolled, or not any more. Connections that were captured go on.
    ///
    /// # Errors
    /// A map is full, or a pin cannot be removed.
    pub fn pass(&mut self, netns_cookie: u64, pod: &PodFacts) -> Result<(), KernelError> {
        self.links.detach_from_namespace(netns_cookie, &self.pins)?;
        self.forget_listeners(netns_cookie)?;
        self.set(netns_cookie, pod, PodState::Passed)
    }

    /// Forgets a pod that is gone. Where that fails, what is left of it is still known: it can be tried again.
    ///
    /// # Errors
    /// A map cannot be written, or a pin cannot be removed.
    pub fn release(&mut self, netns_cookie: u64) -> Result<(), KernelError> {
        self.forget_listeners(netns_cookie)?;
        self.replace(netns_cookie, Entries::default())?;
        self.owners.retain(|_, owner| *owner != netns_cookie);
        self.links.detach_from_namespace(netns_cookie, &self.pins)?;
        self.applied.remove(&netns_cookie);
        Ok(())
    }

    /// Releases every pod but these: once what is desired is known whole, for pods that went while no agent ran. One that
    /// fails keeps no other: the answer is why each did, and the next call tries them again.
    pub fn retain(&mut self, live: &BTreeSet<u64>) -> Vec<KernelError> {
        let gone: Vec<u64> = self.applied.keys().copied().filter(|cookie| !live.contains(cookie)).collect();
        gone.into_iter().filter_map(|cookie| self.release(cookie).err()).collect()
    }

    /// Network namespaces that may be those of a pod with these addresses, by what the maps have of them.
    pub fn namespaces_of(&self, addresses: &[IpAddr]) -> impl Iterator<Item = u64> {
        let addresses: BTreeSet<IpKey> = addresses.iter().map(|address| (*address).into()).collect();
        self.applied
            .iter()
            .filter_map(move |(cookie, entries)| entries.may_be_of(&addresses).then_some(*cookie))
    }

    /// Whether a network namespace has ended in which a pod was held.
    pub fn has_ended(&self, netns_cookie: u64) -> bool {
        self.links.has_ended(netns_cookie)
    }

    /// Whether a network namespace is, or was to an agent before, that of an enrolled pod.
    pub fn is_enrolled(&self, netns_cookie: u64) -> bool {
        self.applied.get(&netns_cookie).is_some_and(Entries::is_enrolled)
    }

    /// Network namespaces that the maps speak of.
    pub fn namespaces(&self) -> impl Iterator<Item = u64> {
        self.applied.keys().copied()
    }

    /// The handle that tells what applications dialled.
    pub fn original_dsts(&self) -> OriginalDstReader {
        self.original_dsts.clone()
    }

    /// The handle that tells applications who calls them.
    pub fn callers(&self) -> CallerWriter {
        self.callers.clone()
    }

    /// The handle that tells how often each verdict was reached.
    pub fn verdict_reader(&self) -> VerdictReader {
        self.verdicts.clone()
    }

    /// How often each verdict was reached.
    pub fn verdicts(&self) -> Vec<VerdictCount> {
        self.verdicts.counts()
    }

    /// Refusals since the last call, at most `limit`. To be called every second or so.
    pub fn refusals(&mut self, limit: usize) -> Vec<Refusal> {
        events::drain(&mut self.events, limit)
    }

    /// What the verifier found out about the programs.
    pub fn program_costs(&self) -> Vec<ProgramCost> {
        self.programs.costs()
    }

    /// Programs that are attached no more, because somebody removed a pin, a link or the cgroup. Not ready then;
    /// [`repair`](Self::repair) attaches them again.
    pub fn detached(&self) -> Vec<&'static str> {
        self.links.detached(&self.cgroups, &self.pins)
    }

    /// A descriptor that becomes readable when somebody removed the pin of a program.
    ///
    /// # Errors
    /// The kernel has no inotify instance left for it.
    pub fn watch_pins(&self) -> io::Result<OwnedFd> {
        attach::watch(&self.pins)
    }

    /// Goes on watching after [`repair`](Self::repair), which may have made the folders anew.
    ///
    /// # Errors
    /// As [`watch_pins`](Self::watch_pins).
    pub fn watch_pins_again(&self, watch: BorrowedFd<'_>) -> io::Result<()> {
        attach::watch_again(watch, &self.pins)
    }

    /// Attaches what [`detached`](Self::detached) names.
    ///
    /// # Errors
    /// The cgroup or bpffs is gone.
    pub fn repair(&mut self) -> Result<(), KernelError> {
        self.pins.make_folders()?;
        // First what lets connections pass while it is missing; links of namespaces are attached, pinned or not.
        self.links.attach_to_cgroups(&self.programs, &self.cgroups, &self.pins)?;
        Ok(self.links.pin_namespaces_again(&self.pins)?)
    }

    /// Reads what an agent before left. Every enrolled pod is held, under the new programs, before they are attached
    /// anywhere else: nothing passes that did not pass before.
    fn take_over(&mut self) -> Result<(), KernelError> {
        self.applied = self.maps.entries()?;
        for (cookie, entries) in &self.applied {
            self.owners.extend(entries.addresses().map(|address| (address, *cookie)));
        }
        for cookie in self.pins.pinned_namespaces()? {
            let entries = self.applied.get(&cookie).cloned().unwrap_or_default();
            self.replace(cookie, entries.held())?;
            if !self.links.take_over_namespace(&self.programs, cookie, &self.pins)? {
                // Where it fails, the first `retain` tries again and says why.
                let _ = self.release(cookie);
            }
        }
        Ok(())
    }

    fn set(&mut self, netns_cookie: u64, pod: &PodFacts, state: PodState) -> Result<(), KernelError> {
        if state != PodState::Passed {
            for &address in &pod.addresses {
                self.claim(netns_cookie, address)?;
            }
        }
        self.replace(netns_cookie, Entries::of(pod, state, self.refused_sockets))
    }

    /// Makes an address this namespace's: one that had it before has it no more.
    fn claim(&mut self, netns_cookie: u64, address: IpAddr) -> Result<(), KernelError> {
        let address = IpKey::from(address);
        let before = self.owners.insert(address, netns_cookie);
        if let Some(other) = before.filter(|other| *other != netns_cookie) {
            self.maps.remove_inbound_listener(other, address)?;
            if let Some(entries) = self.applied.get(&other).cloned() {
                self.replace(other, entries.without_address(address))?;
            }
        }
        Ok(())
    }

    fn replace(&mut self, netns_cookie: u64, desired: Entries) -> Result<(), KernelError> {
        let applied = self.applied.entry(netns_cookie).or_default();
        let dropped: Vec<IpKey> =
            applied.addresses().filter(|address| !desired.addresses().any(|kept| kept == *address)).collect();
        self.maps.apply(netns_cookie, &diff::diff(applied, &desired), applied)?;
        for address in dropped {
            if self.owners.get(&address) == Some(&netns_cookie) {
                self.owners.remove(&address);
                self.maps.remove_inbound_listener(netns_cookie, address)?;
            }
        }
        Ok(())
    }

    fn forget_listeners(&mut self, netns_cookie: u64) -> Result<(), KernelError> {
        self.maps.remove_outbound_listeners(netns_cookie)?;
        let owned = self.owners.iter().filter(|(_, owner)| **owner == netns_cookie);
        for address in owned.map(|(address, _)| *address).collect::<Vec<_>>() {
            self.maps.remove_inbound_listener(netns_cookie, address)?;
        }
        Ok(())
    }
}
