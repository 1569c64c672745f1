//! A client's connection as a sequence of exchanges, each with an upstream that comes and goes.
//!
//! In: bytes and ends of the client and of the upstream, verdicts on requests. Out: bytes for both, and
//! [`Command`]s that the engine carries out in their order. One machine serves every place where requests are
//! told apart:
//!
//! | client | upstream | where |
//! |---|---|---|
//! | captured connection | stream | the source |
//! | stream of one exchange | application's connection | the destination |
//! | opaque stream, or plaintext from outside | application's connection | the destination, where policy asks for requests |
//! | captured connection | application's connection | both pods on one node |
//!
//! Requests of one connection are served one after the other: what a client pipelines waits in its turn. What is
//! held is bounded by a head's limit and one read. Never does I/O, waits or reads a clock.

mod client;
mod outgoing;
mod parked;
mod upstream;

use smallvec::SmallVec;

pub use outgoing::{MAX_REPLAY, Outgoing, forget_sent};

use self::parked::Parked;
use super::{
    AskedFor, Authority, BodyBytes, BodyReader, Exchange, Field, GivenAnswer, HeadScan, LocalAnswer,
    ReadRules, Refusal, RequestHead, ResponseFor,
};
use crate::model::{HeadEdits, Text};

/// A side that has this much to send is given no more.
pub const HIGH_WATER: usize = 64 << 10;

/// A request body up to this size is read and dropped after an early answer, so that the connection can stay.
pub const MAX_DISCARD: u64 = 64 << 10;

/// What the engine has to do, in its order.
#[derive(Debug, PartialEq, Eq)]
pub enum Command<P> {
    /// Find an upstream for [`Relay::plan`], then say [`Relay::acquired`] or [`Relay::upstream_failed`].
    /// `fresh` asks for one that was never used.
    Acquire {
        /// Not one out of the pool.
        fresh: bool,
    },
    /// The upstream did not look at the request: change [`Relay::plan_mut`] and say [`Relay::retry`], or
    /// [`Relay::answer`].
    Reroute(Failure),
    /// Nothing more goes up after what is to be sent: FIN on a stream; on a connection only after 101.
    FinishUpstream,
    /// The upstream has served its exchange.
    Release(Release),
    /// The exchange is over: for logs and metrics. Then say [`Relay::answer_refused`], with what the refusal is
    /// called if it ended by one.
    Finished(P, Summary),
    /// A request was refused before anybody was asked about it: report it, then say [`Relay::answer_refused`].
    Refused(Refusal, AskedFor),
    /// Ask about the request that [waits](Verdict::Wait), with what was [gathered](Relay::gathered) of its body, then say
    /// [`Relay::resume`].
    Ask,
    /// Who was asked has said nothing in time: report the request, then say [`Relay::answer_unanswered`] or
    /// [`Relay::answer_refused`].
    Unanswered,
    /// Send what is to be sent, then half-close; the client may go on sending (only after 101).
    FinishClient,
    /// The client has had its last answer.
    CloseClient(Close),
}

/// The commands of one call.
pub type Commands<P> = SmallVec<[Command<P>; 4]>;

/// What becomes of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Complete and clean: it can serve another exchange of the same source pod.
    Reuse,
    /// Complete; not to be used again.
    Close,
    /// In the middle of something: reset it.
    Abort,
}

/// How a client's connection ends, after what is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The client has said itself that nothing follows: close at once.
    Done,
    /// The client has nothing under way, but may not know that it is to be closed: half-close, then wait for it.
    Finish,
    /// The client may still be sending: half-close, then read and drop for a while, or it loses the answer.
    Linger,
    /// Reset: what the client has of a response must not pass for a whole one.
    Abort,
}

/// What happened to an upstream before it answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing of the request reached the application.
    Untouched(LocalAnswer<'static>),
    /// The application may have seen the request.
    Lost(LocalAnswer<'static>),
}

/// How an exchange went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The status that the client was given; 0 if none.
    pub status: u16,
    /// Body bytes.
    pub bytes: BodyBytes,
    /// How it ended.
    pub ending: Ending,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// Request and response are complete, or the opaque stream after 101 is.
    Complete,
    /// The response was complete before the request was.
    Early,
    /// The client went away.
    ClientGone,
    /// The request's body was refused.
    BadRequest(Refusal),
    /// The response was refused.
    BadResponse(Refusal),
    /// The daemon answered itself, for this reason.
    Answered(&'static str),
    /// The upstream went away in the middle of the response.
    UpstreamGone,
    /// Nothing moved until a deadline.
    TimedOut,
    /// A changed policy or a drain cut it.
    Cut,
}

impl Ending {
    /// The stable word for logs and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Complete => "completed",
            Self::Early => "answered_early",
            Self::ClientGone => "client_gone",
            Self::BadRequest(refusal) | Self::BadResponse(refusal) => refusal.reason(),
            Self::Answered(reason) => reason,
            Self::UpstreamGone => "upstream_gone",
            Self::TimedOut => "timed_out",
            Self::Cut => "no_longer_permitted",
        }
    }
}

