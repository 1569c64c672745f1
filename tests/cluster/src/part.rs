//! A program of the cluster that runs: its log, its end.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use mesh_test_harness::run::Run;

/// How far a heap of Kubernetes' programs grows before it is collected, in percent of what is in use (Go's GOGC, 100 unless
/// told). They begin all the time here and live for seconds; a fifth of what they compute would be collecting.
pub const GARBAGE: (&str, &str) = ("GOGC", "400");

/// A program of the cluster; killed on drop, for a graceful end takes an API server ten seconds.
#[derive(Debug)]
pub struct Part {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Part {
    /// Starts a program; what it says goes to a log of `run` named after it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(run: &Run, name: &str, mut command: Command) -> Result<Self> {
        let log = run.folder().join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("make {}", log.display()))?;
        let errors = file.try_clone().context("share a log")?;
        command.env(GARBAGE.0, GARBAGE.1).stdin(Stdio::null()).stdout(file).stderr(errors);
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Puts it into the run's cgroup: from here on the run's reaper ends it if this process cannot.
    ///
    /// # Errors
    /// It has ended, and cannot be put there.
    pub fn adopted_by(self, run: &Run) -> Result<Self> {
        let members = run.cgroup().join("cgroup.procs");
        fs::write(&members, self.id().to_string()).with_context(|| format!("write {}", members.display()))?;
        Ok(self)
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails if it has ended.
    ///
    /// # Errors
    /// It has; the text has the last lines of its log.
    pub fn lives(&mut self) -> Result<()> {
        match self.child.try_wait().context("ask for the state of a program")? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}; its last lines:\n{}", self.name, self.tail()),
        }
    }

    /// The last lines of its log.
    pub fn tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Fails if it ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
