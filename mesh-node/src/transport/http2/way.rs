//! A stream of HTTP/2 as bytes both ways, once its protocol has changed (RFC 8441 section 5).

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::taking::Data;

/// Such a stream. Dropped before both sides have ended, it is reset.
pub(super) struct Way {
    send: SendStream<Data>,
    receive: RecvStream,
    /// Came, and was not read.
    came: Bytes,
    has_ended: bool,
}

impl Way {
    pub(super) fn new(send: SendStream<Data>, receive: RecvStream) -> Self {
        Self { send, receive, came: Bytes::new(), has_ended: false }
    }

    /// Waits for room for at least one of so many bytes.
    fn poll_room(&mut self, wanted: usize, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(ended) = self.send.poll_reset(context) {
            let error =
                ended.map_or_else(io::Error::other, |reason| io::Error::other(h2::Error::from(reason)));
            return Poll::Ready(Err(error));
        }
        if self.send.capacity() == 0 {
            self.send.reserve_capacity(wanted);
        }
        loop {
            match self.send.capacity() {
                0 => match ready!(self.send.poll_capacity(context)) {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                    None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                },
                room => return Poll::Ready(Ok(room.min(wanted))),
            }
        }
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Way").finish_non_exhaustive()
    }
}

impl AsyncRead for Way {
    /// A stream that the other side gave up reads as one that has ended: a program that closes one may do either.
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.came.is_empty() {
            match ready!(this.receive.poll_data(context)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(came)) => this.came = came,
                Some(Err(error)) if matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL)) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let count = this.came.len().min(room.remaining());
        room.put_slice(&this.came[..count]);
        this.came.advance(count);
        // One that is reset has no window.
        let _ = this.receive.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Way {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let count = ready!(self.poll_room(bytes.len(), context))?;
        let data = Data::from(Bytes::copy_from_slice(&bytes[..count]));
        self.send.send_data(data, false).map_err(io::Error::other)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.has_ended {
            self.has_ended = true;
            self.send.send_data(Data::default(), true).map_err(io::Error::other)?;
        }
        Poll::Ready(Ok(()))
    }
}
