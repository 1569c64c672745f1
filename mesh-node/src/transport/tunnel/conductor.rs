//! What the engine asks and tells whoever decides: [`Conductor`], implemented by `proxy`.
//!
//! All calls are plain, on the core's own thread, from inside a turn: they look up, decide and return. None may
//! wait. The engine owns sockets and bytes and knows no service, policy or certificate rule; the conductor owns a
//! [`Record`](Conductor::Record) per connection and knows no descriptor.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_common::http1;
use mesh_common::model::{
    CertificateHash, DecisionId, Direction, Found, RequestFacts, SpiffeId, WorkloadUid,
};
use mesh_common::tunnel::{Open, ResetReason};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::transport::Planned;
use crate::transport::connect::{self, Dial};
use crate::transport::handshakes::Place;
use crate::transport::http1::{
    AskedBody, ExchangeOutcome, HttpCourse, Instead, QuestionId, RequestCourse, Unwaited,
};
use crate::transport::outcome::{CloseReason, Outcome, TunnelLoss};

/// A connection that was just accepted from a listener. Addresses are canonical, never IPv4-mapped.
#[derive(Clone, Copy, Debug)]
pub struct Accepted<'a> {
    /// The socket, to ask the kernel about; never to be read or kept.
    pub socket: BorrowedFd<'a>,
    /// What accept returned: the caller.
    pub peer: SocketAddr,
    /// The socket's own address: outbound the capture listener, inbound the original destination.
    pub local: SocketAddr,
}

/// The other end of an inbound tunnel, proved by its certificate.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who.
    pub identity: SpiffeId,
    /// What proved it.
    pub certificate: Arc<CertificateHash>,
    /// The tunnel's TCP peer: the source pod's address.
    pub peer: SocketAddr,
    /// The address and port that the tunnel came to: the pod's own.
    pub local: SocketAddr,
}

/// Who the peer of a tunnel is.
#[derive(Clone, Debug)]
pub struct Identified {
    /// Who.
    pub identity: SpiffeId,
    /// What proved it.
    pub certificate: Arc<CertificateHash>,
    /// Until when its certificates say so. From then on the tunnel takes no new stream, whatever the peer does: an honest
    /// client has made another one by then. `None`: for as long as the tunnel lives.
    pub until: Option<Instant>,
}

/// What a tunnel is for: streams share one only if all of this is the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TunnelKey {
    /// The pod that it is dialled from.
    pub source: WorkloadUid,
    /// Pod address and original port.
    pub destination: SocketAddr,
    /// The pod that has the address: one that has it later is reached by a tunnel of its own.
    pub called: WorkloadUid,
    /// Who must answer there.
    pub identity: SpiffeId,
}

/// How a new tunnel is made.
#[derive(Debug)]
pub struct TunnelPlan {
    /// Its TCP connection, from inside the source pod's namespace.
    pub dial: Dial,
    /// Speaks as the source pod and accepts nobody but [`TunnelKey::identity`].
    pub tls: Arc<ClientConfig>,
    /// SNI: the dialled Service's DNS name.
    pub name: ServerName<'static>,
    /// From then on the tunnel takes no new stream: the certificate is about to expire.
    pub retire_at: Option<Instant>,
}

/// How one connection is carried out.
#[derive(Clone, Debug)]
pub enum Course {
    /// As a stream of a tunnel.
    Tunnel {
        /// Of which one.
        key: TunnelKey,
        /// What OPEN says.
        open: Open,
        /// That it is permitted.
        planned: Planned,
    },
    /// Over a TCP connection of its own, as it is: to an application of this node, or out of the mesh.
    Direct {
        /// How to make it.
        dial: Dial,
        /// That it is permitted.
        planned: Planned,
    },
    /// Request by request: each is decided by [`Conductor::request`]. A client that turns out to speak HTTP/2 is
    /// given to [`Conductor::hand_over`]. Not for requests.
    Http(HttpCourse),
    /// Not known before its client's first bytes are: [`Conductor::looked`] is told of them. Not for requests.
    Look,
}

