//! Pods of this node: from what is known of them to namespaces, listeners, certificates and kernel entries.
//!
//! In: a snapshot. Out: every enrolled pod captured on every core, every other pod left alone. One task owns this;
//! the kernel's maps have no other writer. A pod that fails is refused its connections, is said once, and is tried
//! again; it holds up no other.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use mesh_common::model::{Direction, Enrolment, Text, Workload, WorkloadUid};
use mesh_common::snapshot::Snapshot;
use tracing::{info, warn};

use super::cores::Cores;
use crate::capture::{Family, ListenError, Listener, Namespace, NamespaceError};
use crate::identity::{Identities, IssueError};
use crate::kernel::{Kernel, KernelError, PodFacts, PodListeners};
use crate::proxy::{PodHandle, Shared};
use crate::telemetry::chain::Chain;
use crate::transport::tunnel::ListenerId;

/// Every pod of this node that is known to the kernel.
pub(super) struct Pods {
    kernel: Kernel,
    identities: Arc<Identities>,
    shared: Arc<Shared>,
    cores: Cores,
    node: Text,
    known: HashMap<WorkloadUid, KnownPod>,
    /// Pods whose failure was said.
    said: HashSet<WorkloadUid>,
    /// The last name that a listener was given.
    last_listener: u64,
}

/// A pod whose namespace is open.
struct KnownPod {
    workload: Arc<Workload>,
    namespace: Namespace,
    /// The namespace's inode: a path may come to lead to another one.
    inode: u64,
    standing: Standing,
}

enum Standing {
    /// Refused until it is captured.
    Held,
    Captured(Vec<(ListenerId, Arc<Listener>)>),
    /// Not enrolled.
    Passed,
}

/// What became of one look at all pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Synced {
    pub(super) captured: usize,
    pub(super) failed: usize,
}

