//! Another root while requests run: two real agents with pods, a third that is away, and a controller that one of them
//! cannot reach for a while in each step.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_test_harness::clients::{Held, Load, OpenCall};
use mesh_test_harness::figure;
use mesh_test_harness::node::Node;
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::pod::Pod;
use mesh_test_harness::servers::{Kind, Server};
use mesh_test_harness::topology::{NODES, Topology};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::agents::{PATIENCE, Stand, agent};
use super::person::Person;
use super::road::{CONTROLLER, Road};

/// Of a certificate: renewed at half of it, and valid for longer than an agent is cut off.
const LIFETIME: Duration = Duration::from_secs(24);
/// Between two looks at what stays.
const LOOK: Duration = Duration::from_millis(200);
const HTTP: u16 = 8080;
/// The Service that knows it as HTTP.
const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 99)), 80);
/// The same, of gRPC.
const CALLS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 99)), 81);
const GRPC: u16 = 9090;
const METHOD: &str = "/shop.Shop/Get";
/// Of a program that calls, each call after the one before.
const CALLS_AT_A_TIME: u32 = 20;
const ECHO: u16 = 9000;
const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/server";

/// Three nodes, two of them with agents that run.
fn objects() -> String {
    let mut text = String::new();
    for (node, agent_pod) in [("node-a", "agent-a"), ("node-b", "agent-b"), ("node-c", "agent-c")] {
        text += &format!("---\napiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}\n");
        text += &agent(agent_pod, node);
    }
    text + r"---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {nodemesh.dev/mode: enabled}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: nodemesh-agent, namespace: nodemesh-system}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: client, namespace: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: server, namespace: shop}
---
apiVersion: policy.nodemesh.dev/v1alpha1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {nodeName: node-a, serviceAccountName: client, containers: [{name: a, image: a}]}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: shop}
spec:
  nodeName: node-b
  serviceAccountName: server
  containers:
  - {name: a, image: a, ports: [{name: http, containerPort: 8080}, {name: tcp-echo, containerPort: 9000}, {name: grpc, containerPort: 9090}]}
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: shop}
spec:
  clusterIP: 10.96.0.99
  ports: [{name: http, port: 80, targetPort: 8080}, {name: grpc, port: 81, targetPort: 9090}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: server, namespace: shop, labels: {kubernetes.io/service-name: server}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: grpc, port: 9090}]
endpoints: [{addresses: [10.77.2.10], conditions: {ready: true}, targetRef: {kind: Pod, name: server, namespace: shop}}]
"
}

/// The mesh, and what runs in it.
struct World {
    stand: Stand,
    person: Person,
    roads: [Road; 2],
    agents: Vec<Node>,
    _servers: [Server; 4],
    topology: Arc<Topology>,
    files: PathBuf,
}

impl World {
    async fn start() -> Result<Self> {
        let stand = Stand::signing_for(LIFETIME).await?;
        stand.apply(&objects())?;
        stand.until("every pod is known", |known| known.snapshot().workloads().count() == 5).await?;
        let person = Person::new(&stand)?;
        person.is_allowed(&stand)?;
        let mut topology = Topology::two_nodes(Vec::new(), Vec::new())?;
        let roads = [0, 1].map(|index| Road::open(&topology.sites()[index], stand.address()));
        let [a, b] = roads;
        for (node, pod) in [(NODES[0], "client"), (NODES[1], "server")] {
            add_pod(&stand, &mut topology, node, pod)?;
        }
        let (client, server) = (topology.pod("client"), topology.pod("server"));
        let servers = [
            client.serve(Kind::Sink, HTTP)?,
            server.serve(Kind::Http, HTTP)?,
            server.serve(Kind::Echo, ECHO)?,
            server.serve(Kind::Http2, GRPC)?,
        ];
        let files = topology.run().folder().join("agents");
        let topology = Arc::new(topology);
        let mut world =
            Self { stand, person, roads: [a?, b?], agents: Vec::new(), _servers: servers, topology, files };
        world.start_agents().await?;
        Ok(world)
    }

    async fn start_agents(&mut self) -> Result<()> {
        let roots = || self.stand.roots_pem().ok();
        self.stand.eventually("the roots are written", roots).await?;
        for (site, pod) in self.topology.sites().iter().zip(["agent-a", "agent-b"]) {
            let folder = self.files.join(site.name());
            fs::create_dir_all(&folder)?;
            fs::write(folder.join("token"), self.stand.token(pod, &[])?)?;
            let flags = vec![
                ("--controller", PathBuf::from(CONTROLLER.to_string())),
                ("--controller-roots", folder.join("ca.crt")),
                ("--controller-token", folder.join("token")),
                ("--state-dir", folder.join("state")),
            ];
            // Handshakes all the time, and not one for the whole test.
            let more = ["--tunnel-max-age", "1s", "--tunnel-idle-timeout", "1s"].map(str::to_owned);
            self.agents.push(Node::prepare_from(&self.topology, site, flags, &more));
        }
        self.mount_roots()?;
        self.agents.iter_mut().try_for_each(Node::spawn)?;
        self.agents.iter_mut().try_for_each(Node::wait_until_ready)?;
        let (client, server) = (self.topology.pod("client"), self.topology.pod("server"));
        let echoes = || client.echo(server.at(ECHO)).ok();
        self.stand.eventually("the client reaches the server", echoes).await.map(drop)
    }

