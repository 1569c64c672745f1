//! The pods of this node, kept captured: from what is known now to namespaces, listeners and the kernel's maps.
//!
//! In: the workloads of this node, whenever they change. Out: [`CapturedPod`]s that are ready to be captured, and pods
//! that went. A pod that cannot be captured stays held, its connections refused, and is tried again at the next call.
//!
//! ```text
//! sync(): every new pod is held, with listeners that nothing is led to yet
//!   -> whoever serves the listeners makes ready
//!   -> capture(): connections are led there
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use mesh_common::model::{Enrolment, Workload, WorkloadUid};
use tracing::{debug, warn};

use super::cgroups::{Found, PodCgroups};
use super::connections::Outside;
use super::controllers::ControllerLogs;
use super::known::{Known, State, sockets};
use super::left::Left;
use super::listener::Listener;
use super::namespace::Namespace;
use super::pod_error::PodError;
use super::processes::namespaces;
use super::untold::{Untold, UntoldPod};
use crate::kernel::{Kernel, KernelError, PodFacts};

/// A pod whose connections come to this daemon. The cores share it; its listeners close with the last of them.
#[derive(Debug)]
pub struct CapturedPod {
    /// Which pod, as it was known when its listeners were opened.
    pub workload: Arc<Workload>,
    /// Where its sockets are, and where the daemon dials from on its behalf.
    pub namespace: Namespace,
    /// One per direction and family that the namespace has.
    pub listeners: Vec<Arc<Listener>>,
}

/// What a call changed.
#[derive(Debug, Default)]
pub struct PodChanges {
    /// Held, with listeners: to be captured as soon as somebody accepts on them.
    pub opened: Vec<Arc<CapturedPod>>,
    /// Listeners that nothing is led to any more: to be let go.
    pub stopped: Vec<Arc<CapturedPod>>,
    /// Pods that are gone.
    pub gone: Vec<Arc<Workload>>,
    /// Not as they should be; each is closed, and tried again at the next call.
    pub failed: Vec<(Arc<Workload>, PodError)>,
    /// Why namespaces that no pod is in any more are not let go; tried again at the next call.
    pub unreleased: Vec<KernelError>,
}

/// The pods of this node. One thread has it, and the kernel's side in it.
pub struct Pods {
    kernel: Kernel,
    cgroups: PodCgroups,
    known: BTreeMap<WorkloadUid, Known>,
    /// Where pods are not seen any more.
    left: Left,
    logs: ControllerLogs,
    /// Controllers that nobody told of yet, left alone where they are.
    controllers: BTreeMap<WorkloadUid, Found>,
    /// Pods that the last [`sync`](Self::sync) was told of.
    told: BTreeSet<WorkloadUid>,
    /// Pods of a kubelet that were not found at the last [`sync`](Self::sync): not begun yet, or at their end.
    absent: Vec<Arc<Workload>>,
    untold: Untold,
}

/// Whether a pod's namespace is held where nothing is seen of it any more: people say where those with an annotation are.
fn is_held_where_it_was(workload: &Workload) -> bool {
    workload.enrolment == Enrolment::Enabled && workload.details.netns.is_none()
}

/// Whether a pod says that it is a kubelet's own, and has not the address that only this kubelet gives it. Whoever may
/// create pods may write such annotations, and would have another pod's place.
fn is_mere_claim(workload: &Workload) -> bool {
    workload.details.static_uid.is_some() && workload.addresses.is_empty()
}

impl Pods {
    /// No pods yet, but those that an agent before left in the kernel: they are held until the first
    /// [`sync`](Self::sync) that finds every pod. Pods without an annotation are looked for below `cgroup_root`.
    pub fn new(kernel: Kernel, cgroup_root: PathBuf, logs: ControllerLogs) -> Self {
        Self {
            kernel,
            cgroups: PodCgroups::below(cgroup_root),
            known: BTreeMap::new(),
            left: Left::default(),
            logs,
            controllers: BTreeMap::new(),
            told: BTreeSet::new(),
            absent: Vec::new(),
            untold: Untold::default(),
        }
    }

