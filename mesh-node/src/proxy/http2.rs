//! HTTP/2 and gRPC: the last three calls for each request of a connection that is served beside the engine.
//!
//! In: a captured connection to a port declared so, or one of another agent with our ALPN. Out: what
//! [`transport::http2`](crate::transport::http2) is to do with each request. The connections of a core are kept
//! here, so that they can be listed, decided again and told to go, as the engine does with its own.

use std::cell::{OnceCell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use http::HeaderValue;
use mesh_common::http1::{AskedFor, FORWARDING_FIELDS, IDENTITY_FIELDS, Refusal};
use mesh_common::model::{DecisionId, Direction, RequestFacts, SpiffeId, Workload};
use mesh_common::policy::{self, Authenticated};
use mesh_common::resolve;
use mesh_common::route::{Local, Plan};
use mesh_common::snapshot::Snapshot;
use slab::Slab;
use tokio::sync::Notify;

use super::Proxy;
use super::client_certificate::client_certificate;
use super::decisions::{Cause, NO_CERTIFICATE, NOT_MUTUAL};
use super::dial::{dial_from, dial_own};
use super::external::{allowance, with_word};
use super::http2_exchange::{Http2Exchange, Open, flags_of_failure};
use super::load::Unit;
use super::pod::PodHandle;
use super::record::{HttpConnection, Record, Subject};
use super::request::{RequestSide, RequestSides, arrived_here};
use super::response::Rejection;
use super::under_way::{UnderWay, still_permitted};
use crate::identity::Identities;
use crate::transport::CloseReason;
use crate::transport::handshakes::Handshakes;
use crate::transport::http1::{AskedBody, QuestionId};
use crate::transport::http2::{
    ConnectFailure, Cut, Http2, Instead, OwnAnswer, RefusedUnseen, Settings, is_grpc_type,
};

/// The HTTP/2 connections of one core.
pub(super) struct Http2Connections {
    pub(super) server: Http2,
    open: RefCell<Slab<Weak<Http2Connection>>>,
}

/// One connection.
pub(super) struct Http2Connection {
    proxy: Proxy,
    /// Its place among the core's connections.
    key: usize,
    pub(super) pod: PodHandle,
    local: Arc<Workload>,
    client: IpAddr,
    identity: Option<SpiffeId>,
    pub(super) record: RefCell<Record>,
    pub(super) exchanges: RefCell<Slab<Open>>,
    /// Inbound: what the application is told of the caller's certificate.
    said_of_caller: OnceCell<Option<HeaderValue>>,
    pub(super) leave: Notify,
    pub(super) began: Instant,
}

impl Http2Connections {
    pub(super) fn new(identities: Arc<Identities>, settings: Settings, handshakes: Handshakes) -> Self {
        Self { server: Http2::new(identities, settings, handshakes), open: RefCell::default() }
    }

    pub(super) fn connections(&self) -> Vec<Rc<Http2Connection>> {
        self.open.borrow().iter().filter_map(|(_, connection)| connection.upgrade()).collect()
    }
}

impl Http2Connection {
    pub(super) fn enter(proxy: Proxy, pod: PodHandle, record: Record) -> Rc<Self> {
        let facts = record.facts().clone();
        let open = &proxy.0.clone().http2.open;
        let mut open = open.borrow_mut();
        let entry = open.vacant_entry();
        let connection = Rc::new(Self {
            proxy,
            key: entry.key(),
            pod,
            local: facts.local,
            client: facts.client.ip(),
            identity: facts.peer.verified().cloned(),
            record: RefCell::new(record),
            exchanges: RefCell::default(),
            said_of_caller: OnceCell::new(),
            leave: Notify::new(),
            began: Instant::now(),
        });
        entry.insert(Rc::downgrade(&connection));
        connection
    }

    pub(super) fn recheck(&self, snapshot: &Snapshot) {
        let record = self.record.borrow();
        let holds = record.sides().all(|(facts, carried)| policy::recheck(snapshot, facts, carried).is_ok());
        if !holds {
            self.leave.notify_one();
        }
        let http = record.as_http().expect("it has requests");
        for (_, open) in self.exchanges.borrow_mut().iter_mut() {
            if let Err(denial) = still_permitted(snapshot, http, open.under_way.as_ref()) {
                let code = denial.reason.code();
                let name = |kept: Option<&UnderWay>, rejection: &Rejection| {
                    self.proxy.name_cut(http, kept, rejection)
                };
                if open.deny(denial, name) {
                    self.proxy.shared.metrics.refused(code);
                }
            }
        }
    }
}

impl Drop for Http2Connection {
    fn drop(&mut self) {
        self.proxy.http2.open.borrow_mut().remove(self.key);
    }
}

impl crate::transport::http2::Conductor for Http2Connection {
    type Exchange = Http2Exchange;

    fn pod(&self) -> &Arc<Workload> {
        &self.local
    }

    fn client(&self) -> (IpAddr, Option<&SpiffeId>) {
        (self.client, self.identity.as_ref())
    }

    fn strip(&self) -> &'static [&'static str] {
        if self.identity.is_some() { IDENTITY_FIELDS } else { FORWARDING_FIELDS }
    }

    fn malformed(&self, refusal: Refusal, asked: AskedFor, response_bytes: u64) -> DecisionId {
        let record = self.record.borrow();
        let http = record.as_http().expect("it has requests");
        self.proxy.report_refused(http, refusal, asked, response_bytes)
    }

    fn late(&self, asked: AskedFor) {
        let record = self.record.borrow();
        self.proxy.report_late(record.as_http().expect("it has requests"), asked);
    }

    fn refused_unseen(&self, became: RefusedUnseen) {
        self.proxy.shared.metrics.refused_unseen(became);
    }

    fn leave(&self) -> &Notify {
        &self.leave
    }

    fn begin(self: &Rc<Self>, request: &RequestFacts<'_>, cut: Cut) -> Http2Exchange {
        let kind = request.headers.iter().find(|(name, _)| *name == b"content-type");
        Http2Exchange {
            connection: self.clone(),
            key: self.exchanges.borrow_mut().insert(Open {
                under_way: None,
                cut,
                denied: None,
                decision: None,
            }),
            began: Instant::now(),
            is_grpc: kind.is_some_and(|(_, kind)| is_grpc_type(kind)),
            status: 0,
            busy: None,
            place: None,
            sides: RequestSides::new(),
            answered: None,
            edits: None,
            response_edits: None,
            question: None,
            said: None,
        }
    }

    fn decide(
        &self,
        exchange: &mut Http2Exchange,
        request: &RequestFacts<'_>,
        tried: &[SocketAddr],
    ) -> Result<Plan, Instead> {
        if let Some(question) = exchange.question.take() {
            exchange.said = self.proxy.take_answer(question);
        }
        let said = exchange.said.clone();
        let snapshot = self.proxy.snapshot();
        let mut record = self.record.borrow_mut();
        let http = record.http().expect("it has requests");
        http.refresh(&snapshot);
        let http: &HttpConnection = http;
        let core = &*self.proxy;
        let authenticated = match core.authenticate(&snapshot, http.subject(), request) {
            Ok(authenticated) => authenticated,
            Err(rejection) if exchange.sides.is_empty() => {
                return Err(exchange.reject(core, http.subject(), &rejection, request).into());
            }
            Err(rejection) => {
                return Err(exchange.reject_after_all(core, http.subject(), &rejection, request).into());
            }
        };
        let uid = &http.facts.local.uid;
        let mut decide = |request: &RequestFacts<'_>| {
            with_word(said.as_ref(), uid, request, |request| {
                self.decide_authenticated(&snapshot, http, exchange, (request, tried))
            })
        };
        let plan = match &authenticated {
            None => decide(request)?,
            Some(authenticated) => authenticated.show(request, decide)?,
        };
        exchange.change(authenticated.and_then(Authenticated::into_edits), allowance(said.as_ref(), uid));
        Ok(plan)
    }

    fn arrive(
        &self,
        exchange: &mut Http2Exchange,
        local: &Local,
        request: &RequestFacts<'_>,
    ) -> Result<Plan, Instead> {
        let said = exchange.said.clone();
        let snapshot = self.proxy.snapshot();
        let record = self.record.borrow();
        let http = record.as_http().expect("it has requests");
        let facts = arrived_here(&http.facts, local);
        let destination = resolve::destination(&snapshot, &facts).with_detected(http.spoken);
        let called = Subject { facts: &facts, destination: &destination, caller: Some(&http.facts.local) };
        let core = &*self.proxy;
        let authenticated = match core.authenticate(&snapshot, called, request) {
            Ok(authenticated) => authenticated,
            Err(rejection) => return Err(exchange.reject(core, called, &rejection, request).into()),
        };
        let uid = &facts.local.uid;
        let mut arrive = |request: &RequestFacts<'_>| {
            with_word(said.as_ref(), uid, request, |request| {
                self.arrive_authenticated(&snapshot, http, exchange, (called, request))
            })
        };
        let plan = match &authenticated {
            None => arrive(request)?,
            Some(authenticated) => authenticated.show(request, arrive)?,
        };
        exchange.change(authenticated.and_then(Authenticated::into_edits), allowance(said.as_ref(), uid));
        Ok(plan)
    }

    fn ask(self: &Rc<Self>, question: QuestionId, body: AskedBody) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(self.proxy.asking(question, body))
    }

    fn client_certificate(&self, plan: &Plan) -> Option<HeaderValue> {
        let Plan::Application(application) = plan else { return None };
        let said = |called| {
            let said = client_certificate(self.record.borrow().facts(), called)?;
            Some(HeaderValue::from_str(&said).expect("a SPIFFE id is visible ASCII"))
        };
        // Its own pod's connections call one pod; those of its callers call many.
        match self.record.borrow().facts().direction {
            Direction::Inbound => self.said_of_caller.get_or_init(|| said(&self.local.identity)).clone(),
            Direction::Outbound => said(&application.workload.identity),
        }
    }

    fn dial(&self, plan: &Plan) -> io::Result<OwnedFd> {
        let dial = match plan {
            Plan::Tunnel(tunnel) => dial_from(&self.pod, tunnel.endpoint),
            Plan::Direct(direct) => dial_from(&self.pod, direct.address),
            Plan::Application(application) => {
                let called = self.proxy.pod(&application.workload.uid);
                let called = called.ok_or_else(|| io::Error::other("the pod is not captured any more"))?;
                dial_own(&called, application.address)
            }
            Plan::Local(_) => {
                return Err(io::Error::other("a pod of this agent is reached by its application"));
            }
        };
        let client = self.record.borrow().facts().client;
        self.proxy.connect(Some(client), &dial)
    }

    fn unreachable(&self, exchange: &mut Http2Exchange, failure: &ConnectFailure) -> OwnAnswer {
        exchange.answered = Some((flags_of_failure(failure), failure.reason()));
        let answer = OwnAnswer::unreachable(failure);
        let cause = match failure {
            ConnectFailure::SlowRequest => {
                let asked = exchange.question.take().and_then(|question| self.proxy.asked_side(question));
                exchange.sides.extend(asked);
                Cause::Slow
            }
            ConnectFailure::DeadlineExceeded | ConnectFailure::IdleTimedOut => {
                exchange.question_was_late();
                let decision = exchange.sides.iter().find_map(RequestSide::decision);
                return answer.about(decision);
            }
            ConnectFailure::BadBody(refusal) => Cause::Malformed(*refusal),
            ConnectFailure::TooManyHandshakes => Cause::Carrying(
                "too many TLS handshakes are under way (--max-pending-handshakes, --max-pending-handshakes-per-source)",
            ),
            ConnectFailure::Handshake(_) => Cause::Carrying(NOT_MUTUAL),
            ConnectFailure::NoIdentity(_) => Cause::Carrying(NO_CERTIFICATE),
            _ => return answer,
        };
        let record = self.record.borrow();
        let http = record.as_http().expect("it has requests");
        answer.about(self.proxy.name_reported(http, (cause, answer.reason), &mut exchange.sides))
    }
}

