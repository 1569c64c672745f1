//! The reconciler: Kubernetes objects in, deltas and snapshots out. The only importer of kube.
//!
//! [`Control`] watches a folder of YAML: [`watch_dir`] reads files, [`documents`] makes objects of them by
//! [`translate`], [`store`] says which of them count, and [`reconciler`] makes tables of those. One task does it
//! all, one batch after the other, and publishes an immutable snapshot after each; everybody else reads. Never: a
//! look at traffic, or at the kernel.

mod advice;
pub mod documents;
pub mod generate;
mod grace;
pub mod metrics;
pub mod object;
pub mod reconciler;
pub mod resources;
pub mod store;
pub mod translate;
pub mod watch_dir;

#[cfg(test)]
mod problem_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use mesh_common::model::{MeshSettings, Text, TrustDomain};
use mesh_common::snapshot::Snapshot;
use tokio::sync::watch;
use tokio::time::timeout_at;
use tracing::{debug, info, warn};

use self::advice::Advice;
use self::documents::{Complaint, ObjectName, Place, Problem, Reader};
use self::grace::Grace;
use self::metrics::Metrics;
use self::object::Kind;
use self::reconciler::Reconciler;
use self::store::Store;
use self::translate::Effect;
use self::watch_dir::{Content, FolderWatch, Reading};
use crate::telemetry::registry::Registry;

/// What is said of a file whose text is put off.
const WAITS: &str =
    "was changed, and waits up to 1 s to be written whole: a policy in it is not understood yet";

/// Most problems of one batch that are logged one by one.
const MAX_LOGGED: usize = 50;

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
    #[error("apply what {files} files of the folder say")]
    Failed {
        /// How many files there were.
        files: usize,
        /// How it ended.
        #[source]
        source: tokio::task::JoinError,
    },
}

/// Turns a folder of objects into snapshots.
#[derive(Debug)]
pub struct Control {
    folder: FolderWatch,
    folder_name: Text,
    desk: Desk,
    metrics: Metrics,
    snapshots: Arc<ArcSwap<Snapshot>>,
    problems: Arc<ArcSwap<Vec<Problem>>>,
    generation: watch::Sender<Option<u64>>,
}

/// What one batch is worked on with. Moved to a thread of its own meanwhile: a batch may be large.
#[derive(Debug)]
struct Desk {
    store: Store,
    grace: Grace,
    reconciler: Reconciler,
}

/// What a batch led to.
struct Applied {
    snapshot: Arc<Snapshot>,
    changes: usize,
    objects: BTreeMap<Kind, usize>,
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
        Ok(Self {
            folder,
            folder_name: config_dir.to_string_lossy().as_ref().into(),
            desk: Desk::new(mesh),
            metrics: Metrics::new(registry).map_err(ControlError::Metrics)?,
            snapshots: Arc::default(),
            problems: Arc::default(),
            generation: watch::Sender::new(None),
        })
    }

    /// Where snapshots are published. Empty before the first sync.
    pub fn snapshots(&self) -> Arc<ArcSwap<Snapshot>> {
        Arc::clone(&self.snapshots)
    }

    /// The generation of the published snapshot; `None` before the first sync. Changes after each publication.
    pub fn generation(&self) -> watch::Receiver<Option<u64>> {
        self.generation.subscribe()
    }

    /// What is wrong with the folder now.
    pub fn problems(&self) -> Arc<ArcSwap<Vec<Problem>>> {
        Arc::clone(&self.problems)
    }

    /// Reads the folder, and then every change of it. Returns only if that is not possible any more.
    pub async fn run(self) -> ControlError {
        let Self { mut folder, folder_name, mut desk, metrics, snapshots, problems, generation } = self;
        loop {
            let readings = match desk.grace.next_deadline() {
                Some(deadline) => timeout_at(deadline.into(), folder.next()).await.unwrap_or_default(),
                None => folder.next().await,
            };
            let started = Instant::now();
            let files = readings.len();
            let trouble = folder.trouble().map(|reason| file_problem(&folder_name, reason));
            let applied;
            (desk, applied) = match aside(desk, move |desk| desk.apply(readings)).await {
                Ok(done) => done,
                Err(source) => return ControlError::Failed { files, source },
            };
            let now = applied.snapshot.generation();
            let is_new = *generation.borrow() != Some(now);
            if is_new {
                snapshots.store(Arc::clone(&applied.snapshot));
                generation.send_replace(Some(now));
            }
            let took = started.elapsed();
            let wrong;
            (desk, wrong) = match aside(desk, move |desk| desk.problems(&applied.snapshot, trouble)).await {
                Ok(done) => done,
                Err(source) => return ControlError::Failed { files, source },
            };
            metrics.observe(&applied.objects, &wrong, now, took);
            report(&problems.load(), &wrong);
            problems.store(Arc::new(wrong));
            let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            if is_new {
                info!(
                    generation = now,
                    files,
                    objects = applied.changes,
                    duration_ms,
                    "configuration applied"
                );
            } else {
                debug!(generation = now, files, duration_ms, "configuration read, nothing changed");
            }
        }
    }
}

