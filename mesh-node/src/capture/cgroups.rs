//! Where a pod is, for pods of a kubelet: its cgroup is named for its UID, and its processes are in its namespace.
//!
//! In: a pod's UID. Out: the folder of its cgroup and the network namespace, once a process of the pod runs.
//!
//! ```text
//! driver cgroupfs   kubepods/burstable/podUID/CONTAINER
//! driver systemd    kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice/cri-containerd-CONTAINER.scope
//! ```
//!
//! `layouts.rs` has every form that runtimes are known to make of them.
//! Both may stand below a cgroup of the kubelet's own, and a guaranteed pod has no folder for its class. systemd's
//! names have `_` where the UID has `-`. Some runtimes put processes of the host's network into a pod's cgroup
//! (CRI-O's conmon), and a pod may make namespaces of its own, a container's first process too, and give them its address:
//! so the pod is where its address is, and of several such namespaces in the one that is owned nearest to the host, which the pod
//! could not make. Static pods have another UID there than in their Pod objects, which say it.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use mesh_common::model::WorkloadUid;

use super::namespace::{Namespace, NamespaceId};
use super::pod_error::PodError;
use super::processes::{Host, namespace_of, namespaces, pids};

/// How far below `--cgroup-root` pods' folders are looked for: a cgroup of the kubelet's own, `kubepods`, class, pod.
pub(super) const DEPTH: usize = 4;

/// The cgroups of this node's pods.
#[derive(Debug)]
pub(super) struct PodCgroups {
    root: PathBuf,
}

/// A pod's cgroup, and where it led to.
#[derive(Debug)]
pub(super) struct Found {
    folder: PathBuf,
    /// Of what is known best to be the pod's, then whatever may be it all the same.
    candidates: Vec<Candidate>,
    /// Every namespace that its processes were seen in.
    seen: Vec<u64>,
    evidence: Evidence,
    /// The pod's addresses, as they were known.
    addresses: Vec<IpAddr>,
}

/// A network namespace of a pod's processes.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) namespace: Namespace,
    signs: Signs,
}

/// What tells a pod's network namespace from others of its processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Signs {
    has_address: bool,
    owner_depth: u32,
}

/// What speaks for a namespace to be the pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evidence {
    /// Of those that have an address of the pod it alone is owned so near to the host.
    Address,
    /// No other is owned so near to the host; no address of the pod is known yet.
    Owner,
    /// Only that the oldest of the processes in doubt is there.
    Oldest,
}

impl PodCgroups {
    pub(super) fn below(root: PathBuf) -> Self {
        Self { root }
    }

    /// Of some pods, those that have a cgroup: one look at the tree for all of them.
    pub(super) fn present<'a>(&self, uids: impl Iterator<Item = &'a WorkloadUid>) -> Vec<&'a WorkloadUid> {
        let names: Vec<String> = self.folders().iter().map(|folder| name_of(folder)).collect();
        uids.filter(|uid| names.iter().any(|name| is_of_pod(name, &uid.0))).collect()
    }

    /// Whether no pod at all has a cgroup.
    pub(super) fn are_none(&self) -> bool {
        self.folders().is_empty()
    }

    /// Every pod that has a cgroup, by the UID that its cgroup is named for, with the cgroup.
    pub(super) fn all(&self) -> Vec<(WorkloadUid, PathBuf)> {
        let folders = self.folders().into_iter();
        folders.filter_map(|folder| Some((uid_of(&name_of(&folder))?, folder))).collect()
    }

    fn folders(&self) -> Vec<PathBuf> {
        let mut folders = Vec::new();
        pod_folders(&self.root, DEPTH, &mut folders);
        folders
    }

    /// Whether the pod has a cgroup, and with it a place where it will be found.
    pub(super) fn has(&self, uid: &WorkloadUid) -> bool {
        self.folder(uid).is_some()
    }

    /// The pod's cgroup.
    pub(super) fn folder(&self, uid: &WorkloadUid) -> Option<PathBuf> {
        folder_of(&self.root, &uid.0, DEPTH)
    }

    /// Finds the pod by its cgroup. `None`: it has no cgroup yet, or no process of its own network.
    pub(super) fn find(&self, uid: &WorkloadUid, addresses: &[IpAddr]) -> Result<Option<Found>, PodError> {
        let Some(folder) = self.folder(uid) else { return Ok(None) };
        let namespaces = namespaces(&folder)?;
        // Processes that the agent's PID namespace does not have are listed as 0.
        if namespaces.is_empty() && pids(&folder).any(|pid| pid == 0) {
            return Err(PodError::OtherPidNamespace);
        }
        let mut candidates: Vec<Candidate> =
            namespaces.into_iter().map(|namespace| Candidate::new(namespace, addresses)).collect();
        let signs: Vec<Signs> = candidates.iter().map(|candidate| candidate.signs).collect();
        let Some((chosen, evidence)) = choose(&signs, addresses.is_empty()) else { return Ok(None) };
        let seen = candidates.iter().map(|candidate| candidate.namespace.cookie()).collect();
        candidates.swap(0, chosen);
        if evidence != Evidence::Oldest {
            candidates.truncate(1);
        }
        Ok(Some(Found { folder, candidates, seen, evidence, addresses: addresses.to_vec() }))
    }
}

