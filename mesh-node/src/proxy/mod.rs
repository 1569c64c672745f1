//! The conductor: the only module that knows the order of the stages.
//!
//! In: what the engine of a core accepted or was sent. Out: a course for it, and at its end its access record and its
//! counts. One [`Proxy`] per core; what the cores share is in [`Shared`]. Everything here is a plain function on the
//! core's thread: it looks up, decides and returns. Does no I/O of its own but two look-ups of the kernel's maps.

mod abuse;
mod asking;
mod certificates;
mod client_certificate;
mod decisions;
mod detected;
mod dial;
mod external;
mod http;
mod http2;
mod http2_exchange;
mod http2_serve;
mod inbound;
pub mod limits;
mod load;
mod outbound;
mod pod;
mod record;
mod request;
mod response;
mod shared;
mod under_way;
mod unresolved;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use mesh_common::http1;
use mesh_common::model::{DecisionId, Direction, Found, RequestFacts, SpiffeId, WorkloadUid};
use mesh_common::policy;
use mesh_common::snapshot::Snapshot;
use mesh_common::token::TokenCache;
use mesh_common::tunnel::{Open, ResetReason, StreamToken};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tracing::debug;

pub use self::decisions::{Cause, KEPT as KEPT_REFUSALS, KEPT_OTHERS, Origin, Refused};
pub use self::detected::{Learned, LearnedPort};
pub use self::http::Exchange;
pub use self::pod::PodHandle;
pub use self::record::Record;
pub use self::shared::{ProxyMetrics, Shared};

use self::asking::Held;
use self::certificates::left_until;
use self::decisions::Decisions;
use self::detected::CoreLearned;
use self::dial::dial_from;
use self::external::Questions;
use self::http2::Http2Connections;
use self::limits::Place;
use self::load::LoadTable;
use self::record::Subject;
use self::response::Rejection;
use self::unresolved::Between;
use crate::identity::{Alpn, HandshakeFailure, Peer, server_name};
use crate::telemetry::chain::Chain;
use crate::telemetry::traffic::CoreTraffic;
use crate::transport::connect::Dial;
use crate::transport::handshakes::{self, Handshakes};
use crate::transport::http1::{AskedBody, ExchangeOutcome, Instead, QuestionId, RequestCourse, Unwaited};
use crate::transport::penalties::Penalties;
use crate::transport::tunnel::{
    Accepted, Caller, Conductor, Course, FirstBytes, Identified, Inbound, LostTunnel, Outbound, Refusal,
    Speaks, TunnelKey, TunnelPlan,
};
use crate::transport::{self, CloseReason, Outcome, TunnelLoss};

/// Decides for one core. A clone decides for the same one: the engine has one, each HTTP/2 connection another.
#[derive(Clone)]
pub struct Proxy(Rc<Core>);

/// What one core decides with. Nothing here is borrowed across a call that could come back.
pub struct Core {
    shared: Arc<Shared>,
    snapshots: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    traffic: CoreTraffic,
    load: LoadTable,
    /// Captured pods, to dial their applications.
    pods: RefCell<HashMap<WorkloadUid, PodHandle>>,
    http2: Http2Connections,
    learned: CoreLearned,
    decisions: Decisions,
    /// Tokens of end users that were found good.
    tokens: RefCell<TokenCache>,
    /// What is asked of authorization servers.
    questions: Questions,
    /// Who was cut off for abuse.
    penalties: Penalties,
}

impl Deref for Proxy {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.0
    }
}

impl Proxy {
    /// The conductor of core `core`, counted from 0, whose handshakes are in `handshakes`.
    pub fn new(
        shared: Arc<Shared>,
        core: usize,
        http2: transport::http2::Settings,
        handshakes: Handshakes,
    ) -> Self {
        Self(Rc::new(Core {
            snapshots: RefCell::new(Cache::new(Arc::clone(&shared.snapshots))),
            traffic: shared.traffic.core(core),
            load: LoadTable::default(),
            pods: RefCell::default(),
            tokens: RefCell::default(),
            learned: shared.learned.core(),
            decisions: Decisions::new(shared.origin),
            questions: Questions::default(),
            penalties: Penalties::new(shared.abuse_penalty),
            http2: Http2Connections::new(Arc::clone(&shared.identities), http2, handshakes),
            shared,
        }))
    }
}

