//! One run: the name that everything of one topology carries, and the reaper that removes it all.
//!
//! In: nothing. Out: a name, a folder, a cgroup and a bpffs. The reaper is a process of its own that waits for this
//! one to close a pipe; so it works after a return, a panic, a signal and `kill -9` alike. Names hold the process id,
//! so that a later run finds and removes what even the reaper did not live to remove.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::eventually::eventually_true;
use crate::{binary, netns};

/// What every name begins with.
const PREFIX: &str = "nmt";
/// Where runs keep their folders.
const FOLDERS: &str = "/tmp";
/// Where cgroup version 2 may be mounted.
const CGROUP_MOUNTS: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

/// A name and what hangs on it. Removed with everything inside on drop.
#[derive(Debug)]
pub struct Run {
    name: String,
    cgroup: PathBuf,
    /// Waits for its standard input to end, then removes the run.
    reaper: Child,
}

impl Run {
    /// Makes the folder, the cgroup and a bpffs, after removing what dead runs left behind.
    ///
    /// # Errors
    /// Not root, no cgroup version 2, or no bpffs.
    pub fn start() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            bail!("network namespaces and eBPF need root; run the tests with sudo");
        }
        let cgroups = cgroup_mount()?;
        remove_leftovers(&cgroups);
        let name = format!("{PREFIX}-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let reaper = spawn_reaper(&name)?;
        let run = Self { cgroup: cgroups.join(&name), name, reaper };
        for folder in [run.folder(), run.bpffs(), run.cgroup.clone()] {
            fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        }
        mount("bpf", run.bpffs(), "bpf", MountFlags::empty(), None).context("mount a bpffs")?;
        Ok(run)
    }

    /// The name; at most 20 bytes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A folder for files of this run.
    pub fn folder(&self) -> PathBuf {
        Path::new(FOLDERS).join(&self.name)
    }

    /// A bpffs of this run alone: what is pinned there is gone with it.
    pub fn bpffs(&self) -> PathBuf {
        self.folder().join("bpf")
    }

    /// The cgroup that holds every process of this run.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        drop(self.reaper.stdin.take());
        match self.reaper.wait() {
            Ok(status) if status.success() => {}
            Ok(status) => eprintln!("the reaper of {} ended with {status}", self.name),
            Err(error) => eprintln!("wait for the reaper of {}: {error}", self.name),
        }
    }
}

fn spawn_reaper(name: &str) -> Result<Child> {
    Command::new(binary::test_pod()?)
        .args(["reap", name])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        // A group of its own: an interrupt from the terminal reaches the run, not its reaper.
        .process_group(0)
        .spawn()
        .context("start the reaper")
}

/// The reaper's work: waits until `trigger` ends, then removes the run.
///
/// # Errors
/// Something of the run cannot be removed.
pub fn reap(name: &str, mut trigger: impl Read) -> Result<()> {
    io::copy(&mut trigger, &mut io::sink()).context("wait for the end of the run")?;
    remove(name, &cgroup_mount()?)
}

/// Where cgroup version 2 is mounted.
///
/// # Errors
/// It is not.
pub fn cgroup_mount() -> Result<PathBuf> {
    CGROUP_MOUNTS
        .iter()
        .map(PathBuf::from)
        .find(|mount| mount.join("cgroup.controllers").exists())
        .context("no cgroup version 2; mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified")
}

/// Removes what runs of processes that no longer live left behind.
fn remove_leftovers(cgroups: &Path) {
    let mut names = BTreeSet::new();
    for folder in [Path::new(netns::FOLDER), cgroups, Path::new(FOLDERS)] {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        names.extend(entries.filter_map(|entry| dead_run(&entry.file_name().to_string_lossy())));
    }
    for name in names {
        if let Err(error) = remove(&name, cgroups) {
            eprintln!("remove what {name} left behind: {error:#}");
        }
    }
}

