//! A connection whose requests are told apart: its client, its relay, and the upstream of the exchange under way.

use std::time::Duration;

use mesh_common::http1::relay::{
    Added, ClientKind, Close, Commands, Court, Forwarded, Relay, Verdict, Waiting,
};
use mesh_common::http1::{
    Authority, CLIENT_CERTIFICATE, FORWARDING_FIELDS, Field, IDENTITY_FIELDS, Limits, ReadRules, RequestHead,
    StripList,
};
use mesh_common::model::{HeadEdits, REQUEST_ID};
use mesh_common::tunnel::{StreamId, StreamToken};

use super::pace::Pace;
use super::settings::{HttpSettings, LINGER};
use super::socket::Socket;
use super::{HttpCourse, Instead, Question, QuestionId, RequestCourse};
use crate::transport::outcome::CloseReason;
use crate::transport::patience::Patience;
use crate::transport::plain::Plain;
use crate::transport::tunnel::{Conductor, Key, Ready, Settings, Tick};

pub(in crate::transport) struct Http<X> {
    pub(super) client: Client,
    /// Whether its client speaks HTTP/2 is not known so far, and nothing was read.
    pub(super) is_new: bool,
    /// HTTP/2 is what is spoken where it goes.
    pub(super) expects_http2: bool,
    /// The beginning of HTTP/2's preface is there, which counts as that of a head.
    pub(super) preface_began: bool,
    pub(super) upstream: Upstream,
    pub(super) relay: Relay<Plan<X>>,
    dialled: Authority<'static>,
    strip: StripList<'static>,
    /// What it waits for, and since when.
    waiting: Waiting,
    pub(super) since: Tick,
    /// Which request it is at, and since when.
    request: u64,
    asked: Tick,
    /// Of the body that it waits for.
    pace: Pace,
    /// Of the client, with what waits for it; `None` while nothing does.
    taking: Option<Patience>,
    /// Bytes that the client had taken when that was noted last.
    taken: u64,
    /// After what is to be sent: half-close towards the client.
    pub(super) finish_client: bool,
    /// After what is to be sent: half-close towards the upstream.
    pub(super) finish_upstream: bool,
    /// After what is to be sent: the end.
    pub(super) closing: Option<Close>,
    /// Its connection is no longer permitted: it ends with the present exchange.
    pub(super) told_to_go: bool,
    /// The client was half-closed and is read until it ends too.
    pub(super) lingers: bool,
    /// The client's socket has ended.
    pub(super) client_ended: bool,
    /// The client is gone, and how.
    pub(super) client_lost: Option<CloseReason>,
    /// What ended the upstream of the present exchange.
    pub(super) failure: Option<CloseReason>,
    /// What is asked about the request that waits.
    pub(super) question: Option<QuestionId>,
    /// Since when a connection to its application is made; looked at when its time is over, whether or not it was there sooner.
    pub(super) connects_since: Option<Tick>,
}

/// Boxed: the relay hands it on in commands, which would else be moved by the kilobyte.
pub(in crate::transport) type Plan<X> = Box<Planned<X>>;

/// What is kept with the exchange under way.
pub(in crate::transport) struct Planned<X> {
    /// The conductor's own.
    pub(super) exchange: X,
    pub(super) course: RequestCourse,
    pub(super) started: Tick,
}

impl<X> Forwarded for Plan<X> {
    fn added(&self) -> Added<'_> {
        let said = self.course.client_certificate.as_deref().map(|said| (CLIENT_CERTIFICATE, said));
        let called = self.course.request_id.as_ref().map(|id| (REQUEST_ID, id.as_str()));
        let fields = said.into_iter().chain(called);
        fields.map(|(name, value)| Field { name: name.as_bytes(), value: value.as_bytes() }).collect()
    }

    fn response_edits(&self) -> Option<&HeadEdits> {
        self.course.response_edits.as_deref()
    }
}

/// Where requests come from.
pub(super) enum Client {
    Socket(Socket),
    Stream(StreamEnd),
}

/// Where they go.
pub(super) enum Upstream {
    None,
    /// A stream is wanted of a tunnel that is not up yet.
    Expected(Expected),
    Stream(StreamEnd),
    /// By its key among the connections to applications.
    Application(Key),
}

/// The stream that is waited for: of all that were wanted in turn, the one with this token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) token: StreamToken,
    pub(super) tunnel: Key,
}

