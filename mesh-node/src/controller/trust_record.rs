//! Which agents trust which roots: each replica notes it of the agents that follow it, and who leads reads it of all.
//!
//! In: what agents have acknowledged. Out: the ConfigMap `nodemesh-ca-trust`, with one entry for each replica and a line
//! for people and one for programs. An entry stays true when its replica is gone: what an agent has in force it keeps.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest::{Context, SHA256};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Error};
use mesh_common::model::Text;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::FIELD_MANAGER;
use crate::identity::TrustBundle;

/// The ConfigMap.
pub const RECORD: &str = "nodemesh-ca-trust";
/// What people read.
const SAID: &str = "rotation";
/// What programs read: a [`Standing`].
const STANDING: &str = "standing";
/// Begins the names of the entries.
const REPLICA: &str = "replica.";

/// What agents of one replica trust.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Tells these roots from all others.
    pub(super) roots: String,
    /// The uids of the agents' pods.
    pub(super) agents: BTreeSet<String>,
    /// Those that are connected, and do not trust them yet.
    #[serde(default)]
    pub(super) waiting: BTreeSet<String>,
}

/// Where the change of a root stands, as programs read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// What is next.
    pub step: Phase,
    /// The trust domain of the mesh.
    pub trust_domain: String,
    /// SHA-256 of the certificate that signs; nothing if somebody else does.
    pub signs: Option<String>,
    /// SHA-256 of the one that is to sign next.
    pub next: Option<String>,
    /// How many agents there are.
    pub agents: usize,
    /// How many of them do not trust the next root yet.
    pub missing: usize,
    /// The first of those, by name.
    pub waiting: Vec<Waiting>,
    /// When the root before is let go, in UTC seconds since the epoch.
    pub retires_at: Option<u64>,
    /// Which replica says so.
    pub replica: String,
}

/// What is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing: no root is being replaced.
    Settled,
    /// Agents come to trust the next root.
    Distribute,
    /// The next key is to sign.
    Sign,
    /// Certificates of the key before run out, and every agent is to trust the one that signs.
    Expire,
    /// The root before is to be let go.
    Retire,
    /// Nothing: somebody else signs.
    Elsewhere,
}

/// An agent that does not trust the next root yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Its pod.
    pub pod: String,
    /// Where it runs.
    pub node: String,
    /// Whether it follows a controller.
    pub connected: bool,
}

/// Reads where the change of a root stands, if a controller has said so.
///
/// # Errors
/// The API server does not give the record.
pub async fn standing(client: &Client, namespace: &str) -> Result<Option<Standing>, Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let found = api.get_opt(RECORD).await?;
    let data = found.and_then(|found| found.data).unwrap_or_default();
    Ok(data.get(STANDING).and_then(|text| serde_json::from_str(text).ok()))
}

/// The ConfigMap, as one replica writes it.
pub(super) struct TrustRecord {
    api: Api<ConfigMap>,
    me: String,
    written: BTreeMap<&'static str, String>,
}

impl TrustRecord {
    pub(super) fn new(client: Client, namespace: &str, me: String) -> Self {
        Self { api: Api::namespaced(client, namespace), me, written: BTreeMap::new() }
    }

    /// Notes what the agents of this replica trust.
    pub(super) async fn note(&mut self, entry: &Entry) -> Result<(), Error> {
        let text = serde_json::to_string(entry).map_err(Error::SerdeError)?;
        let key = format!("{REPLICA}{}", self.me);
        self.write("replica", &key, text).await
    }

    /// Says to people where a rotation stands.
    pub(super) async fn say(&mut self, said: String) -> Result<(), Error> {
        self.write(SAID, SAID, said).await
    }

    /// Says it to programs.
    pub(super) async fn note_standing(&mut self, standing: &Standing) -> Result<(), Error> {
        let text = serde_json::to_string(standing).map_err(Error::SerdeError)?;
        self.write(STANDING, STANDING, text).await
    }

    /// The name of this replica.
    pub(super) fn replica(&self) -> &str {
        &self.me
    }

    /// What the agents of all replicas have of these roots.
    pub(super) async fn read(&self, roots: &str) -> Result<Answers, Error> {
        let found = self.api.get_opt(RECORD).await?;
        Ok(answers(&found.and_then(|found| found.data).unwrap_or_default(), roots))
    }

    /// Removes all entries, when a change is over: those of replicas that are gone would stay for ever.
    pub(super) async fn forget(&mut self) -> Result<(), Error> {
        let found = self.api.get_opt(RECORD).await?.and_then(|found| found.data).unwrap_or_default();
        let entries = found.keys().filter(|name| name.starts_with(REPLICA)).map(|name| (name, ()));
        let entries: BTreeMap<&String, ()> = entries.collect();
        self.written.remove("replica");
        let patch = Patch::Merge(json!({"data": entries}));
        self.api.patch(RECORD, &PatchParams::default(), &patch).await.map(drop)
    }

    // Each writes with a name of its own, and so takes no entry of another away.
    async fn write(&mut self, what: &'static str, key: &str, text: String) -> Result<(), Error> {
        if self.written.get(what) == Some(&text) {
            return Ok(());
        }
        let body = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": RECORD}, "data": {key: text},
        });
        let manager = format!("{FIELD_MANAGER}-{what}-{}", self.me);
        self.api.patch(RECORD, &PatchParams::apply(&manager).force(), &Patch::Apply(&body)).await?;
        self.written.insert(what, text);
        Ok(())
    }
}

/// What is known of agents, by the uids of their pods.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// They have the roots in force.
    pub(super) trusting: BTreeSet<Text>,
    /// They are connected, and have them not.
    pub(super) waiting: BTreeSet<Text>,
}

/// PURE. What all entries that are about these roots say.
fn answers(data: &BTreeMap<String, String>, roots: &str) -> Answers {
    let mut answers = Answers::default();
    for entry in data.values().filter_map(|text| serde_json::from_str::<Entry>(text).ok()) {
        if entry.roots == roots {
            answers.trusting.extend(entry.agents.into_iter().map(Text::from));
            answers.waiting.extend(entry.waiting.into_iter().map(Text::from));
        }
    }
    answers
}

/// Tells the roots of a bundle from those of every other.
pub(super) fn name_of(bundle: &TrustBundle) -> String {
    let mut context = Context::new(&SHA256);
    for root in bundle.roots() {
        context.update(&(root.len() as u64).to_be_bytes());
        context.update(root);
    }
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_of_all_replicas_count_and_only_for_these_roots() {
        let entry = |roots: &str, agents: &[&str]| {
            let agents = agents.iter().map(|agent| (*agent).into()).collect();
            let waiting = ["5".to_owned()].into();
            serde_json::to_string(&Entry { roots: roots.to_owned(), agents, waiting }).unwrap()
        };
        let data = BTreeMap::from([
            ("replica.a".to_owned(), entry("new", &["1", "2"])),
            ("replica.b".to_owned(), entry("new", &["3"])),
            ("replica.c".to_owned(), entry("old", &["4"])),
            ("replica.d".to_owned(), "{".to_owned()),
            ("replica.e".to_owned(), r#"{"roots": "new", "agents": ["6"]}"#.to_owned()),
            (SAID.to_owned(), "1 of 3".to_owned()),
        ]);
        let found = answers(&data, "new");
        assert_eq!(Vec::from_iter(found.trusting), ["1".into(), "2".into(), "3".into(), "6".into()]);
        assert_eq!(Vec::from_iter(found.waiting), ["5".into()]);
    }
}
