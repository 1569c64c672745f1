//! The last three calls once more for each request of an HTTP/1.1 connection: authorise, route, carry.
//!
//! In: a request's facts on a connection that was resolved already. Out: where it goes, or the answer that it gets
//! instead; at its end one access record and one count for each side that this daemon stands on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_common::http1::relay::Ending;
use mesh_common::http1::{self, LocalAnswer};
use mesh_common::model::{ConnectionFacts, Direction, Protocol, RequestFacts};
use mesh_common::policy;
use mesh_common::resolve::{self, Destination};
use mesh_common::route::{self, Choice, Plan};
use mesh_common::snapshot::Snapshot;
use mesh_common::tunnel::{Open, StreamKind};
use smallvec::SmallVec;

use super::Proxy;
use super::inbound::caller_pod;
use super::limits::Place;
use super::load::{BusyGuard, Unit};
use super::pod::PodHandle;
use super::record::{Decided, HttpConnection, Record, Subject, begin, named, parties};
use super::response::{Rejection, flags_of};
use crate::telemetry::access_log::{OpenRecord, Request};
use crate::telemetry::labels::{RecordedProtocol, RequestProtocol, ResponseFlags};
use crate::telemetry::traffic::{RequestOutcome, Requests};
use crate::transport::CloseReason;
use crate::transport::http1::{ExchangeOutcome, HttpCourse, PoolScope, RequestCourse};
use crate::transport::tunnel::{Course, TunnelKey};

/// What is kept with a request, from its decision to its end.
#[derive(Debug)]
pub struct Exchange(Box<Kept>);

#[derive(Debug)]
struct Kept {
    /// The endpoint that it makes busy.
    busy: BusyGuard,
    /// One; two between pods of this agent: the caller's, then the called pod's.
    sides: SmallVec<[RequestSide; 1]>,
}

/// One reporter's view of a request.
#[derive(Debug)]
struct RequestSide {
    log: OpenRecord,
    counts: Requests,
}

/// A request's way: where it goes, and who reports it besides the side that asked.
struct Carried {
    course: RequestCourse,
    called: Option<RequestSide>,
}

impl Proxy {
    /// A connection whose requests are decided one by one.
    pub(super) fn requests_of(
        &self,
        place: Place,
        snapshot: &Snapshot,
        facts: ConnectionFacts,
        destination: Destination,
        course: HttpCourse,
    ) -> (Record, Course) {
        let caller = caller_pod(snapshot, &facts).filter(|_| facts.direction == Direction::Inbound).cloned();
        let generation = snapshot.generation();
        let http = HttpConnection { facts, destination, caller, generation };
        (Record::of_requests(place, http), Course::Http(course))
    }