impl Found {
    /// What is known best to be the pod's.
    pub(super) fn namespace(&self) -> &Namespace {
        &self.candidates[0].namespace
    }

    /// What may be the pod's; where that is in doubt, several.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.candidates.iter().map(|candidate| &candidate.namespace)
    }

    /// Where the pod may be without another being there: those that have its address, or the only one there is.
    pub(super) fn own(&self) -> impl Iterator<Item = &Namespace> {
        let is_only = self.seen.len() == 1;
        let own = self.candidates.iter().filter(move |candidate| is_only || candidate.signs.has_address);
        own.map(|candidate| &candidate.namespace)
    }

    /// Whether the pod's processes were seen in a namespace, be it the pod's or not.
    pub(super) fn has_seen(&self, cookie: u64) -> bool {
        self.seen.contains(&cookie)
    }

    /// Gives up namespaces that are others'; `None` if there is none left.
    pub(super) fn without(mut self, is_anothers: impl Fn(u64) -> bool) -> Option<Self> {
        self.candidates.retain(|candidate| !is_anothers(candidate.namespace.cookie()));
        (!self.candidates.is_empty()).then_some(self)
    }

    /// Whether the pod is still where it was found. A pod without processes is between two sandboxes, and is there.
    pub(super) fn is_there(&self) -> bool {
        let (host, own) = (Host::look(), self.namespace().id());
        let mut has_own = false;
        let found = pids(&self.folder).any(|pid| {
            let there = NamespaceId::at(&namespace_of(pid));
            has_own |= there.is_some_and(|there| there != own && !host.has(there));
            there == Some(own)
        });
        found || (!has_own && self.folder.exists())
    }

    /// Whether another namespace may be the pod's, now that these are its addresses.
    pub(super) fn is_in_doubt(&self, addresses: &[IpAddr]) -> bool {
        match self.evidence {
            Evidence::Address => !addresses.is_empty() && addresses != self.addresses,
            Evidence::Owner => !addresses.is_empty(),
            Evidence::Oldest => true,
        }
    }
}

impl Candidate {
    fn new(namespace: Namespace, addresses: &[IpAddr]) -> Self {
        let has_address = addresses.iter().any(|address| namespace.has(*address));
        let signs = Signs { has_address, owner_depth: namespace.owner_depth() };
        Self { namespace, signs }
    }
}

/// Which of some namespaces is the pod's, those of the oldest processes first. A pod may give its address to what it made.
fn choose(signs: &[Signs], has_no_address: bool) -> Option<(usize, Evidence)> {
    let having = nearest(signs, |signs| signs.has_address);
    let is_by_address = having.is_some();
    let (chosen, is_alone) = having.or_else(|| nearest(signs, |_| true))?;
    let evidence = match is_alone {
        true if is_by_address => Evidence::Address,
        true if has_no_address => Evidence::Owner,
        _ => Evidence::Oldest,
    };
    Some((chosen, evidence))
}

