use super::documents::{
    BeingRead, Capability, Check, CheckVerdict, Connection, DetectedPort, Log, NotCaptured, Problem, Refusal,
    Status, UntoldPod,
};
use super::*;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use mesh_common::model::DecisionId;
use mesh_common::snapshot::Snapshot;

use crate::identity::CertificateSummary;
use crate::proxy::Refused;
use crate::telemetry::logging::LogFilter;

/// An id that this agent gave out.
pub(crate) const GIVEN: &str = "4k2nd-9xq1-7h3mz0v8w5rc";

/// An agent that knows nothing and is not ready.
pub(crate) struct Idle {
    pub(crate) filter: LogFilter,
    pub(crate) unmet: Vec<String>,
    pub(crate) problems: usize,
    pub(crate) being_read: Option<BeingRead>,
    pub(crate) effect: &'static str,
}

impl Agent for Idle {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::default()
    }

    fn overview(&self) -> Overview {
        Overview {
            node: "a".to_owned(),
            started: SystemTime::now(),
            workers: 2,
            connections_outside: 0,
            in_doubt: vec!["shop/two-places".to_owned()],
            untold: vec![
                UntoldPod { uid: "0f4a".to_owned(), pod: Some("shop/new".to_owned()), seconds: 70 },
                UntoldPod { uid: "1e2d".to_owned(), pod: None, seconds: 3 },
            ],
            being_read: self.being_read.clone(),
            not_captured: ["shop/two-places", "shop/no-account"].map(not_captured).to_vec(),
            detected: vec![DetectedPort {
                service: "shop/db".to_owned(),
                port: 5432,
                connections: [("client-first".to_owned(), 2), ("tls".to_owned(), 1)].into(),
            }],
            kernel: vec![Capability {
                name: "sk_lookup".to_owned(),
                present: true,
                detail: "5.9".to_owned(),
            }],
            problems: (0..self.problems).map(|_| problem(self.effect)).collect(),
        }
    }

    fn certificates(&self) -> Vec<CertificateSummary> {
        Vec::new()
    }

    fn log_filter(&self) -> &LogFilter {
        &self.filter
    }

    async fn metrics(&self) -> String {
        "nodemesh_things_total 1\n".to_owned()
    }

    async fn unmet(&self) -> Vec<String> {
        self.unmet.clone()
    }

    async fn stuck(&self) -> Vec<String> {
        Vec::new()
    }

    async fn checks(&self) -> Vec<Check> {
        Vec::new()
    }

    fn knows_all(&self) -> bool {
        true
    }

    fn gave(&self, id: &DecisionId) -> bool {
        id.as_str() == GIVEN
    }

    async fn refusal(&self, _: DecisionId) -> Option<Refused> {
        None
    }

    async fn connections(&self) -> Vec<Connection> {
        Vec::new()
    }
}

fn not_captured(pod: &str) -> NotCaptured {
    let reason = "obtain its certificate: there is no service account".to_owned();
    NotCaptured { pod: pod.to_owned(), reason, keeps_unready: false }
}

fn problem(effect: &str) -> Problem {
    Problem {
        file: "web.yaml".to_owned(),
        line: 3,
        document: 1,
        object: None,
        field: "spec.rules".to_owned(),
        reason: "is no list".to_owned(),
        effect: effect.to_owned(),
    }
}

fn idle(unmet: &[&str]) -> (impl Sized, Idle) {
    let (subscriber, filter) = LogFilter::detached("info").unwrap();
    (
        subscriber,
        Idle {
            filter,
            unmet: unmet.iter().map(ToString::to_string).collect(),
            problems: 1,
            being_read: None,
            effect: "denies",
        },
    )
}

async fn body(answer: routes::Answer) -> (StatusCode, Bytes) {
    let status = answer.status();
    (status, answer.into_body().collect().await.unwrap().to_bytes())
}

fn request(method: Method, path: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(path).body(Full::from(body)).unwrap()
}

