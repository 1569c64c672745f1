//! The streams of one tunnel (`docs/wire.md` sections 4 to 7).
//!
//! In: frames, and what the local side opened, sent, consumed, finished or reset. Out: [`Event`]s, and credit to
//! grant. Keeps counts per stream, never bytes: what the caller holds back for one stream is at most that
//! stream's window, because what arrives beyond it is a [`Violation`]. A stream stays here until both directions
//! are complete *and* all its bytes are consumed, so the sum holds for the tunnel too.

use std::collections::HashMap;

use super::credit::{Credit, Receiving, Sending};
use super::frame::{Frame, FrameError, StreamId};
use super::open::{Open, OpenError};
use super::reason::{GoAwayReason, ResetReason};

/// Which end of the tunnel this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The TLS client: the source's daemon. Opens streams.
    Client,
    /// The TLS server: the destination's daemon. Accepts them.
    Server,
}

/// How much one tunnel may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Streams at one time.
    pub streams: usize,
    /// The largest window of a stream, in bytes; between [`INITIAL_WINDOW`](super::INITIAL_WINDOW) and
    /// [`MAX_WINDOW`](super::MAX_WINDOW).
    pub window: u32,
    /// Bytes by which all windows together may be larger than their initial size.
    pub grown: u64,
    /// Streams that the peer may reset before anything was answered, beyond those that went well.
    pub early_resets: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { streams: 4096, window: 1024 * 1024, grown: 8 * 1024 * 1024, early_resets: 1000 }
    }
}

/// What a frame means to the local side. `T` is the caller's own name for the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a, T> {
    /// Nothing to do.
    None,
    /// The peer opened a stream: [`Session::accept`] it or answer with RESET.
    Opened(StreamId, Open),
    /// The peer opened a stream that is not taken: answer with this RESET. The error says what was unreadable.
    Refuse(StreamId, ResetReason, Option<OpenError>),
    /// Bytes for the application.
    Data(StreamId, T, &'a [u8]),
    /// The peer's direction is complete.
    Finished(StreamId, T),
    /// The stream is over; it is forgotten here.
    Reset(StreamId, T, ResetReason),
    /// There was no credit, now there is.
    Writable(StreamId, T),
    /// Answer with a PONG.
    AnswerPing(u64),
    /// The answer to a PING of ours.
    Pong(u64),
    /// No new streams. Those after `last` ([`Session::after`]) were never looked at.
    GoAway {
        /// The last stream that the peer has looked at or will.
        last: u32,
        /// Why.
        reason: GoAwayReason,
    },
}

/// What a peer may not do. The tunnel ends with GOAWAY and [`GoAwayReason::Violation`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A record that cannot be read.
    #[error("tunnel frame cannot be read")]
    Frame(#[source] FrameError),
    /// OPEN from the TLS server.
    #[error("the server end of a tunnel opened stream {stream}")]
    OpenedByServer {
        /// The stream.
        stream: u32,
    },
    /// OPEN with a number that is not above all before.
    #[error("stream {stream} was opened after stream {last}")]
    StreamReused {
        /// The stream.
        stream: u32,
        /// The highest before.
        last: u32,
    },
    /// A frame for a stream that was never opened.
    #[error("frame for stream {stream}, the last one opened is {last}")]
    NeverOpened {
        /// The stream.
        stream: u32,
        /// The highest so far.
        last: u32,
    },
    /// DATA without credit.
    #[error("stream {stream} carries more than its credit")]
    CreditExceeded {
        /// The stream.
        stream: u32,
    },
    /// CREDIT that takes back, acknowledges what was not sent or grants too much.
    #[error("credit for stream {stream} cannot be: acknowledged {acknowledged}, window {window}")]
    CreditImpossible {
        /// The stream.
        stream: u32,
        /// As given.
        acknowledged: u64,
        /// As given.
        window: u32,
    },
    /// DATA or FIN after FIN.
    #[error("stream {stream} goes on after its end")]
    AfterFin {
        /// The stream.
        stream: u32,
    },
    /// More streams opened and reset than anyone needs.
    #[error("{count} streams were reset before they were answered")]
    EarlyResets {
        /// How many, beyond those that went well.
        count: u32,
    },
}

/// Why no stream can be opened on this tunnel; another one can take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoStream {
    /// One of the two ends said GOAWAY.
    #[error("tunnel goes away")]
    GoingAway,
    /// [`Limits::streams`] is reached.
    #[error("tunnel has as many streams as it may")]
    Full,
    /// The stream numbers are used up.
    #[error("tunnel has no stream number left")]
    Exhausted,
}

/// What a stream has counted, from its start: what a resumed stream will compare (`docs/wire.md` section 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// Bytes handed to the wire.
    pub sent: u64,
    /// Of them, bytes that the peer consumed and the sender may forget.
    pub acknowledged: u64,
    /// Bytes that arrived.
    pub received: u64,
}

/// The streams of one tunnel, each with the caller's name `T` for it.
#[derive(Debug)]
pub struct Session<T> {
    role: Role,
    limits: Limits,
    streams: HashMap<u32, Stream<T>>,
    last: u32,
    budget: u64,
    early_resets: u32,
    going_away: bool,
}

