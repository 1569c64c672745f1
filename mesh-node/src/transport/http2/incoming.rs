//! Messages as they come, over either version of HTTP: their bodies, and why one breaks.

use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};

use super::way::Way;

/// A body that comes from a caller or an application.
#[derive(Debug)]
pub(super) struct Incoming(Kind);

#[derive(Debug)]
enum Kind {
    /// There is none.
    Empty,
    Http1(hyper::body::Incoming),
    Http2 {
        stream: RecvStream,
        /// Bytes that are left of those that its head says, if it does.
        left: Option<u64>,
        /// Only trailers may follow.
        is_over: bool,
    },
    /// Instead of one, what comes and goes after a change of protocol.
    Way(Box<Way>),
}

/// How HTTP with somebody broke.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Over HTTP/1.1.
    #[error("HTTP/1.1")]
    Http1(#[source] hyper::Error),
    /// Over HTTP/2.
    #[error("HTTP/2")]
    Http2(#[source] h2::Error),
    /// The other side does not answer (PING).
    #[error("HTTP/2 went silent")]
    Silent,
}

impl From<hyper::Error> for HttpError {
    fn from(error: hyper::Error) -> Self {
        Self::Http1(error)
    }
}

impl From<h2::Error> for HttpError {
    fn from(error: h2::Error) -> Self {
        Self::Http2(error)
    }
}

impl HttpError {
    /// Why the stream ended, in the words of HTTP/2. Never NO_ERROR, which some take for the end of a whole message.
    pub(super) fn reset_reason(&self) -> Option<Reason> {
        match self {
            Self::Http2(error) => error.reason().filter(|reason| *reason != Reason::NO_ERROR),
            Self::Http1(_) | Self::Silent => None,
        }
    }

    /// Whether the connection underneath broke.
    pub(super) fn is_io(&self) -> bool {
        match self {
            Self::Http1(error) => error.source().is_some_and(|source| source.is::<io::Error>()),
            Self::Http2(error) => error.is_io(),
            Self::Silent => false,
        }
    }

    /// Whether the other side broke a rule of HTTP/2, or says that we did.
    pub(super) fn is_of_protocol(&self) -> bool {
        matches!(self, Self::Http2(error) if error.is_library() || error.is_remote())
    }
}

impl Incoming {
    pub(super) fn empty() -> Self {
        Self(Kind::Empty)
    }

    pub(super) fn http1(incoming: hyper::body::Incoming) -> Self {
        Self(Kind::Http1(incoming))
    }

    /// The body of the message that these fields begin. (h2 sees that it is as long as they say.)
    pub(super) fn http2(stream: RecvStream, headers: &HeaderMap) -> Self {
        let said = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let left = said.or_else(|| stream.is_end_stream().then_some(0));
        Self(Kind::Http2 { stream, left, is_over: false })
    }

    pub(super) fn way(way: Way) -> Self {
        Self(Kind::Way(Box::new(way)))
    }

    pub(super) fn is_way(&self) -> bool {
        matches!(self.0, Kind::Way(_))
    }

    /// What comes and goes from here on, if the protocol has changed.
    pub(super) fn take_way(&mut self) -> Option<Box<Way>> {
        match std::mem::replace(&mut self.0, Kind::Empty) {
            Kind::Way(way) => Some(way),
            kind => {
                self.0 = kind;
                None
            }
        }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match &mut self.0 {
            Kind::Empty | Kind::Way(_) => Poll::Ready(None),
            Kind::Http1(incoming) => Pin::new(incoming).poll_frame(context).map_err(HttpError::Http1),
            Kind::Http2 { stream, left, is_over } => {
                // A reset after the end is none: h2 tells the end. Every other one, NO_ERROR too, leaves the message broken off.
                let read = ready!(poll_stream(stream, left, is_over, context));
                Poll::Ready(read.map(|frame| frame.map_err(HttpError::Http2)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Http1(incoming) => incoming.is_end_stream(),
            Kind::Http2 { stream, .. } => stream.is_end_stream(),
            Kind::Way(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Http1(incoming) => incoming.size_hint(),
            Kind::Http2 { left, .. } => left.map(SizeHint::with_exact).unwrap_or_default(),
            Kind::Way(_) => SizeHint::default(),
        }
    }
}

fn poll_stream(
    stream: &mut RecvStream,
    left: &mut Option<u64>,
    is_over: &mut bool,
    context: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
    if !*is_over {
        match ready!(stream.poll_data(context)) {
            Some(Ok(data)) => {
                // Read on request alone: there is room for as much again. One that is reset has no window.
                let _ = stream.flow_control().release_capacity(data.len());
                if let Some(left) = left {
                    *left = left.saturating_sub(data.len() as u64);
                }
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => *is_over = true,
        }
    }
    let trailers = ready!(stream.poll_trailers(context));
    Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
}