impl Http2Connection {
    /// Decides a request of which it is known whom its token speaks of, where tokens are looked at.
    fn decide_authenticated(
        &self,
        snapshot: &Snapshot,
        http: &HttpConnection,
        exchange: &mut Http2Exchange,
        (request, tried): (&RequestFacts<'_>, &[SocketAddr]),
    ) -> Result<Plan, Instead> {
        let subject = http.subject();
        let core = &*self.proxy;
        let (plan, decided) = match core.plan_request(snapshot, subject, request, tried) {
            Ok(planned) => planned,
            Err(rejection) if exchange.sides.is_empty() => {
                let unplanned = core.unplanned(snapshot, subject, request, rejection, exchange.said.as_ref());
                return Err(exchange.unplanned(core, subject, unplanned, request));
            }
            // It was permitted once and is reported already.
            Err(rejection) => {
                return Err(exchange.reject_after_all(core, subject, &rejection, request).into());
            }
        };
        if let Err(rejection) = exchange.take_place(core, &plan) {
            return Err(exchange.reject(core, subject, &rejection, request).into());
        }
        exchange.busy = Some(core.load.add(plan.address(), Unit::Request));
        match exchange.sides.first_mut() {
            Some(side) => core.redirect_request(side, subject, &plan),
            None => exchange.sides.push(core.begin_request(subject, &decided, &plan, request)),
        }
        if !matches!(plan, Plan::Local(_)) {
            self.keep(exchange, UnderWay::keep(http, None, request));
        }
        Ok(plan)
    }

    /// The inbound stages for such a request to a pod of this agent.
    fn arrive_authenticated(
        &self,
        snapshot: &Snapshot,
        http: &HttpConnection,
        exchange: &mut Http2Exchange,
        (called, request): (Subject<'_>, &RequestFacts<'_>),
    ) -> Result<Plan, Instead> {
        let core = &*self.proxy;
        let (plan, decided) = match core.plan_request(snapshot, called, request, &[]) {
            Ok(planned) => planned,
            Err(rejection) => {
                let unplanned = core.unplanned(snapshot, called, request, rejection, exchange.said.as_ref());
                return Err(exchange.unplanned(core, called, unplanned, request));
            }
        };
        if let Err(rejection) = exchange.take_place(core, &plan) {
            return Err(exchange.reject(core, called, &rejection, request).into());
        }
        exchange.sides.truncate(1);
        let mut side = core.begin_request(called, &decided, &plan, request);
        exchange.sides.first().into_iter().for_each(|caller| side.is_of_the_same_request(caller));
        exchange.sides.push(side);
        self.keep(exchange, UnderWay::keep(http, Some(called.facts.clone()), request));
        Ok(plan)
    }

    /// The caller of a request that waited is gone.
    pub(super) fn forget_question(&self, question: QuestionId) {
        self.proxy.forget_question(question);
    }

    /// How a request is reported that may wait no longer.
    pub(super) fn late_side(&self, question: QuestionId) -> Option<RequestSide> {
        self.proxy.late_side(question)
    }

    /// Counts a response of which too little was taken.
    pub(super) fn count_untaken(&self) {
        self.proxy.shared.metrics.refused(CloseReason::NotTaken.reason());
    }

    fn keep(&self, exchange: &Http2Exchange, under_way: Option<UnderWay>) {
        if let Some(open) = self.exchanges.borrow_mut().get_mut(exchange.key) {
            open.under_way = under_way;
        }
    }
}
