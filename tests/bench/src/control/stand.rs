//! An API server with a large cluster in it, a controller beside it, and an agent: real ones, each a process.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::Client;
use mesh_common::model::{SpiffeId, TrustDomain};
use mesh_node::controller::{CONTROLLER, client};
use mesh_node::identity::{ControllerTrust, IdentityMetrics, TrustBundle, roots_of_pem, system_clock};
use mesh_node::telemetry::registry::Registry;
use mesh_node::xds::saved::save;
use mesh_node::xds::{EVERYTHING, Key, ResourceType};
use mesh_test_cluster::api_server::ApiServer;
use mesh_test_cluster::network::free_ports;
use mesh_test_cluster::part::Part;
use mesh_test_harness::binary;
use mesh_test_harness::eventually::{eventually, eventually_true};
use mesh_test_harness::run::Run;
use serde_json::{Value, json};

use super::objects::{self, AGENT, CHANGING, SYSTEM, Size};
use super::store;

/// For a process to have read all that there is.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often a process is asked that tells nobody what it has done.
const ASK: Duration = Duration::from_millis(50);
/// What a controller lists, and how much of it at a time.
const LISTS: [&str; 6] = [
    "/api/v1/pods",
    "/api/v1/services",
    "/apis/discovery.k8s.io/v1/endpointslices",
    "/api/v1/namespaces",
    "/api/v1/serviceaccounts",
    "/api/v1/nodes",
];
const PAGE: u32 = 500;

/// A page of a list, of which only the place of the next is looked at.
#[derive(serde::Deserialize)]
struct Page {
    metadata: ListMeta,
}

/// What runs. Ended on drop.
pub struct Stand {
    server: ApiServer,
    client: Client,
    run: Run,
    size: Size,
}

/// A controller.
pub struct Controller {
    part: Part,
    pub address: SocketAddr,
    metrics: SocketAddr,
    readiness: SocketAddr,
}

/// An agent of one node.
pub struct Agent {
    part: Part,
    metrics: SocketAddr,
    state: PathBuf,
    /// When the state was written that it was started with.
    written: Option<SystemTime>,
}

impl Stand {
    /// Starts an API server and fills it.
    ///
    /// # Errors
    /// It cannot be had, or does not take the objects.
    pub async fn start(size: Size) -> Result<Self> {
        let server = tokio::task::spawn_blocking(ApiServer::start).await??;
        for part in ["foundation", "base"] {
            let folder = format!("{}/../../manifests/{part}", env!("CARGO_MANIFEST_DIR"));
            server.kubectl(&["apply", "-k", &folder])?;
        }
        server.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"])?;
        store::fill(server.store(), size.objects()).await?;
        let client = client::client(Some(server.kubeconfig())).await?;
        let stand = Self { server, client, run: Run::start()?, size };
        stand.catches_up().await?;
        Ok(stand)
    }

    /// Waits until the API server has read what was written past it: it was told of nothing, and a resource that it has not
    /// read as far as its store asks whoever lists it to come again.
    async fn catches_up(&self) -> Result<()> {
        let began = Instant::now();
        while let Err(error) = self.lists().await {
            let says = error.downcast_ref::<kube::Error>();
            let is_behind = matches!(says, Some(kube::Error::Api(status)) if status.code == 504);
            if !is_behind || began.elapsed() > PATIENCE {
                return Err(error);
            }
            // As long as its answer says.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }

    /// How long the API server takes to give all that a controller reads, to who drops it.
    ///
    /// # Errors
    /// It does not give it.
    pub async fn lists(&self) -> Result<Duration> {
        let begun = Instant::now();
        try_join_all(LISTS.map(|path| self.list(path))).await?;
        Ok(begun.elapsed())
    }

    async fn list(&self, path: &str) -> Result<()> {
        let mut next = String::new();
        loop {
            let page = format!("{path}?limit={PAGE}&continue={next}");
            let text = self.client.request_text(http::Request::get(page).body(Vec::new())?).await;
            let Page { metadata } = serde_json::from_str(&text.with_context(|| format!("list {path}"))?)?;
            match metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => next = token,
                None => return Ok(()),
            }
        }
    }

    /// Starts a controller, with the rights that the manifests give it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn controller(&self) -> Result<Controller> {
        let token = self.server.kubectl(&["create", "token", CONTROLLER, "-n", SYSTEM])?;
        let text = fs::read_to_string(self.server.kubeconfig())?;
        let mut config: Value = serde_json::from_str(&text)?;
        config["users"][0]["user"] = json!({"token": token.trim()});
        let kubeconfig = self.run.folder().join("controller.json");
        fs::write(&kubeconfig, config.to_string())?;
        let [address, metrics, readiness] = addresses()?;
        let mut command = Command::new(binary::mesh_node()?);
        command.args(["controller", "--pod-name", "bench", "--kubeconfig"]).arg(&kubeconfig);
        let listens =
            [("--listen", address), ("--metrics-address", metrics), ("--readiness-address", readiness)];
        for (flag, address) in listens {
            command.arg(flag).arg(address.to_string());
        }
        let part = Part::start(&self.run, "controller", command)?.adopted_by(&self.run)?;
        Ok(Controller { part, address, metrics, readiness })
    }

