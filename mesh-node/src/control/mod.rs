//! The reconciler: Kubernetes objects in, deltas and snapshots out.
//!
//! [`Control`] watches a folder of YAML: [`watch_dir`] reads files, [`documents`] makes objects of them by
//! [`translate`], [`store`] says which of them count, [`enroller`] what their changes come to, and [`reconciler`]
//! makes tables of that. One task does it all, one batch after the other, except that it lets a large one be read
//! beside it, and publishes an immutable snapshot after each; everybody else reads. A controller uses [`translate`]
//! and [`enroller`] on what the API server says. Keys that issuers publish are ordered by [`key_ring`], and fetched by
//! somebody else. Never: a look at traffic, or at the kernel.

pub(crate) mod advice;
pub mod attachment;
mod desk;
pub mod documents;
pub mod enroller;
pub mod generate;
mod grace;
pub mod key_ring;
pub mod metrics;
pub mod object;
pub(crate) mod policy_advice;
mod policy_status;
pub mod publication;
pub mod reconciler;
pub mod resources;
mod rivals;
pub mod served;
pub mod store;
mod token_resources;
pub mod translate;
mod unserved;
pub mod watch_dir;

#[cfg(test)]
mod desk_tests;
#[cfg(test)]
mod problem_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use mesh_common::model::{MeshSettings, Text, TrustDomain};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::sleep_until;
use tracing::{debug, info, warn};

use self::desk::{Applied, Batch, Desk, Job};
use self::key_ring::{KeyErrands, KeyNews, KeyOrders, key_orders};
use self::metrics::Metrics;
use self::publication::{BeingRead, Publication};
use self::watch_dir::{FolderWatch, Reading};
use crate::telemetry::registry::Registry;

/// Most problems that are listed one by one, each with its line.
pub const MAX_LISTED: usize = 1000;

/// Where the objects come from, and what holds for the whole mesh.
#[derive(Clone, Debug)]
pub struct ControlSettings {
    /// Folder of Kubernetes YAML.
    pub config_dir: PathBuf,
    /// Namespace whose policies are about the whole mesh.
    pub root_namespace: Text,
    /// Trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// As in `NAME.NAMESPACE.svc.DOMAIN`.
    pub cluster_domain: Text,
    /// Ranges of pods and cluster IPs besides those of Nodes.
    pub mesh_cidrs: Vec<IpNet>,
}

