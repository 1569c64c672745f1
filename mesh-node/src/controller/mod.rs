//! The controller of a mesh: what runs once for all nodes, beside the API server.
//!
//! In: the objects of a Kubernetes API server, and the calls of agents. Out: what each agent is to know, certificates
//! for the pods of its node, and what a person should know, in the objects' status. [`world`] knows what there is;
//! [`tokens`] knows who calls, and `certificates` signs; [`authority_secret`] keeps the key; who holds the [`lease`]
//! writes `status`, and the roots for programs outside the mesh. Never: a look at traffic.

pub mod agents;
pub mod audit;
pub mod authority_secret;
mod backoff;
mod certificates;
pub mod client;
mod cluster_roots;
pub mod daemon_set;
mod definitions;
pub mod discovery;
mod doubts;
mod found;
mod in_force;
mod inventory;
pub mod lease;
mod metrics;
pub mod preflight;
mod probes;
mod programmed;
mod rates;
mod roots_ledger;
mod roots_writer;
pub mod rotate;
mod rotation;
mod rotator;
mod route_status;
mod seen;
mod selection;
mod server;
mod signing_requests;
mod status;
mod swap;
pub mod tokens;
pub mod trust_record;
pub mod versions;
mod watch;
pub mod world;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use mesh_common::model::SpiffeId;
use mesh_common::model::identity::SpiffeIdError;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;
use tracing::{error, info};

use self::audit::Audit;
use self::authority_secret::AuthoritySecret;
use self::backoff::Backoff;
use self::certificates::{Certificates, Flood, Shares};
use self::client::ClientError;
use self::discovery::{Discovery, DiscoverySettings};
use self::in_force::{Noter, Reader};
use self::lease::{Candidate, Leadership};
use self::metrics::Metrics;
use self::roots_writer::RootsWriter;
use self::rotator::Rotator;
use self::route_status::RouteWriter;
use self::server::Services;
use self::signing_requests::RequestedAuthority;
use self::status::Writer;
use self::tokens::{AGENT, Tokens};
use self::trust_record::TrustRecord;
use self::world::{Known, World};
use crate::config::{ControllerConfig, KeyConfig};
use crate::control::key_ring::{KeyErrands, key_orders};
use crate::identity::{
    AuthorityError, CertificateAuthority, Clock, HeldAuthority, Identities, IdentityMetrics, Settings,
    system_clock,
};
use crate::key_sets::{KeySetMetrics, KeySetSettings, KeySets, KeySetsError};
use crate::system::{ListenError, Stop, SystemError, listen, system};
use crate::telemetry::chain::Chain;
use crate::telemetry::logging::{self, LoggingError};
use crate::telemetry::registry::Registry;

/// The controller's own service account, in the root namespace.
pub const CONTROLLER: &str = "nodemesh-controller";
/// Who wrote a field, for server-side apply.
const FIELD_MANAGER: &str = "nodemesh-controller";
/// Threads: what agents ask must not wait for a large list.
const THREADS: usize = 2;