/// A stream of a tunnel.
pub(super) struct StreamEnd {
    pub(super) tunnel: Key,
    pub(super) stream: StreamId,
    /// Bytes that arrived and for which no credit was given back.
    pub(super) unconsumed: usize,
    /// Our direction is complete.
    pub(super) sent_fin: bool,
    /// Theirs is.
    pub(super) got_fin: bool,
    /// It is in its tunnel's list of those that wait.
    pub(super) waits: bool,
}

impl StreamEnd {
    pub(super) fn new(tunnel: Key, stream: StreamId) -> Self {
        Self { tunnel, stream, unconsumed: 0, sent_fin: false, got_fin: false, waits: false }
    }
}

/// Who is asked about a request, with what is known of its connection.
pub(super) struct Bench<'b, C: Conductor> {
    pub(super) conductor: &'b mut C,
    pub(super) pod: &'b C::Pod,
    pub(super) record: &'b mut C::Record,
    pub(super) limits: Limits,
    pub(super) now: Tick,
}

impl<X> Http<X> {
    /// Of a connection of an application or of a stranger.
    pub(in crate::transport) fn of_socket(socket: Plain, course: HttpCourse, now: Tick) -> Self {
        Self::new(Client::Socket(Socket::connected(socket)), course, now)
    }

    /// Of a stream that a peer opened.
    pub(in crate::transport) fn of_stream(
        tunnel: Key,
        stream: StreamId,
        course: HttpCourse,
        now: Tick,
    ) -> Self {
        Self::new(Client::Stream(StreamEnd::new(tunnel, stream)), course, now)
    }

    fn new(client: Client, course: HttpCourse, now: Tick) -> Self {
        let kind = if course.one_exchange { ClientKind::Exchange } else { ClientKind::Connection };
        let names = if course.known_client { IDENTITY_FIELDS } else { FORWARDING_FIELDS };
        let mut relay = Relay::new(kind);
        if course.expects_http2 {
            relay.expect_http2();
        }
        Self {
            client,
            is_new: true,
            expects_http2: course.expects_http2,
            preface_began: false,
            upstream: Upstream::None,
            relay,
            dialled: Authority::of(course.dialled),
            strip: StripList::of(names),
            waiting: Waiting::Request,
            since: now,
            request: 0,
            asked: now,
            pace: Pace::begins(now, 0),
            taking: None,
            taken: 0,
            finish_client: false,
            finish_upstream: false,
            closing: None,
            told_to_go: false,
            lingers: false,
            client_ended: false,
            client_lost: None,
            failure: None,
            question: None,
            connects_since: None,
        }
    }

    /// The client's socket, if it has one.
    pub(in crate::transport) fn socket(&self) -> Option<&Plain> {
        match &self.client {
            Client::Socket(socket) => Some(&socket.descriptor),
            Client::Stream(_) => None,
        }
    }

    /// Whether its client was told that the connection is no longer permitted.
    pub(in crate::transport) fn is_told_to_go(&self) -> bool {
        self.told_to_go
    }

    /// Whether the client may have sent something that was not read: closing its socket would then be a reset.
    pub(super) fn client_may_send(&self) -> bool {
        match &self.client {
            Client::Socket(socket) => socket.is_readable(),
            Client::Stream(_) => true,
        }
    }

    /// Notes what epoll said of the client's socket.
    pub(in crate::transport) fn note(&mut self, ready: Ready) {
        if let Client::Socket(socket) = &mut self.client {
            socket.note(ready);
        }
    }

    /// What the conductor keeps with the exchange under way.
    pub(in crate::transport) fn exchange_mut(&mut self) -> Option<&mut X> {
        self.relay.plan_mut().map(|planned| &mut planned.exchange)
    }

    /// When to look again, given when something last moved.
    pub(in crate::transport) fn deadline(&self, active: Tick, settings: &Settings) -> Tick {
        let untaken = self.untaken().map(|late| late.min(active.after(settings.idle_timeout)));
        match self.waiting {
            Waiting::Head | Waiting::Body | Waiting::Opaque => {
                let usual = self.usual_deadline(active, settings);
                untaken.map_or(usual, |untaken| untaken.min(usual))
            }
            // What waits for the client is sent first, whatever is to come after it.
            Waiting::Request | Waiting::Response | Waiting::Nothing => {
                untaken.unwrap_or_else(|| self.usual_deadline(active, settings))
            }
        }
    }

