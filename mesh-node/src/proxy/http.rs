//! The last three calls once more for each request of an HTTP/1.1 connection: authorise, route, carry.
//!
//! In: a request's facts on a connection that was resolved already. Out: where it goes, or the answer that it gets
//! instead; at its end one access record and one count for each side that this daemon stands on.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_common::http1::LocalAnswer;
use mesh_common::http1::relay::Ending;
use mesh_common::model::{ConnectionFacts, DecisionId, Protocol, RequestFacts};
use mesh_common::policy;
use mesh_common::resolve::{self, Destination};
use mesh_common::route::{self, Choice, Plan};
use mesh_common::snapshot::Snapshot;
use mesh_common::tunnel::{Open, StreamKind};

use super::Core;
use super::client_certificate::client_certificate;
use super::limits::Place;
use super::load::{BusyGuard, Unit};
use super::outbound::{around, has_others};
use super::pod::PodHandle;
use super::record::{HttpConnection, Record, Subject};
use super::request::{Reported, RequestSide, RequestSides, arrived_here};
use super::response::{Rejection, flags_of};
use super::under_way::{UnderWay, still_permitted};
use crate::telemetry::labels::{RecordedProtocol, ResponseFlags};
use crate::transport::http1::{ExchangeOutcome, HttpCourse, PoolScope, RequestCourse};
use crate::transport::tunnel::{Course, TunnelKey};
use crate::transport::{CloseReason, Planned};

/// What is kept with a request, from its decision to its end.
#[derive(Debug)]
pub struct Exchange(Box<Kept>);

#[derive(Debug)]
struct Kept {
    /// The endpoint that it makes busy.
    busy: BusyGuard,
    sides: RequestSides,
    /// To decide it again, where its destination is decided here.
    under_way: Option<UnderWay>,
}

impl Exchange {
    /// What the refusal is called for which it is cut off, if it is.
    pub(super) fn decision(&self) -> Option<DecisionId> {
        self.0.sides.iter().find_map(RequestSide::decision)
    }
}

/// A request's way: where it goes, who reports it besides the side that asked, and with what it is decided again.
struct Carried {
    course: RequestCourse,
    called: Option<RequestSide>,
    under_way: Option<UnderWay>,
}

impl Core {
    /// A connection whose requests are decided one by one.
    pub(super) fn requests_of(
        &self,
        place: Place,
        snapshot: &Snapshot,
        facts: ConnectionFacts,
        destination: Destination,
        course: HttpCourse,
    ) -> (Record, Course) {
        let http = HttpConnection::new(snapshot, facts, destination);
        (Record::of_requests(place, http), Course::Http(course))
    }

