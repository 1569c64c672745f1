//! Whether a DaemonSet is there: what one of its pods asks the API server as it stops, and all that it ever asks it.
//!
//! In: a name. Out: whether it stays. Never: a guess. An API server that is away, refuses, or does not know the kind has
//! said nothing. Nor has one that never showed the DaemonSet: a wrong name is gone from the beginning. Who was told nothing
//! leaves what it has to whoever comes after it.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, PartialObjectMeta};
use kube::{Client, Error};
use mesh_common::model::NamespacedName;
use tokio::time::{Instant, sleep, timeout_at};

use super::client::{self, ClientError};
use super::doubts::is_gone;
use crate::telemetry::chain::Chain;

/// How long is asked altogether: the pods of the node wait for what follows.
const PATIENCE: Duration = Duration::from_secs(10);
/// Both answers.
const ANSWER: Duration = Duration::from_secs(2);
/// Between two questions: an API server that restarts is back in seconds.
const PAUSE: Duration = Duration::from_millis(250);

/// Between two looks for a DaemonSet that was never seen. All pods of it look when it is installed.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// The DaemonSet that a process is a pod of, and whether the API server has ever shown it.
#[derive(Debug)]
pub struct OwnDaemonSet {
    name: NamespacedName,
    was_seen: Cell<bool>,
}

/// What becomes of a DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is there: a pod of it that stops has another after it.
    Stays,
    /// It is gone or about to be, or its namespace is: nothing comes after its pods.
    Goes,
}

/// Why nobody knows.
#[derive(Debug, thiserror::Error)]
pub enum Unknown {
    /// There may never have been one.
    #[error("the API server never showed the DaemonSet {name}; see that --daemon-set names it")]
    NeverSeen {
        /// What was looked for.
        name: NamespacedName,
    },
    /// There is nobody to ask.
    #[error("reach the API server as a pod does")]
    Client(#[from] ClientError),
    /// It answered with something that says nothing about the object.
    #[error("ask the API server for the DaemonSet and its namespace")]
    Answer(#[source] Box<Error>),
    /// It did not answer.
    #[error("the API server does not answer")]
    Silent,
}

impl OwnDaemonSet {
    /// One that nobody has looked for yet.
    pub fn new(name: NamespacedName) -> Self {
        Self { name, was_seen: Cell::new(false) }
    }

    /// Its name.
    pub fn name(&self) -> &NamespacedName {
        &self.name
    }

    /// Looks for it until it was seen. `say` is told once why it was not at first.
    pub async fn look(&self, say: impl FnOnce(String)) -> Infallible {
        let mut say = Some(say);
        loop {
            let reason = match fate(&self.name).await {
                Ok(Fate::Stays) => break self.was_seen.set(true),
                Ok(Fate::Goes) => "the API server has none of this name, or it is being deleted".to_owned(),
                Err(error) => Chain(&error).to_string(),
            };
            if let Some(say) = say.take() {
                say(reason);
            }
            sleep(LOOK_AGAIN).await;
        }
        pending().await
    }

    /// What becomes of it: the API server is asked, for a few seconds at most, if it has shown it before.
    ///
    /// # Errors
    /// It was never seen, or the API server cannot be asked or does not say.
    pub async fn fate(&self) -> Result<Fate, Unknown> {
        match self.was_seen.get() {
            true => fate(&self.name).await,
            false => Err(Unknown::NeverSeen { name: self.name.clone() }),
        }
    }
}

/// Asks the API server, as the pod's service account.
async fn fate(name: &NamespacedName) -> Result<Fate, Unknown> {
    let client = client::client_of_pod()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let next = (Instant::now() + ANSWER).min(deadline);
        let said = timeout_at(next, ask(&client, name)).await.unwrap_or(Err(Unknown::Silent));
        if said.is_ok() || Instant::now() + PAUSE >= deadline {
            return said;
        }
        sleep(PAUSE).await;
    }
}

async fn ask(client: &Client, name: &NamespacedName) -> Result<Fate, Unknown> {
    let NamespacedName { namespace, name } = name;
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    if understood(sets.get_metadata(name).await, name)? == Fate::Goes {
        return Ok(Fate::Goes);
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    understood(namespaces.get_metadata(namespace).await, namespace)
}

/// PURE. What the answer to a question for one object says.
fn understood<K>(answer: Result<PartialObjectMeta<K>, Error>, name: &str) -> Result<Fate, Unknown> {
    match answer {
        Ok(found) if found.metadata.deletion_timestamp.is_none() => Ok(Fate::Stays),
        Ok(_) => Ok(Fate::Goes),
        Err(error) if is_gone(&error, name) => Ok(Fate::Goes),
        Err(error) => Err(Unknown::Answer(Box::new(error))),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use serde_json::json;

    use super::*;

    fn answered(status: serde_json::Value) -> Option<Fate> {
        let status: Status = serde_json::from_value(status).unwrap();
        said(Err(Error::Api(status.boxed())))
    }

    fn said(answer: Result<PartialObjectMeta<DaemonSet>, Error>) -> Option<Fate> {
        understood(answer, "nodemesh-agent").ok()
    }

    fn found(metadata: serde_json::Value) -> Option<Fate> {
        let object = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata});
        said(Ok(serde_json::from_value(object).unwrap()))
    }

    #[test]
    fn it_goes_when_it_is_deleted_or_the_api_server_has_none_of_its_name() {
        assert_eq!(found(json!({"name": "nodemesh-agent"})), Some(Fate::Stays));
        let going = json!({"name": "nodemesh-agent", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(found(going), Some(Fate::Goes));
        let gone = json!({
            "status": "Failure", "reason": "NotFound", "code": 404, "message": "not found",
            "details": {"name": "nodemesh-agent", "group": "apps", "kind": "daemonsets"},
        });
        assert_eq!(answered(gone), Some(Fate::Goes));
    }

    #[tokio::test]
    async fn nothing_is_believed_of_one_that_was_never_seen() {
        let own = OwnDaemonSet::new(NamespacedName::new("nodemesh-system", "nodemesh-agnet"));
        // Nobody is asked: the answer could only be that there is none of this name.
        let error = own.fate().await.unwrap_err();
        assert!(
            error.to_string().contains("nodemesh-system/nodemesh-agnet; see that --daemon-set"),
            "{error}"
        );
        own.was_seen.set(true);
        assert!(matches!(own.fate().await, Err(Unknown::Client(_))), "no pod's service account is here");
    }

    #[test]
    fn an_error_says_nothing() {
        // Who asks is not known, may not ask, or asks something that is no API server.
        for (code, reason) in [
            (401, "Unauthorized"),
            (403, "Forbidden"),
            (404, "NotFound"),
            (410, "Expired"),
            (500, "InternalError"),
        ] {
            let status = json!({"status": "Failure", "reason": reason, "code": code, "message": "no"});
            assert_eq!(answered(status), None, "{code}");
        }
        let other = json!({"reason": "NotFound", "code": 404, "details": {"name": "another"}});
        assert_eq!(answered(other), None);
    }
}
