//! The six calls, inbound: a connection or a stream to a pod of this node. Here is decided who may do what.

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_common::model::protocol::{Sniffed, sniff};
use mesh_common::model::{
    ConnectionFacts, Direction, Enrolment, Found, PeerIdentity, Protocol, ServerName, Spoken, Workload,
};
use mesh_common::policy::{self, Denial, Permit, Requests};
use mesh_common::resolve::{self, Destination};
use mesh_common::route::{self, Choice, Local, Plan};
use mesh_common::snapshot::Snapshot;
use mesh_common::tunnel::{Open, ResetReason, StreamKind};

use super::pod::PodHandle;
use super::record::{Decided, Record, Side, Subject, Undecided};
use super::request::arrived_here;
use super::response::Rejection;
use super::{Between, Core};
use crate::transport::Planned;
use crate::transport::connect::Dial;
use crate::transport::http1::HttpCourse;
use crate::transport::tunnel::{Accepted, Caller, Course, FirstBytes, Inbound, Refusal};

/// What brought a connection to its pod.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carrier {
    /// A TCP connection in the clear.
    Socket,
    /// A stream of a tunnel.
    Stream,
    /// A stream that says it carries one HTTP/1.1 exchange.
    ExchangeStream,
}

impl Core {
    /// Decides a stream of a peer's tunnel. What OPEN says is a hint: the source address is the tunnel's, only the
    /// port comes from OPEN, and the dialled address counts only if the tables know this endpoint behind it.
    pub(super) fn stream(
        &self,
        pod: &PodHandle,
        caller: &Caller,
        open: &Open,
    ) -> Result<(Record, Course), Refusal> {
        let snapshot = self.snapshot();
        let client = SocketAddr::new(caller.peer.ip(), open.source_port);
        let facts = ConnectionFacts {
            direction: Direction::Inbound,
            client,
            original_dst: caller.local,
            local: self.called(&snapshot, pod, Between::inbound(client, caller.local))?,
            peer: PeerIdentity::Verified(caller.identity.clone()),
            certificate: Some(Arc::clone(&caller.certificate)),
            claimed_dst: Some(open.dialled),
            server_name: ServerName::Unknown,
        };
        let carrier = match open.kind {
            StreamKind::Http1 => Carrier::ExchangeStream,
            StreamKind::Opaque => Carrier::Stream,
        };
        self.arrived(pod, &snapshot, facts, None, carrier)
    }

    /// Decides a stream whose first bytes were waited for. `found` is what they told; nothing, if they do not.
    pub(super) fn looked_at_stream(
        &self,
        pod: &PodHandle,
        record: &mut Record,
        found: Option<&Found>,
    ) -> Result<Course, Refusal> {
        let Some((place, Undecided { facts, .. })) = record.take_undecided() else {
            return Err(Refusal(ResetReason::Internal));
        };
        drop(place);
        let snapshot = self.snapshot();
        let silence = told_nothing();
        let found = found.unwrap_or(&silence);
        let course;
        (*record, course) = self.arrived(pod, &snapshot, facts, Some(found), Carrier::Stream)?;
        Ok(course)
    }

    /// Decides how a connection to a pod begins. If policy lets in anybody and the server may speak first, nothing is
    /// waited for. If not, only a tunnel can help, or first bytes.
    pub(super) fn begin_inbound(
        &self,
        pod: &PodHandle,
        accepted: &Accepted<'_>,
    ) -> Result<Inbound<Record>, Refusal> {
        if accepted.local.ip().is_loopback() {
            let between = Between::accepted(Direction::Inbound, accepted);
            return Err(self.refuse_unresolved(pod, between, &Rejection::NotCaptured));
        }
        let snapshot = self.snapshot();
        // An enrolled pod of another node speaks first: a ClientHello of ours.
        let is_mesh = snapshot
            .workload_at(accepted.peer.ip())
            .is_some_and(|caller| caller.enrolment == Enrolment::Enabled);
        if is_mesh || !self.may_begin_at_once(&snapshot, pod, accepted)? {
            self.ask_who_calls(pod, &snapshot, accepted.peer.ip(), false);
            return Ok(Inbound::Peek);
        }
        if self.may_be_of_the_mesh(pod, &snapshot, accepted.peer.ip()) {
            return Ok(Inbound::Peek);
        }
        let (record, course) = self.plaintext(pod, accepted, None)?;
        Ok(Inbound::Plaintext(record, course))
    }

    /// Decides a connection in the clear, now that its first bytes are known.
    pub(super) fn peeked(
        &self,
        pod: &PodHandle,
        accepted: &Accepted<'_>,
        first: FirstBytes<'_>,
    ) -> Result<(Record, Course), Refusal> {
        let found = match first {
            // What may still be the beginning of a request is for the codec to judge.
            FirstBytes::Foreign(bytes) => Found::in_bytes(bytes).or_else(|| {
                let is_request = sniff(bytes) == Sniffed::NeedMore && bytes.first() != Some(&TLS_HANDSHAKE);
                (!is_request).then(|| Found::in_all(bytes))
            }),
            FirstBytes::Silence => Some(told_nothing()),
        };
        self.plaintext(pod, accepted, found.as_ref())
    }