/// What a relay is waiting for, so that the engine knows which deadline runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The first byte of a request.
    Request,
    /// The rest of a head.
    Head,
    /// The rest of a request's body, of which nothing was answered so far.
    Body,
    /// The upstream, or either side once the response has begun.
    Response,
    /// Either side, after 101.
    Opaque,
    /// Nothing: the relay is over.
    Nothing,
}

/// What is decided about a request.
#[derive(Debug)]
pub enum Verdict<P> {
    /// It may go on.
    Forward(P),
    /// It may go on with another head.
    ForwardEdited(P, HeadEdits),
    /// It is answered here; who decided so has counted it.
    Answer(LocalAnswer<'static>),
    /// Likewise, with what somebody asked has given for it.
    Given(Box<GivenAnswer>),
    /// Somebody is asked first, with the first bytes of its body, at most so many; `None` asks without it. The client is
    /// held up until [`Relay::resume`], which shows the same request again.
    Wait(Option<usize>),
}

/// What is decided about a request that goes on.
pub trait Forwarded {
    /// What this side says with it besides what its sender said, as who the sender is.
    fn added(&self) -> Added<'_>;

    /// What is changed of its response's head.
    fn response_edits(&self) -> Option<&HeadEdits> {
        None
    }
}

/// Fields that are added to a request.
pub type Added<'a> = SmallVec<[Field<'a>; 2]>;

/// Nothing is kept of the decision, and nothing said.
impl Forwarded for () {
    fn added(&self) -> Added<'_> {
        Added::new()
    }
}

/// Who decides about requests. The dialled authority stands in for a Host that HTTP/1.0 may leave out.
pub struct Court<'c, P> {
    /// How messages are read.
    pub rules: &'c ReadRules<'c>,
    /// `address:port` that the client dialled.
    pub dialled: &'c Authority<'c>,
    /// Decides about one request.
    pub judge: &'c mut dyn FnMut(&RequestHead<'_>) -> Verdict<P>,
}

/// Whether a client's connection carries one exchange or many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKind {
    /// A connection, or an opaque stream: as many as it likes.
    Connection,
    /// A stream of kind HTTP/1.1 exchange: one.
    Exchange,
}

/// A client's connection and the exchange that it is in.
#[derive(Debug)]
pub struct Relay<P> {
    kind: ClientKind,
    /// The client should have begun with the preface of HTTP/2, and has said nothing that is HTTP/1 so far.
    expects_http2: bool,
    phase: Phase<P>,
    /// Bytes of the client that wait for more, or for their turn.
    held_client: Vec<u8>,
    /// Bytes of the upstream that wait for more.
    held_upstream: Vec<u8>,
    to_client: Outgoing,
    to_upstream: Outgoing,
    /// Bytes of all bodies of the client that were taken.
    client_body: u64,
    /// Requests whose heads were taken.
    heads: u64,
    client_ended: bool,
    /// The client is told to close after its present exchange.
    last: bool,
    /// What is held of the client follows an exchange that failed: its turn has come.
    owed: bool,
    /// The request at the head of what is held of the client waits for who is asked about it.
    parked: Option<Box<Parked>>,
    /// What a client is answered by us, once it is known what the refusal is called, if it is one.
    unsaid: Option<Box<(LocalAnswer<'static>, ResponseFor)>>,
}

#[derive(Debug)]
enum Phase<P> {
    Head(HeadScan),
    Exchange(Active<P>),
    /// After an early answer: the rest of a small body, to be dropped.
    Discard(BodyReader),
    Over,
}

#[derive(Debug)]
struct Active<P> {
    exchange: Exchange,
    plan: P,
    /// Fields that this request may not have in its trailers either.
    removed: Vec<Text>,
    upstream: Upstream,
    /// Whether the method may be sent twice (RFC 9110 section 9.2.2).
    idempotent: bool,
    retried: bool,
    finished_upstream: bool,
    finished_client: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upstream {
    /// The engine was not told yet.
    Wanted,
    /// The engine was told.
    Acquiring,
    /// There; `answered` once it sent a byte.
    Ready { reused: bool, answered: bool },
    /// It ended after 101, the client goes on.
    Ended,
}

impl<P: Forwarded> Relay<P> {
    /// Says that HTTP/2 is what is spoken where the client called. If what it says first is no line of HTTP/1 either,
    /// it is a bad preface and gets no answer of HTTP/1 (RFC 9113 section 3.4): the connection ends.
    pub fn expect_http2(&mut self) {
        self.expects_http2 = true;
    }

