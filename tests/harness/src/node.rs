//! A real daemon on a node: started, killed, restarted, asked.
//!
//! In: a node of the topology, the folders of configuration and trust. Out: a guard over `mesh-node agent`, with its
//! log, its access records, its metrics and its command line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::Value;

use crate::binary::Build;
use crate::eventually::{PATIENCE, eventually};
use crate::process::{Ended, Place, Process};
use crate::scrape::{self, Metrics};
use crate::topology::{Site, Topology};

/// How long a daemon may take until it is ready: loading the programs is most of it.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Where the agent of a node is found, on the node's own loopback.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 15020);
const READINESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 15021);

/// Flags, each with a value, that an agent does without where its build does not know them.
const NOT_NEEDED: [&str; 2] = ["--pod-logs", "--state-dir"];

/// One node's agent, running or not.
#[derive(Debug)]
pub struct Node {
    name: &'static str,
    host: Place,
    flags: Vec<String>,
    admin_socket: PathBuf,
    pin_dir: PathBuf,
    build: Build,
    /// Nobody reads its access records.
    discards_records: bool,
    /// Nothing between a kill and a restart.
    process: Option<Process>,
    /// What earlier processes of this node said: `(stdout, stderr)`.
    earlier: Vec<(String, String)>,
}

impl Node {
    /// Starts the agent of a node and waits until it is ready.
    ///
    /// # Errors
    /// It does not become ready in time, or ends; the text has the end of its log.
    pub fn start(topology: &Topology, site: &Site, folders: &Folders, flags: &[String]) -> Result<Self> {
        let mut node = Self::prepare(topology, site, folders, flags);
        node.restart()?;
        Ok(node)
    }

    /// Everything but the process.
    pub fn prepare(topology: &Topology, site: &Site, folders: &Folders, flags: &[String]) -> Self {
        let source = vec![("--config-dir", folders.config.clone()), ("--trust-dir", folders.trust.clone())];
        Self::prepare_from(topology, site, source, flags)
    }

    /// The same, with flags that say where objects and certificates come from.
    pub fn prepare_from(
        topology: &Topology,
        site: &Site,
        source: Vec<(&'static str, PathBuf)>,
        flags: &[String],
    ) -> Self {
        let pin_dir = topology.run().bpffs().join(site.name());
        let admin_socket = site.logs().join("admin.sock");
        let own = [
            ("--node-name", PathBuf::from(site.name())),
            ("--cgroup-root", site.pods_cgroup()),
            ("--agent-cgroup", site.cgroup().join("agent")),
            ("--pin-dir", pin_dir.clone()),
            ("--admin-socket", admin_socket.clone()),
            ("--pod-logs", site.pod_logs()),
            ("--log-format", PathBuf::from("json")),
        ];
        let own = own.into_iter().chain(source);
        let mut all: Vec<String> =
            own.flat_map(|(flag, value)| [flag.to_owned(), value.display().to_string()]).collect();
        all.extend(flags.iter().cloned());
        Self {
            name: site.name(),
            host: site.host().clone(),
            flags: all,
            admin_socket,
            pin_dir,
            build: Build::Own,
            discards_records: false,
            process: None,
            earlier: Vec::new(),
        }
    }

    /// Has the access records written, but kept by nobody: for as many as a bench makes.
    pub fn discard_records(&mut self) {
        self.discards_records = true;
    }

    /// Has the next process be of another build: an upgrade, or the way back.
    pub fn set_build(&mut self, build: Build) {
        self.build = build;
    }

    /// The node's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Where programs and maps are pinned.
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// The socket of the command line.
    pub fn admin_socket(&self) -> &Path {
        &self.admin_socket
    }

    /// The flags that the agent is started with.
    pub fn flags(&self) -> &[String] {
        &self.flags
    }

    /// The process id.
    ///
    /// # Panics
    /// The agent does not run.
    pub fn id(&self) -> u32 {
        self.running().id()
    }

    fn running(&self) -> &Process {
        self.process.as_ref().unwrap_or_else(|| panic!("the agent of {} does not run", self.name))
    }

    /// Starts the process and waits until it is ready: how long that took.
    ///
    /// # Errors
    /// It does not become ready in time, or ends.
    pub fn restart(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.spawn()?;
        self.wait_until_ready()?;
        Ok(start.elapsed())
    }

    /// Starts the process and waits for nothing.
    ///
    /// # Errors
    /// The program is not there.
    pub fn spawn(&mut self) -> Result<()> {
        self.put_away();
        let mut arguments = vec!["agent".to_owned()];
        arguments.extend(self.build.understood(&self.flags, &NOT_NEEDED)?);
        let name = format!("agent-{}", self.name);
        let host = self.host.clone();
        let place = if self.discards_records { host.discarding_stdout() } else { host };
        self.process = Some(place.spawn(&name, self.build.mesh_node()?, &arguments)?);
        Ok(())
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Errors
    /// It does not in time, or the process ended; the text has the end of its log.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let host = self.host.clone();
        let process = self.process.as_mut().context("the agent was started")?;
        let outcome = eventually(&format!("the agent of {} is ready", self.name), START_LIMIT, || {
            if let Some(status) = process.ended() {
                return Some(Err(status));
            }
            scrape::get(host.netns(), READINESS, "/readyz")
                .ok()
                .filter(|(status, _)| *status == 200)
                .map(|_| Ok(()))
        });
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("the agent of {} ended with {status}:\n{}", self.name, self.tail(40)),
            Err(error) => bail!("{error}:\n{}", self.tail(40)),
        }
    }

