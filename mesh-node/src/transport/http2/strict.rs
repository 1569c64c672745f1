//! What an application answers over HTTP/1.1 to callers of HTTP/2: read by our own codec before hyper sees it.
//!
//! hyper takes answers that a proxy must not pass on: it reads a line that ends in LF alone, and drops what contradicts
//! itself. In: the bytes of the application's connection. Out: each response rebuilt from what was understood; a doubt
//! ends the connection.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use http::header::UPGRADE;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use mesh_common::http1::{Exchange, Limits, ReadRules, Refusal, ResponseTo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::upload::RequestBody;

/// Bytes that are read at a time.
const AT_ONCE: usize = 16 << 10;

/// Asks on a connection to an application.
pub(super) struct Sender {
    sender: http1::SendRequest<RequestBody>,
    asked: Asked,
}

/// The last request of a connection, and how far its response is. Shared by who asks and who reads, both of this thread; but
/// hyper changes the protocol of nothing that may not go to another.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked(Arc<Mutex<Option<Exchange>>>);

/// A connection whose responses are rebuilt.
#[derive(Debug)]
pub(super) struct Strict<S> {
    stream: S,
    asked: Asked,
    limits: Limits,
    /// What came and is not understood yet: at most a head, or a line of a body's framing.
    came: Vec<u8>,
    /// What was understood, and how much of it was given on.
    rebuilt: Vec<u8>,
    given: usize,
    /// No more is read, and why if there was a doubt.
    end: Option<Option<Refusal>>,
}

impl Sender {
    pub(super) fn new(sender: http1::SendRequest<RequestBody>, asked: Asked) -> Self {
        Self { sender, asked }
    }

    /// Sends a request; the response as it was understood.
    pub(super) async fn try_send_request(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        self.asked.begin(ResponseTo {
            head: request.method() == Method::HEAD,
            websocket: request.headers().contains_key(UPGRADE),
        });
        self.sender.try_send_request(request).await
    }

    pub(super) async fn ready(&mut self) -> hyper::Result<()> {
        self.sender.ready().await
    }

    /// Whether it can take a request now.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready() && self.asked.allows_another()
    }

    /// Whether it takes no request any more.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed() || !self.asked.allows_another()
    }
}

impl Asked {
    fn begin(&self, to: ResponseTo) {
        *self.last() = Some(Exchange::answering(to));
    }

    fn last(&self) -> MutexGuard<'_, Option<Exchange>> {
        self.0.lock().expect("nothing panics while it is held")
    }

    /// Whether the connection can carry another request.
    fn allows_another(&self) -> bool {
        self.last().as_ref().is_none_or(Exchange::upstream_stays)
    }

    /// Takes what came: how much of it belongs to the response, whose bytes are appended to `rebuilt`.
    fn take(&self, came: &[u8], limits: Limits, rebuilt: &mut Vec<u8>) -> Result<usize, Refusal> {
        let mut asked = self.last();
        let Some(exchange) = asked.as_mut().filter(|exchange| !exchange.is_response_done()) else {
            return Ok(0);
        };
        exchange.take_response(came, &ReadRules { limits, ..ReadRules::default() }, None, rebuilt)
    }

    /// The application ended its side after `came`, which was not understood.
    fn close(&self, came: &[u8], rebuilt: &mut Vec<u8>) -> Result<(), Refusal> {
        let mut asked = self.last();
        match asked.as_mut().filter(|exchange| !exchange.is_response_done()) {
            // It answered nothing: hyper knows best whether the request went out.
            Some(exchange) if exchange.status() == 0 && came.is_empty() => Ok(()),
            Some(exchange) => exchange.close_response(rebuilt),
            None => Ok(()),
        }
    }
}

impl<S> Strict<S> {
    pub(super) fn new(stream: S, asked: Asked, limits: Limits) -> Self {
        Self { stream, asked, limits, came: Vec::new(), rebuilt: Vec::new(), given: 0, end: None }
    }

    /// The connection, once its protocol has changed, and what came of the new one.
    pub(super) fn into_parts(mut self) -> (S, Vec<u8>) {
        let mut unread = self.rebuilt.split_off(self.given);
        unread.append(&mut self.came);
        (self.stream, unread)
    }

    /// Takes what came, or its end if that is nothing.
    fn take(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            self.end = Some(self.asked.close(&self.came, &mut self.rebuilt).err());
            return;
        }
        self.came.extend_from_slice(bytes);
        match self.asked.take(&self.came, self.limits, &mut self.rebuilt) {
            Ok(taken) => {
                self.came.drain(..taken);
                let is_over = self.asked.last().as_ref().is_none_or(Exchange::is_response_done);
                if is_over && !self.came.is_empty() {
                    self.end = Some(Some(Refusal::Unsolicited));
                }
            }
            Err(refusal) => {
                // A head that nobody has seen yet goes with it: the caller is told 502.
                self.end = Some(Some(refusal));
            }
        }
    }

    /// Gives on what was understood; whether there was anything.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let waiting = &self.rebuilt[self.given..];
        let count = waiting.len().min(buffer.remaining());
        buffer.put_slice(&waiting[..count]);
        self.given += count;
        if self.given == self.rebuilt.len() {
            self.rebuilt.clear();
            self.given = 0;
        }
        count > 0
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            // After the last byte of a response something more may have come: the response is good.
            if let Some(Some(refusal)) = this.end
                && (refusal != Refusal::Unsolicited || this.rebuilt.is_empty())
            {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refusal)));
            }
            if this.give(buffer) || buffer.remaining() == 0 || this.end.is_some() {
                return Poll::Ready(Ok(()));
            }
            let mut bytes = [MaybeUninit::uninit(); AT_ONCE];
            let mut read = ReadBuf::uninit(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut read))?;
            this.take(read.filled());
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
