//! Bodies on their way: passed on frame by frame, counted, their trailers sifted.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use mesh_common::http1::is_trailer_allowed;

use super::activity::Open;
use super::answer::grpc_status;
use super::conductor::{End, Ending, Exchange};
use super::connect::Sender1;
use super::cut::Cut;
use super::pool::{Key, Place};
use super::pool_http1::IdlePool;

/// The most trailer fields that pass.
const MAX_TRAILERS: usize = 64;

/// A request's body.
#[derive(Debug)]
pub(super) struct RequestBody {
    incoming: Incoming,
    /// Shared with the record: the request may still be going up while the response comes down.
    progress: Rc<Progress>,
}

/// How far a request's body is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    bytes: Cell<u64>,
    is_complete: Cell<bool>,
}

/// A response's body, with the record of its exchange; a request that was not understood has none.
pub(super) struct AnswerBody<E: Exchange> {
    source: Source,
    record: Option<Record<E>>,
    /// The connection is in use until this is dropped.
    _open: Open,
}

enum Source {
    Upstream(Incoming),
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
    pub(super) sender: Sender1,
}

/// Calls [`Exchange::ended`] once, whatever happens.
pub(super) struct Record<E: Exchange> {
    exchange: E,
    request: Rc<Progress>,
    response_bytes: u64,
    grpc_status: Option<u16>,
    ending: Ending,
    held: Held,
    cut: Cut,
}

/// Why a response broke off.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// Underneath.
    #[error("the response broke off")]
    Upstream(#[from] hyper::Error),
    /// By policy.
    #[error("the exchange is no longer permitted")]
    Cut,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming) -> (Self, Rc<Progress>) {
        let progress = Rc::new(Progress::default());
        progress.is_complete.set(incoming.is_end_stream());
        (Self { incoming, progress: progress.clone() }, progress)
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
        Self { source: Source::Upstream(incoming), record: Some(record), _open: open }
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
        Self { source: Source::Own(text), record, _open: open }
    }
}

impl<E: Exchange> Record<E> {
    pub(super) fn new(exchange: E, request: Rc<Progress>, cut: Cut) -> Self {
        Self {
            exchange,
            request,
            response_bytes: 0,
            grpc_status: None,
            ending: Ending::CallerGone,
            held: Held::Nothing,
            cut,
        }
    }

    pub(super) fn exchange(&mut self) -> &mut E {
        &mut self.exchange
    }

    pub(super) fn hold(&mut self, held: Held) {
        self.held = held;
    }
}

impl<E: Exchange> Drop for Record<E> {
    fn drop(&mut self) {
        let end = End {
            request_bytes: self.request.bytes.get(),
            response_bytes: self.response_bytes,
            grpc_status: self.grpc_status,
            ending: self.ending,
        };
        self.exchange.ended(&end);
        // Where the request is still going up, or the response broke off, the connection is out of step.
        if let Held::Application(application) = std::mem::take(&mut self.held)
            && self.ending == Ending::Complete
            && self.request.is_complete.get()
        {
            let Application { pool, key, sender } = *application;
            pool.give_back(key, sender);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(context));
        let progress = &self.progress;
        let Some(frame) = frame.transpose()? else {
            progress.is_complete.set(true);
            return Poll::Ready(None);
        };
        let frame = sift(frame);
        match frame.data_ref() {
            Some(data) => progress.bytes.set(progress.bytes.get() + data.len() as u64),
            None => progress.is_complete.set(true),
        }
        if self.incoming.is_end_stream() {
            progress.is_complete.set(true);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Nothing in it is pinned: hyper's body is not.
impl<E: Exchange> Unpin for AnswerBody<E> {}

impl<E: Exchange> Body for AnswerBody<E> {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        let incoming = match &mut this.source {
            Source::Own(text) => return Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Source::Upstream(incoming) => incoming,
        };
        let Some(record) = &mut this.record else { return Poll::Ready(None) };
        if record.cut.poll(context).is_ready() {
            record.ending = Ending::Cut;
            return Poll::Ready(Some(Err(Broken::Cut)));
        }
        match ready!(Pin::new(&mut *incoming).poll_frame(context)) {
            None => {
                record.ending = Ending::Complete;
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                record.ending = Ending::UpstreamBroke;
                Poll::Ready(Some(Err(error.into())))
            }
            Some(Ok(frame)) => {
                let frame = sift(frame);
                if let Some(data) = frame.data_ref() {
                    record.response_bytes += data.len() as u64;
                }
                if let Some(trailers) = frame.trailers_ref() {
                    record.grpc_status = grpc_status(trailers).or(record.grpc_status);
                    record.ending = Ending::Complete;
                } else if incoming.is_end_stream() {
                    record.ending = Ending::Complete;
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Upstream(incoming) => incoming.is_end_stream(),
            Source::Own(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Upstream(incoming) => incoming.size_hint(),
            Source::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
        }
    }
}

/// Leaves out of trailers what a head decides on, and everything past the limit.
fn sift(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Err(frame) => frame,
        Ok(trailers) => {
            let is_good = |trailers: &HeaderMap| {
                trailers.len() <= MAX_TRAILERS
                    && trailers.keys().all(|name| is_trailer_allowed(name.as_str().as_bytes()))
            };
            if is_good(&trailers) {
                return Frame::trailers(trailers);
            }
            let allowed = trailers.iter().filter(|(name, _)| is_trailer_allowed(name.as_str().as_bytes()));
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