#[tokio::test]
async fn an_agent_that_waits_for_something_is_alive_but_not_ready() {
    let (_log, agent) = idle(&["the configuration was not read yet"]);
    let (status, text) = body(routes::readiness(&agent, &Method::GET, "/readyz").await).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text, "the configuration was not read yet\n");
    assert_eq!(routes::readiness(&agent, &Method::GET, "/livez").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn an_agent_that_waits_for_nothing_is_ready() {
    let (_log, agent) = idle(&[]);
    for path in ["/readyz", "/healthz/ready"] {
        assert_eq!(routes::readiness(&agent, &Method::GET, path).await.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn metrics_are_where_prometheus_and_istio_look() {
    let (_log, agent) = idle(&[]);
    for path in ["/metrics", "/stats/prometheus"] {
        let (status, text) = body(routes::metrics(&agent, &Method::GET, path).await).await;
        assert_eq!((status, &*text), (StatusCode::OK, &b"nodemesh_things_total 1\n"[..]));
    }
    let answer = routes::metrics(&agent, &Method::POST, "/metrics").await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn status_names_what_is_wrong() {
    let (_log, agent) = idle(&["no core has a listener"]);
    let (_, text) = body(routes::admin(&agent, request(Method::GET, "/v1/status", "")).await).await;
    let status: Status = serde_json::from_slice(&text).unwrap();
    assert!(!status.ready);
    assert_eq!(status.unmet, ["no core has a listener"]);
    assert_eq!(status.problems[0].field, "spec.rules");
}

#[tokio::test]
async fn problems_that_are_not_listed_are_counted() {
    let (_log, agent) = idle(&[]);
    let agent = Idle { problems: 1005, ..agent };
    let (_, text) = body(routes::admin(&agent, request(Method::GET, "/v1/status", "")).await).await;
    let status: Status = serde_json::from_slice(&text).unwrap();
    assert_eq!((status.problems.len(), status.problems_left_out), (1000, 5));
    let (_, text) = body(routes::admin(&agent, request(Method::GET, "/v1/check", "")).await).await;
    let checks: Vec<Check> = serde_json::from_slice(&text).unwrap();
    let check = checks.iter().find(|check| check.name == "configuration").unwrap();
    assert!(check.detail.starts_with("1005 problems to look at"), "{}", check.detail);
    assert_eq!(check.advice.as_deref(), Some("mesh-node status lists the first 1000"));
}

#[tokio::test]
async fn a_check_fails_while_the_agent_is_not_ready() {
    let (_log, agent) = idle(&["no core has a listener"]);
    let (_, text) = body(routes::admin(&agent, request(Method::GET, "/v1/check", "")).await).await;
    let checks: Vec<Check> = serde_json::from_slice(&text).unwrap();
    let ready = checks.iter().find(|check| check.name == "ready").unwrap();
    assert_eq!(ready.verdict, CheckVerdict::Failed);
    assert!(
        checks.iter().any(|check| check.name == "configuration" && check.verdict == CheckVerdict::Warned)
    );
}

async fn configuration(agent: Idle) -> Check {
    let (_, text) = body(routes::admin(&agent, request(Method::GET, "/v1/check", "")).await).await;
    let checks: Vec<Check> = serde_json::from_slice(&text).unwrap();
    checks.into_iter().find(|check| check.name == "configuration").unwrap()
}

#[tokio::test]
async fn a_check_tells_what_is_being_read() {
    let (_log, agent) = idle(&[]);
    let being_read = Some(BeingRead { files: vec!["large.yaml".to_owned()], seconds: 3 });
    let check = configuration(Idle { problems: 0, being_read, ..agent }).await;
    assert_eq!(check.verdict, CheckVerdict::Warned);
    assert_eq!(check.detail, "large.yaml changed and is being read for 3 s");
}

#[tokio::test]
async fn a_check_fails_while_nobody_knows_what_a_file_says() {
    let (_log, agent) = idle(&[]);
    assert_eq!(configuration(Idle { effect: "unread", ..agent }).await.verdict, CheckVerdict::Failed);
}

#[tokio::test]
async fn the_log_filter_is_read_and_set() {
    let (_log, agent) = idle(&[]);
    let answer = routes::admin(&agent, request(Method::PUT, "/v1/log", r#"{"filter":"warn"}"#)).await;
    let log: Log = serde_json::from_slice(&body(answer).await.1).unwrap();
    assert_eq!(log.filter, "warn");
    let (status, text) =
        body(routes::admin(&agent, request(Method::PUT, "/v1/log", r#"{"filter":"x=loud"}"#)).await).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let refusal: Refusal = serde_json::from_slice(&text).unwrap();
    assert!(refusal.error.contains("x=loud"), "{}", refusal.error);
    let log = body(routes::admin(&agent, request(Method::GET, "/v1/log", "")).await).await;
    assert_eq!(log.1, r#"{"filter":"warn"}"#);
}

#[tokio::test]
async fn a_body_without_end_is_refused() {
    let (_log, agent) = idle(&[]);
    let long: &'static str = "x".repeat(5000).leak();
    let answer = routes::admin(&agent, request(Method::PUT, "/v1/log", long)).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn only_the_owner_may_connect_to_the_socket() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/admin.sock");
    let socket = AdminSocket::listen(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(AdminSocket::listen(&path), Err(SocketError::Taken { .. })));
    drop(socket);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_socket_that_nobody_answers_at_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    AdminSocket::listen(&path).unwrap();
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(AdminSocket::listen(&path), Err(SocketError::NoSocket { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}
