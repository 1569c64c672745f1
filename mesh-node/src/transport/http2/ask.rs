//! Connections over HTTP/2 to applications and other agents, in h2's hands: how a request is sent on one, and its response awaited.
//!
//! A program of our own on h2, because hyper's gives out no interim answers (RFC 9110 section 15.2).

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::body::Record;
use super::conductor::Exchange;
use super::connect::ConnectFailure;
use super::incoming::{HttpError, Incoming};
use super::pings::{Heard, Pings};
use super::pipe::Pipe;
use super::pool::Load;
use super::request::remove_connection_fields;
use super::runtime::{BEFORE_SETTINGS, client_of};
use super::settings::Settings;
use super::taking::Data;
use super::upload::RequestBody;
use super::way::Way;
use crate::transport::tasks;

/// Asks on a connection. A clone asks on the same one. Without any the connection ends once its streams are over.
#[derive(Clone)]
pub(super) struct Sender {
    streams: SendRequest<Data>,
    /// Whose stream is to open next: the other side says how many there may be. Others wait, unsent.
    turn: Rc<Semaphore>,
}

/// A request without an answer.
pub(super) enum Unanswered {
    /// Its connection ended, and nothing of it was sent.
    Unsent(RequestBody, HttpError),
    /// Its connection ended while its stream waited to be opened.
    Unopened(HttpError),
    /// It may have been looked at.
    Broke(HttpError),
    /// What was said before the answer is none of its kind.
    Faulty(ConnectFailure),
}

/// Begins HTTP/2 on a connection that is used as `load` says: how to ask on it, and the work that carries it.
///
/// # Errors
/// Nothing can be said on it.
pub(super) async fn begin<S>(
    (stream, heard): (S, Heard),
    load: Rc<Load>,
    settings: &Settings,
) -> Result<(Sender, impl Future<Output = ()> + use<S>), ConnectFailure>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (streams, mut connection) =
        timeout(settings.handshake_timeout, client_of(settings).handshake(stream))
            .await
            .map_err(|_| ConnectFailure::HandshakeTimeout)?
            .map_err(|error| ConnectFailure::Http(Rc::new(error.into())))?;
    let ping_pong = connection.ping_pong().expect("it is taken once");
    let pings = Pings::new(ping_pong, heard, settings);
    let sender = Sender { streams, turn: Rc::new(Semaphore::new(1)) };
    Ok((sender, carry(connection, pings, load)))
}

/// Runs a connection to its end. How it ended is told to the requests that it carried.
async fn carry<S>(mut connection: Connection<S, Data>, mut pings: Pings, load: Rc<Load>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(|context| {
        let is_lost = pings.poll_lost(context, load.is_used()).is_ready();
        if is_lost || Pin::new(&mut connection).poll(context).is_ready() {
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}

impl Sender {
    /// Whether it takes no request any more.
    pub(super) fn is_closed(&mut self) -> bool {
        // One that has sent nothing itself waits for nothing.
        let ready = self.streams.poll_ready(&mut Context::from_waker(Waker::noop()));
        matches!(ready, Poll::Ready(Err(_)))
    }

    /// Whether the other side takes WebSockets; nothing until its settings are there. One that is gone does, for all that
    /// is known.
    pub(super) fn takes_websockets(&mut self) -> Option<bool> {
        if self.is_closed() {
            return Some(true);
        }
        let are_there = self.streams.current_max_send_streams() != BEFORE_SETTINGS;
        let takes = self.streams.is_extended_connect_protocol_enabled();
        (takes || are_there).then_some(takes)
    }

    /// Sends a request, and waits for its answer. Messages of a call are told as they pass meanwhile. Dropped before, the
    /// request is taken back.
    ///
    /// # Errors
    /// It has no answer.
    pub(super) async fn ask<E: Exchange>(
        &mut self,
        request: Request<RequestBody>,
        record: &mut Record<E>,
    ) -> Result<Response<Incoming>, Unanswered> {
        let turn = self.turn.clone();
        let turn = turn.acquire().await.expect("nobody closes it");
        let (head, body) = request.into_parts();
        if let Err(error) = poll_fn(|context| self.streams.poll_ready(context)).await {
            return Err(Unanswered::Unsent(body, error.into()));
        }
        let mut head = Request::from_parts(head, ());
        prepare(&mut head, &body);
        let is_connect = head.method() == Method::CONNECT;
        let is_end = body.is_end_stream() && !is_connect;
        let sent = self.streams.send_request(head, is_end).map_err(|error| Unanswered::Broke(error.into()));
        let (mut response, stream) = sent?;
        if let Err(error) = poll_fn(|context| self.streams.poll_ready(context)).await {
            return Err(unopened(&mut response, error));
        }
        drop(turn);
        let (mut way, mut pipe) = (None, None);
        match is_connect {
            true => way = Some(stream),
            false if is_end => drop((stream, body)),
            false => pipe = Some(Pipe::new(body, stream)),
        }
        let answered = poll_fn(|context| {
            // The body goes up by itself once the response has begun: it may be the longer one.
            pipe.take_if(|pipe| Pin::new(pipe).poll(context).is_ready());
            record.tell_messages();
            poll_answer(&mut response, record, context)
        });
        let response = answered.await?;
        if let Some(pipe) = pipe {
            tasks::spawn(pipe);
        }
        Ok(incoming(response, way))
    }
}

/// The answer, once what comes before it was told.
fn poll_answer<E: Exchange>(
    response: &mut ResponseFuture,
    record: &Record<E>,
    context: &mut Context<'_>,
) -> Poll<Result<Response<RecvStream>, Unanswered>> {
    while let Some(interim) = ready!(response.poll_informational(context)) {
        match interim {
            Ok(interim) => record.interim(interim).map_err(Unanswered::Faulty)?,
            // So does the answer.
            Err(_) => break,
        }
    }
    Pin::new(response).poll(context).map_err(|error| Unanswered::Broke(error.into()))
}

/// What is said of the body, and nothing of the hop before.
fn prepare(head: &mut Request<()>, body: &RequestBody) {
    remove_connection_fields(head.headers_mut());
    let is_body_usual =
        !matches!(*head.method(), Method::GET | Method::HEAD | Method::DELETE | Method::CONNECT);
    if let Some(length) = body.size_hint().exact()
        && (length != 0 || is_body_usual)
    {
        head.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
}

/// Why a stream was not opened: what is said of itself, or of its connection.
fn unopened(response: &mut ResponseFuture, error: h2::Error) -> Unanswered {
    match Pin::new(response).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Err(error)) if error.is_remote() => Unanswered::Broke(error.into()),
        _ => Unanswered::Unopened(error.into()),
    }
}

fn incoming(response: Response<RecvStream>, way: Option<SendStream<Data>>) -> Response<Incoming> {
    let (head, stream) = response.into_parts();
    let body = match way {
        Some(way) if head.status == StatusCode::OK => Incoming::way(Way::new(way, stream)),
        _ => Incoming::http2(stream, &head.headers),
    };
    Response::from_parts(head, body)
}
