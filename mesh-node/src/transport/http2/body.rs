//! Bodies on their way: passed on frame by frame, counted, their trailers sifted.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderName, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use mesh_common::grpc::MessageCounter;
use mesh_common::http1::{StripList, is_trailer_allowed};

use super::activity::Open;
use super::answer::{DEADLINE_EXCEEDED, UNAVAILABLE, deadline_exceeded, grpc_status, idle_timed_out};
use super::conductor::{End, Ending, Exchange};
use super::connect::ConnectFailure;
use super::cut::{Cut, Half, Why};
use super::incoming::{HttpError, Incoming};
use super::pipe::Passed;
use super::pool::{Key, Place};
use super::pool_http1::IdlePool;
use super::strict::Sender;
use super::taking::{Data, Taking};
use super::upload::Upload;

/// The most trailer fields that pass.
const MAX_TRAILERS: usize = 64;

/// A response's body, with the record of its exchange; a request that was not understood has none.
pub(super) struct AnswerBody<E: Exchange> {
    source: Source,
    record: Option<Record<E>>,
    /// The connection is in use until this is dropped.
    open: Open,
}

enum Source {
    /// In the record's [`Cut`].
    Upstream,
    Own(Option<Bytes>),
}

/// What an exchange holds until its response is over.
#[derive(Default)]
pub(super) enum Held {
    /// Nothing: we answer.
    #[default]
    Nothing,
    /// A place on a connection that others share.
    Place(#[expect(dead_code, reason = "dropped with the exchange")] Place),
    /// An application's connection, to be kept for the next request if this one ended well.
    Application(Box<Application>),
}

/// An HTTP/1.1 connection in use, and where it goes back to.
pub(super) struct Application {
    pub(super) pool: Rc<IdlePool>,
    pub(super) key: Key,
    pub(super) sender: Sender,
}

/// Calls [`Exchange::ended`] once, whatever happens.
pub(super) struct Record<E: Exchange> {
    exchange: E,
    request: Rc<Upload>,
    response_bytes: u64,
    /// Of a call's response, and what was said of both directions.
    messages: MessageCounter,
    said: [u64; 2],
    grpc_status: Option<u16>,
    ending: Ending,
    held: Held,
    cut: Cut,
    taking: Rc<Taking>,
}

/// The next frame of a body, if there is one, and whether it is the last.
type Read = (Option<Result<Frame<Bytes>, HttpError>>, bool);

/// A frame for the caller.
type Next = Result<Frame<Data>, Broken>;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// Underneath.
    #[error("the message broke off")]
    Underneath(#[from] HttpError),
    /// By us.
    #[error("the exchange was ended")]
    Cut,
    /// By its sender's pace.
    #[error("the request's body comes too slowly")]
    Slow,
    /// With its sender.
    #[error("the caller has gone")]
    CallerGone,
    /// The request is sent once more, by another body.
    #[error("the request is sent once more")]
    Again,
}

impl Broken {
    /// Why the stream that it came on ended, if one did: the stream that it goes on ends so.
    pub(super) fn reset_reason(&self) -> Option<Reason> {
        match self {
            Self::Underneath(error) => error.reset_reason(),
            // As the caller's own reset says where it is read.
            Self::CallerGone => Some(Reason::CANCEL),
            Self::Cut | Self::Slow | Self::Again => None,
        }
    }
}

impl<E: Exchange> AnswerBody<E> {
    pub(super) fn upstream(
        incoming: Incoming,
        mut record: Record<E>,
        headers: &HeaderMap,
        open: Open,
    ) -> Self {
        // A gRPC error without a message has its status in the head.
        record.grpc_status = grpc_status(headers);
        if incoming.is_end_stream() {
            record.ending = Ending::Complete;
        }
        record.cut.keep(incoming);
        Self { source: Source::Upstream, record: Some(record), open }
    }

    /// An answer of our own.
    pub(super) fn own(
        text: Option<Bytes>,
        mut record: Option<Record<E>>,
        headers: &HeaderMap,
        open: Open,
    ) -> Self {
        if let Some(record) = &mut record {
            record.grpc_status = grpc_status(headers);
            record.ending = Ending::OwnAnswer;
            record.response_bytes = text.as_ref().map_or(0, |text| text.len() as u64);
        }
        Self { source: Source::Own(text), record, open }
    }

