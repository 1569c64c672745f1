//! Which agents trust which roots: each replica notes it of the agents that follow it, and who leads reads it of all.
//!
//! In: what agents have acknowledged. Out: the ConfigMap `nodemesh-ca-trust`, with one entry for each replica and a line
//! for people. An entry stays true when its replica is gone: what an agent has in force it keeps.

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
const STANDING: &str = "rotation";

/// What agents of one replica trust.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Tells these roots from all others.
    pub(super) roots: String,
    /// The uids of the agents' pods.
    pub(super) agents: BTreeSet<String>,
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
        let key = format!("replica.{}", self.me);
        self.write("replica", &key, text).await
    }

    /// Says to people where a rotation stands.
    pub(super) async fn say(&mut self, standing: String) -> Result<(), Error> {
        self.write(STANDING, STANDING, standing).await
    }

    /// The agents of all replicas that trust these roots.
    pub(super) async fn trusting(&self, roots: &str) -> Result<BTreeSet<Text>, Error> {
        let found = self.api.get_opt(RECORD).await?;
        Ok(trusting(&found.and_then(|found| found.data).unwrap_or_default(), roots))
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

/// PURE. The agents of all entries that are about these roots.
fn trusting(data: &BTreeMap<String, String>, roots: &str) -> BTreeSet<Text> {
    let entries = data.values().filter_map(|text| serde_json::from_str::<Entry>(text).ok());
    entries.filter(|entry| entry.roots == roots).flat_map(|entry| entry.agents).map(Text::from).collect()
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
            serde_json::to_string(&Entry { roots: roots.to_owned(), agents }).unwrap()
        };
        let data = BTreeMap::from([
            ("replica.a".to_owned(), entry("new", &["1", "2"])),
            ("replica.b".to_owned(), entry("new", &["3"])),
            ("replica.c".to_owned(), entry("old", &["4"])),
            ("replica.d".to_owned(), "{".to_owned()),
            (STANDING.to_owned(), "1 of 3".to_owned()),
        ]);
        let found: Vec<Text> = trusting(&data, "new").into_iter().collect();
        assert_eq!(found, ["1".into(), "2".into(), "3".into()]);
    }
}
