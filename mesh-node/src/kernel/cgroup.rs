//! Cgroups: the pods', the agent's own, and the top of the tree.
//!
//! The agent makes a cgroup of its own and enters it: its sockets are told by that, never by a mark, which any
//! container may set.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, statfs};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::lock::{self, NotTaken};

const CGROUP2_MAGIC: i64 = 0x6367_7270;
/// What the agent's own is called, beside the pods'.
const AGENT: &str = "nodemesh-agent";
/// What the first process of the host sees of the tree; in a container that takes `hostPID: true`.
const HOST_CGROUPS: &str = "/proc/1/ns/cgroup";

/// The cgroups that matter, open and identified.
#[derive(Debug)]
pub(super) struct Cgroups {
    /// Holds every pod.
    pub pods: Cgroup,
    /// The agent's own.
    pub agent: Cgroup,
    /// The top of what this agent sees of the tree: it holds host processes too.
    pub top: Cgroup,
}

/// One cgroup.
#[derive(Debug)]
pub(super) struct Cgroup {
    pub path: PathBuf,
    pub directory: fs::File,
    /// As `bpf_get_current_cgroup_id` gives it: the inode of the folder.
    pub id: u64,
    /// How many ancestors it has.
    pub level: i32,
}

/// Why the cgroups are not as they must be.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The path is not on a cgroup file system of version 2.
    #[error("no cgroup version 2 is mounted at {path}; set {flag}", path = path.display())]
    NotCgroup2 {
        /// What was looked at.
        path: PathBuf,
        /// The flag to set.
        flag: &'static str,
    },
    /// There is no such cgroup.
    #[error("find the cgroup {path} of {flag}; set it to the one of this node", path = path.display())]
    Missing {
        /// What was looked for.
        path: PathBuf,
        /// The flag to set.
        flag: &'static str,
        /// Why it was not found.
        #[source]
        source: io::Error,
    },
    /// The agent would be taken for a pod's process, or every pod for the agent.
    #[error(
        "--agent-cgroup {agent} is or holds --cgroup-root {pods}: pods would be taken for the agent",
        agent = agent.display(),
        pods = pods.display()
    )]
    AgentHoldsPods {
        /// `--agent-cgroup`.
        agent: PathBuf,
        /// `--cgroup-root`.
        pods: PathBuf,
    },
    /// Another agent captures the pods.
    #[error("another agent captures the pods of --cgroup-root {path}: {holder}", path = path.display())]
    Held {
        /// `--cgroup-root`.
        path: PathBuf,
        /// Which process that is.
        holder: String,
    },
    /// A call on a cgroup failed.
    #[error("{operation} the cgroup {path}", path = path.display())]
    Access {
        /// What was tried.
        operation: &'static str,
        /// On which cgroup.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl Cgroups {
    /// Opens the pods' cgroup and the top of the tree, makes the agent's own and enters it.
    pub(super) fn enter(pods: &Path, agent: Option<&Path>) -> Result<Self, CgroupError> {
        let pods = Cgroup::open(pods, "--cgroup-root")?;
        pods.lock()?;
        let agent = match agent {
            Some(agent) => agent.to_owned(),
            None => pods.of_own_container().unwrap_or_else(|| pods.path.with_file_name(AGENT)),
        };
        match fs::create_dir(&agent) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(access("make", &agent)(error));
            }
            _ => {}
        }
        let agent = Cgroup::open(&agent, "--agent-cgroup")?;
        if pods.path.starts_with(&agent.path) {
            return Err(CgroupError::AgentHoldsPods { agent: agent.path, pods: pods.path });
        }
        let mut members = members(&agent.path).map_err(access("open", &agent.path))?;
        // A process that writes this is the one that is moved.
        members.write_all(b"0").map_err(access("enter", &agent.path))?;
        let top = Cgroup::open(&pods.top(), "--cgroup-root")?;
        Ok(Self { pods, agent, top })
    }
}

