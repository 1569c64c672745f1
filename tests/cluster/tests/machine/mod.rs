//! What is on this machine: looked at before and after a cluster.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What clusters and others on this machine make files in.
const FOLDERS: [&str; 10] = [
    "/etc/cni",
    "/opt/containerd",
    "/opt/cni",
    "/run/containerd",
    "/usr/libexec/kubernetes",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
];
/// The kinds of namespaces that a node has of its own.
const KINDS: [&str; 6] = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];

/// Everything that carries a run's name, and everything that no run has a name on: links, folders of programs.
pub fn everything(run: &str) -> BTreeSet<String> {
    let named = [("/run/netns", "network namespace"), ("/tmp", "folder"), ("/sys/fs/cgroup", "cgroup")];
    let mut found = BTreeSet::new();
    for (folder, kind) in named {
        found.extend(names_in(Path::new(folder), run).map(|path| format!("{kind} {}", path.display())));
    }
    for hierarchy in entries(Path::new("/sys/fs/cgroup")) {
        found.extend(names_in(&hierarchy, run).map(|path| format!("cgroup {}", path.display())));
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    found.extend(mounts.lines().filter(|line| line.contains(run)).map(|line| format!("mount {line}")));
    found.extend(processes(run).into_iter().map(|process| format!("process {}", process.display())));
    found.extend(entries(Path::new("/sys/class/net")).map(|link| format!("link {}", link.display())));
    let folders = FOLDERS.iter().filter(|folder| Path::new(folder).exists());
    found.extend(folders.map(|folder| format!("folder {folder}")));
    found
}

/// The processes of a run, by what they were called with or the cgroup that they are in.
pub fn processes(run: &str) -> Vec<PathBuf> {
    let has = |process: &Path, file: &str| {
        fs::read(process.join(file)).is_ok_and(|text| String::from_utf8_lossy(&text).contains(run))
    };
    let of_run = |process: &PathBuf| has(process, "cgroup") || has(process, "cmdline");
    all_processes().filter(of_run).collect()
}

/// The namespaces of a process.
pub fn namespaces(process: &Path) -> BTreeSet<PathBuf> {
    KINDS.iter().filter_map(|kind| fs::read_link(process.join("ns").join(kind)).ok()).collect()
}

/// The processes that are in one of some namespaces.
pub fn inhabitants(of: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    all_processes().filter(|process| !namespaces(process).is_disjoint(of)).collect()
}

/// Memory that processes hold, in mebibytes; what several share counts for each.
pub fn memory(processes: &[PathBuf]) -> u64 {
    let held = processes.iter().filter_map(|process| {
        let status = fs::read_to_string(process.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().split(' ').next()?.parse::<u64>().ok()
    });
    held.sum::<u64>() / 1024
}

fn all_processes() -> impl Iterator<Item = PathBuf> {
    entries(Path::new("/proc"))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().parse::<u32>().is_ok()))
}

fn names_in(folder: &Path, run: &str) -> impl Iterator<Item = PathBuf> {
    let run = run.to_owned();
    entries(folder)
        .filter(move |path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&run)))
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}