    /// A connection that stays.
    fn hold(&self) -> Result<Held> {
        self.topology.pod("client").hold(self.topology.pod("server").at(ECHO))
    }

    /// What the kubelets do with a ConfigMap that is mounted.
    fn mount_roots(&self) -> Result<()> {
        let roots = self.stand.roots_pem()?;
        for site in self.topology.sites() {
            fs::write(self.files.join(site.name()).join("ca.crt"), &roots)?;
        }
        Ok(())
    }

    /// Waits until it is said that the change stands so.
    async fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let said = || self.person.status().ok().filter(|standing| is(standing));
        self.stand.eventually(what, said).await
    }

    /// Nothing else is said for a while.
    fn stays(&self, seconds: u64, is: impl Fn(&Value) -> bool) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            let standing = self.person.status()?;
            ensure!(is(&standing), "it goes on without every agent: {standing}");
            // Between two looks of a bounded while: each starts a program.
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Waits for one more certificate of an identity than there are.
    async fn renewed(&self, identity: &str) -> Result<()> {
        let issued = || {
            let is =
                |record: &&Value| record["event"] == "certificate_issued" && record["identity"] == identity;
            self.stand.records().iter().filter(is).count()
        };
        let before = issued();
        let is_more = || (issued() > before).then_some(());
        self.stand.eventually(&format!("{identity} has another certificate"), is_more).await
    }
}

/// The pod of an object, where a kubelet would put it.
fn add_pod(stand: &Stand, topology: &mut Topology, node: &str, name: &str) -> Result<()> {
    let uid = stand.kubectl(&["get", "pod", name, "-n", "shop", "-o", "jsonpath={.metadata.uid}"])?;
    let place = format!("kubepods/burstable/pod{uid}/1");
    let pod = topology.add_pod(node, PodSpec::new(name).uid(&uid).kubelet_cgroup(&place))?;
    let addresses: Vec<Value> = pod.addresses().iter().map(|ip| json!({"ip": ip})).collect();
    let ready = json!([{"type": "Ready", "status": "True"}]);
    let status = json!({"phase": "Running", "podIP": pod.ip(), "podIPs": addresses, "conditions": ready});
    let patch = json!({"status": status}).to_string();
    let words = ["patch", "pod", name, "-n", "shop", "--subresource=status", "--type=merge", "-p", &patch];
    stand.kubectl(&words).map(drop)
}

/// Requests of every kind, until they are counted.
struct Requests {
    loads: [Load; 2],
    stop: Arc<AtomicBool>,
    echoes: JoinHandle<(u64, Vec<String>)>,
    calls: JoinHandle<(u64, Vec<String>)>,
    /// gRPC over one connection and one stream, all the time.
    stream: OpenCall,
}

impl Requests {
    fn start(topology: &Arc<Topology>) -> Result<Self> {
        let client = topology.pod("client");
        let kept = client.load(SERVICE, &["--connections", "2", "--every-ms", "10"])?;
        let fresh = ["--connections", "1", "--every-ms", "20", "--fresh"];
        let fresh = client.load(SERVICE, &fresh)?;
        let stop = Arc::new(AtomicBool::new(false));
        let echoes =
            again_and_again(topology, &stop, |client, server| client.echo(server.at(ECHO)).map(|_| 1));
        let calls = again_and_again(topology, &stop, |client, _| calls(client));
        let stream = client.open_call(CALLS, METHOD)?;
        Ok(Self { loads: [kept, fresh], stop, echoes, calls, stream })
    }

    /// None failed.
    fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let (echoed, mut failed) = self.echoes.join().ok().context("the echoes end")?;
        let (called, failed_calls) = self.calls.join().ok().context("the calls end")?;
        failed.extend(failed_calls);
        let stream = self.stream.finish()?;
        ensure!(stream.grpc_status.as_deref() == Some("0"), "the stream that stays: {stream:?}");
        let [kept, fresh] = self.loads.map(Load::finish);
        let (kept, fresh) = (kept?, fresh?);
        figure(&format!(
            "requests while the root is replaced, each with agents cut off: {} over kept and {} over fresh HTTP \
             connections (longest gaps {:.0} and {:.0} ms), {echoed} TCP connections, {called} gRPC calls, {} messages \
             of one gRPC stream; failed: {}",
            kept.answered,
            fresh.answered,
            kept.longest_gap_ms,
            fresh.longest_gap_ms,
            stream.rounds,
            kept.failed + fresh.failed + failed.len() as u64
        ));
        ensure!(kept.failed == 0 && fresh.failed == 0, "{kept:?} {fresh:?}");
        ensure!(failed.is_empty(), "{failed:?}");
        ensure!(kept.answered > 500 && fresh.answered > 200 && echoed > 50 && called > 100, "hardly any");
        Ok(())
    }
}

