//! The two nodes of a bench: every way from a client to a server exists at once, and idle ones cost nothing.
//!
//! ```text
//!   direct    client  ------------------------------------> server
//!   nodemesh  client-mesh -> agent A === agent B ---------> server-mesh
//!   earlier   the same of an earlier commit, on two nodes of its own
//!   envoy     client -> Envoy A ==== Envoy B -------------> server
//! ```

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use mesh_test_harness::binary::Build;
use mesh_test_harness::eventually::eventually;
use mesh_test_harness::mesh::Mesh;
use mesh_test_harness::objects::{PodSpec, ServiceSpec};
use mesh_test_harness::pod::Pod;
use mesh_test_harness::process::Process;

use crate::envoy::{self, Addresses, Level};

/// Cluster IP of the Service that the captured client dials.
const SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));
/// Ports of the servers. The same nginx answers on the first two.
const OPAQUE: u16 = 8081;
const HTTP: u16 = 8080;
const GRPC: u16 = 50051;
/// How long a server may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Only the client's identity may call, and only so: rules on both levels are evaluated for every request.
const POLICY: &str = "\
apiVersion: policy.nodemesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: bench, namespace: shop}
spec:
  selector: {matchLabels: {app: server-mesh}}
  action: ALLOW
  rules:
    - from: [{source: {principals: [cluster.local/ns/shop/sa/client-mesh]}}]
      to: [{operation: {ports: [\"8081\"]}}]
    - from: [{source: {principals: [cluster.local/ns/shop/sa/client-mesh]}}]
      to: [{operation: {ports: [\"8080\", \"50051\"], methods: [GET, POST], paths: [/*]}}]
";

/// The kinds of traffic that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Traffic {
    /// HTTP requests on a port that is declared opaque: nothing looks at them.
    L4,
    /// HTTP/1.1, looked at on both nodes.
    Http1,
    /// Unary gRPC.
    Grpc,
}

/// The ways from a client to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// No mesh.
    Direct,
    /// Two agents.
    Nodemesh,
    /// Two agents of an earlier commit: the program that `MESH_PREVIOUS_NODE_BIN` names.
    Earlier,
    /// Two Envoys.
    Envoy,
}

/// Everything that runs. Stopped and removed on drop.
#[derive(Debug)]
pub struct World {
    /// Before the mesh, so that processes end before their namespaces.
    processes: Vec<Process>,
    envoys: Vec<(Traffic, [u32; 2])>,
    mesh: Mesh,
    /// With two nodes of its own: an agent takes no other's pods.
    earlier: Option<Mesh>,
}

impl Way {
    /// As it stands in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nodemesh => "nodemesh",
            Self::Earlier => "earlier",
            Self::Envoy => "envoy",
        }
    }
}

impl Traffic {
    /// As it stands in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::L4 => "l4",
            Self::Http1 => "http1",
            Self::Grpc => "grpc",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::L4 => OPAQUE,
            Self::Http1 => HTTP,
            Self::Grpc => GRPC,
        }
    }

    /// Listeners of the two Envoys for this traffic.
    fn envoy_ports(self) -> (u16, u16) {
        let offset = self as u16;
        (15_101 + offset, 15_201 + offset)
    }

    fn envoy_level(self) -> Level {
        match self {
            Self::L4 => Level::Tcp,
            Self::Http1 => Level::Http,
            Self::Grpc => Level::Grpc,
        }
    }
}

impl World {
    /// Makes the nodes, starts the servers, and the agents and Envoys that the ways need.
    ///
    /// # Errors
    /// Not root, a program is missing, or something does not begin to listen.
    pub fn start(envoy: &Path, traffic: &[Traffic], ways: &[Way], flags: &[String]) -> Result<Self> {
        let mut mesh = prepare()?;
        if ways.contains(&Way::Nodemesh) {
            mesh.start_agents_discarding_records(Build::Own, flags)?;
        }
        let mut earlier = ways.contains(&Way::Earlier).then(prepare).transpose()?;
        if let Some(earlier) = &mut earlier {
            earlier.start_agents_discarding_records(Build::Previous, flags)?;
        }
        let mut world = Self { processes: Vec::new(), envoys: Vec::new(), mesh, earlier };
        for (way, pod) in
            [(Way::Direct, "server"), (Way::Nodemesh, "server-mesh"), (Way::Earlier, "server-mesh")]
        {
            if way != Way::Earlier || world.earlier.is_some() {
                world.serve(way, pod, traffic)?;
            }
        }
        for &traffic in traffic.iter().filter(|_| ways.contains(&Way::Envoy)) {
            world.start_envoys(envoy, traffic)?;
        }
        Ok(world)
    }

    /// Where a client dials on this way.
    pub fn target(&self, way: Way, traffic: Traffic) -> SocketAddr {
        match way {
            Way::Direct => self.mesh.pod("server").at(traffic.port()),
            Way::Nodemesh | Way::Earlier => SocketAddr::new(SERVICE, traffic.port()),
            Way::Envoy => SocketAddr::from((Ipv4Addr::LOCALHOST, traffic.envoy_ports().0)),
        }
    }

    /// The pod that calls on this way.
    pub fn client(&self, way: Way) -> &Pod {
        match way {
            Way::Direct | Way::Envoy => self.mesh.pod("client"),
            Way::Nodemesh | Way::Earlier => self.mesh_of(way).pod("client-mesh"),
        }
    }

    /// Process ids of the two proxies of this way, client's side first.
    pub fn proxies(&self, way: Way, traffic: Traffic) -> Option<[u32; 2]> {
        match way {
            Way::Direct => None,
            Way::Nodemesh | Way::Earlier => {
                Some(["node-a", "node-b"].map(|node| self.mesh_of(way).node(node).id()))
            }
            Way::Envoy => self.envoys.iter().find(|(kind, _)| *kind == traffic).map(|(_, ids)| *ids),
        }
    }

    /// What the agents say of a load that failed: the end of their logs, and what they refused.
    pub fn excuses(&self) -> String {
        let mut text = String::new();
        for node in self.mesh.nodes().iter().chain(self.earlier.iter().flat_map(Mesh::nodes)) {
            text.push_str(&format!("{}:\n{}", node.name(), node.tail(10)));
            let metrics = node.metrics().unwrap_or_default();
            for sample in metrics.samples().iter().filter(|sample| sample.name.contains("refus")) {
                text.push_str(&format!("{} {:?} {}\n", sample.name, sample.labels, sample.value));
            }
        }
        text
    }

    /// The nodes that a way leads over.
    fn mesh_of(&self, way: Way) -> &Mesh {
        match way {
            Way::Earlier => self.earlier.as_ref().expect("it was started: only ways that were are asked for"),
            Way::Direct | Way::Nodemesh | Way::Envoy => &self.mesh,
        }
    }

    fn serve(&mut self, way: Way, name: &str, traffic: &[Traffic]) -> Result<()> {
        let mesh = self.mesh_of(way);
        let pod = mesh.pod(name);
        let folder = mesh.topology().run().folder().join(name);
        let config = nginx(&folder)?;
        let arguments = ["-c".as_ref(), config.as_os_str(), "-p".as_ref(), folder.as_os_str()];
        let mut servers = vec![pod.place().spawn(&format!("{name}-nginx"), "nginx", &arguments)?];
        listens(pod, HTTP)?;
        if traffic.contains(&Traffic::Grpc) {
            let own = std::env::current_exe().context("find the bench's own executable")?;
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, GRPC)).to_string();
            servers.push(pod.place().spawn(&format!("{name}-grpc"), own, &["grpc-server", &address])?);
            listens(pod, GRPC)?;
        }
        self.processes.append(&mut servers);
        Ok(())
    }

    fn start_envoys(&mut self, program: &Path, traffic: Traffic) -> Result<()> {
        let (near, far) = traffic.envoy_ports();
        let addresses = Addresses {
            client_side: SocketAddr::from((Ipv4Addr::LOCALHOST, near)),
            server_side: self.mesh.pod("server").at(far),
            application: SocketAddr::from((Ipv4Addr::LOCALHOST, traffic.port())),
        };
        let folder = self.folder().join(format!("envoy-{}", traffic.name()));
        fs::create_dir_all(&folder).context("make a folder for Envoy")?;
        let (client, server) = envoy::write(&folder, traffic.envoy_level(), addresses)?;
        let mut ids = [0; 2];
        for (at, (name, config, port)) in
            [("client", client, near), ("server", server, far)].into_iter().enumerate()
        {
            let pod = self.mesh.pod(name);
            let config = config.display().to_string();
            let id = (traffic as u32 * 2 + at as u32).to_string();
            let arguments = ["-c", &config, "--concurrency", "2", "--base-id", &id, "--log-level", "warning"];
            let process = pod.place().spawn(&format!("{name}-envoy"), program, &arguments)?;
            ids[at] = process.id();
            self.processes.push(process);
            listens(self.mesh.pod(name), port)?;
        }
        self.envoys.push((traffic, ids));
        Ok(())
    }

    fn folder(&self) -> PathBuf {
        self.mesh.topology().run().folder()
    }
}

