//! The processes of a pod, and the network namespaces that they are in.
//!
//! In: the folder of a pod's cgroup. Out: the namespaces of its processes but the host's. Bounded, and each process is
//! looked at once: a pod may have as many as it likes.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use super::cgroups::folders;
use super::namespace::{Namespace, NamespaceError, NamespaceId};

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

/// The network namespaces of the host.
pub(super) struct Host([Option<NamespaceId>; 2]);

/// The oldest process of a pod that is in a namespace, as far as was looked.
struct Member {
    process: Process,
    cgroup: PathBuf,
    namespace: NamespaceId,
}

/// One process, told from a later one of the same number by when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    /// Clock ticks since the machine started (proc(5), `stat`, field 22).
    began: u64,
    pid: u32,
}

/// The network namespaces of a pod's processes but the host's, those of the oldest processes first.
pub(super) fn namespaces(folder: &Path) -> Result<Vec<Namespace>, NamespaceError> {
    let mut members: Vec<Member> = members(folder).into_values().collect();
    members.sort_unstable_by_key(|member| member.process);
    members.truncate(MAX_NAMESPACES);
    members.iter().filter_map(|member| member.open().transpose()).collect()
}

fn members(folder: &Path) -> BTreeMap<NamespaceId, Member> {
    let host = Host::look();
    let mut oldest: BTreeMap<NamespaceId, Member> = BTreeMap::new();
    for cgroup in cgroups(folder) {
        let mut seen = Vec::new();
        for pid in first_pids(&cgroup) {
            let Some(namespace) = NamespaceId::at(&namespace_of(pid)) else { continue };
            // Those of one cgroup that come after are younger.
            if host.has(namespace) || seen.contains(&namespace) {
                continue;
            }
            seen.push(namespace);
            let Some(process) = Process::new(pid) else { continue };
            if oldest.get(&namespace).is_none_or(|known| process < known.process) {
                oldest.insert(namespace, Member { process, cgroup: cgroup.clone(), namespace });
            }
        }
    }
    oldest
}

impl Member {
    /// `None`: the process ended meanwhile, or went elsewhere. What was opened may be a later one's: of another pod, or
    /// of the host.
    fn open(&self) -> Result<Option<Namespace>, NamespaceError> {
        let pid = self.process.pid;
        let namespace = match Namespace::open(&namespace_of(pid)) {
            Ok(namespace) => namespace,
            Err(NamespaceError::Open { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_the_pods = first_pids(&self.cgroup).contains(&pid) && Process::new(pid) == Some(self.process);
        Ok((namespace.id() == self.namespace && is_the_pods).then_some(namespace))
    }
}

impl Host {
    pub(super) fn look() -> Self {
        Self(HOST.map(|path| NamespaceId::at(Path::new(path))))
    }

    pub(super) fn has(&self, namespace: NamespaceId) -> bool {
        self.0.contains(&Some(namespace))
    }
}

impl Process {
    fn new(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self { began: began(&stat)?, pid })
    }
}

pub(super) fn namespace_of(pid: u32) -> PathBuf {
    format!("/proc/{pid}/ns/net").into()
}

/// Field 22 of `/proc/PID/stat`. The second field is the program's name, in which anything may stand.
fn began(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(19)?.parse().ok()
}

/// The numbers of the first processes of each cgroup from here down, read folder by folder as they are asked for.
pub(super) fn pids(folder: &Path) -> impl Iterator<Item = u32> {
    cgroups(folder).flat_map(|cgroup| first_pids(&cgroup))
}

/// A pod's cgroups from here down.
fn cgroups(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let mut left = VecDeque::from([(folder.to_owned(), POD_DEPTH)]);
    let all = std::iter::from_fn(move || {
        let (folder, depth) = left.pop_front()?;
        if depth > 0 {
            left.extend(folders(&folder).take(MAX_CGROUPS).map(|folder| (folder, depth - 1)));
        }
        Some(folder)
    });
    all.take(MAX_CGROUPS)
}

fn first_pids(folder: &Path) -> Vec<u32> {
    let Ok(listed) = File::open(folder.join("cgroup.procs")) else { return Vec::new() };
    // An error: the cgroup was removed meanwhile.
    let lines = BufReader::new(listed).lines().map_while(Result::ok).take(MAX_PROCESSES);
    lines.filter_map(|line| line.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_a_process_began_is_read_whatever_it_is_called() {
        let rest = "S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 777 1000 2";
        for name in ["pause", "a b", ") S 1 2 3", "((", ""] {
            assert_eq!(began(&format!("42 ({name}) {rest}")), Some(777), "{name}");
        }
        assert_eq!(began("42 (pause"), None);
        assert_eq!(began("42 (pause) S 1"), None);
    }

    #[test]
    fn of_a_pod_of_many_processes_and_cgroups_only_the_first_are_looked_at() {
        let pod = tempfile::tempdir().unwrap();
        let container = pod.path().join("crio-conmon");
        fs::create_dir(&container).unwrap();
        fs::write(container.join("cgroup.procs"), "1\n".repeat(30_000)).unwrap();
        assert_eq!(pids(&container).count(), MAX_PROCESSES);
        for index in 0..1000 {
            let inner = container.join(index.to_string());
            fs::create_dir(&inner).unwrap();
            fs::write(inner.join("cgroup.procs"), "2\n3\n").unwrap();
        }
        assert_eq!(pids(pod.path()).filter(|pid| *pid == 1).count(), MAX_PROCESSES);
        assert!(pids(pod.path()).count() <= MAX_PROCESSES + 2 * MAX_CGROUPS);
    }
}
