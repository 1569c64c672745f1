//! Agents of two nodes, as far as a controller sees them: pods, tokens, calls.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_node::config::ControllerConfig;
use mesh_node::controller::world::Known;
use mesh_node::controller::{CONTROLLER, Controller};
use mesh_node::identity::{SigningPem, roots_of_pem};
use mesh_test_cluster::api_server::ApiServer;
use mesh_test_harness::eventually::rest;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::CertificateDer;
use tokio::time::timeout;
use tokio_rustls::rustls::sign::CertifiedKey;
use tonic::{Code, Status};

use super::{audit::Sink, between::Between, caller::Agent, follower::Follower, sleeper::Sleeper};

pub const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
/// For anything to happen: the machine does other work too.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long a certificate is good by default.
pub const DAY: Duration = Duration::from_secs(24 * 3600);
/// A policy that the API server takes, and that nobody can understand.
pub const BROKEN_POLICY: &str = r"
apiVersion: policy.nodemesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: broken, namespace: shop}
spec: {action: ALLOW, rules: [{from: [{source: {ipBlocks: ['::ffff:10.0.0.0/90']}}]}]}
";

/// A signing request for a fresh key.
pub fn request() -> Vec<u8> {
    let key = KeyPair::generate().expect("a key is made");
    CertificateParams::default().serialize_request(&key).expect("it is signed").der().to_vec()
}

/// An agent's pod.
pub fn agent(name: &str, node: &str) -> String {
    let shows = "nodemesh.dev/agent-certificate: required";
    pod("nodemesh-system", name, node, "nodemesh-agent", "hostNetwork: true,", shows)
}

/// The pod of an agent of before agents had certificates.
pub fn earlier_agent(name: &str, node: &str) -> String {
    pod("nodemesh-system", name, node, "nodemesh-agent", "hostNetwork: true,", "")
}

fn pod(namespace: &str, name: &str, node: &str, account: &str, spec: &str, labels: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\nspec: \
         {{{spec} nodeName: {node}, serviceAccountName: {account}, containers: [{{name: a, image: a}}]}}\n"
    )
}

/// Two nodes, their agents, and pods of every sort.
fn objects() -> String {
    let mut text = String::new();
    for node in ["a", "b"] {
        let _ = write!(text, "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}\n");
    }
    text += "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {nodemesh.dev/mode: enabled}}\n";
    let accounts = ["web", "other", "plain", "host"].map(|account| ("shop", account));
    for (namespace, account) in accounts.into_iter().chain([("nodemesh-system", "nodemesh-agent")]) {
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {account}, namespace: {namespace}}}\n"
        );
    }
    text += &agent("agent-a", "a");
    text += &agent("agent-b", "b");
    text += &pod("shop", "web", "a", "web", "", "");
    text += &pod("shop", "other", "b", "other", "", "");
    text += &pod("shop", "plain", "a", "plain", "", "nodemesh.dev/mode: disabled");
    text += &pod("shop", "host", "a", "host", "hostNetwork: true,", "");
    text += &pod("shop", "gone", "a", "gone", "", "");
    text
}

/// A controller beside an API server.
pub struct Stand {
    server: ApiServer,
    known: Arc<Known>,
    address: SocketAddr,
    audit: Sink,
    kubeconfig: tempfile::NamedTempFile,
}

impl Stand {
    /// With nothing but the manifests.
    pub async fn bare() -> Result<Self> {
        let server = api_server("base")?;
        let kubeconfig = controllers_own(&server, None)?;
        Self::with(server, kubeconfig, None, DAY).await
    }

    /// The same, with more flags for the API server.
    pub async fn with_flags(flags: &[&str]) -> Result<Self> {
        let server = api_server_with("base", flags)?;
        let kubeconfig = controllers_own(&server, None)?;
        Self::with(server, kubeconfig, None, DAY).await
    }

    /// The same, for certificates that are good for so long.
    pub async fn signing_for(lifetime: Duration) -> Result<Self> {
        let server = api_server("base")?;
        let kubeconfig = controllers_own(&server, None)?;
        Self::with(server, kubeconfig, None, lifetime).await
    }

    pub async fn with(
        server: ApiServer,
        kubeconfig: tempfile::NamedTempFile,
        signer_name: Option<&str>,
        lifetime: Duration,
    ) -> Result<Self> {
        let audit = Sink::default();
        let (address, known) = start(kubeconfig.path(), audit.clone(), signer_name, lifetime).await?;
        let stand = Self { server, known, address, audit, kubeconfig };
        stand.until("the first lists are read", |known| known.missing().is_empty()).await?;
        Ok(stand)
    }

