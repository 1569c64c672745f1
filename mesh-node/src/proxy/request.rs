//! One request, however its connection is carried: authorise, plan, and report for each side that this daemon stands
//! on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_common::http1;
use mesh_common::model::{
    ConnectionFacts, DecisionId, Direction, Protocol, REQUEST_ID, RequestFacts, RequestId,
};
use mesh_common::policy::{self, Authenticated};
use mesh_common::resolve::{self, Destination};
use mesh_common::route::{self, Choice, Local, Plan};
use mesh_common::snapshot::Snapshot;
use smallvec::SmallVec;

use super::Core;
use super::decisions::Cause;
use super::inbound::caller_pod;
use super::record::{
    Decided, HttpConnection, Subject, begin, describe_called, describe_rejection, parties, recorded,
};
use super::response::Rejection;
use crate::identity::Reason;
use crate::telemetry::access_log::{OpenRecord, Request};
use crate::telemetry::labels::{RecordedProtocol, RequestProtocol, ResponseFlags, Verdict};
use crate::telemetry::traffic::{RequestOutcome, Requests};

/// The reporters of a request: one; two between pods of this agent, the caller's, then the called pod's.
pub(super) type RequestSides = SmallVec<[RequestSide; 1]>;

/// One reporter's view of a request.
#[derive(Debug)]
pub(super) struct RequestSide {
    log: OpenRecord,
    counts: Requests,
    /// Its id was made here: nobody before gave it one.
    is_id_made: bool,
}

/// How a request ended, for its reporters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reported {
    pub(super) protocol: RecordedProtocol,
    /// The status that the caller was given; 0 if none.
    pub(super) code: u16,
    pub(super) grpc_status: Option<u16>,
    pub(super) flags: ResponseFlags,
    pub(super) reason: &'static str,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    pub(super) duration: Duration,
}

impl Reported {
    /// Of a request that nobody answered so far.
    pub(super) fn unanswered(protocol: RecordedProtocol, duration: Duration) -> Self {
        Self {
            protocol,
            code: 0,
            grpc_status: None,
            flags: ResponseFlags::None,
            reason: "",
            request_bytes: 0,
            response_bytes: 0,
            duration,
        }
    }

    /// Of one that was not decided.
    fn of_undecided(http: &HttpConnection) -> Self {
        Self::unanswered(recorded(http.spoken), Duration::ZERO)
    }
}

impl Core {
    /// Whom the tokens of a request speak of; `None` where nobody asks for any.
    pub(super) fn authenticate(
        &self,
        snapshot: &Snapshot,
        subject: Subject<'_>,
        request: &RequestFacts<'_>,
    ) -> Result<Option<Authenticated>, Rejection> {
        let Subject { facts, destination, .. } = subject;
        let Some(asked) = policy::tokens_asked(snapshot, facts, destination) else { return Ok(None) };
        // A clock before the epoch: tokens that begin at some time do not hold.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let authenticated = asked.authenticate(request, now, &mut self.tokens.borrow_mut());
        authenticated.map(Some).map_err(Rejection::Denied)
    }

    /// Authorises a request and says where it goes.
    pub(super) fn plan_request(
        &self,
        snapshot: &Snapshot,
        subject: Subject<'_>,
        request: &RequestFacts<'_>,
        tried: &[SocketAddr],
    ) -> Result<(Plan, Decided), Rejection> {
        let permit = policy::authorize_request(snapshot, subject.facts, subject.destination, request);
        let permit = permit.map_err(Rejection::Denied)?;
        let decided = Decided::by(&permit);
        let choice = Choice { random: fastrand::u64(..), load: &self.load, tried };
        let plan = route::plan_request(snapshot, permit, &choice).map_err(Rejection::Unroutable)?;
        Ok((plan, decided))
    }

    /// Begins the report of a permitted request.
    pub(super) fn begin_request(
        &self,
        subject: Subject<'_>,
        decided: &Decided,
        plan: &Plan,
        request: &RequestFacts<'_>,
    ) -> RequestSide {
        let given = given_id(request);
        let mut side = self.side_of(subject, Some(plan), request, given);
        decided.report(&mut side.log.record, &self.shared.metrics);
        if given.is_none() {
            side.is_called(RequestId::new(fastrand::u128(..)));
        }
        side
    }

    /// Begins the report of a request that is not carried.
    pub(super) fn reject_request(
        &self,
        subject: Subject<'_>,
        rejection: &Rejection,
        request: &RequestFacts<'_>,
    ) -> RequestSide {
        self.shared.metrics.refused(rejection.reason());
        let mut side = self.side_of(subject, None, request, given_id(request));
        let decision = self.name_refusal(subject, rejection, side.log.record.request.as_deref());
        side.denied(rejection, Some(decision));
        side
    }

