//! A cluster that stands until it is told to go: up, status, load, down.
//!
//! A process of its own holds it, and ends it when it is told to. One at a time; a file says which process that is
//! and how to reach what it holds.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use mesh_test_harness::eventually::eventually;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use crate::api_server::ApiServer;
use crate::cluster::Cluster;
use crate::control_plane::ControlPlane;
use crate::network::Families;
use crate::node;
use crate::programs::{self, Programs};

/// Which process holds it, and how to reach it.
const STATE: &str = "/run/nodemesh-cluster.json";
/// What that process says.
const LOG: &str = "/run/nodemesh-cluster.log";
/// The word that makes this program that process.
const HOLD: &str = "hold";
/// What stands before what it says against itself.
const AGAINST: &str = "error: ";
/// What that process is told when it may outlive who started it.
const STAY: &[u8] = b"stay\n";
/// How long a start or an end may take, on a machine that does other work too.
const PATIENCE: Duration = Duration::from_secs(300);

/// A cluster that stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The process that holds it.
    pub process: u32,
    /// Where the API server listens.
    pub url: String,
    /// The kubeconfig of somebody who may do everything.
    pub kubeconfig: PathBuf,
    /// Which families of addresses nodes, pods and Services have.
    #[serde(default)]
    pub families: Families,
    /// Its nodes; a light one has none.
    pub nodes: Vec<StandingNode>,
}

/// A node of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingNode {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its first process, as this machine knows it: the way into its namespaces.
    pub process: u32,
    /// Its network namespace.
    pub netns: PathBuf,
    /// Where its programs' logs are.
    pub logs: PathBuf,
}

impl Standing {
    /// The one that stands, if any does.
    ///
    /// # Errors
    /// The file that names it cannot be read.
    pub fn find() -> Result<Option<Self>> {
        let text = match fs::read_to_string(STATE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("read {STATE}"))?,
        };
        let standing: Self = serde_json::from_str(&text).with_context(|| format!("understand {STATE}"))?;
        Ok(standing.lives().then_some(standing))
    }

    /// The one that stands.
    ///
    /// # Errors
    /// None does, or see [`Standing::find`].
    pub fn present() -> Result<Self> {
        Self::find()?.context("no cluster stands; cargo xtask cluster up starts one")
    }

    /// Builds what is missing, starts a cluster and waits until it is ready. Returns how long the start took.
    ///
    /// # Errors
    /// Another one stands, families are named for no nodes, or it does not come up; the text is what its process said.
    pub fn up(nodes: u8, families: Families) -> Result<(Self, Duration)> {
        if nodes == 0 && families != Families::Dual {
            bail!("without nodes there is no network to have families: leave --families out");
        }
        if let Some(standing) = Self::find()? {
            if (standing.nodes.len(), standing.families) == (usize::from(nodes), families) {
                return Ok((standing, Duration::ZERO));
            }
            let (nodes, families) = (standing.nodes.len(), standing.families);
            bail!("a cluster of {nodes} nodes, {families:?}, stands; cargo xtask cluster down ends it");
        }
        Programs::get()?;
        if nodes > 0 {
            programs::coredns()?;
        }
        let started = Instant::now();
        let mut holder = Holder::start(nodes, families)?;
        let standing = eventually("the cluster stands", PATIENCE, || {
            holder.show();
            match holder.child.try_wait() {
                Ok(None) => Self::find().transpose(),
                _ => Some(Err(said())),
            }
        })
        .flatten()?;
        holder.show();
        holder.leave()?;
        Ok((standing, started.elapsed()))
    }

    /// Ends it and waits until it is gone.
    ///
    /// # Errors
    /// It does not end.
    pub fn down(&self) -> Result<()> {
        let process =
            i32::try_from(self.process).ok().and_then(Pid::from_raw).context("the process has an id")?;
        kill_process(process, Signal::TERM).context("tell the cluster to end")?;
        eventually("the cluster is gone", PATIENCE, || (!self.lives()).then_some(()))?;
        fs::remove_file(LOG).with_context(|| format!("remove {LOG}"))
    }

    /// Gives an image to every node.
    ///
    /// # Errors
    /// It is no image, or a containerd does not take it.
    pub fn load(&self, archive: &Path) -> Result<()> {
        if self.nodes.is_empty() {
            bail!("the cluster has no nodes; cargo xtask cluster down, then up --nodes 2");
        }
        self.nodes.iter().try_for_each(|node| node::load(node.process, archive))
    }

    /// Whether the process is one that holds a cluster: ids are given anew.
    fn lives(&self) -> bool {
        let words = fs::read(Path::new("/proc").join(self.process.to_string()).join("cmdline"));
        words.is_ok_and(|words| words.split(|byte| *byte == 0).nth(1) == Some(HOLD.as_bytes()))
    }

    fn of(control_plane: &ControlPlane, families: Families, nodes: Vec<StandingNode>) -> Self {
        Self {
            process: std::process::id(),
            url: control_plane.url(),
            kubeconfig: control_plane.kubeconfig().to_owned(),
            families,
            nodes,
        }
    }
}