impl Core {
    /// A pod is captured from now on.
    pub fn add_pod(&self, pod: PodHandle) {
        self.pods.borrow_mut().insert(pod.uid().clone(), pod);
    }

    /// A pod is not captured any more.
    pub fn remove_pod(&self, uid: &WorkloadUid) {
        self.pods.borrow_mut().remove(uid);
        self.forget_asking_for(uid);
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(self.snapshots.borrow_mut().load())
    }

    fn pod(&self, uid: &WorkloadUid) -> Option<PodHandle> {
        self.pods.borrow().get(uid).cloned()
    }

    /// A place for a connection, which is reported as refused if there is none.
    fn place(&self, pod: &PodHandle, subject: Subject<'_>) -> Result<Place, Refusal> {
        let place = self.or_reject(pod.places().take().map_err(Rejection::Limited), subject)?;
        Ok(place.using(self.in_use(subject.facts)))
    }

    fn original_dst(&self, pod: &PodHandle, accepted: &Accepted<'_>) -> Option<SocketAddr> {
        let cookie = pod.namespace().cookie();
        match self.shared.original_dsts.take(cookie, accepted.peer, accepted.local.port()) {
            Ok(original_dst) => original_dst,
            Err(error) => {
                debug!(error = %Chain(&error), "the original destination cannot be read");
                None
            }
        }
    }

    /// Counts a rejection and makes the engine's refusal of it.
    fn refuse(&self, rejection: &Rejection) -> Refusal {
        self.shared.metrics.refused(rejection.reason());
        Refusal(rejection.reset())
    }
}

impl Conductor for Proxy {
    type Pod = PodHandle;
    type Record = Record;
    type Exchange = Exchange;
    type Held = Held;

    fn holds_back(&mut self, pod: &PodHandle) -> Option<Duration> {
        self.waits_for_penalty(pod)
    }

    fn admit_inbound(&mut self, _: &PodHandle, peer: IpAddr) -> Result<(), Refusal> {
        self.admit_address(peer)
    }

    fn accept_outbound(
        &mut self,
        pod: &PodHandle,
        accepted: &Accepted<'_>,
    ) -> Result<Outbound<Record, Held>, Refusal> {
        self.begins_in_penalty(pod);
        self.outbound(pod, accepted)
    }

    fn begin_outbound(
        &mut self,
        pod: &PodHandle,
        held: Held,
        is_over: bool,
    ) -> Result<Outbound<Record, Held>, Refusal> {
        self.outbound_again(pod, held, is_over)
    }

    fn accept_inbound(
        &mut self,
        pod: &PodHandle,
        accepted: &Accepted<'_>,
    ) -> Result<Inbound<Record>, Refusal> {
        self.begin_inbound(pod, accepted)
    }

    fn accept_plaintext(
        &mut self,
        pod: &PodHandle,
        accepted: &Accepted<'_>,
        first: FirstBytes<'_>,
    ) -> Result<(Record, Course), Refusal> {
        self.peeked(pod, accepted, first)
    }

    fn not_begun(
        &mut self,
        pod: &PodHandle,
        direction: Direction,
        accepted: &Accepted<'_>,
        reason: CloseReason,
    ) {
        let mut between = Between::accepted(direction, accepted);
        if direction == Direction::Outbound {
            // Taken whatever becomes of the connection, as of one that is decided.
            between.address = self.original_dst(pod, accepted).unwrap_or(between.address);
        }
        self.report_unresolved(pod, between, (Cause::of(reason), reason.reason()));
    }

    fn accept_h2(
        &mut self,
        pod: &PodHandle,
        socket: OwnedFd,
        peer: SocketAddr,
        local: SocketAddr,
        place: handshakes::Place,
    ) {
        self.serve_http2_peer(pod, socket, peer, local, place);
    }

