//! PURE. The keys of issuers that publish them (`jwksUri`): which are wanted, what is known of each, and what that makes of
//! the RequestAuthentications that name them.
//!
//! In: RequestAuthentications, and what was fetched. Out: the same with keys, which URIs to fetch, and what is wrong. A
//! URI of several rules is one. Never: a fetch, a clock. Between this and who fetches are [`KeyOrders`] and [`KeyErrands`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_common::model::{NamespacedName, RequestAuthentication, Text};
use mesh_common::snapshot::Delta;
use mesh_common::token::KeySet;
use tokio::sync::{mpsc, watch};

use super::object::{Kind, ObjectKey};
use super::translate::request_authentication::TokenRules;
use super::translate::{Effect, FieldError};

/// Bytes of keys that one object may fetch: what agents are told of it in one message.
const MAX_OF_OBJECT: usize = 1 << 20;
/// What was fetched and not taken yet.
const QUEUE: usize = 64;

/// URIs to fetch keys from, each with how long that may take.
pub type Wanted = BTreeMap<Text, Duration>;

/// What became of the keys of a URI.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyNews {
    /// Which one.
    pub uri: Text,
    /// What is known of it now.
    pub state: KeyState,
}

/// What is known of the keys of a URI.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeyState {
    /// The last that were fetched, while they may be used.
    pub keys: Option<Arc<KeySet>>,
    /// Why none can be fetched now.
    pub failure: Option<KeyFailure>,
    /// Nobody may use keys from there any more: none could be fetched for too long.
    pub is_expired: bool,
}

/// Why keys cannot be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFailure {
    /// What went wrong the last time.
    pub reason: String,
    /// Since when nothing else does.
    pub since: SystemTime,
    /// Until when keys of before may be used.
    pub until: SystemTime,
}

/// Every RequestAuthentication whose keys are published elsewhere, and those keys.
#[derive(Debug, Default)]
pub struct KeyRing {
    objects: BTreeMap<NamespacedName, Arc<TokenRules>>,
    known: HashMap<Text, KeyState>,
    /// Whether the URIs changed since they were taken.
    has_other_uris: bool,
}

impl KeyRing {
    /// Takes an object, and gives it its keys.
    pub fn put(&mut self, name: &NamespacedName, rules: &Arc<TokenRules>) -> Arc<RequestAuthentication> {
        self.forget(name);
        if !rules.remote.is_empty() {
            self.objects.insert(name.clone(), Arc::clone(rules));
            self.has_other_uris = true;
        }
        Arc::new(self.with_keys(rules))
    }

    /// Takes that an object is gone.
    pub fn forget(&mut self, name: &NamespacedName) {
        self.has_other_uris |= self.objects.remove(name).is_some();
    }

    /// Takes what was fetched; says what that changes.
    pub fn learn(&mut self, news: impl IntoIterator<Item = KeyNews>) -> Vec<Delta> {
        let mut changed = Vec::new();
        for KeyNews { uri, state } in news {
            let before = self.known.insert(uri.clone(), state);
            let after = &self.known[&uri];
            let before = before.unwrap_or_default();
            if (&before.keys, before.is_expired) != (&after.keys, after.is_expired) {
                changed.push(uri);
            }
        }
        let names = |rules: &TokenRules| rules.remote.iter().any(|remote| changed.contains(&remote.uri));
        let concerned = self.objects.values().filter(|rules| names(rules));
        concerned.map(|rules| Delta::UpsertRequestAuthentication(Arc::new(self.with_keys(rules)))).collect()
    }

    /// The URIs to fetch keys from, if they changed since this was asked last. Of others nothing is known any more.
    pub fn take_wanted(&mut self) -> Option<Wanted> {
        if !std::mem::take(&mut self.has_other_uris) {
            return None;
        }
        let mut wanted = Wanted::new();
        for remote in self.objects.values().flat_map(|rules| &rules.remote) {
            let timeout = wanted.entry(remote.uri.clone()).or_default();
            *timeout = remote.timeout.max(*timeout);
        }
        self.known.retain(|uri, _| wanted.contains_key(uri));
        Some(wanted)
    }

