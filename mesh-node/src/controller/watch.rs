//! Watches on the API server, one for each kind: lists in pages, then changes; after an error, from where it was.
//!
//! In: a client. Out: what is [`Heard`], in the order of the API server, through a bounded queue. A watch that fails
//! waits, longer each time, and goes on; it never ends. Never: a decision about what was heard.

use std::pin::pin;

use futures_util::StreamExt as _;
use kube::api::Api;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Error as ClientError};
use mesh_common::model::Text;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::backoff::Backoff;
use super::definitions::Optional;
use super::inventory::Heard;
use super::metrics::Metrics;
use super::seen::{Resource, Seen};
use crate::control::object::Kind;
use crate::control::translate::mesh_config;
use crate::telemetry::chain::Chain;

/// Objects of one answer to a list.
const PAGE: u32 = 500;
/// Seconds after which a watch is begun anew: a partition that nobody tells of is noticed after this.
const WATCH: u32 = 60;
/// What is heard and not yet worked on, of all kinds together.
const QUEUE: usize = 1024;

/// Something that was heard of a kind.
pub(super) type News = (Kind, Heard);

/// Begins to watch every kind, until what is returned is dropped. Of ConfigMaps only the mesh's configuration is watched, in
/// the root namespace.
pub(super) fn watch_all(
    client: &Client,
    metrics: &Metrics,
    root_namespace: &Text,
) -> (Watches, mpsc::Receiver<News>) {
    let (news, heard) = mpsc::channel(QUEUE);
    let mut tasks = tokio::task::JoinSet::new();
    for kind in Kind::ALL {
        let namespace = (kind == Kind::MeshConfig).then(|| root_namespace.clone());
        let watch = Watch { resource: kind.into(), namespace, news: news.clone(), metrics: metrics.clone() };
        if kind.may_be_missing() {
            tasks.spawn(Optional::new(watch).follow(client.clone()));
        } else {
            tasks.spawn(watch.run(client.clone()));
        }
    }
    (Watches { _tasks: tasks }, heard)
}

/// The watches. Ended on drop.
#[derive(Debug)]
pub(super) struct Watches {
    _tasks: tokio::task::JoinSet<()>,
}

/// The watch of one kind.
#[derive(Clone)]
pub(super) struct Watch {
    pub(super) resource: Resource,
    /// The one namespace that is watched; `None` for all.
    pub(super) namespace: Option<Text>,
    pub(super) news: mpsc::Sender<News>,
    pub(super) metrics: Metrics,
}

impl Watch {
    /// Watches until nobody listens any more.
    pub(super) async fn run(self, client: Client) {
        match self.resource.kind {
            // Names, and labels of one of them, are all that is read.
            Kind::Namespace | Kind::ServiceAccount | Kind::ReferenceGrant | Kind::BackendTlsPolicy => {
                self.run_with::<true>(client).await;
            }
            _ => self.run_with::<false>(client).await,
        }
    }

    async fn run_with<const METADATA: bool>(self, client: Client) {
        let api: Api<Seen<METADATA>> = match &self.namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &self.resource),
            None => Api::all_with(client, &self.resource),
        };
        let mut backoff = Backoff::default();
        while self.listen(&api, &mut backoff).await.is_some() {}
    }

    /// Listens until the watch has to be begun anew. `None`: nobody listens to us any more.
    async fn listen<const METADATA: bool>(
        &self,
        api: &Api<Seen<METADATA>>,
        backoff: &mut Backoff,
    ) -> Option<()> {
        let mut events = pin!(watcher(api.clone(), config(self.resource.kind)));
        while let Some(event) = events.next().await {
            let heard = match event {
                Ok(event) => heard(event),
                Err(error) => {
                    self.failed(&error, backoff).await;
                    if loses_an_event(&error) {
                        return Some(());
                    }
                    continue;
                }
            };
            // A list that has begun has not worked yet.
            if heard != Heard::Begun {
                backoff.reset();
                self.metrics.heard(self.resource.kind);
            }
            self.news.send((self.resource.kind, heard)).await.ok()?;
        }
        Some(())
    }

    /// Says what went wrong, and waits.
    pub(super) async fn failed(&self, error: &watcher::Error, backoff: &mut Backoff) {
        let kind = self.resource.kind;
        let (wait, code, name) = (backoff.next(), code(error), kind.name());
        match code {
            // A watch that the API server ends is usual.
            Some(410) => debug!(kind = name, "the watch is too old: listing anew"),
            // Its definition is not served yet, or no more.
            Some(404) if kind.may_be_missing() => {
                debug!(kind = name, again_in = ?wait, "the kind is not served")
            }
            Some(403) => warn!(
                kind = name,
                error = %Chain(error),
                again_in = ?wait,
                advice = "kubectl apply -k manifests/base gives the controller the right to",
                "may not watch a kind",
            ),
            _ => {
                warn!(kind = name, error = %Chain(error), again_in = ?wait, "watching the API server failed")
            }
        }
        if code != Some(404) || !kind.may_be_missing() {
            self.metrics.watch_failed(kind);
        }
        // The back-off: asked at once, an API server in trouble would have more of it.
        sleep(wait).await;
    }
}

/// What the API server answered, if it did.
fn code(error: &watcher::Error) -> Option<u16> {
    use watcher::Error;
    match error {
        Error::WatchError(status) => Some(status.code),
        Error::InitialListFailed(ClientError::Api(status))
        | Error::WatchStartFailed(ClientError::Api(status))
        | Error::WatchFailed(ClientError::Api(status)) => Some(status.code),
        _ => None,
    }
}

/// Whether the watch would go on without an event that could not be read: then it must list anew.
pub(super) fn loses_an_event(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchFailed(ClientError::SerdeError(_)))
}

/// How anything is watched.
pub(super) fn usual() -> watcher::Config {
    watcher::Config::default().page_size(PAGE).timeout(WATCH)
}

fn config(kind: Kind) -> watcher::Config {
    let config = usual();
    match kind {
        // One that has run to its end carries no traffic, and its addresses may be another's.
        Kind::Pod => config.fields("status.phase!=Succeeded,status.phase!=Failed"),
        Kind::MeshConfig => config.fields(&format!("metadata.name={}", mesh_config::NAME)),
        _ => config,
    }
}

fn heard<const METADATA: bool>(event: Event<Seen<METADATA>>) -> Heard {
    match event {
        Event::Init => Heard::Begun,
        Event::InitApply(seen) => Heard::Listed(seen.object),
        Event::InitDone => Heard::Ended,
        Event::Apply(seen) => Heard::Applied(seen.object),
        Event::Delete(seen) => Heard::Deleted(seen.object),
    }
}
