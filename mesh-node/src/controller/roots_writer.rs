//! Puts the mesh's roots where programs outside the mesh find them, whenever this replica leads.
//!
//! In: the authority, and what the API server has of Namespaces and of copies. Out: a ClusterTrustBundle where the cluster
//! has that kind, else the ConfigMap `nodemesh-ca-root` in every namespace that is enrolled; with both, in each that asks.
//! What somebody edits or deletes is written again. Where to write next, [`Ledger`] says. Never: a copy removed.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, PartialObjectMeta, Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Error, ResourceExt as _};
use serde_json::json;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{info, warn};

use super::authority_secret::ROOT_CONFIG_MAP;
use super::backoff::Backoff;
use super::cluster_roots::{ClusterRoots, is_passing, soon};
use super::found::ROOTS;
use super::lease::Leadership;
use super::metrics::Metrics;
use super::roots_ledger::{Copy, Ledger, News};
use super::watch::usual;
use super::{FIELD_MANAGER, part_of};
use crate::control::translate::namespace::{RootsFor, roots_for};
use crate::identity::HeldAuthority;
use crate::telemetry::chain::Chain;

/// Between two looks at the roots and at the ClusterTrustBundle.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Between two writes: ten thousand namespaces are written in some four minutes, and the API server hardly notices.
const PACE: Duration = Duration::from_millis(20);
/// Looks after which what was refused is tried again.
const RETRY: u32 = 12;

/// Writes the roots.
pub(super) struct RootsWriter {
    pub(super) client: Client,
    pub(super) root_namespace: String,
    pub(super) authority: Arc<HeldAuthority>,
    pub(super) leadership: Leadership,
    pub(super) metrics: Metrics,
}

impl RootsWriter {
    /// Writes until it is dropped. A replica that does not lead watches nothing.
    pub(super) async fn run(self) {
        let mut looks = every(LOOK_AGAIN);
        loop {
            looks.tick().await;
            if self.leadership.is_held() {
                self.lead().await;
                self.metrics.roots_due(0);
            }
        }
    }

    async fn lead(&self) {
        let only = usual().fields(&format!("metadata.name={ROOT_CONFIG_MAP}"));
        let mut copies = pin!(watcher(Api::<ConfigMap>::all(self.client.clone()), only).default_backoff());
        let namespaces = Api::<PartialObjectMeta<Namespace>>::all(self.client.clone());
        let mut namespaces = pin!(watcher(namespaces, usual()).default_backoff());
        let mut cluster = ClusterRoots::new(self.client.clone());
        let mut ledger = Ledger::new(self.root_namespace.clone());
        let (mut looks, mut pace) = (every(LOOK_AGAIN), every(PACE));
        let (mut count, mut backoff) = (0, Backoff::default());
        while self.leadership.is_held() {
            tokio::select! {
                Some(event) = namespaces.next() => {
                    heard("Namespace", event).into_iter().for_each(|event| ledger.hear_namespace(of_namespace(event)));
                }
                Some(event) = copies.next() => {
                    heard("ConfigMap", event).into_iter().for_each(|event| ledger.hear_copy(of_copy(event)));
                }
                _ = looks.tick() => {
                    count += 1;
                    self.look(&mut ledger, &mut cluster, count % RETRY == 0).await;
                }
                _ = pace.tick(), if ledger.next().is_some() => match self.write_next(&mut ledger).await {
                    Ok(()) => backoff.reset(),
                    // Asked at once, an API server in trouble would have more of it.
                    Err(()) => pace.reset_after(backoff.next()),
                },
            }
            self.metrics.roots_due(ledger.open());
        }
    }

    /// Looks at the roots and the ClusterTrustBundle.
    async fn look(&self, ledger: &mut Ledger, cluster: &mut ClusterRoots, tries_again: bool) {
        let roots = match self.authority.roots_pem() {
            Ok(roots) => roots,
            Err(error) => return warn!(error = %Chain(&error), "the roots cannot be written"),
        };
        // Until somebody says whether the cluster has that kind, nobody makes ten thousand ConfigMaps.
        let in_place = cluster.keep(&roots).await;
        ledger.aim(&roots, in_place == Some(false));
        if tries_again {
            ledger.retry();
        }
    }

    /// Writes the roots into the next namespace. Fails if the API server is in trouble.
    async fn write_next(&self, ledger: &mut Ledger) -> Result<(), ()> {
        let (Some(namespace), Some(roots)) = (ledger.next().map(str::to_owned), ledger.roots()) else {
            return Ok(());
        };
        let body = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": ROOT_CONFIG_MAP, "labels": part_of()},
            "data": {ROOTS: roots},
        });
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &namespace);
        let apply = PatchParams::apply(FIELD_MANAGER).force();
        match soon(api.patch(ROOT_CONFIG_MAP, &apply, &Patch::Apply(&body))).await {
            Ok(_) => {
                info!(namespace, config_map = ROOT_CONFIG_MAP, "wrote the roots");
                ledger.written(&namespace);
            }
            Err(Error::Api(status)) if !is_passing(status.code) => {
                // One that goes, or whose quota is used up.
                warn!(namespace, error = %Chain(&Error::Api(status)), "the roots may not be written into a namespace");
                ledger.refused(&namespace);
            }
            Err(error) => {
                warn!(namespace, error = %Chain(&error), "the roots wait to be written");
                return Err(());
            }
        }
        Ok(())
    }
}

/// Ticks that are not made up for.
fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// An event, unless the watch failed: it begins again by itself, after a while.
fn heard<T>(kind: &'static str, event: watcher::Result<Event<T>>) -> Option<Event<T>> {
    event.inspect_err(|error| warn!(kind, error = %Chain(error), "watching for roots to write failed")).ok()
}

/// What an event says of a namespace.
fn of_namespace(event: Event<PartialObjectMeta<Namespace>>) -> News<RootsFor> {
    let (name, object) = match event {
        Event::Init => return News::Begun,
        Event::InitDone => return News::Ended,
        Event::Delete(object) => return News::Gone(object.name_any()),
        Event::Apply(object) | Event::InitApply(object) => {
            (object.name_any(), Namespace { metadata: object.metadata, ..Namespace::default() })
        }
    };
    // Nothing can be made in one that goes.
    if object.metadata.deletion_timestamp.is_some() {
        return News::Gone(name);
    }
    match roots_for(&object) {
        Ok(Some(why)) => News::There(name, why),
        Ok(None) => News::Gone(name),
        Err(_) => News::Unclear(name),
    }
}

/// What an event says of a ConfigMap of the name.
fn of_copy(event: Event<ConfigMap>) -> News<Copy> {
    let object = match event {
        Event::Init => return News::Begun,
        Event::InitDone => return News::Ended,
        Event::Delete(object) => return News::Gone(object.namespace().unwrap_or_default()),
        Event::Apply(object) | Event::InitApply(object) => object,
    };
    let is_ours = part_of().iter().all(|(key, value)| object.labels().get(key) == Some(value));
    let roots = object.data.as_ref().and_then(|data| data.get(ROOTS)).map(String::as_str);
    News::There(object.namespace().unwrap_or_default(), Copy::new(roots, is_ours))
}