    fn look<T>(&self, look: impl FnOnce(&Incoming) -> T) -> Option<T> {
        self.record.as_ref()?.cut.response(|incoming| look(incoming))
    }
}

impl<E: Exchange> Record<E> {
    pub(super) fn new(exchange: E, request: Rc<Upload>, cut: Cut, taking: Rc<Taking>) -> Self {
        Self {
            exchange,
            request,
            response_bytes: 0,
            messages: MessageCounter::default(),
            said: [0; 2],
            grpc_status: None,
            ending: Ending::CallerGone,
            held: Held::Nothing,
            cut,
            taking,
        }
    }

    pub(super) fn exchange(&mut self) -> &mut E {
        &mut self.exchange
    }

    /// The application says something before its answer.
    ///
    /// # Errors
    /// What it may not say.
    pub(super) fn interim(&self, interim: Response<()>) -> Result<(), ConnectFailure> {
        self.request.seen();
        self.cut.moves();
        self.taking.interims().add(interim)
    }

    /// The response has begun.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.request.answered();
        self.taking.bounds().answered();
        self.cut.moves();
        self.exchange.answered(status);
    }

    /// Reads on in the response; nothing once it is cut.
    fn read(&self, context: &mut Context<'_>) -> Option<Poll<Read>> {
        if self.cut.poll(Half::Response, context).is_ready() {
            return None;
        }
        self.cut.response(|incoming| {
            let frame = Pin::new(&mut *incoming).poll_frame(context);
            frame.map(|frame| (frame, incoming.is_end_stream()))
        })
    }

    /// Says how many messages of a call have passed since the last time; nothing of what is no call.
    pub(super) fn tell_messages(&mut self) {
        let Some(sent) = self.request.messages() else { return };
        let passed = [sent, self.messages.whole()];
        let [before_up, before_down] = std::mem::replace(&mut self.said, passed);
        if passed != [before_up, before_down] {
            self.exchange.messages([passed[0] - before_up, passed[1] - before_down]);
        }
    }

    /// What the caller is given of a response that was cut off.
    fn break_off(&mut self) -> Option<Next> {
        if matches!(self.ending, Ending::DeadlineExceeded | Ending::IdleTimedOut) {
            return None;
        }
        let (ending, trailers) = match self.cut.why() {
            Some(Why::DeadlineExceeded) => (Ending::DeadlineExceeded, Some(deadline_exceeded())),
            Some(Why::IdleTimedOut) if self.request.messages().is_some() => {
                self.grpc_status = Some(UNAVAILABLE);
                (Ending::IdleTimedOut, Some(idle_timed_out()))
            }
            Some(Why::IdleTimedOut) => (Ending::IdleTimedOut, None),
            _ => (Ending::Cut, None),
        };
        self.ending = ending;
        Some(trailers.map_or(Err(Broken::Cut), |trailers| Ok(Frame::trailers(trailers))))
    }

    /// After a change of protocol so many bytes passed: the caller's, the application's.
    pub(super) fn passed(&mut self, [up, down]: [u64; 2]) {
        self.request.count(up);
        self.response_bytes += down;
    }

    /// It ends, and so.
    pub(super) fn end_as(&mut self, ending: Ending) {
        self.ending = ending;
    }

    pub(super) fn hold(&mut self, held: Held) {
        self.held = held;
    }
}

impl<E: Exchange> Drop for Record<E> {
    fn drop(&mut self) {
        // Where the caller takes nothing, its task never came to see it.
        let is_untaken = self.taking.is_late();
        self.ending = match (self.ending, self.cut.why()) {
            (Ending::CallerGone, Some(Why::NotPermitted)) => Ending::Cut,
            (Ending::CallerGone, Some(Why::DeadlineExceeded)) => Ending::DeadlineExceeded,
            (Ending::CallerGone, Some(Why::IdleTimedOut)) => Ending::IdleTimedOut,
            (Ending::CallerGone | Ending::Complete, _) if is_untaken => Ending::NotTaken,
            (Ending::CallerGone, None) if self.taking.bounds().is_callers_deadline() => {
                Ending::DeadlineExceeded
            }
            // Another agent on the way, whose clock is a little ahead, ends it for that.
            (Ending::CallerGone | Ending::UpstreamBroke, None) if self.taking.is_idle() => {
                Ending::IdleTimedOut
            }
            (ending, _) => ending,
        };
        if self.ending == Ending::DeadlineExceeded {
            // It is what the caller has, whoever told it.
            self.grpc_status = Some(DEADLINE_EXCEEDED);
        }
        let end = End {
            request_bytes: self.request.bytes(),
            response_bytes: self.response_bytes,
            grpc_status: self.grpc_status,
            ending: self.ending,
        };
        self.tell_messages();
        self.exchange.ended(&end);
        if is_untaken || self.ending == Ending::CallerGone {
            self.request.abandon();
        } else {
            self.request.response_ended();
        }
        // Where the request is still going up, or the response broke off, the connection is out of step.
        if let Held::Application(application) = std::mem::take(&mut self.held)
            && self.ending == Ending::Complete
            && self.request.is_complete()
        {
            let Application { pool, key, sender } = *application;
            pool.give_back(key, sender);
        }
    }
}