    /// With two nodes.
    pub async fn start() -> Result<Self> {
        let stand = Self::bare().await?;
        stand.populate().await?;
        Ok(stand)
    }

    /// With two nodes, and somebody else who signs for the controller, below roots that are in this file.
    pub async fn signed_by(signer_name: &str, roots: &Path) -> Result<Self> {
        let server = api_server("overlays/signing-requests")?;
        let roots = format!("--from-file=ca.crt={}", roots.display());
        server.kubectl(&["create", "secret", "generic", "nodemesh-ca", "-n", "nodemesh-system", &roots])?;
        let kubeconfig = controllers_own(&server, None)?;
        let stand = Self::with(server, kubeconfig, Some(signer_name), DAY).await?;
        stand.populate().await?;
        Ok(stand)
    }

    /// With a key in the Secret, and agents that were told another root; no controller knows more.
    pub async fn with_authority(given: &SigningPem, told: &SigningPem) -> Result<Self> {
        let server = api_server("base")?;
        let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone());
        let object = |kind: &str, name: &str| {
            serde_json::json!({
                "apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "nodemesh-system"},
            })
        };
        let mut secret = object("Secret", "nodemesh-ca");
        secret["type"] = "kubernetes.io/tls".into();
        secret["stringData"] =
            serde_json::json!({"tls.key": text(&given.key)?, "tls.crt": text(&given.certificates)?});
        let mut roots = object("ConfigMap", "nodemesh-ca-root");
        roots["data"] = serde_json::json!({"ca.crt": text(&told.certificates)?});
        for object in [secret, roots] {
            let file = tempfile::Builder::new().suffix(".json").tempfile()?;
            std::fs::write(file.path(), object.to_string())?;
            server.kubectl(&["create", "-f", &file.path().display().to_string()])?;
        }
        let kubeconfig = controllers_own(&server, None)?;
        Self::with(server, kubeconfig, None, DAY).await
    }

    /// With two nodes, and with something between the controller and its API server.
    pub async fn behind() -> Result<(Self, Between)> {
        let server = api_server("base")?;
        let between = Between::start(controllers_own(&server, None)?.path()).await?;
        let kubeconfig = controllers_own(&server, Some(&between.url()))?;
        let stand = Self::with(server, kubeconfig, None, DAY).await?;
        stand.populate().await?;
        Ok((stand, between))
    }

    pub async fn populate(&self) -> Result<()> {
        self.apply(&objects())?;
        self.until("every pod is known", |known| known.snapshot().workloads().count() == 7).await
    }

    /// Starts one more, with the rights of the first.
    pub async fn second_controller(&self) -> Result<SocketAddr> {
        Ok(start(self.kubeconfig.path(), Sink::default(), None, DAY).await?.0)
    }

    /// Where the first controller listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the controller knows.
    pub fn known(&self) -> &Known {
        &self.known
    }

    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        self.server.kubectl(words)
    }

    pub fn apply(&self, text: &str) -> Result<()> {
        self.with_file(text, &["apply"])
    }

    /// Makes an object, also one that is too large for what kubectl apply notes of it.
    pub fn create(&self, text: &str) -> Result<()> {
        self.with_file(text, &["create"])
    }

    fn with_file(&self, text: &str, words: &[&str]) -> Result<()> {
        let mut file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
        file.write_all(text.as_bytes())?;
        self.kubectl(&[words, &["-f", &file.path().display().to_string()]].concat()).map(drop)
    }

    pub async fn until(&self, what: &str, is: impl Fn(&Known) -> bool) -> Result<()> {
        let mut generation = self.known.generation();
        let wait = async {
            while !is(&self.known) {
                // Not every fact comes with a generation.
                let _ = timeout(Duration::from_millis(50), generation.changed()).await;
            }
        };
        timeout(PATIENCE, wait).await.with_context(|| format!("wait until {what}"))
    }

    /// Asks until there is an answer.
    pub async fn eventually<T>(&self, what: &str, mut ask: impl FnMut() -> Option<T>) -> Result<T> {
        let begun = Instant::now();
        let wait = async {
            loop {
                let looked = Instant::now();
                if let Some(answer) = ask() {
                    break answer;
                }
                // Between two questions of a bounded wait: whoever is asked tells nobody by himself.
                tokio::time::sleep(rest(begun.elapsed(), looked.elapsed())).await;
            }
        };
        timeout(PATIENCE, wait).await.with_context(|| format!("wait until {what}"))
    }

    pub async fn until_known(&self, pod: &str) -> Result<()> {
        self.until(&format!("{pod} is known"), |known| has(known, pod)).await
    }

    pub async fn delete_pod(&self, namespace: &str, pod: &str) -> Result<()> {
        self.kubectl(&["delete", "pod", pod, "-n", namespace, "--force", "--grace-period=0"])?;
        self.until(&format!("{pod} is gone"), |known| !has(known, pod)).await
    }

    /// A token of an agent's pod, as its kubelet would have it projected.
    pub fn token(&self, pod: &str, more: &[&str]) -> Result<String> {
        let audience = if more.is_empty() { &["--audience", "nodemesh"][..] } else { more };
        self.bound_token("nodemesh-system", pod, "nodemesh-agent", audience)
    }

    pub fn token_of(&self, namespace: &str, pod: &str, account: &str, audience: &str) -> Result<String> {
        self.bound_token(namespace, pod, account, &["--audience", audience])
    }

    fn bound_token(&self, namespace: &str, pod: &str, account: &str, more: &[&str]) -> Result<String> {
        let words = ["get", "pod", pod, "-n", namespace, "-o", "jsonpath={.metadata.uid}"];
        let uid = self.kubectl(&words)?;
        let words = ["create", "token", account, "-n", namespace, "--bound-object-kind", "Pod"];
        let bound = ["--bound-object-name", pod, "--bound-object-uid", &uid];
        let words: Vec<&str> = words.iter().chain(&bound).chain(more).copied().collect();
        Ok(self.kubectl(&words)?.trim().to_owned())
    }

    /// A connection of an agent that shows no certificate.
    pub async fn agent(&self, token: &str) -> Result<Agent> {
        self.agent_at(self.address, token, None).await
    }

    /// A connection of who holds a certificate and its key.
    pub async fn agent_showing(&self, token: &str, shown: Arc<CertifiedKey>) -> Result<Agent> {
        self.agent_at(self.address, token, Some(shown)).await
    }

    /// The same, to any controller.
    pub async fn agent_at(
        &self,
        address: SocketAddr,
        token: &str,
        shown: Option<Arc<CertifiedKey>>,
    ) -> Result<Agent> {
        let roots = timeout(PATIENCE, async {
            loop {
                if let Ok(roots) = self.roots() {
                    break roots;
                }
                // Between two looks of a bounded wait: the roots are written when the controller has them.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let roots = roots.await.context("wait until the roots are written")?;
        Agent::connect(address, token, roots, shown).await
    }

    /// The agent of a node, following the first controller.
    pub async fn follower(&self, pod: &str, node: &str) -> Result<Follower> {
        self.follower_of(self.address, pod, node).await
    }

    pub async fn follower_of(&self, address: SocketAddr, pod: &str, node: &str) -> Result<Follower> {
        let roots = self.eventually("the roots are written", || self.roots_pem().ok()).await?;
        Follower::start(address, node, &self.token(pod, &[])?, &roots)
    }

    /// One more controller, in a process of its own.
    pub async fn sleeper(&self) -> Result<Sleeper> {
        Sleeper::start(controllers_own(&self.server, None)?).await
    }

    /// How whoever may do everything reaches the API server.
    pub fn kubeconfig(&self) -> &Path {
        self.server.kubeconfig()
    }

    /// A kubeconfig of a service account.
    pub fn kubeconfig_of(&self, namespace: &str, account: &str) -> Result<tempfile::NamedTempFile> {
        kubeconfig_of(&self.server, namespace, account, None)
    }

    /// Who writes status.
    pub fn leader(&self) -> Option<String> {
        let words = ["get", "lease", "nodemesh-controller", "-n", "nodemesh-system", "-o"];
        let path = ["jsonpath={.spec.holderIdentity}"];
        self.kubectl(&[&words[..], &path].concat()).ok().filter(|holder| !holder.is_empty())
    }

    pub fn make_leader(&self, name: &str) -> Result<()> {
        let holder = serde_json::json!({"spec": {"holderIdentity": name}}).to_string();
        let words = ["patch", "lease", "nodemesh-controller", "-n", "nodemesh-system", "--type=merge", "-p"];
        self.kubectl(&[&words[..], &[&holder]].concat()).map(drop)
    }

    /// The roots that agents mount.
    fn roots(&self) -> Result<Vec<CertificateDer<'static>>> {
        Ok(roots_of_pem(self.roots_pem()?.as_bytes())?)
    }

    pub fn roots_pem(&self) -> Result<String> {
        let path = "jsonpath={.data.ca\\.crt}";
        self.kubectl(&["get", "configmap", "nodemesh-ca-root", "-n", "nodemesh-system", "-o", path])
    }

    pub async fn sign(&self, token: &str, identity: &str, request: Vec<u8>) -> Result<Vec<Vec<u8>>, Status> {
        self.sign_at(self.address, token, identity, request).await
    }

    pub async fn sign_at(
        &self,
        address: SocketAddr,
        token: &str,
        identity: &str,
        request: Vec<u8>,
    ) -> Result<Vec<Vec<u8>>, Status> {
        let agent = self.agent_at(address, token, None).await;
        let mut agent = agent.map_err(|error| Status::internal(format!("{error:#}")))?;
        agent.sign(identity, request).await
    }

    /// Asks for what must be refused, for this reason, on record.
    pub async fn refused(
        &self,
        token: &str,
        identity: &str,
        request: Vec<u8>,
        code: Code,
        reason: &str,
    ) -> Result<()> {
        let before = self.records().len();
        match self.sign(token, identity, request).await {
            Ok(_) => bail!("{identity:?} was signed"),
            Err(status) => ensure!(status.code() == code, "{identity:?}: {status:?}"),
        }
        let wait = async {
            loop {
                // One of an earlier answer may come late: a thread of its own writes them.
                let refused = |record: &serde_json::Value| record["event"] == "certificate_refused";
                if let Some(record) = self.records().into_iter().skip(before).find(refused) {
                    break record;
                }
                // Between two looks of a bounded wait.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let record = timeout(PATIENCE, wait).await.context("wait for a record")?;
        ensure!(record["reason"] == reason, "{identity:?}: {record}");
        Ok(())
    }

    /// Asks with a token that proves nothing.
    pub async fn turned_away(&self, token: &str, code: Code) -> Result<()> {
        let reason = if code == Code::Unauthenticated { "unauthenticated" } else { "not_an_agent" };
        self.refused(token, WEB, request(), code, reason).await
    }

    pub fn records(&self) -> Vec<serde_json::Value> {
        self.audit.records()
    }
}

/// An API server with what the manifests bring.
pub fn api_server(part: &str) -> Result<ApiServer> {
    api_server_with(part, &[])
}

/// The same, with more flags for it.
fn api_server_with(part: &str, flags: &[&str]) -> Result<ApiServer> {
    let server = ApiServer::start_with(flags)?;
    for part in ["foundation", part] {
        let folder = format!("{}/../../manifests/{part}", env!("CARGO_MANIFEST_DIR"));
        server.kubectl(&["apply", "-k", &folder])?;
    }
    server.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"])?;
    Ok(server)
}

fn has(known: &Known, pod: &str) -> bool {
    known.snapshot().workloads().any(|known| &*known.name.name == pod)
}

/// A kubeconfig of the controller's own service account: what it may do is what the manifests let it.
pub fn controllers_own(server: &ApiServer, url: Option<&str>) -> Result<tempfile::NamedTempFile> {
    kubeconfig_of(server, "nodemesh-system", CONTROLLER, url)
}

fn kubeconfig_of(
    server: &ApiServer,
    namespace: &str,
    account: &str,
    url: Option<&str>,
) -> Result<tempfile::NamedTempFile> {
    let token = server.kubectl(&["create", "token", account, "-n", namespace])?;
    let text = std::fs::read_to_string(server.kubeconfig())?;
    let mut config: serde_json::Value = serde_json::from_str(&text)?;
    config["users"][0]["user"] = serde_json::json!({"token": token.trim()});
    if let Some(url) = url {
        config["clusters"][0]["cluster"] = serde_json::json!({"server": url});
    }
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(config.to_string().as_bytes())?;
    Ok(file)
}

/// Starts a controller on a thread of its own; it ends with the process.
async fn start(
    kubeconfig: &Path,
    audit: Sink,
    signer_name: Option<&str>,
    lifetime: Duration,
) -> Result<(SocketAddr, Arc<Known>)> {
    static COUNT: AtomicUsize = AtomicUsize::new(1);
    let name = format!("controller-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let config = ControllerConfig {
        kubeconfig: Some(kubeconfig.to_owned()),
        pod_name: name.into(),
        signer_name: signer_name.map(Into::into),
        certificate_lifetime: lifetime,
        ..ControllerConfig::default()
    };
    let (told, started) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime is made").block_on(async {
            let controller = Controller::open(config, Box::new(audit)).await.expect("it listens");
            let address = controller.address().expect("it has an address");
            let _ = told.send((address, controller.known()));
            panic!("the controller ended: {}", controller.run().await);
        });
    });
    Ok(started.await?)
}
