//! Pods of this node: what `capture` opens gets its certificate and its cores, and only then its connections.
//!
//! In: a snapshot. Out: every enrolled pod captured on every core, every other pod left alone. One task owns this;
//! the kernel's maps have no other writer. A pod that fails is refused its connections, is said once for each reason, and
//! is tried again; it holds up no other.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use mesh_common::model::{Enrolment, SpiffeId, Text, Workload, WorkloadUid};
use mesh_common::snapshot::Snapshot;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::cores::Cores;
use super::not_captured::{Kind, NotCaptured, Synced};
use crate::capture::{self, CapturedPod, PodChanges, TrialError, UntoldPod};
use crate::identity::Identities;
use crate::kernel::Kernel;
use crate::proxy::{PodHandle, Shared};
use crate::telemetry::chain::Chain;

/// How long new pods' certificates are waited for: fifty times what a controller takes. Later ones are found at the next
/// look.
const CERTIFICATES: Duration = Duration::from_millis(500);

/// Every pod of this node that is known to the kernel.
pub(super) struct Pods {
    pods: capture::Pods,
    identities: Arc<Identities>,
    shared: Arc<Shared>,
    cores: Cores,
    node: Text,
    /// Which failure of a pod was said last.
    said: HashMap<WorkloadUid, Kind>,
    /// Whether it was said that namespaces are not let go.
    is_unreleased_said: bool,
}

impl Pods {
    pub(super) fn new(
        pods: capture::Pods,
        identities: Arc<Identities>,
        shared: Arc<Shared>,
        cores: Cores,
        node: Text,
    ) -> Self {
        Self { pods, identities, shared, cores, node, said: HashMap::new(), is_unreleased_said: false }
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

    /// Leaves the mesh's own controllers alone that nobody told of.
    pub(super) fn pass_controllers(&mut self) {
        match self.pods.pass_controllers() {
            Ok(0) => {}
            Ok(count) => info!(count, "controllers left alone, known by the kubelet's folders of logs"),
            Err(error) => warn!(error = %Chain(&error), "cannot leave a controller alone; trying again"),
        }
    }

    /// Whether somebody is about to come to where a pod has its place.
    pub(super) fn awaits(&self) -> bool {
        self.pods.awaits()
    }

    /// Whether a pod came to where it was not, or is no longer where it was found.
    pub(super) fn has_news(&self) -> bool {
        self.pods.has_news()
    }

    /// Pods that nobody has told of for long.
    pub(super) fn look_for_untold(&mut self) -> Vec<UntoldPod> {
        self.pods.look_for_untold(Instant::now())
    }

    /// Whether there are any, be it for a moment.
    pub(super) fn has_untold(&self) -> bool {
        self.pods.has_untold()
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
        let mut synced = Synced { unreleased: changes.unreleased.len(), ..Synced::default() };
        let mut failed: HashSet<WorkloadUid> = HashSet::new();
        for (workload, error) in changes.failed {
            failed.insert(workload.uid.clone());
            self.refuse(&workload, &error.into(), &mut synced);
        }
        let rest = wanted.iter().filter(|workload| !failed.contains(&workload.uid));
        let (enrolled, others): (Vec<_>, Vec<_>) =
            rest.partition(|workload| workload.enrolment == Enrolment::Enabled);
        for workload in others {
            self.said.remove(&workload.uid);
        }
        let opened = changes.opened.into_iter().map(|pod| (pod.workload.uid.clone(), pod)).collect();
        self.admit_each(enrolled, opened, &mut synced).await;
        self.forget_identities(&wanted);
        Synced { captured: self.pods.captured(), ..synced }
    }

    /// Listeners that nothing is led to any more, and pods that are gone.
    fn let_go(&mut self, changes: &PodChanges) {
        let unreleased = changes.unreleased.len();
        if let Some(error) = changes.unreleased.first().filter(|_| !self.is_unreleased_said) {
            warn!(unreleased, error = %Chain(error), "cannot let go of pods that are gone; trying again");
        }
        self.is_unreleased_said = unreleased > 0;
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

    /// Lets pods in, each as soon as it has its certificate: who waits for one holds up no other.
    async fn admit_each(
        &mut self,
        enrolled: Vec<&Arc<Workload>>,
        mut opened: HashMap<WorkloadUid, Arc<CapturedPod>>,
        synced: &mut Synced,
    ) {
        let mut accounts: BTreeMap<SpiffeId, Vec<&Arc<Workload>>> = BTreeMap::new();
        for workload in enrolled {
            accounts.entry(workload.identity.clone()).or_default().push(workload);
        }
        let identities = Arc::clone(&self.identities);
        let wanted: Vec<SpiffeId> = accounts.keys().cloned().collect();
        let mut ensured = pin!(identities.ensure_each(wanted, CERTIFICATES));
        while let Some((identity, result)) = ensured.next().await {
            for workload in accounts.remove(&identity).into_iter().flatten() {
                let admitted = match &result {
                    Ok(()) => self.admit(workload, opened.remove(&workload.uid)),
                    Err(error) => Err(NotCaptured::Certificate(Arc::clone(error))),
                };
                match admitted {
                    Ok(()) => drop(self.said.remove(&workload.uid)),
                    Err(error) => self.refuse(workload, &error, synced),
                }
            }
        }
    }

    /// Has every core accept at the listeners of a pod that has its certificate, and only then lets its connections in.
    fn admit(
        &mut self,
        workload: &Arc<Workload>,
        opened: Option<Arc<CapturedPod>>,
    ) -> Result<(), NotCaptured> {
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

    /// Notes why a pod is not as it should be, and says it once for each reason.
    fn refuse(&mut self, workload: &Workload, error: &NotCaptured, synced: &mut Synced) {
        synced.refuses(workload, error);
        if self.said.insert(workload.uid.clone(), error.kind()) == Some(error.kind()) {
            return;
        }
        let (pod, error) = (&workload.name, Chain(error));
        match workload.enrolment {
            Enrolment::Enabled => warn!(%pod, %error, "pod is not captured; its connections are refused"),
            Enrolment::Disabled => {
                warn!(%pod, %error, "pod outside the mesh is not left alone in every namespace")
            }
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