    /// A client that has sent nothing yet.
    pub fn new(kind: ClientKind) -> Self {
        Self {
            kind,
            expects_http2: false,
            phase: Phase::Head(HeadScan::default()),
            held_client: Vec::new(),
            held_upstream: Vec::new(),
            to_client: Outgoing::default(),
            to_upstream: Outgoing::default(),
            client_body: 0,
            heads: 0,
            client_ended: false,
            last: false,
            owed: false,
            parked: None,
            unsaid: None,
        }
    }

    /// The plan of the exchange that is under way.
    pub fn plan(&self) -> Option<&P> {
        match &self.phase {
            Phase::Exchange(active) => Some(&active.plan),
            _ => None,
        }
    }

    /// The same, to be changed: for another try.
    pub fn plan_mut(&mut self) -> Option<&mut P> {
        match &mut self.phase {
            Phase::Exchange(active) => Some(&mut active.plan),
            _ => None,
        }
    }

    /// Whether its client is a stream of one exchange.
    pub fn is_one_exchange(&self) -> bool {
        self.kind == ClientKind::Exchange
    }

    /// What goes to the client.
    pub fn to_client(&mut self) -> &mut Outgoing {
        &mut self.to_client
    }

    /// What goes to the upstream, once it is there.
    pub fn to_upstream(&mut self) -> &mut Outgoing {
        &mut self.to_upstream
    }

    /// Whether more of the client can be taken now.
    pub fn wants_client(&self) -> bool {
        if self.client_ended {
            return false;
        }
        if let Some(parked) = &self.parked {
            return !parked.is_ready();
        }
        match &self.phase {
            Phase::Head(_) => self.to_client.len() < HIGH_WATER,
            Phase::Discard(_) | Phase::Over => true,
            Phase::Exchange(active) => {
                let open = !active.exchange.is_request_done() || active.exchange.is_opaque();
                open && self.to_upstream.len() < HIGH_WATER
            }
        }
    }

    /// Whether more of the upstream can be taken now.
    pub fn wants_upstream(&self) -> bool {
        self.to_client.len() < HIGH_WATER
    }

    /// Bytes of requests' bodies that the client has sent so far, framing apart.
    pub fn client_body(&self) -> u64 {
        self.client_body + self.parked.as_ref().map_or(0, |parked| parked.came())
    }

    /// Which of the client's requests it is at: counts up with the first byte of each that has its turn.
    pub fn request(&self) -> u64 {
        let is_in_head = matches!(self.phase, Phase::Head(_)) && self.waiting() != Waiting::Request;
        self.heads + u64::from(is_in_head)
    }

    /// Whether what a client sent behind a request that failed has its turn: [`client_bytes`](Self::client_bytes) takes
    /// it, with nothing new.
    pub fn is_owed(&self) -> bool {
        self.owed
    }

    /// What is being waited for.
    pub fn waiting(&self) -> Waiting {
        if let Some(parked) = &self.parked {
            return if parked.is_ready() { Waiting::Response } else { Waiting::Body };
        }
        match &self.phase {
            Phase::Head(_) if self.held_client.is_empty() => Waiting::Request,
            Phase::Head(_) => Waiting::Head,
            Phase::Discard(_) => Waiting::Body,
            Phase::Over => Waiting::Nothing,
            Phase::Exchange(active) if active.exchange.is_opaque() => Waiting::Opaque,
            Phase::Exchange(active) if active.is_uploading() => Waiting::Body,
            Phase::Exchange(_) => Waiting::Response,
        }
    }

    /// Bytes that this relay holds.
    pub fn held(&self) -> usize {
        let gathered = self.parked.as_ref().map_or(0, |parked| parked.held());
        gathered
            + self.held_client.len()
            + self.held_upstream.len()
            + self.to_client.len()
            + self.to_upstream.kept()
    }
}

/// Feeds `fresh` behind what was held to `take`, and holds what it leaves.
fn feed(held: &mut Vec<u8>, fresh: &[u8], take: impl FnOnce(&[u8]) -> usize) -> Option<Vec<u8>> {
    if held.is_empty() {
        let taken = take(fresh);
        return (taken < fresh.len()).then(|| fresh[taken..].to_vec());
    }
    let mut joined = std::mem::take(held);
    joined.extend_from_slice(fresh);
    let taken = take(&joined);
    if taken == joined.len() {
        return None;
    }
    joined.drain(..taken);
    Some(joined)
}
