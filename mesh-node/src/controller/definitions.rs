//! Kinds that are the cluster's to define, or not: those of the Gateway API; and the one of our own that earlier versions of
//! our definitions lack. Their definitions are watched, each by its name, and the kind itself for as long as its definition
//! is served.
//!
//! In: a client, and how the kind is watched. Out: what is [`Heard`] of the kind, first in which version, or that it is not
//! there. A definition is not there when the watch says that it went, or the API server, asked for it. Never: a change of
//! one.

use std::borrow::Cow;
use std::pin::pin;

use futures_util::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::Api;
use kube::core::ClusterResourceScope;
use kube::runtime::watcher::{Event, watcher};
use kube::{Client, Resource as _};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::backoff::Backoff;
use super::doubts::{PATIENCE, is_gone};
use super::inventory::Heard;
use super::seen::Resource;
use super::watch::{Watch, loses_an_event, usual};
use crate::control::object::Kind;
use crate::telemetry::chain::Chain;

/// A kind that may be there.
pub(super) struct Optional {
    watch: Watch,
}

/// What is known of a definition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Told {
    /// Nothing so far.
    #[default]
    Unknown,
    /// There is none, or none that serves a version that is read.
    Missing,
    There(Incarnation),
}

impl From<Option<Incarnation>> for Told {
    fn from(incarnation: Option<Incarnation>) -> Self {
        incarnation.map_or(Self::Missing, Self::There)
    }
}

/// A definition, as far as it matters; its schemas are read over.
#[derive(Clone, Debug, Deserialize)]
struct Definition {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: DefinitionSpec,
    #[serde(default)]
    status: DefinitionStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct DefinitionSpec {
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Clone, Debug, Deserialize)]
struct Version {
    name: String,
    served: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct DefinitionStatus {
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
}

/// How a kind is there. Of a definition that was made anew nothing of before is left.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Incarnation {
    uid: String,
    resource: Resource,
}

impl kube::Resource for Definition {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "CustomResourceDefinition".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "apiextensions.k8s.io".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "customresourcedefinitions".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Definition {
    /// PURE. How a kind is there by this definition: established, not about to go, in the newest version that is read.
    fn incarnation(&self, kind: Kind) -> Option<Incarnation> {
        let conditions = &self.status.conditions;
        let is_established = conditions.iter().any(|it| it.type_ == "Established" && it.status == "True");
        if !is_established || self.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let is_served = |api_version: &&&str| {
            let name = api_version.rsplit('/').next();
            self.spec.versions.iter().any(|version| version.served && Some(&*version.name) == name)
        };
        let api_version = kind.api_versions().iter().find(is_served)?;
        let uid = self.metadata.uid.clone().unwrap_or_default();
        Some(Incarnation { uid, resource: Resource { kind, api_version } })
    }
}

impl Optional {
    pub(super) fn new(watch: Watch) -> Self {
        Self { watch }
    }

    /// Watches until nobody listens any more.
    pub(super) async fn follow(self, client: Client) {
        let (told, incarnations) = watch::channel(Told::Unknown);
        tokio::select! {
            () = self.watch_definition(client.clone(), &told) => {}
            _ = self.watch_objects(&client, incarnations) => {}
        }
    }

    fn kind(&self) -> Kind {
        self.watch.resource.kind
    }

    /// The name of its definition.
    fn definition(&self) -> String {
        let (group, _) = self.kind().api_version().rsplit_once('/').unwrap_or_default();
        format!("{}.{group}", self.kind().plural())
    }

    /// Tells how the kind is there.
    async fn watch_definition(&self, client: Client, told: &watch::Sender<Told>) {
        let api: Api<Definition> = Api::all(client);
        let mut backoff = Backoff::default();
        loop {
            self.listen(&api, &mut backoff, told).await;
        }
    }

