//! Which agent calls, by the token of its pod: the API server says whose it is, and our own watch that the pod lives.
//!
//! In: a bearer token. Out: the agent's node, pod and identity. A token counts for the audience `nodemesh` alone, is
//! bound to a pod that runs on the node that the token names, and is of the agents' own service account. What the API
//! server said is kept for a short while; that the pod lives is asked each time.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use kube::Client;
use kube::api::{Api, PostParams};
use mesh_common::model::{SpiffeId, Text, WorkloadUid};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::agents::{AGENT_CERTIFICATE, AgentCaller, Authenticate, Authenticating, Refused};
use super::rates::{Rate, Rates};
use super::world::Known;

/// Whom tokens of agents are for.
pub const AUDIENCE: &str = "nodemesh";
/// The agents' service account, in the root namespace.
pub const AGENT: &str = "nodemesh-agent";

/// A token of Kubernetes has 1 to 2 kB.
const MAX_TOKEN: usize = 16 * 1024;
/// How long what the API server said of a good token is kept. That its pod lives is asked anew each time.
const KEEP_GOOD: Duration = Duration::from_secs(60);
/// And of a bad one.
const KEEP_BAD: Duration = Duration::from_secs(10);
/// Most tokens that something is kept of.
const MAX_KEPT: usize = 8192;
/// Questions to the API server at a time, and how long one may wait and take.
const AT_ONCE: usize = 32;
const PATIENCE: Duration = Duration::from_secs(10);
/// Unknown tokens that one address may show.
const UNKNOWN: Rate = Rate { per_second: 5.0, burst: 50.0 };
const MAX_ADDRESSES: usize = 16_384;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Knows agents by their tokens.
pub struct Tokens {
    client: Client,
    known: Arc<Known>,
    /// The agents' own identity.
    agent: SpiffeId,
    kept: Mutex<HashMap<[u8; 32], Kept>>,
    addresses: Mutex<Rates<IpAddr>>,
    questions: Semaphore,
}

#[derive(Clone)]
struct Kept {
    said: Result<AgentCaller, Refused>,
    until: Instant,
}

impl Tokens {
    /// Asks an API server.
    pub fn new(client: Client, known: Arc<Known>, agent: SpiffeId) -> Self {
        Self {
            client,
            known,
            agent,
            kept: Mutex::default(),
            addresses: Mutex::new(Rates::new(UNKNOWN, MAX_ADDRESSES)),
            questions: Semaphore::new(AT_ONCE),
        }
    }

    /// Says whose a token is that came from an address. `None`: too many unknown ones came from there.
    pub async fn admit(&self, bearer: &str, from: IpAddr) -> Option<Result<AgentCaller, Refused>> {
        let is_new = self.kept(&hash(bearer)).is_none();
        if is_new && !lock(&self.addresses).takes(&from, Instant::now()) {
            return None;
        }
        Some(self.authenticated(bearer).await)
    }

    async fn authenticated(&self, bearer: &str) -> Result<AgentCaller, Refused> {
        if bearer.is_empty() || bearer.len() > MAX_TOKEN {
            return Err(Refused::Unauthenticated(format!("a token has 1 to {MAX_TOKEN} bytes")));
        }
        let hash = hash(bearer);
        let said = match self.kept(&hash) {
            Some(said) => said,
            None => {
                let said = self.review(bearer).await;
                self.keep(hash, said.clone());
                said
            }
        };
        self.living(said?)
    }

    fn kept(&self, hash: &[u8; 32]) -> Option<Result<AgentCaller, Refused>> {
        let kept = lock(&self.kept);
        kept.get(hash).filter(|kept| kept.until > Instant::now()).map(|kept| kept.said.clone())
    }

    fn keep(&self, hash: [u8; 32], said: Result<AgentCaller, Refused>) {
        let keep = match said {
            Ok(_) => KEEP_GOOD,
            // It may do a moment later.
            Err(Refused::Unavailable(_)) => return,
            Err(_) => KEEP_BAD,
        };
        let now = Instant::now();
        let mut kept = lock(&self.kept);
        if kept.len() >= MAX_KEPT {
            kept.retain(|_, kept| kept.until > now);
        }
        // First what strangers can fill it with.
        if kept.len() >= MAX_KEPT {
            kept.retain(|_, kept| kept.said.is_ok());
        }
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(hash, Kept { said, until: now + keep });
    }

    /// Asks the API server.
    async fn review(&self, bearer: &str) -> Result<AgentCaller, Refused> {
        let away = |what: String| {
            Refused::Unavailable(format!("the API server did not say whose token it is: {what}"))
        };
        let question = async {
            let _place = self.questions.acquire().await.map_err(|error| away(error.to_string()))?;
            let review = TokenReview {
                spec: TokenReviewSpec {
                    token: bearer.to_owned(),
                    audiences: Some(vec![AUDIENCE.to_owned()]),
                },
                ..TokenReview::default()
            };
            let api: Api<TokenReview> = Api::all(self.client.clone());
            api.create(&PostParams::default(), &review).await.map_err(|error| away(error.to_string()))
        };
        let review =
            timeout(PATIENCE, question).await.map_err(|_| away("no answer in time".to_owned()))??;
        caller(review.status.unwrap_or_default(), &self.agent)
    }

