//! The network of a cluster: who has which address, and what joins them. Nodes, pods and Services have both families,
//! IPv4 first, which is the one of whoever asks for one alone; or those of one family, and no other.
//!
//! ```text
//!   this machine's own namespace     control plane                node-a              pods of node-a
//!   nmkX 198.18.X.254 ------------- nodes 198.18.X.1 ---------- eth0 198.18.X.11 -- cni0 10.244.1.0/24
//!                                         fd00:198:18::1             fd00:198:18::11      fd00:10:244:1::/64
//! ```
//!
//! `X` differs between clusters that run at a time, so that this machine reaches each one's API server; all else is
//! seen by none but the cluster itself. This machine asks the API server by IPv4 whatever the cluster's family is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use mesh_test_harness::netns::{Namespace, ip_batch};
use mesh_test_harness::process::Place;
use mesh_test_harness::run::Run;
use serde::{Deserialize, Serialize};

/// The ranges of Services' addresses, by family.
const SERVICES: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];
/// The first of each: the API server's own Service.
pub const FIRST_SERVICES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 1))];
/// The name server's.
const NAME_SERVERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0xa)),
];
/// The ranges of all pods' addresses.
const PODS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/56"];
/// Where an API server listens that has an address of its own.
const SECURE: u16 = 6443;
/// The bridge that joins the nodes.
const BRIDGE: &str = "nodes";
/// Its way out.
const OUTSIDE: &str = "outside";

/// Which families of addresses nodes, pods and Services have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Families {
    /// Both, IPv4 first.
    #[default]
    Dual,
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
}

impl Families {
    /// Of something that there is for either family, what these have.
    pub fn of<T>(self, [first, second]: [T; 2]) -> Vec<T> {
        match self {
            Self::Dual => vec![first, second],
            Self::Ipv4 => vec![first],
            Self::Ipv6 => vec![second],
        }
    }

    /// The ranges of Services' addresses, as flags have them.
    pub fn services(self) -> String {
        self.of(SERVICES).join(",")
    }

    /// The ranges of all pods' addresses, as flags have them.
    pub fn pods(self) -> String {
        self.of(PODS).join(",")
    }

    /// The ranges of a node's pods.
    pub fn pods_of(self, number: u8) -> Vec<String> {
        self.of(pods_of(number))
    }

    /// The name server's address.
    pub fn name_server(self) -> IpAddr {
        self.of(NAME_SERVERS)[0]
    }

    fn has_first(self) -> bool {
        self != Self::Ipv6
    }
}

/// The control plane's network namespace, and the way to it. The way is removed on drop.
#[derive(Debug)]
pub struct Network {
    control_plane: Namespace,
    /// `X` of the addresses.
    number: u8,
    families: Families,
}

impl Network {
    /// Makes the namespace and joins it to the caller's.
    ///
    /// # Errors
    /// Not root, or no range is free.
    pub fn make(run: &Run, families: Families) -> Result<Self> {
        let control_plane = Namespace::create(&format!("{}-cp", run.name()))?;
        let number = Self::join(&control_plane)?;
        let network = Self { control_plane, number, families };
        network.control_plane.ip(&[
            format!("link add {BRIDGE} type bridge"),
            format!("addr add {}/24 dev {BRIDGE}", network.api_server().ip()),
            format!("addr add {}/64 dev {BRIDGE} nodad", second(1)),
            format!("link set {BRIDGE} up"),
            format!("link set {OUTSIDE} master {BRIDGE}"),
            format!("link set {OUTSIDE} up"),
        ])?;
        ip_batch(&[
            format!("addr add {}/24 dev {}", network.address(254), link(number)),
            format!("link set {} up", link(number)),
        ])?;
        Ok(network)
    }

    /// Adds a link to the caller's namespace. Its name is the claim to the range: who adds it first has it.
    fn join(control_plane: &Namespace) -> Result<u8> {
        let name = control_plane.name();
        for number in 0..=u8::MAX {
            let add = format!("link add {} type veth peer name {OUTSIDE} netns {name}", link(number));
            match ip_batch(&[add]) {
                Err(error) if error.to_string().contains("File exists") => {}
                added => return added.map(|()| number),
            }
        }
        bail!("every range of 198.18.0.0/16 has a cluster; end one")
    }

