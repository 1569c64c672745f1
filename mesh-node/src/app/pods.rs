//! Pods of this node: what `capture` opens gets its certificate and its cores, and only then its connections.
//!
//! In: a snapshot. Out: every enrolled pod captured on every core, every other pod left alone. One task owns this;
//! the kernel's maps have no other writer. A pod that fails is refused its connections, is said once, and is tried
//! again; it holds up no other.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use mesh_common::model::{Enrolment, Text, Workload, WorkloadUid};
use mesh_common::snapshot::Snapshot;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::cores::Cores;
use crate::capture::{self, CapturedPod, PodChanges, PodError, TrialError};
use crate::identity::{Identities, IssueError};
use crate::kernel::Kernel;
use crate::proxy::{PodHandle, Shared};
use crate::telemetry::chain::Chain;

/// Every pod of this node that is known to the kernel.
pub(super) struct Pods {
    pods: capture::Pods,
    identities: Arc<Identities>,
    shared: Arc<Shared>,
    cores: Cores,
    node: Text,
    /// Pods whose failure was said.
    said: HashSet<WorkloadUid>,
}

/// What became of one look at all pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Synced {
    pub(super) captured: usize,
    pub(super) failed: usize,
}

/// Why a pod is not captured.
#[derive(Debug, thiserror::Error)]
enum NotCaptured {
    #[error(transparent)]
    Pod(#[from] PodError),
    #[error("obtain its certificate")]
    Certificate(#[from] IssueError),
}

impl Pods {
    pub(super) fn new(
        pods: capture::Pods,
        identities: Arc<Identities>,
        shared: Arc<Shared>,
        cores: Cores,
        node: Text,
    ) -> Self {
        Self { pods, identities, shared, cores, node, said: HashSet::new() }
    }

    pub(super) fn kernel(&mut self) -> &mut Kernel {
        self.pods.kernel()
    }

    pub(super) fn cores(&self) -> &Cores {
        &self.cores
    }

    /// Lets go of everything but the threads: the pins stay, and hold the pods.
    pub(super) fn into_cores(self) -> Cores {
        self.cores
    }

    /// Connections that captured pods had before, and have still.
    pub(super) fn connections_outside(&self) -> usize {
        self.pods.connections_outside()
    }

    /// Looks at up to about `limit` of them again.
    pub(super) fn look_outside(&mut self, limit: usize) {
        self.pods.look_outside(limit);
    }

    /// Whether a pod is no longer where it was found.
    pub(super) fn has_moved(&self) -> bool {
        self.pods.has_moved()
    }

    /// Whether a pod came to where it was not.
    pub(super) fn has_news(&self) -> bool {
        self.pods.has_news()
    }

    /// Pods that are captured now.
    pub(super) fn captured(&self) -> usize {
        self.pods.captured()
    }

    /// Tries out whether connections are captured, out of a pod and into one.
    pub(super) async fn try_capture(
        &mut self,
        cgroup_root: &Path,
    ) -> Result<(Result<(), TrialError>, Result<(), TrialError>), TrialError> {
        let trial = Arc::new(self.pods.begin_trial(cgroup_root)?);
        let results = on_a_thread({
            let trial = Arc::clone(&trial);
            move || (trial.outbound(), trial.inbound())
        });
        let results = results.await;
        self.pods.end_trial(&trial)?;
        results.map_err(TrialError::Make)
    }

    /// Makes the node's pods what the snapshot says.
    pub(super) async fn sync(&mut self, snapshot: &Snapshot) -> Synced {
        let node = Arc::clone(&self.node);
        let wanted: Vec<Arc<Workload>> =
            snapshot.workloads_on(&node).filter(|workload| !workload.host_network).cloned().collect();
        let changes = self.pods.sync(&wanted);
        self.let_go(&changes);
        let mut failed: HashSet<WorkloadUid> = HashSet::new();
        for (workload, error) in changes.failed {
            failed.insert(workload.uid.clone());
            self.say(&workload, &error.into());
        }
        let mut opened: HashMap<WorkloadUid, Arc<CapturedPod>> =
            changes.opened.into_iter().map(|pod| (pod.workload.uid.clone(), pod)).collect();
        for workload in &wanted {
            if workload.enrolment == Enrolment::Disabled || failed.contains(&workload.uid) {
                continue;
            }
            match self.admit(workload, opened.remove(&workload.uid)).await {
                Ok(()) => {
                    self.said.remove(&workload.uid);
                }
                Err(error) => {
                    failed.insert(workload.uid.clone());
                    self.say(workload, &error);
                }
            }
        }
        self.forget_identities(&wanted);
        Synced { captured: self.pods.captured(), failed: failed.len() }
    }

    /// Listeners that nothing is led to any more, and pods that are gone.
    fn let_go(&mut self, changes: &PodChanges) {
        for pod in &changes.stopped {
            self.cores.close_listeners(&pod.listeners);
            info!(pod = %pod.workload.name, "pod no longer captured");
        }
        for workload in &changes.gone {
            self.cores.remove_pod(&workload.uid);
            self.said.remove(&workload.uid);
            info!(pod = %workload.name, "pod released");
        }
    }

    /// Obtains a pod's certificate, has every core accept at its listeners, and only then lets its connections in.
    async fn admit(
        &mut self,
        workload: &Arc<Workload>,
        opened: Option<Arc<CapturedPod>>,
    ) -> Result<(), NotCaptured> {
        self.identities.ensure(&workload.identity).await?;
        let Some(pod) = opened else { return Ok(()) };
        let places = self.shared.places.pod(&workload.name.namespace);
        let handle = PodHandle::new(workload.uid.clone(), pod.namespace.clone(), places);
        self.cores.add_pod(&handle, &pod.listeners);
        match self.pods.capture(&pod) {
            Ok(connections_outside) => {
                info!(pod = %workload.name, identity = %workload.identity, connections_outside, "pod captured");
                Ok(())
            }
            Err(error) => {
                self.cores.close_listeners(&pod.listeners);
                Err(error.into())
            }
        }
    }

    fn forget_identities(&self, wanted: &[Arc<Workload>]) {
        let enrolled = wanted.iter().filter(|workload| workload.enrolment == Enrolment::Enabled);
        let kept: HashSet<_> = enrolled.map(|workload| &workload.identity).collect();
        self.identities.retain(|identity| kept.contains(identity));
    }

    fn say(&mut self, workload: &Workload, error: &NotCaptured) {
        if self.said.insert(workload.uid.clone()) {
            warn!(pod = %workload.name, error = %Chain(error), "pod is not captured; its connections are refused");
        }
    }
}

/// Does something that waits, on a thread that is gone afterwards: one of the runtime's stays for seconds, with all
/// that it has opened.
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (tell, told) = oneshot::channel();
    // Nobody listens only if the agent is ending.
    let work = move || drop(tell.send(work()));
    let thread = thread::Builder::new().name("trial".to_owned()).spawn(work)?;
    let done = told.await.map_err(|_| io::Error::other("the thread of a trial panicked"));
    // It has nothing left to do but to end.
    let _ = thread.join();
    done
}