#[derive(Debug)]
struct Stream<T> {
    user: T,
    sending: Sending,
    receiving: Receiving,
    finished_here: bool,
    finished_there: bool,
}

impl<T> Stream<T> {
    fn is_over(&self) -> bool {
        self.finished_here && self.finished_there && self.receiving.unconsumed() == 0
    }
}

impl<T: Copy> Session<T> {
    /// A tunnel without streams.
    pub fn new(role: Role, limits: Limits) -> Self {
        let budget = limits.grown;
        Self { role, limits, streams: HashMap::new(), last: 0, budget, early_resets: 0, going_away: false }
    }

    /// Takes one frame from the peer.
    ///
    /// # Errors
    /// [`Violation`]: the tunnel must end, nothing more may be taken from it.
    pub fn receive<'a>(&mut self, frame: Frame<'a>) -> Result<Event<'a, T>, Violation> {
        match frame {
            Frame::Open(id, open) => self.opened(id, Ok(open)),
            Frame::BadOpen(id, error) => self.opened(id, Err(error)),
            Frame::Data(id, bytes) => self.data(id, bytes),
            Frame::Fin(id) => self.fin(id),
            Frame::Reset(id, reason) => self.was_reset(id, reason),
            Frame::Credit { stream, acknowledged, window } => {
                self.granted(stream, Credit { acknowledged, window })
            }
            Frame::Ping(token) => Ok(Event::AnswerPing(token)),
            Frame::Pong(token) => Ok(Event::Pong(token)),
            Frame::GoAway { last, reason } => {
                self.going_away = true;
                Ok(Event::GoAway { last, reason })
            }
            Frame::Ignored(_) => Ok(Event::None),
        }
    }

    /// Takes the next stream number. The caller sends OPEN with it before anything else of the stream.
    ///
    /// # Errors
    /// [`NoStream`]; another tunnel can take the stream.
    pub fn open(&mut self, user: T) -> Result<StreamId, NoStream> {
        if self.going_away {
            return Err(NoStream::GoingAway);
        }
        if self.streams.len() >= self.limits.streams {
            return Err(NoStream::Full);
        }
        self.last = self.last.checked_add(1).ok_or(NoStream::Exhausted)?;
        self.insert(self.last, user);
        Ok(StreamId(self.last))
    }

    /// Takes a stream that [`Event::Opened`] announced, under the caller's own name.
    pub fn accept(&mut self, id: StreamId, user: T) {
        self.insert(id.0, user);
    }

    /// Gives the stream another name.
    pub fn rename(&mut self, id: StreamId, user: T) {
        if let Some(stream) = self.streams.get_mut(&id.0) {
            stream.user = user;
        }
    }

    /// How many bytes may be sent now; 0 for a stream that is over or complete in this direction.
    pub fn sendable(&self, id: StreamId) -> u64 {
        match self.streams.get(&id.0) {
            Some(stream) if !stream.finished_here => stream.sending.available(),
            _ => 0,
        }
    }

    /// Counts bytes that were put into DATA frames.
    ///
    /// # Panics
    /// If they are more than [`sendable`](Self::sendable).
    pub fn sent(&mut self, id: StreamId, bytes: usize) {
        if let Some(stream) = self.streams.get_mut(&id.0) {
            stream.sending.send(bytes as u64);
        }
    }

    /// Completes this direction. Returns whether a FIN is to be sent.
    #[must_use]
    pub fn finish(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.streams.get_mut(&id.0) else { return false };
        let first = !stream.finished_here;
        stream.finished_here = true;
        self.forget_if_over(id);
        first
    }

    /// Gives the stream up in both directions. Returns whether a RESET is to be sent; what the peer still sends
    /// for it is dropped.
    #[must_use]
    pub fn reset(&mut self, id: StreamId) -> bool {
        self.remove(id.0).is_some()
    }

    /// Counts bytes that the application took (or that were dropped on its behalf), no more than arrived. Returns the
    /// CREDIT to send.
    #[must_use]
    pub fn consumed(&mut self, id: StreamId, bytes: usize) -> Option<Credit> {
        let stream = self.streams.get_mut(&id.0)?;
        let credit = stream.receiving.consume(bytes as u64, self.limits.window, &mut self.budget);
        let wanted = !stream.finished_there;
        self.forget_if_over(id);
        credit.filter(|_| wanted)
    }

    /// Takes no more streams. Returns the number for GOAWAY: the last one that was looked at.
    pub fn go_away(&mut self) -> u32 {
        self.going_away = true;
        match self.role {
            Role::Server => self.last,
            Role::Client => 0,
        }
    }

    /// Whether either end said GOAWAY.
    pub fn is_going_away(&self) -> bool {
        self.going_away
    }

    /// Whether the stream is here: complete in both directions and consumed, or reset, it is not.
    pub fn has(&self, id: StreamId) -> bool {
        self.streams.contains_key(&id.0)
    }

    /// How many streams there are.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether there is no stream.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// The streams with a number above `last`: all of them for 0.
    pub fn after(&self, last: u32) -> Vec<(StreamId, T)> {
        let later = self.streams.iter().filter(|(id, _)| **id > last);
        let mut later: Vec<_> = later.map(|(id, stream)| (StreamId(*id), stream.user)).collect();
        later.sort_unstable_by_key(|(id, _)| *id);
        later
    }

    /// What a stream has counted.
    pub fn offsets(&self, id: StreamId) -> Option<Offsets> {
        let stream = self.streams.get(&id.0)?;
        let sent = stream.sending.sent();
        let acknowledged = sent - stream.sending.unacknowledged();
        Some(Offsets { sent, acknowledged, received: stream.receiving.received() })
    }

    /// Bytes that arrived and are not consumed, over all streams: what the caller may be holding.
    pub fn unconsumed(&self) -> u64 {
        self.streams.values().map(|stream| stream.receiving.unconsumed()).sum()
    }

    fn insert(&mut self, id: u32, user: T) {
        let stream = Stream {
            user,
            sending: Sending::new(),
            receiving: Receiving::new(),
            finished_here: false,
            finished_there: false,
        };
        self.streams.insert(id, stream);
    }

    fn remove(&mut self, id: u32) -> Option<Stream<T>> {
        let stream = self.streams.remove(&id)?;
        self.budget += u64::from(stream.receiving.window() - super::credit::INITIAL_WINDOW);
        Some(stream)
    }

    fn forget_if_over(&mut self, id: StreamId) {
        if self.streams.get(&id.0).is_some_and(Stream::is_over) {
            self.remove(id.0);
            self.early_resets = self.early_resets.saturating_sub(1);
        }
    }

    fn opened(
        &mut self,
        id: StreamId,
        open: Result<Open, OpenError>,
    ) -> Result<Event<'static, T>, Violation> {
        let (stream, last) = (id.0, self.last);
        if self.role == Role::Client {
            return Err(Violation::OpenedByServer { stream });
        }
        if stream <= last {
            return Err(Violation::StreamReused { stream, last });
        }
        if self.going_away {
            // `last` stays: it is what GOAWAY announced. A second OPEN of the same number is dropped likewise.
            return Ok(Event::Refuse(id, ResetReason::Draining, None));
        }
        self.last = stream;
        Ok(match open {
            Err(error) => Event::Refuse(id, ResetReason::BadMessage, Some(error)),
            Ok(_) if self.streams.len() >= self.limits.streams => {
                Event::Refuse(id, ResetReason::Overloaded, None)
            }
            Ok(open) => Event::Opened(id, open),
        })
    }

    fn data<'a>(&mut self, id: StreamId, bytes: &'a [u8]) -> Result<Event<'a, T>, Violation> {
        let Some(stream) = self.known(id)? else { return Ok(Event::None) };
        if stream.finished_there {
            return Err(Violation::AfterFin { stream: id.0 });
        }
        let taken = stream.receiving.receive(bytes.len() as u64);
        taken.ok_or(Violation::CreditExceeded { stream: id.0 })?;
        Ok(if bytes.is_empty() { Event::None } else { Event::Data(id, stream.user, bytes) })
    }

    fn fin(&mut self, id: StreamId) -> Result<Event<'static, T>, Violation> {
        let Some(stream) = self.known(id)? else { return Ok(Event::None) };
        if std::mem::replace(&mut stream.finished_there, true) {
            return Err(Violation::AfterFin { stream: id.0 });
        }
        let event = Event::Finished(id, stream.user);
        self.forget_if_over(id);
        Ok(event)
    }

    fn was_reset(&mut self, id: StreamId, reason: ResetReason) -> Result<Event<'static, T>, Violation> {
        if self.known(id)?.is_none() {
            return Ok(Event::None);
        }
        let Some(stream) = self.remove(id.0) else { return Ok(Event::None) };
        if self.role == Role::Server && stream.sending.sent() == 0 {
            self.early_resets += 1;
            if self.early_resets > self.limits.early_resets {
                return Err(Violation::EarlyResets { count: self.early_resets });
            }
        }
        Ok(Event::Reset(id, stream.user, reason))
    }

    fn granted(&mut self, id: StreamId, credit: Credit) -> Result<Event<'static, T>, Violation> {
        let Some(stream) = self.known(id)? else { return Ok(Event::None) };
        let stalled = stream.sending.available() == 0;
        let Credit { acknowledged, window } = credit;
        let taken = stream.sending.granted(credit);
        taken.ok_or(Violation::CreditImpossible { stream: id.0, acknowledged, window })?;
        let moves = stalled && stream.sending.available() > 0 && !stream.finished_here;
        Ok(if moves { Event::Writable(id, stream.user) } else { Event::None })
    }

    /// The stream, or `None` if it is over: frames of a stream that was reset may still be under way.
    fn known(&mut self, id: StreamId) -> Result<Option<&mut Stream<T>>, Violation> {
        // After a GOAWAY of ours the peer may have gone on opening before it heard of it.
        if id.0 > self.last && !(self.going_away && self.role == Role::Server) {
            return Err(Violation::NeverOpened { stream: id.0, last: self.last });
        }
        Ok(self.streams.get_mut(&id.0))
    }
}
