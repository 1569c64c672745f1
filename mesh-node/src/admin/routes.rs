//! Paths and what they answer: plain text for the node, JSON for the command line.

use std::time::SystemTime;

use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use mesh_common::model::{DecisionId, Enrolment, NodeMark};
use mesh_common::snapshot::Snapshot;
use serde::Serialize;

use super::Agent;
use super::documents::{Log, Refusal, Status};
use super::explain::Knowledge;
use super::explain::documents::Question;
use super::{checks, dump, explain, policies};
use crate::control::MAX_LISTED;
use crate::proxy::{KEPT_OTHERS, KEPT_REFUSALS};
use crate::telemetry::chain::Chain;

/// An answer.
pub type Answer = Response<Full<Bytes>>;

/// The longest body that is read, in bytes: a log filter.
const MAX_BODY: usize = 4096;

/// The longest question: a request's head, and some.
const MAX_QUESTION: usize = 256 * 1024;

/// The metrics' media type (Prometheus text exposition format).
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT_TYPE: &str = "text/plain; charset=utf-8";
const JSON_TYPE: &str = "application/json";

/// Answers on the metrics' address. `/stats/prometheus` is what Istio's scrape configurations ask for.
pub async fn metrics(agent: &impl Agent, method: &Method, path: &str) -> Answer {
    match (method, path) {
        (&Method::GET, "/metrics" | "/stats/prometheus") => metrics_answer(agent.metrics().await),
        _ => not_found(path),
    }
}

/// Answers on the readiness address. `/healthz/ready` is what Istio's probes ask for.
pub async fn readiness(agent: &impl Agent, method: &Method, path: &str) -> Answer {
    let unmet = match (method, path) {
        (&Method::GET, "/readyz" | "/healthz/ready") => agent.unmet().await,
        (&Method::GET, "/livez") => agent.stuck().await,
        _ => return not_found(path),
    };
    probe_answer(&unmet)
}

/// Metrics, as a scrape wants them.
pub fn metrics_answer(text: String) -> Answer {
    answer(StatusCode::OK, METRICS_TYPE, text)
}

/// Whether anything is unmet, and what.
pub fn probe_answer(unmet: &[String]) -> Answer {
    if unmet.is_empty() {
        return answer(StatusCode::OK, TEXT_TYPE, "ok\n".to_owned());
    }
    answer(StatusCode::SERVICE_UNAVAILABLE, TEXT_TYPE, unmet.join("\n") + "\n")
}

/// Answers on the Unix socket.
pub async fn admin<A: Agent, B>(agent: &A, request: http::Request<B>) -> Answer
where
    B: http_body::Body<Error: std::error::Error + Send + Sync + 'static>,
{
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::GET, "/v1/status") => json(&status(agent).await),
        (&Method::GET, "/v1/check") => {
            let mut found = checks::checks(&status(agent).await, &dump::certificates(agent.certificates()));
            found.extend(agent.checks().await);
            json(&found)
        }
        (&Method::GET, "/v1/dump/workloads") => json(&dump::workloads(&agent.snapshot())),
        (&Method::GET, "/v1/dump/services") => json(&dump::services(&agent.snapshot())),
        (&Method::GET, "/v1/dump/policies") => json(&policies::policies(&agent.snapshot())),
        (&Method::GET, "/v1/dump/certificates") => json(&dump::certificates(agent.certificates())),
        (&Method::GET, "/v1/dump/connections") => json(&agent.connections().await),
        (&Method::POST, "/v1/explain") => explain(agent, request.into_body()).await,
        (&Method::GET, decided) if let Some(id) = decided.strip_prefix("/v1/decisions/") => {
            decision(agent, id).await
        }
        (&Method::GET, "/v1/log") => log(agent),
        (&Method::PUT, "/v1/log") => set_log(agent, request.into_body()).await,
        _ => refuse(StatusCode::NOT_FOUND, format!("{path} is not known to this agent")),
    }
}

async fn status(agent: &impl Agent) -> Status {
    let overview = agent.overview();
    let snapshot = agent.snapshot();
    let unmet = agent.unmet().await;
    let certificates = agent.certificates();
    let mut problems = overview.problems;
    let problems_left_out = problems.len().saturating_sub(MAX_LISTED);
    problems.truncate(MAX_LISTED);
    let is_enrolled = |pod: &&std::sync::Arc<_>| is_enrolled(pod);
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        process_id: std::process::id(),
        uptime_seconds: SystemTime::now().duration_since(overview.started).unwrap_or_default().as_secs(),
        workers: overview.workers,
        ready: unmet.is_empty(),
        unmet,
        generation: snapshot.generation(),
        workloads: snapshot.workloads().count(),
        enrolled: snapshot.workloads_on(&overview.node).filter(is_enrolled).count(),
        services: snapshot.services().count(),
        answered: snapshot.answered(),
        policies: snapshot.authorization_policies().count() + snapshot.all_peer_authentications().count(),
        certificates_usable: certificates.iter().filter(|certificate| certificate.usable).count(),
        certificates: certificates.len(),
        connections: agent.connections().await.len(),
        connections_outside: overview.connections_outside,
        in_doubt: overview.in_doubt,
        untold: overview.untold,
        being_read: overview.being_read,
        not_captured: overview.not_captured,
        detected: overview.detected,
        node: overview.node,
        kernel: overview.kernel,
        problems,
        problems_left_out,
    }
}