    /// Starts the agent of a node, which has no cgroup of any pod. One that asks goes on with the addresses that its pods
    /// dialled before it was started.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn agent(
        &self,
        node: usize,
        controller: &Controller,
        dialled: Option<Vec<Ipv4Addr>>,
    ) -> Result<Agent> {
        let called = if dialled.is_some() { "asking" } else { "agent" };
        let file = |name: &str, text: String| -> Result<PathBuf> {
            let path = self.run.folder().join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            Ok(path)
        };
        let (roots, token) = (file("roots.pem", self.roots()?)?, file("token", self.token(node).await?)?);
        let (pods, state) =
            (self.run.cgroup().join("pods"), self.run.folder().join(format!("state-{called}")));
        fs::create_dir_all(&pods).context("make the cgroup of the pods")?;
        let [metrics, readiness] = addresses()?;
        let mut command = Command::new(binary::mesh_node()?);
        command.args(["agent", "--node-name", &objects::node(node), "--workers", "1"]);
        command.args(["--controller", &controller.address.to_string()]);
        let folders = [
            ("--controller-roots", roots),
            ("--controller-token", token),
            ("--state-dir", state.clone()),
            ("--cgroup-root", pods),
            ("--agent-cgroup", self.run.cgroup().join(called)),
            ("--pin-dir", self.run.bpffs().join(called)),
            ("--admin-socket", self.run.folder().join("admin.sock")),
        ];
        for (flag, folder) in folders {
            command.arg(flag).arg(folder);
        }
        for (flag, address) in [("--metrics-address", metrics), ("--readiness-address", readiness)] {
            command.arg(flag).arg(address.to_string());
        }
        if let Some(dialled) = dialled {
            command.arg("--on-demand");
            remember(&state, &objects::node(node), &dialled).context("write what was dialled")?;
        }
        let state = state.join("state");
        let written = written(&state);
        Ok(Agent { part: Part::start(&self.run, called, command)?, metrics, state, written })
    }

    /// A token of the agent's pod of a node, as its kubelet would have it projected.
    ///
    /// # Errors
    /// The API server gives none.
    pub async fn token(&self, node: usize) -> Result<String> {
        let (name, uid) = (objects::agent(node), objects::agent_uid(node));
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
        let spec = json!({"audiences": ["nodemesh"], "expirationSeconds": 7200, "boundObjectRef": bound});
        let asked = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let path = format!("/api/v1/namespaces/{SYSTEM}/serviceaccounts/{AGENT}/token");
        let request = http::Request::post(path).header("content-type", "application/json");
        let answer: Value = self.client.request(request.body(serde_json::to_vec(&asked)?)?).await?;
        Ok(answer["status"]["token"].as_str().context("an answer has a token")?.to_owned())
    }

    /// Makes the one endpoint ready, or not, whose change is waited for.
    ///
    /// # Errors
    /// The API server does not.
    pub async fn change(&self, is_ready: bool) -> Result<()> {
        let patch = json!({"endpoints": objects::changing_endpoints(self.size, is_ready)});
        let namespace = objects::namespace(0);
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/{CHANGING}");
        let request = http::Request::patch(path).header("content-type", "application/merge-patch+json");
        let _: Value = self.client.request(request.body(serde_json::to_vec(&patch)?)?).await?;
        Ok(())
    }

    /// How agents know the controller.
    ///
    /// # Errors
    /// Its roots are not written in time.
    pub fn trust(&self) -> Result<Arc<rustls::ClientConfig>> {
        let domain = TrustDomain::parse("cluster.local")?;
        let controller = SpiffeId::new(&domain, SYSTEM, CONTROLLER)?;
        let bundle = TrustBundle::new(domain, roots_of_pem(self.roots()?.as_bytes())?)?;
        let metrics = IdentityMetrics::new(&Registry::new())?;
        Ok(ControllerTrust::new(bundle, controller, &system_clock(), metrics).client(None))
    }

    fn roots(&self) -> Result<String> {
        let path = "jsonpath={.data.ca\\.crt}";
        let words = ["get", "configmap", "nodemesh-ca-root", "-n", SYSTEM, "-o", path];
        eventually("the controller has written its roots", PATIENCE, || {
            self.server.kubectl(&words).ok().filter(|pem| !pem.is_empty())
        })
    }
}