/// Why the controller does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// No log.
    #[error("start the log")]
    Logging(#[from] LoggingError),
    /// A metric's name is taken or breaks the rule: ours to mend.
    #[error("register the metrics")]
    Metrics(#[from] prometheus::Error),
    /// Nobody knows how to reach the API server.
    #[error("reach the API server: run it as a pod with a service account, or give --kubeconfig")]
    Client(#[from] ClientError),
    /// The root namespace can be part of no identity.
    #[error("make the identities of controller and agents: --root-namespace must be a namespace")]
    Identity(#[from] SpiffeIdError),
    /// The authority's roots.
    #[error("use the certificate authority")]
    Authority(#[from] AuthorityError),
    /// The keys of issuers.
    #[error("fetch the keys of issuers")]
    KeySets(#[from] KeySetsError),
    /// An address of a flag.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A thread, a runtime or a signal handler.
    #[error(transparent)]
    System(#[from] SystemError),
    /// A part of it panicked: ours to mend.
    #[error("a part of the controller failed")]
    Failed(#[source] JoinError),
    /// A part of it ended: ours to mend.
    #[error("a part of the controller ended by itself")]
    Ended,
}

/// Registers what the controller counts.
///
/// # Errors
/// If it is registered already.
pub fn register_metrics(registry: &Registry) -> Result<(), prometheus::Error> {
    Metrics::new(registry).map(drop)
}

/// Runs the controller until SIGTERM or SIGINT.
///
/// # Errors
/// Something it needs is not there.
pub fn run(config: ControllerConfig) -> Result<(), ControllerError> {
    logging::install(&config.log_filter, config.log_format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    runtime.map_err(system("make the runtime"))?.block_on(async {
        info!(version = env!("CARGO_PKG_VERSION"), pod = %config.pod_name, "starting");
        let mut stop = Stop::new()?;
        let controller = Controller::open(config, Box::new(io::stdout())).await?;
        tokio::select! {
            error = controller.run() => Err(error),
            () = stop.told() => {
                info!("stopping");
                Ok(())
            }
        }
    })
}

/// A controller that listens, and knows nothing yet.
pub struct Controller {
    config: ControllerConfig,
    client: Client,
    registry: Registry,
    metrics: Metrics,
    audit: Audit,
    world: World,
    key_sets: KeySets,
    discovery: Arc<Discovery>,
    agents: TcpListener,
    scrapes: TcpListener,
    probes: TcpListener,
}

impl Controller {
    /// Takes what it needs; audit records go to `audit`.
    ///
    /// # Errors
    /// Something of that is not there.
    pub async fn open(
        config: ControllerConfig,
        audit: Box<dyn Write + Send>,
    ) -> Result<Self, ControllerError> {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry)?;
        let client = client::client(config.kubeconfig.as_deref()).await?;
        let discovery = Arc::new(Discovery::new(DiscoverySettings::default()));
        let mesh = Arc::new(config.mesh.clone());
        let (orders, errands) = key_orders();
        let key_sets = key_sets(&config, errands, &registry)?;
        let publish = Arc::clone(&discovery) as _;
        let world = World::new(client.clone(), mesh, publish, orders, metrics.clone());
        Ok(Self {
            agents: listen("--listen", config.listen).await?,
            scrapes: listen("--metrics-address", config.metrics_address).await?,
            probes: listen("--readiness-address", config.readiness_address).await?,
            audit: Audit::start(audit).map_err(system("start the audit log"))?,
            config,
            client,
            registry,
            metrics,
            world,
            key_sets,
            discovery,
        })
    }

    /// Where agents call.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.agents.local_addr()
    }

    /// What is known of the cluster, as it comes to be known.
    pub fn known(&self) -> Arc<Known> {
        self.world.known()
    }

    /// Works until it is dropped, or something fails.
    pub async fn run(self) -> ControllerError {
        let known = self.world.known();
        let serves = Arc::new(AtomicBool::new(false));
        let probes = probes::serve_probes(self.probes, Arc::clone(&known), Arc::clone(&serves));
        let scrapes = probes::serve_metrics(self.scrapes, self.registry.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(self.world.run());
        tasks.spawn(self.key_sets.run());
        let serving = async {
            let parts = Parts {
                config: self.config,
                client: self.client,
                known,
                metrics: self.metrics,
                audit: self.audit,
                discovery: self.discovery,
            };
            match parts.services(&self.registry, &mut tasks).await {
                Ok(services) => tasks.spawn(server::serve(self.agents, services)),
                Err(error) => return error,
            };
            serves.store(true, Ordering::Release);
            match tasks.join_next().await {
                Some(Err(error)) => ControllerError::Failed(error),
                Some(Ok(())) | None => ControllerError::Ended,
            }
        };
        tokio::select! {
            error = serving => error,
            () = probes => ControllerError::Ended,
            () = scrapes => ControllerError::Ended,
        }
    }
}

/// Who fetches the keys of issuers. Every replica does: the one that an agent is connected to must know them, and none has
/// to learn them from another that may be gone.
fn key_sets(
    config: &ControllerConfig,
    errands: KeyErrands,
    registry: &Registry,
) -> Result<KeySets, ControllerError> {
    let KeyConfig { refresh, max_age, roots_file } = config.keys.clone();
    let own = [config.listen, config.metrics_address, config.readiness_address];
    let own_ports = own.iter().map(SocketAddr::port).collect();
    let settings = KeySetSettings { refresh, max_age, roots_file, own_ports };
    Ok(KeySets::new(settings, errands, KeySetMetrics::new(registry)?)?)
}

/// What the services are made of.
struct Parts {
    config: ControllerConfig,
    client: Client,
    known: Arc<Known>,
    metrics: Metrics,
    audit: Audit,
    discovery: Arc<Discovery>,
}

impl Parts {
    /// Obtains the authority, and makes the services that stand on it.
    async fn services(
        self,
        registry: &Registry,
        tasks: &mut JoinSet<()>,
    ) -> Result<Services, ControllerError> {
        let clock = system_clock();
        let mesh = &self.config.mesh;
        let own = |account| SpiffeId::new(&mesh.trust_domain, &mesh.root_namespace, account);
        let (local, agent) = (own(CONTROLLER)?, own(AGENT)?);
        let roots_changed = Arc::new(Notify::new());
        let secret = self.secret(&clock, &roots_changed);
        let held = Arc::new(secret.obtain().await);
        let leadership = self.write_status(tasks, agent.clone());
        tasks.spawn(self.roots_writer(leadership.clone(), Arc::clone(&held)).run());
        let rotator = self.rotator(leadership, agent.clone());
        tasks.spawn(secret.follow(Arc::clone(&held), rotator));
        let authority = self.authority(held, &local);
        let identities = identities(Arc::clone(&authority), &local, &clock, registry).await?;
        tasks.spawn(keep_current(Arc::clone(&identities), roots_changed));
        let Self { config, client, known, metrics, audit, discovery } = self;
        let tokens = Arc::new(Tokens::new(client, Arc::clone(&known), agent));
        let (trust_domain, flood) = (config.mesh.trust_domain, Flood::default().into());
        let shares = Shares::default();
        let counts = metrics.clone();
        let certificates =
            Certificates { authority, known, trust_domain, clock, audit, metrics, flood, shares };
        let (certificates, said) = (Arc::new(certificates), Arc::default());
        Ok(Services { identities, local, tokens, certificates, discovery, metrics: counts, said })
    }

    /// Who signs.
    fn authority(&self, held: Arc<HeldAuthority>, own: &SpiffeId) -> Arc<dyn CertificateAuthority> {
        let Some(signer_name) = self.config.signer_name.clone() else { return held };
        let (client, lifetime) = (self.client.clone(), self.config.certificate_lifetime);
        Arc::new(RequestedAuthority::new(client, signer_name, lifetime, held, own.clone()))
    }

    fn secret(&self, clock: &Clock, roots_changed: &Arc<Notify>) -> AuthoritySecret {
        AuthoritySecret {
            client: self.client.clone(),
            namespace: self.config.mesh.root_namespace.to_string(),
            trust_domain: self.config.mesh.trust_domain.clone(),
            lifetime: self.config.certificate_lifetime,
            clock: clock.clone(),
            signs: self.config.signer_name.is_none(),
            discovery: Arc::clone(&self.discovery),
            roots_changed: Arc::clone(roots_changed),
            recorder: self.recorder(),
        }
    }

    /// Who leaves Events.
    fn recorder(&self) -> Recorder {
        let (controller, instance) = (FIELD_MANAGER.to_owned(), Some(self.config.pod_name.to_string()));
        Recorder::new(self.client.clone(), Reporter { controller, instance })
    }

    fn rotator(&self, leadership: Leadership, agent: SpiffeId) -> Rotator {
        let (client, me) = (self.client.clone(), self.config.pod_name.to_string());
        let record = TrustRecord::new(client, &self.config.mesh.root_namespace, me);
        Rotator { leadership, known: Arc::clone(&self.known), record, agent, said: None }
    }

    /// Who puts the roots where programs outside the mesh find them.
    fn roots_writer(&self, leadership: Leadership, authority: Arc<HeldAuthority>) -> RootsWriter {
        let (client, metrics) = (self.client.clone(), self.metrics.clone());
        let root_namespace = self.config.mesh.root_namespace.to_string();
        RootsWriter { client, root_namespace, authority, leadership, metrics }
    }

    /// Begins to write status, whenever it is this replica's turn, and to note what it takes; returns what tells of that.
    fn write_status(&self, tasks: &mut JoinSet<()>, agent: SpiffeId) -> Leadership {
        let (namespace, me) = (&self.config.mesh.root_namespace, self.config.pod_name.to_string());
        let candidate = Candidate::new(self.client.clone(), namespace, me.clone());
        let (client, known, discovery) = (&self.client, &self.known, &self.discovery);
        let noter = Noter {
            client: client.clone(),
            namespace: namespace.to_string(),
            me: me.clone(),
            known: Arc::clone(known),
            discovery: Arc::clone(discovery),
        };
        let writer = Writer {
            client: client.clone(),
            known: Arc::clone(known),
            leadership: candidate.leadership(),
            reader: Reader::new(client.clone(), namespace, &me, Arc::clone(known), Arc::clone(discovery)),
            instance: me,
            agent,
        };
        tasks.spawn(noter.run());
        let leadership = candidate.leadership();
        let (client, known) = (self.client.clone(), Arc::clone(&self.known));
        let routes = RouteWriter { client, known, leadership: candidate.leadership() };
        tasks.spawn(candidate.run());
        tasks.spawn(writer.run());
        tasks.spawn(routes.run());
        leadership
    }
}

/// Renews the controller's certificate, and has the roots that agents are told count for their certificates at once.
async fn keep_current(identities: Arc<Identities>, roots_changed: Arc<Notify>) {
    let look_again = async {
        loop {
            roots_changed.notified().await;
            identities.look_again();
        }
    };
    tokio::select! {
        () = identities.run() => {}
        () = look_again => {}
    }
}

/// The controller's own identity, with a certificate, however long that takes: without it nobody can ask.
async fn identities(
    authority: Arc<dyn CertificateAuthority>,
    local: &SpiffeId,
    clock: &Clock,
    registry: &Registry,
) -> Result<Arc<Identities>, ControllerError> {
    let metrics = IdentityMetrics::new(registry)?;
    let identities = Identities::new(authority, Settings::default(), clock.clone(), metrics)?;
    let mut backoff = Backoff::default();
    while let Err(error) = identities.ensure(local).await {
        let wait = backoff.next();
        error!(error = %Chain(&error), again_in = ?wait, "no certificate for the controller itself");
        // The back-off: a signer that is away is not asked at once.
        sleep(wait).await;
    }
    Ok(Arc::new(identities))
}

/// Labels of what the controller makes.
fn part_of() -> BTreeMap<String, String> {
    BTreeMap::from([("app.kubernetes.io/part-of".to_owned(), "nodemesh".to_owned())])
}
