//! What a person should know of each policy, in its status: whether it was understood, how many pods it is about, and
//! whether the keys were fetched that it names.
//!
//! In: what is known, and whether this replica writes. Out: server-side applied status, written only where it would say
//! something else, a few a second; and an Event for a policy that is not understood any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Error};
use mesh_common::snapshot::Snapshot;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::warn;

use super::FIELD_MANAGER;
use super::doubts::api;
use super::inventory::Policy;
use super::lease::Leadership;
use super::selection::Selection;
use super::world::Known;
use crate::control::advice::Advice;
use crate::control::key_ring::KeyStanding;
use crate::control::object::ObjectKey;
use crate::control::policy_advice::policy_advice;
use crate::control::translate::{Effect, FieldError};
use crate::telemetry::chain::Chain;

/// Between two looks at what is to be written: counts of pods change all the time.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Between two writes.
pub(super) const PACE: Duration = Duration::from_millis(50);
/// For one answer of the API server.
const PATIENCE: Duration = Duration::from_secs(10);
/// Writes of one round; the rest waits for the next one.
pub(super) const ROUND: usize = 200;
/// Faults that are named in one message.
pub(super) const MAX_NAMED: usize = 5;

/// Whether a policy was understood.
const ACCEPTED: &str = "Accepted";
/// Whether the keys are there that it names by `jwksUri`; of one that names none nothing is said.
const KEYS_FETCHED: &str = "KeysFetched";

/// Writes status.
pub(super) struct Writer {
    pub(super) client: Client,
    pub(super) known: Arc<Known>,
    pub(super) leadership: Leadership,
    /// This replica, as Events name it.
    pub(super) instance: String,
}

impl Writer {
    /// Writes until it is dropped.
    pub(super) async fn run(self) {
        let reporter =
            Reporter { controller: FIELD_MANAGER.to_owned(), instance: Some(self.instance.clone()) };
        let recorder = Recorder::new(self.client.clone(), reporter);
        let mut looks = interval(LOOK_AGAIN);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if !self.leadership.is_held() || self.known.generation().borrow().is_none() {
                continue;
            }
            for write in self.due().await.into_iter().take(ROUND) {
                if !self.leadership.is_held() {
                    break;
                }
                self.write(&recorder, &write).await;
                sleep(PACE).await;
            }
        }
    }

    /// The policies whose status says something else than what holds.
    async fn due(&self) -> Vec<Write> {
        let (policies, snapshot) = (self.known.policies(), self.known.snapshot());
        let keys = self.known.key_standings();
        // Every policy against every pod: not on a thread that agents wait for.
        let due = tokio::task::spawn_blocking(move || {
            due(&policies, &keys, &snapshot, &Timestamp::now().to_string())
        });
        due.await.unwrap_or_default()
    }

    async fn write(&self, recorder: &Recorder, write: &Write) {
        let Write { key, policy, status, is_broken } = write;
        let body = json!({
            "apiVersion": key.kind.api_version(),
            "kind": key.kind.name(),
            "metadata": {"name": &*key.name.name, "namespace": &*key.name.namespace},
            "status": status,
        });
        let api = api(self.client.clone(), key, key.kind.into());
        let apply = PatchParams::apply(FIELD_MANAGER).force();
        let written = timeout(PATIENCE, api.patch_status(&key.name.name, &apply, &Patch::Apply(&body))).await;
        match written {
            Ok(Ok(_)) if *is_broken => self.tell(recorder, key, policy, status).await,
            Ok(Ok(_)) => {}
            // It has gone meanwhile.
            Ok(Err(Error::Api(answer))) if answer.is_not_found() => {}
            Ok(Err(error)) => warn!(object = %key, error = %Chain(&error), "status not written"),
            Err(_) => warn!(object = %key, "status not written: the API server does not answer"),
        }
    }

    /// Tells whoever looks at the policy that it is not in force as it is written.
    async fn tell(&self, recorder: &Recorder, key: &ObjectKey, policy: &Policy, status: &Value) {
        let event = Event {
            type_: EventType::Warning,
            reason: "NotAccepted".to_owned(),
            note: status["conditions"][0]["message"].as_str().map(str::to_owned),
            action: "Translate".to_owned(),
            secondary: None,
        };
        let about = ObjectReference {
            api_version: Some(key.kind.api_version().to_owned()),
            kind: Some(key.kind.name().to_owned()),
            name: Some(key.name.name.to_string()),
            namespace: Some(key.name.namespace.to_string()),
            uid: policy.uid.clone(),
            ..ObjectReference::default()
        };
        match timeout(PATIENCE, recorder.publish(&event, &about)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(object = %key, error = %Chain(&error), "event not written"),
            Err(_) => warn!(object = %key, "event not written: the API server does not answer"),
        }
    }
}