    /// The called half of a connection between two pods of this agent: the caller's identity needs no proof.
    pub(super) fn called_here(
        &self,
        snapshot: &Snapshot,
        outbound: &ConnectionFacts,
        local: &Local,
        found: Option<&Found>,
    ) -> Result<(Side, Course), Refusal> {
        let facts = arrived_here(outbound, local);
        let destination = resolve::destination(snapshot, &facts);
        let destination = match found {
            Some(found) => destination.with_detected(found.spoken.protocol()),
            None => destination,
        };
        let verdict = policy::authorize_connection(snapshot, &facts, &destination);
        let (mut side, course) = self.admit(snapshot, &facts, &destination, verdict)?;
        found.into_iter().for_each(|found| side.turned_out(found));
        Ok((side, course))
    }

    fn plaintext(
        &self,
        pod: &PodHandle,
        accepted: &Accepted<'_>,
        found: Option<&Found>,
    ) -> Result<(Record, Course), Refusal> {
        let snapshot = self.snapshot();
        let facts = self.stranger(&snapshot, pod, accepted)?;
        self.arrived(pod, &snapshot, facts, found, Carrier::Socket)
    }

    /// What arrived at a pod goes on as bytes, or request by request: if it is an exchange, if the port is declared
    /// as HTTP, or if policy asks about requests. A stream whose first bytes decide that waits for them: `found` is what
    /// they told.
    fn arrived(
        &self,
        pod: &PodHandle,
        snapshot: &Snapshot,
        mut facts: ConnectionFacts,
        found: Option<&Found>,
        carrier: Carrier,
    ) -> Result<(Record, Course), Refusal> {
        self.ask_who_calls(pod, snapshot, facts.client_ip(), facts.peer.verified().is_some());
        if let Some(found) = found {
            facts.server_name = found.server_name.clone();
        }
        let spoken = found.map_or(Protocol::Undeclared, |found| found.spoken.protocol());
        let destination = resolve::destination(snapshot, &facts).with_detected(spoken);
        let caller = caller_pod(snapshot, &facts);
        let place = self.place(pod, Subject { facts: &facts, destination: &destination, caller })?;
        if found.is_none()
            && carrier == Carrier::Stream
            && policy::waits_for_first_bytes(snapshot, &facts, &destination)
        {
            let caller = caller.cloned();
            return Ok((Record::undecided(place, Undecided { facts, destination, caller }), Course::Look));
        }
        let verdict = policy::authorize_connection(snapshot, &facts, &destination);
        let asks = verdict.as_ref().is_ok_and(|permit| permit.requests() == Requests::NeedDecision);
        let is_http = match (carrier, destination.protocol) {
            (Carrier::ExchangeStream, _) | (_, Protocol::Http1) => true,
            // Other agents bring HTTP/2 over `nodemesh/h2`: a stream of bytes stays one.
            (Carrier::Socket, Protocol::Http2 | Protocol::Grpc) => true,
            (_, Protocol::Undeclared) => asks,
            (Carrier::Stream, Protocol::Http2 | Protocol::Grpc) | (_, Protocol::Tcp | Protocol::Tls) => false,
        };
        if !is_http || verdict.as_ref().is_err_and(|denial| !is_worth_reading(denial)) {
            let (mut side, course) = self.admit(snapshot, &facts, &destination, verdict)?;
            if let Some(found) = found {
                self.learn(destination.service.as_ref(), found);
                side.turned_out(found);
            }
            return Ok((Record::new(place, None, side), course));
        }
        drop(verdict);
        // What is read as HTTP in the clear asks for no name.
        facts.server_name = ServerName::Absent;
        found.into_iter().for_each(|found| self.learn(destination.service.as_ref(), found));
        let course = HttpCourse {
            dialled: facts.claimed_dst.unwrap_or(facts.original_dst),
            known_client: facts.peer.verified().is_some(),
            one_exchange: carrier == Carrier::ExchangeStream,
            expects_http2: destination.protocol.is_http2(),
        };
        Ok(self.requests_of(place, snapshot, facts, destination, course))
    }

    /// Whether policy lets in anybody, at a port whose clients may wait for the server. Where they speak first, a look at
    /// what they say costs nothing, and shows who is of the mesh: a pod that began just now may be known here later than
    /// it connects.
    fn may_begin_at_once(
        &self,
        snapshot: &Snapshot,
        pod: &PodHandle,
        accepted: &Accepted<'_>,
    ) -> Result<bool, Refusal> {
        let facts = self.stranger(snapshot, pod, accepted)?;
        let destination = resolve::destination(snapshot, &facts);
        if client_speaks_first(destination.protocol) {
            return Ok(false);
        }
        if policy::waits_for_first_bytes(snapshot, &facts, &destination) {
            return Ok(false);
        }
        let permit = policy::authorize_connection(snapshot, &facts, &destination);
        Ok(permit.is_ok_and(|permit| permit.requests() == Requests::AreCovered))
    }