/// Does it until it is to stop. Returns how much was done, and what failed.
fn again_and_again(
    topology: &Arc<Topology>,
    stop: &Arc<AtomicBool>,
    what: impl Fn(&Pod, &Pod) -> Result<u64> + Send + 'static,
) -> JoinHandle<(u64, Vec<String>)> {
    let (topology, stop) = (Arc::clone(topology), Arc::clone(stop));
    thread::spawn(move || {
        let (mut done, mut failed) = (0, Vec::new());
        while !stop.load(Ordering::Relaxed) {
            match what(topology.pod("client"), topology.pod("server")) {
                Ok(count) => done += count,
                Err(error) => failed.push(format!("{error:#}")),
            }
        }
        (done, failed)
    })
}

/// A new connection, with calls that are all answered.
fn calls(client: &Pod) -> Result<u64> {
    let called = client.call(CALLS, METHOD, CALLS_AT_A_TIME)?;
    let good = called.iter().filter(|call| call.grpc_status.as_deref() == Some("0")).count();
    ensure!(called.len() == good && good == CALLS_AT_A_TIME as usize, "{called:?}");
    Ok(good as u64)
}

fn missing(standing: &Value) -> BTreeSet<&str> {
    let waiting = standing["waiting"].as_array().into_iter().flatten();
    waiting.filter_map(|agent| agent["pod"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_run_on_while_the_root_is_replaced_and_agents_are_cut_off() -> Result<()> {
    let world = World::start().await?;
    let requests = Requests::start(&world.topology)?;
    let (first, evicted) = (world.hold()?, world.hold()?);
    let is_request = |record: &Value| record["http.method"] == "GET" && record["src.identity"] == CLIENT;
    world.agents[1].record("a request", is_request)?;
    distribute(&world).await?;
    sign(&world).await?;
    let second = world.hold()?;
    retire(&world).await?;
    requests.finish()?;
    // The root before vouched for it when it was opened, and does for such connections alone.
    let rounds = first.finish()?;
    evict(&world, evicted).await?;
    figure(&format!(
        "rounds on connections that stay, over all steps and over the last: {rounds}, {}",
        second.finish()?
    ));
    Ok(())
}

/// As after the key of the root before was stolen: what it vouched for ends.
async fn evict(world: &World, held: Held) -> Result<()> {
    ensure!(held.broken().is_none(), "it was broken before: {:?}", held.broken());
    let patch = r#"[{"op": "remove", "path": "/data/retired.crt"}]"#;
    let words = ["patch", "secret", "nodemesh-ca", "-n", "nodemesh-system", "--type=json", "-p", patch];
    world.stand.kubectl(&words)?;
    let broken = || held.broken();
    world.stand.eventually("a connection by the root before is reset", broken).await.map(drop)
}

/// Agent b cannot hear of the next root, and agent c is not there.
async fn distribute(world: &World) -> Result<()> {
    let signs = world.until("it is said who signs", |said| said["step"] == "settled").await?["signs"].clone();
    world.roads[1].is_cut(true);
    world.person.does(&["rotate", "--until", "begun"])?;
    let both = |said: &Value| said["signs"] == signs && missing(said) == ["agent-b", "agent-c"].into();
    world.until("both are waited for", both).await?;
    world.stays(5, both)?;
    world.roads[1].is_cut(false);
    world.mount_roots()?;
    let only_c = |said: &Value| said["signs"] == signs && missing(said) == ["agent-c"].into();
    world.until("agent c is waited for", only_c).await?;
    world.stays(4, only_c)
}

/// Node c is gone for good. Agent b does not hear that its peers have other certificates.
async fn sign(world: &World) -> Result<()> {
    world.renewed(SERVER).await?;
    world.roads[1].is_cut(true);
    world.stand.delete_pod("nodemesh-system", "agent-c").await?;
    world.until("the next key signs", |said| said["step"] == "expire").await?;
    world.renewed(CLIENT).await?;
    // Both kinds of certificates meet in handshakes, in either direction.
    world.stays(3, |said| said["step"] == "expire")?;
    world.roads[1].is_cut(false);
    world.mount_roots()?;
    world.renewed(SERVER).await?;
    // Longer than a tunnel takes connections: those of now are vouched for by the new root.
    world.stays(3, |said| said["step"] == "expire")
}

/// Agent b does not hear that the root before is gone.
async fn retire(world: &World) -> Result<()> {
    world.roads[1].is_cut(true);
    // When nothing that it vouches for can be valid any more: both have certificates of the next key.
    let annotate = ["annotate", "secret", "nodemesh-ca", "-n", "nodemesh-system", "--overwrite"];
    world.stand.kubectl(&[&annotate[..], &["nodemesh.dev/signs-since=1"]].concat())?;
    world.until("the root before is gone", |said| said["step"] == "settled").await?;
    world.stays(3, |said| said["step"] == "settled")?;
    world.roads[1].is_cut(false);
    let begun = Instant::now();
    world.renewed(SERVER).await?;
    ensure!(begun.elapsed() < PATIENCE, "agent b follows again");
    Ok(())
}