    /// What is wrong with the keys of each object, and whether all are there.
    pub fn standings(&self) -> BTreeMap<ObjectKey, KeyStanding> {
        let object =
            |name: &NamespacedName| ObjectKey { kind: Kind::RequestAuthentication, name: name.clone() };
        let standing = |rules: &TokenRules| {
            let mut standing = KeyStanding::default();
            let mut left = MAX_OF_OBJECT;
            for remote in &rules.remote {
                let field = format!("spec.jwtRules[{}].jwksUri", remote.rule);
                let state = self.known.get(&remote.uri);
                standing.is_complete &= state.is_some_and(|state| state.keys.is_some());
                let fits = state.is_none_or(|state| takes(&mut left, state));
                let fault = match state {
                    _ if !fits => Some((too_much(), Effect::Denies)),
                    Some(state) => state.failure.as_ref().map(|failure| failure.said(state, &remote.uri)),
                    None => None,
                };
                let fault = fault.map(|(reason, effect)| (FieldError { field, reason }, effect));
                standing.faults.extend(fault);
            }
            standing
        };
        self.objects.iter().map(|(name, rules)| (object(name), standing(rules))).collect()
    }

    fn with_keys(&self, rules: &TokenRules) -> RequestAuthentication {
        let mut policy = rules.policy.clone();
        let mut left = MAX_OF_OBJECT;
        let unknown = KeyState::default();
        for remote in &rules.remote {
            let state = self.known.get(&remote.uri).unwrap_or(&unknown);
            if state.is_expired || !takes(&mut left, state) {
                continue;
            }
            let Some(rule) = policy.rules.get_mut(remote.rule) else { continue };
            rule.keys = state.keys.clone();
            rule.keys_uri = Some(remote.uri.clone());
        }
        policy
    }
}

/// How the keys of an object stand.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyStanding {
    /// Whether every URI has given keys that may be used.
    pub is_complete: bool,
    /// What is wrong.
    pub faults: Vec<(FieldError, Effect)>,
}

impl Default for KeyStanding {
    fn default() -> Self {
        Self { is_complete: true, faults: Vec::new() }
    }
}

impl KeyFailure {
    fn said(&self, state: &KeyState, uri: &str) -> (String, Effect) {
        let Self { reason, since, until } = self;
        let (since, until) = (utc(*since), utc(*until));
        let failed = format!("keys cannot be fetched from {uri} since {since}: {reason}");
        match &state.keys {
            Some(_) => (format!("{failed}; those of before are used until {until}"), Effect::Warning),
            None if state.is_expired => (
                format!("{failed}; those of before are too old: tokens of the issuer are refused"),
                Effect::Denies,
            ),
            None => (
                format!("{failed}; tokens of the issuer are refused where no keys are known"),
                Effect::Denies,
            ),
        }
    }
}

/// Takes the bytes of keys from what is left of an object's.
fn takes(left: &mut usize, state: &KeyState) -> bool {
    let size = state.keys.as_ref().map_or(0, |keys| keys.text().len());
    let rest = left.checked_sub(size);
    *left = rest.unwrap_or(*left);
    rest.is_some()
}

fn too_much() -> String {
    "gives keys of more than 1 MiB together with the rules before it: tokens of the issuer are refused"
        .to_owned()
}