/// A status to be written.
#[derive(Clone, Debug)]
struct Write {
    key: ObjectKey,
    policy: Arc<Policy>,
    status: Value,
    /// It was understood before, or nothing was said yet, and now it is not.
    is_broken: bool,
}

/// PURE. What is to be written, by name.
fn due(
    policies: &BTreeMap<ObjectKey, Arc<Policy>>,
    keys: &BTreeMap<ObjectKey, KeyStanding>,
    snapshot: &Snapshot,
    now: &str,
) -> Vec<Write> {
    let selection = Selection::of(snapshot);
    let mut advised: BTreeMap<ObjectKey, Vec<(FieldError, Effect)>> = BTreeMap::new();
    for Advice { key, field, reason, effect } in policy_advice(snapshot) {
        advised.entry(key).or_default().push((FieldError { field, reason }, effect));
    }
    let mut writes = Vec::new();
    for (key, policy) in policies {
        let advice = advised.get(key).map_or(&[][..], Vec::as_slice);
        let status = desired(policy, advice, keys.get(key), selection.count(key), now);
        if ours(&policy.status) != status {
            let accepted = |status: &Value| condition(status, ACCEPTED)["status"].clone();
            let is_broken = accepted(&status) == "False" && accepted(&policy.status) != "False";
            writes.push(Write { key: key.clone(), policy: Arc::clone(policy), status, is_broken });
        }
    }
    writes
}

/// PURE. The status that a policy should have, with `advice` on what is not of itself alone; the time of a condition is kept
/// while nothing changes.
fn desired(
    policy: &Policy,
    advice: &[(FieldError, Effect)],
    keys: Option<&KeyStanding>,
    workloads: usize,
    now: &str,
) -> Value {
    let is_accepted = !policy.faults.iter().any(|(_, effect)| is_refusal(*effect));
    let reason = if is_accepted { "Accepted" } else { "Invalid" };
    let condition = |name: &str, is_met: bool, reason: &str, message: String| {
        let state = if is_met { "True" } else { "False" };
        let before = condition(&policy.status, name);
        let since = if before["status"] == state { before["lastTransitionTime"].as_str() } else { None };
        json!({
            "type": name,
            "status": state,
            "reason": reason,
            "message": message,
            "lastTransitionTime": since.unwrap_or(now),
            "observedGeneration": policy.generation,
        })
    };
    let said = message(policy.faults.iter().chain(advice));
    let mut conditions = vec![condition(ACCEPTED, is_accepted, reason, said)];
    conditions.extend(keys.map(|keys| {
        let (is_met, reason) = match (keys.is_complete, keys.faults.is_empty()) {
            (true, true) => (true, "Fetched"),
            (true, false) => (true, "KeysOfBefore"),
            (false, true) => (false, "Pending"),
            (false, false) => (false, "FetchFailed"),
        };
        condition(KEYS_FETCHED, is_met, reason, key_message(keys))
    }));
    json!({
        "observedGeneration": policy.generation,
        "workloads": workloads,
        "conditions": conditions,
    })
}

/// What a status says that we write; others may have written more.
fn ours(status: &Value) -> Value {
    let conditions = [ACCEPTED, KEYS_FETCHED].map(|name| condition(status, name));
    let conditions: Vec<&Value> = conditions.into_iter().filter(|condition| !condition.is_null()).collect();
    json!({
        "observedGeneration": status["observedGeneration"],
        "workloads": status["workloads"],
        "conditions": conditions,
    })
}

/// A condition of a status.
fn condition<'s>(status: &'s Value, name: &str) -> &'s Value {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|condition| condition["type"] == name).unwrap_or(&Value::Null)
}

fn key_message(keys: &KeyStanding) -> String {
    let said = keys.faults.iter().take(MAX_NAMED).map(|(error, _)| error.to_string());
    let mut message: Vec<String> = said.collect();
    if let Some(more) = keys.faults.len().checked_sub(MAX_NAMED).filter(|more| *more > 0) {
        message.push(format!("and {more} more"));
    }
    shortened(message.join("; "))
}

fn is_refusal(effect: Effect) -> bool {
    matches!(effect, Effect::Denies | Effect::NotInForce | Effect::LastGoodKept)
}

