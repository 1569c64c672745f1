//! The last three calls once more for each request of an HTTP/1.1 connection: authorise, route, carry.
//!
//! In: a request's facts on a connection that was resolved already. Out: where it goes, or the answer that it gets
//! instead; at its end one access record and one count for each side that this daemon stands on.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_common::http1::LocalAnswer;
use mesh_common::http1::relay::Ending;
use mesh_common::model::{ConnectionFacts, DecisionId, HeadEdits, Protocol, RequestFacts};
use mesh_common::policy;
use mesh_common::resolve::{self, Destination};
use mesh_common::route::{self, Choice, Plan};
use mesh_common::snapshot::Snapshot;
use mesh_common::tunnel::{Open, StreamKind};

use super::Core;
use super::client_certificate::client_certificate;
use super::decisions::Cause;
use super::external::{Allowance, Said, Unplanned, allowance, with_word};
use super::limits::Place;
use super::load::{BusyGuard, Unit};
use super::outbound::{around, has_others};
use super::pod::PodHandle;
use super::record::{HttpConnection, Record, Subject};
use super::request::{Reported, RequestSide, RequestSides, arrived_here};
use super::response::{Rejection, flags_of};
use super::under_way::{UnderWay, still_permitted};
use crate::telemetry::labels::{RecordedProtocol, ResponseFlags};
use crate::transport::http1::{ExchangeOutcome, HttpCourse, Instead, PoolScope, QuestionId, RequestCourse};
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
        answered: Option<QuestionId>,
    ) -> Result<(Exchange, RequestCourse), Instead> {
        let said = answered.and_then(|question| self.take_answer(question));
        let said = said.as_ref();
        let snapshot = self.snapshot();
        let http = record.http().expect("only connections of requests have any");
        http.refresh(&snapshot);
        let http: &HttpConnection = http;
        let authenticated = self.authenticate(&snapshot, http.subject(), request);
        let authenticated =
            authenticated.map_err(|rejection| self.answer(http.subject(), request, &rejection))?;
        let Some(authenticated) = authenticated else {
            return self.decide_authenticated(&snapshot, pod, http, (request, said));
        };
        let (exchange, course) = authenticated
            .show(request, |request| self.decide_authenticated(&snapshot, pod, http, (request, said)))?;
        Ok((exchange, course.edited_before(authenticated.into_edits())))
    }

    /// Decides a request of which it is known whom its token speaks of, where tokens are looked at.
    fn decide_authenticated(
        &self,
        snapshot: &Snapshot,
        pod: &PodHandle,
        http: &HttpConnection,
        (request, said): (&RequestFacts<'_>, Option<&Said>),
    ) -> Result<(Exchange, RequestCourse), Instead> {
        let called = &http.facts.local.uid;
        let (exchange, course) = with_word(said, called, request, |request| {
            self.decide_asked(snapshot, pod, http, (request, said))
        })?;
        Ok((exchange, course.allowed(allowance(said, called))))
    }

    /// Decides a request as the authorization server lets it pass, where one was asked.
    fn decide_asked(
        &self,
        snapshot: &Snapshot,
        pod: &PodHandle,
        http: &HttpConnection,
        (request, said): (&RequestFacts<'_>, Option<&Said>),
    ) -> Result<(Exchange, RequestCourse), Instead> {
        let subject = http.subject();
        let (plan, decided) = self.plan_request(snapshot, subject, request, &[]).map_err(|rejection| {
            let unplanned = self.unplanned(snapshot, subject, request, rejection, said);
            self.instead(subject, request, unplanned)
        })?;
        let carried =
            self.carry(snapshot, pod, http, &plan, (request, said)).map_err(|(instead, reported)| {
                if let Some(reported) = reported {
                    let mut side = self.begin_request(subject, &decided, &plan, request);
                    side.refused_as(instead.decision());
                    side.ended(&reported);
                }
                instead
            });
        let Carried { mut course, mut called, under_way } = carried?;
        let side = self.begin_request(subject, &decided, &plan, request);
        course.request_id = side.made_id().cloned();
        if let Some(called) = &mut called {
            called.is_of_the_same_request(&side);
        }
        let busy = self.load.add(plan.address(), Unit::Request);
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
        sides.iter_mut().for_each(|side| side.denied(&rejection, Some(decision)));
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
        let request_id = exchange.0.sides.first().and_then(RequestSide::made_id).cloned();
        Some(RequestCourse { request_id, ..self.course_of(pod, subject.facts, &plan) })
    }

    /// Reports a request that ended. Returns what the refusal is called if it ended by one.
    pub(super) fn end_request(
        &self,
        record: &Record,
        mut exchange: Exchange,
        outcome: &ExchangeOutcome,
    ) -> Option<DecisionId> {
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
        let refused = record.as_http().zip(cause_of(outcome));
        let decision = refused.and_then(|(http, cause)| {
            self.name_reported(http, (cause, reported.reason), &mut exchange.0.sides)
        });
        for side in exchange.0.sides {
            side.ended(&reported);
        }
        decision
    }

    /// Where a plan leads; for a pod of this agent the inbound stages decide too.
    fn carry(
        &self,
        snapshot: &Snapshot,
        pod: &PodHandle,
        http: &HttpConnection,
        plan: &Plan,
        (request, said): (&RequestFacts<'_>, Option<&Said>),
    ) -> Result<Carried, (Instead, Option<Reported>)> {
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
        let refuse = |unplanned: Unplanned| {
            let reported = reported_unplanned(&unplanned, request);
            (self.instead(called, request, unplanned), reported)
        };
        let authenticated = self.authenticate(snapshot, called, request);
        let authenticated = authenticated.map_err(|rejection| refuse(Unplanned::Rejected(rejection)))?;
        let uid = &facts.local.uid;
        let arrive = |request: &RequestFacts<'_>| {
            with_word(said, uid, request, |request| {
                let planned = self.plan_request(snapshot, called, request, &[]);
                let (plan, decided) = planned.map_err(|rejection| {
                    refuse(self.unplanned(snapshot, called, request, rejection, said))
                })?;
                let side = self.begin_request(called, &decided, &plan, request);
                let under_way = UnderWay::keep(http, Some(facts.clone()), request);
                let course = self.course_of(pod, &facts, &plan).allowed(allowance(said, uid));
                Ok(Carried { course, called: Some(side), under_way })
            })
        };
        let Some(authenticated) = authenticated else { return arrive(request) };
        let Carried { course, called, under_way } = authenticated.show(request, arrive)?;
        let course = course.edited_before(authenticated.into_edits());
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
                    request_id: None,
                    response_edits: None,
                }
            }
            Plan::Direct(direct) => RequestCourse {
                course: Course::Direct { dial: super::dial::dial_from(pod, direct.address), planned },
                share: Some(scope(facts, direct.address)),
                edits: None,
                client_certificate: None,
                request_id: None,
                response_edits: None,
            },
            Plan::Application(_) | Plan::Local(_) => {
                let address = plan.address();
                let called = self.pod(&facts.local.uid);
                let called = called.as_ref().unwrap_or(pod);
                // A port that is not declared as HTTP gets a connection of its own: what it keeps is not known.
                let is_http = !matches!(protocol_of(plan), Protocol::Tcp | Protocol::Tls);
                RequestCourse {
                    course: Course::Direct { dial: super::dial::dial_own(called, address), planned },
                    share: is_http.then(|| scope(facts, address)),
                    edits: None,
                    client_certificate: client_certificate(facts, &facts.local.identity),
                    request_id: None,
                    response_edits: None,
                }
            }
        }
    }

    /// Reports a request that is not carried, unless it is asked about first.
    fn instead(&self, subject: Subject<'_>, request: &RequestFacts<'_>, unplanned: Unplanned) -> Instead {
        let reported = reported_unplanned(&unplanned, request);
        match unplanned {
            Unplanned::Rejected(rejection) => self.answer(subject, request, &rejection).into(),
            Unplanned::Refused(rejection, mut given) => {
                let side = self.reject_request(subject, &rejection, request);
                given.decision = side.decision();
                if let Some(reported) = reported {
                    side.ended(&reported);
                }
                Instead::Given(given)
            }
            Unplanned::Ask(question) => Instead::Ask(question),
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

impl RequestCourse {
    /// The same, with what is changed of the head before what it changes itself.
    fn edited_before(self, edits: Option<HeadEdits>) -> Self {
        let edits = match (edits, self.edits) {
            (Some(first), Some(later)) => Some(first.then(later)),
            (edits, None) | (None, edits) => edits,
        };
        Self { edits, ..self }
    }

    /// The same, with what an authorization server lets it pass with.
    fn allowed(self, allowance: Option<&Allowance>) -> Self {
        let Some(Allowance { request, response }) = allowance else { return self };
        let some = |edits: &HeadEdits| (!edits.is_empty()).then(|| edits.clone());
        let edits = some(request).or(self.edits);
        Self { edits, response_edits: some(response).map(Box::new), ..self }
    }
}

/// How a side that let a request through reports that the other one did not; `None` where that is not known yet.
fn reported_unplanned(unplanned: &Unplanned, request: &RequestFacts<'_>) -> Option<Reported> {
    match unplanned {
        Unplanned::Rejected(rejection) => Some(reported_rejection(rejection, request)),
        Unplanned::Refused(rejection, given) => Some(Reported {
            code: given.status,
            response_bytes: given.body_bytes(request.method == b"HEAD"),
            ..reported_rejection(rejection, request)
        }),
        Unplanned::Ask(_) => None,
    }
}

fn reported_rejection(rejection: &Rejection, request: &RequestFacts<'_>) -> Reported {
    let answer = local_answer(rejection);
    Reported {
        code: answer.status,
        flags: rejection.flags(),
        reason: answer.reason,
        response_bytes: answer.body_bytes(request.method == b"HEAD"),
        ..Reported::unanswered(RecordedProtocol::Http1, Duration::ZERO)
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

/// What refused a request that was permitted at first, if it was refused.
fn cause_of(outcome: &ExchangeOutcome) -> Option<Cause> {
    match (outcome.ending, outcome.failure) {
        (Ending::BadRequest(refusal), _) => Some(Cause::Malformed(refusal)),
        (Ending::TimedOut, _) if outcome.status == 408 => Some(Cause::Slow),
        (Ending::Answered(_), Some(failure)) => Cause::of(failure),
        _ => None,
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