    /// Kills the process (SIGKILL).
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(process) = &mut self.process {
            process.kill()?;
        }
        self.put_away();
        Ok(())
    }

    /// Sends the process a signal.
    ///
    /// # Errors
    /// The process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.running().signal(signal)
    }

    /// Asks the process to stop (SIGTERM) and waits: how long it took.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn stop(&mut self) -> Result<Duration> {
        let start = Instant::now();
        if let Some(process) = self.process.take() {
            process.signal(Signal::TERM)?;
            let ended = process.wait(Duration::from_secs(20))?;
            self.earlier.push((ended.stdout, ended.stderr));
        }
        Ok(start.elapsed())
    }

    fn put_away(&mut self) {
        if let Some(process) = self.process.take() {
            self.earlier.push((process.stdout(), process.stderr()));
        }
    }

    /// Runs another subcommand of `mesh-node` on the node; `--admin-socket` is added.
    ///
    /// # Errors
    /// It cannot be started, or does not end in time.
    pub fn command(&self, arguments: &[&str]) -> Result<Ended> {
        self.command_of(self.build, arguments)
    }

    /// The same with a build of the command line that need not be the agent's.
    ///
    /// # Errors
    /// It cannot be started, or does not end in time.
    pub fn command_of(&self, build: Build, arguments: &[&str]) -> Result<Ended> {
        let socket = self.admin_socket.display().to_string();
        let mut all = arguments.to_vec();
        all.extend(["--admin-socket", &socket]);
        self.host.spawn(&format!("mesh-node-{}", self.name), build.mesh_node()?, &all)?.wait(PATIENCE)
    }

    /// Reads the metrics.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn metrics(&self) -> Result<Metrics> {
        scrape::scrape(self.host.netns(), METRICS)
    }

    /// Waits until the sum of a metric satisfies a condition: the sum.
    ///
    /// # Errors
    /// It does not in time; the text has the last sum.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)], wanted: impl Fn(f64) -> bool) -> Result<f64> {
        let mut last = f64::NAN;
        let found = eventually(&format!("{name}{labels:?} of {} is as wanted", self.name), PATIENCE, || {
            last = self.metrics().ok()?.sum(name, labels);
            wanted(last).then_some(last)
        });
        found.with_context(|| format!("last value {last}"))
    }

    /// Every line that the agent wrote to standard output and is JSON: the access records.
    pub fn records(&self) -> Vec<Value> {
        let stdout = self.process.as_ref().map(Process::stdout).unwrap_or_default();
        let earlier = self.earlier.iter().map(|(stdout, _)| stdout.as_str());
        earlier
            .chain([stdout.as_str()])
            .flat_map(str::lines)
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Waits for an access record.
    ///
    /// # Errors
    /// None comes in time; the text has the last few.
    pub fn record(&self, reason: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let what = format!("{} logs {reason}", self.name);
        eventually(&what, PATIENCE, || self.records().into_iter().find(|record| wanted(record))).with_context(
            || {
                let records = self.records();
                let last: Vec<String> =
                    records[records.len().saturating_sub(5)..].iter().map(Value::to_string).collect();
                format!("last records:\n{}", last.join("\n"))
            },
        )
    }

    /// What the agent logged so far, on standard error.
    pub fn log(&self) -> String {
        let mut text: String = self.earlier.iter().map(|(_, stderr)| stderr.as_str()).collect();
        text.push_str(&self.process.as_ref().map(Process::stderr).unwrap_or_default());
        text
    }

    /// The end of everything that the agent said, for a person.
    pub fn tail(&self, lines: usize) -> String {
        match &self.process {
            Some(process) => process.tail(lines),
            None => {
                self.earlier.last().map(|(stdout, stderr)| format!("{stdout}{stderr}")).unwrap_or_default()
            }
        }
    }
}

/// What the agents of one mesh share.
#[derive(Clone, Debug)]
pub struct Folders {
    /// `--config-dir`.
    pub config: PathBuf,
    /// `--trust-dir`.
    pub trust: PathBuf,
}