/// `nmt-12-0` of `nmt-12-0-a-web`, if no process 12 lives.
fn dead_run(name: &str) -> Option<String> {
    let mut parts = name.split('-');
    let (prefix, pid, count) = (parts.next()?, parts.next()?, parts.next()?);
    let (pid, count) = (pid.parse::<u32>().ok()?, count.parse::<u32>().ok()?);
    let dead = prefix == PREFIX && !Path::new("/proc").join(pid.to_string()).exists();
    dead.then(|| format!("{PREFIX}-{pid}-{count}"))
}

fn remove(name: &str, cgroups: &Path) -> Result<()> {
    let processes = remove_cgroups(&cgroups.join(name)).and(remove_older_cgroups(name));
    let folder = Path::new(FOLDERS).join(name);
    let bpffs = folder.join("bpf");
    if bpffs.exists() {
        // EINVAL: never mounted.
        let _ = unmount(&bpffs, UnmountFlags::DETACH);
    }
    let namespaces = remove_namespaces(name);
    let files = gone_is_well(fs::remove_dir_all(&folder));
    let files = files.with_context(|| format!("remove {}", folder.display()));
    processes.and(namespaces).and(files)
}

/// Kills every process below `root` and removes the cgroups, leaves first.
pub(crate) fn remove_cgroups(root: &Path) -> Result<()> {
    if !root.exists() {
        return Ok(());
    }
    let killed = fs::write(root.join("cgroup.kill"), "1");
    gone_is_well(killed).with_context(|| format!("kill {}", root.display()))?;
    let events = root.join("cgroup.events");
    eventually_true("every process of the run is gone", Duration::from_secs(10), || {
        fs::read_to_string(&events).map_or(!root.exists(), |text| text.contains("populated 0"))
    })?;
    remove_cgroup_tree(root)
}

/// Removes what the run has in hierarchies of version 1; its processes are gone.
fn remove_older_cgroups(run: &str) -> Result<()> {
    let prefix = format!("{run}-");
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let older = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (mount, kind) = (words.next()?, words.next()?);
        (kind == "cgroup").then(|| PathBuf::from(mount))
    });
    for hierarchy in older {
        let entries = fs::read_dir(&hierarchy).with_context(|| format!("read {}", hierarchy.display()))?;
        let own = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
        for root in own {
            // A process that was killed is a member until the kernel has done with it.
            let mut refusal = None;
            let removed = eventually_true("a cgroup is empty", Duration::from_secs(10), || {
                refusal = remove_cgroup_tree(&root.path()).err();
                refusal.is_none()
            });
            removed.map_err(|error| refusal.unwrap_or(error))?;
        }
    }
    Ok(())
}

/// Removes cgroups that hold no process, leaves first.
///
/// # Errors
/// One holds a process.
pub fn remove_cgroup_tree(root: &Path) -> Result<()> {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup_tree(&entry.path())?;
        }
    }
    gone_is_well(fs::remove_dir(root)).with_context(|| format!("remove {}", root.display()))
}

/// A run that comes later removes the leftovers of a dead one, also while that one's reaper does.
fn gone_is_well(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        // What a cgroup's files say once it is removed.
        Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn remove_namespaces(run: &str) -> Result<()> {
    let names = namespaces(run);
    if names.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = names.iter().map(|name| format!("netns delete {name}")).collect();
    // Another may have removed some; then the rest is tried once more.
    netns::ip_batch(&lines).or_else(|error| match namespaces(run) {
        left if left.len() < names.len() => remove_namespaces(run),
        _ => Err(error),
    })
}

/// The names of the run's network namespaces.
fn namespaces(run: &str) -> Vec<String> {
    let prefix = format!("{run}-");
    let entries = fs::read_dir(netns::FOLDER).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&prefix)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_processes_are_leftovers() {
        let living = format!("{PREFIX}-{}-0-a", process::id());
        assert_eq!(dead_run(&living), None);
        // Above the largest process id that Linux gives (PID_MAX_LIMIT, 2^22).
        assert_eq!(dead_run("nmt-4194305-7-a-web").as_deref(), Some("nmt-4194305-7"));
        for other in ["nmt", "nmt-x-1", "nmt-4194305", "other-4194305-7-a"] {
            assert_eq!(dead_run(other), None, "{other}");
        }
    }
}