/// Two nodes with their pods and objects; no agent runs yet.
fn prepare() -> Result<Mesh> {
    let a = vec![PodSpec::new("client").mode("disabled"), PodSpec::new("client-mesh")];
    let ports = |pod: PodSpec| pod.port("tcp-opaque", OPAQUE).port("http", HTTP).port("grpc", GRPC);
    let b = vec![PodSpec::new("server").mode("disabled"), ports(PodSpec::new("server-mesh"))];
    let mesh = Mesh::prepare(a, b)?;
    let service = ServiceSpec::new("server-mesh", &[SERVICE])
        .port("tcp-opaque", OPAQUE, OPAQUE)
        .port("http", HTTP, HTTP)
        .port("grpc", GRPC, GRPC);
    mesh.config().write_service(&service)?;
    mesh.config().write("policy", POLICY)?;
    Ok(mesh)
}

/// Waits until something listens on a port of the pod, without connecting to it.
fn listens(pod: &Pod, port: u16) -> Result<()> {
    let filter = format!("sport = :{port}");
    eventually(&format!("{} listens on port {port}", pod.name()), START_LIMIT, || {
        let listing = pod.output("ss", &["-Hltn", &filter], Duration::from_secs(5)).ok()?;
        (!listing.stdout.trim().is_empty()).then_some(())
    })
}

