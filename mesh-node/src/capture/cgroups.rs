//! Where a pod is, for pods of a kubelet: its cgroup is named for its UID, and its processes are in its namespace.
//!
//! In: a pod's UID. Out: the folder of its cgroup and the network namespace, once a process of the pod runs.
//!
//! ```text
//! driver cgroupfs   kubepods/burstable/podUID/CONTAINER
//! driver systemd    kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice/cri-containerd-CONTAINER.scope
//! ```
//!
//! Both may stand below a cgroup of the kubelet's own, and a guaranteed pod has no folder for its class. systemd's
//! names have `_` where the UID has `-`. Some runtimes put processes of the host's network into a pod's cgroup
//! (CRI-O's conmon), and a pod may make namespaces of its own, a container's first process too: so the pod is where its
//! address is, if that is in one namespace of its processes alone. Static pods have another UID there than in their Pod
//! objects, and are not found.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use mesh_common::model::WorkloadUid;

use super::namespace::{Namespace, NamespaceError};
use super::pods::PodError;

/// How far below `--cgroup-root` pods' folders are looked for: a cgroup of the kubelet's own, `kubepods`, class, pod.
pub(super) const DEPTH: usize = 4;
/// How far below a pod's folder its processes are looked for: containers make cgroups of their own.
const POD_DEPTH: usize = 8;
/// Most processes of one cgroup that are looked at. The kernel lists the oldest first: a container's first is among them.
const MAX_PROCESSES: usize = 16;
/// Most cgroups of a pod whose processes are looked at, from the top: those of its containers come first.
const MAX_CGROUPS: usize = 64;
/// Most namespaces of a pod's processes that are compared.
const MAX_NAMESPACES: usize = 16;
/// Namespaces of the host: the agent's own, and that of the first process. A runtime's process is in a pod's cgroup
/// before it enters the pod's namespace.
const HOST: [&str; 2] = ["/proc/thread-self/ns/net", "/proc/1/ns/net"];

/// The cgroups of this node's pods.
#[derive(Debug)]
pub(super) struct PodCgroups {
    root: PathBuf,
}

/// A pod's cgroup, and the namespace that it led to.
#[derive(Debug)]
pub(super) struct Found {
    folder: PathBuf,
    pub(super) namespace: Namespace,
    evidence: Evidence,
}

/// What speaks for a namespace to be the pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evidence {
    /// It alone has an address of the pod.
    Address,
    /// It is the only one; no address of the pod is known yet.
    Only,
    /// Only that the oldest of the processes in doubt is there.
    Oldest,
}

/// One process, told from a later one of the same number by when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    /// Clock ticks since the machine started (proc(5), `stat`, field 22).
    began: u64,
    pid: u32,
}

impl PodCgroups {
    pub(super) fn below(root: PathBuf) -> Self {
        Self { root }
    }

    /// Of some pods, those that have a cgroup: one look at the tree for all of them.
    pub(super) fn present<'a>(&self, uids: impl Iterator<Item = &'a WorkloadUid>) -> Vec<&'a WorkloadUid> {
        let mut names = Vec::new();
        pod_folders(&self.root, DEPTH, &mut names);
        uids.filter(|uid| names.iter().any(|name| is_of_pod(name, &uid.0))).collect()
    }

    /// Finds the pod by its cgroup. `None`: it has no cgroup yet, or no process of its own network.
    pub(super) fn find(&self, uid: &WorkloadUid, addresses: &[IpAddr]) -> Result<Option<Found>, PodError> {
        let Some(folder) = folder_of(&self.root, &uid.0, DEPTH) else { return Ok(None) };
        let namespaces = namespaces(&folder)?;
        // Processes that the agent's PID namespace does not have are listed as 0.
        if namespaces.is_empty() && pids(&folder).any(|pid| pid == 0) {
            return Err(PodError::OtherPidNamespace);
        }
        let having =
            namespaces.iter().map(|namespace| addresses.iter().any(|address| namespace.has(*address)));
        let chosen = choose(&having.collect::<Vec<_>>(), addresses.is_empty());
        let mut namespaces = namespaces;
        Ok(chosen.map(|(index, evidence)| Found {
            folder,
            namespace: namespaces.swap_remove(index),
            evidence,
        }))
    }
}

