//! A node from outside: its namespaces, its files, and the process that is its first.
//!
//! A node has what a machine has: namespaces of all kinds, a root in each cgroup hierarchy, a bpffs, `/run`, `/var` and
//! `/etc` of its own. Who ends its first process ends all that runs on it.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mesh_test_harness::binary;
use mesh_test_harness::eventually::{eventually, eventually_true};
use mesh_test_harness::netns::Namespace;
use mesh_test_harness::process::Place;
use mesh_test_harness::run::Run;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::certificates::Certificates;
use crate::hierarchies::{self, Hierarchy};
use crate::network::{Families, Network};
use crate::node_files;
use crate::part::Part;
use crate::programs::{self, Programs};

/// How long a process may take to appear.
const START: Duration = Duration::from_secs(30);
/// How long a node may take to end.
const END: Duration = Duration::from_secs(10);
/// containerd's socket, as a node sees it.
pub const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// What a node's first process is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inside {
    /// The node's name.
    pub name: String,
    /// Its addresses, the first of them the one that it is reached at.
    pub addresses: Vec<IpAddr>,
    /// The families of its pods' addresses.
    pub families: Families,
    /// The folder of its files.
    pub folder: PathBuf,
    /// The folder of Kubernetes' programs.
    pub programs: PathBuf,
    /// The folders of containerd and runc.
    pub runtime: [PathBuf; 2],
    /// Who its kubelet is.
    pub kubelet: PathBuf,
    /// Who its kube-proxy is.
    pub proxy: PathBuf,
    /// Where the API server listens.
    pub api_server: SocketAddr,
    /// Archives that its containerd gets.
    pub images: Vec<PathBuf>,
    /// Its roots in the hierarchies of version 1.
    pub roots: Vec<PathBuf>,
    /// What it mounts of version 1.
    pub hierarchies: Vec<Hierarchy>,
    /// Where it mounts version 2, below `/sys/fs/cgroup`.
    pub second_version: PathBuf,
}

/// What is left of a node without power: who it is, and its disk.
#[derive(Clone, Debug)]
struct Site {
    inside: Inside,
    /// Counted from 1.
    number: u8,
    /// How many nodes there are.
    nodes: u8,
}

/// A node that runs. Ended on drop.
#[derive(Debug)]
pub struct Node {
    site: Site,
    /// What the cgroups of its processes have in their names.
    cgroup: String,
    part: Part,
    netns: Namespace,
}

/// What all nodes of a cluster have alike.
#[derive(Clone, Copy)]
pub struct Common<'a> {
    /// What removes it.
    pub run: &'a Run,
    /// What joins the nodes.
    pub network: &'a Network,
    /// Who they are.
    pub certificates: &'a Certificates,
    /// Kubernetes' programs.
    pub programs: &'a Programs,
    /// Archives that every containerd gets.
    pub images: &'a [PathBuf],
    /// How many nodes there are.
    pub nodes: u8,
}

impl Node {
    /// Starts node `number`, counted from 1. It is not ready yet: its kubelet waits for the API server.
    ///
    /// # Errors
    /// Its namespaces, cgroups or files cannot be made.
    pub fn start(common: Common<'_>, number: u8) -> Result<Self> {
        let Common { run, network, certificates, programs: kubernetes, images, nodes } = common;
        let name = name(number);
        let addresses = network.node(number);
        let (api_server, families) = (network.api_server_inside(), network.families());
        let url = format!("https://{api_server}");
        let folder = run.folder().join(&name);
        certificates.server(&name, &addresses)?;
        let user = format!("system:node:{name}");
        let kubelet = certificates.client(&format!("{name}-kubelet"), &user, Some("system:nodes"), &url)?;
        let proxy = certificates.client("kube-proxy", "system:kube-proxy", None, &url)?;
        node_files::write(&folder, &name, number, families, certificates)?;
        let inside = Inside {
            name,
            addresses,
            families,
            folder,
            programs: kubernetes.folder().to_owned(),
            runtime: programs::runtime()?,
            kubelet,
            proxy,
            api_server,
            images: images.to_vec(),
            roots: Vec::new(),
            hierarchies: hierarchies::mounted()?,
            second_version: hierarchies::second_version()?,
        };
        Self::boot(run, network, Site { inside, number, nodes })
    }

    fn boot(run: &Run, network: &Network, mut site: Site) -> Result<Self> {
        let Site { inside, number, nodes } = &mut site;
        inside.roots = hierarchies::make_roots(run, &inside.name)?;
        let name = &inside.name;
        let netns = network.add_node(run, name, *number, *nodes)?;
        let place = Place::new(netns.clone(), run.cgroup().join(name), run.folder())?;
        let mut command = place.command(binary::cluster()?)?;
        command.args(["node", &serde_json::to_string(&inside)?]);
        let part = Part::start(run, name, command)?;
        let cgroup = format!("/{}/", hierarchies::root_name(run, name));
        Ok(Self { site, cgroup, part, netns })
    }

