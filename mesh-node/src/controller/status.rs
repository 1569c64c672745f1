//! What a person should know of each policy, in its status: whether it was understood, how many pods it is about, whether
//! the keys were fetched that it names, and in how many agents it is in force.
//!
//! In: what is known, and whether this replica writes. Out: server-side applied status, written only where it would say
//! something else, a few a second; and an Event for a policy that is not understood any more, here or by an agent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Error};
use mesh_common::model::SpiffeId;
use mesh_common::snapshot::Snapshot;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::warn;

use super::FIELD_MANAGER;
use super::doubts::api;
use super::in_force::{Audience, Picture, Reader, Said};
use super::inventory::Policy;
use super::lease::Leadership;
use super::programmed::{PROGRAMMED, Patience, REFUSED, Report};
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
/// Its reason where tokens are refused for want of keys, and that of the Event about it.
const FETCH_FAILED: &str = "FetchFailed";

/// Writes status.
pub(super) struct Writer {
    pub(super) client: Client,
    pub(super) known: Arc<Known>,
    pub(super) leadership: Leadership,
    /// This replica, as Events name it.
    pub(super) instance: String,
    /// As whom agents run.
    pub(super) agent: SpiffeId,
    /// What agents have in force.
    pub(super) reader: Reader,
}

impl Writer {
    /// Writes until it is dropped.
    pub(super) async fn run(mut self) {
        let reporter =
            Reporter { controller: FIELD_MANAGER.to_owned(), instance: Some(self.instance.clone()) };
        let recorder = Recorder::new(self.client.clone(), reporter);
        let (mut looks, mut patience) = (interval(LOOK_AGAIN), Patience::default());
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if !self.leadership.is_held() || self.known.generation().borrow().is_none() {
                self.reader.rest();
                patience = Patience::default();
                continue;
            }
            let writes;
            (writes, patience) = self.due(patience).await;
            for write in writes {
                if !self.leadership.is_held() {
                    break;
                }
                self.write(&recorder, &write).await;
                sleep(PACE).await;
            }
        }
    }

    /// The policies whose status says something else than what holds.
    async fn due(&mut self, mut patience: Patience) -> (Vec<Write>, Patience) {
        let policies = self.known.policies();
        if policies.is_empty() {
            return (Vec::new(), patience);
        }
        // If it cannot be asked, nothing can be written either.
        let Some(picture) = self.reader.picture().await else { return (Vec::new(), patience) };
        // After the policies: what was seen of them is in the snapshot.
        let (snapshot, keys) = (self.known.snapshot(), self.known.key_standings());
        let agent = self.agent.clone();
        // Every policy against every pod: not on a thread that agents wait for.
        let due = tokio::task::spawn_blocking(move || {
            let facts = Facts {
                policies: &policies,
                keys: &keys,
                snapshot: &snapshot,
                picture: &picture,
                agent: &agent,
            };
            (facts.due(&mut patience, &Timestamp::now().to_string(), Instant::now()), patience)
        });
        due.await.unwrap_or_default()
    }

    async fn write(&self, recorder: &Recorder, write: &Write) {
        let Write { key, policy, status, news } = write;
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
            Ok(Ok(_)) => {
                for news in news {
                    self.tell(recorder, key, policy, news).await;
                }
            }
            // It has gone meanwhile.
            Ok(Err(Error::Api(answer))) if answer.is_not_found() => {}
            Ok(Err(error)) => warn!(object = %key, error = %Chain(&error), "status not written"),
            Err(_) => warn!(object = %key, "status not written: the API server does not answer"),
        }
    }

    /// Tells whoever looks at the policy that it is not in force as it is written.
    async fn tell(&self, recorder: &Recorder, key: &ObjectKey, policy: &Policy, news: &News) {
        let event = Event {
            type_: EventType::Warning,
            reason: news.reason.to_owned(),
            note: Some(news.note.clone()),
            action: news.action.to_owned(),
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
    /// What a person has to act on, who was not told before.
    news: Vec<News>,
}

/// An Event to be left.
#[derive(Clone, Debug)]
struct News {
    reason: &'static str,
    action: &'static str,
    note: String,
}

/// What status is made of.
struct Facts<'a> {
    policies: &'a BTreeMap<ObjectKey, Arc<Policy>>,
    keys: &'a BTreeMap<ObjectKey, KeyStanding>,
    snapshot: &'a Snapshot,
    picture: &'a Picture,
    /// As whom agents run.
    agent: &'a SpiffeId,
}