    fn usual_deadline(&self, active: Tick, settings: &Settings) -> Tick {
        let http: &HttpSettings = &settings.http;
        if self.closing.is_some() || self.lingers {
            return active.after(LINGER);
        }
        if let Upstream::Expected(_) = self.upstream {
            return self.since.after(settings.connect_timeout);
        }
        let after = |wait: Duration| active.after(wait);
        let whole = self.asked.after(http.request_timeout);
        let usual = match self.waiting {
            Waiting::Request if self.is_new && self.preface_began => self.since.after(http.header_timeout),
            Waiting::Request => after(http.idle_timeout),
            Waiting::Head => self.since.after(http.header_timeout).min(whole),
            Waiting::Body => after(http.body_timeout).min(self.pace.deadline(http)).min(whole),
            Waiting::Response | Waiting::Opaque => after(settings.idle_timeout),
            Waiting::Nothing => after(LINGER),
        };
        self.connects_since.map_or(usual, |since| usual.min(since.after(settings.connect_timeout)))
    }

    /// When too little is taken of what waits for the client; `None` while nothing does. After 101 both sides take their
    /// time, as over TCP.
    pub(super) fn untaken(&self) -> Option<Tick> {
        let late = self.taking?.deadline()?;
        (!self.is_opaque()).then(|| Tick::default().after(late))
    }

    /// Whether its deadline is that of what waits for the client.
    pub(super) fn is_not_taken(&self, now: Tick) -> bool {
        let is_first = !matches!(self.waiting, Waiting::Head | Waiting::Body);
        self.untaken().is_some_and(|late| is_first || late <= now)
    }

    /// The client has taken so many bytes by now, and more `waits` for it or nothing.
    pub(super) fn note_taken(&mut self, taken: u64, waits: bool, now: Tick, settings: &HttpSettings) {
        if !waits && self.taking.is_none_or(|taking| taking.deadline().is_none()) {
            return;
        }
        let terms = settings.terms();
        let taking = self.taking.get_or_insert_with(|| Patience::new(&terms));
        taking.took(taken - self.taken, waits, Tick::default().until(now), &terms);
        self.taken = taken;
    }

    /// Notes what came of the body that it waits for.
    pub(super) fn note_body(&mut self, now: Tick, settings: &HttpSettings) {
        self.pace.came(self.relay.client_body(), now, settings);
    }

    /// Whether both sides speak another protocol by now (101).
    pub(super) fn is_opaque(&self) -> bool {
        self.waiting == Waiting::Opaque
    }

    /// Notes a change of what it waits for; says whether the deadline may have come nearer.
    pub(super) fn note_waiting(&mut self, now: Tick) -> bool {
        let (waiting, request) = (self.relay.waiting(), self.relay.request());
        if !self.relay.wants_client() {
            // It is held up by who takes the body, not slow.
            self.pace = Pace::begins(now, self.relay.client_body());
        }
        let is_next = std::mem::replace(&mut self.request, request) != request;
        if is_next {
            self.asked = now;
        } else if waiting == self.waiting {
            return false;
        }
        self.waiting = waiting;
        self.since = now;
        self.pace = Pace::begins(now, self.relay.client_body());
        matches!(waiting, Waiting::Head | Waiting::Body | Waiting::Opaque | Waiting::Nothing)
    }

    /// Has the relay do something that may bring up a request.
    pub(super) fn ask<C: Conductor<Exchange = X>>(
        &mut self,
        bench: Bench<'_, C>,
        act: impl FnOnce(&mut Relay<Plan<X>>, &mut Court<'_, Plan<X>>) -> Commands<Plan<X>>,
    ) -> Commands<Plan<X>> {
        let Self { relay, dialled, strip, question, .. } = self;
        let Bench { conductor, pod, record, limits, now } = bench;
        let rules = ReadRules { limits, strip: *strip };
        let mut judge = |head: &RequestHead<'_>| {
            let answered = question.take();
            let decided = head.facts(dialled, |facts| conductor.request(pod, record, facts, answered));
            match decided {
                Ok((exchange, mut course)) => {
                    let edits = course.edits.take();
                    let planned = Box::new(Planned { exchange, course, started: now });
                    match edits {
                        Some(edits) => Verdict::ForwardEdited(planned, edits),
                        None => Verdict::Forward(planned),
                    }
                }
                Err(Instead::Answer(answer)) => Verdict::Answer(answer),
                Err(Instead::Given(answer)) => Verdict::Given(answer),
                Err(Instead::Ask(Question { id, body })) => {
                    *question = Some(id);
                    Verdict::Wait(body)
                }
            }
        };
        act(relay, &mut Court { rules: &rules, dialled, judge: &mut judge })
    }
}
