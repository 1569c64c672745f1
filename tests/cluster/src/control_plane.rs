//! The store, the API server and what works on its objects: the processes that are no node's.
//!
//! In: where they listen and what else there is. Out: a server that is ready, and kubectl for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mesh_test_harness::eventually::eventually;
use mesh_test_harness::process::Place;
use mesh_test_harness::run::Run;
use rustix::process::{Pid, Signal, kill_process};

use crate::certificates::Certificates;
use crate::network::{self, Families};
use crate::part::{GARBAGE, Part};
use crate::programs::Programs;

/// How long it may take until it answers, on a machine that does other work too; four seconds are usual.
const START: Duration = Duration::from_secs(120);
/// Who is meant by tokens of service accounts.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Where the control plane listens.
#[derive(Clone, Debug)]
pub struct Site {
    /// The network namespace and the cgroup of its programs; none are the caller's and the run's.
    pub place: Option<Place>,
    /// Where the API server listens.
    pub address: SocketAddr,
    /// Where it does for nodes and pods; the same if they have that family.
    pub inside: SocketAddr,
    /// The families of Services' addresses.
    pub families: Families,
    /// The ports of the store on loopback, for clients and for its peers.
    pub store: [u16; 2],
}

/// What there is besides the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The store alone: nothing makes accounts, nothing runs pods.
    Light,
    /// Controllers, a scheduler, nodes.
    Full,
}

/// A control plane that runs. Ended on drop.
#[derive(Debug)]
pub struct ControlPlane {
    site: Site,
    kubeconfig: PathBuf,
    programs: Programs,
    /// In this order: what works on objects, the API server, its store.
    workers: Vec<Part>,
    api_server: Part,
    _etcd: Part,
}

impl ControlPlane {
    /// Starts the store and the API server, with more flags for this one; they are not ready yet.
    ///
    /// # Errors
    /// A program cannot be started.
    pub fn start(
        run: &Run,
        certificates: &Certificates,
        site: Site,
        form: Form,
        more: &[&str],
    ) -> Result<Self> {
        let programs = Programs::get()?;
        let url = format!("https://{}", site.address);
        let addresses = [site.address.ip(), site.inside.ip()];
        certificates.server("api-server", &[addresses, network::FIRST_SERVICES].concat())?;
        let kubeconfig = certificates.client("admin", "admin", Some("system:masters"), &url)?;
        let spawn = |name: &str, flags: Vec<String>| start(run, &programs, &site, name, &flags);
        let etcd = spawn("etcd", etcd_flags(&run.folder().join("etcd"), site.store))?;
        let mut flags = api_server_flags(certificates, &site);
        match form {
            Form::Light => flags.extend(light_flags()),
            Form::Full => flags.extend(full_flags(certificates)?),
        }
        flags.extend(more.iter().map(|&flag| flag.to_owned()));
        let api_server = spawn("kube-apiserver", flags)?;
        Ok(Self { site, kubeconfig, programs, workers: Vec::new(), api_server, _etcd: etcd })
    }

