//! The agent's side of the controller's stream: snapshots and certificates from there.
//!
//! In: rounds of resources. Out: the same publications as a folder gives, and an authority. What was last told stays in
//! force while no controller can be reached, and is kept on disk for the next start. Never: part of a round in force.

mod asker;
mod asking;
mod asks;
mod authority;
mod connection;
pub mod metrics;
mod problems;
mod roots;
mod saver;
mod state_dir;
mod stream;
mod world;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_common::model::identity::SpiffeIdError;
use mesh_common::model::{MeshSettings, SpiffeId, Text};
use tokio::sync::Notify;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, sleep_until};
use tonic::transport::Channel;
use tracing::{info, warn};

pub use self::asker::{Asker, InUse};
pub use self::authority::ControllerAuthority;
pub use self::state_dir::STATE_FILES;

use self::asking::Asking;
use self::connection::{Dialler, channel};
use self::metrics::{AskMetrics, Metrics};
use self::roots::Roots;
use self::saver::{Saver, Turn};
use self::state_dir::StateDir;
use self::stream::Ended;
use self::world::{InForce, World};
use crate::control::publication::Publication;
use crate::identity::rotation::retry_after;
use crate::identity::{AuthorityError, Clock, ControllerTrust, Identities, IdentityMetrics};
use crate::system::give_memory_back;
use crate::telemetry::chain::Chain;

/// Names of the controller's service account and of the agents', in the root namespace.
const CONTROLLER: &str = "nodemesh-controller";
const AGENT: &str = "nodemesh-agent";
/// Longest wait between two streams.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Resources of a round after which free memory is looked for: those of a node that begins, or that was long away.
const MANY: usize = 1000;

/// How the controller is found, and what is known without it.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// `HOST:PORT`.
    pub address: Text,
    /// PEM, to know the controller by.
    pub roots_file: PathBuf,
    /// The token that proves who this agent is.
    pub token_file: PathBuf,
    /// Where the state is kept.
    pub state_dir: PathBuf,
    /// Name of this node.
    pub node: Text,
    /// Hold until the controller has others.
    pub mesh: MeshSettings,
    /// Asks for what its pods dial, instead of being told everything.
    pub on_demand: Option<AskMetrics>,
}