    fn hand_over(&mut self, pod: &PodHandle, record: Record, socket: OwnedFd, speaks: Speaks) {
        self.serve_http2(pod, record, socket, speaks);
    }

    fn plan_tunnel(
        &mut self,
        pod: &PodHandle,
        key: &TunnelKey,
        record: &Record,
    ) -> Result<TunnelPlan, TunnelLoss> {
        let local = &record.facts().local.identity;
        let tls = self
            .shared
            .identities
            .client(local, &key.identity, Alpn::Mux1)
            .map_err(|error| self.without_certificate(&error))?;
        Ok(TunnelPlan {
            dial: dial_from(pod, key.destination),
            tls,
            name: server_name(record.dialled_host(), key.destination.ip()),
            retire_at: self.retire_at(local),
        })
    }

    fn serve_tunnel(&mut self, pod: &PodHandle) -> Result<Arc<ServerConfig>, TunnelLoss> {
        let snapshot = self.snapshot();
        let workload = snapshot.workload(pod.uid()).ok_or(TunnelLoss::Retired)?;
        self.shared
            .identities
            .server(&workload.identity, Alpn::Mux1)
            .map_err(|error| self.without_certificate(&error))
    }

    fn identify(&mut self, certificates: &[CertificateDer<'_>]) -> Result<Identified, Refusal> {
        let Peer { identity, not_after, certificate } =
            self.shared.identities.peer(Some(certificates)).map_err(|reason| {
                self.shared.metrics.refused(reason.as_str());
                Refusal(ResetReason::Denied)
            })?;
        let until = left_until(not_after).map(|left| Instant::now() + left);
        Ok(Identified { identity, certificate, until })
    }

    fn open_stream(
        &mut self,
        pod: &PodHandle,
        caller: &Caller,
        open: &Open,
    ) -> Result<(Record, Course), Refusal> {
        self.stream(pod, caller, open)
    }

    fn looked(
        &mut self,
        pod: &PodHandle,
        record: &mut Record,
        found: Option<&Found>,
    ) -> Result<Course, Refusal> {
        match record.facts().direction {
            Direction::Inbound => self.looked_at_stream(pod, record, found),
            Direction::Outbound => self.looked_at_outbound(pod, record, found),
        }
    }

    fn watches(&self, record: &Record) -> bool {
        record.is_to_be_watched()
    }

    fn found(&mut self, record: &mut Record, found: &Found) {
        self.connection_found(record, found);
    }

    fn request(
        &mut self,
        pod: &PodHandle,
        record: &mut Record,
        request: &RequestFacts<'_>,
        answered: Option<QuestionId>,
    ) -> Result<(Exchange, RequestCourse), Instead> {
        self.decide_request(pod, record, request, answered)
    }

    fn ask(&mut self, question: QuestionId, body: AskedBody, done: Box<dyn FnOnce()>) {
        self.ask_beside(question, body, done);
    }

    fn not_asked(&mut self, question: QuestionId, why: Unwaited) {
        match why {
            Unwaited::ClientGone => self.forget_question(question),
            Unwaited::Refused => self.drop_question(question),
        }
    }

    fn unanswered(&mut self, question: QuestionId) -> Option<http1::LocalAnswer<'static>> {
        self.question_was_late(question)
    }

    fn next_endpoint_of_request(
        &mut self,
        pod: &PodHandle,
        record: &mut Record,
        exchange: &mut Exchange,
        failure: CloseReason,
    ) -> Option<RequestCourse> {
        debug!(reason = failure.reason(), "endpoint was not there for a request; trying another");
        self.request_elsewhere(pod, record, exchange, failure)
    }

    fn exchange_ended(
        &mut self,
        record: &mut Record,
        exchange: Exchange,
        outcome: &ExchangeOutcome,
    ) -> Option<DecisionId> {
        self.end_request(record, exchange, outcome)
    }

