//! The pods of this node, kept captured: from what is known now to namespaces, listeners and the kernel's maps.
//!
//! In: the workloads of this node, whenever they change. Out: [`CapturedPod`]s that came, and pods that went. A pod
//! that cannot be captured stays held, its connections refused, and is tried again at the next call.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use mesh_common::model::{Direction, Enrolment, Workload, WorkloadUid};

use super::connections::established;
use super::listener::{Family, ListenError, Listener};
use super::namespace::{Namespace, NamespaceError};
use crate::kernel::{Kernel, KernelError, PodFacts, PodListeners};

/// A pod whose connections come to this daemon. The cores share it; its listeners close with the last of them.
#[derive(Debug)]
pub struct CapturedPod {
    /// Which pod.
    pub workload: WorkloadUid,
    /// Where its sockets are, and where the daemon dials from on its behalf.
    pub namespace: Namespace,
    /// One per direction and family that the namespace has.
    pub listeners: Vec<Listener>,
    /// TCP connections that were open before: they go on outside the mesh.
    pub connections_outside: usize,
}

/// What a call changed.
#[derive(Debug, Default)]
pub struct PodChanges {
    /// Captured now: the cores take their listeners in.
    pub captured: Vec<Arc<CapturedPod>>,
    /// Captured before, and not any more: the cores let them go.
    pub stopped: Vec<Arc<CapturedPod>>,
    /// Not as they should be; each is closed, and tried again at the next call.
    pub failed: Vec<(WorkloadUid, PodError)>,
}

