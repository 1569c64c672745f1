//! The composition root: builds the parts, passes handles, supervises tasks.
//!
//! In: a [`Config`]. Out: an agent that carries traffic until it is told to stop. Order matters only here: the
//! kernel's side first, because from then on enrolled pods are refused rather than let out; identities before pods;
//! pods before readiness.

mod agent;
mod cni;
mod cores;
mod departure;
mod drain;
mod footprint;
mod hold;
mod keeper;
mod not_captured;
mod pods;
mod proof;
mod sources;
mod uninstall;

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use mesh_common::http1;
use mesh_common::tunnel::Limits;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tracing::info;

pub use self::cni::{Call, cni, is_plugin};
pub use self::hold::hold;
pub use self::uninstall::uninstall;

use self::agent::{AgentState, Standing};
use self::cores::Cores;
use self::departure::Departure;
use self::drain::drain;
use self::keeper::Keeper;
use self::pods::Pods;
use self::sources::{Following, Sources};
use self::uninstall::UninstallError;
use crate::admin::{AdminSocket, SocketError, serve_metrics, serve_readiness, serve_socket};
use crate::args::UnknownPods;
use crate::capture::{self, CaptureMetrics, ControllerLogs};
use crate::config::{Config, HttpConfig, TunnelConfig};
use crate::config_client::{Asker, ClientError};
use crate::control::ControlError;
use crate::control::publication::Publication;
use crate::controller::CONTROLLER;
use crate::identity::{AuthorityError, Identities, IdentityMetrics, Settings as PeerSettings, system_clock};
use crate::kernel::{self, Kernel, KernelConfig, KernelError, KernelReport, RefusedSockets};
use crate::key_sets::KeySetsError;
use crate::proxy::limits::Places;
use crate::proxy::{Learned, Origin, ProxyMetrics, Shared};
use crate::system::{ListenError, Stop, SystemError, listen, system};
use crate::telemetry::access_log::{AccessLog, AccessLogWriter};
use crate::telemetry::logging::{self, LogFilter, LoggingError};
use crate::telemetry::registry::Registry;
use crate::telemetry::traffic::TrafficMetrics;
use crate::transport::http1::HttpSettings;
use crate::transport::tunnel::{self, Settings};
use crate::transport::{handshakes, http2};

/// Questions of the command line that wait for the task that keeps the pods.
const QUESTIONS: usize = 8;