    fn request_refused(
        &mut self,
        record: &mut Record,
        refusal: http1::Refusal,
        asked: http1::AskedFor,
    ) -> Option<DecisionId> {
        // What cannot be read is answered with a status alone.
        record.as_http().map(|http| self.report_refused(http, refusal, asked, 0))
    }

    fn request_still_permitted(&mut self, record: &Record, exchange: &mut Exchange) -> bool {
        self.request_holds(record, exchange)
    }

    fn decision_of(&self, exchange: &Exchange) -> Option<DecisionId> {
        exchange.decision()
    }

    fn dial(&mut self, record: &Record, dial: &Dial) -> io::Result<OwnedFd> {
        self.connect(record.caller(), dial)
    }

    fn next_endpoint(&mut self, record: &mut Record, failure: CloseReason) -> Option<Course> {
        debug!(reason = failure.reason(), "endpoint was not there; trying another");
        self.elsewhere(record, failure)
    }

    fn carried(&mut self, record: &mut Record, to_server: u64, to_client: u64) {
        record.carried(to_server, to_client);
    }

    fn closed(&mut self, mut record: Record, outcome: &Outcome) {
        if outcome.reason == CloseReason::NotTaken {
            self.shared.metrics.refused(outcome.reason.reason());
        }
        if let Some(subject) = record.as_undecided() {
            record::begin(&self.shared.access_log, subject, None).record.reason = outcome.reason.reason();
        }
        self.name_lost(&mut record, outcome.reason);
        record.end(outcome);
    }

    fn tunnel_lost(&mut self, pod: &PodHandle, tunnel: LostTunnel<'_>) {
        let failure = tunnel.error.map(HandshakeFailure::of);
        let reason = failure.map_or(tunnel.loss.reason(), HandshakeFailure::as_str);
        self.shared.metrics.tunnel_lost(reason);
        // One that carried streams is told by their records.
        if let Some((client, address)) = tunnel.peer.zip(tunnel.never_up_at) {
            let why = (Cause::of(CloseReason::TunnelLost(tunnel.loss)), reason);
            self.report_unresolved(pod, Between::inbound(client, address), why);
        }
        if let (TunnelLoss::Violation, Some(client), None) = (tunnel.loss, tunnel.peer, tunnel.key) {
            self.peer_cut_off(pod, client, None);
        }
        let peer = tunnel.peer.map(tracing::field::display);
        let expected = tunnel.key.map(|key| tracing::field::display(&key.identity));
        debug!(pod = %pod.uid().0, peer, expected, reason, streams = tunnel.streams, "tunnel lost");
    }

    fn still_permitted(&mut self, record: &mut Record) -> bool {
        let snapshot = self.snapshot();
        let refused = record.sides().find_map(|(facts, carried)| {
            policy::recheck(&snapshot, facts, carried).err().map(|denial| (facts, denial))
        });
        let Some((facts, denial)) = refused else { return true };
        self.shared.metrics.refused(denial.reason.code());
        let rejection = Rejection::Denied(denial);
        // Requests have each an id of their own.
        let decision = record.as_http().is_none().then(|| self.name_closing(&snapshot, facts, &rejection));
        record.denied(&rejection, decision);
        false
    }

    fn peer_still_trusted(&mut self, certificates: &[CertificateDer<'_>]) -> bool {
        self.shared.identities.still_trusted(certificates).is_ok()
    }

    fn tunnel_still_wanted(&mut self, pod: &PodHandle, _: &SpiffeId) -> bool {
        self.snapshot().workload(pod.uid()).is_some()
    }
}

/// 128 random bits that name a stream.
fn stream_token() -> StreamToken {
    let mut token = [0; 16];
    aws_lc_rs::rand::fill(&mut token).expect("the system's random numbers do not run out");
    StreamToken(token)
}

/// The address of `addresses` that is of the same family as `like`.
fn of_family(addresses: &[IpAddr], like: SocketAddr) -> Option<IpAddr> {
    addresses.iter().find(|address| address.is_ipv4() == like.is_ipv4()).copied()
}