/// Works at the desk on a thread of its own.
async fn aside<T: Send + 'static>(
    mut desk: Desk,
    work: impl FnOnce(&mut Desk) -> T + Send + 'static,
) -> Result<(Desk, T), tokio::task::JoinError> {
    tokio::task::spawn_blocking(move || {
        let done = work(&mut desk);
        (desk, done)
    })
    .await
}

impl Desk {
    fn new(mesh: Arc<MeshSettings>) -> Self {
        Self {
            store: Store::new(Reader::new(Arc::clone(&mesh))),
            grace: Grace::default(),
            reconciler: Reconciler::new(mesh),
        }
    }

    fn apply(&mut self, readings: Vec<Reading>) -> Applied {
        let now = Instant::now();
        for Reading { file, content } in readings {
            match content {
                Content::Text(text) => {
                    let text = self.store.read(&file, &text);
                    if self.store.would_deny(&file, &text) {
                        self.grace.hold(file, text, now);
                        continue;
                    }
                    self.store.put(&file, text);
                }
                Content::Refused(reason) => self.store.refuse(&file, reason),
                Content::Gone => self.store.remove(&file),
            }
            self.grace.forget(&file);
        }
        for (file, text) in self.grace.take_due(now) {
            self.store.put(&file, text);
        }
        let changes = self.store.changes();
        let count = changes.len();
        self.reconciler.apply(changes);
        Applied {
            snapshot: Arc::new(self.reconciler.snapshot()),
            changes: count,
            objects: self.store.counts(),
        }
    }

    /// All that is wrong, by file and line: first what denies, last what the mesh has no use for.
    fn problems(&self, snapshot: &Snapshot, trouble: Option<Problem>) -> Vec<Problem> {
        let mut problems = self.store.problems();
        problems.extend(trouble);
        problems.extend(self.grace.held().map(|file| file_problem(file, WAITS)));
        problems.extend(advice::advice(snapshot).into_iter().filter_map(|advice| self.problem(advice)));
        problems.sort_by(|a, b| {
            let order = |problem: &Problem| match problem.complaint.effect {
                Effect::Denies => 0,
                Effect::NotRead => 2,
                _ => 1,
            };
            (order(a), a).cmp(&(order(b), b))
        });
        problems
    }

    /// An advice where its object stands; `None` if that has gone meanwhile.
    fn problem(&self, advice: Advice) -> Option<Problem> {
        let Advice { key, field, reason, effect } = advice;
        let (place, line) = self.store.place(&key)?;
        let complaint =
            Complaint { line: 1, object: Some(ObjectName::from(&key)), field: Some(field), reason, effect };
        Some(Problem { place, line, complaint })
    }
}

/// What is wrong with the folder, or with a file of it, as a whole.
fn file_problem(file: &Text, reason: &str) -> Problem {
    Problem {
        place: Place { file: file.clone(), document: 0 },
        line: 0,
        complaint: Complaint {
            line: 0,
            object: None,
            field: None,
            reason: reason.to_owned(),
            effect: Effect::LastGoodKept,
        },
    }
}

/// Logs what is wrong now and was not before, and how much of what was wrong is not any more.
fn report(before: &[Problem], after: &[Problem]) {
    let known: BTreeSet<&Problem> = before.iter().collect();
    let new: Vec<&Problem> = after.iter().filter(|problem| !known.contains(problem)).collect();
    for problem in new.iter().take(MAX_LOGGED) {
        let object = problem.complaint.object.as_ref().map(ToString::to_string).unwrap_or_default();
        warn!(
            file = %problem.place.file,
            document = problem.place.document,
            line = problem.line,
            object,
            field = problem.complaint.field.as_deref().unwrap_or_default(),
            effect = problem.complaint.effect.code(),
            reason = problem.complaint.reason,
            "configuration problem",
        );
    }
    if new.len() > MAX_LOGGED {
        warn!(count = new.len() - MAX_LOGGED, "more configuration problems: see mesh-node status");
    }
    if !before.is_empty() && after.is_empty() {
        info!("no configuration problem any more");
    }
}
