//! A whole mesh for one test: topology, objects, two agents, captures of every wire.
//!
//! In: a scenario and a test. Out: a pass, or a panic with the logs. Whatever a test is about, it ends with the proof
//! that no payload between enrolled pods was readable on any interface of either node.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Result, bail};

use crate::PLAINTEXT_MARKER;
use crate::binary::Build;
use crate::capture::{Capture, Carried};
use crate::controller::Controller;
use crate::node::{Folders, Node};
use crate::objects::{ConfigDir, PodSpec, ServiceSpec};
use crate::pod::Pod;
use crate::topology::{NODES, Topology};

/// What a test needs before it begins.
#[derive(Clone, Debug, Default)]
pub struct Scenario {
    a: Vec<PodSpec>,
    b: Vec<PodSpec>,
    services: Vec<ServiceSpec>,
    objects: Vec<(String, String)>,
    flags: Vec<String>,
    interface: Option<&'static str>,
    controller: Option<Build>,
    /// By node.
    agents: [Build; 2],
}

/// Two nodes with their agents.
#[derive(Debug)]
pub struct Mesh {
    nodes: Vec<Node>,
    captures: Vec<Capture>,
    /// Whom the agents follow, if not the folders.
    controller: Option<Controller>,
    /// Addresses whose traffic may be plaintext: pods outside the mesh.
    outside: BTreeSet<IpAddr>,
    config: ConfigDir,
    folders: Folders,
    topology: Topology,
}

impl Scenario {
    /// Pods of node A and of node B. Namespace `shop` is enrolled.
    pub fn new(a: Vec<PodSpec>, b: Vec<PodSpec>) -> Self {
        Self { a, b, ..Self::default() }
    }

    /// Adds a Service.
    #[must_use]
    pub fn service(mut self, service: ServiceSpec) -> Self {
        self.services.push(service);
        self
    }

    /// Adds objects as YAML, in a file of that name.
    #[must_use]
    pub fn objects(mut self, name: &str, yaml: &str) -> Self {
        self.objects.push((name.to_owned(), yaml.to_owned()));
        self
    }

    /// Adds flags of both agents.
    #[must_use]
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    /// Has the agents follow a controller, which reads the folders in their place.
    #[must_use]
    pub fn with_controller(self) -> Self {
        self.with_controller_of(Build::Own)
    }

    /// The same with a controller of some build.
    #[must_use]
    pub fn with_controller_of(mut self, build: Build) -> Self {
        self.controller = Some(build);
        self
    }

    /// Has the agents of both nodes be of these builds.
    #[must_use]
    pub fn agents_of(mut self, builds: [Build; 2]) -> Self {
        self.agents = builds;
        self
    }

    /// Captures one interface instead of all: for tests that move much data.
    #[must_use]
    pub fn capture_only(mut self, interface: &'static str) -> Self {
        self.interface = Some(interface);
        self
    }

    /// Runs a test in a mesh of its own.
    ///
    /// # Panics
    /// The mesh cannot be made, the test fails, or a wire showed a payload.
    pub fn run(self, test: impl FnOnce(&mut Mesh) -> Result<()>) {
        let mut mesh = match Mesh::start(self) {
            Ok(mesh) => mesh,
            Err(error) => panic!("the mesh does not start: {error:?}"),
        };
        let outcome = test(&mut mesh).and_then(|()| mesh.finish_captures().map(drop));
        if let Err(error) = outcome {
            // Dropping the mesh in a panic prints the logs.
            panic!("{error:?}");
        }
    }
}

impl Mesh {
    /// Makes the topology, writes the objects, starts captures and agents.
    ///
    /// # Errors
    /// One of them fails; the logs of the agents are in the text.
    pub fn start(scenario: Scenario) -> Result<Self> {
        let mut mesh = Self::prepare(scenario.a, scenario.b)?;
        for service in &scenario.services {
            mesh.config.write_service(service)?;
        }
        for (name, yaml) in &scenario.objects {
            mesh.config.write(name, yaml)?;
        }
        mesh.capture(scenario.interface.unwrap_or("any"))?;
        if let Some(build) = scenario.controller {
            mesh.controller = Some(Controller::start(&mesh.topology, &mesh.folders, build)?);
        }
        mesh.start_prepared(&scenario.flags, scenario.agents, |_| {})?;
        Ok(mesh)
    }

    /// Makes the topology and writes its objects; no agent runs yet.
    ///
    /// # Errors
    /// The topology cannot be made.
    pub fn prepare(a: Vec<PodSpec>, b: Vec<PodSpec>) -> Result<Self> {
        let topology = Topology::two_nodes(a, b)?;
        let folder = topology.run().folder();
        let folders = Folders { config: folder.join("config"), trust: folder.join("trust") };
        let config = ConfigDir::create(folders.config.clone())?;
        config.write_namespace("shop", Some("enabled"))?;
        for pod in topology.pods() {
            config.write_pod(pod)?;
        }
        let outside =
            topology.sites().iter().flat_map(|site| [site.address(), site.bridge_address()]).collect();
        Ok(Self {
            nodes: Vec::new(),
            captures: Vec::new(),
            controller: None,
            outside,
            config,
            folders,
            topology,
        })
    }