fn utc(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// The end of who knows which keys are wanted.
#[derive(Debug)]
pub struct KeyOrders {
    wanted: watch::Sender<Arc<Wanted>>,
    news: mpsc::Receiver<KeyNews>,
}

/// The end of who fetches them.
#[derive(Debug)]
pub struct KeyErrands {
    /// What is wanted.
    pub wanted: watch::Receiver<Arc<Wanted>>,
    /// Where it is told what came of it.
    pub news: mpsc::Sender<KeyNews>,
}

/// Both ends.
pub fn key_orders() -> (KeyOrders, KeyErrands) {
    let (placed, wanted) = watch::channel(Arc::default());
    let (told, news) = mpsc::channel(QUEUE);
    (KeyOrders { wanted: placed, news }, KeyErrands { wanted, news: told })
}

impl KeyOrders {
    /// Says which keys are wanted.
    pub fn place(&self, wanted: Wanted) {
        self.wanted.send_replace(Arc::new(wanted));
    }

    /// What was fetched, as much as there is. Never returns where nobody fetches. Cancel safe.
    pub async fn next(&mut self) -> Vec<KeyNews> {
        let mut news = Vec::new();
        if self.news.recv_many(&mut news, QUEUE).await == 0 {
            std::future::pending::<()>().await;
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use mesh_common::model::MeshSettings;
    use serde_json::json;

    use super::*;
    use crate::control::object::Meaning;
    use crate::control::served::served;

    const URI: &str = "https://issuer.example/keys";
    const OTHER: &str = "http://keys.shop/jwks";

    fn name(name: &str) -> NamespacedName {
        NamespacedName::new("shop", name)
    }

    fn rules(object: &str, uris: &[&str]) -> Arc<TokenRules> {
        let rules = uris.iter().map(|uri| json!({"issuer": *uri, "jwksUri": uri}));
        let rules: Vec<serde_json::Value> = rules.collect();
        let spec = json!({"metadata": {"name": object, "namespace": "shop"}, "spec": {"jwtRules": rules}});
        let key = ObjectKey { kind: Kind::RequestAuthentication, name: name(object) };
        match served(&key, &spec, &MeshSettings::default()).meaning {
            Some(Meaning::RequestAuthentication(rules)) => rules,
            other => panic!("{other:?}"),
        }
    }

    fn keys() -> Arc<KeySet> {
        Arc::new(KeySet::parse(r#"{"keys":[]}"#).unwrap())
    }

    fn news(uri: &str, keys: Option<Arc<KeySet>>, is_expired: bool) -> KeyNews {
        let failure = keys.is_none().then(|| KeyFailure {
            reason: "answered 500".to_owned(),
            since: SystemTime::UNIX_EPOCH,
            until: SystemTime::UNIX_EPOCH,
        });
        KeyNews { uri: uri.into(), state: KeyState { keys, failure, is_expired } }
    }

    fn told(deltas: &[Delta]) -> Vec<&RequestAuthentication> {
        let told = |delta: &'_ Delta| match delta {
            Delta::UpsertRequestAuthentication(policy) => &**Box::leak(Box::new(Arc::clone(policy))),
            other => panic!("{other:?}"),
        };
        deltas.iter().map(told).collect()
    }

    #[test]
    fn one_uri_of_several_objects_is_wanted_once_and_gives_all_their_keys() {
        let mut ring = KeyRing::default();
        let policy = ring.put(&name("a"), &rules("a", &[URI, OTHER]));
        assert_eq!((&policy.rules[0].keys, policy.rules[0].keys_uri.as_deref()), (&None, Some(URI)));
        ring.put(&name("b"), &rules("b", &[URI]));
        assert_eq!(ring.take_wanted().unwrap().len(), 2);
        assert_eq!(ring.take_wanted(), None);
        let deltas = ring.learn([news(URI, Some(keys()), false)]);
        let told = told(&deltas);
        assert_eq!(told.len(), 2);
        assert!(told.iter().all(|policy| policy.rules[0].keys == Some(keys())));
        assert_eq!(told[0].rules[1].keys, None);
        assert!(ring.learn([news(URI, Some(keys()), false)]).is_empty(), "the same keys change nothing");
        assert!(ring.put(&name("c"), &rules("c", &[URI])).rules[0].keys.is_some(), "known at once");
    }

    #[test]
    fn keys_that_nobody_names_any_more_are_forgotten() {
        let mut ring = KeyRing::default();
        ring.put(&name("a"), &rules("a", &[URI]));
        ring.take_wanted();
        ring.learn([news(URI, Some(keys()), false)]);
        ring.forget(&name("a"));
        assert_eq!(ring.take_wanted(), Some(Wanted::new()));
        assert!(ring.put(&name("a"), &rules("a", &[URI])).rules[0].keys.is_none());
    }

    #[test]
    fn what_is_too_old_is_taken_back_with_its_uri_and_what_was_not_fetched_yet_is_not() {
        let mut ring = KeyRing::default();
        ring.put(&name("a"), &rules("a", &[URI]));
        assert!(ring.learn([news(URI, None, false)]).is_empty(), "agents keep what they have");
        let standings = ring.standings();
        let standing = standings.values().next().unwrap();
        let (error, effect) = &standing.faults[0];
        assert_eq!((&*error.field, *effect), ("spec.jwtRules[0].jwksUri", Effect::Denies));
        assert!(error.reason.contains(URI) && error.reason.contains("1970-01-01T00:00:00Z: answered 500"));
        assert!(!standing.is_complete);
        let deltas = ring.learn([news(URI, None, true)]);
        assert_eq!(told(&deltas)[0].rules[0].keys_uri, None);
    }

    #[test]
    fn one_object_is_told_no_more_than_agents_take() {
        let mut ring = KeyRing::default();
        let uris: Vec<String> = (0..8).map(|number| format!("http://{number}.shop/keys")).collect();
        let uris: Vec<&str> = uris.iter().map(String::as_str).collect();
        ring.put(&name("a"), &rules("a", &uris));
        let large = format!(r#"{{"keys":[],"x":"{}"}}"#, "x".repeat(250 << 10));
        let large = Arc::new(KeySet::parse(&large).unwrap());
        let deltas = ring.learn(uris.iter().map(|uri| news(uri, Some(Arc::clone(&large)), false)));
        let told = told(&deltas);
        assert_eq!(told[0].rules.iter().filter(|rule| rule.keys.is_some()).count(), 4);
        let standings = ring.standings();
        let denying = standings.values().flat_map(|it| &it.faults).filter(|(_, it)| *it == Effect::Denies);
        assert_eq!(denying.count(), 4);
    }
}
