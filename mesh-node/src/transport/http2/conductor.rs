//! What the conductor does for HTTP/2: it decides, dials and keeps the record. One value for each connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use mesh_common::http1::{AskedFor, Refusal};
use mesh_common::model::{DecisionId, HeadEdits, RequestFacts, SpiffeId, Workload};
use mesh_common::route::{Local, Plan};
use tokio::sync::Notify;

use super::answer::{Instead, OwnAnswer};
use super::connect::ConnectFailure;
use super::cut::Cut;
use crate::transport::http1::{AskedBody, QuestionId};
use crate::transport::outcome::NOT_TAKEN;

/// Decides the requests of one connection.
pub trait Conductor: 'static {
    /// Keeps the record of one request.
    type Exchange: Exchange;

    /// The pod of this node on whose behalf the connection is served: the caller outbound, the called inbound.
    fn pod(&self) -> &Arc<Workload>;

    /// The caller: its address, and who it proved to be. Connections to applications are shared by one caller's
    /// requests only.
    fn client(&self) -> (IpAddr, Option<&SpiffeId>);

    /// Fields that the sender may not set, as for `mesh_common::http1`.
    fn strip(&self) -> &'static [&'static str];

    /// A request came that has no one meaning; it is answered, with a body of so many bytes, and counted, never decided.
    /// Returns what the refusal is called.
    fn malformed(&self, refusal: Refusal, asked: AskedFor, response_bytes: u64) -> DecisionId;

    /// A request came after the caller's certificate had ended; it is refused unseen and counted, never decided.
    fn late(&self, asked: AskedFor);

    /// A request was refused unseen (REFUSED_STREAM, GOAWAY). Each refusal is told, the last one of a request too.
    fn refused_unseen(&self, became: RefusedUnseen);

    /// Notified when the caller is to go: it is told so (GOAWAY), and what is open goes on.
    fn leave(&self) -> &Notify;

    /// A request came; its record begins. Until it ends, `cut` ends it.
    fn begin(self: &Rc<Self>, request: &RequestFacts<'_>, cut: Cut) -> Self::Exchange;

    /// Where the request goes. `tried` holds endpoints that could not be reached just now.
    ///
    /// # Errors
    /// The answer instead, or what is to be asked first.
    fn decide(
        &self,
        exchange: &mut Self::Exchange,
        request: &RequestFacts<'_>,
        tried: &[SocketAddr],
    ) -> Result<Plan, Instead>;

    /// The inbound stages for a pod of this node, on the identity of [`pod`](Self::pod).
    ///
    /// # Errors
    /// The answer instead.
    fn arrive(
        &self,
        exchange: &mut Self::Exchange,
        local: &Local,
        request: &RequestFacts<'_>,
    ) -> Result<Plan, Instead>;

    /// Asks about a request that waits. It is decided again once this is over; dropped, nobody wants the answer.
    fn ask(self: &Rc<Self>, question: QuestionId, body: AskedBody) -> Pin<Box<dyn Future<Output = ()>>> {
        let _ = (question, body);
        Box::pin(std::future::ready(()))
    }

    /// What an application is told of the certificate that its caller showed (`x-forwarded-client-cert`). Nothing goes to
    /// other daemons and out of the mesh.
    fn client_certificate(&self, plan: &Plan) -> Option<HeaderValue>;

    /// Begins a connection to the plan's address, from the namespace where it must begin: a socket that does not
    /// block and is writable once the connect has ended.
    ///
    /// # Errors
    /// The connect ends at once.
    fn dial(&self, plan: &Plan) -> io::Result<OwnedFd>;

    /// What to answer when an endpoint could not be reached or did not answer.
    fn unreachable(&self, exchange: &mut Self::Exchange, failure: &ConnectFailure) -> OwnAnswer {
        let _ = exchange;
        OwnAnswer::unreachable(failure)
    }
}

/// The record of one request. Dropped when everything is over; [`ended`](Self::ended) is called once, before.
pub trait Exchange: 'static {
    /// What is to be changed of the request's head, by what was decided last.
    fn edits(&mut self) -> Option<HeadEdits> {
        None
    }

    /// What it is called from here on, where its caller called it nothing (`x-request-id`).
    fn request_id(&self) -> Option<HeaderValue> {
        None
    }

    /// What the refusal is called for which it is cut off, if it is.
    fn decision(&self) -> Option<DecisionId> {
        None
    }

    /// What is to be changed of its response's head.
    fn response_edits(&mut self) -> Option<Box<HeadEdits>> {
        None
    }

    /// The response's head is on its way to the caller.
    fn answered(&mut self, status: StatusCode);

    /// So many messages of a call have passed since this was said last: the caller's, the application's. Said as they pass
    /// and at the end.
    fn messages(&mut self, passed: [u64; 2]) {
        let _ = passed;
    }

    /// The exchange is over.
    fn ended(&mut self, end: &End);
}

/// What becomes of a request that the other side refused without looking at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedUnseen {
    /// It is sent once more.
    SentAgain,
    /// It fails: too much of what its caller asks there was sent once more lately.
    OverBudget,
    /// It fails: it was refused as often as it may be sent.
    TooOften,
    /// It fails: more of its body was sent than is kept.
    TooLarge,
}

impl RefusedUnseen {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::SentAgain, Self::OverBudget, Self::TooOften, Self::TooLarge];

    /// The label of the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SentAgain => "sent_again",
            Self::OverBudget => "over_budget",
            Self::TooOften => "too_often",
            Self::TooLarge => "too_large",
        }
    }
}

/// How an exchange ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Body bytes from the caller, without framing.
    pub request_bytes: u64,
    /// Body bytes to the caller, without framing.
    pub response_bytes: u64,
    /// The value of `grpc-status`, from the trailers or a head without body.
    pub grpc_status: Option<u16>,
    /// How.
    pub ending: Ending,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// The whole response went out.
    Complete,
    /// We answered ourselves.
    OwnAnswer,
    /// The caller went away first.
    CallerGone,
    /// The caller took too little of the response.
    NotTaken,
    /// The response broke off.
    UpstreamBroke,
    /// Nothing moved for too long, after the response had begun or both sides had changed the protocol.
    IdleTimedOut,
    /// It was cut off ([`Cut`]), answered or not.
    Cut,
    /// A call took longer than its caller waits (`grpc-timeout`).
    DeadlineExceeded,
}

/// What those are called in logs and metrics.
pub(super) const DEADLINE_EXCEEDED: &str = "deadline_exceeded";
pub(super) const IDLE_TIMED_OUT: &str = "idle_timed_out";

impl Ending {
    /// The stable code for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::OwnAnswer => "own_answer",
            Self::CallerGone => "caller_gone",
            Self::NotTaken => NOT_TAKEN,
            Self::UpstreamBroke => "upstream_broke",
            Self::IdleTimedOut => IDLE_TIMED_OUT,
            Self::Cut => "no_longer_permitted",
            Self::DeadlineExceeded => DEADLINE_EXCEEDED,
        }
    }
}