    /// Makes the kernel's side what these workloads of this node ask for. Pods of the host's own network are left
    /// out; of two pods that claim one address, the one that comes later has it.
    pub fn sync<'a>(&mut self, workloads: impl IntoIterator<Item = &'a Arc<Workload>>) -> PodChanges {
        let mut changes = PodChanges::default();
        let wanted: BTreeMap<&WorkloadUid, &Arc<Workload>> = workloads
            .into_iter()
            .filter(|workload| !workload.host_network)
            .map(|workload| (&workload.uid, workload))
            .collect();
        let told = wanted.values().filter(|workload| !is_mere_claim(workload));
        self.told = told.map(|workload| workload.uid_on_node().clone()).collect();
        // What the objects say of them counts from here on.
        self.controllers.retain(|uid, _| !self.told.contains(uid));
        let is_held =
            |uid: &WorkloadUid| wanted.get(uid).is_some_and(|workload| is_held_where_it_was(workload));
        self.left.retain(is_held, |cookie| self.kernel.has_ended(cookie));
        // Those that went first: their addresses may be those of pods that came.
        self.forget_gone(&wanted, &mut changes);
        self.absent.clear();
        let mut wanted: Vec<&Arc<Workload>> = wanted.into_values().collect();
        // First those that are held and captured: who is left alone is left alone nowhere else.
        wanted.sort_by_key(|workload| workload.enrolment == Enrolment::Disabled);
        for workload in wanted {
            if let Err(error) = self.place(workload, &mut changes) {
                changes.failed.push((Arc::clone(workload), error));
            }
            let is_findable = workload.details.netns.is_none() && !is_mere_claim(workload);
            if !self.known.contains_key(&workload.uid) && is_findable {
                self.absent.push(Arc::clone(workload));
            }
        }
        // Also who was found, and had to give way to one that came after it.
        let is_lost = |workload: &&Arc<Workload>| !self.known.contains_key(&workload.uid);
        let lost: Vec<Arc<Workload>> =
            changes.failed.iter().map(|(workload, _)| workload).filter(is_lost).cloned().collect();
        changes.unreleased = self.release_unknown(&lost);
        changes
    }

    /// Leads the connections of an opened pod to its listeners: how many it had before, which go on outside the mesh.
    ///
    /// # Errors
    /// A map is full: the pod is held, and opened again at the next [`sync`](Self::sync). Its listeners are to be let
    /// go.
    pub fn capture(&mut self, pod: &Arc<CapturedPod>) -> Result<usize, PodError> {
        let Some(known) = self.known.get_mut(&pod.workload.uid) else { return Ok(0) };
        known.state = State::Held;
        let facts = PodFacts::of(&known.workload);
        // Before the listeners dial from there themselves. Nothing depends on this count but what people are told.
        let outside = Outside::find(&known.namespace, &facts).unwrap_or_else(|error| {
            warn!(pod = %known.workload.name, %error, "cannot count connections outside the mesh");
            Outside::default()
        });
        self.kernel.capture(known.namespace.cookie(), &facts, &sockets(&pod.listeners))?;
        let count = outside.count();
        known.state = State::Captured(Arc::clone(pod), outside);
        Ok(count)
    }

    /// Leaves this mesh's own controllers alone that nobody told of: how many more it found. Who is told of, now or when an
    /// agent before enrolled it, is what the objects say, whatever the kubelet's folders are called.
    ///
    /// # Errors
    /// The kernel's side fails; tried again at the next call.
    pub fn pass_controllers(&mut self) -> Result<usize, KernelError> {
        let named: BTreeSet<WorkloadUid> = self.logs.uids().into_iter().collect();
        let is_gone = |uid: &WorkloadUid, found: &Found| !named.contains(uid) || !found.is_there();
        let gone: Vec<WorkloadUid> = self
            .controllers
            .iter()
            .filter(|(uid, found)| is_gone(uid, found))
            .map(|(uid, _)| uid.clone())
            .collect();
        for found in gone.iter().filter_map(|uid| self.controllers.remove(uid)).collect::<Vec<_>>() {
            self.release(found.namespace().cookie())?;
        }
        let mut count = 0;
        for uid in named {
            if self.told.contains(&uid) || self.controllers.contains_key(&uid) {
                continue;
            }
            // Not begun, or one of before: a pod that cannot be found is refused its connections, as any is.
            let Ok(Some(found)) = self.cgroups.find(&uid, &[]) else { continue };
            let cookie = found.namespace().cookie();
            let is_anothers = self.is_anothers(cookie) || self.kernel.is_enrolled(cookie);
            if !found.is_in_doubt(&[]) && !is_anothers {
                self.kernel.pass(cookie, &PodFacts::default())?;
                self.controllers.insert(uid, found);
                count += 1;
            }
        }
        Ok(count)
    }

    /// How many pods are captured now.
    pub fn captured(&self) -> usize {
        self.known.values().filter(|known| matches!(known.state, State::Captured(..))).count()
    }

    /// Whether a pod that was not there is there now, or one has another sandbox: the next [`sync`](Self::sync) finds it.
    pub fn has_news(&self) -> bool {
        let has_moved =
            self.known.values().filter_map(|known| known.found.as_ref()).any(|found| !found.is_there());
        let is_there = |uid: &WorkloadUid| self.cgroups.find(uid, &[]).is_ok_and(|found| found.is_some());
        has_moved || self.empty().into_iter().any(is_there)
    }

    /// Whether nobody is in a pod that has its place: somebody may be in a moment, and nobody tells of that.
    pub fn awaits(&self) -> bool {
        !self.empty().is_empty()
    }

    /// Looks for pods that nobody has told of: those of them that wait for long. Their connections are refused.
    pub fn look_for_untold(&mut self, now: Instant) -> Vec<UntoldPod> {
        let all = self.cgroups.all().into_iter();
        let unknown = all.filter(|(uid, _)| !self.told.contains(uid) && !self.controllers.contains_key(uid));
        let known: BTreeSet<u64> = self.kernel.namespaces().collect();
        let held = unknown.filter(|(_, folder)| self.is_held(folder, &known)).map(|(uid, _)| uid).collect();
        let mut untold = self.untold.take(held, now);
        if !untold.is_empty() {
            let mut names = self.logs.names();
            for pod in &mut untold {
                pod.name = names.remove(&pod.uid);
            }
        }
        untold
    }

    /// Whether the last such look found any, be it for a moment.
    pub fn has_untold(&self) -> bool {
        self.untold.is_any()
    }

    /// Whether processes of a pod that nobody told of are in a network namespace in which the kernel refuses connections:
    /// it does not know it, or holds it for a pod of before.
    fn is_held(&self, folder: &Path, known: &BTreeSet<u64>) -> bool {
        let refuses = |cookie: u64| !known.contains(&cookie) || self.kernel.is_enrolled(cookie);
        let is_held = |cookie: u64| !self.is_anothers(cookie) && refuses(cookie);
        namespaces(folder).is_ok_and(|all| all.iter().any(|namespace| is_held(namespace.cookie())))
    }

    /// Pods that were not found, and have a cgroup.
    fn empty(&self) -> Vec<&WorkloadUid> {
        match &self.absent[..] {
            [] => Vec::new(),
            absent => self.cgroups.present(absent.iter().map(|workload| workload.uid_on_node())),
        }
    }

    /// How many connections of captured pods go on outside the mesh, as far as is known.
    pub fn connections_outside(&self) -> usize {
        self.known.values().map(Known::connections_outside).sum()
    }

    /// Looks at up to about `limit` connections outside the mesh again, so that they are counted no longer than they
    /// last.
    pub fn look_outside(&mut self, limit: usize) {
        let having: Vec<&mut Known> =
            self.known.values_mut().filter(|known| known.connections_outside() > 0).collect();
        let each = (limit / having.len().max(1)).max(1);
        for Known { workload, namespace, state, .. } in having {
            if let State::Captured(_, outside) = state
                && let Err(error) = outside.look_again(namespace, each)
            {
                debug!(pod = %workload.name, %error, "cannot look at connections outside the mesh");
            }
        }
    }

    /// The kernel's side.
    pub fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// Brings one pod where it should be.
    fn place(&mut self, workload: &Arc<Workload>, changes: &mut PodChanges) -> Result<(), PodError> {
        let mut known = match self.known.remove(&workload.uid) {
            Some(known) if known.is_in_doubt(workload) => self.look_again(known, workload, changes),
            Some(known) => known,
            None => match self.find(workload, changes)? {
                Some(known) => known,
                None if workload.enrolment == Enrolment::Disabled => return Ok(()),
                // Not begun yet, at its end, or between two containers: there is nobody in it.
                None if workload.addresses.is_empty() || self.cgroups.has(workload.uid_on_node()) => {
                    return Ok(());
                }
                None if self.cgroups.are_none() => return Err(PodError::NoPods),
                None => return Err(PodError::NoNamespace),
            },
        };
        let outcome = match workload.enrolment {
            _ if known.is_in_doubt(workload) => {
                self.close(&mut known, workload, changes).and(Err(PodError::InDoubt))
            }
            Enrolment::Enabled => known.open(&mut self.kernel, workload, changes),
            Enrolment::Disabled => known.pass(&mut self.kernel, workload, changes),
        };
        self.known.insert(workload.uid.clone(), known);
        outcome
    }

    /// Finds where a pod is: by its annotation, else by its cgroup. Of two pods in one namespace the one has it that is
    /// there beyond doubt, else the one that was there first.
    fn find(
        &mut self,
        workload: &Arc<Workload>,
        changes: &mut PodChanges,
    ) -> Result<Option<Known>, PodError> {
        let found = match &workload.details.netns {
            Some(path) => Some(Known::new(Arc::clone(workload), Namespace::open(path)?, None)),
            None if is_mere_claim(workload) => None,
            None => self
                .cgroups
                .find(workload.uid_on_node(), &workload.addresses)?
                .map(|found| Known::new(Arc::clone(workload), found.namespace().clone(), Some(found))),
        };
        let Some(found) = found else { return Ok(None) };
        if found.is_in_doubt(workload) {
            // It is not where another is, and held wherever else it may be.
            let others: BTreeSet<u64> = self.known.values().map(|known| known.namespace.cookie()).collect();
            let found = found.without(|cookie| others.contains(&cookie));
            return found.map(Some).ok_or(PodError::InDoubt);
        }
        match self.known.values().find(|known| known.namespace.cookie() == found.namespace.cookie()) {
            Some(other) if other.is_in_doubt(&other.workload) => {
                self.give_way(&other.workload.uid.clone(), &found.namespace, changes);
            }
            Some(other) => return Err(PodError::Taken { other: other.workload.name.to_string() }),
            None => {}
        }
        Ok(Some(found))
    }

    /// Has a pod in doubt give up the namespace of one that is there beyond doubt. It stays held wherever else it may be.
    fn give_way(&mut self, uid: &WorkloadUid, to: &Namespace, changes: &mut PodChanges) {
        let Some(mut known) = self.known.remove(uid) else { return };
        changes.stopped.extend(std::mem::replace(&mut known.state, State::Held).pod());
        if let Some(known) = known.without(|cookie| cookie == to.cookie()) {
            self.known.insert(uid.clone(), known);
        }
    }

    /// Looks anew for a pod of which it is in doubt where it is. What is known stays where nothing better is found.
    fn look_again(&mut self, known: Known, workload: &Arc<Workload>, changes: &mut PodChanges) -> Known {
        let Ok(Some(found)) = self.find(workload, changes) else { return known };
        let kept: BTreeSet<u64> = found.namespaces().map(Namespace::cookie).collect();
        for namespace in known.namespaces().filter(|namespace| !kept.contains(&namespace.cookie())) {
            match &found.found {
                Some(found) if !found.has_seen(namespace.cookie()) => self.leave(workload, namespace),
                // Where it fails, it is tried again with all that nobody is in any more.
                _ => drop(self.release(namespace.cookie())),
            }
        }
        if found.namespace.cookie() == known.namespace.cookie() {
            return Known { found: found.found, ..known };
        }
        changes.stopped.extend(known.state.pod());
        found
    }

    /// Closes every namespace that may be the pod's; what was captured goes on. One that is outside the mesh is left alone
    /// where it has its address, or where there is but one: what else its processes are in stays unknown to the kernel.
    fn close(
        &mut self,
        known: &mut Known,
        workload: &Arc<Workload>,
        changes: &mut PodChanges,
    ) -> Result<(), PodError> {
        changes.stopped.extend(std::mem::replace(&mut known.state, State::Held).pod());
        known.workload = Arc::clone(workload);
        let own: Vec<u64> = known.found.iter().flat_map(Found::own).map(Namespace::cookie).collect();
        let mut outcome = Ok(());
        let candidates: Vec<Namespace> =
            known.namespaces().filter(|namespace| !self.is_anothers(namespace.cookie())).cloned().collect();
        for namespace in candidates {
            let cookie = namespace.cookie();
            // An address leads to one namespace.
            let facts = match cookie == known.namespace.cookie() {
                true => PodFacts::of(workload),
                false => PodFacts::default(),
            };
            let closed = match workload.enrolment {
                Enrolment::Enabled => self.kernel.hold(cookie, namespace.as_fd(), &facts),
                Enrolment::Disabled if own.contains(&cookie) => self.kernel.pass(cookie, &facts),
                Enrolment::Disabled => self.release(cookie),
            };
            outcome = outcome.and(closed);
        }
        Ok(outcome?)
    }

    /// Pods that are wanted no more, and those whose path or cgroup leads to another namespace: another pod of the same
    /// name, or another sandbox of the same pod.
    fn forget_gone(&mut self, wanted: &BTreeMap<&WorkloadUid, &Arc<Workload>>, changes: &mut PodChanges) {
        let is_there = |uid: &WorkloadUid, known: &Known| {
            wanted.get(uid).is_some_and(|workload| match &workload.details.netns {
                Some(path) => known.namespace.is_at(path),
                None => known.found.as_ref().is_some_and(Found::is_there),
            })
        };
        let gone: Vec<WorkloadUid> = self
            .known
            .iter()
            .filter(|(uid, known)| !is_there(uid, known))
            .map(|(uid, _)| uid.clone())
            .collect();
        for known in gone.iter().filter_map(|uid| self.known.remove(uid)).collect::<Vec<_>>() {
            for namespace in known.namespaces() {
                match wanted.get(&known.workload.uid) {
                    Some(workload) if known.found.is_some() => self.leave(workload, namespace),
                    // As above.
                    _ => drop(self.release(namespace.cookie())),
                }
            }
            changes.stopped.extend(known.state.pod());
            changes.gone.push(known.workload);
        }
    }

    /// Pods that went while no agent ran, and those that could not be released when they went. What may be one of the
    /// `lost`, of which it is not known where they are, stays held.
    fn release_unknown(&mut self, lost: &[Arc<Workload>]) -> Vec<KernelError> {
        let mut live: BTreeSet<u64> = self.namespaces().map(Namespace::cookie).collect();
        live.extend(self.left.cookies());
        for pod in lost {
            let may_be = self.kernel.namespaces_of(&pod.addresses);
            live.extend(may_be.filter(|cookie| !self.kernel.has_ended(*cookie)));
        }
        self.kernel.retain(&live)
    }

    /// Holds a namespace where nothing is seen of its pod any more, as long as there is the pod. One outside the mesh is
    /// let go.
    fn leave(&mut self, workload: &Workload, namespace: &Namespace) {
        let cookie = namespace.cookie();
        if self.is_anothers(cookie) {
            return;
        }
        // Where either fails: what was there is closed all the same once its listeners are, or is tried again as above.
        let _ = match is_held_where_it_was(workload) && self.left.insert(&workload.uid, cookie) {
            true => self.kernel.hold(cookie, namespace.as_fd(), &PodFacts::default()),
            false => self.release(cookie),
        };
    }

    /// Lets a namespace go, unless it may be that of a pod which is known.
    fn release(&mut self, cookie: u64) -> Result<(), KernelError> {
        let is_kept = self.is_anothers(cookie) || self.left.has(cookie);
        if is_kept { Ok(()) } else { self.kernel.release(cookie) }
    }

    /// Whether a pod that is known may be in a namespace.
    fn is_anothers(&self, cookie: u64) -> bool {
        self.namespaces().any(|namespace| namespace.cookie() == cookie)
    }

    /// Every namespace that a pod may be in which is known.
    fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        let controllers = self.controllers.values().map(Found::namespace);
        self.known.values().flat_map(Known::namespaces).chain(controllers)
    }
}
