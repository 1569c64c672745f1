//! What an application answers over HTTP/1.1 to callers of HTTP/2: read by our own codec before hyper sees it.
//!
//! hyper takes answers that a proxy must not pass on: it reads a line that ends in LF alone, and drops what contradicts
//! itself. In: the bytes of the application's connection. Out: each response rebuilt from what was understood; a doubt
//! ends the connection.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};

use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderName, Method, Request, Response, StatusCode};
use http_body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use mesh_common::http1::{
    Exchange, HeadScan, Limits, MAX_FIELDS, ReadRules, Refusal, ResponseHead, ResponseTo,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connect::ConnectFailure;
use super::incoming::{HttpError, Incoming};
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
    pub(super) error: ConnectFailure,
}

/// The last request of a connection, and how far its response is. Shared by who asks and who reads, both of this thread; but
/// hyper changes the protocol of nothing that may not go to another.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked(Arc<Mutex<Last>>);

#[derive(Debug, Default)]
struct Last {
    exchange: Option<Exchange>,
    /// What came before its answer, and was not told.
    interims: Vec<Response<()>>,
    /// Who asked.
    asker: Option<Waker>,
}

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
    /// Sends a request; the response as it was understood. What comes before it is told.
    pub(super) async fn try_send_request(
        &mut self,
        request: Request<RequestBody>,
        mut tell: impl FnMut(Response<()>) -> Result<(), ConnectFailure>,
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
        let mut sent = pin!(self.sender.try_send_request(Request::from_parts(parts, body)));
        let sent = poll_fn(|context| {
            let sent = sent.as_mut().poll(context);
            // An answer that is there came after all that is told.
            for interim in self.asked.interims(context.waker()) {
                tell(interim).map_err(|error| Unanswered { unsent: None, error })?;
            }
            sent.map(Ok)
        });
        let answered = sent.await?.map(|response| response.map(Incoming::http1));
        answered.map_err(|mut error| Unanswered {
            unsent: error.take_message().map(|unsent| unsent.map(Aside::into_inner)),
            error: HttpError::from(error.into_error()).into(),
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
        *self.last() = Last { exchange: Some(Exchange::answering(to)), ..Last::default() };
    }

    /// What came before the answer; who asked is woken when there is more.
    fn interims(&self, asker: &Waker) -> Vec<Response<()>> {
        let mut last = self.last();
        match &mut last.asker {
            Some(known) => known.clone_from(asker),
            none => *none = Some(asker.clone()),
        }
        std::mem::take(&mut last.interims)
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.0.lock().expect("nothing panics while it is held")
    }

    /// Whether the connection can carry another request.
    fn allows_another(&self) -> bool {
        self.last().exchange.as_ref().is_none_or(Exchange::upstream_stays)
    }

    /// Takes what came: how much of it belongs to the response, whose bytes are appended to `rebuilt`. hyper sees nothing of
    /// what comes before it.
    fn take(&self, came: &[u8], limits: Limits, rebuilt: &mut Vec<u8>) -> Result<usize, Refusal> {
        let Last { exchange, interims, asker } = &mut *self.last();
        let Some(exchange) = exchange.as_mut().filter(|exchange| !exchange.is_response_done()) else {
            return Ok(0);
        };
        let (told, start) = (exchange.interims(), rebuilt.len());
        let taken =
            exchange.take_response(came, &ReadRules { limits, ..ReadRules::default() }, None, rebuilt)?;
        if exchange.interims() > told {
            interims.extend((told..exchange.interims()).map_while(|_| interim_of(rebuilt, start)));
            asker.take().into_iter().for_each(Waker::wake);
        }
        Ok(taken)
    }

    /// The application ended its side after `came`, which was not understood.
    fn close(&self, came: &[u8], rebuilt: &mut Vec<u8>) -> Result<(), Refusal> {
        let mut asked = self.last();
        match asked.exchange.as_mut().filter(|exchange| !exchange.is_response_done()) {
            // It answered nothing: hyper knows best whether the request went out.
            Some(exchange) if exchange.status() == 0 && came.is_empty() => Ok(()),
            Some(exchange) => exchange.close_response(rebuilt),
            None => Ok(()),
        }
    }
}

/// Takes the interim answer out of what was rebuilt that it begins with at `start`.
fn interim_of(rebuilt: &mut Vec<u8>, start: usize) -> Option<Response<()>> {
    // What our own codec has written: within its limits, and some bytes more.
    let limits = Limits { start_line: usize::MAX, head: usize::MAX, fields: MAX_FIELDS, ..Limits::default() };
    let rules = ReadRules { limits, ..ReadRules::default() };
    let head = ResponseHead::read(&rebuilt[start..], &mut HeadScan::default(), &rules, ResponseTo::default());
    let head = head.ok()??;
    let mut interim = Response::new(());
    *interim.status_mut() = StatusCode::from_u16(head.status).ok()?;
    for field in &head.fields {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(field.name), HeaderValue::from_bytes(field.value))
        {
            interim.headers_mut().append(name, value);
        }
    }
    let end = start + head.length;
    drop(head);
    rebuilt.drain(start..end);
    Some(interim)
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
                let is_over = self.asked.last().exchange.as_ref().is_none_or(Exchange::is_response_done);
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