/// Writes nginx's configuration: `/ok` of 3 bytes, for which it opens no file, and `/big` of 8 MiB. The less the server
/// costs, the more of what is measured is the way to it.
fn nginx(folder: &Path) -> Result<PathBuf> {
    let files = folder.join("files");
    fs::create_dir_all(&files).context("make nginx's folder")?;
    fs::write(files.join("big"), vec![b'b'; 8 << 20]).context("write /big")?;
    let text = format!(
        "daemon off; worker_processes 1; user root; error_log stderr; pid {0}/pid;\n\
         events {{ worker_connections 16384; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; sendfile on; sendfile_max_chunk 128k;\n\
         tcp_nodelay on;\n\
         client_body_temp_path {0}/body; proxy_temp_path {0}/proxy; fastcgi_temp_path {0}/fastcgi;\n\
         uwsgi_temp_path {0}/uwsgi; scgi_temp_path {0}/scgi;\n\
         server {{ listen {HTTP} backlog=4096; listen {OPAQUE} backlog=4096; root {0}/files;\n\
         open_file_cache max=16; location = /ok {{ return 200 \"ok\\n\"; }} }} }}\n",
        folder.display()
    );
    let path = folder.join("nginx.conf");
    fs::write(&path, text).context("write nginx's configuration")?;
    Ok(path)
}
