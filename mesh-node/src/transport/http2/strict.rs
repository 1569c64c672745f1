//! What an application answers over HTTP/1.1 to callers of HTTP/2: read by our own codec before hyper sees it.
//!
//! hyper takes answers that a proxy must not pass on: it reads a line that ends in LF alone, and drops what contradicts
//! itself. In: the bytes of the application's connection. Out: each response rebuilt from what was understood; a doubt
//! ends the connection.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{Method, Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use mesh_common::http1::{Exchange, Limits, ReadRules, Refusal, ResponseTo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::through::{Reading, Rebuilt, Through};
use super::trailers::{Aside, Trailers, WithTrailers};
use super::upload::RequestBody;

/// Bytes that are read at a time.
const AT_ONCE: usize = 16 << 10;

/// Asks on a connection to an application.
pub(super) struct Sender {
    sender: http1::SendRequest<Aside<RequestBody>>,
    asked: Asked,
    trailers: Trailers,
}

/// A request without an answer.
pub(super) struct Unanswered {
    /// The request, where nothing of it was sent.
    pub(super) unsent: Option<Request<RequestBody>>,
    pub(super) error: hyper::Error,
}

/// The last request of a connection, and how far its response is. Shared by who asks and who reads, both of this thread; but
/// hyper changes the protocol of nothing that may not go to another.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked(Arc<Mutex<Option<Exchange>>>);

/// A connection whose responses are rebuilt, and that takes trailers with requests.
pub(super) type Strict<S> = Through<WithTrailers<S>, Rebuilding>;

/// What came of a connection, and how far it was understood.
#[derive(Debug)]
pub(super) struct Rebuilding {
    asked: Asked,
    limits: Limits,
    /// What came and is not understood yet: at most a head, or a line of a body's framing.
    came: Vec<u8>,
    /// What was understood.
    rebuilt: Rebuilt,
    /// No more is read, and why if there was a doubt.
    end: Option<Option<Refusal>>,
}

/// Begins HTTP/1.1 on a connection: how to ask on it, and the work that carries it.
///
/// # Errors
/// hyper's, before anything was sent.
pub(super) async fn begin<S>(
    builder: &http1::Builder,
    stream: S,
    limits: Limits,
) -> hyper::Result<(Sender, http1::Connection<TokioIo<Strict<S>>, Aside<RequestBody>>)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (asked, trailers) = (Asked::default(), Trailers::default());
    let stream = WithTrailers::new(stream, trailers.clone());
    let stream = Through { stream, reading: Rebuilding::new(asked.clone(), limits) };
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    Ok((Sender { sender, asked, trailers }, connection))
}

impl Sender {
    /// Sends a request; the response as it was understood.
    pub(super) async fn try_send_request(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Unanswered> {
        self.asked.begin(ResponseTo {
            head: request.method() == Method::HEAD,
            websocket: request.headers().contains_key(UPGRADE),
        });
        self.trailers.begin();
        let (mut parts, body) = request.into_parts();
        let is_chunked = is_chunked(&parts, &body);
        if is_chunked {
            // hyper would leave out the body of a GET.
            parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let body = Aside::new(body, is_chunked.then(|| self.trailers.clone()));
        let sent = self.sender.try_send_request(Request::from_parts(parts, body)).await;
        sent.map_err(|mut error| Unanswered {
            unsent: error.take_message().map(|unsent| unsent.map(Aside::into_inner)),
            error: error.into_error(),
        })
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

/// Whether a request's body goes in chunks: there is one, and nobody says how long it is.
fn is_chunked(parts: &Parts, body: &RequestBody) -> bool {
    !body.is_end_stream() && !parts.headers.contains_key(CONTENT_LENGTH) && body.size_hint().exact().is_none()
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
    /// The connection, once its protocol has changed, and what came of the new one.
    pub(super) fn into_parts(self) -> (S, Vec<u8>) {
        let Self { stream, reading: Rebuilding { rebuilt, mut came, .. } } = self;
        let mut unread = rebuilt.into_rest();
        unread.append(&mut came);
        (stream.into_inner(), unread)
    }
}

impl Rebuilding {
    fn new(asked: Asked, limits: Limits) -> Self {
        Self { asked, limits, came: Vec::new(), rebuilt: Rebuilt::default(), end: None }
    }

    /// Takes what came, or its end if that is nothing.
    fn take(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            self.end = Some(self.asked.close(&self.came, &mut self.rebuilt.bytes).err());
            return;
        }
        self.came.extend_from_slice(bytes);
        match self.asked.take(&self.came, self.limits, &mut self.rebuilt.bytes) {
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
}

impl Reading for Rebuilding {
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            // After the last byte of a response something more may have come: the response is good.
            if let Some(Some(refusal)) = self.end
                && (refusal != Refusal::Unsolicited || self.rebuilt.bytes.is_empty())
            {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refusal)));
            }
            if self.rebuilt.give(buffer) || buffer.remaining() == 0 || self.end.is_some() {
                return Poll::Ready(Ok(()));
            }
            let mut bytes = [MaybeUninit::uninit(); AT_ONCE];
            let mut read = ReadBuf::uninit(&mut bytes);
            ready!(Pin::new(&mut *stream).poll_read(context, &mut read))?;
            self.take(read.filled());
        }
    }
}