    /// The caller as its own pod says, if that lives where the token says.
    fn living(&self, caller: AgentCaller) -> Result<AgentCaller, Refused> {
        let snapshot = self.known.snapshot();
        match snapshot.workload(&WorkloadUid(caller.pod_uid.clone())) {
            Some(pod) if pod.node == caller.node && pod.identity == caller.identity => {
                let (label, value) = AGENT_CERTIFICATE;
                let has_certificate = pod.details.labels.get(label).is_some_and(|found| **found == *value);
                Ok(AgentCaller { has_certificate, ..caller })
            }
            Some(pod) => Err(Refused::Forbidden(format!(
                "the token's pod {} is on node {:?} as {}, the token says {:?} and {}",
                pod.name, pod.node, pod.identity, caller.node, caller.identity
            ))),
            // A pod that has just begun comes to be known soon.
            None => Err(Refused::Unavailable(
                "the token's pod is not known: it has gone, or has just begun".to_owned(),
            )),
        }
    }
}

impl Authenticate for Tokens {
    fn authenticate<'a>(&'a self, bearer: &'a str) -> Authenticating<'a> {
        Box::pin(self.authenticated(bearer))
    }
}

/// PURE. What the API server's answer says of the caller.
fn caller(status: TokenReviewStatus, agent: &SpiffeId) -> Result<AgentCaller, Refused> {
    if status.authenticated != Some(true) {
        let why =
            status.error.filter(|error| !error.is_empty()).unwrap_or_else(|| "it is none of its".to_owned());
        return Err(Refused::Unauthenticated(format!(
            "the API server does not take the token for audience {AUDIENCE}: {why}"
        )));
    }
    // An API server that knows no audiences says none.
    if !status.audiences.iter().flatten().any(|audience| audience == AUDIENCE) {
        let reason = format!("the token is not for audience {AUDIENCE}: project it with that audience");
        return Err(Refused::Unauthenticated(reason));
    }
    let UserInfo { username, extra, .. } = status.user.unwrap_or_default();
    let expected = format!("system:serviceaccount:{}:{}", agent.namespace(), agent.service_account());
    let username = username.unwrap_or_default();
    if username != expected {
        return Err(Refused::Forbidden(format!("{username} is no agent: agents are {expected}")));
    }
    let extra = extra.unwrap_or_default();
    let [_, pod_uid, node] = [POD_NAME, POD_UID, NODE_NAME].map(|claim| one(&extra, claim));
    // What its pod says is not the API server's to say here.
    Ok(AgentCaller { node: node?, pod_uid: pod_uid?, identity: agent.clone(), has_certificate: false })
}

/// The one value of a claim.
fn one(extra: &BTreeMap<String, Vec<String>>, claim: &str) -> Result<Text, Refused> {
    match extra.get(claim).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Ok(value.as_str().into()),
        _ => Err(Refused::Forbidden(format!(
            "the token has no {claim}: it must be a pod's projected token, of Kubernetes 1.30 or later"
        ))),
    }
}

fn hash(bearer: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bearer.as_bytes()).as_ref());
    hash
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use mesh_common::model::TrustDomain;
    use serde_json::{Value, json};

    use super::*;

    fn agent() -> SpiffeId {
        SpiffeId::new(&TrustDomain::parse("cluster.local").unwrap(), "nodemesh-system", AGENT).unwrap()
    }

    fn good() -> Value {
        json!({
            "authenticated": true,
            "audiences": ["nodemesh"],
            "user": {
                "username": "system:serviceaccount:nodemesh-system:nodemesh-agent",
                "extra": {POD_NAME: ["agent-1"], POD_UID: ["7"], NODE_NAME: ["a"]},
            },
        })
    }

    fn read(status: &Value) -> Result<AgentCaller, Refused> {
        caller(serde_json::from_value(status.clone()).unwrap(), &agent())
    }

    #[test]
    fn an_agent_is_known_with_its_node() {
        let caller =
            AgentCaller { node: "a".into(), pod_uid: "7".into(), identity: agent(), has_certificate: false };
        assert_eq!(read(&good()), Ok(caller));
    }

    #[test]
    fn what_is_not_an_agents_token_for_us_is_refused() {
        for (pointer, value, fits) in [
            ("/authenticated", json!(false), "does not take"),
            ("/authenticated", Value::Null, "does not take"),
            ("/audiences", json!(["https://kubernetes.default.svc"]), "audience"),
            ("/audiences", json!([]), "audience"),
            ("/user/username", json!("system:serviceaccount:shop:nodemesh-agent"), "no agent"),
            ("/user/username", json!("system:serviceaccount:nodemesh-system:other"), "no agent"),
            ("/user/username", json!("admin"), "no agent"),
            ("/user/extra", json!({}), "node-name"),
            ("/user/extra", json!({POD_UID: ["7"]}), "node-name"),
            ("/user/extra", json!({NODE_NAME: ["a"]}), "pod-uid"),
            ("/user/extra", json!({POD_UID: ["7"], NODE_NAME: ["a", "b"]}), "node-name"),
            ("/user/extra", json!({POD_UID: ["7"], NODE_NAME: [""]}), "node-name"),
        ] {
            let mut status = good();
            *status.pointer_mut(pointer).unwrap() = value.clone();
            let refused = read(&status).unwrap_err();
            assert!(refused.to_string().contains(fits), "{pointer} {value}: {refused}");
            assert!(!matches!(refused, Refused::Unavailable(_)), "{refused}");
        }
    }
}