    /// Decides a request.
    pub(super) fn decide_request(
        &mut self,
        pod: &PodHandle,
        record: &mut Record,
        request: &RequestFacts<'_>,
    ) -> Result<(Exchange, RequestCourse), LocalAnswer<'static>> {
        let snapshot = self.snapshot();
        let http = record.http().expect("only connections of requests have any");
        http.refresh(&snapshot);
        let subject = http.subject();
        let decided = self.plan_request(&snapshot, subject, request, &[]);
        let (plan, decided) = decided.map_err(|rejection| self.answer(subject, request, &rejection))?;
        let side = self.begin_request(subject, &decided, &plan, request);
        let busy = self.load.add(plan.address(), Unit::Request);
        let carried = self.carry(&snapshot, pod, subject, &plan, request)?;
        let sides = SmallVec::from_iter([Some(side), carried.called].into_iter().flatten());
        Ok((Exchange(Box::new(Kept { busy, sides })), carried.course))
    }

    /// Another endpoint for a request whose endpoint was not there.
    pub(super) fn request_elsewhere(
        &mut self,
        pod: &PodHandle,
        record: &mut Record,
        exchange: &mut Exchange,
    ) -> Option<RequestCourse> {
        let snapshot = self.snapshot();
        let http = record.http()?;
        http.refresh(&snapshot);
        let subject = http.subject();
        if !matches!(subject.destination.target, resolve::Target::Service(_)) {
            return None;
        }
        let tried = [exchange.0.busy.endpoint()];
        // Policy has spoken at this side, where it permits what it resolves: only the endpoint is chosen anew.
        let permit = policy::authorize_connection(&snapshot, subject.facts, subject.destination).ok()?;
        let choice = Choice { random: self.random.u64(..), load: &self.load, tried: &tried };
        let plan = route::plan_request(&snapshot, permit, &choice).ok()?;
        // Between pods of this agent the called side would have to decide with the request's own facts.
        if matches!(plan, Plan::Local(_)) {
            return None;
        }
        exchange.0.busy = self.load.add(plan.address(), Unit::Request);
        Some(self.course_of(pod, subject.facts, &plan))
    }

    /// Reports a request that ended.
    pub(super) fn end_request(exchange: Exchange, outcome: &ExchangeOutcome) {
        let flags = flags_of_exchange(outcome);
        for mut side in exchange.0.sides {
            let counted = RequestOutcome {
                protocol: RequestProtocol::Http,
                code: outcome.status,
                grpc_status: None,
                flags,
            };
            side.counts.ended(counted, outcome.duration);
            let record = &mut side.log.record;
            record.bytes_received = outcome.bytes.request;
            record.bytes_sent = outcome.bytes.response;
            record.reason = reason_of(outcome);
            if let Some(request) = &mut record.request {
                request.status = outcome.status;
            }
        }
    }

    /// Reports a request that could not be understood.
    pub(super) fn report_refused(&self, record: &mut Record, refusal: http1::Refusal) {
        self.shared.metrics.refused(refusal.reason());
        let Some(http) = record.http() else { return };
        let subject = http.subject();
        self.count(subject, refusal.status(), ResponseFlags::DownstreamProtocolError);
        let mut open = begin(&self.shared.access_log, subject, None);
        open.record.protocol = RecordedProtocol::Http1;
        open.record.reason = refusal.reason();
        open.record.error = Some(refusal.to_string().into());
    }

    fn plan_request(
        &mut self,
        snapshot: &Snapshot,
        subject: Subject<'_>,
        request: &RequestFacts<'_>,
        tried: &[SocketAddr],
    ) -> Result<(Plan, Decided), Rejection> {
        let permit = policy::authorize_request(snapshot, subject.facts, subject.destination, request);
        let permit = permit.map_err(Rejection::Denied)?;
        let decided = Decided::by(&permit);
        let choice = Choice { random: self.random.u64(..), load: &self.load, tried };
        let plan = route::plan_request(snapshot, permit, &choice).map_err(Rejection::Unroutable)?;
        Ok((plan, decided))
    }

    /// Where a plan leads; for a pod of this agent the inbound stages decide too.
    fn carry(
        &mut self,
        snapshot: &Snapshot,
        pod: &PodHandle,
        subject: Subject<'_>,
        plan: &Plan,
        request: &RequestFacts<'_>,
    ) -> Result<Carried, LocalAnswer<'static>> {
        let Plan::Local(local) = plan else {
            return Ok(Carried { course: self.course_of(pod, subject.facts, plan), called: None });
        };
        let facts = ConnectionFacts {
            direction: Direction::Inbound,
            client: subject.facts.client,
            original_dst: local.endpoint,
            local: Arc::clone(&local.workload),
            peer: subject.facts.peer.clone(),
            claimed_dst: Some(subject.facts.original_dst),
        };
        let destination = resolve::destination(snapshot, &facts).with_detected(Protocol::Http1);
        let caller = Some(&subject.facts.local);
        let called = Subject { facts: &facts, destination: &destination, caller };
        let decided = self.plan_request(snapshot, called, request, &[]);
        let (plan, decided) = decided.map_err(|rejection| self.answer(called, request, &rejection))?;
        let side = self.begin_request(called, &decided, &plan, request);
        Ok(Carried { course: self.course_of(pod, &facts, &plan), called: Some(side) })
    }

    fn course_of(&self, pod: &PodHandle, facts: &ConnectionFacts, plan: &Plan) -> RequestCourse {
        match plan {
            Plan::Tunnel(tunnel) => {
                let key = TunnelKey {
                    source: pod.uid().clone(),
                    destination: tunnel.endpoint,
                    called: tunnel.workload.uid.clone(),
                    identity: tunnel.expected().clone(),
                };
                let open = Open {
                    token: super::stream_token(),
                    kind: StreamKind::Http1,
                    dialled: facts.original_dst,
                    source_port: facts.client.port(),
                };
                RequestCourse { course: Course::Tunnel { key, open }, share: None }
            }
            Plan::Direct(direct) => RequestCourse {
                course: Course::Direct(super::dial_from(pod, direct.address)),
                share: Some(scope(facts, direct.address)),
            },
            Plan::Application(_) | Plan::Local(_) => {
                let address = plan.address();
                let called = self.pods.get(&facts.local.uid).unwrap_or(pod);
                // A port that is not declared as HTTP gets a connection of its own: what it keeps is not known.
                let is_http = !matches!(protocol_of(plan), Protocol::Tcp | Protocol::Tls);
                RequestCourse {
                    course: Course::Direct(super::dial_own(called, address)),
                    share: is_http.then(|| scope(facts, address)),
                }
            }
        }
    }

    fn begin_request(
        &self,
        subject: Subject<'_>,
        decided: &Decided,
        plan: &Plan,
        request: &RequestFacts<'_>,
    ) -> RequestSide {
        let mut log = begin(&self.shared.access_log, subject, Some(plan));
        log.record.protocol = RecordedProtocol::Http1;
        log.record.verdict = decided.verdict;
        log.record.policy = decided.policy.clone();
        log.record.request = Some(Box::new(described(request)));
        let counts = self.traffic.requests(&parties(subject, Some(plan)));
        RequestSide { log, counts }
    }

    /// Reports a request that is not carried, and gives its answer.
    fn answer(
        &self,
        subject: Subject<'_>,
        request: &RequestFacts<'_>,
        rejection: &Rejection,
    ) -> LocalAnswer<'static> {
        let (status, text) = rejection.answer();
        self.shared.metrics.refused(rejection.reason());
        self.count(subject, status, rejection.flags());
        let mut open = begin(&self.shared.access_log, subject, None);
        open.record.protocol = RecordedProtocol::Http1;
        open.record.verdict = rejection.verdict();
        open.record.reason = rejection.reason();
        open.record.request = Some(Box::new(Request { status, ..described(request) }));
        if let Rejection::Denied(denial) = rejection {
            open.record.policy = named(denial);
            open.record.error = Some(denial.to_string().into());
        }
        LocalAnswer { status, text, reason: rejection.reason() }
    }

    fn count(&self, subject: Subject<'_>, code: u16, flags: ResponseFlags) {
        let outcome = RequestOutcome { protocol: RequestProtocol::Http, code, grpc_status: None, flags };
        self.traffic.requests(&parties(subject, None)).ended(outcome, Duration::ZERO);
    }
}

