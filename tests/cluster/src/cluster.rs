//! The full form: a control plane and nodes that run pods.

use std::path::Path;
use std::time::{Duration, Instant};
use std::{fmt, fs};

use anyhow::{Context, Result, anyhow, bail};
use mesh_test_harness::binary::Build;
use mesh_test_harness::capture::Capture;
use mesh_test_harness::eventually::eventually;
use mesh_test_harness::process::Place;
use mesh_test_harness::run::Run;

use crate::certificates::Certificates;
use crate::control_plane::{ControlPlane, Form, Site};
use crate::images;
use crate::network::{Families, Network};
use crate::node::{self, Common, Node};
use crate::programs::Programs;

/// How many nodes are named after letters.
pub const MOST_NODES: u8 = 20;
/// How long nodes and the name server may take to be ready, on a machine that does other work too.
const READY: Duration = Duration::from_secs(120);
/// How long curl may take that gives up after five seconds, and how it ends then.
const ANSWER: Duration = Duration::from_secs(20);
const GAVE_UP: i32 = 28;
/// The name server's objects.
const NAME_SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/objects/name-server.yaml");

/// A cluster that runs. Ended, with all it holds, on drop.
#[derive(Debug)]
pub struct Cluster {
    /// In this order: the nodes, the control plane, what joins them, what removes the rest.
    nodes: Vec<Node>,
    control_plane: ControlPlane,
    network: Network,
    run: Run,
}

impl Cluster {
    /// Starts a cluster and waits until its nodes and its name server are ready; `say` hears how far it is.
    ///
    /// # Errors
    /// A program cannot be built or started, or is not ready in time; the text has the last lines of its log.
    pub fn start(nodes: u8, say: impl Fn(&str)) -> Result<Self> {
        Self::start_with(nodes, Families::Dual, say)
    }

