//! Whether a DaemonSet is there: what an agent asks the API server as it stops, and all that an agent ever asks it.
//!
//! In: a name. Out: whether it stays. Never: a guess. An API server that is away, refuses, or does not know the kind has
//! said nothing, and an agent that was told nothing leaves its programs to the agent after it.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, PartialObjectMeta};
use kube::{Client, Error};
use mesh_common::model::NamespacedName;
use tokio::time::{Instant, sleep, timeout_at};

use super::client::{self, ClientError};
use super::doubts::is_gone;

/// How long is asked altogether: the pods of the node wait for what follows.
const PATIENCE: Duration = Duration::from_secs(10);
/// Both answers.
const ANSWER: Duration = Duration::from_secs(2);
/// Between two questions: an API server that restarts is back in seconds.
const PAUSE: Duration = Duration::from_millis(250);

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

/// Asks the API server, as the pod's service account, for a few seconds at most.
///
/// # Errors
/// It cannot be asked, or does not say.
pub async fn fate(name: &NamespacedName) -> Result<Fate, Unknown> {
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