    /// A permitted request goes to another endpoint than was thought at first.
    pub(super) fn redirect_request(&self, side: &mut RequestSide, subject: Subject<'_>, plan: &Plan) {
        describe_called(&mut side.log.record, subject, Some(plan));
        side.counts = self.traffic.requests(&parties(subject, Some(plan)));
    }

    /// Reports a request that could not be understood.
    pub(super) fn report_refused(
        &self,
        http: &HttpConnection,
        refusal: http1::Refusal,
        asked: http1::AskedFor,
        response_bytes: u64,
    ) -> DecisionId {
        let mut side = self.undecided_side(http, asked);
        side.log.record.error = Some(refusal.to_string().into());
        let cause = match refusal {
            http1::Refusal::Slow => Cause::Slow,
            refusal => Cause::Malformed(refusal),
        };
        let decision = self.name_undecided(http, (cause, refusal.reason()), &mut side);
        let reported = Reported {
            code: refusal.status(),
            flags: ResponseFlags::DownstreamProtocolError,
            reason: refusal.reason(),
            response_bytes,
            ..Reported::of_undecided(http)
        };
        self.refused_undecided(side, &reported);
        decision
    }

    /// Reports a request that came after its caller's certificate had ended, and that nobody looked at.
    pub(super) fn report_late(&self, http: &HttpConnection, asked: http1::AskedFor) {
        let mut side = self.undecided_side(http, asked);
        side.log.record.verdict = Verdict::Denied;
        side.log.record.error = Some("the caller's certificate has ended since it was shown".into());
        let (flags, reason) = (ResponseFlags::IdentityError, Reason::Expired.as_str());
        self.name_undecided(http, (Cause::Late, reason), &mut side);
        self.refused_undecided(side, &Reported { flags, reason, ..Reported::of_undecided(http) });
    }