    /// Decides a request.
    pub(super) fn decide_request(
        &self,
        pod: &PodHandle,
        record: &mut Record,
        request: &RequestFacts<'_>,
    ) -> Result<(Exchange, RequestCourse), LocalAnswer<'static>> {
        let snapshot = self.snapshot();
        let http = record.http().expect("only connections of requests have any");
        http.refresh(&snapshot);
        let http: &HttpConnection = http;
        let authenticated = self.authenticate(&snapshot, http.subject(), request);
        let authenticated =
            authenticated.map_err(|rejection| self.answer(http.subject(), request, &rejection))?;
        let Some(authenticated) = authenticated else {
            return self.decide_authenticated(&snapshot, pod, http, request);
        };
        let (exchange, course) = authenticated
            .show(request, |request| self.decide_authenticated(&snapshot, pod, http, request))?;
        Ok((exchange, RequestCourse { edits: authenticated.into_edits(), ..course }))
    }

    /// Decides a request of which it is known whom its token speaks of, where tokens are looked at.
    fn decide_authenticated(
        &self,
        snapshot: &Snapshot,
        pod: &PodHandle,
        http: &HttpConnection,
        request: &RequestFacts<'_>,
    ) -> Result<(Exchange, RequestCourse), LocalAnswer<'static>> {
        let subject = http.subject();
        let decided = self.plan_request(snapshot, subject, request, &[]);
        let (plan, decided) = decided.map_err(|rejection| self.answer(subject, request, &rejection))?;
        let mut side = self.begin_request(subject, &decided, &plan, request);
        let busy = self.load.add(plan.address(), Unit::Request);
        let Carried { course, called, under_way } = match self.carry(snapshot, pod, http, &plan, request) {
            Ok(carried) => carried,
            Err((decision, rejection)) => {
                side.refused_as(decision);
                side.ended(&reported_rejection(&rejection, request));
                return Err(LocalAnswer { decision, ..local_answer(&rejection) });
            }
        };
        let mut sides = RequestSides::from_buf([side]);
        sides.extend(called);
        Ok((Exchange(Box::new(Kept { busy, sides, under_way })), course))
    }

    /// Whether a request under way would be let through now, on its connection; its record names what forbids it.
    pub(super) fn request_holds(&self, record: &Record, exchange: &mut Exchange) -> bool {
        let Some(http) = record.as_http() else { return true };
        let Kept { under_way, sides, .. } = &mut *exchange.0;
        let Err(denial) = still_permitted(&self.snapshot(), http, under_way.as_ref()) else { return true };
        self.shared.metrics.refused(denial.reason.code());
        let rejection = Rejection::Denied(denial);
        let decision = self.name_cut(http, under_way.as_ref(), &rejection);
        sides.iter_mut().for_each(|side| side.denied(&rejection, decision));
        false
    }

    /// Another endpoint for a request whose endpoint was not there.
    pub(super) fn request_elsewhere(
        &self,
        pod: &PodHandle,
        record: &mut Record,
        exchange: &mut Exchange,
        failure: CloseReason,
    ) -> Option<RequestCourse> {
        let snapshot = self.snapshot();
        let http = record.http()?;
        http.refresh(&snapshot);
        let subject = http.subject();
        let endpoint = exchange.0.busy.endpoint();
        let plan = around(endpoint, has_others(subject.destination), failure, |tried| {
            // Policy has spoken at this side, where it permits what it resolves: only the endpoint is chosen anew.
            let permit = policy::authorize_connection(&snapshot, subject.facts, subject.destination).ok()?;
            let choice = Choice { random: fastrand::u64(..), load: &self.load, tried };
            route::plan_request(&snapshot, permit, &choice).ok()
        })?;
        // Between pods of this agent the called side would have to decide with the request's own facts.
        if matches!(plan, Plan::Local(_)) {
            return None;
        }
        exchange.0.busy = self.load.add(plan.address(), Unit::Request);
        if let Some(side) = exchange.0.sides.first_mut() {
            self.redirect_request(side, subject, &plan);
        }
        Some(self.course_of(pod, subject.facts, &plan))
    }

    /// Reports a request that ended.
    pub(super) fn end_request(exchange: Exchange, outcome: &ExchangeOutcome) {
        let reported = Reported {
            protocol: RecordedProtocol::Http1,
            code: outcome.status,
            grpc_status: None,
            flags: flags_of_exchange(outcome),
            reason: reason_of(outcome),
            request_bytes: outcome.bytes.request,
            response_bytes: outcome.bytes.response,
            duration: outcome.duration,
        };
        for side in exchange.0.sides {
            side.ended(&reported);
        }
    }

    /// Where a plan leads; for a pod of this agent the inbound stages decide too.
    fn carry(
        &self,
        snapshot: &Snapshot,
        pod: &PodHandle,
        http: &HttpConnection,
        plan: &Plan,
        request: &RequestFacts<'_>,
    ) -> Result<Carried, (Option<DecisionId>, Rejection)> {
        let subject = http.subject();
        let Plan::Local(local) = plan else {
            let course = self.course_of(pod, subject.facts, plan);
            let under_way = UnderWay::keep(http, None, request);
            return Ok(Carried { course, called: None, under_way });
        };
        let facts = arrived_here(subject.facts, local);
        let destination = resolve::destination(snapshot, &facts).with_detected(Protocol::Http1);
        let caller = Some(&subject.facts.local);
        let called = Subject { facts: &facts, destination: &destination, caller };
        let refuse = |rejection: Rejection| (self.answer(called, request, &rejection).decision, rejection);
        let authenticated = self.authenticate(snapshot, called, request).map_err(refuse)?;
        let arrive = |request: &RequestFacts<'_>| {
            let (plan, decided) = self.plan_request(snapshot, called, request, &[]).map_err(refuse)?;
            let side = self.begin_request(called, &decided, &plan, request);
            let under_way = UnderWay::keep(http, Some(facts.clone()), request);
            Ok(Carried { course: self.course_of(pod, &facts, &plan), called: Some(side), under_way })
        };
        let Some(authenticated) = authenticated else { return arrive(request) };
        let Carried { course, called, under_way } = authenticated.show(request, arrive)?;
        let course = RequestCourse { edits: authenticated.into_edits(), ..course };
        Ok(Carried { course, called, under_way })
    }

    fn course_of(&self, pod: &PodHandle, facts: &ConnectionFacts, plan: &Plan) -> RequestCourse {
        let planned = Planned::from(plan);
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
                RequestCourse {
                    course: Course::Tunnel { key, open, planned },
                    share: None,
                    edits: None,
                    client_certificate: None,
                }
            }
            Plan::Direct(direct) => RequestCourse {
                course: Course::Direct { dial: super::dial_from(pod, direct.address), planned },
                share: Some(scope(facts, direct.address)),
                edits: None,
                client_certificate: None,
            },
            Plan::Application(_) | Plan::Local(_) => {
                let address = plan.address();
                let called = self.pod(&facts.local.uid);
                let called = called.as_ref().unwrap_or(pod);
                // A port that is not declared as HTTP gets a connection of its own: what it keeps is not known.
                let is_http = !matches!(protocol_of(plan), Protocol::Tcp | Protocol::Tls);
                RequestCourse {
                    course: Course::Direct { dial: super::dial_own(called, address), planned },
                    share: is_http.then(|| scope(facts, address)),
                    edits: None,
                    client_certificate: client_certificate(facts, &facts.local.identity),
                }
            }
        }
    }

    /// Reports a request that is not carried, and gives its answer.
    fn answer(
        &self,
        subject: Subject<'_>,
        request: &RequestFacts<'_>,
        rejection: &Rejection,
    ) -> LocalAnswer<'static> {
        let side = self.reject_request(subject, rejection, request);
        let decision = side.decision();
        side.ended(&reported_rejection(rejection, request));
        LocalAnswer { decision, ..local_answer(rejection) }
    }
}