fn message<'a>(faults: impl Iterator<Item = &'a (FieldError, Effect)> + Clone) -> String {
    let said = |(error, effect): &(FieldError, Effect)| match effect {
        Effect::Denies => format!("{error}: the policy denies what it might have denied"),
        Effect::FieldIgnored => format!("{error}: this field is ignored"),
        _ => error.to_string(),
    };
    let mut message: Vec<String> = faults.clone().take(MAX_NAMED).map(said).collect();
    if let Some(more) = faults.count().checked_sub(MAX_NAMED).filter(|more| *more > 0) {
        message.push(format!("and {more} more"));
    }
    shortened(message.join("; "))
}

/// As much of a message as everybody takes.
pub(super) fn shortened(mut message: String) -> String {
    let end = (0..=1024.min(message.len())).rev().find(|end| message.is_char_boundary(*end));
    message.truncate(end.unwrap_or_default());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(faults: Vec<(FieldError, Effect)>, status: Value) -> Policy {
        Policy { generation: 3, uid: None, status, faults: faults.into() }
    }

    fn fault(effect: Effect) -> (FieldError, Effect) {
        (FieldError { field: "spec.rules[0]".to_owned(), reason: "is wrong".to_owned() }, effect)
    }

    #[test]
    fn a_policy_that_denies_for_a_fault_is_not_accepted_and_says_which() {
        let status = desired(&policy(vec![fault(Effect::Denies)], Value::Null), &[], None, 2, "now");
        let condition = &status["conditions"][0];
        assert_eq!(condition["status"], "False");
        assert!(
            condition["message"].as_str().unwrap().starts_with("spec.rules[0]: is wrong: the policy denies")
        );
        assert_eq!((&status["observedGeneration"], &status["workloads"]), (&json!(3), &json!(2)));
    }

    #[test]
    fn a_warning_is_said_of_one_that_is_accepted() {
        let status = desired(&policy(vec![fault(Effect::Warning)], Value::Null), &[], None, 0, "now");
        assert_eq!(status["conditions"][0]["status"], "True");
        assert_eq!(status["conditions"][0]["message"], "spec.rules[0]: is wrong");
    }

    #[test]
    fn what_was_written_is_not_written_again_and_keeps_its_time() {
        let first = desired(&policy(Vec::new(), Value::Null), &[], None, 1, "then");
        assert_eq!(desired(&policy(Vec::new(), first.clone()), &[], None, 1, "now"), first);
        let more = desired(&policy(Vec::new(), first.clone()), &[], None, 2, "now");
        assert_eq!(more["conditions"][0]["lastTransitionTime"], "then");
        let broken = desired(&policy(vec![fault(Effect::Denies)], first), &[], None, 1, "now");
        assert_eq!(broken["conditions"][0]["lastTransitionTime"], "now");
    }

    #[test]
    fn a_message_is_short_whatever_is_wrong() {
        let long = FieldError { field: "é".repeat(3000), reason: String::new() };
        let faults: Vec<_> = (0..100).map(|_| (long.clone(), Effect::Denies)).collect();
        assert!(message(faults.iter()).len() <= 1024);
    }

    #[test]
    fn how_keys_stand_is_a_condition_of_its_own_and_only_where_there_are_some() {
        let error = FieldError {
            field: "spec.jwtRules[0].jwksUri".to_owned(),
            reason: "keys cannot be fetched from http://a/ since then: answered 500".to_owned(),
        };
        let failing =
            |is_complete, effect| KeyStanding { is_complete, faults: vec![(error.clone(), effect)] };
        for (keys, state, reason) in [
            (KeyStanding::default(), "True", "Fetched"),
            (KeyStanding { is_complete: false, faults: Vec::new() }, "False", "Pending"),
            (failing(false, Effect::Denies), "False", "FetchFailed"),
            (failing(true, Effect::Warning), "True", "KeysOfBefore"),
        ] {
            let status = desired(&policy(Vec::new(), Value::Null), &[], Some(&keys), 1, "then");
            let fetched = &status["conditions"][1];
            assert_eq!((&fetched["type"], &fetched["status"]), (&json!(KEYS_FETCHED), &json!(state)));
            assert_eq!(fetched["reason"], reason);
            assert_eq!(status["conditions"][0]["status"], "True", "the object itself is understood");
            let again = desired(&policy(Vec::new(), status.clone()), &[], Some(&keys), 1, "now");
            assert_eq!(again, status, "not written again");
            let without = desired(&policy(Vec::new(), status.clone()), &[], None, 1, "now");
            assert_ne!(ours(&status), without, "and taken back where no keys are fetched");
        }
    }
}
