//! A process inside a network namespace and a cgroup, its output in files.
//!
//! In: a place and a command. Out: a guard that kills the process on drop. The namespace and the cgroup are entered
//! between fork and exec, so that the program has never been anywhere else.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::eventually::eventually;
use crate::netns::Namespace;

/// Where a process is put before it begins.
#[derive(Clone, Debug)]
pub struct Place {
    netns: Namespace,
    cgroup: PathBuf,
    logs: PathBuf,
    discards_stdout: bool,
}

/// A running process. Killed on drop.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: Arc<PathBuf>,
    stderr: Arc<PathBuf>,
}

/// What a process that ended has said.
#[derive(Clone, Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Place {
    /// A place in `netns` and `cgroup`, with the files of its processes in `logs`.
    ///
    /// # Errors
    /// The cgroup or the folder cannot be made.
    pub fn new(netns: Namespace, cgroup: PathBuf, logs: PathBuf) -> Result<Self> {
        for folder in [&cgroup, &logs] {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        Ok(Self { netns, cgroup, logs, discards_stdout: false })
    }

    /// The same network namespace from another cgroup.
    ///
    /// # Errors
    /// The cgroup cannot be made.
    pub fn with_cgroup(&self, cgroup: PathBuf) -> Result<Self> {
        Self::new(self.netns.clone(), cgroup, self.logs.clone())
    }

    /// The folder of its processes' files.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// The same place, where nobody keeps what processes write to standard output.
    #[must_use]
    pub fn discarding_stdout(mut self) -> Self {
        self.discards_stdout = true;
        self
    }

    /// The network namespace.
    pub fn netns(&self) -> &Namespace {
        &self.netns
    }

    /// The cgroup.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// A command that begins in this place.
    ///
    /// # Errors
    /// The cgroup or the namespace is gone.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let processes = self.cgroup.join("cgroup.procs");
        let mut cgroup = OpenOptions::new()
            .write(true)
            .open(&processes)
            .with_context(|| format!("open {}", processes.display()))?;
        let netns = self.netns.fd().try_clone_to_owned().context("hold the namespace")?;
        let mut command = Command::new(program);
        // A group of its own: an interrupt of the run reaches the run, whose reaper ends all that it started. Where a
        // shell has the run ignore it, what does not ignore it would end and the run go on without.
        command.process_group(0);
        let enter = move || -> io::Result<()> {
            cgroup.write_all(b"0")?;
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(())
        };
        // SAFETY: between fork and exec only write(2) and setns(2) run, on descriptors that the closure owns; both
        // are async-signal-safe and nothing is allocated.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }

    /// Starts a program whose output goes to files named after `name`.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(
        &self,
        name: &str,
        program: impl AsRef<OsStr>,
        arguments: &[impl AsRef<OsStr>],
    ) -> Result<Process> {
        self.spawn_with(name, program, |command| {
            command.args(arguments).stdin(Stdio::null());
        })
    }

    /// Like [`Place::spawn`], with `prepare` adding what is special.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn_with(
        &self,
        name: &str,
        program: impl AsRef<OsStr>,
        prepare: impl FnOnce(&mut Command),
    ) -> Result<Process> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let program = program.as_ref();
        let stem = format!("{name}.{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let stdout = match self.discards_stdout {
            true => PathBuf::from("/dev/null"),
            false => self.logs.join(format!("{stem}.stdout")),
        };
        let stderr = self.logs.join(format!("{stem}.stderr"));
        let mut command = self.command(program)?;
        prepare(&mut command);
        command.stdout(create(&stdout)?).stderr(create(&stderr)?);
        let child = command.spawn().with_context(|| format!("start {}", program.to_string_lossy()))?;
        Ok(Process { name: name.to_owned(), child, stdout: Arc::new(stdout), stderr: Arc::new(stderr) })
    }
}

impl Process {
    /// The name that it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The file of its standard output.
    pub fn stdout_file(&self) -> Arc<PathBuf> {
        Arc::clone(&self.stdout)
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// The pipe to its standard input, if `prepare` asked for one.
    pub fn take_stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a child has an id")?;
        kill_process(pid, signal).with_context(|| format!("signal {}", self.name))
    }

    /// Kills it (SIGKILL) and waits.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        // InvalidInput: it ended by itself.
        let _ = self.child.kill();
        self.child.wait().with_context(|| format!("wait for {}", self.name))?;
        Ok(())
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// It does not end within `limit`; it is killed then.
    pub fn wait(mut self, limit: Duration) -> Result<Ended> {
        let reason = format!("{} ends", self.name);
        let status = eventually(&reason, limit, || self.ended())?;
        Ok(Ended { status, stdout: self.stdout(), stderr: self.stderr() })
    }

    /// The last lines of both outputs, for a person. Of those before, the records of an agent that say of a failure.
    pub fn tail(&self, lines: usize) -> String {
        let mut text = String::new();
        for (what, content) in [("stdout", self.stdout()), ("stderr", self.stderr())] {
            let all: Vec<&str> = content.lines().collect();
            let (before, last) = all.split_at(all.len().saturating_sub(lines));
            let failures = before.iter().filter(|line| is_failure(line)).take(lines);
            for line in failures.chain(last) {
                text.push_str(&format!("{} {what}: {line}\n", self.name));
            }
        }
        text
    }
}

/// Whether an access record says that something was refused, cut or answered by the mesh itself.
fn is_failure(record: &str) -> bool {
    record.contains("\"log\":\"access\"") && !record.contains("\"reason\":\"completed\"")
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Standard output, if the process ended well.
    ///
    /// # Errors
    /// It did not; the text is what it said.
    pub fn success(self, what: &str) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        let how = match self.status.signal() {
            Some(signal) => format!("signal {signal}"),
            None => self.status.to_string(),
        };
        bail!("{what} ended with {how}: {}{}", self.stdout, self.stderr)
    }
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("make {}", path.display()))
}

fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