/// How an accepted inbound connection begins.
#[derive(Debug)]
pub enum Inbound<R> {
    /// Look at its first bytes: they may be a ClientHello of ours.
    Peek,
    /// Policy permits it as plaintext from anybody: dial at once, a server may speak first.
    Plaintext(R, Course),
}

/// How a connection of an application begins.
#[derive(Debug)]
pub enum Outbound<R, H> {
    /// Along a course.
    Begin(R, Course),
    /// Nothing can be decided yet.
    Hold(H),
}

/// What the first bytes of an inbound connection that is not a tunnel are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstBytes<'a> {
    /// Plaintext or the application's own TLS: as many bytes as have arrived, still in the socket.
    Foreign(&'a [u8]),
    /// None arrived before the deadline, or the peer finished without any.
    Silence,
}

/// A connection, tunnel or stream is not wanted. The conductor has counted and logged why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Refusal(pub ResetReason);

/// What the client of a connection that is handed over begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// The preface of HTTP/2.
    Http2,
    /// Anything else: HTTP/1.1, as far as it is a request.
    Http1,
}

/// Decides for one core's engine.
pub trait Conductor: Sized + 'static {
    /// What a listener belongs to: the pod, with whatever is looked up once per pod.
    type Pod: Clone + Send + 'static;
    /// What the conductor keeps with each connection, from its decision to [`closed`](Self::closed).
    type Record: 'static;
    /// What the conductor keeps with each request, from its decision to [`exchange_ended`](Self::exchange_ended).
    type Exchange: 'static;
    /// What the conductor keeps with a connection of which nothing can be decided yet.
    type Held: 'static;

    /// For how long no connection of an application of `pod` is to be accepted: what comes waits where it is. Asked before
    /// each.
    fn holds_back(&mut self, pod: &Self::Pod) -> Option<Duration> {
        let _ = pod;
        None
    }

    /// Told of each connection that comes to `pod`, before anything of it is looked at.
    ///
    /// # Errors
    /// [`Refusal`]: it is reset.
    fn admit_inbound(&mut self, pod: &Self::Pod, peer: IpAddr) -> Result<(), Refusal> {
        let _ = (pod, peer);
        Ok(())
    }

    /// Decides a connection of an application of `pod`.
    ///
    /// # Errors
    /// [`Refusal`]: it is reset.
    fn accept_outbound(
        &mut self,
        pod: &Self::Pod,
        accepted: &Accepted<'_>,
    ) -> Result<Outbound<Self::Record, Self::Held>, Refusal>;

    /// Decides a held connection of an application of `pod`, if it can be now. `is_over`: it is not held any longer.
    ///
    /// # Errors
    /// [`Refusal`]: it is reset.
    fn begin_outbound(
        &mut self,
        pod: &Self::Pod,
        held: Self::Held,
        is_over: bool,
    ) -> Result<Outbound<Self::Record, Self::Held>, Refusal> {
        let _ = (pod, held, is_over);
        Err(Refusal(ResetReason::Internal))
    }

    /// Decides how a connection to `pod` begins. Asked again of those that are looked at when the tables have changed.
    ///
    /// # Errors
    /// [`Refusal`]: it is reset.
    fn accept_inbound(
        &mut self,
        pod: &Self::Pod,
        accepted: &Accepted<'_>,
    ) -> Result<Inbound<Self::Record>, Refusal>;

    /// Decides a peeked connection to `pod` that offers no tunnel.
    ///
    /// # Errors
    /// [`Refusal`]: it is reset.
    fn accept_plaintext(
        &mut self,
        pod: &Self::Pod,
        accepted: &Accepted<'_>,
        first: FirstBytes<'_>,
    ) -> Result<(Self::Record, Course), Refusal>;

    /// Told of a connection that ended before anything was decided: too many are at that point, or its peer went away.
    fn not_begun(
        &mut self,
        pod: &Self::Pod,
        direction: Direction,
        accepted: &Accepted<'_>,
        reason: CloseReason,
    ) {
        let _ = (pod, direction, accepted, reason);
    }

    /// Takes an inbound connection whose ClientHello offers `nodemesh/h2`; nothing of it has been read. `place` is
    /// held until its handshake has ended.
    fn accept_h2(
        &mut self,
        pod: &Self::Pod,
        socket: OwnedFd,
        peer: SocketAddr,
        local: SocketAddr,
        place: Place,
    );

    /// Takes a connection of [`Course::Http`] whose client speaks HTTP/2, or does not where HTTP/2 is spoken; nothing of it
    /// has been read. Its place in the engine's counts is given back, [`closed`](Self::closed) is not called.
    fn hand_over(&mut self, pod: &Self::Pod, record: Self::Record, socket: OwnedFd, speaks: Speaks);

    /// How to make a tunnel for `key`, on behalf of the connection of `record`.
    ///
    /// # Errors
    /// Why there can be none.
    fn plan_tunnel(
        &mut self,
        pod: &Self::Pod,
        key: &TunnelKey,
        record: &Self::Record,
    ) -> Result<TunnelPlan, TunnelLoss>;

    /// The configuration to accept a tunnel to `pod` with.
    ///
    /// # Errors
    /// Why there is none.
    fn serve_tunnel(&mut self, pod: &Self::Pod) -> Result<Arc<ServerConfig>, TunnelLoss>;

    /// Who the peer of a finished handshake is. Asked before one byte of it is looked at. As client the identity
    /// must be the key's; the engine checks that besides what the configuration's verifier does.
    ///
    /// # Errors
    /// [`Refusal`]: the tunnel ends.
    fn identify(&mut self, certificates: &[CertificateDer<'_>]) -> Result<Identified, Refusal>;

    /// Decides a stream to `pod`. Nothing that OPEN says is checked yet.
    ///
    /// # Errors
    /// [`Refusal`]: the stream is reset with that reason.
    fn open_stream(
        &mut self,
        pod: &Self::Pod,
        caller: &Caller,
        open: &Open,
    ) -> Result<(Self::Record, Course), Refusal>;

    /// Decides a connection or stream whose course is [`Course::Look`], which changes `record` to what it is from now on.
    /// `None`: what its client has said tells nothing, and no more of it comes, or not in time.
    ///
    /// # Errors
    /// [`Refusal`]: it is reset, and [`closed`](Self::closed) is not called.
    fn looked(
        &mut self,
        pod: &Self::Pod,
        record: &mut Self::Record,
        found: Option<&Found>,
    ) -> Result<Course, Refusal> {
        let _ = (pod, record, found);
        Err(Refusal(ResetReason::Internal))
    }

    /// Whether it is of interest what a connection of bytes turns out to speak.
    fn watches(&self, record: &Self::Record) -> bool {
        let _ = record;
        false
    }

    /// Told once of a connection that is watched what it turned out to speak, while its first bytes pass.
    fn found(&mut self, record: &mut Self::Record, found: &Found) {
        let _ = (record, found);
    }

    /// Decides a request of a connection or stream whose course is [`Course::Http`], and counts it if it is not
    /// to go on. `answered` is the question that it waited for, which has its answer.
    ///
    /// # Errors
    /// The answer that the client is given instead, or what is to be asked first.
    fn request(
        &mut self,
        pod: &Self::Pod,
        record: &mut Self::Record,
        request: &RequestFacts<'_>,
        answered: Option<QuestionId>,
    ) -> Result<(Self::Exchange, RequestCourse), Instead>;

    /// Asks about a request that waits. `done` is called once there is an answer, on this thread and not within this call.
    fn ask(&mut self, question: QuestionId, body: AskedBody, done: Box<dyn FnOnce()>) {
        let _ = (question, body, done);
    }

    /// Nobody wants the answer any more.
    fn not_asked(&mut self, question: QuestionId, why: Unwaited) {
        let _ = (question, why);
    }

    /// The answer did not come by the deadline of the request: what its client is told, and nobody wants it any more.
    fn unanswered(&mut self, question: QuestionId) -> Option<http1::LocalAnswer<'static>> {
        let _ = question;
        None
    }

    /// Asked once for a request whose endpoint was not there, before any byte reached an application: another
    /// course, or `None`.
    fn next_endpoint_of_request(
        &mut self,
        pod: &Self::Pod,
        record: &mut Self::Record,
        exchange: &mut Self::Exchange,
        failure: CloseReason,
    ) -> Option<RequestCourse>;

    /// Told once for every exchange that was given, when it is over. Returns what the refusal is called if it is one, of what its
    /// client sent after its head.
    fn exchange_ended(
        &mut self,
        record: &mut Self::Record,
        exchange: Self::Exchange,
        outcome: &ExchangeOutcome,
    ) -> Option<DecisionId>;

    /// Told of a request that is answered with its status before anybody is asked: it cannot be understood. Returns what the
    /// refusal is called.
    fn request_refused(
        &mut self,
        record: &mut Self::Record,
        refusal: http1::Refusal,
        asked: http1::AskedFor,
    ) -> Option<DecisionId>;

    /// Asked for every exchange when the engine is told to look again: whether it is still permitted. `exchange` is to say
    /// why not.
    fn request_still_permitted(&mut self, record: &Self::Record, exchange: &mut Self::Exchange) -> bool;

    /// What the refusal is called for which an exchange is cut off, if it is.
    fn decision_of(&self, _exchange: &Self::Exchange) -> Option<DecisionId> {
        None
    }

    /// Begins a TCP connection of [`Course::Direct`]. Overridden to tell the kernel, before the connect, whom the
    /// application is to see.
    ///
    /// # Errors
    /// What the kernel says.
    fn dial(&mut self, record: &Self::Record, dial: &Dial) -> io::Result<OwnedFd> {
        let _ = record;
        connect::start(dial)
    }

    /// Asked once for a connection whose endpoint was not there, before any byte reached an application: another
    /// course, or `None`.
    fn next_endpoint(&mut self, record: &mut Self::Record, failure: CloseReason) -> Option<Course>;

    /// Told now and then what an open connection has carried so far, in both directions: numbers that only grow, and
    /// that [`closed`](Self::closed) tells again.
    fn carried(&mut self, record: &mut Self::Record, to_server: u64, to_client: u64) {
        let _ = (record, to_server, to_client);
    }

    /// Told once for every record that was given, when the connection is over.
    fn closed(&mut self, record: Self::Record, outcome: &Outcome);

    /// Told of every tunnel that was lost, with the TLS error if there was one. `caller` is known inbound once the
    /// handshake is complete, `key` outbound.
    fn tunnel_lost(&mut self, pod: &Self::Pod, tunnel: LostTunnel<'_>);

    /// Asked for every connection when the engine is told to look again: whether it is still permitted. `record` is
    /// to say why not.
    fn still_permitted(&mut self, record: &mut Self::Record) -> bool;

    /// Asked for every tunnel when the trust bundle has changed: whether the peer is still vouched for.
    fn peer_still_trusted(&mut self, certificates: &[CertificateDer<'_>]) -> bool {
        let _ = certificates;
        true
    }

    /// Asked for every tunnel when the engine is told to look again: whether its pod and the peer's identity still
    /// stand.
    fn tunnel_still_wanted(&mut self, pod: &Self::Pod, peer: &SpiffeId) -> bool {
        let _ = (pod, peer);
        true
    }
}

/// A tunnel that ended otherwise than by agreement.
#[derive(Debug)]
pub struct LostTunnel<'a> {
    /// The TCP peer; `None` if it was never connected.
    pub peer: Option<SocketAddr>,
    /// What it was for, as client.
    pub key: Option<&'a TunnelKey>,
    /// Why.
    pub loss: TunnelLoss,
    /// The TLS error behind it: identity's reason is in there.
    pub error: Option<&'a rustls::Error>,
    /// Streams that went with it.
    pub streams: usize,
    /// The pod's address, if it was accepted and its handshake came to nothing.
    pub never_up_at: Option<SocketAddr>,
}
