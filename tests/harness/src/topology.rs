//! Two nodes and their pods as network namespaces and cgroups.
//!
//! In: pods per node. Out: namespaces that reach each other by IPv4 and IPv6 over the wire between the nodes.
//!
//! ```text
//!   pod client          node-a               wire               node-b          pod web
//!   eth0 10.77.1.10 -- br0 10.77.1.1  wire 10.77.0.1 === 10.77.0.2 wire  br0 -- eth0 10.77.2.10
//!   fd77:1::a                          fd77::1            fd77::2               fd77:2::a
//! ```
//!
//! Node N (counted from 1) has the pods' ranges `10.77.N.0/24` and `fd77:N::/64`; its pods begin at `.10` and `::a`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::netns::{Namespace, ip_batch};
use crate::objects::PodSpec;
use crate::pod::Pod;
use crate::process::Place;
use crate::run::Run;

/// The interface between the nodes, on each of them.
pub const WIRE: &str = "wire";

/// The names of the two nodes.
pub const NODES: [&str; 2] = ["node-a", "node-b"];

/// Two nodes and their pods. Everything is removed on drop.
#[derive(Debug)]
pub struct Topology {
    pods: BTreeMap<String, Pod>,
    sites: [Site; 2],
    /// Last: removes what the fields above did not.
    run: Run,
}

/// One node: its network namespace, its bridge and its cgroups.
#[derive(Debug)]
pub struct Site {
    name: &'static str,
    /// 1 or 2: the third byte of the pods' addresses.
    number: u8,
    /// In the node's own namespace, outside the pods' cgroup.
    host: Place,
    cgroup: PathBuf,
    logs: PathBuf,
    /// How many pods were ever made: the next address.
    made: u8,
}

impl Topology {
    /// Makes two nodes, the first with the pods `a`, the second with the pods `b`.
    ///
    /// # Errors
    /// Not root, or the machine lacks bridges, veth, cgroup version 2 or bpffs.
    pub fn two_nodes(a: Vec<PodSpec>, b: Vec<PodSpec>) -> Result<Self> {
        let run = Run::start()?;
        let sites = [Site::create(&run, 0)?, Site::create(&run, 1)?];
        join(&sites)?;
        let mut topology = Self { pods: BTreeMap::new(), sites, run };
        for (node, specs) in NODES.into_iter().zip([a, b]) {
            for spec in specs {
                topology.add_pod(node, spec)?;
            }
        }
        Ok(topology)
    }

    /// The run that everything belongs to.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// A node by name.
    ///
    /// # Panics
    /// There is no such node.
    pub fn site(&self, name: &str) -> &Site {
        self.sites.iter().find(|site| site.name == name).unwrap_or_else(|| panic!("no node {name}"))
    }

    /// Both nodes.
    pub fn sites(&self) -> &[Site; 2] {
        &self.sites
    }

    /// A pod by name.
    ///
    /// # Panics
    /// There is no such pod.
    pub fn pod(&self, name: &str) -> &Pod {
        self.pods.get(name).unwrap_or_else(|| panic!("no pod {name}"))
    }

    pub(crate) fn pod_mut(&mut self, name: &str) -> &mut Pod {
        self.pods.get_mut(name).unwrap_or_else(|| panic!("no pod {name}"))
    }

    /// Every pod, by name.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// Makes one more pod.
    ///
    /// # Errors
    /// Its namespace, interface or cgroup cannot be made.
    pub fn add_pod(&mut self, node: &str, spec: PodSpec) -> Result<&Pod> {
        let site = self.sites.iter_mut().find(|site| site.name == node).context("a node has this name")?;
        let pod = site.create_pod(&self.run, spec)?;
        let name = pod.name().to_owned();
        Ok(self.pods.entry(name).insert_entry(pod).into_mut())
    }

    /// Takes a pod out: what runs in it is killed, its namespace is deleted when the value is dropped.
    ///
    /// # Panics
    /// There is no such pod.
    pub fn remove_pod(&mut self, name: &str) -> Pod {
        self.pods.remove(name).unwrap_or_else(|| panic!("no pod {name}"))
    }
}

impl Site {
    fn create(run: &Run, index: usize) -> Result<Self> {
        let (name, number) = (NODES[index], [1, 2][index]);
        let netns = Namespace::create(&format!("{}-{}", run.name(), ["a", "b"][index]))?;
        let cgroup = run.cgroup().join(name);
        let logs = run.folder().join(name);
        netns.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        netns.ip(&[
            // A bridge without an address of its own takes the lowest of its ports': it would change as pods come, and those that
            // are there would send to the one before for half a minute.
            format!("link add br0 address 02:77:00:00:00:0{number} type bridge"),
            format!("address add 10.77.{number}.1/24 dev br0"),
            format!("address add fd77:{number}::1/64 dev br0 nodad"),
            "link set br0 up".to_owned(),
        ])?;
        let host = Place::new(netns, cgroup.join("system"), logs.clone())?;
        std::fs::create_dir(cgroup.join("pods")).context("make the pods' cgroup")?;
        Ok(Self { name, number, host, cgroup, logs, made: 0 })
    }