impl Found {
    /// Whether the pod is still where it was found. A pod without processes is between two sandboxes, and is there.
    pub(super) fn is_there(&self) -> bool {
        let mut has_own = false;
        let found = pids(&self.folder).any(|pid| {
            let path = namespace_of(pid);
            let is_here = self.namespace.is_at(&path);
            has_own |= !is_here && path.exists() && !is_of_host(&path);
            is_here
        });
        found || (!has_own && self.folder.exists())
    }

    /// Whether another namespace may be the pod's, now that these are its addresses.
    pub(super) fn is_in_doubt(&self, addresses: &[IpAddr]) -> bool {
        match self.evidence {
            Evidence::Address => false,
            Evidence::Only => !addresses.is_empty(),
            Evidence::Oldest => true,
        }
    }
}

/// Which of some namespaces is the pod's, those of the oldest processes first: whether each has an address of the pod.
fn choose(having: &[bool], has_no_address: bool) -> Option<(usize, Evidence)> {
    let evidence = match having.iter().filter(|has| **has).count() {
        1 => Evidence::Address,
        0 if has_no_address && having.len() == 1 => Evidence::Only,
        _ => Evidence::Oldest,
    };
    let oldest = (!having.is_empty()).then_some(0);
    having.iter().position(|has| *has).or(oldest).map(|index| (index, evidence))
}

/// The network namespaces of a pod's processes but the host's, those of the oldest processes first.
fn namespaces(folder: &Path) -> Result<Vec<Namespace>, NamespaceError> {
    let mut processes: Vec<Process> = pids(folder).filter_map(Process::new).collect();
    processes.sort_unstable();
    let mut found: Vec<Namespace> = Vec::new();
    for process in processes {
        let path = namespace_of(process.pid);
        if found.len() == MAX_NAMESPACES || is_of_host(&path) || found.iter().any(|known| known.is_at(&path))
        {
            continue;
        }
        let namespace = match Namespace::open(&path) {
            Ok(namespace) => namespace,
            // It ended meanwhile.
            Err(NamespaceError::Open { .. }) => continue,
            Err(error) => return Err(error),
        };
        // What was opened may be a later process's: of another pod, or the host's.
        let is_of_host = HOST.iter().any(|host| namespace.is_at(Path::new(host)));
        let is_the_pods =
            || pids(folder).any(|pid| pid == process.pid) && Process::new(process.pid) == Some(process);
        if !is_of_host && is_the_pods() {
            found.push(namespace);
        }
    }
    Ok(found)
}

impl Process {
    fn new(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self { began: began(&stat)?, pid })
    }
}

fn namespace_of(pid: u32) -> PathBuf {
    format!("/proc/{pid}/ns/net").into()
}

fn is_of_host(namespace: &Path) -> bool {
    let file = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let own = file(namespace);
    HOST.iter().any(|host| file(Path::new(host)) == own)
}