    /// Names the refusal of a request that its sides report.
    pub(super) fn name_reported(
        &self,
        http: &HttpConnection,
        why: (Cause, &'static str),
        sides: &mut [RequestSide],
    ) -> Option<DecisionId> {
        let (first, others) = sides.split_first_mut()?;
        let decision = self.name_undecided(http, why, first);
        others.iter_mut().for_each(|side| side.refused_as(Some(decision)));
        Some(decision)
    }

    fn name_undecided(
        &self,
        http: &HttpConnection,
        why: (Cause, &'static str),
        side: &mut RequestSide,
    ) -> DecisionId {
        let decision = self.name(http.subject(), why, side.log.record.request.as_deref());
        side.refused_as(Some(decision));
        decision
    }

    fn undecided_side(&self, http: &HttpConnection, asked: http1::AskedFor) -> RequestSide {
        let subject = http.subject();
        let mut log = begin(&self.shared.access_log, subject, None);
        let http1::AskedFor { method, path } = asked;
        let request = Request {
            method,
            path,
            host: Box::default(),
            id: None,
            end_user: None,
            status: 0,
            grpc_status: None,
        };
        log.record.request = Some(Box::new(request));
        RequestSide { log, counts: self.traffic.requests(&parties(subject, None)), is_id_made: false }
    }

    fn refused_undecided(&self, side: RequestSide, reported: &Reported) {
        self.shared.metrics.refused(reported.reason);
        side.ended(reported);
    }

    /// One reporter of a request that came with the id `given`.
    pub(super) fn side_of(
        &self,
        subject: Subject<'_>,
        plan: Option<&Plan>,
        request: &RequestFacts<'_>,
        given: Option<&[u8]>,
    ) -> RequestSide {
        let mut log = begin(&self.shared.access_log, subject, plan);
        log.record.request = Some(Box::new(described(request, given)));
        RequestSide { log, counts: self.traffic.requests(&parties(subject, plan)), is_id_made: false }
    }
}

impl RequestSide {
    fn is_called(&mut self, id: RequestId) {
        if let Some(request) = &mut self.log.record.request {
            request.id = Some(id);
            self.is_id_made = true;
        }
    }

    /// What the request is called that had no name when it came.
    pub(super) fn made_id(&self) -> Option<&RequestId> {
        let request = self.log.record.request.as_ref().filter(|_| self.is_id_made);
        request?.id.as_ref()
    }

    /// Both report one request: it has one name.
    pub(super) fn is_of_the_same_request(&mut self, other: &Self) {
        if let Some(id) = other.made_id() {
            self.is_called(id.clone());
        }
    }

    /// Says what forbids a request that was permitted once.
    pub(super) fn denied(&mut self, rejection: &Rejection, decision: Option<DecisionId>) {
        describe_rejection(&mut self.log.record, rejection, decision);
    }

    /// What the refusal is called that it reports, if it does.
    pub(super) fn decision(&self) -> Option<DecisionId> {
        self.log.record.decision
    }

    /// Reports a request that the other side on this node refused.
    pub(super) fn refused_as(&mut self, decision: Option<DecisionId>) {
        self.log.record.decision = decision;
    }

    /// Counts messages of a call: the caller's, the application's.
    pub(super) fn messages(&self, passed: [u64; 2]) {
        self.counts.messages(passed);
    }

    /// Reports the end.
    pub(super) fn ended(mut self, reported: &Reported) {
        let protocol = match reported.protocol {
            RecordedProtocol::Grpc => RequestProtocol::Grpc,
            _ => RequestProtocol::Http,
        };
        let Reported { code, flags, .. } = *reported;
        let grpc_status = reported.grpc_status.map(known_grpc_status);
        let counted = RequestOutcome { protocol, code, grpc_status, flags };
        self.counts.ended(counted, reported.duration);
        let record = &mut self.log.record;
        record.protocol = reported.protocol;
        record.reason = reported.reason;
        record.bytes_received = reported.request_bytes;
        record.bytes_sent = reported.response_bytes;
        if let Some(request) = &mut record.request {
            request.status = code;
            request.grpc_status = reported.grpc_status;
        }
    }
}

impl HttpConnection {
    /// A connection of requests: HTTP/1.1 until it [turns out](Self::turns_out_http2) otherwise.
    pub(super) fn new(snapshot: &Snapshot, facts: ConnectionFacts, destination: Destination) -> Self {
        let caller = caller_pod(snapshot, &facts).filter(|_| facts.direction == Direction::Inbound).cloned();
        Self { facts, destination, spoken: Protocol::Http1, caller, generation: snapshot.generation() }
    }

    /// Its client speaks HTTP/2.
    pub(super) fn turns_out_http2(&mut self) {
        self.spoken = Protocol::Http2;
        // Resolved again at its first request: what is spoken on a port that declares nothing is known now.
        self.generation = u64::MAX;
    }

    pub(super) fn subject(&self) -> Subject<'_> {
        Subject { facts: &self.facts, destination: &self.destination, caller: self.caller.as_ref() }
    }

    /// Resolves again if the tables have changed since.
    pub(super) fn refresh(&mut self, snapshot: &Snapshot) {
        if self.generation == snapshot.generation() {
            return;
        }
        self.generation = snapshot.generation();
        let destination = resolve::destination(snapshot, &self.facts);
        // Of what is asked no more, what was known stays.
        if !destination.is_to_be_asked() {
            self.destination = destination.with_detected(self.spoken);
        }
        if self.facts.direction == Direction::Inbound {
            self.caller = caller_pod(snapshot, &self.facts).cloned();
        }
    }
}

/// What the called pod's side knows of a connection between two pods of this agent.
pub(super) fn arrived_here(outbound: &ConnectionFacts, local: &Local) -> ConnectionFacts {
    ConnectionFacts {
        direction: Direction::Inbound,
        client: outbound.client,
        original_dst: local.endpoint,
        local: Arc::clone(&local.workload),
        peer: outbound.peer.clone(),
        certificate: None,
        claimed_dst: Some(outbound.original_dst),
        server_name: outbound.server_name.clone(),
    }
}

/// A status that is none of gRPC's counts as its UNKNOWN, as its libraries read it.
fn known_grpc_status(status: u16) -> u8 {
    u8::try_from(status).ok().filter(|status| *status <= 16).unwrap_or(2)
}

/// What is recorded of a request that came with the id `given`.
pub(super) fn described(request: &RequestFacts<'_>, given: Option<&[u8]>) -> Request {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned().into_boxed_str();
    Request {
        method: text(request.method),
        path: request.path.as_str().into(),
        host: text(request.host),
        id: given.and_then(RequestId::given),
        end_user: request.end_user.and_then(|user| user.claims.principal().cloned()),
        status: 0,
        grpc_status: None,
    }
}

/// What a request's `x-request-id` is as it came, whether or not it can be recorded.
pub(super) fn given_id<'a>(request: &RequestFacts<'a>) -> Option<&'a [u8]> {
    let is_id = |name: &[u8]| name.eq_ignore_ascii_case(REQUEST_ID.as_bytes());
    request.headers.iter().find(|(name, _)| is_id(name)).map(|(_, value)| *value)
}