    fn create_pod(&mut self, run: &Run, spec: PodSpec) -> Result<Pod> {
        let number = self.made.checked_add(10).context("a node has at most 245 pods")?;
        let addresses = spec.addresses().unwrap_or([
            IpAddr::V4(Ipv4Addr::new(10, 77, self.number, number)),
            IpAddr::V6(Ipv6Addr::new(0xfd77, self.number.into(), 0, 0, 0, 0, 0, number.into())),
        ]);
        self.made += 1;
        let netns = Namespace::create(&format!("{}-{}", self.netns().name(), spec.name()))?;
        self.connect(&netns, addresses)?;
        let own = format!("pod-{}-{number}", spec.name());
        let cgroup = self.pods_cgroup().join(spec.place_of_kubelet().unwrap_or(&own));
        let place = Place::new(netns, cgroup, run.folder().join(self.name))?;
        Ok(Pod::new(spec, self.name, place, addresses))
    }

    /// Puts a veth pair between a pod and the bridge. The interface on the node goes with the pod's namespace.
    fn connect(&self, pod: &Namespace, addresses: [IpAddr; 2]) -> Result<()> {
        let [first, second] = addresses;
        let link = format!("pod{}", self.made);
        ip_batch(&[format!(
            "link add eth0 netns {} type veth peer name {link} netns {}",
            pod.name(),
            self.netns().name()
        )])?;
        // An address that is used again has another link-layer address now: what the node remembers of the one
        // before would swallow packets for some seconds.
        self.netns().ip(&[format!("link set {link} master br0 up"), "neigh flush dev br0".to_owned()])?;
        pod.ip(&[
            "link set eth0 up".to_owned(),
            format!("address add {first}/24 dev eth0"),
            format!("address add {second}/64 dev eth0 nodad"),
            format!("route add default via 10.77.{}.1", self.number),
            format!("route add default via fd77:{}::1", self.number),
        ])
    }

    /// The name, as `spec.nodeName` and `--node-name` have it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The node's own network namespace.
    pub fn netns(&self) -> &Namespace {
        self.host.netns()
    }

    /// Where host processes run: the node's namespace, outside the pods' cgroup.
    pub fn host(&self) -> &Place {
        &self.host
    }

    /// The cgroup of the node, parent of the pods' and of the agent's.
    pub fn cgroup(&self) -> &std::path::Path {
        &self.cgroup
    }

    /// The cgroup that holds every pod of the node: `--cgroup-root`.
    pub fn pods_cgroup(&self) -> PathBuf {
        self.cgroup.join("pods")
    }

    /// The folder of what the node's processes say.
    pub fn logs(&self) -> &std::path::Path {
        &self.logs
    }

    /// The folder in which a kubelet of the node would keep the logs of pods.
    pub fn pod_logs(&self) -> PathBuf {
        self.logs.join("pods")
    }

    /// The node's address on the wire.
    pub fn address(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 77, 0, self.number))
    }

    /// The addresses of both ends of the wire, this node's first.
    pub(crate) fn wire_addresses(&self) -> [Ipv4Addr; 2] {
        [self.number, 3 - self.number].map(|number| Ipv4Addr::new(10, 77, 0, number))
    }

    /// The node's address on its bridge: what its pods see of host processes.
    pub fn bridge_address(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 77, self.number, 1))
    }
}

/// The wire: one veth pair between the nodes, and the routes over it.
fn join(sites: &[Site; 2]) -> Result<()> {
    let [a, b] = sites;
    ip_batch(&[format!(
        "link add {WIRE} netns {} type veth peer name {WIRE} netns {}",
        a.netns().name(),
        b.netns().name()
    )])?;
    // First both ends up, then routes: an IPv6 route needs a carrier.
    for site in sites {
        site.netns().ip(&[
            format!("link set {WIRE} up"),
            format!("address add 10.77.0.{}/24 dev {WIRE}", site.number),
            format!("address add fd77::{}/64 dev {WIRE} nodad", site.number),
        ])?;
    }
    for (site, other) in [(a, b.number), (b, a.number)] {
        site.netns().ip(&[
            format!("route add 10.77.{other}.0/24 via 10.77.0.{other}"),
            format!("route add fd77:{other}::/64 via fd77::{other}"),
        ])?;
    }
    Ok(())
}
