//! A body on its way into a stream of HTTP/2: read when the stream has taken what was read before.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf as _;
use h2::{Reason, SendStream};
use http_body::Body;

use super::body::Broken;
use super::taking::Data;

/// A body that may be given up while its stream has no room for what was read of it.
pub(super) trait Passed: Body<Error = Broken> + Unpin {
    /// Ready when nothing more of it is to go, what was read neither: reading on says why.
    fn poll_given_up(&mut self, context: &mut Context<'_>) -> Poll<()>;

    /// What was read of it last did not go: its stream ended before there was room.
    fn has_not_passed(&mut self) {}
}

/// Carries a body into its stream. Over with its end, or when the stream takes no more; dropped before, the stream is reset
/// if nobody else holds it.
pub(super) struct Pipe<B> {
    body: B,
    stream: SendStream<Data>,
    /// Read, and the stream has no room for it. With whether it is the last.
    held: Option<(Data, bool)>,
}

impl<B> Pipe<B>
where
    B: Passed,
    B::Data: Into<Data>,
{
    pub(super) fn new(body: B, stream: SendStream<Data>) -> Self {
        Self { body, stream, held: None }
    }

    /// Gives on what is held. `None`: there is nothing more to do.
    fn poll_held(&mut self, context: &mut Context<'_>) -> Poll<Option<()>> {
        let Some((data, is_last)) = self.held.take() else { return Poll::Ready(Some(())) };
        while self.stream.capacity() == 0 {
            match self.stream.poll_capacity(context) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => {
                    self.body.has_not_passed();
                    return Poll::Ready(None);
                }
                // Whoever ends the exchange does not wait for room, which the stream may never have.
                Poll::Pending if self.body.poll_given_up(context).is_ready() => return Poll::Ready(Some(())),
                Poll::Pending => {
                    self.held = Some((data, is_last));
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(self.give(data, is_last))
    }

    fn give(&mut self, data: Data, is_last: bool) -> Option<()> {
        self.stream.send_data(data, is_last).ok().filter(|()| !is_last)
    }

    /// Reads on. `None`: there is nothing more to do.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Option<()>> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) else {
            return Poll::Ready(self.give(Data::default(), true));
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(broken) => {
                self.stream.send_reset(broken.reset_reason().unwrap_or(Reason::INTERNAL_ERROR));
                return Poll::Ready(None);
            }
        };
        match frame.into_data() {
            Ok(data) => {
                let (data, is_last): (Data, bool) = (data.into(), self.body.is_end_stream());
                if !data.has_remaining() {
                    // Needs no room.
                    return Poll::Ready(self.give(data, is_last));
                }
                // As little as can be asked for: what is asked for and not there yet is kept from other streams. h2 asks for
                // the rest when it is given all.
                self.stream.reserve_capacity(1);
                self.held = Some((data, is_last));
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    self.stream.reserve_capacity(0);
                    // It fails where the stream has ended.
                    let _ = self.stream.send_trailers(trailers);
                    return Poll::Ready(None);
                }
            }
        }
        Poll::Ready(Some(()))
    }
}

impl<B> Future for Pipe<B>
where
    B: Passed,
    B::Data: Into<Data>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            // Looked at each time, so that a stream that is reset wakes this.
            if this.stream.poll_reset(context).is_ready() {
                if this.held.take().is_some() {
                    this.body.has_not_passed();
                }
                return Poll::Ready(());
            }
            if ready!(this.poll_held(context)).is_none() || ready!(this.poll_read(context)).is_none() {
                return Poll::Ready(());
            }
        }
    }
}