    /// The same, with addresses of these families alone.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_with(nodes: u8, families: Families, say: impl Fn(&str)) -> Result<Self> {
        if !(1..=MOST_NODES).contains(&nodes) {
            bail!("a cluster of {nodes} nodes: one to {MOST_NODES} can be made");
        }
        let programs = Programs::get()?;
        crate::programs::runtime()?;
        crate::programs::coredns()?;
        let say = Steps { begun: Instant::now(), say };
        let run = Run::start()?;
        let certificates = Certificates::make(&run.folder().join("pki"))?;
        let network = Network::make(&run, families)?;
        let site = Site {
            place: Some(network.control_plane(&run)?),
            address: network.api_server(),
            inside: network.api_server_inside(),
            families,
            // Nobody else is in the namespace.
            store: [2379, 2380],
        };
        let mut control_plane = ControlPlane::start(&run, &certificates, site, Form::Full, &[])?;
        let images = images::make(&run.folder().join("images"))?;
        say.step("images are made");
        let common = Common {
            run: &run,
            network: &network,
            certificates: &certificates,
            programs: &programs,
            images: &images,
            nodes,
        };
        let nodes = (1..=nodes).map(|number| Node::start(common, number)).collect::<Result<Vec<_>>>()?;
        control_plane.wait_until_ready()?;
        say.step("the API server is ready");
        control_plane.start_workers(&run, &certificates)?;
        let mut cluster = Self { nodes, control_plane, network, run };
        cluster.apply_name_server().context("apply the name server")?;
        cluster.wait_until_ready(&say)?;
        Ok(cluster)
    }

    /// The control plane.
    pub fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// The nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Ends a node as a machine ends that loses its power; the cluster is not told.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn kill_node(&mut self, name: &str) -> Result<()> {
        let place = self.place_of(name)?;
        drop(self.nodes.remove(place));
        Ok(())
    }

    /// Ends a node as a machine ends that loses its power, and starts it again; the cluster is not told.
    ///
    /// # Errors
    /// See [`Node::reboot`], or there is none of that name.
    pub fn reboot_node(&mut self, name: &str) -> Result<()> {
        let place = self.place_of(name)?;
        let node = self.nodes.remove(place).reboot(&self.run, &self.network)?;
        self.nodes.insert(place, node);
        Ok(())
    }

    fn apply_name_server(&self) -> Result<()> {
        let objects = fs::read_to_string(NAME_SERVER).context("read its objects")?;
        let address = self.network.families().name_server();
        let file = self.run.folder().join("name-server.yaml");
        fs::write(&file, objects.replace("NAME_SERVER", &format!("'{address}'"))).context("write them")?;
        self.kubectl(&["apply", "-f", &file.display().to_string()]).map(drop)
    }

    /// The status of a request from the control plane, which is no node and has both families. `000` if the connection was
    /// refused or closed.
    ///
    /// # Errors
    /// curl cannot be started, or waited in vain.
    pub fn ask_from_outside(&self, url: &str) -> Result<String> {
        self.curl(&["--output", "/dev/null", "--write-out", "%{http_code}", url])
    }

    /// What a request from there is answered with.
    ///
    /// # Errors
    /// As for [`ask_from_outside`](Self::ask_from_outside).
    pub fn text_from_outside(&self, url: &str) -> Result<String> {
        self.curl(&[url])
    }

    fn curl(&self, words: &[&str]) -> Result<String> {
        let words = [&["--silent", "--globoff", "--max-time", "5"], words].concat();
        let place = self.network.control_plane(&self.run)?;
        let ended = place.spawn("outside-curl", "curl", &words)?.wait(ANSWER)?;
        if ended.status.code() == Some(GAVE_UP) {
            bail!("curl {} waited in vain", words.join(" "));
        }
        Ok(ended.stdout)
    }

    fn place_of(&self, name: &str) -> Result<usize> {
        let place = self.nodes.iter().position(|node| node.name() == name);
        place.with_context(|| format!("find a node {name}"))
    }

    /// Runs kubectl as somebody who may do everything; returns what it printed.
    ///
    /// # Errors
    /// It fails; the text is what it said.
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        self.control_plane.kubectl(words)
    }

    /// Gives an image to every node.
    ///
    /// # Errors
    /// It is no image, or a containerd does not take it.
    pub fn load(&self, archive: &Path) -> Result<()> {
        self.nodes.iter().try_for_each(|node| node::load(node.process()?, archive))
    }

    /// Gives every node the image of the mesh, as it was built for tests.
    ///
    /// # Errors
    /// It cannot be built, or a containerd does not take it.
    pub fn load_mesh(&self, build: Build) -> Result<()> {
        self.load(&images::mesh(&self.run.folder().join("images"), build)?)
    }

    /// Gives every node the image of the conformance suite's pods.
    ///
    /// # Errors
    /// It cannot be built, or a containerd does not take it.
    pub fn load_echo(&self) -> Result<()> {
        self.load(&images::echo(&self.run.folder().join("images"))?)
    }

    /// Gives every node the image of Debian's Prometheus.
    ///
    /// # Errors
    /// It is not installed, or a containerd does not take it.
    pub fn load_prometheus(&self) -> Result<()> {
        self.load(&images::prometheus(&self.run.folder().join("images"))?)
    }

    /// Gives every node the image of Debian's nginx.
    ///
    /// # Errors
    /// It is not installed, or a containerd does not take it.
    pub fn load_nginx(&self) -> Result<()> {
        self.load(&images::nginx(&self.run.folder().join("images"))?)
    }

    /// Gives every node the images of the sample application.
    ///
    /// # Errors
    /// See [`images::application`], or a containerd does not take one.
    pub fn load_application(&self) -> Result<()> {
        let archives = images::application(&self.run.folder().join("images"))?;
        archives.iter().try_for_each(|archive| self.load(archive))
    }

    /// Begins to listen on the wire between a node and the others: nothing of what its own pods say to each other.
    ///
    /// # Errors
    /// See [`Capture::between`].
    pub fn listen(&self, node: &Node) -> Result<Capture> {
        let place =
            Place::new(node.netns().clone(), self.run.cgroup().join("listen"), node.folder().to_owned())?;
        Capture::between(&place, node.name(), "eth0", [node.address(), self.control_plane.address()])
    }

    fn wait_until_ready(&mut self, say: &Steps<impl Fn(&str)>) -> Result<()> {
        let count = self.nodes.len();
        self.wait("every node is ready", |cluster| {
            cluster.ready_nodes().is_some_and(|ready| ready == count)
        })?;
        say.step("every node is ready");
        self.wait("the name server is ready", |cluster| {
            let path = "jsonpath={.status.readyReplicas}";
            let words = ["--namespace=kube-system", "get", "deployment", "coredns", "-o", path];
            cluster.kubectl(&words).is_ok_and(|ready| ready == "1")
        })?;
        say.step("the name server is ready");
        Ok(())
    }

    fn ready_nodes(&self) -> Option<usize> {
        let path = "jsonpath={.items[*].status.conditions[?(@.type==\"Ready\")].status}";
        let states = self.kubectl(&["get", "nodes", "-o", path]).ok()?;
        Some(states.split_whitespace().filter(|state| *state == "True").count())
    }

    /// Waits for something; says the ends of all logs if it does not come, or a program ends meanwhile.
    fn wait(&mut self, reason: &str, holds: impl Fn(&Self) -> bool) -> Result<()> {
        let waited = eventually(reason, READY, || match self.lives() {
            Err(error) => Some(Err(error)),
            Ok(()) => holds(self).then_some(Ok(())),
        });
        let logs = || self.nodes.iter().map(Node::tail).collect::<String>();
        waited.flatten().map_err(|error| anyhow!("{error:#}\n{}", logs()))
    }

    fn lives(&mut self) -> Result<()> {
        self.control_plane.lives()?;
        self.nodes.iter_mut().try_for_each(Node::lives)
    }
}

/// Says what is done, and when.
struct Steps<Say> {
    begun: Instant,
    say: Say,
}

impl<Say: Fn(&str)> Steps<Say> {
    fn step(&self, what: impl fmt::Display) {
        (self.say)(&format!("{:5.1} s  {what}", self.begun.elapsed().as_secs_f64()));
    }
}
