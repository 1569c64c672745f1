//! `mesh-test-capture` on a node: started, told about pods, asked, killed.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mesh_test_harness::eventually::{PATIENCE, eventually};
use mesh_test_harness::pod::Pod;
use mesh_test_harness::process::Process;
use mesh_test_harness::servers::events;
use mesh_test_harness::topology::{Site, Topology};
use serde_json::Value;

/// How long loading every program may take on a busy machine.
const LOAD_LIMIT: Duration = Duration::from_secs(30);

/// A node's stand-in for the daemon.
#[derive(Debug)]
pub struct Stand {
    process: Process,
    stdin: ChildStdin,
    pin_dir: PathBuf,
    /// Answers that were read.
    answered: usize,
}

impl Stand {
    /// Starts it on a node, and waits until every program is attached.
    ///
    /// # Errors
    /// It does not start; the text says why.
    pub fn start(program: &Path, topology: &Topology, site: &Site, flags: &[&str]) -> Result<Self> {
        let mut stand = Self::spawn(program, topology, site, flags)?;
        let found = eventually("the stand is ready", LOAD_LIMIT, || {
            let ended = stand.process.ended();
            (!stand.events("ready").is_empty() || ended.is_some()).then_some(ended)
        })?;
        if let Some(status) = found {
            bail!("the stand ended with {status}: {}", stand.process.stderr());
        }
        Ok(stand)
    }

    /// Starts it and waits for nothing.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(program: &Path, topology: &Topology, site: &Site, flags: &[&str]) -> Result<Self> {
        let pin_dir = topology.run().bpffs().join(site.name());
        let mut process = site.host().spawn_with(&format!("stand-{}", site.name()), program, |command| {
            command.arg("--cgroup-root").arg(site.pods_cgroup());
            command.arg("--agent-cgroup").arg(site.cgroup().join("agent"));
            command.arg("--pin-dir").arg(&pin_dir);
            command.args(flags).stdin(Stdio::piped());
        })?;
        let stdin = process.take_stdin().context("stdin was asked for")?;
        Ok(Self { process, stdin, pin_dir, answered: 0 })
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Where it pins.
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// Says a line, and waits for the answer.
    ///
    /// # Errors
    /// It fails; the text says why.
    pub fn tell(&mut self, line: &str) -> Result<Value> {
        writeln!(self.stdin, "{line}").with_context(|| format!("say {line}"))?;
        self.answered += 1;
        let (number, process) = (self.answered, &mut self.process);
        let answer = eventually(&format!("the stand answers {line}"), PATIENCE, || {
            let answers = events(&process.stdout(), "answer");
            answers.get(number - 1).cloned().or_else(|| process.ended().map(|_| Value::Null))
        })?;
        match answer["error"].as_str() {
            None if answer.is_null() => bail!("the stand ended: {}", self.process.stderr()),
            None => Ok(answer["result"].clone()),
            Some(error) => bail!("{line}: {error}"),
        }
    }

    /// Tells it of every pod there is, each as `NAME:MODE:PATH:ADDRESS`; nothing carries their connections.
    ///
    /// # Errors
    /// It fails; the text says why.
    pub fn all(&mut self, pods: &str) -> Result<Value> {
        self.tell(&format!("all {pods}"))
    }

    /// Has a pod held: known as enrolled, not captured yet. `extra` may name exclusions and probes.
    ///
    /// # Errors
    /// The kernel's side fails.
    pub fn hold(&mut self, pod: &Pod, extra: &str) -> Result<Value> {
        let [first, second] = pod.addresses();
        let path = pod.place().netns().path();
        self.tell(&format!("hold {} {} {first},{second} {extra}", pod.name(), path.display()))
    }

    /// Has a pod captured.
    ///
    /// # Errors
    /// The kernel's side fails.
    pub fn capture(&mut self, pod: &Pod, extra: &str) -> Result<Value> {
        self.hold(pod, extra)?;
        self.tell(&format!("capture {}", pod.name()))
    }

    /// The events of a kind so far: `outbound`, `inbound`, `stray`.
    pub fn events(&self, kind: &str) -> Vec<Value> {
        events(&self.process.stdout(), kind)
    }

    /// How often a verdict was reached.
    ///
    /// # Errors
    /// The stand does not answer.
    pub fn verdicts(&mut self, reason: &str) -> Result<u64> {
        self.tell("verdicts")?[reason].as_u64().with_context(|| format!("no verdict {reason}"))
    }

    /// Kills it (SIGKILL).
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()
    }
}
