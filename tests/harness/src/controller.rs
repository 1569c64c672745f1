//! A controller of a test, and what agents need to find it.
//!
//! In: the topology. Out: a guard over `mesh-test-controller`, on the first node's own address.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::binary::Build;
use crate::eventually::{PATIENCE, eventually_true};
use crate::node::Folders;
use crate::process::{Place, Process};
use crate::topology::{NODES, Topology};

/// On the wire: the first node.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1)), 15012);

/// One try to connect.
const CONNECT: Duration = Duration::from_millis(200);

/// The controller of one mesh, running or not.
#[derive(Debug)]
pub struct Controller {
    place: Place,
    arguments: Vec<String>,
    /// Tokens and states of the agents, by node.
    folder: PathBuf,
    roots: PathBuf,
    build: Build,
    process: Option<Process>,
    /// What earlier processes said.
    earlier: Vec<String>,
}

impl Controller {
    /// Starts it, and waits until it listens.
    ///
    /// # Errors
    /// It does not in time.
    pub fn start(topology: &Topology, folders: &Folders, build: Build) -> Result<Self> {
        let folder = topology.run().folder().join("controller");
        let mut arguments = vec![
            ADDRESS.to_string(),
            folders.config.display().to_string(),
            folders.trust.display().to_string(),
        ];
        for node in NODES {
            fs::create_dir_all(folder.join(node)).context("make the folder of a node")?;
            let token = format!("token-of-{node}");
            fs::write(folder.join(node).join("token"), &token).context("write a token")?;
            arguments.push(format!("{node}={token}"));
        }
        let place = topology.sites()[0].host().clone();
        let roots = folders.trust.join("tls.crt");
        let mut controller =
            Self { place, arguments, folder, roots, build, process: None, earlier: Vec::new() };
        controller.restart()?;
        Ok(controller)
    }

    /// The flags of a node's agent.
    pub fn flags(&self, node: &str) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("--controller", PathBuf::from(ADDRESS.to_string())),
            ("--controller-roots", self.roots.clone()),
            ("--controller-token", self.token_file(node)),
            ("--state-dir", self.folder.join(node).join("state")),
        ]
    }

    /// The token of a node's agent.
    pub fn token_file(&self, node: &str) -> PathBuf {
        self.folder.join(node).join("token")
    }

    /// What a node's agent has on disk.
    pub fn state_file(&self, node: &str) -> PathBuf {
        self.folder.join(node).join("state/state")
    }

    /// Has its authority sign from now on, or refuse everybody as if it were away; the streams go on.
    ///
    /// # Errors
    /// The folder of the authority cannot be written.
    pub fn set_signing(&self, signs: bool) -> Result<()> {
        let away = self.roots.with_file_name("signs-nothing");
        let done = if signs { fs::remove_file(&away) } else { fs::write(&away, "") };
        done.with_context(|| format!("write {}", away.display()))
    }

    /// Starts the process, and waits until it listens.
    ///
    /// # Errors
    /// It does not in time.
    pub fn restart(&mut self) -> Result<()> {
        let process = self.place.spawn("controller", self.build.test_controller()?, &self.arguments)?;
        let process = self.process.insert(process);
        let netns = self.place.netns();
        let connect = || Ok(TcpStream::connect_timeout(&ADDRESS, CONNECT).is_ok());
        let listens = || netns.run(connect).unwrap_or(false);
        eventually_true("the controller listens", PATIENCE, || process.ended().is_some() || listens())?;
        if let Some(status) = process.ended() {
            anyhow::bail!("the controller ended with {status}:\n{}", process.tail(20));
        }
        Ok(())
    }

    /// Kills the process (SIGKILL).
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            self.earlier.push(process.stderr());
        }
        Ok(())
    }

    /// Sends the process a signal.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().context("the controller runs")?.signal(signal)
    }

    /// The end of what it said, for a person.
    pub fn tail(&self) -> String {
        match &self.process {
            Some(process) => process.tail(40),
            None => self.earlier.last().cloned().unwrap_or_default(),
        }
    }
}
