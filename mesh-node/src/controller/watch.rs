//! Watches on the API server, one for each kind: lists in pages, then changes; after an error, from where it was.
//!
//! In: a client. Out: what is [`Heard`], in the order of the API server, through a bounded queue. A watch that fails
//! waits, longer each time, and goes on; it never ends. Never: a decision about what was heard.

use std::pin::pin;

use futures_util::StreamExt as _;
use kube::api::Api;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Error as ClientError};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::backoff::Backoff;
use super::inventory::Heard;
use super::metrics::Metrics;
use super::seen::Seen;
use crate::control::object::Kind;
use crate::telemetry::chain::Chain;

/// Objects of one answer to a list.
const PAGE: u32 = 500;
/// Seconds after which a watch is begun anew: a partition that nobody tells of is noticed after this.
const WATCH: u32 = 60;
/// What is heard and not yet worked on, of all kinds together.
const QUEUE: usize = 1024;

/// Something that was heard of a kind.
pub(super) type News = (Kind, Heard);

/// Begins to watch every kind, until what is returned is dropped.
pub(super) fn watch_all(client: &Client, metrics: &Metrics) -> (Watches, mpsc::Receiver<News>) {
    let (news, heard) = mpsc::channel(QUEUE);
    let mut tasks = tokio::task::JoinSet::new();
    for kind in Kind::ALL {
        let watch = Watch { kind, news: news.clone(), metrics: metrics.clone() };
        match kind {
            // Their names and labels are all that is read.
            Kind::Namespace | Kind::ServiceAccount => tasks.spawn(watch.run::<true>(client.clone())),
            _ => tasks.spawn(watch.run::<false>(client.clone())),
        };
    }
    (Watches { _tasks: tasks }, heard)
}

/// The watches. Ended on drop.
#[derive(Debug)]
pub(super) struct Watches {
    _tasks: tokio::task::JoinSet<()>,
}

/// The watch of one kind.
struct Watch {
    kind: Kind,
    news: mpsc::Sender<News>,
    metrics: Metrics,
}

impl Watch {
    async fn run<const METADATA: bool>(self, client: Client) {
        let api: Api<Seen<METADATA>> = Api::all_with(client, &self.kind);
        let mut backoff = Backoff::default();
        while self.listen(&api, &mut backoff).await.is_some() {}
    }

    /// Listens until the watch has to be begun anew. `None`: nobody listens to us any more.
    async fn listen<const METADATA: bool>(
        &self,
        api: &Api<Seen<METADATA>>,
        backoff: &mut Backoff,
    ) -> Option<()> {
        let mut events = pin!(watcher(api.clone(), config(self.kind)));
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
                self.metrics.heard(self.kind);
            }
            self.news.send((self.kind, heard)).await.ok()?;
        }
        Some(())
    }

    async fn failed(&self, error: &watcher::Error, backoff: &mut Backoff) {
        self.metrics.watch_failed(self.kind);
        let wait = backoff.next();
        let kind = self.kind.name();
        // A watch that the API server ends is usual.
        if matches!(error, watcher::Error::WatchError(status) if status.code == 410) {
            debug!(kind, "the watch is too old: listing anew");
        } else {
            warn!(kind, error = %Chain(error), again_in = ?wait, "watching the API server failed");
        }
        // The back-off: asked at once, an API server in trouble would have more of it.
        sleep(wait).await;
    }
}

/// Whether the watch would go on without an event that could not be read: then it must list anew.
fn loses_an_event(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchFailed(ClientError::SerdeError(_)))
}

fn config(kind: Kind) -> watcher::Config {
    let config = watcher::Config::default().page_size(PAGE).timeout(WATCH);
    match kind {
        // One that has run to its end carries no traffic, and its addresses may be another's.
        Kind::Pod => config.fields("status.phase!=Succeeded,status.phase!=Failed"),
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
