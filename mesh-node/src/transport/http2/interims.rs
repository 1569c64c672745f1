//! Interim answers on their way from an application to its caller, before the answer (RFC 9110 section 15.2): 103 and its hints
//! (RFC 8297), a 100 or a 102 of the application's own.
//!
//! In: heads, as an application sent them. Out: heads for the caller, in whose version of HTTP they are written. They are
//! bounded as over HTTP/1.1, and change nothing of what is decided, recorded or awaited.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes};
use http::header::CONTENT_LENGTH;
use http::{Response, StatusCode};
use mesh_common::http1::{MAX_INTERIM, Refusal};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connect::ConnectFailure;
use super::taking::{Data, Taking};

/// Most bytes of an exchange's interim answers, and 32 for each field: a caller that reads nothing makes us hold no more, which
/// is as much as it can make us hold of the answer.
const MOST_BYTES: usize = 64 << 10;
/// Of a field, besides its bytes (RFC 9113 section 6.5.2).
const FIELD: usize = 32;

/// Those of one exchange.
#[derive(Default)]
pub(super) struct Interims {
    /// What the caller is still to be told.
    waiting: RefCell<Vec<Response<()>>>,
    count: Cell<u8>,
    bytes: Cell<usize>,
}

impl Interims {
    /// The application sent one more.
    ///
    /// # Errors
    /// It is one too many, or a change of protocol that nobody asked for (RFC 9113 section 8.6).
    pub(super) fn add(&self, mut interim: Response<()>) -> Result<(), ConnectFailure> {
        if interim.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(ConnectFailure::NoSwitch);
        }
        // What is of a hop went with it: our codec leaves it out of what it rebuilds, and over HTTP/2 it is malformed.
        let headers = interim.headers_mut();
        // RFC 9110 section 8.6: there is no body.
        headers.remove(CONTENT_LENGTH);
        let bytes =
            headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD).sum::<usize>();
        self.count.set(self.count.get() + 1);
        self.bytes.set(self.bytes.get() + bytes);
        if self.count.get() > MAX_INTERIM || self.bytes.get() > MOST_BYTES {
            return Err(ConnectFailure::Malformed(Refusal::TooManyInterim));
        }
        self.waiting.borrow_mut().push(interim);
        Ok(())
    }

    /// What the caller is to be told now.
    pub(super) fn take(&self) -> Vec<Response<()>> {
        self.waiting.take()
    }
}

/// What a caller of HTTP/1.1 is told before the answer that its connection gives next.
#[derive(Clone, Default)]
pub(super) struct Ahead(Rc<RefCell<Lines>>);

#[derive(Default)]
struct Lines {
    heads: VecDeque<Data>,
    /// Who answers, once they are written.
    answering: Option<Waker>,
}

impl Ahead {
    /// Tells the caller of an exchange.
    pub(super) fn tell(&self, interim: &Response<()>, taking: &Rc<Taking>) {
        self.0.borrow_mut().heads.push_back(taking.give(written(interim)));
    }

    /// Ends when all of it is written: the answer comes after it.
    pub(super) async fn told(&self) {
        poll_fn(|context| {
            let mut lines = self.0.borrow_mut();
            if lines.heads.is_empty() {
                return Poll::Ready(());
            }
            lines.answering = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// As a head of HTTP/1.1.
fn written(interim: &Response<()>) -> Bytes {
    let mut head = Vec::with_capacity(128);
    let status = interim.status();
    let reason = status.canonical_reason().unwrap_or_default();
    for part in ["HTTP/1.1 ", status.as_str(), " ", reason, "\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    for (name, value) in interim.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    head.into()
}

/// A connection of which interim answers are written between two messages: hyper flushes it when it has written all that it
/// has, and has nothing of the next message until that is answered.
pub(super) struct WithInterims<S> {
    stream: S,
    ahead: Ahead,
}

impl<S> WithInterims<S> {
    pub(super) fn new(stream: S, ahead: Ahead) -> Self {
        Self { stream, ahead }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncWrite + Unpin> WithInterims<S> {
    fn poll_ahead(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut lines = self.ahead.0.borrow_mut();
        let Lines { heads, answering } = &mut *lines;
        while let Some(head) = heads.front_mut() {
            match ready!(Pin::new(&mut self.stream).poll_write(context, head.chunk()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => head.advance(count),
            }
            if !head.has_remaining() {
                heads.pop_front();
            }
        }
        if let Some(answering) = answering.take() {
            answering.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WithInterims<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, room)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WithInterims<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_ahead(context))?;
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