/// Why there is no reconciler.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The folder is not there, or cannot be read.
    #[error("read the folder of --config-dir, {folder}")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The metrics could not be registered.
    #[error("register the metrics of the reconciler")]
    Metrics(#[source] prometheus::Error),
    /// The reconciler itself failed: ours to mend.
    #[error("take in what the files of the folder say")]
    Failed(#[source] JoinError),
}

/// Turns a folder of objects into snapshots.
#[derive(Debug)]
pub struct Control {
    folder: FolderWatch,
    desk: Desk,
    out: Published,
    orders: KeyOrders,
    errands: Option<KeyErrands>,
}

/// Where it is told what the folder says.
#[derive(Debug)]
struct Published {
    folder_name: Text,
    metrics: Metrics,
    publication: Arc<Publication>,
}

/// A large batch that is read on a thread of its own, and since when.
type Reader = (Instant, JoinHandle<Batch>);

/// What there is to work on.
enum News {
    /// Files changed; none, if something else is due.
    Changed(Vec<Reading>),
    /// A large batch was read.
    Read(Instant, Batch),
    /// Keys were fetched, or were not.
    Keys(Vec<KeyNews>),
}

/// What comes in.
struct In {
    folder: FolderWatch,
    orders: KeyOrders,
    reader: Option<Reader>,
}

impl Control {
    /// Begins to watch a folder. Nothing is read before [`Control::run`].
    ///
    /// # Errors
    /// If the folder cannot be read, or the metrics are registered already.
    pub fn new(settings: ControlSettings, registry: &Registry) -> Result<Self, ControlError> {
        let ControlSettings { config_dir, root_namespace, trust_domain, cluster_domain, mesh_cidrs } =
            settings;
        let mesh = Arc::new(MeshSettings { root_namespace, trust_domain, cluster_domain, mesh_cidrs });
        let folder = FolderWatch::new(&config_dir)
            .map_err(|source| ControlError::Folder { folder: config_dir.clone(), source })?;
        let (orders, errands) = key_orders();
        Ok(Self {
            folder,
            orders,
            errands: Some(errands),
            desk: Desk::new(mesh),
            out: Published {
                folder_name: config_dir.to_string_lossy().as_ref().into(),
                metrics: Metrics::new(registry).map_err(ControlError::Metrics)?,
                publication: Arc::default(),
            },
        })
    }

    /// Where snapshots and problems are told.
    pub fn publication(&self) -> Arc<Publication> {
        Arc::clone(&self.out.publication)
    }

    /// For who fetches keys; `None` if somebody has it.
    pub fn key_errands(&mut self) -> Option<KeyErrands> {
        self.errands.take()
    }

    /// Reads the folder, and then every change of it. Returns only if that is not possible any more.
    pub async fn run(self) -> ControlError {
        let Self { folder, mut desk, out, orders, errands: _unused } = self;
        let mut comes = In { folder, orders, reader: None };
        loop {
            desk = match turn(&mut comes, desk, &out).await {
                Ok(desk) => desk,
                Err(source) => return ControlError::Failed(source),
            };
        }
    }
}

/// Waits for something to work on, and does.
async fn turn(comes: &mut In, desk: Desk, out: &Published) -> Result<Desk, JoinError> {
    let news = comes.next(desk.next_deadline()).await?;
    let mut started = Instant::now();
    let (mut desk, applied) = match news {
        News::Changed(readings) => aside(desk, move |desk| desk.take(readings, started)).await?,
        News::Read(since, batch) => {
            let now = std::mem::replace(&mut started, since);
            aside(desk, move |desk| Some(desk.finish(batch, now))).await?
        }
        News::Keys(news) => aside(desk, move |desk| Some(desk.learn(news))).await?,
    };
    if let Some(job) = desk.next_job() {
        comes.reader = Some((Instant::now(), tokio::task::spawn_blocking(move || Job::read(job))));
    }
    if let Some(wanted) = desk.take_wanted() {
        comes.orders.place(wanted);
    }
    if let Some(applied) = applied {
        desk = out.publish(desk, applied, comes.folder.trouble(), started).await?;
    }
    let being_read =
        |since: &Instant| BeingRead { files: desk.behind().into_iter().collect(), since: *since };
    out.publication.set_being_read(comes.reader.as_ref().map(|(since, _)| being_read(since)));
    Ok(desk)
}

impl In {
    async fn next(&mut self, deadline: Option<Instant>) -> Result<News, JoinError> {
        let Self { folder, orders, reader } = self;
        let due = async {
            match deadline {
                // Until a text that was put off is due.
                Some(deadline) => sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        let read = async {
            match reader {
                Some((since, reader)) => reader.await.map(|batch| News::Read(*since, batch)),
                None => std::future::pending().await,
            }
        };
        let news = tokio::select! {
            read = read => read?,
            readings = folder.next() => News::Changed(readings),
            news = orders.next() => News::Keys(news),
            () = due => News::Changed(Vec::new()),
        };
        if matches!(news, News::Read(..)) {
            *reader = None;
        }
        Ok(news)
    }
}

impl Published {
    /// Publishes a snapshot, if it may come into force, and then what is wrong.
    async fn publish(
        &self,
        desk: Desk,
        applied: Applied,
        trouble: Option<&str>,
        started: Instant,
    ) -> Result<Desk, JoinError> {
        let Applied { snapshot, is_whole, files, changes, objects } = applied;
        let took = started.elapsed();
        let generation = if is_whole { snapshot.generation() } else { 0 };
        let is_new = is_whole && self.publication.publish(Arc::clone(&snapshot));
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        if is_new {
            info!(generation, files, objects = changes, duration_ms, "configuration applied");
        } else if is_whole {
            debug!(generation, files, duration_ms, "configuration read, nothing changed");
        } else {
            warn!(files, duration_ms, "nothing comes into force before every file of the folder can be read");
        }
        let trouble = trouble.map(|reason| desk::file_problem(&self.folder_name, reason));
        let (desk, wrong) = aside(desk, move |desk| desk.problems(&snapshot, trouble)).await?;
        let objects = if is_whole { objects } else { BTreeMap::new() };
        self.metrics.observe(&objects, &wrong, generation, took);
        self.publication.report(wrong);
        Ok(desk)
    }
}

/// Works at the desk on a thread of its own.
async fn aside<T: Send + 'static>(
    mut desk: Desk,
    work: impl FnOnce(&mut Desk) -> T + Send + 'static,
) -> Result<(Desk, T), JoinError> {
    tokio::task::spawn_blocking(move || {
        let done = work(&mut desk);
        (desk, done)
    })
    .await
}
