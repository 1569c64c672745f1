//! Tokens that kubelets asked for, of agents and of others, shown to a controller that runs as a pod: what each is good for.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream as BlockingStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_node::identity::roots_of_pem;
use mesh_test_cluster::mesh::{AGENTS, CONTROLLERS, Mesh, PATIENCE, SYSTEM, WAIT};
use mesh_test_cluster::node::Node;
use mesh_test_cluster::remains;
use mesh_test_harness::eventually::eventually;
use mesh_test_harness::figure;
use mesh_test_harness::netns::Namespace;
use rcgen::{CertificateParams, KeyPair};
use tokio::net::TcpStream;
use tonic::{Code, Status};

use crate::caller::Agent;

/// Pods with accounts of their own, one of which asks its kubelet for a token like an agent's.
const PODS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/accounts.yaml");
/// Where an agent has its token, and the one that a kubelet gives any pod.
const OWN: &str = "/var/run/secrets/nodemesh/token";
const USUAL: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// For one connection.
const CONNECT: Duration = Duration::from_secs(10);

/// The way to a controller, from the network of a node.
struct Way {
    runtime: tokio::runtime::Runtime,
    from: Namespace,
    to: SocketAddr,
    roots: String,
}

impl Way {
    fn to_controller(mesh: &Mesh) -> Result<Self> {
        let path = "jsonpath={.items[0].status.podIP}";
        let address: IpAddr = mesh.kubectl(&[SYSTEM, "get", "pods", CONTROLLERS, "-o", path])?.parse()?;
        let words = [SYSTEM, "get", "configmap", "nodemesh-ca-root", "-o", "jsonpath={.data.ca\\.crt}"];
        Ok(Self {
            runtime: tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?,
            from: mesh.cluster().nodes()[0].netns().clone(),
            to: SocketAddr::new(address, 15012),
            roots: mesh.kubectl(&words)?,
        })
    }

    /// Asks for a certificate with a token; its status if it is refused.
    fn asks(&self, token: &str, account: &str) -> Result<Result<(), Status>> {
        let identity = format!("spiffe://cluster.local/ns/{account}");
        let key = KeyPair::generate()?;
        let request = CertificateParams::default().serialize_request(&key)?.der().to_vec();
        let signed = self.with_agent(token, async move |mut agent| agent.sign(&identity, request).await)?;
        Ok(signed.map(drop))
    }

    /// Begins a stream with a token, and no certificate.
    fn follows(&self, token: &str) -> Result<Result<(), Status>> {
        Ok(self.with_agent(token, async |mut agent| agent.follow().await)?.map(drop))
    }

    fn with_agent<T>(&self, token: &str, work: impl AsyncFnOnce(Agent) -> T) -> Result<T> {
        let (from, to) = (self.from.clone(), self.to);
        let dial = move || {
            let from = from.clone();
            async move {
                let dialled = from.run(|| Ok(BlockingStream::connect_timeout(&to, CONNECT)?));
                let stream = dialled.map_err(|error| io::Error::other(format!("{error:#}")))?;
                stream.set_nonblocking(true)?;
                TcpStream::from_std(stream)
            }
        };
        let roots = roots_of_pem(self.roots.as_bytes())?;
        self.runtime.block_on(async {
            let agent = Agent::connect_by(dial, to.ip(), token, roots, None).await?;
            Ok(work(agent).await)
        })
    }

    fn refuses(&self, what: &str, token: &str, account: &str, code: Code) -> Result<()> {
        match self.asks(token, account)? {
            Err(status) => ensure!(status.code() == code, "{what}: {status:?}"),
            Ok(()) => bail!("{what}: {account} was signed for"),
        }
        Ok(())
    }
}

