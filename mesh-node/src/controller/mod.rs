//! The controller of a mesh: what runs once for all nodes, beside the API server.
//!
//! In: the objects of a Kubernetes API server, and the calls of agents. Out: what each agent is to know, certificates
//! for the pods of its node, and what a person should know, in the objects' status. [`world`] knows what there is.
//! Never: a look at traffic.

pub mod agents;
mod backoff;
pub mod client;
pub mod discovery;
mod doubts;
mod inventory;
mod metrics;
mod probes;
mod seen;
mod watch;
pub mod world;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use kube::Client;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use self::client::ClientError;
use self::metrics::Metrics;
use self::world::{Publish, World};
use crate::config::ControllerConfig;
use crate::telemetry::logging::{self, LoggingError};
use crate::telemetry::registry::Registry;

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
    /// An address of a flag.
    #[error("listen on {address}, told by {flag}")]
    Listen {
        /// The flag.
        flag: &'static str,
        /// Its value.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A thread, a runtime or a signal handler.
    #[error("{operation}")]
    System {
        /// What was done.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A part of it failed: ours to mend.
    #[error("{part} ended by itself")]
    Ended {
        /// Which one.
        part: &'static str,
    },
}

/// Registers what the controller counts.
///
/// # Errors
/// If it is registered already.
pub fn register_metrics(registry: &Registry) -> Result<(), prometheus::Error> {
    Metrics::new(registry).map(drop)
}

/// Begins to know what an API server has; [`World::run`] does it.
///
/// # Errors
/// If the metrics are registered already.
pub fn world(
    client: Client,
    config: &ControllerConfig,
    publish: Vec<Arc<dyn Publish>>,
    registry: &Registry,
) -> Result<World, prometheus::Error> {
    Ok(World::new(client, Arc::new(config.mesh.clone()), publish, Metrics::new(registry)?))
}

/// Runs the controller until SIGTERM or SIGINT.
///
/// # Errors
/// Something it needs is not there.
pub fn run(config: ControllerConfig) -> Result<(), ControllerError> {
    logging::install(&config.log_filter, config.log_format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    runtime.map_err(system("make the runtime"))?.block_on(controller(config))
}

async fn controller(config: ControllerConfig) -> Result<(), ControllerError> {
    info!(version = env!("CARGO_PKG_VERSION"), pod = %config.pod_name, "starting");
    let metrics = listen("--metrics-address", config.metrics_address).await?;
    let probes = listen("--readiness-address", config.readiness_address).await?;
    let registry = Registry::new();
    let client = client::client(config.kubeconfig.as_deref()).await?;
    let world = world(client, &config, Vec::new(), &registry)?;
    let known = world.known();
    let world = tokio::spawn(world.run());
    tokio::select! {
        _ = world => Err(ControllerError::Ended { part: "the watch of the API server" }),
        () = probes::serve_metrics(metrics, registry) => Err(ControllerError::Ended { part: "serving metrics" }),
        () = probes::serve_probes(probes, known) => Err(ControllerError::Ended { part: "serving probes" }),
        stopped = stopped() => stopped,
    }
}

async fn listen(flag: &'static str, address: SocketAddr) -> Result<TcpListener, ControllerError> {
    TcpListener::bind(address).await.map_err(|source| ControllerError::Listen { flag, address, source })
}

/// Returns when the process is told to stop.
async fn stopped() -> Result<(), ControllerError> {
    let told = |kind| signal(kind).map_err(system("handle signals"));
    let (mut terminate, mut interrupt) = (told(SignalKind::terminate())?, told(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    info!("stopping");
    Ok(())
}

fn system(operation: &'static str) -> impl FnOnce(io::Error) -> ControllerError {
    move |source| ControllerError::System { operation, source }
}
