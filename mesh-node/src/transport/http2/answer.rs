//! Answers of our own: an HTTP status, or for gRPC its status in a response that is trailers only.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, SEC_WEBSOCKET_VERSION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use mesh_common::http1::{CHALLENGE, DECISION, GivenAnswer, Refusal, WEBSOCKET_VERSION};
use mesh_common::model::DecisionId;

use super::connect::ConnectFailure;
use crate::transport::http1::Question;

/// gRPC status codes (grpc/statuscodes).
const UNKNOWN: u16 = 2;
pub(super) const DEADLINE_EXCEEDED: u16 = 4;
const INTERNAL: u16 = 13;
pub(super) const UNAVAILABLE: u16 = 14;
const PERMISSION_DENIED: u16 = 7;
const RESOURCE_EXHAUSTED: u16 = 8;
const UNIMPLEMENTED: u16 = 12;
const UNAUTHENTICATED: u16 = 16;

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const REASON: HeaderName = HeaderName::from_static("x-nodemesh-reason");

/// What a caller reads whose call took too long.
const DEADLINE_EXCEEDED_TEXT: &str = "deadline exceeded";

/// What a caller reads to whom nothing came for too long.
const IDLE_TIMED_OUT_TEXT: &str = "upstream request timeout";

/// An answer that no application gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnAnswer {
    /// For HTTP.
    pub status: StatusCode,
    /// For gRPC.
    pub grpc_status: u16,
    /// What the caller reads: printable ASCII without `%`.
    pub text: &'static str,
    /// The stable code for logs and metrics.
    pub reason: &'static str,
    /// The refusal that it tells of.
    pub decision: Option<DecisionId>,
}

/// Why a request has no plan, so far.
#[derive(Debug)]
pub enum Instead {
    /// It is answered.
    Own(OwnAnswer),
    /// It is answered with what somebody asked has given for it.
    Given(Box<GivenAnswer>),
    /// Somebody is asked first.
    Ask(Question),
}

impl From<OwnAnswer> for Instead {
    fn from(answer: OwnAnswer) -> Self {
        Self::Own(answer)
    }
}

/// An answer that no application gave.
#[derive(Debug)]
pub(super) enum Answered {
    Own(OwnAnswer),
    Given(Box<GivenAnswer>),
}

impl From<OwnAnswer> for Answered {
    fn from(answer: OwnAnswer) -> Self {
        Self::Own(answer)
    }
}

impl Answered {
    /// What the refusal is called that it tells of.
    pub(super) fn decision(&self) -> Option<DecisionId> {
        match self {
            Self::Own(answer) => answer.decision,
            Self::Given(given) => given.decision,
        }
    }

    /// The same, with the name of the refusal.
    pub(super) fn about(self, decision: Option<DecisionId>) -> Self {
        match self {
            Self::Own(answer) => Self::Own(OwnAnswer { decision, ..answer }),
            Self::Given(given) => Self::Given(Box::new(GivenAnswer { decision, ..*given })),
        }
    }

    /// Its head, and its body if it has one.
    pub(super) fn response(self, is_grpc: bool) -> (Response<()>, Option<Bytes>) {
        match self {
            Self::Own(answer) => answer.response(is_grpc),
            Self::Given(given) => given_response(*given, is_grpc),
        }
    }
}

/// Says what the refusal is called that an answer tells of.
fn name_refusal(headers: &mut HeaderMap, decision: Option<DecisionId>) {
    if let Some(decision) = decision {
        let name = HeaderValue::from_str(decision.as_str()).expect("an id is ASCII");
        headers.insert(HeaderName::from_static(DECISION), name);
    }
}

