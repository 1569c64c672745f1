//! Asks the API server for single objects, of which a list says that they are gone.
//!
//! In: names. Out: an answer for each, whenever there is one: only that the API server has no such object says that it
//! is gone; an error says nothing, and it is asked again. A few are asked for at a time.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use kube::api::Api;
use kube::{Client, Error};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::backoff::Backoff;
use super::inventory::Answer;
use super::seen::{Resource, Seen};
use crate::control::object::{Kind, ObjectKey};

/// Questions at a time.
const AT_ONCE: usize = 8;
/// For one answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The questions that are open.
pub(super) struct Doubts {
    client: Client,
    waiting: VecDeque<(ObjectKey, Resource)>,
    asked: JoinSet<(ObjectKey, Answer)>,
    ends: HashMap<ObjectKey, AbortHandle>,
}

impl Doubts {
    pub(super) fn new(client: Client) -> Self {
        Self { client, waiting: VecDeque::new(), asked: JoinSet::new(), ends: HashMap::new() }
    }

    /// Takes objects to ask for.
    pub(super) fn extend(&mut self, keys: Vec<(ObjectKey, Resource)>) {
        self.waiting.extend(keys);
        self.ask();
    }

    /// Asks no more for objects of a kind, which is there in another version or is gone: nobody would answer.
    pub(super) fn forget(&mut self, kind: Kind) {
        self.waiting.retain(|(key, _)| key.kind != kind);
        for (_, end) in self.ends.extract_if(|key, _| key.kind == kind) {
            end.abort();
        }
    }

    /// How many questions are open.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.asked.len()
    }

    /// The next answer; waits for ever if nothing is asked. Cancel safe.
    pub(super) async fn next(&mut self) -> (ObjectKey, Answer) {
        loop {
            match self.asked.join_next().await {
                Some(Ok(answer)) => {
                    self.ends.remove(&answer.0);
                    self.ask();
                    return answer;
                }
                // One that panicked is ours to mend; the object stays. Or its kind was forgotten.
                Some(Err(_)) => self.ask(),
                None => return std::future::pending().await,
            }
        }
    }

    fn ask(&mut self) {
        while self.asked.len() < AT_ONCE
            && let Some((key, resource)) = self.waiting.pop_front()
        {
            let end = self.asked.spawn(ask(self.client.clone(), key.clone(), resource));
            self.ends.insert(key, end);
        }
    }
}

/// Asks until there is an answer.
async fn ask(client: Client, key: ObjectKey, resource: Resource) -> (ObjectKey, Answer) {
    let api = api(client, &key, resource);
    let mut backoff = Backoff::default();
    loop {
        match timeout(PATIENCE, api.get(&key.name.name)).await {
            Ok(Ok(seen)) => return (key, Answer::Found(seen.object)),
            Ok(Err(error)) if is_gone(&error, &key.name.name) => return (key, Answer::Gone),
            // The API server is away or refuses: nothing follows from it.
            Ok(Err(_)) | Err(_) => sleep(backoff.next()).await,
        }
    }
}

pub(super) fn api(client: Client, key: &ObjectKey, resource: Resource) -> Api<Seen<false>> {
    if key.kind.is_namespaced() {
        Api::namespaced_with(client, &key.name.namespace, &resource)
    } else {
        Api::all_with(client, &resource)
    }
}

/// Whether the API server says that it has no object of this name; that it does not know its kind is not that.
pub(super) fn is_gone(error: &Error, name: &str) -> bool {
    let Error::Api(status) = error else { return false };
    status.is_not_found() && status.details.as_ref().is_some_and(|details| details.name == name)
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use kube::core::response::StatusDetails;

    use super::*;

    #[test]
    fn only_the_object_itself_is_gone() {
        let status = || Status::failure("pods \"web\" not found", "NotFound").with_code(404);
        let error = |status: Status| Error::Api(status.boxed());
        let details = |name: &str| serde_json::from_value::<StatusDetails>(serde_json::json!({"name": name}));
        let details = |name: &str| details(name).unwrap();
        assert!(is_gone(&error(status().with_details(details("web"))), "web"));
        // The kind is not known: its definition was removed, or an aggregated server is away.
        assert!(!is_gone(&error(status()), "web"));
        assert!(!is_gone(&error(status().with_details(details("api"))), "web"));
        assert!(!is_gone(&error(Status::failure("", "InternalError").with_code(500)), "web"));
    }
}