    fn stranger(
        &self,
        snapshot: &Snapshot,
        pod: &PodHandle,
        accepted: &Accepted<'_>,
    ) -> Result<ConnectionFacts, Refusal> {
        Ok(ConnectionFacts {
            direction: Direction::Inbound,
            client: accepted.peer,
            original_dst: accepted.local,
            local: self.called(snapshot, pod, Between::accepted(Direction::Inbound, accepted))?,
            peer: PeerIdentity::None,
            certificate: None,
            claimed_dst: None,
            server_name: ServerName::Unknown,
        })
    }

    fn called(
        &self,
        snapshot: &Snapshot,
        pod: &PodHandle,
        between: Between,
    ) -> Result<Arc<Workload>, Refusal> {
        let gone = || self.refuse_unresolved(pod, between, &Rejection::PodGone);
        snapshot.workload(pod.uid()).cloned().ok_or_else(gone)
    }

    /// Plans what policy said of an inbound connection, and begins its report.
    fn admit<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        facts: &'a ConnectionFacts,
        destination: &'a Destination,
        verdict: Result<Permit<'a>, Denial>,
    ) -> Result<(Side, Course), Refusal> {
        let subject = Subject { facts, destination, caller: caller_pod(snapshot, facts) };
        let (plan, decided) = self.or_reject(self.plan_inbound(snapshot, verdict), subject)?;
        let dial = match &plan {
            Plan::Application(application) => {
                self.or_reject(self.dial_application(&facts.local, application.address), subject)?
            }
            Plan::Tunnel(_) | Plan::Direct(_) | Plan::Local(_) => {
                return self.or_reject(Err(Rejection::WrongDestination), subject);
            }
        };
        let side = Side::open(self, subject, &decided, &plan);
        Ok((side, Course::Direct { dial, planned: Planned::from(&plan) }))
    }

    fn plan_inbound<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        verdict: Result<Permit<'a>, Denial>,
    ) -> Result<(Plan, Decided), Rejection> {
        let permit = verdict.map_err(Rejection::Denied)?;
        if permit.requests() == Requests::NeedDecision {
            return Err(Rejection::NotHttp);
        }
        let decided = Decided::by(&permit);
        let choice = Choice { random: fastrand::u64(..), load: &self.load, tried: &[] };
        let plan = route::plan_connection(snapshot, permit, &choice).map_err(Rejection::Unroutable)?;
        Ok((plan, decided))
    }

    fn dial_application(&self, called: &Workload, address: SocketAddr) -> Result<Dial, Rejection> {
        let pod = self.pod(&called.uid).ok_or(Rejection::PodGone)?;
        Ok(super::dial::dial_own(&pod, address))
    }
}

/// The first byte of a record that begins a handshake (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// What is decided with where the client said nothing in time, or nothing that tells: it may yet ask for any name.
pub(super) fn told_nothing() -> Found {
    Found { spoken: Spoken::ServerFirst, server_name: ServerName::Unknown }
}

/// Whether the called side of a connection between two pods of this agent must see its first bytes before it decides: as
/// with a stream of a peer.
pub(super) fn called_waits(snapshot: &Snapshot, outbound: &ConnectionFacts, local: &Local) -> bool {
    let facts = arrived_here(outbound, local);
    policy::waits_for_first_bytes(snapshot, &facts, &resolve::destination(snapshot, &facts))
}

/// Whether the called side of a connection between two pods of this agent reads its bytes as HTTP, for nobody has
/// declared what they are and policy asks about requests: as it does with a stream of a peer.
pub(super) fn asks_about_requests(snapshot: &Snapshot, outbound: &ConnectionFacts, local: &Local) -> bool {
    let facts = arrived_here(outbound, local);
    let destination = resolve::destination(snapshot, &facts);
    destination.protocol == Protocol::Undeclared
        && policy::authorize_connection(snapshot, &facts, &destination)
            .is_ok_and(|permit| permit.requests() == Requests::NeedDecision)
}

/// Whether a port is declared for a protocol in which a server waits for its client.
fn client_speaks_first(declared: Protocol) -> bool {
    match declared {
        Protocol::Http1 | Protocol::Http2 | Protocol::Grpc | Protocol::Tls => true,
        Protocol::Tcp | Protocol::Undeclared => false,
    }
}

/// Whether requests are worth reading though the connection is refused: not in the clear where mutual TLS is required, nor for nobody.
pub(super) fn is_worth_reading(denial: &Denial) -> bool {
    !denial.reason.is_of_connection()
}

/// The caller's pod: the one at its address, if its identity is the one that was proved.
pub(super) fn caller_pod<'a>(snapshot: &'a Snapshot, facts: &ConnectionFacts) -> Option<&'a Arc<Workload>> {
    let pod = snapshot.workload_at(facts.client_ip())?;
    match &facts.peer {
        PeerIdentity::Verified(identity) => (pod.identity == *identity).then_some(pod),
        PeerIdentity::None => Some(pod),
    }
}