impl Facts<'_> {
    /// PURE. What is to be written, by name, as much as one round takes.
    fn due(&self, patience: &mut Patience, time: &str, now: Instant) -> Vec<Write> {
        let selection = Selection::of(self.snapshot);
        let audience = Audience::of(self.snapshot, self.agent);
        let said = Said::of(self.picture, &audience);
        let mut advised: BTreeMap<ObjectKey, Vec<(FieldError, Effect)>> = BTreeMap::new();
        for Advice { key, field, reason, effect } in policy_advice(self.snapshot) {
            advised.entry(key).or_default().push((FieldError { field, reason }, effect));
        }
        patience.tidy(|key| self.policies.contains_key(key), now);
        let mut writes = Vec::new();
        for (key, policy) in self.policies {
            if writes.len() == ROUND {
                break;
            }
            let effects = policy.faults.iter().map(|(_, effect)| effect);
            let report = Report::of(said.standing(key).as_ref(), effects);
            let is_time = patience.is_time(key, &report, &policy.status, policy.generation, now);
            let about = About {
                advice: advised.get(key).map_or(&[][..], Vec::as_slice),
                keys: self.keys.get(key),
                workloads: selection.count(key),
                // What is not said now stays as it was said.
                report: is_time.then_some(&report),
            };
            let status = desired(policy, &about, time);
            if ours(&policy.status) != status {
                let news = news(policy, &status, is_time.then_some(&report));
                writes.push(Write { key: key.clone(), policy: Arc::clone(policy), status, news });
            }
        }
        writes
    }
}

/// What is new to a person.
fn news(policy: &Policy, status: &Value, report: Option<&Report>) -> Vec<News> {
    let mut news = Vec::new();
    let accepted = condition(status, ACCEPTED);
    if accepted["status"] == "False" && condition(&policy.status, ACCEPTED)["status"] != "False" {
        let note = accepted["message"].as_str().unwrap_or_default().to_owned();
        news.push(News { reason: "NotAccepted", action: "Translate", note });
    }
    let fetched = condition(status, KEYS_FETCHED);
    if fetched["reason"] == FETCH_FAILED && condition(&policy.status, KEYS_FETCHED)["reason"] != FETCH_FAILED
    {
        let note = fetched["message"].as_str().unwrap_or_default().to_owned();
        news.push(News { reason: FETCH_FAILED, action: "Fetch", note });
    }
    if let Some(report) = report.filter(|report| report.is_news(&policy.status, policy.generation)) {
        news.push(News { reason: REFUSED, action: "Program", note: report.message.clone() });
    }
    news
}

/// What the status of one policy says, besides what is wrong with the object itself.
#[derive(Clone, Copy, Default)]
struct About<'a> {
    /// On what is not of itself alone.
    advice: &'a [(FieldError, Effect)],
    keys: Option<&'a KeyStanding>,
    workloads: usize,
    /// How it stands in agents; without, what was said of that.
    report: Option<&'a Report>,
}

/// PURE. The status that a policy should have; the time of a condition is kept while nothing changes.
fn desired(policy: &Policy, about: &About<'_>, now: &str) -> Value {
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
    let said = message(policy.faults.iter().chain(about.advice));
    let mut conditions = vec![condition(ACCEPTED, is_accepted, reason, said)];
    conditions.extend(about.keys.map(|keys| {
        let (is_met, reason) = match (keys.is_complete, keys.faults.is_empty()) {
            (true, true) => (true, "Fetched"),
            (true, false) => (true, "KeysOfBefore"),
            (false, true) => (false, "Pending"),
            (false, false) => (false, FETCH_FAILED),
        };
        condition(KEYS_FETCHED, is_met, reason, key_message(keys))
    }));
    let agents = match about.report {
        Some(report) => {
            let Report { is_met, reason, .. } = *report;
            conditions.push(condition(PROGRAMMED, is_met, reason, report.message.clone()));
            report.agents()
        }
        None => {
            let before = self::condition(&policy.status, PROGRAMMED);
            conditions.extend((!before.is_null()).then(|| before.clone()));
            policy.status["agents"].clone()
        }
    };
    with_agents(policy.generation.into(), about.workloads.into(), agents, conditions)
}

/// What a status says that we write; others may have written more.
fn ours(status: &Value) -> Value {
    let conditions = [ACCEPTED, KEYS_FETCHED, PROGRAMMED].map(|name| condition(status, name));
    let conditions = conditions.into_iter().filter(|condition| !condition.is_null()).cloned().collect();
    let [generation, workloads, agents] =
        ["observedGeneration", "workloads", "agents"].map(|field| status[field].clone());
    with_agents(generation, workloads, agents, conditions)
}