/// Why the agent does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// No log.
    #[error("start the log")]
    Logging(#[from] LoggingError),
    /// A metric's name is taken or breaks the rule: ours to mend.
    #[error("register the metrics")]
    Metrics(#[from] prometheus::Error),
    /// The kernel's side.
    #[error("prepare the kernel's side")]
    Kernel(#[from] KernelError),
    /// The certificate authority.
    #[error("open the certificate authority")]
    Authority(#[from] AuthorityError),
    /// The objects.
    #[error("read the objects")]
    Control(#[from] ControlError),
    /// The keys of issuers.
    #[error("fetch the keys of issuers")]
    KeySets(#[from] KeySetsError),
    /// The controller's stream.
    #[error("follow the controller")]
    Client(#[from] ClientError),
    /// The Unix socket of the command line.
    #[error("open the admin socket")]
    AdminSocket(#[from] SocketError),
    /// An address of `--metrics-address` or `--readiness-address`.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// What the agent leaves, where no agent comes after it.
    #[error("leave nothing")]
    Uninstall(#[from] UninstallError),
    /// A thread, a runtime or a signal handler.
    #[error(transparent)]
    System(#[from] SystemError),
}

/// Runs the agent until SIGTERM or SIGINT, then drains. Where no agent comes after it, it leaves nothing.
///
/// # Errors
/// Something it needs is not there; nothing is left half done that a second start would trip over.
pub fn run(config: &Config) -> Result<(), AppError> {
    let filter = logging::install(&config.log.filter, config.log.format)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(system("make the control runtime"))?;
    let departure = Departure::new(config);
    LocalSet::new().block_on(&runtime, agent(config, filter, departure.clone()))?;
    match departure {
        Some(departure) => Ok(runtime.block_on(departure.depart())?),
        None => Ok(()),
    }
}

async fn agent(config: &Config, filter: LogFilter, departure: Option<Rc<Departure>>) -> Result<(), AppError> {
    // From here on it ends in good order.
    let stop = Stop::new()?;
    departure.map(|departure| tokio::task::spawn_local(departure.look()));
    info!(version = env!("CARGO_PKG_VERSION"), node = %config.node.name, "starting");
    // First what may be taken by another: nothing is touched if it is.
    kernel::unused(&config.capture.pin_dir).map_err(KernelError::from)?;
    let listeners = Listeners::open(config).await?;
    let registry = Registry::new();
    let Parts { kernel, report, identities, shared, publication, following, writer: _writer } =
        Parts::build(config, &registry)?;
    let cores = cores(config, &registry, &shared)?;
    let standing = Arc::new(Standing::new(CaptureMetrics::new(&registry)?));
    let changed = publication.generation();
    if shared.asker.is_some() {
        tokio::task::spawn_local(cores::look_at_held(cores.handles(), publication.generation()));
    }
    let (asked, questions) = mpsc::channel(QUESTIONS);
    let state =
        AgentState::new(config, &report, &shared, registry, filter, publication, &cores, &standing, asked);
    listeners.serve(&Arc::new(state));
    let captured = capture::Pods::new(kernel, config.capture.cgroup_root.clone(), controller_logs(config));
    let pods =
        Pods::new(captured, Arc::clone(&identities), Arc::clone(&shared), cores, config.node.name.clone());
    let mut following = tokio::task::spawn_local(following(Arc::clone(&identities)));
    tokio::task::spawn_local(async move { identities.run().await });
    let holds_untold = config.capture.unknown_pods == UnknownPods::Refuse;
    let cgroup_root = config.capture.cgroup_root.clone();
    let keeper = Keeper::new(pods, shared, Arc::clone(&standing), cgroup_root, holds_untold);
    let keeper = keeper.map_err(system("watch the pins of the programs"))?;
    let pods = tokio::select! {
        pods = keeper.run(stop, changed, questions) => pods?,
        ended = &mut following => {
            return Err(ended.unwrap_or_else(|error| system("follow the objects")(error.into()).into()));
        }
    };
    standing.is_draining();
    drain(pods, config.limits.drain_timeout).await;
    Ok(())
}

/// What an agent has before anything runs.
struct Parts {
    kernel: Kernel,
    report: KernelReport,
    identities: Arc<Identities>,
    shared: Arc<Shared>,
    publication: Arc<Publication>,
    following: Following,
    /// Ends with the agent.
    writer: Option<AccessLogWriter>,
}

impl Parts {
    fn build(config: &Config, registry: &Registry) -> Result<Self, AppError> {
        let identity_metrics = IdentityMetrics::new(registry)?;
        let Sources { publication, authority, following, asker } =
            Sources::new(config, registry, &identity_metrics)?;
        let report = KernelReport::probe();
        info!(%report, "kernel");
        let kernel = Kernel::load(&kernel_config(config))?;
        let verdicts = kernel.verdict_reader();
        kernel::register_metrics(registry, move || verdicts.counts())?;
        let identities =
            Identities::new(authority, PeerSettings::default(), system_clock(), identity_metrics)?;
        let identities = Arc::new(identities);
        let (access_log, writer) = access_log(config, registry)?;
        let shared = shared(config, registry, (&publication, &kernel, &identities), (access_log, asker))?;
        Ok(Self { kernel, report, identities, shared, publication, following, writer })
    }
}

/// What the cores and the control task share.
fn shared(
    config: &Config,
    registry: &Registry,
    (publication, kernel, identities): (&Publication, &Kernel, &Arc<Identities>),
    (access_log, asker): (AccessLog, Option<Asker>),
) -> Result<Arc<Shared>, AppError> {
    Ok(Arc::new(Shared {
        snapshots: publication.snapshots(),
        identities: Arc::clone(identities),
        places: Places::new(&config.limits),
        abuse_penalty: config.limits.abuse_penalty,
        traffic: TrafficMetrics::new(config.node.workers, config.admin.max_series),
        access_log,
        original_dsts: kernel.original_dsts(),
        callers: kernel.callers(),
        metrics: ProxyMetrics::new(registry)?,
        learned: Learned::default(),
        origin: Origin::new(&config.node.name, config.node.workers),
        asker,
    }))
}

/// The threads that carry traffic.
fn cores(config: &Config, registry: &Registry, shared: &Arc<Shared>) -> Result<Cores, AppError> {
    let engine = engine_settings(&config.tunnel, &config.http);
    let http2 = http2::Settings::new(&config.http, &config.tunnel);
    let cores = Cores::start(config.node.workers, shared, engine, &http2, handshake_limits(&config.tunnel));
    let cores = cores.map_err(system("start the threads that carry traffic"))?;
    tunnel::register_metrics(registry, cores.counters())?;
    Ok(cores)
}

/// What admin listens on.
struct Listeners {
    metrics: TcpListener,
    readiness: TcpListener,
    socket: AdminSocket,
}

impl Listeners {
    async fn open(config: &Config) -> Result<Self, AppError> {
        // First what can tell that it is another agent who has it.
        let socket = AdminSocket::listen(&config.admin.socket)?;
        Ok(Self {
            metrics: listen("--metrics-address", config.admin.metrics_address).await?,
            readiness: listen("--readiness-address", config.admin.readiness_address).await?,
            socket,
        })
    }

    fn serve(self, agent: &Arc<AgentState>) {
        tokio::task::spawn_local(serve_metrics(self.metrics, Arc::clone(agent)));
        tokio::task::spawn_local(serve_readiness(self.readiness, Arc::clone(agent)));
        tokio::task::spawn_local(serve_socket(self.socket, Arc::clone(agent)));
    }
}

fn access_log(
    config: &Config,
    registry: &Registry,
) -> Result<(AccessLog, Option<AccessLogWriter>), AppError> {
    if !config.log.access_log {
        return Ok((AccessLog::off(registry)?, None));
    }
    let (log, writer) = AccessLog::start(registry, config.log.format, Box::new(io::stdout()))?;
    Ok((log, Some(writer)))
}

fn kernel_config(config: &Config) -> KernelConfig {
    KernelConfig {
        cgroup_root: config.capture.cgroup_root.clone(),
        agent_cgroup: config.capture.agent_cgroup.clone(),
        pin_dir: config.capture.pin_dir.clone(),
        unknown_pods_pass: config.capture.unknown_pods == UnknownPods::Pass,
        refused_sockets: RefusedSockets { raw: false, transports: true },
    }
}

fn controller_logs(config: &Config) -> ControllerLogs {
    ControllerLogs {
        folder: config.capture.pod_logs.clone(),
        namespace: config.node.root_namespace.to_string(),
        workload: CONTROLLER.to_owned(),
    }
}

fn engine_settings(tunnel: &TunnelConfig, http: &HttpConfig) -> Settings {
    Settings {
        tunnel_max_age: tunnel.max_age,
        tunnel_idle_timeout: tunnel.idle_timeout,
        tunnels_per_destination: tunnel.per_destination as usize,
        tunnel: Limits { streams: tunnel.max_streams, window: tunnel.stream_window, ..Limits::default() },
        connect_timeout: tunnel.connect_timeout,
        handshake_timeout: tunnel.handshake_timeout,
        detect_timeout: tunnel.detect_timeout,
        idle_timeout: tunnel.tcp_idle_timeout,
        http: HttpSettings {
            limits: http1::Limits {
                start_line: http.max_request_line,
                head: http.max_header_bytes,
                fields: http.max_headers,
                ..http1::Limits::default()
            },
            header_timeout: http.header_timeout,
            request_timeout: http.request_timeout,
            body_rate: http.min_body_rate,
            response_rate: http.min_response_rate,
            idle_timeout: http.idle_timeout,
            ..HttpSettings::default()
        },
        ..Settings::default()
    }
}

fn handshake_limits(tunnel: &TunnelConfig) -> handshakes::Limits {
    handshakes::Limits {
        total: tunnel.max_pending_handshakes as usize,
        per_source: tunnel.max_pending_handshakes_per_source as usize,
    }
}
