//! Two nodes with a server that is attacked, and two ways to it.
//!
//! ```text
//!   mesh     good, evil-*               -> agent A === agent B -> server
//!   direct   good-direct, evil-direct ------------------------> server-direct
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_test_harness::attacks::Attack;
use mesh_test_harness::binary::{Build, test_pod};
use mesh_test_harness::eventually::eventually;
use mesh_test_harness::mesh::Mesh;
use mesh_test_harness::objects::{PodSpec, ServiceSpec};
use mesh_test_harness::pod::Pod;
use mesh_test_harness::process::Process;
use mesh_test_harness::servers::events;
use serde::Deserialize;

use super::paced::Paced;
use super::rows::Target;

const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));
/// A Service whose server takes nobody.
const TURNS_AWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 11));
/// Declared `appProtocol: kubernetes.io/h2c`, by its name.
const HTTP2: u16 = 50051;
const HTTP1: u16 = 8080;
const START: Duration = Duration::from_secs(20);
/// Between two calls of the client that behaves: 200 each second.
const PACE: Duration = Duration::from_millis(5);

/// How clients reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Mesh,
    Direct,
}

/// Everything that runs.
#[derive(Debug)]
pub struct Stand {
    /// Before the mesh, so that processes end before their namespaces.
    _servers: Vec<Process>,
    turns_away: Process,
    mesh: Mesh,
}

/// What the attacker says that it did.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Attacked {
    pub cpu_seconds: f64,
    pub connections: u64,
    pub answers: u64,
    pub resets: u64,
    /// By code, how many connections were told to go.
    pub goaways: std::collections::BTreeMap<String, u64>,
    /// By how they ended.
    pub ended: std::collections::BTreeMap<String, u64>,
}

impl Stand {
    /// Starts it.
    ///
    /// # Errors
    /// Not root, a program is missing, or something does not begin to listen.
    pub fn start(flags: &[String]) -> Result<Self> {
        let evil = Attack::all().iter().map(|attack| PodSpec::new(&evil(*attack)));
        let a = std::iter::once(PodSpec::new("good")).chain(evil);
        let outside = ["good-direct", "evil-direct"].map(|name| PodSpec::new(name).mode("disabled"));
        let ports = |pod: PodSpec| pod.port("http2", HTTP2).port("http", HTTP1);
        let b = vec![
            ports(PodSpec::new("server")),
            ports(PodSpec::new("turns-away")),
            PodSpec::new("server-direct").mode("disabled"),
        ];
        let mut mesh = Mesh::prepare(a.chain(outside).collect(), b)?;
        for (name, address) in [("server", SERVER), ("turns-away", TURNS_AWAY)] {
            let service = ServiceSpec::new(name, &[address]);
            mesh.config().write_service(&service.port("http2", HTTP2, HTTP2).port("http", HTTP1, HTTP1))?;
        }
        mesh.start_agents_discarding_records(Build::Own, flags)?;
        let mut servers = Vec::new();
        for name in ["server", "server-direct"] {
            let pod = mesh.pod(name);
            let own = std::env::current_exe().context("find the bench's own executable")?;
            let address = format!("0.0.0.0:{HTTP2}");
            servers.push(pod.place().spawn(&format!("{name}-grpc"), own, &["grpc-server", &address])?);
            let http1 = ["serve", "http", "--listen", &format!("0.0.0.0:{HTTP1}")];
            servers.push(pod.place().spawn(&format!("{name}-http"), test_pod()?, &http1)?);
            listens(pod, HTTP2)?;
            listens(pod, HTTP1)?;
        }
        let pod = mesh.pod("turns-away");
        let listen = ["turn-away", "--listen", &format!("0.0.0.0:{HTTP2}")];
        let turns_away = pod.place().spawn("turn-away", test_pod()?, &listen)?;
        listens(pod, HTTP2)?;
        Ok(Self { _servers: servers, turns_away, mesh })
    }

    /// Process ids of both daemons.
    pub fn daemons(&self) -> [u32; 2] {
        ["node-a", "node-b"].map(|node| self.mesh.node(node).id())
    }

    /// The server that takes nobody.
    pub fn turns_away(&self) -> u32 {
        self.turns_away.id()
    }

    /// Begins the client that behaves.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn good(&self, way: Way, length: Duration) -> Result<Process> {
        let pod = self.mesh.pod(if way == Way::Mesh { "good" } else { "good-direct" });
        let own = std::env::current_exe().context("find the bench's own executable")?;
        let to = self.target(way, Target::Server, HTTP2).to_string();
        let (pace, length) = (PACE.as_millis().to_string(), length.as_millis().to_string());
        pod.place().spawn("paced", own, &["paced", &to, "--every-ms", &pace, "--for-ms", &length])
    }

    /// Begins an attack, and waits until it has begun.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn evil(&self, way: Way, target: Target, attack: Attack, length: Duration) -> Result<Process> {
        let own = evil(attack);
        let pod = self.mesh.pod(if way == Way::Mesh { &own } else { "evil-direct" });
        let port = if attack.is_http1() { HTTP1 } else { HTTP2 };
        let to = self.target(way, target, port).to_string();
        let (name, length) = (attack.name(), length.as_millis().to_string());
        let arguments = ["attack", &name, "--to", &to, "--for-ms", &length, "--timeout-ms", "2000"];
        let process = pod.place().spawn("attack", test_pod()?, &arguments)?;
        eventually("the attack begins", START, || {
            (!events(&process.stdout(), "attacking").is_empty()).then_some(())
        })?;
        Ok(process)
    }

    fn target(&self, way: Way, target: Target, port: u16) -> SocketAddr {
        match (way, target) {
            (Way::Direct, _) => self.mesh.pod("server-direct").at(port),
            (Way::Mesh, Target::Server) => SocketAddr::new(SERVER, port),
            (Way::Mesh, Target::TurnsAway) => SocketAddr::new(TURNS_AWAY, port),
        }
    }

    /// The ends of both daemons' logs.
    pub fn logs(&self) -> String {
        self.mesh.nodes().iter().map(|node| format!("{}:\n{}", node.name(), node.tail(10))).collect()
    }
}

/// The pod that attacks so: none has a penalty for what another one did.
fn evil(attack: Attack) -> String {
    format!("evil-{}", attack.name())
}

/// What the client that behaves reports.
///
/// # Errors
/// It failed, as when it gets no connection.
pub fn paced(process: Process, length: Duration) -> Result<Paced> {
    let output = process.wait(length + START)?.success("the client that behaves")?;
    serde_json::from_str(&output).context("read what the client reports")
}

/// What the attacker reports.
///
/// # Errors
/// It failed.
pub fn attacked(process: Process, length: Duration) -> Result<Attacked> {
    let output = process.wait(length + START)?.success("the attack")?;
    let event = events(&output, "attacked").pop().context("the attack reports")?;
    serde_json::from_value(event).context("read what the attack reports")
}

/// Waits until something listens on a port of the pod, without connecting to it.
fn listens(pod: &Pod, port: u16) -> Result<()> {
    let filter = format!("sport = :{port}");
    eventually(&format!("{} listens on port {port}", pod.name()), START, || {
        let listing = pod.output("ss", &["-Hltn", &filter], Duration::from_secs(5)).ok()?;
        (!listing.stdout.trim().is_empty()).then_some(())
    })
}
