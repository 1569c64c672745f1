//! What an API server in trouble makes of the mesh: nothing (RELIABILITY, fault 5).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_common::model::{MeshSettings, NamespacedName};
use mesh_common::snapshot::Delta;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::api::{Api, Trouble};
use crate::control::key_ring::{KeyErrands, KeyNews, KeyState, key_orders};
use crate::controller::metrics::Metrics;
use crate::controller::world::{Known, Publish, World};
use crate::telemetry::registry::Registry;

const POLICY: &str = "/apis/policy.nodemesh.dev/v1alpha1/namespaces/shop/authorizationpolicies/deny";
const POD: &str = "/api/v1/namespaces/shop/pods/web";
const PODS: &str = "/api/v1/pods";

/// What agents would have been told.
#[derive(Default)]
struct Told(Mutex<Vec<Delta>>);

impl Publish for Told {
    fn publish(&self, deltas: &[Delta]) {
        self.0.lock().unwrap().extend_from_slice(deltas);
    }
}

/// A controller's world on an API server with one pod and one policy.
struct Stand {
    api: Api,
    known: Arc<Known>,
    told: Arc<Told>,
    errands: KeyErrands,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stand {
    fn start() -> Self {
        let api = Api::new();
        api.put(POD, pod("web", "1", "10.0.0.1"));
        api.put(POLICY, policy(&json!({"action": "DENY", "rules": [{}]})));
        let told = Arc::new(Told::default());
        let settings = Arc::new(MeshSettings::default());
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let (orders, errands) = key_orders();
        let world = World::new(api.client(), settings, Arc::clone(&told) as _, orders, metrics);
        let known = world.known();
        Self { api, known, told, errands, task: tokio::spawn(world.run()) }
    }

    async fn synced() -> Self {
        let stand = Self::start();
        stand.until(|known| known.generation().borrow().is_some()).await;
        assert!(stand.is_whole());
        stand
    }

    /// Waits until something is known: the clock is not a real one, so that this takes no time.
    async fn until(&self, is: impl Fn(&Known) -> bool) {
        let wait = async {
            while !is(&self.known) {
                // Between two looks; the paused clock jumps over it.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_secs(600), wait).await.expect("it is known in time");
    }

    /// Lets a while of the paused clock go by: what is tested is that nothing happens in it.
    async fn after(&self, while_: Duration) {
        tokio::time::sleep(while_).await;
    }

    fn has_pod(&self, name: &str) -> bool {
        self.known.snapshot().workloads().any(|pod| &*pod.name.name == name)
    }

    /// Whether pod and policy are in force.
    fn is_whole(&self) -> bool {
        self.has_pod("web") && self.known.snapshot().authorization_policies().count() == 1
    }

    fn removed(&self) -> usize {
        let told = self.told.0.lock().unwrap();
        let is_removal =
            |delta: &&Delta| matches!(delta, Delta::RemoveWorkload(_) | Delta::RemoveAuthorizationPolicy(_));
        told.iter().filter(is_removal).count()
    }
}

fn pod(name: &str, version: &str, address: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": version},
        "spec": {"nodeName": "a"},
        "status": {"phase": "Running", "podIPs": [{"ip": address}]},
    })
}

fn policy(spec: &Value) -> Value {
    json!({"metadata": {"name": "deny", "namespace": "shop", "resourceVersion": "1"}, "spec": spec})
}

const USERS: &str = "/apis/policy.nodemesh.dev/v1alpha1/namespaces/shop/requestauthentications/users";
const URI: &str = "https://issuer.example/keys";

#[tokio::test(start_paused = true)]
async fn keys_are_wanted_and_reach_agents_as_a_change_of_the_object() {
    let mut stand = Stand::start();
    stand.api.put(OWN_DEFINITION, own_definition());
    let spec = json!({"jwtRules": [{"issuer": "https://issuer.example", "jwksUri": URI}]});
    let metadata = json!({"name": "users", "namespace": "shop", "resourceVersion": "9"});
    stand.api.put(USERS, json!({"metadata": metadata, "spec": spec}));
    let rule = |known: &Known| {
        let snapshot = known.snapshot();
        let mut all = snapshot.all_request_authentications();
        all.next().map(|policy| policy.rules[0].clone())
    };
    stand.until(|known| rule(known).is_some()).await;
    let unfetched = rule(&stand.known).unwrap();
    assert_eq!((unfetched.keys, unfetched.keys_uri.as_deref()), (None, Some(URI)), "agents keep theirs");
    stand.errands.wanted.changed().await.unwrap();
    assert!(stand.errands.wanted.borrow().contains_key(URI));
    let keys = Arc::new(mesh_common::token::KeySet::parse(r#"{"keys":[]}"#).unwrap());
    let state = KeyState { keys: Some(Arc::clone(&keys)), ..KeyState::default() };
    stand.errands.news.send(KeyNews { uri: URI.into(), state }).await.unwrap();
    stand.until(|known| rule(known).is_some_and(|rule| rule.keys.is_some())).await;
    assert!(stand.known.key_standings().values().all(|standing| standing.is_complete));
    let told = stand.told.0.lock().unwrap();
    let last = told.last().unwrap();
    assert!(matches!(last, Delta::UpsertRequestAuthentication(policy) if policy.rules[0].keys == Some(keys)));
}

const OWN_DEFINITION: &str =
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/requestauthentications.policy.nodemesh.dev";

fn own_definition() -> Value {
    json!({
        "metadata": {"name": "requestauthentications.policy.nodemesh.dev", "uid": "1", "resourceVersion": "1"},
        "spec": {"group": "policy.nodemesh.dev", "versions": [{"name": "v1alpha1", "served": true}]},
        "status": {"conditions": [{"type": "Established", "status": "True"}]},
    })
}

#[tokio::test(start_paused = true)]
async fn a_definition_of_our_own_that_is_not_there_holds_nothing_up_and_counts_when_it_comes() {
    let stand = Stand::synced().await;
    assert!(stand.known.missing().is_empty());
    assert_eq!(stand.known.snapshot().all_request_authentications().count(), 0);
    stand.api.put(OWN_DEFINITION, own_definition());
    let metadata = json!({"name": "users", "namespace": "shop", "resourceVersion": "9"});
    stand.api.put(USERS, json!({"metadata": metadata, "spec": {}}));
    // Watches hear of it with their next list.
    stand.api.is_in(Trouble::Expired);
    stand.until(|known| known.snapshot().all_request_authentications().count() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn while_nobody_knows_whether_a_definition_of_our_own_is_there_nothing_is_told() {
    let stand = Stand::start();
    stand.api.put(OWN_DEFINITION, own_definition());
    // The lists are empty, and asked for the definition the server knows nothing.
    stand.api.is_in(Trouble::EmptyLists);
    stand.after(WHILE).await;
    assert!(stand.known.generation().borrow().is_none() && stand.told.0.lock().unwrap().is_empty());
    stand.api.is_in(Trouble::None);
    stand.until(|known| known.generation().borrow().is_some()).await;
}

const WHILE: Duration = Duration::from_secs(300);

#[tokio::test(start_paused = true)]
async fn an_empty_list_after_an_error_deletes_nothing() {
    let stand = Stand::synced().await;
    stand.api.is_in(Trouble::Expired);
    stand.api.is_in(Trouble::EmptyLists);
    stand.after(WHILE).await;
    assert!(stand.is_whole() && stand.removed() == 0);
    stand.api.is_in(Trouble::None);
    stand.after(WHILE).await;
    assert!(stand.is_whole() && stand.removed() == 0);
}

#[tokio::test(start_paused = true)]
async fn what_went_while_nobody_looked_goes_when_the_api_server_says_so_of_it() {
    let stand = Stand::synced().await;
    stand.api.is_in(Trouble::Errors);
    stand.api.delete(POD);
    stand.api.put("/api/v1/namespaces/shop/pods/new", pod("new", "2", "10.0.0.2"));
    stand.after(WHILE).await;
    assert!(stand.is_whole());
    stand.api.is_in(Trouble::Expired);
    stand.until(|known| known.snapshot().workloads().all(|pod| &*pod.name.name == "new")).await;
    assert_eq!(stand.removed(), 1);
    assert_eq!(stand.known.snapshot().authorization_policies().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn errors_silence_and_truncated_lists_change_nothing_and_pass() {
    for trouble in [Trouble::Errors, Trouble::Silence, Trouble::TruncatedLists] {
        let stand = Stand::synced().await;
        stand.api.is_in(Trouble::Expired);
        stand.api.is_in(trouble);
        stand.after(WHILE).await;
        assert!(stand.is_whole() && stand.removed() == 0, "{trouble:?}");
        stand.api.put("/api/v1/namespaces/shop/pods/new", pod("new", "2", "10.0.0.2"));
        stand.api.is_in(Trouble::Expired);
        stand.until(|known| known.snapshot().workloads().count() == 2).await;
        assert!(stand.is_whole() && stand.removed() == 0, "{trouble:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_fails_is_not_stormed() {
    let stand = Stand::synced().await;
    stand.api.is_in(Trouble::Errors);
    let before = stand.api.requests(PODS);
    stand.after(WHILE).await;
    let asked = stand.api.requests(PODS) - before;
    // Every 30 s on average, after the first few.
    assert!((5..40).contains(&asked), "{asked} requests in {WHILE:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_before_every_kind_was_listed() {
    let stand = Stand::start();
    stand.api.is_in(Trouble::TruncatedLists);
    stand.after(WHILE).await;
    assert_eq!(*stand.known.generation().borrow(), None);
    assert!(stand.told.0.lock().unwrap().is_empty());
    assert!(!stand.known.missing().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_poisoned_object_hurts_no_other_and_a_poisoned_policy_denies() {
    let stand = Stand::synced().await;
    stand.api.put("/api/v1/namespaces/shop/pods/bad", pod("bad", "2", "nowhere"));
    stand.api.put("/api/v1/namespaces/shop/pods/new", pod("new", "2", "10.0.0.2"));
    stand.api.put("/api/v1/namespaces/shop/pods/worse", json!({"metadata": {"name": 7}, "spec": []}));
    stand.api.put(POLICY, policy(&json!({"action": "ALLOW", "rules": [{"unheardOf": true}]})));
    stand.api.is_in(Trouble::Expired);
    stand.until(|known| known.snapshot().workloads().count() == 2).await;
    stand.until(|known| known.faults().len() == 2).await;
    let snapshot = stand.known.snapshot();
    let policy = snapshot.authorization_policies().next().unwrap();
    assert_eq!(policy.name, NamespacedName::new("shop", "deny"));
    assert!(policy.fault.is_some(), "it denies what it might have denied");
}

const DEFINITION: &str =
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/httproutes.gateway.networking.k8s.io";
const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/httproutes";
const ROUTE: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/web";

fn definition(uid: &str) -> Value {
    json!({
        "metadata": {"name": "httproutes.gateway.networking.k8s.io", "uid": uid, "resourceVersion": uid},
        "spec": {"versions": [{"name": "v1", "served": true}]},
        "status": {"conditions": [{"type": "Established", "status": "True"}]},
    })
}

fn knows_route(known: &Known) -> bool {
    known.routes().keys().any(|key| &*key.name.name == "web")
}

#[tokio::test(start_paused = true)]
async fn a_kind_is_watched_while_the_api_server_has_its_definition() {
    let stand = Stand::synced().await;
    let parents = json!([{"group": "", "kind": "Service", "name": "web"}]);
    let metadata = json!({"name": "web", "namespace": "shop", "resourceVersion": "1"});
    stand.api.put(ROUTE, json!({"metadata": metadata, "spec": {"parentRefs": parents}}));
    stand.after(WHILE).await;
    assert_eq!(stand.api.requests(ROUTES), 0, "nobody asks for a kind that is not there");

    stand.api.put(DEFINITION, definition("1"));
    stand.api.is_in(Trouble::Expired);
    stand.until(knows_route).await;
    for trouble in [Trouble::EmptyLists, Trouble::Errors, Trouble::Silence, Trouble::TruncatedLists] {
        stand.api.is_in(trouble);
        stand.after(WHILE).await;
        assert!(knows_route(&stand.known), "{trouble:?}");
    }

    stand.api.delete(DEFINITION);
    stand.api.is_in(Trouble::Expired);
    stand.until(|known| !knows_route(known)).await;
    stand.api.is_in(Trouble::None);
    let before = stand.api.requests(ROUTES);
    stand.after(WHILE).await;
    assert_eq!(stand.api.requests(ROUTES), before, "nobody asks for a kind that is gone");
    assert!(stand.is_whole() && stand.removed() == 0);

    stand.api.put(DEFINITION, definition("2"));
    stand.api.is_in(Trouble::Expired);
    stand.until(knows_route).await;
}