/// Of those that count, the first of those owned nearest to the host, and whether it is the only one there.
fn nearest(signs: &[Signs], counts: impl Fn(&Signs) -> bool) -> Option<(usize, bool)> {
    let counting = || signs.iter().enumerate().filter(|(_, signs)| counts(signs));
    let depth = counting().map(|(_, signs)| signs.owner_depth).min()?;
    let mut nearest = counting().filter(|(_, signs)| signs.owner_depth == depth);
    let (first, _) = nearest.next()?;
    Some((first, nearest.next().is_none()))
}

/// Whether a folder is that of the pod, by the name that either driver gives it.
fn is_of_pod(folder: &str, uid: &str) -> bool {
    match folder.strip_suffix(".slice") {
        Some(slice) => {
            let uid = uid.replace('-', "_");
            slice.strip_suffix(&*uid).is_some_and(|before| before.ends_with("-pod"))
        }
        None => folder.strip_prefix("pod") == Some(uid),
    }
}

/// Whether a folder is that of some pod, by its name.
pub(super) fn is_a_pods(folder: &str) -> bool {
    !may_hold_pods(folder) && !folder.ends_with(".scope")
}

/// Whether a folder can hold the folders of pods: kubelets name them so.
pub(super) fn may_hold_pods(folder: &str) -> bool {
    !folder.starts_with("pod") && !folder.contains("-pod") && !folder.ends_with(".scope")
}

fn folder_of(parent: &Path, uid: &str, depth: usize) -> Option<PathBuf> {
    let folders: Vec<PathBuf> = folders(parent).collect();
    let name = |folder: &PathBuf| folder.file_name().map(|name| name.to_string_lossy().into_owned());
    let named = |is: &dyn Fn(&str) -> bool| {
        folders.iter().filter(|folder| name(folder).is_some_and(|name| is(&name))).collect::<Vec<_>>()
    };
    if let [folder, ..] = named(&|name| is_of_pod(name, uid))[..] {
        return Some(folder.clone());
    }
    let deeper = depth.checked_sub(1).filter(|depth| *depth > 0)?;
    named(&may_hold_pods).into_iter().find_map(|folder| folder_of(folder, uid, deeper))
}

/// The UID that a pod's folder is named for, by either driver.
fn uid_of(folder: &str) -> Option<WorkloadUid> {
    let uid = match folder.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod")?.1.replace('_', "-"),
        None => folder.strip_prefix("pod")?.to_owned(),
    };
    (!uid.is_empty()).then(|| WorkloadUid(uid.into()))
}

/// All pods' folders.
fn pod_folders(parent: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    for folder in folders(parent) {
        let name = name_of(&folder);
        if is_a_pods(&name) {
            found.push(folder);
        } else if depth > 1 && may_hold_pods(&name) {
            pod_folders(&folder, depth - 1, found);
        }
    }
}

