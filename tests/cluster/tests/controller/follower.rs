//! An agent's side of the stream, as an agent has it: what a controller says is in force there.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_common::model::MeshSettings;
use mesh_common::snapshot::Snapshot;
use mesh_node::config_client::metrics::Metrics;
use mesh_node::config_client::{ClientSettings, ConfigClient, ControllerAuthority};
use mesh_node::control::publication::Publication;
use mesh_node::identity::{
    CertificateAuthority as _, CertificateSummary, Identities, IdentityMetrics, Settings, system_clock,
};
use mesh_node::telemetry::registry::Registry;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::agents::PATIENCE;

/// An agent that follows a controller. Ended on drop.
pub struct Follower {
    publication: Arc<Publication>,
    authority: ControllerAuthority,
    identities: Arc<Identities>,
    registry: Registry,
    task: JoinHandle<()>,
    _files: tempfile::TempDir,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Follower {
    /// The agent of a node.
    pub fn start(address: SocketAddr, node: &str, token: &str, roots: &str) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let path = |name: &str| files.path().join(name);
        fs::write(path("token"), token)?;
        fs::write(path("ca.crt"), roots)?;
        let settings = ClientSettings {
            address: address.to_string().into(),
            roots_file: path("ca.crt"),
            token_file: path("token"),
            state_dir: path("state"),
            node: node.into(),
            mesh: MeshSettings::default(),
            on_demand: None,
        };
        let registry = Registry::new();
        let identity_metrics = IdentityMetrics::new(&registry)?;
        let metrics = (Metrics::new(&registry)?, identity_metrics.clone());
        let client = ConfigClient::new(settings, &system_clock(), metrics)?;
        let (publication, authority) = (client.publication(), client.authority());
        let signer = Arc::new(client.authority());
        let identities = Identities::new(signer, Settings::default(), system_clock(), identity_metrics)?;
        let identities = Arc::new(identities);
        let (own, renewing) = (Arc::clone(&identities), Arc::clone(&identities));
        let task = tokio::spawn(async move {
            tokio::select! {
                ended = client.run(own) => panic!("the client ended: {ended}"),
                () = renewing.run() => {}
            }
        });
        Ok(Self { publication, authority, identities, registry, task, _files: files })
    }

    /// The certificates that it has: its own.
    pub fn certificates(&self) -> Vec<CertificateSummary> {
        self.identities.certificates()
    }

    /// Streams that were begun so far.
    pub fn streams(&self) -> Result<u64> {
        let text = self.registry.render()?;
        let line = text.lines().find_map(|line| line.strip_prefix("nodemesh_xds_streams_total "));
        Ok(line.context("streams are counted")?.parse()?)
    }

    /// The roots that it trusts its peers by, DER.
    pub fn roots(&self) -> Result<Vec<Vec<u8>>> {
        Ok(self.authority.bundle()?.roots().iter().map(|root| root.to_vec()).collect())
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.publication.snapshots().load_full()
    }

    /// Waits until something is in force; says how long that took.
    pub async fn until(&self, what: &str, is: impl Fn(&Snapshot) -> bool) -> Result<Duration> {
        let (begun, mut generation) = (Instant::now(), self.publication.generation());
        let wait = async {
            while !is(&self.snapshot()) {
                generation.changed().await.context("the client ended")?;
            }
            Ok::<_, anyhow::Error>(begun.elapsed())
        };
        timeout(PATIENCE, wait).await.with_context(|| format!("wait until {what}"))?
    }

    /// Looks at all that comes into force in a while: something holds all the time.
    pub async fn holds(&self, what: &str, until: Instant, is: impl Fn(&Snapshot) -> bool) -> Result<()> {
        let mut generation = self.publication.generation();
        loop {
            ensure!(is(&self.snapshot()), "not so any more: {what}");
            tokio::select! {
                changed = generation.changed() => changed.context("the client ended")?,
                () = sleep_until(until) => return Ok(()),
            }
        }
    }
}
