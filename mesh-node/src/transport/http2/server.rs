//! A caller's connection over HTTP/2, in h2's hands: each request is a task, from its head to the end of its response.
//!
//! A program of our own on h2, because hyper's gives out no interim answers (RFC 9110 section 15.2).

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use h2::server::{Connection, Handshake, SendResponse};
use h2::{Reason, RecvStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request, Response};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use super::activity::Open;
use super::body::AnswerBody;
use super::conductor::Conductor;
use super::exchange::{self, Shared};
use super::incoming::{HttpError, Incoming};
use super::pings::{Heard, Pings};
use super::pipe::Pipe;
use super::runtime::server_of;
use super::settings::Settings;
use super::taking::Data;
use super::way::Way;

/// A request, and the way back.
pub(super) type Asked = (Request<RecvStream>, SendResponse<Data>);

/// A caller's connection.
pub(super) struct Server<S> {
    state: State<S>,
    heard: Heard,
    settings: Rc<Settings>,
    is_leaving: bool,
    is_lost: bool,
}

enum State<S> {
    /// The preface and the settings are awaited.
    Begins(Handshake<S, Data>),
    Serves(Connection<S, Data>, Pings),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Server<S> {
    /// `heard` tells when something of `stream` was read.
    pub(super) fn new(stream: S, heard: Heard, settings: Rc<Settings>) -> Self {
        let state = State::Begins(server_of(&settings).handshake(stream));
        Self { state, heard, settings, is_leaving: false, is_lost: false }
    }

    /// Tells the caller to go (GOAWAY): what is open goes on.
    pub(super) fn leave(&mut self) {
        self.is_leaving = true;
        if let State::Serves(connection, _) = &mut self.state {
            connection.graceful_shutdown();
        }
    }

    /// Runs it to its end; `begin` is given each request.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        mut begin: impl FnMut(Asked),
    ) -> Poll<Result<(), HttpError>> {
        loop {
            match &mut self.state {
                State::Begins(handshake) => {
                    let mut connection = ready!(Pin::new(handshake).poll(context))?;
                    let ping_pong = connection.ping_pong().expect("it is taken once");
                    if self.is_leaving {
                        connection.graceful_shutdown();
                    }
                    let pings = Pings::new(ping_pong, self.heard.clone(), &self.settings);
                    self.state = State::Serves(connection, pings);
                }
                State::Serves(connection, pings) => {
                    if !self.is_lost && pings.poll_lost(context, true).is_ready() {
                        self.is_lost = true;
                        connection.abrupt_shutdown(Reason::NO_ERROR);
                    }
                    match ready!(connection.poll_accept(context)) {
                        Some(asked) => begin(asked?),
                        None if self.is_lost => return Poll::Ready(Err(HttpError::Silent)),
                        None => return Poll::Ready(Ok(())),
                    }
                }
            }
        }
    }
}

/// Serves one request.
pub(super) async fn serve<C: Conductor>(
    (shared, conductor): (Rc<Shared>, Rc<C>),
    open: Open,
    (request, mut respond): Asked,
) {
    let (parts, stream) = request.into_parts();
    let is_connect = parts.method == Method::CONNECT;
    let (body, switching, switched) = if is_connect {
        let (tell, switched) = oneshot::channel();
        (Incoming::empty(), Some((tell, stream)), Some(switched))
    } else {
        (Incoming::http2(stream, &parts.headers), None, None)
    };
    let request = Request::from_parts(parts, body);
    let Some(response) = answered((shared, conductor), open, (request, switched), &mut respond).await else {
        return;
    };
    if let Some((tell, stream)) = switching
        && response.status().is_success()
    {
        match respond.send_response(response.map(drop), false) {
            // Nobody waits for it where the exchange was ended meanwhile.
            Ok(send) => drop(tell.send(Way::new(send, stream))),
            Err(_) => respond.send_reset(Reason::INTERNAL_ERROR),
        }
        return;
    }
    let (mut head, body) = response.into_parts();
    let is_end = body.is_end_stream();
    if !is_end && let Some(length) = body.size_hint().exact() {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    match respond.send_response(Response::from_parts(head, ()), is_end) {
        Ok(_) if is_end => {}
        Ok(send) => Pipe::new(body, send).await,
        Err(_) => respond.send_reset(Reason::INTERNAL_ERROR),
    }
}

/// The answer; `None` where nobody waits for it any more, or the stream is refused.
async fn answered<C: Conductor>(
    (shared, conductor): (Rc<Shared>, Rc<C>),
    open: Open,
    (request, switched): (Request<Incoming>, Option<oneshot::Receiver<Way>>),
    respond: &mut SendResponse<Data>,
) -> Option<Response<AnswerBody<C::Exchange>>> {
    let (taking, told) = (open.taking().clone(), open.activity().interims());
    let mut answer = pin!(exchange::serve(shared, conductor, open, (request, switched)));
    let answer = poll_fn(|context| {
        // First: to a caller that has gone, or takes it back, nothing is told of what that does to its request.
        if respond.poll_reset(context).is_ready() {
            return Poll::Ready(None);
        }
        let answer = answer.as_mut().poll(context);
        for interim in taking.interims().take() {
            // It fails where the caller has gone, which is seen with the answer.
            told.set(told.get() + u32::from(respond.send_informational(interim).is_ok()));
        }
        answer.map(Some)
    });
    match answer.await? {
        Ok(response) => Some(response),
        Err(reason) => {
            respond.send_reset(reason);
            None
        }
    }
}