impl Cgroup {
    fn open(path: &Path, flag: &'static str) -> Result<Self, CgroupError> {
        let path = path.canonicalize().map_err(|source| CgroupError::Missing {
            path: path.to_owned(),
            flag,
            source,
        })?;
        if !is_cgroup2(&path) {
            return Err(CgroupError::NotCgroup2 { path, flag });
        }
        let directory = fs::File::open(&path).map_err(access("open", &path))?;
        let id = directory.metadata().map_err(access("look at", &path))?.ino();
        let mut cgroup = Self { path, directory, id, level: 0 };
        let top = cgroup.top();
        let below = cgroup.path.strip_prefix(&top).expect("the top is an ancestor").components().count();
        cgroup.level = i32::try_from(below).expect("a path has fewer components than an i32 counts");
        Ok(cgroup)
    }

    /// The cgroup of the container that this process is in, if that is below: what its pod may take holds for it there.
    fn of_own_container(&self) -> Option<PathBuf> {
        let own = as_the_host(|| fs::read_to_string(format!("/proc/{}/cgroup", std::process::id()))).ok()?;
        let own = self.top().join(unified(&own)?.trim_start_matches('/'));
        own.strip_prefix(&self.path).ok().filter(|below| below.components().next().is_some())?;
        let members = fs::read_to_string(own.join("cgroup.procs")).ok()?;
        members.lines().any(|line| line.parse() == Ok(std::process::id())).then_some(own)
    }

    /// Keeps it for this agent, for as long as the folder is open: programs of two would both take its connections.
    fn lock(&self) -> Result<(), CgroupError> {
        lock::take(&self.directory).map_err(|error| match error {
            NotTaken::Held(holder) => CgroupError::Held { path: self.path.clone(), holder },
            NotTaken::Failed(error) => access("lock", &self.path)(error),
        })
    }

    /// The highest ancestor on the same file system.
    fn top(&self) -> PathBuf {
        self.path.ancestors().take_while(|path| is_cgroup2(path)).last().unwrap_or(&self.path).to_owned()
    }

    /// Whether the folder is still the cgroup that was opened.
    pub(super) fn is_alive(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.id)
            && Dir::read_from(&self.directory).is_ok()
    }
}

/// The file through which processes enter a cgroup. Where the tree is mounted with `nsdelegate`, as systemd does, who sees
/// only its container's part of it may move nothing to elsewhere (cgroups(7)); what counts is what the thread saw that
/// opened the file. So a thread that sees the host's opens it, where there is such a view to be had.
///
/// # Errors
/// The file cannot be opened for writing.
pub fn members(cgroup: &Path) -> io::Result<fs::File> {
    let file = cgroup.join("cgroup.procs");
    as_the_host(|| fs::OpenOptions::new().write(true).open(file))
}

/// Does something on a thread that sees the tree as the host does, where this process may; else as it sees it itself.
fn as_the_host<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let see_and_work = || {
        if let Ok(host) = fs::File::open(HOST_CGROUPS) {
            let _ = move_into_link_name_space(host.as_fd(), Some(LinkNameSpaceType::ControlGroup));
        }
        work()
    };
    std::thread::scope(|scope| {
        scope.spawn(see_and_work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The path in version 2 of what `/proc/PID/cgroup` says (cgroups(7)).
fn unified(cgroups: &str) -> Option<&str> {
    cgroups.lines().find_map(|line| line.strip_prefix("0::"))
}

fn is_cgroup2(path: &Path) -> bool {
    statfs(path).is_ok_and(|about| about.f_type == CGROUP2_MAGIC)
}

fn access(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::Access { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_both_versions_the_second_is_read() {
        let both = "12:memory:/a\n1:name=systemd:/b:c\n0::/kubepods/podUID/container\n";
        assert_eq!(unified(both), Some("/kubepods/podUID/container"));
        assert_eq!(unified("1:cpu:/a\n"), None);
    }
}