/// Why a pod is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// Nothing says where the pod is.
    #[error("the pod has no annotation nodemesh.dev/netns: its network namespace is not known")]
    NoNamespace,
    /// The namespace cannot be entered.
    #[error("enter the pod's network namespace")]
    Namespace(#[from] NamespaceError),
    /// The namespace cannot be looked at.
    #[error("look at the pod's network namespace")]
    Look(#[source] io::Error),
    /// A listener cannot be made.
    #[error("listen inside the pod")]
    Listen(#[from] ListenError),
    /// The kernel's side fails.
    #[error("tell the kernel about the pod")]
    Kernel(#[from] KernelError),
}

/// The pods of this node. One thread has it, and the kernel's side in it.
pub struct Pods {
    kernel: Kernel,
    known: BTreeMap<WorkloadUid, Known>,
    /// Whether pods of an agent before this one were compared with what is wanted.
    took_over: bool,
}

struct Known {
    namespace: Namespace,
    facts: PodFacts,
    state: State,
}

enum State {
    Held,
    Captured(Arc<CapturedPod>),
    Passed,
}

impl Pods {
    /// No pods yet, but those that an agent before left in the kernel: they are held until the first [`sync`](Self::sync).
    pub fn new(kernel: Kernel) -> Self {
        Self { kernel, known: BTreeMap::new(), took_over: false }
    }

    /// Makes the kernel's side what these workloads of this node ask for. Pods of the host's own network are left
    /// out; of two pods that claim one address, the later one in the order of the call has it.
    pub fn sync<'a>(&mut self, workloads: impl IntoIterator<Item = &'a Arc<Workload>>) -> PodChanges {
        let mut changes = PodChanges::default();
        let wanted: BTreeMap<&WorkloadUid, &Arc<Workload>> = workloads
            .into_iter()
            .filter(|workload| !workload.host_network)
            .map(|workload| (&workload.uid, workload))
            .collect();
        // Those that went first: their addresses may be those of pods that came.
        let gone: Vec<WorkloadUid> =
            self.known.keys().filter(|uid| !wanted.contains_key(uid)).cloned().collect();
        for uid in gone {
            self.forget(&uid, &mut changes);
        }
        for (uid, workload) in wanted {
            if let Err(error) = self.place(workload, &mut changes) {
                changes.failed.push((uid.clone(), error));
            }
        }
        if !self.took_over {
            self.forget_earlier(&mut changes);
        }
        changes
    }

    /// Pods that are captured now.
    pub fn captured(&self) -> impl Iterator<Item = &Arc<CapturedPod>> {
        self.known.values().filter_map(|known| match &known.state {
            State::Captured(pod) => Some(pod),
            State::Held | State::Passed => None,
        })
    }

    /// The kernel's side.
    pub fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// Brings one pod where it should be.
    fn place(&mut self, workload: &Workload, changes: &mut PodChanges) -> Result<(), PodError> {
        let path = workload.netns.as_ref().ok_or(PodError::NoNamespace)?;
        if self.known.get(&workload.uid).is_some_and(|known| !known.namespace.is_at(path)) {
            // Another pod of the same name.
            self.forget(&workload.uid, changes);
        }
        let facts = PodFacts::of(workload);
        let known = match self.known.remove(&workload.uid) {
            Some(known) => known,
            None => Known { namespace: Namespace::open(path)?, facts: facts.clone(), state: State::Held },
        };
        let placed = match workload.enrolment {
            Enrolment::Enabled => self.capture(workload, facts, known, changes),
            Enrolment::Disabled => self.pass(facts, known, changes),
        };
        let (known, outcome) = placed;
        self.known.insert(workload.uid.clone(), known);
        outcome
    }

    fn capture(
        &mut self,
        workload: &Workload,
        facts: PodFacts,
        mut known: Known,
        changes: &mut PodChanges,
    ) -> (Known, Result<(), PodError>) {
        if let State::Captured(pod) = &known.state {
            if known.facts == facts {
                return (known, Ok(()));
            }
            let outcome = self.kernel.capture(known.namespace.cookie(), &facts, &sockets(&pod.listeners));
            if outcome.is_ok() {
                known.facts = facts;
            }
            return (known, outcome.map_err(PodError::from));
        }
        match self.begin(workload, &facts, &known.namespace) {
            Ok(pod) => {
                changes.captured.push(Arc::clone(&pod));
                known.facts = facts;
                known.state = State::Captured(pod);
                (known, Ok(()))
            }
            Err(error) => {
                known.state = State::Held;
                (known, Err(error))
            }
        }
    }

    /// Holds a pod, then captures it: nothing passes in between.
    fn begin(
        &mut self,
        workload: &Workload,
        facts: &PodFacts,
        namespace: &Namespace,
    ) -> Result<Arc<CapturedPod>, PodError> {
        let cookie = namespace.cookie();
        self.kernel.hold(cookie, namespace.as_fd(), facts)?;
        let mut listeners = Vec::new();
        for direction in [Direction::Outbound, Direction::Inbound] {
            for family in [Family::V4, Family::V6] {
                listeners.extend(Listener::open(namespace, direction, family)?);
            }
        }
        let connections_outside = namespace.run(established).map_err(PodError::Look)?;
        self.kernel.capture(cookie, facts, &sockets(&listeners))?;
        let (workload, namespace) = (workload.uid.clone(), namespace.clone());
        Ok(Arc::new(CapturedPod { workload, namespace, listeners, connections_outside }))
    }

    fn pass(
        &mut self,
        facts: PodFacts,
        mut known: Known,
        changes: &mut PodChanges,
    ) -> (Known, Result<(), PodError>) {
        if matches!(known.state, State::Passed) && known.facts == facts {
            return (known, Ok(()));
        }
        let outcome = self.kernel.pass(known.namespace.cookie(), &facts);
        if outcome.is_ok() {
            known.facts = facts;
            if let State::Captured(pod) = std::mem::replace(&mut known.state, State::Passed) {
                changes.stopped.push(pod);
            }
        }
        (known, outcome.map_err(PodError::from))
    }

    fn forget(&mut self, uid: &WorkloadUid, changes: &mut PodChanges) {
        let Some(known) = self.known.remove(uid) else {
            return;
        };
        if let Err(error) = self.kernel.release(known.namespace.cookie()) {
            changes.failed.push((uid.clone(), error.into()));
        }
        if let State::Captured(pod) = known.state {
            changes.stopped.push(pod);
        }
    }

    /// Pods that went while no agent ran.
    fn forget_earlier(&mut self, changes: &mut PodChanges) {
        // A pod that could not be opened may be one of them: it stays held.
        if !changes.failed.is_empty() {
            return;
        }
        let live: BTreeSet<u64> = self.known.values().map(|known| known.namespace.cookie()).collect();
        self.took_over = self.kernel.retain(&live).is_ok();
    }
}

fn sockets(listeners: &[Listener]) -> PodListeners<'_> {
    let of = |direction, family| {
        let wanted = |listener: &&Listener| listener.direction() == direction && listener.family() == family;
        listeners.iter().find(wanted).map(Listener::as_fd)
    };
    PodListeners {
        outbound_v4: of(Direction::Outbound, Family::V4),
        outbound_v6: of(Direction::Outbound, Family::V6),
        inbound_v4: of(Direction::Inbound, Family::V4),
        inbound_v6: of(Direction::Inbound, Family::V6),
    }
}