    /// Joins the namespace of node `number`, counted from 1, of `nodes`; pods of all nodes reach each other then.
    ///
    /// # Errors
    /// The links cannot be made.
    pub fn add_node(&self, run: &Run, name: &str, number: u8, nodes: u8) -> Result<Namespace> {
        let node = Namespace::create(&format!("{}-{name}", run.name()))?;
        self.control_plane.ip(&[
            format!("link add {name} type veth peer name eth0 netns {}", node.name()),
            format!("link set {name} master {BRIDGE}"),
            format!("link set {name} up"),
        ])?;
        // Replaced: they outlive a node that starts anew.
        self.control_plane.ip(&self.ways_to_pods("replace", number))?;
        let [first, second_family] = self.both(number);
        let mut lines = self.families.of([
            format!("addr add {first}/24 dev eth0"),
            // Nobody else has it: nothing waits until that is proved.
            format!("addr add {second_family}/64 dev eth0 nodad"),
        ]);
        lines.push("link set eth0 up".to_owned());
        lines.extend(self.families.of([
            format!("route add default via {}", self.api_server().ip()),
            format!("route add ::/0 via {}", second(1)),
        ]));
        let others = (1..=nodes).filter(|other| *other != number);
        lines.extend(others.flat_map(|other| self.ways_to_pods("add", other)));
        node.ip(&lines)?;
        node.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        Ok(node)
    }

    /// The routes to the pods of a node, as lines of `ip`.
    fn ways_to_pods(&self, verb: &str, number: u8) -> Vec<String> {
        let ([first, second], [over_first, over_second]) = (pods_of(number), self.both(number));
        self.families.of([
            format!("route {verb} {first} via {over_first}"),
            format!("route {verb} {second} via {over_second}"),
        ])
    }

    /// Takes a node off the wire, whose namespace may live on for a moment.
    ///
    /// # Errors
    /// It was never joined.
    pub fn remove_node(&self, name: &str) -> Result<()> {
        self.control_plane.ip(&[format!("link delete {name}")])
    }

    /// The control plane's network namespace.
    pub fn control_plane(&self, run: &Run) -> Result<Place> {
        Place::new(self.control_plane.clone(), run.cgroup().join("control-plane"), run.folder())
    }

    /// Where the API server listens, for this machine.
    pub fn api_server(&self) -> SocketAddr {
        SocketAddr::from((self.address(1), SECURE))
    }

    /// The same for the cluster: nodes, and pods by its own Service.
    pub fn api_server_inside(&self) -> SocketAddr {
        let address = if self.families.has_first() { self.address(1).into() } else { second(1).into() };
        SocketAddr::new(address, SECURE)
    }

    /// Which families it has.
    pub fn families(&self) -> Families {
        self.families
    }

    /// The addresses of node `number`, counted from 1: at least one.
    pub fn node(&self, number: u8) -> Vec<IpAddr> {
        self.families.of(self.both(number))
    }

    fn both(&self, number: u8) -> [IpAddr; 2] {
        // Written alike: .11 and ::11 are the first.
        let digits = u16::from(10 + number);
        [self.address(10 + number).into(), second(digits / 10 * 16 + digits % 10).into()]
    }

    /// In a range kept for tests between networks (RFC 2544), which nobody's network uses.
    fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.number, last)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // It would go with the control plane's namespace, a moment after nobody looks at it any more.
        let _ = ip_batch(&[format!("link delete {}", link(self.number))]);
    }
}

/// The ranges of a node's pods.
fn pods_of(number: u8) -> [String; 2] {
    [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number:x}::/64")]
}

/// Of the second family: in a range that nobody's network outside has (RFC 4193).
fn second(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x198, 0x18, 0, 0, 0, 0, last)
}

fn link(number: u8) -> String {
    format!("nmk{number}")
}

/// Ports that nobody listened on just now.
///
/// # Errors
/// There are none.
pub fn free_ports<const COUNT: usize>() -> Result<[u16; COUNT]> {
    // All held before the first is let go, so that they differ.
    let listeners: Vec<TcpListener> = (0..COUNT)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<_, _>>()
        .context("find free ports")?;
    let mut ports = [0; COUNT];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr().map(|address: SocketAddr| address.port()).context("find free ports")?;
    }
    Ok(ports)
}