/// Nothing in it is pinned.
impl<E: Exchange> Unpin for AnswerBody<E> {}

impl<E: Exchange> Record<E> {
    /// Notes what was read of the response; the caller is given it.
    fn note(&mut self, frame: Option<Result<Frame<Bytes>, HttpError>>, is_end: bool) -> Option<Next> {
        let frame = match frame {
            None => {
                self.ending = Ending::Complete;
                return None;
            }
            Some(Err(error)) => {
                self.ending = Ending::UpstreamBroke;
                return Some(Err(error.into()));
            }
            Some(Ok(frame)) => sift(frame, StripList::default()),
        };
        if let Some(data) = frame.data_ref() {
            self.response_bytes += data.len() as u64;
            if self.request.messages().is_some() {
                self.messages.passed(data);
                self.tell_messages();
            }
        }
        if let Some(trailers) = frame.trailers_ref() {
            self.grpc_status = grpc_status(trailers).or(self.grpc_status);
            self.ending = Ending::Complete;
        } else if is_end {
            self.ending = Ending::Complete;
        }
        Some(Ok(frame.map_data(|bytes| self.taking.give(bytes))))
    }
}

impl<E: Exchange> Passed for AnswerBody<E> {
    fn poll_given_up(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let (Source::Upstream, Some(record)) = (&self.source, &self.record) else { return Poll::Pending };
        ready!(record.cut.poll(Half::Response, context));
        match record.cut.why() {
            Some(Why::NotPermitted) => Poll::Ready(()),
            // The end that a deadline makes comes after what was read.
            _ => Poll::Pending,
        }
    }

    /// It was read to its end perhaps, and its caller did not take that.
    fn has_not_passed(&mut self) {
        if let Some(record) = self.record.as_mut().filter(|record| record.ending == Ending::Complete) {
            record.ending = Ending::CallerGone;
        }
    }
}

impl<E: Exchange> Body for AnswerBody<E> {
    type Data = Data;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Next>> {
        let this = &mut *self;
        if let Source::Own(text) = &mut this.source {
            return Poll::Ready(text.take().map(|text| Ok(Frame::data(this.open.taking().give(text)))));
        }
        let Some(record) = &mut this.record else { return Poll::Ready(None) };
        record.tell_messages();
        let Some(read) = record.read(context) else { return Poll::Ready(record.break_off()) };
        let (frame, is_end) = ready!(read);
        Poll::Ready(record.note(frame, is_end))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Upstream => self.look(Incoming::is_end_stream).unwrap_or(false),
            Source::Own(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Upstream => self.look(Incoming::size_hint).unwrap_or_default(),
            Source::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
        }
    }
}

/// Leaves out of trailers what a head decides on, what the sender may not say, and everything past the limit.
pub(super) fn sift(frame: Frame<Bytes>, strip: StripList<'_>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Err(frame) => frame,
        Ok(trailers) => {
            let passes = |name: &HeaderName| {
                let name = name.as_str().as_bytes();
                is_trailer_allowed(name) && !strip.covers(name)
            };
            if trailers.len() <= MAX_TRAILERS && trailers.keys().all(passes) {
                return Frame::trailers(trailers);
            }
            let allowed = trailers.iter().filter(|(name, _)| passes(name));
            let fields = allowed.take(MAX_TRAILERS).map(|(name, value)| (name.clone(), value.clone()));
            // `collect` would replace repeated fields.
            let mut sifted = HeaderMap::new();
            for (name, value) in fields {
                sifted.append(name, value);
            }
            Frame::trailers(sifted)
        }
    }
}
