//! What each route is to the Services that it is about, in its status, parent by parent.
//!
//! In: what is known, and whether this replica writes. Out: our entries of `status.parents`, written only where they would
//! say something else, a few a second. Others' entries stay as they are: the list is read, changed and written back on
//! condition that nobody wrote meanwhile, since the API server would replace it as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Client, Error};
use mesh_common::snapshot::Snapshot;
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::warn;

use super::doubts::{PATIENCE, api};
use super::inventory::Route;
use super::lease::Leadership;
use super::status::{LOOK_AGAIN, MAX_NAMED, PACE, ROUND, shortened};
use super::world::Known;
use crate::control::attachment::{Fault, unmatched, unresolved};
use crate::control::object::{Kind, ObjectKey};
use crate::control::translate::route::ParentReference;
use crate::telemetry::chain::Chain;

/// Who we are in a route's status.
const CONTROLLER_NAME: &str = "nodemesh.dev/controller";
/// Entries that a status may have.
const MAX_PARENTS: usize = 32;
/// How often one write is tried while others write the same status.
const ATTEMPTS: usize = 3;

/// What a route's status says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Stated {
    /// Our entries, as they are.
    ours: Vec<Value>,
    /// How many are others'.
    others: usize,
}

/// What is to be said of a parent.
#[derive(Clone, Debug, PartialEq)]
struct Verdict {
    parent: ParentReference,
    conditions: [Condition; 2],
}

#[derive(Clone, Debug, PartialEq)]
struct Condition {
    type_: &'static str,
    is_true: bool,
    reason: &'static str,
    message: String,
}

/// A status to be written.
struct Write {
    key: ObjectKey,
    route: Arc<Route>,
    verdicts: Vec<Verdict>,
}

/// Writes the status of routes.
pub(super) struct RouteWriter {
    pub(super) client: Client,
    pub(super) known: Arc<Known>,
    pub(super) leadership: Leadership,
}

impl RouteWriter {
    /// Writes until it is dropped.
    pub(super) async fn run(self) {
        let mut looks = interval(LOOK_AGAIN);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            // Before the first lists every Service would be missing.
            if self.leadership.is_held() && self.known.generation().borrow().is_some() {
                self.round().await;
            }
        }
    }

    async fn round(&self) {
        let (routes, snapshot) = (self.known.routes(), self.known.snapshot());
        // Every route with all that it names: not on a thread that agents wait for.
        let due = tokio::task::spawn_blocking(move || due(&routes, &snapshot)).await;
        let mut forbidden: BTreeSet<Kind> = BTreeSet::new();
        for write in due.unwrap_or_default().into_iter().take(ROUND) {
            if !self.leadership.is_held() {
                return;
            }
            let kind = write.key.kind;
            if forbidden.contains(&kind) {
                continue;
            }
            match self.write(&write).await {
                Ok(()) => {}
                Err(Error::Api(answer)) if answer.code == 403 => {
                    forbidden.insert(kind);
                    let advice = "kubectl apply -k manifests/base gives the controller the right to";
                    warn!(kind = kind.name(), reason = answer.message, advice, "may not write status");
                }
                Err(error) => warn!(object = %write.key, error = %Chain(&error), "status not written"),
            }
            sleep(PACE).await;
        }
    }

    /// Writes, unless it has gone or is another one meanwhile: what is newer will be heard.
    async fn write(&self, Write { key, route, verdicts }: &Write) -> Result<(), Error> {
        let api = api(self.client.clone(), key, route.resource);
        for _ in 0..ATTEMPTS {
            let now = match timely(api.get(&key.name.name)).await {
                Ok(seen) => seen.object,
                Err(Error::Api(answer)) if answer.is_not_found() => return Ok(()),
                Err(error) => return Err(error),
            };
            if now["metadata"]["generation"].as_i64().unwrap_or_default() != route.generation {
                return Ok(());
            }
            let before = entries(&now);
            let time = Timestamp::now().to_string();
            let after = parents(before, verdicts, route.generation, MAX_PARENTS, &time);
            if before == after {
                return Ok(());
            }
            let patch = json!({
                "metadata": {"resourceVersion": now["metadata"]["resourceVersion"]},
                "status": {"parents": after},
            });
            let (merge, options) = (Patch::Merge(&patch), PatchParams::default());
            match timely(api.patch_status(&key.name.name, &options, &merge)).await {
                Ok(_) => return Ok(()),
                // Somebody else wrote.
                Err(Error::Api(answer)) if answer.is_conflict() => {}
                Err(Error::Api(answer)) if answer.is_not_found() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        // It is still due at the next look.
        Ok(())
    }
}

/// One answer of the API server.
async fn timely<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(PATIENCE, answer).await.unwrap_or_else(|late| Err(Error::Service(Box::new(late))))
}

