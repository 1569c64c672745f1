//! etcd and the API server on loopback: enough for controllers, certificates and objects; nothing runs pods.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mesh_test_harness::eventually::eventually;
use mesh_test_harness::run::Run;

use crate::certificates::Certificates;
use crate::programs::Programs;

/// How long it may take until it answers, on a machine that does other work too; four seconds are usual.
const START: Duration = Duration::from_secs(120);
/// Who is meant by tokens of service accounts.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// An API server that runs. Ended, with all it holds, on drop.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    url: String,
    kubeconfig: PathBuf,
    programs: Programs,
    /// In this order: the API server before its store, and both before what removes their folders.
    api_server: Part,
    _etcd: Part,
    _run: Run,
}

/// A program of the cluster; killed on drop, for a graceful end takes an API server ten seconds.
#[derive(Debug)]
struct Part {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl ApiServer {
    /// Starts both and waits until the API server is ready.
    ///
    /// # Errors
    /// A program cannot be built or started, or it ends; the text has the last lines of its log.
    pub fn start() -> Result<Self> {
        let programs = Programs::get()?;
        let run = Run::start()?;
        let [clients, peers, secure] = free_ports()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, secure));
        let url = format!("https://{address}");
        let certificates = Certificates::make(&run.folder().join("pki"))?;
        certificates.server("api-server", Ipv4Addr::LOCALHOST.into())?;
        let kubeconfig = certificates.client("admin", "admin", Some("system:masters"), &url)?;
        let etcd = start(&programs, &run, "etcd", &etcd_flags(&run.folder().join("etcd"), clients, peers))?;
        let flags = api_server_flags(&certificates, clients, secure);
        let api_server = start(&programs, &run, "kube-apiserver", &flags)?;
        let mut started = Self { address, url, kubeconfig, programs, api_server, _etcd: etcd, _run: run };
        started.wait_until_ready()?;
        Ok(started)
    }

    /// Where it listens, as in `https://127.0.0.1:6443`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The kubeconfig of somebody who may do everything.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs kubectl as somebody who may do everything; returns what it printed.
    ///
    /// # Errors
    /// It fails; the text is what it said.
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        let mut kubectl = Command::new(self.programs.part("kubectl"));
        let output =
            kubectl.arg("--kubeconfig").arg(&self.kubeconfig).args(words).stdin(Stdio::null()).output();
        let output = output.context("start kubectl")?;
        if !output.status.success() {
            bail!("kubectl {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        String::from_utf8(output.stdout).context("read what kubectl printed")
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let answered = eventually("the API server is ready", START, || {
            if let Err(error) = self.api_server.lives() {
                return Some(Err(error));
            }
            // Cheap first: kubectl takes a tenth of a second of a core to begin.
            TcpStream::connect(self.address).ok()?;
            self.kubectl(&["get", "--raw", "/readyz"]).is_ok().then_some(Ok(()))
        });
        answered
            .flatten()
            .with_context(|| format!("start the API server; its last lines:\n{}", self.api_server.tail()))
    }
}

impl Part {
    fn lives(&mut self) -> Result<()> {
        match self.child.try_wait().context("ask for the state of a program")? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}", self.name),
        }
    }

    fn tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Fails if it ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports that nobody listened on just now.
fn free_ports<const COUNT: usize>() -> Result<[u16; COUNT]> {
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

fn start(programs: &Programs, run: &Run, name: &'static str, flags: &[String]) -> Result<Part> {
    let log = run.folder().join(format!("{name}.log"));
    let file = File::create(&log).with_context(|| format!("make {}", log.display()))?;
    let errors = file.try_clone().context("share a log")?;
    let mut command = Command::new(programs.part(name));
    command.args(flags).stdin(Stdio::null()).stdout(file).stderr(errors);
    let child = command.spawn().with_context(|| format!("start {name}"))?;
    // From here on the run's reaper ends it if this process cannot.
    let members = run.cgroup().join("cgroup.procs");
    fs::write(&members, child.id().to_string()).with_context(|| format!("write {}", members.display()))?;
    Ok(Part { name, child, log })
}

fn etcd_flags(store: &Path, clients: u16, peers: u16) -> Vec<String> {
    let (clients, peers) = (format!("http://127.0.0.1:{clients}"), format!("http://127.0.0.1:{peers}"));
    vec![
        format!("--data-dir={}", store.display()),
        // What it holds is thrown away: no write waits for the disk.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
    ]
}

fn api_server_flags(certificates: &Certificates, store: u16, secure: u16) -> Vec<String> {
    let file = |name: &str| certificates.file(name).display().to_string();
    vec![
        format!("--etcd-servers=http://127.0.0.1:{store}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--advertise-address=127.0.0.1".to_owned(),
        // Its own address is no endpoint for anybody: nothing runs pods.
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--secure-port={secure}"),
        format!("--tls-cert-file={}", file("api-server.crt")),
        format!("--tls-private-key-file={}", file("api-server.key")),
        format!("--client-ca-file={}", file("ca.crt")),
        format!("--service-account-issuer={ISSUER}"),
        format!("--api-audiences={ISSUER}"),
        format!("--service-account-key-file={}", file("service-accounts.pub")),
        format!("--service-account-signing-key-file={}", file("service-accounts.key")),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        // No controller manager makes the accounts that it asks for.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--profiling=false".to_owned(),
    ]
}