/// Why there is no stream at all, whoever serves it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The root namespace makes no identities of controller and agent.
    #[error("make the identities of controller and agent of --trust-domain and --root-namespace")]
    Identity(#[source] SpiffeIdError),
    /// The roots cannot be read.
    #[error("read the roots that the controller is known by, --controller-roots")]
    Roots(#[source] AuthorityError),
    /// The client itself failed: ours to mend.
    #[error("take in what the controller says")]
    Failed(#[source] JoinError),
}

/// Keeps what the controller says in force.
pub struct ConfigClient {
    settings: ClientSettings,
    /// For certificates.
    channel: Channel,
    /// For streams, each of which has a connection of its own.
    dialler: Dialler,
    roots: Arc<Roots>,
    own: Own,
    /// Nobody waits for this lock: one task works with it at a time.
    world: Arc<Mutex<World>>,
    saver: Saver,
    publication: Arc<Publication>,
    trust_changed: Arc<Notify>,
    metrics: Metrics,
    asking: Option<Asking>,
    /// What keeps the client from its work now.
    trouble: Trouble,
}

/// Who the agent is to the controller.
struct Own {
    identity: SpiffeId,
    /// Whether the controller did not take the certificate that was shown last: another one may do.
    is_refused: bool,
}

/// What is wrong besides resources.
#[derive(Clone, Debug, Default, PartialEq)]
struct Trouble {
    stream: Option<String>,
    saving: Option<String>,
    roots: Option<String>,
}

impl ConfigClient {
    /// Puts into force what the disk has. Nobody is connected to before [`Self::run`].
    ///
    /// # Errors
    /// If the controller could never be verified.
    pub fn new(
        settings: ClientSettings,
        clock: &Clock,
        (metrics, identity_metrics): (Metrics, IdentityMetrics),
    ) -> Result<Self, ClientError> {
        let MeshSettings { trust_domain, root_namespace, .. } = &settings.mesh;
        let identity =
            |account| SpiffeId::new(trust_domain, root_namespace, account).map_err(ClientError::Identity);
        let (controller, own) = (identity(CONTROLLER)?, identity(AGENT)?);
        let roots = Arc::new(Roots::new(trust_domain.clone(), settings.roots_file.clone()));
        let state_dir = StateDir::new(&settings.state_dir, Arc::clone(&settings.node));
        let mut asking = settings.on_demand.clone().map(Asking::new);
        let mut world = World::new(Arc::clone(&settings.node), settings.mesh.clone(), asking.is_some());
        let publication = Arc::new(Publication::default());
        let saved = restored(&state_dir);
        if let Some(resources) = saved {
            let InForce { snapshot, trust, .. } = world.restore(resources);
            // Of roots that were saved, those that can be used were received before.
            trust.map(|trust| roots.receive(trust)).transpose().ok();
            info!(pods = snapshot.workloads().count(), "state of before restored");
            publication.publish(snapshot);
        }
        if let Some(asking) = &mut asking {
            asking.restore(world.questions());
        }
        let bundle = roots.of_controller().map_err(ClientError::Roots)?;
        let trust = Arc::new(ControllerTrust::new(bundle, controller, clock, identity_metrics));
        metrics.is_stale();
        let address = Arc::clone(&settings.address);
        let (own_certificate, is_refused) = Default::default();
        let dialler = Dialler { address, roots: Arc::clone(&roots), trust, own: own_certificate, is_refused };
        Ok(Self {
            channel: channel(dialler.clone()),
            dialler,
            settings,
            roots,
            own: Own { identity: own, is_refused: false },
            world: Arc::new(Mutex::new(world)),
            saver: Saver::new(state_dir),
            publication,
            trust_changed: Arc::default(),
            metrics,
            asking,
            trouble: Trouble::default(),
        })
    }

    /// Where snapshots and problems are told.
    pub fn publication(&self) -> Arc<Publication> {
        Arc::clone(&self.publication)
    }

    /// Told when the roots changed.
    pub fn trust_changed(&self) -> Arc<Notify> {
        Arc::clone(&self.trust_changed)
    }

    /// How cores ask, if they do.
    pub fn asker(&self) -> Option<Asker> {
        self.asking.as_ref().map(Asking::asker)
    }

    /// The controller as an authority.
    pub fn authority(&self) -> ControllerAuthority {
        ControllerAuthority {
            channel: self.channel.clone(),
            token_file: self.settings.token_file.clone(),
            roots: Arc::clone(&self.roots),
        }
    }

    /// Follows the controller, one stream after another, as the agent that `identities` has a certificate for, which are of
    /// this client's [authority](Self::authority). Returns only if that is not possible any more.
    pub async fn run(mut self, identities: Arc<Identities>) -> ClientError {
        let mut failures = 0_u32;
        loop {
            let (ended, was_current) = match self.stream(&identities).await {
                Ok(ended) => ended,
                Err(source) => return ClientError::Failed(source),
            };
            failures = if was_current { 1 } else { failures.saturating_add(1) };
            let wait = retry_after(failures, None, fastrand::f64()).min(LONGEST_WAIT);
            self.say(&ended, failures, wait);
            if let Err(source) = self.rest(Instant::now() + wait).await {
                return ClientError::Failed(source);
            }
        }
    }

    /// Says why there is no stream: once for each reason, and not of a stream that is only begun anew, as all are now and
    /// then.
    fn say(&mut self, ended: &Ended, failures: u32, wait: Duration) {
        let reason = Chain(ended).to_string();
        let retry_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.metrics.is_stale();
        if let Some(asking) = &mut self.asking {
            asking.is_cut_off();
        }
        let controller = &self.settings.address;
        if failures == 1 {
            info!(%controller, reason, retry_ms, "stream from the controller ended");
            return;
        }
        if self.trouble.stream.as_ref() != Some(&reason) {
            warn!(
                %controller, reason, retry_ms,
                "no stream from the controller; what it said last stays in force"
            );
        }
        self.trouble.stream = Some(reason);
        self.report();
    }

    /// Waits, and writes the state meanwhile if that is due.
    async fn rest(&mut self, until: Instant) -> Result<(), JoinError> {
        loop {
            tokio::select! {
                () = sleep_until(until) => return Ok(()),
                turn = self.saver.turn() => self.save(turn).await?,
                // What is wanted meanwhile waits.
                _ = asking::batch(&mut self.asking, false) => {}
            }
        }
    }

    /// Puts a round into force.
    async fn commit(&mut self) -> Result<(), JoinError> {
        let InForce { snapshot, trust, settled, .. } = self.aside(commit).await?;
        if let Some(asking) = &mut self.asking {
            asking.settle(&settled);
        }
        if let Some(trust) = trust {
            let received = self.roots.receive(trust);
            self.trouble.roots = received.err().map(|error| Chain(&error).to_string());
            self.trust_changed.notify_one();
        }
        let generation = snapshot.generation();
        if self.publication.publish(snapshot) {
            info!(generation, "configuration applied");
            self.saver.changed();
        }
        self.trouble.stream = None;
        self.metrics.is_current(generation, self.world().refused().len());
        self.report();
        Ok(())
    }

    /// Sees to the state on disk.
    async fn save(&mut self, turn: Result<Turn, JoinError>) -> Result<(), JoinError> {
        let written = match turn? {
            Turn::Due => {
                match self.aside(|world| world.saved()).await? {
                    Some(resources) => self.saver.write(resources),
                    // A round is under way.
                    None => self.saver.put_off(),
                }
                return Ok(());
            }
            Turn::Written(written) => written,
        };
        let failed = written.err().map(|error| error.to_string());
        if let Some(error) = &failed {
            self.metrics.save_failed();
            if self.trouble.saving.is_none() {
                let state_dir = self.settings.state_dir.display();
                warn!(%state_dir, error, "the state cannot be written; the one before stays");
            }
        }
        if std::mem::replace(&mut self.trouble.saving, failed.clone()) != failed {
            self.report();
        }
        Ok(())
    }

    fn report(&self) {
        let snapshot = self.publication.snapshots().load_full();
        let problems = problems::problems(&self.settings, self.world().refused(), &snapshot, &self.trouble);
        self.publication.report(problems);
    }

    /// Works on the world on a thread of its own.
    async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut World) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let world = Arc::clone(&self.world);
        spawn_blocking(move || work(&mut lock(&world))).await
    }

    fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }
}

/// A state that cannot be used is as good as none.
fn restored(state_dir: &StateDir) -> Option<Vec<(crate::xds::Key, bytes::Bytes)>> {
    state_dir.restore().unwrap_or_else(|error| {
        warn!(error = %Chain(&error), "no state of before: the controller must say all");
        None
    })
}

/// Puts into force what came. The messages of a large round take as much memory as all that is kept of them.
fn commit(world: &mut World) -> InForce {
    let in_force = world.commit();
    if in_force.came >= MANY {
        give_memory_back();
    }
    in_force
}

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    // Who panicked ended the client.
    world.lock().unwrap_or_else(PoisonError::into_inner)
}