    /// Waits until the API server is ready.
    ///
    /// # Errors
    /// It ends, or is not ready in time; the text has the last lines of its log.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let answered = eventually("the API server is ready", START, || {
            if let Err(error) = self.api_server.lives() {
                return Some(Err(error));
            }
            // Cheap first: kubectl takes a tenth of a second of a core to begin.
            self.listens().then_some(())?;
            self.kubectl(&["get", "--raw", "/readyz"]).is_ok().then_some(Ok(()))
        });
        let answered = answered
            .with_context(|| format!("start the API server; its last lines:\n{}", self.api_server.tail()));
        answered?
    }

    /// Starts the controllers and the scheduler.
    ///
    /// # Errors
    /// One cannot be started.
    pub fn start_workers(&mut self, run: &Run, certificates: &Certificates) -> Result<()> {
        let url = self.url();
        let worker = |name: &str, user: &str, flags: &[String]| {
            let kubeconfig = certificates.client(name, user, None, &url)?.display().to_string();
            let mut all: Vec<String> =
                ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"]
                    .map(|flag| format!("--{flag}={kubeconfig}"))
                    .into();
            // One of each: nobody to take turns with.
            all.extend(["--leader-elect=false".to_owned(), "--bind-address=127.0.0.1".to_owned()]);
            all.extend_from_slice(flags);
            start(run, &self.programs, &self.site, name, &all)
        };
        let file = |name: &str| certificates.file(name).display().to_string();
        let controllers = [
            format!("--service-account-private-key-file={}", file("service-accounts.key")),
            format!("--root-ca-file={}", file("ca.crt")),
            "--use-service-account-credentials".to_owned(),
            "--allocate-node-cidrs=false".to_owned(),
            // It makes the folder: not on this machine's own disk.
            format!("--flex-volume-plugin-dir={}", run.folder().join("volume-plugins").display()),
        ];
        self.workers = vec![
            worker("kube-controller-manager", "system:kube-controller-manager", &controllers)?,
            worker("kube-scheduler", "system:kube-scheduler", &[])?,
        ];
        Ok(())
    }

    /// Fails if one of its programs has ended.
    ///
    /// # Errors
    /// One has; the text has the last lines of its log.
    pub fn lives(&mut self) -> Result<()> {
        self.workers.iter_mut().try_for_each(Part::lives)?;
        self.api_server.lives()
    }

    /// Has the API server stand still, as if it were away: connections to it stay open, and nobody answers.
    ///
    /// # Errors
    /// It has ended.
    pub fn pause_api_server(&self) -> Result<()> {
        self.signal_api_server(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It has ended.
    pub fn resume_api_server(&self) -> Result<()> {
        self.signal_api_server(Signal::CONT)
    }

    fn signal_api_server(&self, signal: Signal) -> Result<()> {
        let process = i32::try_from(self.api_server.id()).ok().and_then(Pid::from_raw);
        kill_process(process.context("a program has an id")?, signal).context("signal the API server")
    }

    /// Where the API server listens, as in `https://127.0.0.1:6443`.
    pub fn url(&self) -> String {
        format!("https://{}", self.site.address)
    }

    /// Where its store takes objects from clients.
    pub fn store(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.site.store[0]).into()
    }

    /// Its address for nodes and pods.
    pub fn address(&self) -> IpAddr {
        self.site.inside.ip()
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
        let output = self.kubectl_command().args(words).stdin(Stdio::null()).output();
        let output = output.context("start kubectl")?;
        if !output.status.success() {
            bail!("kubectl {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        String::from_utf8(output.stdout).context("read what kubectl printed")
    }

    /// kubectl as somebody who may do everything, for what takes longer than a call.
    pub fn kubectl_command(&self) -> Command {
        let mut kubectl = Command::new(self.programs.part("kubectl"));
        kubectl.env(GARBAGE.0, GARBAGE.1).arg("--kubeconfig").arg(&self.kubeconfig);
        kubectl
    }

    fn listens(&self) -> bool {
        TcpStream::connect_timeout(&self.site.address, Duration::from_secs(1)).is_ok()
    }
}

/// Starts a part of Kubernetes where the control plane is.
fn start(run: &Run, programs: &Programs, site: &Site, name: &str, flags: &[String]) -> Result<Part> {
    let program = programs.part(name);
    let Some(place) = &site.place else {
        let mut command = Command::new(program);
        command.args(flags);
        return Part::start(run, name, command)?.adopted_by(run);
    };
    let mut command = place.command(program)?;
    command.args(flags);
    Part::start(run, name, command)
}

fn etcd_flags(store: &Path, [clients, peers]: [u16; 2]) -> Vec<String> {
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

fn api_server_flags(certificates: &Certificates, site: &Site) -> Vec<String> {
    let file = |name: &str| certificates.file(name).display().to_string();
    // On both where it is reached by both.
    let listen = if site.inside == site.address { site.address.ip() } else { Ipv6Addr::UNSPECIFIED.into() };
    vec![
        format!("--etcd-servers=http://127.0.0.1:{}", site.store[0]),
        format!("--bind-address={listen}"),
        format!("--advertise-address={}", site.inside.ip()),
        format!("--secure-port={}", site.address.port()),
        format!("--tls-cert-file={}", file("api-server.crt")),
        format!("--tls-private-key-file={}", file("api-server.key")),
        format!("--client-ca-file={}", file("ca.crt")),
        format!("--service-account-issuer={ISSUER}"),
        format!("--api-audiences={ISSUER}"),
        format!("--service-account-key-file={}", file("service-accounts.pub")),
        format!("--service-account-signing-key-file={}", file("service-accounts.key")),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        format!("--service-cluster-ip-range={}", site.families.services()),
        "--allow-privileged=true".to_owned(),
        "--profiling=false".to_owned(),
    ]
}

fn light_flags() -> [String; 2] {
    [
        // Its own address is no endpoint for anybody: nothing runs pods.
        "--endpoint-reconciler-type=none".to_owned(),
        // No controller manager makes the accounts that it asks for.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
    ]
}

/// What it takes to speak to kubelets and to pods.
fn full_flags(certificates: &Certificates) -> Result<[String; 5]> {
    certificates.client_pair("kubelet-client", "kube-apiserver-kubelet-client", Some("system:masters"))?;
    let file = |name: &str| certificates.file(name).display().to_string();
    Ok([
        format!("--kubelet-client-certificate={}", file("kubelet-client.crt")),
        format!("--kubelet-client-key={}", file("kubelet-client.key")),
        format!("--kubelet-certificate-authority={}", file("ca.crt")),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        // No kube-proxy where it runs: webhooks and extensions are reached at their endpoints.
        "--enable-aggregator-routing=true".to_owned(),
    ])
}

/// A site on loopback with ports that nobody listened on just now.
///
/// # Errors
/// There are none.
pub fn loopback() -> Result<Site> {
    let [clients, peers, secure] = network::free_ports()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, secure));
    Ok(Site { place: None, address, inside: address, families: Families::Dual, store: [clients, peers] })
}