fn reported_rejection(rejection: &Rejection, request: &RequestFacts<'_>) -> Reported {
    let answer = local_answer(rejection);
    Reported {
        protocol: RecordedProtocol::Http1,
        code: answer.status,
        grpc_status: None,
        flags: rejection.flags(),
        reason: answer.reason,
        request_bytes: 0,
        response_bytes: answer.body_bytes(request.method == b"HEAD"),
        duration: Duration::ZERO,
    }
}

fn local_answer(rejection: &Rejection) -> LocalAnswer<'static> {
    let (status, text) = rejection.answer();
    LocalAnswer { status, text, reason: rejection.reason(), decision: None }
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

fn flags_of_exchange(outcome: &ExchangeOutcome) -> ResponseFlags {
    match (outcome.ending, outcome.failure) {
        (Ending::Complete | Ending::Early, _) => ResponseFlags::None,
        (Ending::ClientGone, None) => ResponseFlags::DownstreamDisconnect,
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
        // With a failure it is the upstream that was not there: the source's daemon was told by a reset.
        (Ending::ClientGone, None) => CloseReason::ClientReset.reason(),
        (Ending::BadRequest(refusal) | Ending::BadResponse(refusal), _) => refusal.reason(),
        (_, Some(failure)) => failure.reason(),
        (Ending::Answered(reason), None) => reason,
        (Ending::UpstreamGone, None) => CloseReason::ServerReset.reason(),
        (Ending::TimedOut, None) => CloseReason::IdleTimedOut.reason(),
        (Ending::Cut, None) => CloseReason::NoLongerPermitted.reason(),
    }
}