fn name_of(folder: &Path) -> String {
    folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

pub(super) fn folders(parent: &Path) -> impl Iterator<Item = PathBuf> {
    let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let entries = fs::read_dir(parent).into_iter().flatten().map_while(Result::ok);
    entries.filter(is_folder).map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0f4a2a6e-9d6c-4b1b-8f6e-2b0c7c1f5f11";

    #[test]
    fn nobody_passes_for_another_pod_by_a_name_below_its_own() {
        let root = tempfile::tempdir().unwrap();
        let other = "kubepods/podc0ffee00-0000-4000-8000-000000000000";
        // A container may name cgroups of its own as it likes.
        for path in [format!("{other}/pod{UID}"), format!("{other}/x/kubepods/pod{UID}")] {
            fs::create_dir_all(root.path().join(path)).unwrap();
        }
        assert_eq!(folder_of(root.path(), UID, DEPTH), None);
    }

    #[test]
    fn the_end_of_another_uid_is_not_the_uid() {
        assert!(is_of_pod("pod11", "11") && is_of_pod("kubepods-pod1_1.slice", "1-1"));
        for folder in
            ["pod111", "kubepods-pod111.slice", "kubepods-pod211.slice", "crio-11.scope", "11", "pod"]
        {
            assert!(!is_of_pod(folder, "11"), "{folder}");
        }
    }

    #[test]
    fn a_folder_says_whose_it_is() {
        let systemd = format!("kubepods-burstable-pod{}.slice", UID.replace('-', "_"));
        for folder in [format!("pod{UID}"), systemd] {
            assert_eq!(uid_of(&folder), Some(WorkloadUid(UID.into())), "{folder}");
        }
        for folder in ["pod", "kubepods.slice", "kubepods-pod.slice", "burstable"] {
            assert_eq!(uid_of(folder), None, "{folder}");
        }
    }

    #[test]
    fn a_tree_without_any_pods_folder_is_not_the_pods() {
        let root = tempfile::tempdir().unwrap();
        for beside in ["system.slice/containerd.service", "kubepods/burstable", "nodemesh-trial"] {
            fs::create_dir_all(root.path().join(beside)).unwrap();
        }
        let cgroups = PodCgroups::below(root.path().to_owned());
        assert!(cgroups.are_none());
        fs::create_dir(root.path().join("kubepods/burstable").join(format!("pod{UID}"))).unwrap();
        assert!(!cgroups.are_none());
    }

    /// A pod's folder with these processes in a container's cgroup.
    fn pod(procs: &str) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(format!("kubepods/pod{UID}/crio-conmon"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cgroup.procs"), procs).unwrap();
        (root, folder)
    }

    fn find(root: &tempfile::TempDir) -> Result<Option<Found>, PodError> {
        PodCgroups::below(root.path().to_owned()).find(&WorkloadUid(UID.into()), &[])
    }

    #[test]
    fn processes_of_the_hosts_network_do_not_say_where_a_pod_is() {
        let (root, folder) = pod(&format!("{}\n", std::process::id()));
        assert!(find(&root).unwrap().is_none());
        assert_eq!(pids(&folder).count(), 1);
    }

    #[test]
    fn from_another_pid_namespace_a_pod_is_not_found_and_it_is_said_why() {
        let (root, _) = pod("0\n0\n");
        assert!(find(&root).unwrap_err().to_string().contains("hostPID: true"));
    }

    #[test]
    fn a_pod_is_where_its_address_is_and_in_doubt_where_that_does_not_tell() {
        let signs = |text: &str| -> Vec<Signs> {
            let of = |word: &str| Signs {
                has_address: word.starts_with('a'),
                owner_depth: word[1..].parse().expect("a depth"),
            };
            text.split_whitespace().map(of).collect()
        };
        for (having, is_unknown, expected) in [
            ("", false, None),
            ("a0", false, Some((0, Evidence::Address))),
            // A container's first process has made a namespace of its own.
            ("-0 a0", false, Some((1, Evidence::Address))),
            ("-0 a0 a0", false, Some((1, Evidence::Oldest))),
            // The same in a user namespace of its own, with the pod's address: whatever is older.
            ("a0 a1", false, Some((0, Evidence::Address))),
            ("a2 -0 a0 a1", false, Some((2, Evidence::Address))),
            // A pod that has a user namespace from its runtime (`hostUsers: false`).
            ("a1 a2 a2", false, Some((0, Evidence::Address))),
            ("a1 a1", false, Some((0, Evidence::Oldest))),
            // Another sandbox, whose address is not told yet.
            ("-0", false, Some((0, Evidence::Oldest))),
            ("-0", true, Some((0, Evidence::Owner))),
            ("-1 -0", true, Some((1, Evidence::Owner))),
            ("-0 -0", true, Some((0, Evidence::Oldest))),
        ] {
            assert_eq!(choose(&signs(having), is_unknown), expected, "{having:?} {is_unknown}");
        }
    }
}