impl Stated {
    /// Whether it says anything of ours.
    pub(super) fn is_ours(&self) -> bool {
        !self.ours.is_empty()
    }
}

/// PURE. What the status of a route says.
pub(super) fn stated(object: &Value) -> Stated {
    let (ours, others): (Vec<&Value>, Vec<&Value>) = entries(object).iter().partition(|entry| is_ours(entry));
    Stated { ours: ours.into_iter().cloned().collect(), others: others.len() }
}

fn entries(object: &Value) -> &[Value] {
    object["status"]["parents"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn is_ours(entry: &Value) -> bool {
    entry["controllerName"] == CONTROLLER_NAME
}

/// PURE. What is to be written, by name.
fn due(routes: &BTreeMap<ObjectKey, Arc<Route>>, snapshot: &Snapshot) -> Vec<Write> {
    let mut writes = Vec::new();
    for (key, route) in routes {
        let verdicts = verdicts(route, snapshot);
        let Stated { ours, others } = &route.stated;
        let room = MAX_PARENTS.saturating_sub(*others);
        // The time counts only where something else is said anyway.
        if parents(ours, &verdicts, route.generation, room, "") != *ours {
            writes.push(Write { key: key.clone(), route: Arc::clone(route), verdicts });
        }
    }
    writes
}

/// PURE. What is to be said of each parent that is a Service.
fn verdicts(route: &Route, snapshot: &Snapshot) -> Vec<Verdict> {
    let references = &route.references;
    if references.parents.is_empty() {
        return Vec::new();
    }
    let resolved = resolved(&unresolved(references, snapshot));
    let verdict = |parent: &(usize, ParentReference)| Verdict {
        conditions: [
            accepted(&route.references.name.namespace, parent, unmatched(references, parent, snapshot)),
            resolved.clone(),
        ],
        parent: parent.1.clone(),
    };
    references.parents.iter().map(verdict).collect()
}

/// No rule of a route is applied, so none is accepted.
fn accepted(namespace: &str, (_, parent): &(usize, ParentReference), fault: Option<Fault>) -> Condition {
    let (reason, message) = match fault {
        Some(Fault { field, reason, message }) => (reason, format!("{field}: {message}")),
        None => {
            let message = format!(
                "this version of Nodemesh applies no rules of routes: requests to Service {} go to its own endpoints, as \
                 without this route. Do not rely on it: delete it, or keep it for a version that applies it",
                parent.service(namespace)
            );
            ("UnsupportedValue", message)
        }
    };
    Condition { type_: "Accepted", is_true: false, reason, message }
}

fn resolved(faults: &[Fault]) -> Condition {
    let Some(first) = faults.first() else {
        let message = "every backend is there".to_owned();
        return Condition { type_: "ResolvedRefs", is_true: true, reason: "ResolvedRefs", message };
    };
    let said = |fault: &Fault| format!("{}: {}", fault.field, fault.message);
    let mut message: Vec<String> = faults.iter().take(MAX_NAMED).map(said).collect();
    if let Some(more) = faults.len().checked_sub(MAX_NAMED).filter(|more| *more > 0) {
        message.push(format!("and {more} more"));
    }
    let message = shortened(message.join("; "));
    Condition { type_: "ResolvedRefs", is_true: false, reason: first.reason, message }
}

/// PURE. A list of entries with ours as they should be: others' are kept, ours of other parents go, new ones come last.
fn parents(before: &[Value], verdicts: &[Verdict], generation: i64, most: usize, now: &str) -> Vec<Value> {
    let mut open: Vec<&Verdict> = Vec::new();
    for verdict in verdicts {
        if !open.iter().any(|known| known.parent == verdict.parent) {
            open.push(verdict);
        }
    }
    let mut after = Vec::new();
    for entry in before {
        if !is_ours(entry) {
            after.push(entry.clone());
            continue;
        }
        let parent = ParentReference::deserialize(&entry["parentRef"]).ok();
        let verdict = open.iter().position(|verdict| Some(&verdict.parent) == parent.as_ref());
        if let Some(index) = verdict {
            after.push(stating(open.remove(index), entry, generation, now));
        }
    }
    let room = most.saturating_sub(after.len());
    after.extend(open.into_iter().take(room).map(|verdict| stating(verdict, &Value::Null, generation, now)));
    after
}

/// An entry that says this. Conditions that are not ours stay, and the time of one that is, while it does not change.
fn stating(verdict: &Verdict, before: &Value, generation: i64, now: &str) -> Value {
    let mut conditions = before["conditions"].as_array().cloned().unwrap_or_default();
    for Condition { type_, is_true, reason, message } in &verdict.conditions {
        let state = if *is_true { "True" } else { "False" };
        let known = conditions.iter_mut().find(|condition| condition["type"] == *type_);
        let since = known.as_ref().filter(|known| known["status"] == state);
        let since = since.and_then(|known| known["lastTransitionTime"].as_str()).unwrap_or(now);
        let condition = json!({
            "type": type_, "status": state, "reason": reason, "message": message,
            "lastTransitionTime": since, "observedGeneration": generation,
        });
        match known {
            Some(known) => *known = condition,
            None => conditions.push(condition),
        }
    }
    json!({"parentRef": verdict.parent, "controllerName": CONTROLLER_NAME, "conditions": conditions})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(name: &str, is_resolved: bool) -> Verdict {
        let fault = Fault { field: "f".to_owned(), reason: "BackendNotFound", message: "is away".to_owned() };
        let faults = if is_resolved { vec![] } else { vec![fault] };
        let parent = ParentReference {
            group: Some(String::new()),
            kind: Some("Service".to_owned()),
            name: name.to_owned(),
            ..ParentReference::default()
        };
        let accepted = accepted("shop", &(0, parent.clone()), None);
        Verdict { parent, conditions: [accepted, resolved(&faults)] }
    }

    fn of_another(name: &str) -> Value {
        json!({"parentRef": {"name": name}, "controllerName": "example.com/gateway", "conditions": [{"type": "Accepted"}]})
    }

    fn names(entries: &[Value]) -> Vec<&str> {
        entries.iter().map(|entry| entry["parentRef"]["name"].as_str().unwrap()).collect()
    }

    #[test]
    fn others_entries_stay_as_they_are_and_ours_of_other_parents_go() {
        let first = parents(&[of_another("g")], &[verdict("a", true), verdict("b", true)], 1, 32, "then");
        assert_eq!(names(&first), ["g", "a", "b"]);
        let mut before = first.clone();
        before.push(of_another("h"));
        let after = parents(&before, &[verdict("b", true), verdict("c", true)], 1, 32, "now");
        assert_eq!(names(&after), ["g", "b", "h", "c"]);
        assert_eq!((&after[0], &after[1], &after[2]), (&before[0], &before[2], &before[3]));
        assert_eq!(names(&parents(&before, &[], 1, 32, "now")), ["g", "h"]);
    }

    #[test]
    fn what_was_written_is_not_written_again() {
        let first = parents(&[], &[verdict("a", true)], 1, 32, "then");
        assert_eq!(parents(&first, &[verdict("a", true)], 1, 32, "now"), first);
        let conditions = &first[0]["conditions"];
        assert_eq!(
            (&conditions[0]["status"], &conditions[0]["reason"]),
            (&json!("False"), &json!("UnsupportedValue"))
        );
        assert_eq!(
            (&conditions[1]["status"], &conditions[1]["reason"]),
            (&json!("True"), &json!("ResolvedRefs"))
        );
        let newer = parents(&first, &[verdict("a", true)], 2, 32, "now");
        assert_eq!(newer[0]["conditions"][0]["observedGeneration"], 2);
        assert_eq!(newer[0]["conditions"][0]["lastTransitionTime"], "then");
        let changed = parents(&first, &[verdict("a", false)], 1, 32, "now");
        assert_eq!(changed[0]["conditions"][0]["lastTransitionTime"], "then");
        assert_eq!(changed[0]["conditions"][1]["lastTransitionTime"], "now");
        assert_eq!(changed[0]["conditions"][1]["reason"], "BackendNotFound");
    }

    #[test]
    fn a_condition_of_ours_that_somebody_else_added_stays() {
        let mut first = parents(&[], &[verdict("a", true)], 1, 32, "then");
        let foreign = json!({"type": "example.com/Seen", "status": "True"});
        first[0]["conditions"].as_array_mut().unwrap().insert(0, foreign.clone());
        let after = parents(&first, &[verdict("a", false)], 1, 32, "now");
        assert_eq!(after[0]["conditions"][0], foreign);
        assert_eq!(after[0]["conditions"].as_array().unwrap().len(), 3);
    }

    #[test]
    fn a_status_holds_so_many_entries_and_the_same_parent_once() {
        let others: Vec<Value> = (0..31).map(|number| of_another(&number.to_string())).collect();
        let verdicts = [verdict("a", true), verdict("a", true), verdict("b", true)];
        let after = parents(&others, &verdicts, 1, MAX_PARENTS, "now");
        assert_eq!((after.len(), names(&after)[31]), (32, "a"));
        // And nothing more is due then.
        let Stated { ours, others } = stated(&json!({"status": {"parents": after}}));
        assert_eq!(parents(&ours, &verdicts, 1, MAX_PARENTS - others, ""), ours);
    }
}