fn is_enrolled(pod: &mesh_common::model::Workload) -> bool {
    pod.enrolment == Enrolment::Enabled
}

fn log(agent: &impl Agent) -> Answer {
    match agent.log_filter().directives() {
        Ok(filter) => json(&Log { filter }),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, Chain(&error).to_string()),
    }
}

/// May somebody do something, and why.
async fn explain<A: Agent, B>(agent: &A, body: B) -> Answer
where
    B: http_body::Body<Error: std::error::Error + Send + Sync + 'static>,
{
    let Ok(body) = Limited::new(body, MAX_QUESTION).collect().await else {
        return refuse(
            StatusCode::BAD_REQUEST,
            format!("the question has no end within {MAX_QUESTION} bytes"),
        );
    };
    let question: Question = match serde_json::from_slice(&body.to_bytes()) {
        Ok(question) => question,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, format!("the body is no question: {error}")),
    };
    let (snapshot, node) = (agent.snapshot(), agent.overview().node);
    match explain::explain(knowledge(agent, &snapshot, &node), &question) {
        Ok(explanation) => json(&explanation),
        Err(error) => refuse(StatusCode::BAD_REQUEST, error),
    }
}

/// A refusal by its id.
async fn decision(agent: &impl Agent, id: &str) -> Answer {
    let id: DecisionId = match id.parse() {
        Ok(id) => id,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, format!("{id:?} {error}")),
    };
    let (snapshot, node) = (agent.snapshot(), agent.overview().node);
    match agent.refusal(id).await {
        Some(refused) => json(&explain::decision(knowledge(agent, &snapshot, &node), &refused)),
        None => refuse(StatusCode::NOT_FOUND, not_kept(agent, &snapshot, &node, &id)),
    }
}

/// Why nothing is known of a refusal.
fn not_kept(agent: &impl Agent, snapshot: &Snapshot, node: &str, id: &DecisionId) -> String {
    if agent.gave(id) {
        return format!(
            "{id} is of this agent, and it keeps no such refusal: of all cores together it keeps the last \
             {KEPT_REFUSALS} by policy and {KEPT_OTHERS} others; the access log may still have it"
        );
    }
    if id.is_of(NodeMark::of(node)) {
        return format!("{id} is of an earlier run of the agent of {node}: what it kept ended with it");
    }
    let pods = snapshot.workloads().map(|pod| &pod.node);
    let mut others = snapshot.nodes().map(|known| &known.name).chain(pods);
    match others.find(|other| id.is_of(NodeMark::of(other))) {
        Some(other) => {
            format!("{id} is of node {other}, and this is the agent of {node}: ask the agent of {other}")
        }
        None => format!("{id} is not of node {node}, and no node is known here that it is of"),
    }
}

fn knowledge<'a>(agent: &impl Agent, snapshot: &'a Snapshot, node: &'a str) -> Knowledge<'a> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    Knowledge { snapshot, only_node: (!agent.knows_all()).then_some(node), now }
}

async fn set_log<A: Agent, B>(agent: &A, body: B) -> Answer
where
    B: http_body::Body<Error: std::error::Error + Send + Sync + 'static>,
{
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        return refuse(StatusCode::BAD_REQUEST, format!("the body has no end within {MAX_BODY} bytes"));
    };
    let wanted: Log = match serde_json::from_slice(&body.to_bytes()) {
        Ok(wanted) => wanted,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, format!("the body is no log filter: {error}")),
    };
    match agent.log_filter().set(&wanted.filter) {
        Ok(()) => {
            tracing::info!(filter = wanted.filter, "log filter changed");
            log(agent)
        }
        Err(error) => refuse(StatusCode::BAD_REQUEST, Chain(&error).to_string()),
    }
}

fn json(document: &impl Serialize) -> Answer {
    match serde_json::to_string(document) {
        Ok(text) => answer(StatusCode::OK, JSON_TYPE, text),
        Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT_TYPE, error.to_string()),
    }
}

fn refuse(status: StatusCode, error: String) -> Answer {
    let text = serde_json::to_string(&Refusal { error }).unwrap_or_default();
    answer(status, JSON_TYPE, text)
}

/// Nothing is there.
pub fn not_found(path: &str) -> Answer {
    answer(StatusCode::NOT_FOUND, TEXT_TYPE, format!("{path} is not here\n"))
}

fn answer(status: StatusCode, media_type: &'static str, text: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(media_type));
    answer
}