    /// Begins to listen on both nodes.
    ///
    /// # Errors
    /// Tcpdump does not start.
    pub fn capture(&mut self, interface: &str) -> Result<()> {
        for site in self.topology.sites() {
            self.captures.push(Capture::start(site, interface)?);
        }
        Ok(())
    }

    /// Starts both agents at once and waits until they are ready.
    ///
    /// # Errors
    /// One of them does not become ready.
    pub fn start_agents(&mut self, flags: &[String]) -> Result<()> {
        self.start_prepared(flags, [Build::Own; 2], |_| {})
    }

    /// The same with agents of a build, whose access records nobody keeps.
    ///
    /// # Errors
    /// One of them does not become ready.
    pub fn start_agents_discarding_records(&mut self, build: Build, flags: &[String]) -> Result<()> {
        self.start_prepared(flags, [build; 2], Node::discard_records)
    }

    fn start_prepared(
        &mut self,
        flags: &[String],
        builds: [Build; 2],
        prepare: impl Fn(&mut Node),
    ) -> Result<()> {
        for (site, build) in self.topology.sites().iter().zip(builds) {
            let mut node = match &self.controller {
                Some(controller) => {
                    Node::prepare_from(&self.topology, site, controller.flags(site.name()), flags)
                }
                None => Node::prepare(&self.topology, site, &self.folders, flags),
            };
            node.set_build(build);
            prepare(&mut node);
            node.spawn()?;
            self.nodes.push(node);
        }
        self.nodes.iter_mut().try_for_each(Node::wait_until_ready)
    }

    /// The namespaces and cgroups.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// A pod by name.
    pub fn pod(&self, name: &str) -> &Pod {
        self.topology.pod(name)
    }

    /// The folder that the agents watch.
    pub fn config(&self) -> &ConfigDir {
        &self.config
    }

    /// What the agents share.
    pub fn folders(&self) -> &Folders {
        &self.folders
    }

    /// The controller that the agents follow.
    ///
    /// # Panics
    /// They follow the folders.
    pub fn controller(&mut self) -> &mut Controller {
        self.controller.as_mut().expect("the scenario has a controller")
    }

    /// The agent of node A.
    pub fn a(&mut self) -> &mut Node {
        &mut self.nodes[0]
    }

    /// The agent of node B.
    pub fn b(&mut self) -> &mut Node {
        &mut self.nodes[1]
    }

    /// The agents that were started.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// An agent by the name of its node.
    ///
    /// # Panics
    /// There is no such node.
    pub fn node(&self, name: &str) -> &Node {
        let at = NODES.iter().position(|node| *node == name).unwrap_or_else(|| panic!("no node {name}"));
        &self.nodes[at]
    }

    /// Makes a pod and writes its object.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn add_pod(&mut self, node: &str, spec: PodSpec) -> Result<()> {
        let pod = self.topology.add_pod(node, spec)?;
        self.config.write_pod(pod)
    }

    /// Changes what a pod's object says and writes it again.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn change_pod(&mut self, name: &str, change: impl FnOnce(&mut PodSpec)) -> Result<()> {
        let pod = self.topology.pod_mut(name);
        change(pod.spec_mut());
        self.config.write_pod(pod)
    }

    /// Removes a pod's object, then its processes and its namespace.
    ///
    /// # Errors
    /// The object cannot be removed, or a process does not die.
    pub fn remove_pod(&mut self, name: &str) -> Result<()> {
        self.config.remove(&format!("pod-{name}"))?;
        self.topology.remove_pod(name).delete()
    }

    /// Takes a pod out of the topology and leaves its object where it is, as when its end is heard of late.
    pub fn take_pod(&mut self, name: &str) -> Pod {
        self.topology.remove_pod(name)
    }

    /// Lets payloads from and to an address be readable: it is or will be outside the mesh.
    pub fn allow_plaintext(&mut self, pod: &str) {
        let addresses = self.topology.pod(pod).addresses();
        self.outside.extend(addresses);
    }

    /// Stops the captures: what each node's interfaces carried. They are checked first.
    ///
    /// # Errors
    /// A payload between enrolled pods was readable, or packets were lost.
    pub fn finish_captures(&mut self) -> Result<Vec<Carried>> {
        let excluded: BTreeSet<IpAddr> = self
            .topology
            .pods()
            .filter(|pod| !pod.spec().is_enrolled())
            .flat_map(Pod::addresses)
            .chain(self.outside.iter().copied())
            .collect();
        let mut all = Vec::new();
        self.captures.iter().try_for_each(Capture::mark)?;
        for capture in std::mem::take(&mut self.captures) {
            let carried = capture.read()?;
            for stream in &carried.streams {
                let (from, to) = (stream.flow.from, stream.flow.to);
                let inside = !excluded.contains(&from.ip()) && !excluded.contains(&to.ip());
                if inside && stream.count(PLAINTEXT_MARKER.as_bytes()) > 0 {
                    bail!("the plaintext marker was on the wire from {from} to {to}");
                }
            }
            all.push(carried);
        }
        Ok(all)
    }

    /// Writes the end of the agents' logs to standard error.
    pub fn print_logs(&self) {
        for node in &self.nodes {
            eprintln!("---- agent of {}\n{}", node.name(), node.tail(60));
        }
        if let Some(controller) = &self.controller {
            eprintln!("---- controller\n{}", controller.tail());
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
    }
}