    /// Listens until the watch has to be begun anew.
    async fn listen(&self, api: &Api<Definition>, backoff: &mut Backoff, told: &watch::Sender<Told>) {
        let name = self.definition();
        let only = usual().fields(&format!("metadata.name={name}"));
        let mut events = pin!(watcher(api.clone(), only));
        let mut is_listed = false;
        let is_it = |definition: &Definition| definition.meta().name.as_deref() == Some(&*name);
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => is_listed = false,
                Ok(Event::InitApply(definition) | Event::Apply(definition)) if is_it(&definition) => {
                    is_listed = true;
                    tell(told, definition.incarnation(self.kind()));
                }
                Ok(Event::Delete(definition)) if is_it(&definition) => tell(told, None),
                // A list without it, after an error, is no proof.
                Ok(Event::InitDone) if !is_listed && *told.borrow() != Told::Missing => {
                    tell(told, self.ask(api, &name).await);
                }
                Ok(_) => {}
                Err(error) => {
                    self.watch.failed(&error, backoff).await;
                    if loses_an_event(&error) {
                        return;
                    }
                    continue;
                }
            }
            backoff.reset();
        }
    }

    /// Asks for a definition until there is an answer.
    async fn ask(&self, api: &Api<Definition>, name: &str) -> Option<Incarnation> {
        let mut backoff = Backoff::default();
        loop {
            match timeout(PATIENCE, api.get(name)).await {
                Ok(Ok(definition)) => return definition.incarnation(self.kind()),
                Ok(Err(error)) if is_gone(&error, name) => return None,
                Ok(Err(error)) => {
                    warn!(definition = name, error = %Chain(&error), "not known whether it is there")
                }
                Err(_) => warn!(definition = name, "not known whether it is there: no answer"),
            }
            // The back-off: an API server in trouble is not asked at once.
            sleep(backoff.next()).await;
        }
    }

    /// Watches the kind while it is there. `None`: nobody listens any more.
    async fn watch_objects(&self, client: &Client, mut incarnations: watch::Receiver<Told>) -> Option<()> {
        loop {
            let told = incarnations.borrow_and_update().clone();
            let Told::There(now) = told else {
                if told == Told::Missing {
                    self.is_missing().await?;
                }
                incarnations.changed().await.ok()?;
                continue;
            };
            let (kind, api_version) = (self.kind(), now.resource.api_version);
            info!(kind = kind.name(), api_version, "the cluster has the kind: watching it");
            let watch = Watch { resource: now.resource, ..self.watch.clone() };
            watch.news.send((kind, Heard::Served(now.resource))).await.ok()?;
            tokio::select! {
                () = watch.run(client.clone()) => return None,
                changed = incarnations.changed() => changed.ok()?,
            }
            let next = incarnations.borrow().clone();
            if !matches!(next, Told::There(next) if next.uid == now.uid) {
                info!(kind = kind.name(), "the cluster's definition of the kind is gone");
                self.watch.news.send((kind, Heard::Withdrawn)).await.ok()?;
                self.watch.metrics.withdrawn(kind);
            }
        }
    }

    /// Says that no object of the kind can be there.
    async fn is_missing(&self) -> Option<()> {
        let kind = self.kind();
        if !kind.is_optional() {
            warn!(
                kind = kind.name(),
                definition = self.definition(),
                advice = "kubectl apply -k manifests/foundation brings it",
                "the cluster does not have a kind of the mesh's own: nothing of it is in force",
            );
        }
        self.watch.metrics.withdrawn(kind);
        self.watch.news.send((kind, Heard::Withdrawn)).await.ok()
    }
}

fn tell(told: &watch::Sender<Told>, now: Option<Incarnation>) {
    let now = Told::from(now);
    told.send_if_modified(|before| {
        let is_new = *before != now;
        *before = now;
        is_new
    });
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::control::translate::route::GROUP;

    #[test]
    fn a_kind_is_there_in_the_newest_version_that_is_served_and_read() {
        let version =
            |name: &str, served: bool| json!({"name": name, "served": served, "schema": {"a": [1]}});
        for (versions, established, deleted, expected) in [
            (vec![version("v1", true)], "True", false, Some("v1")),
            (vec![version("v1", true), version("v1beta1", true)], "True", false, Some("v1")),
            (vec![version("v1beta1", true), version("v1", false)], "True", false, Some("v1beta1")),
            (vec![version("v1alpha2", true), version("v1alpha3", true)], "True", false, Some("v1alpha3")),
            (vec![version("v1alpha2", true), version("v2", true)], "True", false, Some("v1alpha2")),
            (vec![version("v2", true)], "True", false, None),
            (vec![], "True", false, None),
            (vec![version("v1", true)], "False", false, None),
            (vec![version("v1", true)], "True", true, None),
        ] {
            let mut object: Value = json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                "metadata": {"name": "tlsroutes.gateway.networking.k8s.io", "uid": "1"},
                "spec": {"group": GROUP, "versions": versions},
                "status": {"conditions": [{"type": "Established", "status": established, "reason": "any"}]},
            });
            if deleted {
                object["metadata"]["deletionTimestamp"] = json!("2026-11-22T00:00:00Z");
            }
            let definition: Definition = serde_json::from_value(object.clone()).unwrap();
            let found = definition.incarnation(Kind::TlsRoute).map(|found| found.resource.api_version);
            let expected = expected.map(|version| format!("{GROUP}/{version}"));
            assert_eq!(found, expected.as_deref(), "{object}");
        }
        let new = json!({"metadata": {"name": "a"}, "spec": {"versions": [{"name": "v1", "served": true}]}});
        let definition: Definition = serde_json::from_value(new).unwrap();
        assert_eq!(definition.incarnation(Kind::HttpRoute), None);
    }
}
