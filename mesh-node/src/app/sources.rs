//! Where objects and certificates come from: two folders, or a controller. Nothing behind this knows which.

use std::pin::Pin;
use std::sync::Arc;

use mesh_common::model::MeshSettings;

use super::AppError;
use crate::config::{Config, ControllerAccess, FoldersConfig, KeyConfig, SourceConfig};
use crate::config_client::metrics::{AskMetrics, Metrics};
use crate::config_client::{Asker, ClientSettings, ConfigClient};
use crate::control::publication::Publication;
use crate::control::{Control, ControlSettings};
use crate::identity::{
    Authority, AuthoritySettings, CertificateAuthority, Identities, IdentityMetrics, system_clock,
};
use crate::key_sets::{KeySetMetrics, KeySetSettings, KeySets};
use crate::telemetry::registry::Registry;

/// Objects, certificates, and the work of following them, once there are identities that use the certificates.
pub(super) struct Sources {
    pub(super) publication: Arc<Publication>,
    pub(super) authority: Arc<dyn CertificateAuthority>,
    pub(super) following: Following,
    /// Asks the controller, where it does not tell everything.
    pub(super) asker: Option<Asker>,
}

/// Begins to follow; returns only if that is not possible any more.
pub(super) type Following = Box<dyn FnOnce(Arc<Identities>) -> Pin<Box<dyn Future<Output = AppError>>>>;

impl Sources {
    /// Opens what the agent was told. Nothing is followed yet.
    pub(super) fn new(
        config: &Config,
        registry: &Registry,
        metrics: &IdentityMetrics,
    ) -> Result<Self, AppError> {
        match &config.source {
            SourceConfig::Folders(folders) => Self::folders(config, folders, registry),
            SourceConfig::Controller(access) => Self::controller(config, access, registry, metrics),
        }
    }

    fn folders(config: &Config, folders: &FoldersConfig, registry: &Registry) -> Result<Self, AppError> {
        let MeshSettings { root_namespace, trust_domain, cluster_domain, mesh_cidrs } = mesh(config);
        let config_dir = folders.config_dir.clone();
        let settings =
            ControlSettings { config_dir, root_namespace, trust_domain, cluster_domain, mesh_cidrs };
        let mut control = Control::new(settings, registry)?;
        let key_sets = key_sets(config, &mut control, registry)?;
        let settings = AuthoritySettings::new(&folders.trust_dir, &config.identity);
        let authority = Authority::open(settings, &system_clock())?;
        Ok(Self {
            publication: control.publication(),
            authority: Arc::new(authority),
            following: Box::new(|_| Box::pin(follow_folder(control, key_sets))),
            asker: None,
        })
    }

    fn controller(
        config: &Config,
        access: &ControllerAccess,
        registry: &Registry,
        identity_metrics: &IdentityMetrics,
    ) -> Result<Self, AppError> {
        let ControllerAccess { address, roots_file, token_file, state_dir, on_demand, daemon_set: _ } =
            access.clone();
        let on_demand = on_demand.then(|| AskMetrics::new(registry)).transpose()?;
        let (node, mesh) = (Arc::clone(&config.node.name), mesh(config));
        let settings = ClientSettings { address, roots_file, token_file, state_dir, node, mesh, on_demand };
        let metrics = (Metrics::new(registry)?, identity_metrics.clone());
        let client = ConfigClient::new(settings, &system_clock(), metrics)?;
        Ok(Self {
            publication: client.publication(),
            authority: Arc::new(client.authority()),
            asker: client.asker(),
            following: Box::new(|identities| Box::pin(follow(client, identities))),
        })
    }
}

/// Who fetches the keys that the folder's objects want.
fn key_sets(
    config: &Config,
    control: &mut Control,
    registry: &Registry,
) -> Result<Option<KeySets>, AppError> {
    let Some(errands) = control.key_errands() else { return Ok(None) };
    let KeyConfig { refresh, max_age, roots_file } = config.keys.clone();
    let own_ports = vec![config.admin.metrics_address.port(), config.admin.readiness_address.port()];
    let settings = KeySetSettings { refresh, max_age, roots_file, own_ports };
    Ok(Some(KeySets::new(settings, errands, KeySetMetrics::new(registry)?)?))
}

async fn follow_folder(control: Control, key_sets: Option<KeySets>) -> AppError {
    let fetching = async {
        if let Some(key_sets) = key_sets {
            key_sets.run().await;
        }
        // Nobody wants to know any more: the folder's own end says why.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = control.run() => ended.into(),
        () = fetching => unreachable!("it never ends"),
    }
}

async fn follow(client: ConfigClient, identities: Arc<Identities>) -> AppError {
    let changed = client.trust_changed();
    let look_again = async {
        loop {
            changed.notified().await;
            identities.look_again();
        }
    };
    tokio::select! {
        ended = client.run(Arc::clone(&identities)) => ended.into(),
        () = look_again => unreachable!("it never ends"),
    }
}

fn mesh(config: &Config) -> MeshSettings {
    MeshSettings {
        root_namespace: config.node.root_namespace.clone(),
        trust_domain: config.identity.trust_domain.clone(),
        cluster_domain: config.node.cluster_domain.clone(),
        mesh_cidrs: config.node.mesh_cidrs.clone(),
    }
}