impl HttpConnection {
    fn subject(&self) -> Subject<'_> {
        Subject { facts: &self.facts, destination: &self.destination, caller: self.caller.as_ref() }
    }

    /// Resolves again if the tables have changed since.
    fn refresh(&mut self, snapshot: &Snapshot) {
        if self.generation == snapshot.generation() {
            return;
        }
        self.generation = snapshot.generation();
        self.destination = resolve::destination(snapshot, &self.facts).with_detected(Protocol::Http1);
        if self.facts.direction == Direction::Inbound {
            self.caller = caller_pod(snapshot, &self.facts).cloned();
        }
    }
}

fn scope(facts: &ConnectionFacts, application: SocketAddr) -> PoolScope {
    PoolScope {
        caller: facts.client_ip(),
        identity: facts.peer.verified().cloned(),
        called: facts.local.uid.clone(),
        application,
    }
}

fn protocol_of(plan: &Plan) -> Protocol {
    match plan {
        Plan::Tunnel(tunnel) => tunnel.protocol,
        Plan::Direct(direct) => direct.protocol,
        Plan::Local(local) => local.protocol,
        Plan::Application(application) => application.protocol,
    }
}

fn described(request: &RequestFacts<'_>) -> Request {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned().into_boxed_str();
    Request {
        method: text(request.method),
        path: request.path.as_str().into(),
        host: text(request.host),
        status: 0,
    }
}

fn flags_of_exchange(outcome: &ExchangeOutcome) -> ResponseFlags {
    match (outcome.ending, outcome.failure) {
        (Ending::Complete | Ending::Early, _) => ResponseFlags::None,
        (Ending::ClientGone, _) => ResponseFlags::DownstreamDisconnect,
        (Ending::BadRequest(_), _) => ResponseFlags::DownstreamProtocolError,
        (_, Some(failure)) => flags_of(failure),
        (Ending::TimedOut, None) => ResponseFlags::UpstreamTimeout,
        (Ending::Cut, None) => ResponseFlags::Denied,
        (Ending::BadResponse(_) | Ending::Answered(_) | Ending::UpstreamGone, None) => {
            ResponseFlags::UpstreamFailure
        }
    }
}

fn reason_of(outcome: &ExchangeOutcome) -> &'static str {
    match (outcome.ending, outcome.failure) {
        (Ending::Complete, _) => CloseReason::Completed.reason(),
        (Ending::Early, _) => "answered_early",
        (Ending::ClientGone, _) => CloseReason::ClientReset.reason(),
        (Ending::BadRequest(refusal) | Ending::BadResponse(refusal), _) => refusal.reason(),
        (_, Some(failure)) => failure.reason(),
        (Ending::Answered(reason), None) => reason,
        (Ending::UpstreamGone, None) => CloseReason::ServerReset.reason(),
        (Ending::TimedOut, None) => CloseReason::IdleTimedOut.reason(),
        (Ending::Cut, None) => CloseReason::NoLongerPermitted.reason(),
    }
}