/// Field 22 of `/proc/PID/stat`. The second field is the program's name, in which anything may stand.
fn began(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(19)?.parse().ok()
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

/// The names of all pods' folders.
fn pod_folders(parent: &Path, depth: usize, names: &mut Vec<String>) {
    for folder in folders(parent) {
        let Some(name) = folder.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
        if is_a_pods(&name) {
            names.push(name);
        } else if depth > 1 && may_hold_pods(&name) {
            pod_folders(&folder, depth - 1, names);
        }
    }
}

/// The numbers of the first processes of each cgroup from here down, read folder by folder as they are asked for.
fn pids(folder: &Path) -> impl Iterator<Item = u32> {
    let mut left = VecDeque::from([(folder.to_owned(), POD_DEPTH)]);
    let lists = std::iter::from_fn(move || {
        let (folder, depth) = left.pop_front()?;
        if depth > 0 {
            left.extend(folders(&folder).take(MAX_CGROUPS).map(|folder| (folder, depth - 1)));
        }
        Some(first_pids(&folder))
    });
    lists.take(MAX_CGROUPS).flatten()
}

fn first_pids(folder: &Path) -> Vec<u32> {
    let Ok(listed) = File::open(folder.join("cgroup.procs")) else { return Vec::new() };
    // An error: the cgroup was removed meanwhile.
    let lines = BufReader::new(listed).lines().map_while(Result::ok).take(MAX_PROCESSES);
    lines.filter_map(|line| line.parse().ok()).collect()
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
    const STATIC: &str = "a2b0d1f5c3e94d7e8f60718293a4b5c6";

    #[test]
    fn a_pod_is_found_in_every_layout() {
        for path in [
            "kubepods/podUID",
            "kubepods/besteffort/podUID",
            "kubepods/burstable/podUID",
            "kubelet/kubepods/burstable/podUID",
            "kubepods.slice/kubepods-podUID_.slice",
            "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podUID_.slice",
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
             kubelet-kubepods-burstable-podUID_.slice",
        ] {
            for uid in [UID, STATIC] {
                let root = tempfile::tempdir().unwrap();
                let path = path.replace("UID_", &uid.replace('-', "_")).replace("UID", uid);
                let folder = root.path().join(path);
                for beside in ["system.slice/containerd.service", "user.slice", "init.scope"] {
                    fs::create_dir_all(root.path().join(beside)).unwrap();
                }
                fs::create_dir_all(folder.join("cri-containerd-5d41402abc4b.scope")).unwrap();
                assert_eq!(folder_of(root.path(), uid, DEPTH), Some(folder.clone()), "{folder:?}");
            }
        }
    }

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
    fn when_a_process_began_is_read_whatever_it_is_called() {
        let rest = "S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 777 1000 2";
        for name in ["pause", "a b", ") S 1 2 3", "((", ""] {
            assert_eq!(began(&format!("42 ({name}) {rest}")), Some(777), "{name}");
        }
        assert_eq!(began("42 (pause"), None);
        assert_eq!(began("42 (pause) S 1"), None);
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
        assert_eq!(pids(&folder).filter_map(Process::new).count(), 1);
    }

    #[test]
    fn from_another_pid_namespace_a_pod_is_not_found_and_it_is_said_why() {
        let (root, _) = pod("0\n0\n");
        assert!(find(&root).unwrap_err().to_string().contains("hostPID: true"));
    }

    #[test]
    fn of_a_pod_of_many_processes_and_cgroups_only_the_first_are_looked_at() {
        let (_root, container) = pod(&"1\n".repeat(30_000));
        assert_eq!(pids(&container).count(), MAX_PROCESSES);
        for index in 0..1000 {
            let inner = container.join(index.to_string());
            fs::create_dir(&inner).unwrap();
            fs::write(inner.join("cgroup.procs"), "2\n3\n").unwrap();
        }
        assert_eq!(pids(container.parent().unwrap()).filter(|pid| *pid == 1).count(), MAX_PROCESSES);
        assert!(pids(container.parent().unwrap()).count() <= MAX_PROCESSES + 2 * MAX_CGROUPS);
    }

    #[test]
    fn a_pod_is_where_its_address_is_and_in_doubt_where_that_does_not_tell() {
        for (having, is_unknown, expected) in [
            (&[][..], false, None),
            (&[true], false, Some((0, Evidence::Address))),
            // A container's first process has made a namespace of its own.
            (&[false, true], false, Some((1, Evidence::Address))),
            (&[false, true, true], false, Some((1, Evidence::Oldest))),
            // Another sandbox, whose address is not told yet.
            (&[false], false, Some((0, Evidence::Oldest))),
            (&[false], true, Some((0, Evidence::Only))),
            (&[false, false], true, Some((0, Evidence::Oldest))),
        ] {
            assert_eq!(choose(having, is_unknown), expected, "{having:?} {is_unknown}");
        }
    }
}