/// A status; one without agents names none: null is not a value that its definition takes.
fn with_agents(generation: Value, workloads: Value, agents: Value, conditions: Vec<Value>) -> Value {
    let mut status =
        json!({"observedGeneration": generation, "workloads": workloads, "conditions": conditions});
    if !agents.is_null() {
        status["agents"] = agents;
    }
    status
}

/// A condition of a status.
pub(super) fn condition<'s>(status: &'s Value, name: &str) -> &'s Value {
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

    fn about(workloads: usize) -> About<'static> {
        About { workloads, ..About::default() }
    }

    fn with_keys(keys: &KeyStanding) -> About<'_> {
        About { keys: Some(keys), ..about(1) }
    }

    #[test]
    fn a_policy_that_denies_for_a_fault_is_not_accepted_and_says_which() {
        let status = desired(&policy(vec![fault(Effect::Denies)], Value::Null), &about(2), "now");
        let condition = &status["conditions"][0];
        assert_eq!(condition["status"], "False");
        assert!(
            condition["message"].as_str().unwrap().starts_with("spec.rules[0]: is wrong: the policy denies")
        );
        assert_eq!((&status["observedGeneration"], &status["workloads"]), (&json!(3), &json!(2)));
    }

    #[test]
    fn a_warning_is_said_of_one_that_is_accepted() {
        let status = desired(&policy(vec![fault(Effect::Warning)], Value::Null), &about(0), "now");
        assert_eq!(status["conditions"][0]["status"], "True");
        assert_eq!(status["conditions"][0]["message"], "spec.rules[0]: is wrong");
    }

    #[test]
    fn what_was_written_is_not_written_again_and_keeps_its_time() {
        let first = desired(&policy(Vec::new(), Value::Null), &about(1), "then");
        assert_eq!(desired(&policy(Vec::new(), first.clone()), &about(1), "now"), first);
        let more = desired(&policy(Vec::new(), first.clone()), &about(2), "now");
        assert_eq!(more["conditions"][0]["lastTransitionTime"], "then");
        let broken = desired(&policy(vec![fault(Effect::Denies)], first), &about(1), "now");
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
            let status = desired(&policy(Vec::new(), Value::Null), &with_keys(&keys), "then");
            let fetched = &status["conditions"][1];
            assert_eq!((&fetched["type"], &fetched["status"]), (&json!(KEYS_FETCHED), &json!(state)));
            assert_eq!(fetched["reason"], reason);
            assert_eq!(status["conditions"][0]["status"], "True", "the object itself is understood");
            let told = news(&policy(Vec::new(), Value::Null), &status, None);
            let told: Vec<_> = told.iter().map(|news| (news.reason, &*news.note)).collect();
            let said = (FETCH_FAILED, fetched["message"].as_str().unwrap());
            assert_eq!(told, if reason == FETCH_FAILED { vec![said] } else { Vec::new() });
            assert_eq!(news(&policy(Vec::new(), status.clone()), &status, None).len(), 0, "and once");
            let again = desired(&policy(Vec::new(), status.clone()), &with_keys(&keys), "now");
            assert_eq!(again, status, "not written again");
            let without = desired(&policy(Vec::new(), status.clone()), &about(1), "now");
            assert_ne!(ours(&status), without, "and taken back where no keys are fetched");
        }
    }
    #[test]
    fn in_how_many_agents_it_is_in_force_stays_as_it_was_said_until_it_is_time() {
        use crate::controller::in_force::Standing;

        let refused = [("rules[0]: no".to_owned(), Default::default())].into();
        let standing = Standing { needed: 3, in_force: 2, refused, ..Standing::default() };
        let report = Report::of(Some(&standing), [].iter());
        let said = About { report: Some(&report), ..about(1) };
        let policy = |status| policy(Vec::new(), status);
        let first = desired(&policy(Value::Null), &said, "then");
        assert_eq!(first["agents"], json!({"needed": 3, "inForce": 2}));
        let programmed = condition(&first, PROGRAMMED);
        assert_eq!((&programmed["status"], &programmed["reason"]), (&json!("False"), &json!("Refused")));
        assert_eq!(ours(&first), first);
        let later = desired(&policy(first.clone()), &about(2), "now");
        assert_eq!((&later["agents"], condition(&later, PROGRAMMED)), (&first["agents"], programmed));
        assert_eq!(news(&policy(Value::Null), &first, Some(&report)).len(), 1);
        assert_eq!(news(&policy(first.clone()), &later, None).len(), 0);
        // Before a controller that counts: nothing is said of agents.
        let before = desired(&policy(Value::Null), &about(1), "now");
        assert!(before.get("agents").is_none() && ours(&before) == before);
    }
}