    /// Ends it as a machine ends that loses its power, and starts it again: its disk is as it was, and nothing else is
    /// left of it, no process, cgroup, namespace, link or pin. Who listens on its wire hears no more.
    ///
    /// # Errors
    /// It does not end, or cannot be made again.
    pub fn reboot(self, run: &Run, network: &Network) -> Result<Self> {
        let mut site = self.site.clone();
        drop(self);
        let inside = &mut site.inside;
        network.remove_node(&inside.name)?;
        let second = run.cgroup().join(&inside.name);
        hierarchies::remove_roots(inside.roots.iter().chain([&second]))?;
        // Its containerd has them.
        inside.images.clear();
        Self::boot(run, network, site)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.site.inside.name
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.site.inside.addresses[0]
    }

    /// Its address of the second family, or the only one that it has.
    pub fn last_address(&self) -> IpAddr {
        *self.site.inside.addresses.last().unwrap_or(&self.site.inside.addresses[0])
    }

    /// Where its programs' logs are.
    pub fn folder(&self) -> &Path {
        &self.site.inside.folder
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Namespace {
        &self.netns
    }

    /// Its first process, as this machine knows it.
    ///
    /// # Errors
    /// It has not begun.
    pub fn process(&self) -> Result<u32> {
        eventually("a node's first process begins", START, || self.begun())
    }

    fn begun(&self) -> Option<u32> {
        let outside = self.part.id();
        let children = fs::read_to_string(format!("/proc/{outside}/task/{outside}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// Processes on it, in whatever container or none, whose command line begins with these words, the first without its folder;
    /// by the ids of this machine.
    ///
    /// # Errors
    /// There is no `/proc`.
    pub fn processes(&self, called: &[&str]) -> Result<Vec<u32>> {
        let entries = fs::read_dir("/proc").context("read /proc")?.flatten();
        let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_here = |process: &u32| {
            let cgroups = fs::read_to_string(format!("/proc/{process}/cgroup"));
            // With an end, so that the node's own root is one too.
            cgroups.is_ok_and(|cgroups| cgroups.replace('\n', "/").contains(&self.cgroup))
        };
        Ok(processes.filter(|process| is_called(*process, called) && is_here(process)).collect())
    }

    /// Fails if it has ended.
    ///
    /// # Errors
    /// It has; the text has the last lines of what its first process said.
    pub fn lives(&mut self) -> Result<()> {
        self.part.lives()
    }

    /// The end of its logs, for a person.
    pub fn tail(&self) -> String {
        let last = |name: &str| {
            let log = fs::read_to_string(self.folder().join(name)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            format!("-- {} {name}\n{}\n", self.name(), lines[lines.len().saturating_sub(15)..].join("\n"))
        };
        format!(
            "-- {}\n{}\n{}",
            self.name(),
            self.part.tail(),
            ["containerd.log", "kubelet.log"].map(last).concat()
        )
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let first = self.begun().and_then(|process| Pid::from_raw(i32::try_from(process).ok()?));
        let Some(first) = first else { return };
        // With it all of the node ends; what entered its namespaces waits for it, so that none is left to bury.
        let ended = kill_process(first, Signal::KILL).is_ok()
            && eventually_true("a node ends", END, || self.part.lives().is_err()).is_ok();
        if !ended {
            eprintln!("{} does not end by itself; the run's reaper ends it", self.name());
        }
    }
}

fn is_called(process: u32, called: &[&str]) -> bool {
    let line = fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let mut words = line.split('\0');
    let program = words.next().and_then(|path| path.rsplit('/').next());
    program.into_iter().chain(words).take(called.len()).eq(called.iter().copied())
}

/// `node-a` is the first.
fn name(number: u8) -> String {
    format!("node-{}", char::from(b'a' + number - 1))
}

/// Gives an image to the containerd of the node whose first process is `process`.
///
/// # Errors
/// Its client cannot be built, it is no image, or containerd does not take it.
pub fn load(process: u32, archive: &Path) -> Result<()> {
    // A socket is reached through the root of any process that sees it.
    let socket = format!("/proc/{process}/root{CONTAINERD}");
    let [containerd, _] = programs::runtime()?;
    let mut ctr = Command::new(containerd.join("ctr"));
    ctr.args(["--address", &socket, "--namespace", "k8s.io", "images", "import", "--no-unpack"]).arg(archive);
    let output = ctr.output().context("start ctr")?;
    if !output.status.success() {
        bail!("import {}: {}", archive.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