/// Why a pod is not captured.
#[derive(Debug, thiserror::Error)]
enum PodError {
    #[error(
        "the pod is enrolled and its network namespace is not told; set the annotation nodemesh.dev/netns"
    )]
    NoNamespace,
    #[error("open its network namespace")]
    Namespace(#[from] NamespaceError),
    #[error("listen in its network namespace")]
    Listen(#[from] ListenError),
    #[error("obtain its certificate")]
    Certificate(#[from] IssueError),
    #[error("tell the kernel")]
    Kernel(#[from] KernelError),
}

impl Pods {
    pub(super) fn new(
        kernel: Kernel,
        identities: Arc<Identities>,
        shared: Arc<Shared>,
        cores: Cores,
        node: Text,
    ) -> Self {
        Self {
            kernel,
            identities,
            shared,
            cores,
            node,
            known: HashMap::new(),
            said: HashSet::new(),
            last_listener: 0,
        }
    }

    pub(super) fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    pub(super) fn cores(&self) -> &Cores {
        &self.cores
    }

    /// Lets go of everything but the threads: the pins stay, and hold the pods.
    pub(super) fn into_cores(self) -> Cores {
        self.cores
    }

    /// Makes the node's pods what the snapshot says.
    pub(super) async fn sync(&mut self, snapshot: &Snapshot) -> Synced {
        let node = Arc::clone(&self.node);
        let wanted: Vec<Arc<Workload>> =
            snapshot.workloads_on(&node).filter(|workload| !workload.host_network).cloned().collect();
        self.forget_gone(&wanted);
        let mut synced = Synced::default();
        for workload in &wanted {
            match self.sync_pod(workload).await {
                Ok(()) => {
                    self.said.remove(&workload.uid);
                }
                Err(error) => {
                    synced.failed += 1;
                    self.say(workload, &error);
                }
            }
        }
        // A pod that cannot be opened now may be one that an agent before captured: it stays held.
        if synced.failed == 0 {
            self.release_unknown();
        }
        self.forget_identities(&wanted);
        let is_captured = |pod: &&KnownPod| matches!(pod.standing, Standing::Captured(_));
        synced.captured = self.known.values().filter(is_captured).count();
        synced
    }

    fn forget_gone(&mut self, wanted: &[Arc<Workload>]) {
        let live: HashMap<&WorkloadUid, &Workload> =
            wanted.iter().map(|workload| (&workload.uid, workload.as_ref())).collect();
        let is_same = |uid: &WorkloadUid, pod: &KnownPod| {
            live.get(uid).is_some_and(|workload| {
                workload.netns == pod.workload.netns
                    && workload.netns.as_deref().and_then(inode_of) == Some(pod.inode)
            })
        };
        let gone: Vec<WorkloadUid> =
            self.known.iter().filter(|(uid, pod)| !is_same(uid, pod)).map(|(uid, _)| uid.clone()).collect();
        for uid in gone {
            self.forget(&uid);
        }
    }

    fn forget(&mut self, uid: &WorkloadUid) {
        let Some(pod) = self.known.remove(uid) else { return };
        if let Standing::Captured(listeners) = &pod.standing {
            self.cores.close_listeners(listeners);
        }
        self.cores.remove_pod(uid);
        if let Err(error) = self.kernel.release(pod.namespace.cookie()) {
            warn!(pod = %pod.workload.name, error = %Chain(&error), "cannot release a pod that is gone");
        }
        info!(pod = %pod.workload.name, "pod released");
    }

    async fn sync_pod(&mut self, workload: &Arc<Workload>) -> Result<(), PodError> {
        if let Some(pod) = self.known.get(&workload.uid)
            && Arc::ptr_eq(&pod.workload, workload)
            && !matches!(pod.standing, Standing::Held)
        {
            return Ok(());
        }
        if !self.known.contains_key(&workload.uid) {
            let Some(path) = &workload.netns else {
                return if workload.enrolment == Enrolment::Enabled {
                    Err(PodError::NoNamespace)
                } else {
                    Ok(())
                };
            };
            let namespace = Namespace::open(path)?;
            let inode = inode_of(path).unwrap_or_default();
            let pod = KnownPod { workload: workload.clone(), namespace, inode, standing: Standing::Held };
            self.known.insert(workload.uid.clone(), pod);
        }
        match workload.enrolment {
            Enrolment::Enabled => self.capture(workload).await,
            Enrolment::Disabled => self.pass(workload),
        }
    }

    /// Holds a pod, opens its listeners, obtains its certificate, and only then lets its connections in.
    async fn capture(&mut self, workload: &Arc<Workload>) -> Result<(), PodError> {
        let facts = PodFacts::of(workload);
        let Some(pod) = self.known.get_mut(&workload.uid) else { return Ok(()) };
        let cookie = pod.namespace.cookie();
        let is_new = !matches!(pod.standing, Standing::Captured(_));
        if is_new {
            pod.standing = Standing::Held;
            self.kernel.hold(cookie, pod.namespace.as_fd(), &facts)?;
            let listeners = open_listeners(&pod.namespace, &mut self.last_listener)?;
            self.identities.ensure(&workload.identity).await?;
            let handle = PodHandle::new(
                workload.uid.clone(),
                pod.namespace.clone(),
                self.shared.places.pod(&workload.name.namespace),
            );
            self.cores.add_pod(&handle, &listeners);
            self.kernel.capture(cookie, &facts, &borrow(&listeners))?;
            pod.standing = Standing::Captured(listeners);
            info!(pod = %workload.name, identity = %workload.identity, "pod captured");
        } else if let Standing::Captured(listeners) = &pod.standing {
            self.identities.ensure(&workload.identity).await?;
            self.kernel.capture(cookie, &facts, &borrow(listeners))?;
        }
        pod.workload = workload.clone();
        Ok(())
    }

    fn pass(&mut self, workload: &Arc<Workload>) -> Result<(), PodError> {
        let Some(pod) = self.known.get_mut(&workload.uid) else { return Ok(()) };
        self.kernel.pass(pod.namespace.cookie(), &PodFacts::of(workload))?;
        let before = std::mem::replace(&mut pod.standing, Standing::Passed);
        pod.workload = workload.clone();
        if let Standing::Captured(listeners) = before {
            self.cores.close_listeners(&listeners);
            info!(pod = %workload.name, "pod no longer captured");
        }
        Ok(())
    }

    /// Pods that went while no agent ran.
    fn release_unknown(&mut self) {
        let live: BTreeSet<u64> = self.known.values().map(|pod| pod.namespace.cookie()).collect();
        if let Err(error) = self.kernel.retain(&live) {
            warn!(error = %Chain(&error), "cannot release pods of an agent before");
        }
    }

    fn forget_identities(&self, wanted: &[Arc<Workload>]) {
        let enrolled = wanted.iter().filter(|workload| workload.enrolment == Enrolment::Enabled);
        let kept: HashSet<_> = enrolled.map(|workload| &workload.identity).collect();
        self.identities.retain(|identity| kept.contains(identity));
    }

    fn say(&mut self, workload: &Workload, error: &PodError) {
        if self.said.insert(workload.uid.clone()) {
            warn!(pod = %workload.name, error = %Chain(error), "pod is not captured; its connections are refused");
        }
    }
}

fn open_listeners(
    namespace: &Namespace,
    last: &mut u64,
) -> Result<Vec<(ListenerId, Arc<Listener>)>, ListenError> {
    let mut listeners = Vec::with_capacity(4);
    for direction in [Direction::Outbound, Direction::Inbound] {
        for family in [Family::V4, Family::V6] {
            if let Some(listener) = Listener::open(namespace, direction, family)? {
                *last += 1;
                listeners.push((ListenerId(*last), Arc::new(listener)));
            }
        }
    }
    Ok(listeners)
}

fn borrow(listeners: &[(ListenerId, Arc<Listener>)]) -> PodListeners<'_> {
    let find = |direction, family| {
        let mut sockets = listeners.iter().map(|(_, listener)| listener);
        let found = sockets.find(|socket| socket.direction() == direction && socket.family() == family);
        found.map(|socket| socket.as_fd())
    };
    PodListeners {
        outbound_v4: find(Direction::Outbound, Family::V4),
        outbound_v6: find(Direction::Outbound, Family::V6),
        inbound_v4: find(Direction::Inbound, Family::V4),
        inbound_v6: find(Direction::Inbound, Family::V6),
    }
}

fn inode_of(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|file| file.ino())
}