/// For gRPC the status becomes the one that its libraries make of it (grpc/http-grpc-status-mapping), the body its message.
fn given_response(given: GivenAnswer, is_grpc: bool) -> (Response<()>, Option<Bytes>) {
    let GivenAnswer { status, fields, body, reason, decision } = given;
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
    let mut response = Response::new(());
    let headers = response.headers_mut();
    for (name, value) in &fields {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(&**name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers.insert(REASON, HeaderValue::from_static(reason));
    name_refusal(headers, decision);
    if !is_grpc {
        if !matches!(status.as_u16(), 204 | 304) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        *response.status_mut() = status;
        return (response, Some(Bytes::from(body.into_vec())).filter(|body| !body.is_empty()));
    }
    let code = match status.as_u16() {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502..=504 => UNAVAILABLE,
        _ => UNKNOWN,
    };
    let escape = |byte: &u8| match byte {
        b' '..=b'~' if *byte != b'%' => char::from(*byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    let message: String = body.iter().take(1024).map(escape).collect();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(code));
    if let Ok(message) = HeaderValue::from_str(&message) {
        headers.insert(GRPC_MESSAGE, message);
    }
    (response, None)
}

impl OwnAnswer {
    /// Policy does not allow it. `reason` is the denial's code.
    pub fn denied(reason: &'static str) -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            grpc_status: PERMISSION_DENIED,
            text: "RBAC: access denied",
            reason,
            decision: None,
        }
    }

    /// An authorization server was asked about it and said nothing that counts.
    pub fn unanswered(status: u16, reason: &'static str) -> Self {
        let grpc_status = match status {
            413 => RESOURCE_EXHAUSTED,
            500.. => UNAVAILABLE,
            _ => PERMISSION_DENIED,
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
        Self { status, grpc_status, text: "external authorization failed", reason, decision: None }
    }

    /// Its token does not hold. `text` says what is wrong with it, `reason` is the code of that.
    pub fn unauthenticated(text: &'static str, reason: &'static str) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, grpc_status: UNAUTHENTICATED, text, reason, decision: None }
    }

    /// There is nowhere to go. `reason` is the code of why.
    pub fn unavailable(reason: &'static str) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            grpc_status: UNAVAILABLE,
            text: "no healthy upstream",
            reason,
            decision: None,
        }
    }

    /// An endpoint was chosen and could not be reached, or did not answer, or was not asked to the end.
    pub fn unreachable(failure: &ConnectFailure) -> Self {
        if let ConnectFailure::BadBody(refusal) = failure {
            return Self::malformed(*refusal);
        }
        if matches!(failure, ConnectFailure::SlowRequest) {
            return Self {
                status: StatusCode::REQUEST_TIMEOUT,
                grpc_status: DEADLINE_EXCEEDED,
                text: "request timed out",
                reason: "request_timeout",
                decision: None,
            };
        }
        if matches!(failure, ConnectFailure::DeadlineExceeded) {
            return Self {
                status: StatusCode::GATEWAY_TIMEOUT,
                grpc_status: DEADLINE_EXCEEDED,
                text: DEADLINE_EXCEEDED_TEXT,
                reason: failure.reason(),
                decision: None,
            };
        }
        let (status, text) = match failure {
            ConnectFailure::IdleTimedOut => (StatusCode::GATEWAY_TIMEOUT, IDLE_TIMED_OUT_TEXT),
            ConnectFailure::NoSwitch | ConnectFailure::Malformed(_) => {
                (StatusCode::BAD_GATEWAY, "upstream response is malformed")
            }
            ConnectFailure::NoExtendedConnect => {
                (StatusCode::NOT_IMPLEMENTED, "upstream takes no WebSocket over HTTP/2")
            }
            _ => (StatusCode::SERVICE_UNAVAILABLE, "upstream connect error"),
        };
        Self { status, text, ..Self::unavailable(failure.reason()) }
    }

    /// The request has no one meaning.
    pub fn malformed(refusal: Refusal) -> Self {
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
        let grpc_status = match status {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => RESOURCE_EXHAUSTED,
            StatusCode::NOT_IMPLEMENTED => UNIMPLEMENTED,
            // gRPC's own mapping of 400 (grpc/http-grpc-status-mapping).
            _ => INTERNAL,
        };
        Self { status, grpc_status, text: "malformed request", reason: refusal.reason(), decision: None }
    }

    /// The same, with the name of the refusal.
    pub fn about(self, decision: Option<DecisionId>) -> Self {
        Self { decision, ..self }
    }

    /// The head of this answer, and its body if it has one.
    pub(super) fn response(self, is_grpc: bool) -> (Response<()>, Option<Bytes>) {
        let mut response = Response::new(());
        let headers = response.headers_mut();
        headers.insert(REASON, HeaderValue::from_static(self.reason));
        name_refusal(headers, self.decision);
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
        }
        if self.status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(WEBSOCKET_VERSION));
        }
        if is_grpc {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(GRPC_STATUS, HeaderValue::from(self.grpc_status));
            headers.insert(GRPC_MESSAGE, HeaderValue::from_static(self.text));
            return (response, None);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(self.text.len()));
        *response.status_mut() = self.status;
        (response, Some(Bytes::from_static(self.text.as_bytes())))
    }
}

/// The trailers of a response that a call which took too long ends with.
pub(super) fn deadline_exceeded() -> HeaderMap {
    grpc_trailers(DEADLINE_EXCEEDED, DEADLINE_EXCEEDED_TEXT)
}

/// Those of a call on which nothing moved for too long.
pub(super) fn idle_timed_out() -> HeaderMap {
    grpc_trailers(UNAVAILABLE, IDLE_TIMED_OUT_TEXT)
}

fn grpc_trailers(status: u16, message: &'static str) -> HeaderMap {
    let message = HeaderValue::from_static(message);
    HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from(status)), (GRPC_MESSAGE, message)])
}

/// Whether a request's answers are read as gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| is_grpc_type(kind.as_bytes()))
}

/// Whether a Content-Type is gRPC's.
pub fn is_grpc_type(kind: &[u8]) -> bool {
    let name = b"application/grpc";
    kind.len() >= name.len()
        && kind[..name.len()].eq_ignore_ascii_case(name)
        && matches!(kind.get(name.len()), None | Some(b'+' | b';' | b' '))
}

/// The number in `grpc-status`.
pub(super) fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}
