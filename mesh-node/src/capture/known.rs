//! A pod that was found: brought where it should be, one state to the next.
//!
//! In: its workload as it is now. Out: its namespace held, opened with listeners, or left alone.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use mesh_common::model::{Direction, Workload};

use super::cgroups::Found;
use super::connections::Outside;
use super::listener::{Family, ListenError, Listener};
use super::namespace::Namespace;
use super::pod_error::PodError;
use super::pods::{CapturedPod, PodChanges};
use super::ports::Ports;
use crate::kernel::{Kernel, PodFacts, PodListeners};

/// One pod, as it was found and as the kernel has it.
pub(super) struct Known {
    pub(super) workload: Arc<Workload>,
    pub(super) namespace: Namespace,
    /// The cgroup by which it was found; `None` where an annotation says where it is.
    pub(super) found: Option<Found>,
    pub(super) state: State,
}

/// What is done with a pod.
pub(super) enum State {
    Held,
    /// Held, with listeners.
    Open(Arc<CapturedPod>),
    Captured(Arc<CapturedPod>, Outside),
    Passed,
}

impl Known {
    pub(super) fn new(workload: Arc<Workload>, namespace: Namespace, found: Option<Found>) -> Self {
        Self { workload, namespace, found, state: State::Held }
    }

    /// Holds a pod and opens its listeners: nothing passes from here until it is captured.
    pub(super) fn open(
        &mut self,
        kernel: &mut Kernel,
        workload: &Arc<Workload>,
        changes: &mut PodChanges,
    ) -> Result<(), PodError> {
        let (facts, cookie) = (PodFacts::of(workload), self.namespace.cookie());
        let changed = facts != PodFacts::of(&self.workload);
        match &self.state {
            State::Captured(pod, _) if changed => kernel.capture(cookie, &facts, &sockets(&pod.listeners))?,
            State::Captured(..) => {}
            State::Open(pod) => {
                kernel.hold(cookie, self.namespace.as_fd(), &facts)?;
                changes.opened.push(Arc::clone(pod));
            }
            State::Held | State::Passed => {
                self.state = State::Held;
                kernel.hold(cookie, self.namespace.as_fd(), &facts)?;
                let pod = CapturedPod {
                    workload: Arc::clone(workload),
                    namespace: self.namespace.clone(),
                    listeners: listeners(&self.namespace, workload)?,
                };
                let pod = Arc::new(pod);
                changes.opened.push(Arc::clone(&pod));
                self.state = State::Open(pod);
            }
        }
        self.workload = Arc::clone(workload);
        Ok(())
    }

    /// Every namespace that may be the pod's.
    pub(super) fn namespaces(&self) -> Box<dyn Iterator<Item = &Namespace> + '_> {
        match &self.found {
            Some(found) => Box::new(found.namespaces()),
            None => Box::new(std::iter::once(&self.namespace)),
        }
    }

    /// Gives up namespaces that are others'; `None` if there is none left.
    pub(super) fn without(self, is_anothers: impl Fn(u64) -> bool) -> Option<Self> {
        let found = self.found?.without(is_anothers)?;
        Some(Self { namespace: found.namespace().clone(), found: Some(found), ..self })
    }

    /// Whether another namespace may be the pod's.
    pub(super) fn is_in_doubt(&self, workload: &Workload) -> bool {
        self.found.as_ref().is_some_and(|found| found.is_in_doubt(&workload.addresses))
    }

    /// Leaves a pod alone. What was captured goes on.
    pub(super) fn pass(
        &mut self,
        kernel: &mut Kernel,
        workload: &Arc<Workload>,
        changes: &mut PodChanges,
    ) -> Result<(), PodError> {
        let facts = PodFacts::of(workload);
        if !matches!(self.state, State::Passed) || facts != PodFacts::of(&self.workload) {
            kernel.pass(self.namespace.cookie(), &facts)?;
            changes.stopped.extend(std::mem::replace(&mut self.state, State::Passed).pod());
        }
        self.workload = Arc::clone(workload);
        Ok(())
    }

    pub(super) fn connections_outside(&self) -> usize {
        match &self.state {
            State::Captured(_, outside) => outside.count(),
            State::Held | State::Open(_) | State::Passed => 0,
        }
    }
}

impl State {
    pub(super) fn pod(self) -> Option<Arc<CapturedPod>> {
        match self {
            Self::Open(pod) | Self::Captured(pod, _) => Some(pod),
            Self::Held | Self::Passed => None,
        }
    }
}

fn listeners(namespace: &Namespace, workload: &Workload) -> Result<Vec<Arc<Listener>>, ListenError> {
    let ports = Ports::of(namespace, &workload.details);
    let mut listeners = Vec::with_capacity(4);
    for direction in [Direction::Outbound, Direction::Inbound] {
        for family in [Family::V4, Family::V6] {
            listeners.extend(Listener::open(namespace, &ports, direction, family)?.map(Arc::new));
        }
    }
    Ok(listeners)
}

/// The listeners of one namespace, as the kernel's side takes them.
pub(super) fn sockets(listeners: &[Arc<Listener>]) -> PodListeners<'_> {
    let of = |direction, family| {
        let mut listeners = listeners.iter();
        let found = listeners.find(|socket| socket.direction() == direction && socket.family() == family);
        found.map(|socket| socket.as_fd())
    };
    PodListeners {
        outbound_v4: of(Direction::Outbound, Family::V4),
        outbound_v6: of(Direction::Outbound, Family::V6),
        inbound_v4: of(Direction::Inbound, Family::V4),
        inbound_v6: of(Direction::Inbound, Family::V6),
    }
}