impl Controller {
    /// Waits until it knows the whole world; returns how long that took.
    ///
    /// # Errors
    /// It ends, or does not in time.
    pub async fn knows(&mut self, pods: usize) -> Result<Duration> {
        let start = Instant::now();
        loop {
            self.part.lives()?;
            let is_ready = get(self.readiness, "/readyz").await.is_ok_and(|(status, _)| status == 200);
            let known = sample(self.metrics, "nodemesh_controller_objects{kind=\"Pod\"}").await;
            if is_ready && known.is_some_and(|known| known >= pods as f64) {
                return Ok(start.elapsed());
            }
            ensure!(start.elapsed() < PATIENCE, "the controller knows {known:?} of {pods} pods");
            tokio::time::sleep(ASK).await;
        }
    }

    pub fn id(&self) -> u32 {
        self.part.id()
    }
}

impl Agent {
    /// Waits until all that it was told is in force.
    ///
    /// # Errors
    /// It ends, or is not in time.
    pub async fn is_current(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            self.part.lives()?;
            let stale = sample(self.metrics, "nodemesh_xds_stale_since_timestamp_seconds").await;
            if stale == Some(0.0) {
                return Ok(());
            }
            ensure!(start.elapsed() < PATIENCE, "the agent is not current: stale since {stale:?}");
            tokio::time::sleep(ASK).await;
        }
    }

    /// Waits until what it was told is on its disk.
    ///
    /// # Errors
    /// It is not in time.
    pub fn is_written(&self) -> Result<()> {
        let is_new = || written(&self.state) > self.written;
        eventually_true("the agent has written its state", PATIENCE, is_new).map(drop)
    }

    pub fn id(&self) -> u32 {
        self.part.id()
    }
}

/// Writes the state of an agent that asked about addresses.
fn remember(folder: &Path, node: &str, dialled: &[Ipv4Addr]) -> Result<()> {
    fs::create_dir_all(folder)?;
    let names = dialled.iter().map(ToString::to_string).chain([EVERYTHING.to_owned()]);
    let key = |name: String| Key { kind: ResourceType::Address, name: name.into() };
    let mut file = fs::File::create(folder.join("state"))?;
    Ok(save(node, names.map(|name| (key(name), bytes::Bytes::new())), &mut file)?)
}

/// When a file was written, if it is there.
fn written(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|found| found.modified()).ok()
}

fn addresses<const COUNT: usize>() -> Result<[SocketAddr; COUNT]> {
    Ok(free_ports()?.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
}

/// A value of a page of metrics.
async fn sample(address: SocketAddr, name: &str) -> Option<f64> {
    let (_, text) = get(address, "/metrics").await.ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

async fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    use http_body_util::{BodyExt as _, Empty};
    let stream = tokio::net::TcpStream::connect(address).await?;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    tokio::spawn(connection);
    let request = http::Request::get(path).header("host", "bench").body(Empty::<bytes::Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