/// The process that holds a cluster, as who starts it sees it. It ends if this one does before it is left.
struct Holder {
    child: Child,
    /// How much of its log was shown.
    shown: usize,
}

impl Holder {
    fn start(nodes: u8, families: Families) -> Result<Self> {
        let log = File::create(LOG).with_context(|| format!("make {LOG}"))?;
        let mut holder = Command::new(std::env::current_exe().context("find this program")?);
        let families = families.to_possible_value().context("every choice has a name")?;
        holder.args([HOLD, "--nodes", &nodes.to_string(), "--families", families.get_name()]);
        holder.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        // A group of its own: what ends the caller later does not end it.
        let child = holder.process_group(0).spawn().context("start the process that holds the cluster")?;
        Ok(Self { child, shown: 0 })
    }

    /// Shows the steps that it has done since; what it says against it at the end is its error's.
    fn show(&mut self) {
        let log = fs::read_to_string(LOG).unwrap_or_default();
        let log = log.split_once(AGAINST).map_or(log.as_str(), |(steps, _)| steps);
        let new = &log[self.shown.min(log.len())..];
        let whole = new.rfind('\n').map_or(0, |end| end + 1);
        eprint!("{}", &new[..whole]);
        self.shown += whole;
    }

    fn leave(mut self) -> Result<()> {
        let mut stdin = self.child.stdin.take().context("standard input is piped")?;
        stdin.write_all(STAY).context("leave the process that holds the cluster")
    }
}

/// Holds a cluster until this process is told to end.
///
/// # Errors
/// It does not start, or cannot be made known.
pub fn hold(nodes: u8, families: Families) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Listened to from the first: what is told meanwhile is heard after the start.
    let _inside = runtime.enter();
    let (mut end, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    thread::spawn(end_if_left_alone);
    let held = Held::start(nodes, families)?;
    write(&serde_json::to_string(&held.standing(families)?)?)?;
    runtime.block_on(async {
        tokio::select! {
            _ = end.recv() => {}
            _ = interrupt.recv() => {}
        }
    });
    fs::remove_file(STATE).with_context(|| format!("remove {STATE}"))?;
    drop(held);
    Ok(())
}

/// Ends this process if who started it ends before it says that this one may stay. The run's reaper does the rest.
fn end_if_left_alone() {
    let mut told = Vec::new();
    // An error is an end as well.
    let _ = io::stdin().read_to_end(&mut told);
    if told != STAY {
        std::process::exit(1);
    }
}

/// What a process holds.
enum Held {
    Light(Box<ApiServer>),
    Full(Box<Cluster>),
}

impl Held {
    fn start(nodes: u8, families: Families) -> Result<Self> {
        Ok(match nodes {
            0 => Self::Light(Box::new(ApiServer::start()?)),
            nodes => Self::Full(Box::new(Cluster::start_with(nodes, families, |step| eprintln!("{step}"))?)),
        })
    }

    fn standing(&self, families: Families) -> Result<Standing> {
        let cluster = match self {
            Self::Light(server) => return Ok(Standing::of(server, families, Vec::new())),
            Self::Full(cluster) => cluster,
        };
        let node = |node: &node::Node| {
            Ok(StandingNode {
                name: node.name().to_owned(),
                address: node.address(),
                process: node.process()?,
                netns: node.netns().path(),
                logs: node.folder().to_owned(),
            })
        };
        let nodes = cluster.nodes().iter().map(node).collect::<Result<_>>()?;
        Ok(Standing::of(cluster.control_plane(), families, nodes))
    }
}

/// What the process that holds it said against it.
fn said() -> anyhow::Error {
    let log = fs::read_to_string(LOG).unwrap_or_default();
    let against = log.split_once(AGAINST).map_or(log.as_str(), |(_, error)| error);
    anyhow::anyhow!("{}", against.trim().to_owned())
}

/// Nobody reads half of it.
fn write(state: &str) -> Result<()> {
    let new = format!("{STATE}.new");
    fs::write(&new, state).with_context(|| format!("write {new}"))?;
    fs::rename(&new, STATE).with_context(|| format!("write {STATE}"))
}