/// Each row of what a stolen token may be: it gets what its own node's agent gets, while that lives, or nothing.
pub fn are_good_for_their_own_node_alone(mesh: &Mesh) -> Result<()> {
    mesh.kubectl(&["apply", "-f", PODS])?;
    mesh.kubectl(&["wait", "--for=condition=Ready", WAIT, "pod/only-a", "pod/only-b", "pod/thief"])?;
    let way = Way::to_controller(mesh)?;
    let [a, b] = ["node-a", "node-b"].map(|name| node(mesh, name));
    let (a, b) = (a?, b?);
    let (token_a, token_b) = (token(a, OWN)?, token(b, OWN)?);
    // A pod is known to the controller a moment after it is ready.
    for (token, account) in [(&token_a, "default/sa/only-a"), (&token_b, "default/sa/only-b")] {
        eventually(&format!("{account} is signed for"), PATIENCE, || {
            way.asks(token, account).is_ok_and(|signed| signed.is_ok()).then_some(())
        })?;
    }
    way.refuses("of a pod on another node", &token_a, "default/sa/only-b", Code::PermissionDenied)?;
    way.refuses("of a pod on another node", &token_b, "default/sa/only-a", Code::PermissionDenied)?;
    let controller = "nodemesh-system/sa/nodemesh-controller";
    for account in ["default/sa/nobody", "kube-system/sa/default"] {
        way.refuses("of no pod there", &token_a, account, Code::PermissionDenied)?;
    }
    // Of pods outside the mesh none is had either, wherever they are.
    way.refuses("of a controller", &token_a, controller, Code::PermissionDenied)?;

    // For the API server: the agent's own, and any pod's.
    way.refuses(
        "an agent's for the API server",
        &token(a, USUAL)?,
        "default/sa/only-a",
        Code::Unauthenticated,
    )?;
    let of_thief = |path: &str| mesh.kubectl(&["exec", "thief", "--", "cat", path]);
    way.refuses("a pod's for the API server", &of_thief(USUAL)?, "default/sa/thief", Code::Unauthenticated)?;
    // For the mesh, bound to a pod that lives on the node, and no agent's.
    let projected = of_thief(OWN)?;
    way.refuses("a pod's for the mesh", &projected, "default/sa/thief", Code::FailedPrecondition)?;
    let status = way.follows(&projected)?.expect_err("a pod follows");
    ensure!(status.code() == Code::PermissionDenied, "{status:?}");
    // An agent's, by who has no key of its own.
    let status = way.follows(&token_a)?.expect_err("somebody without a certificate follows");
    ensure!(
        status.code() == Code::Unauthenticated && status.message().contains("no certificate"),
        "{status:?}"
    );

    end_with_their_pods(mesh, &way, a, &token_a)?;
    mesh.kubectl(&["delete", "-f", PODS, "--ignore-not-found", "--wait=false"]).map(drop)
}

/// The pod whose identity it is, and then the agent that holds the token.
fn end_with_their_pods(mesh: &Mesh, way: &Way, a: &Node, before: &str) -> Result<()> {
    mesh.kubectl(&["delete", "pod", "only-a", "--grace-period=1"])?;
    eventually("its identity ends with it", PATIENCE, || {
        way.refuses("its pod has gone", before, "default/sa/only-a", Code::PermissionDenied).ok()
    })?;
    let on_a = "--field-selector=spec.nodeName=node-a";
    mesh.kubectl(&[SYSTEM, "delete", "pod", AGENTS, on_a, WAIT])?;
    // The API server says that its pod has gone, or the controller's own watch does, a moment after kubectl.
    let is_over = |account: &str| -> Result<bool> {
        let asked = way.asks(before, account)?;
        let over = |status: &Status| matches!(status.code(), Code::Unauthenticated | Code::Unavailable);
        Ok(asked.as_ref().is_err_and(over))
    };
    eventually("the token ends with its pod", PATIENCE, || is_over("default/sa/thief").ok()?.then_some(()))?;
    ensure!(is_over("nodemesh-system/sa/nodemesh-agent")?, "it is good for the agents' own identity");
    mesh.rolled_out("daemonset/nodemesh-agent")?;
    let after = token(a, OWN)?;
    ensure!(after != before, "the kubelet gave the next pod the same token");
    eventually("the next agent's token is good", PATIENCE, || {
        way.asks(&after, "default/sa/thief").is_ok_and(|signed| signed.is_ok()).then_some(())
    })?;
    match way.asks(before, "default/sa/thief")? {
        Err(status) => {
            figure(&format!("the token of an agent that was replaced is refused with {:?}", status.code()))
        }
        Ok(()) => bail!("the token of an agent that was replaced is good"),
    }
    Ok(())
}

/// What the kubelet put into the agent's pod on a node.
fn token(node: &Node, path: &str) -> Result<String> {
    eventually(&format!("the agent of {} has {path}", node.name()), PATIENCE, || {
        let [agent] = remains::agents(node).ok()?[..] else { return None };
        std::fs::read_to_string(format!("/proc/{agent}/root{path}")).ok()
    })
}

fn node<'a>(mesh: &'a Mesh, name: &str) -> Result<&'a Node> {
    let mut nodes = mesh.cluster().nodes().iter();
    nodes.find(|node| node.name() == name).with_context(|| format!("find a node {name}"))
}
