//! Callers that speak HTTP/1.1 where HTTP/2 is spoken: translated, each request an exchange like those of HTTP/2.
//!
//! In: a caller's connection, and the conductor of it. hyper serves it, and sees only what our own strict codec understood and
//! wrote anew ([`Requests`]); what the codec refuses is answered here, once the exchanges before it are over. Bodies and
//! trailers pass both ways, and interim answers to callers that know of them ([`WithInterims`]); besides the application's own a
//! 100 is said here, as soon as the body is wanted, as Envoy does unless told otherwise.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::server::conn::http1::{Builder, Parts};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_common::http1::{self, LocalAnswer, ResponseFor, write_local_answer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};

use super::activity::{Activity, Open};
use super::body::AnswerBody;
use super::conductor::Conductor;
use super::exchange::{self, Shared};
use super::incoming::Incoming;
use super::interims::{Ahead, WithInterims};
use super::requests::{Requests, Stop};
use super::serve::ServeError;
use super::settings::Settings;
use super::taking::{Late, carry_each};
use super::through::Through;
use super::trailers::{Aside, Trailers, WithTrailers};
use crate::transport::connect;

/// How long a caller that is answered and told to go is read, or what it still sends would cost it the answer.
const LINGER: Duration = Duration::from_secs(2);

type Answered<C> = Response<Aside<AnswerBody<<C as Conductor>::Exchange>>>;

/// Serves such a caller, which dialled `dialled`, to its end.
///
/// # Errors
/// It ended before its time.
pub(super) async fn serve<C: Conductor>(
    shared: &Rc<Shared>,
    stream: TcpStream,
    dialled: SocketAddr,
    conductor: Rc<C>,
) -> Result<(), ServeError> {
    let settings = &*shared.settings;
    let activity = Activity::new(settings.terms(), settings.stream_idle_timeout);
    let _presence = activity.presence();
    let (trailers, ahead) = (Trailers::default(), Ahead::default());
    let stopped = Rc::new(RefCell::new(None));
    let stream = Through {
        stream: WithTrailers::new(WithInterims::new(stream, ahead.clone()), trailers.clone()),
        reading: Requests::new(dialled, settings, activity.clone(), stopped.clone()),
    };
    let service = service_fn(|request| {
        let (shared, conductor, open) = (shared.clone(), conductor.clone(), activity.begin());
        Box::pin(answer(shared, conductor, open, request, (trailers.clone(), ahead.clone())))
    });
    let connection = builder(settings).serve_connection(TokioIo::new(stream), service);
    let connection = RefCell::new(connection);
    let poll = |context: &mut Context<'_>| {
        connection.borrow_mut().poll_without_shutdown(context).map_err(|error| ServeError::Http(error.into()))
    };
    let leave = || Pin::new(&mut *connection.borrow_mut()).graceful_shutdown();
    let served = run(poll, leave, &activity, (&*conductor, settings)).await;
    let Parts { io, .. } = connection.into_inner().into_parts();
    let stream = io.into_inner().stream.into_inner().into_inner();
    let stop = stopped.borrow_mut().take();
    if let Err(error) = served {
        // A response that is cut off must not pass for a whole one.
        connect::reset_on_close(&stream);
        return Err(error);
    }
    say_farewell(stream, stop, &*conductor).await;
    Ok(())
}

fn builder(settings: &Settings) -> Builder {
    let mut builder = Builder::new();
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        // The deadline of a head is kept where heads are read.
        .header_read_timeout(None)
        // Who says no more may still wait for its answer.
        .half_close(true)
        // What we add to a head that was within its limit.
        .max_headers(settings.max_fields + 4)
        .max_buf_size(settings.stream_window as usize);
    builder
}

/// Runs a connection with `poll` until it is over; `leave` tells its caller to go.
async fn run<C: Conductor>(
    poll: impl FnMut(&mut Context<'_>) -> Poll<Result<(), ServeError>>,
    leave: impl Fn(),
    activity: &Rc<Activity>,
    (conductor, settings): (&C, &Settings),
) -> Result<(), ServeError> {
    let mut served = pin!(carry_each(activity, poll));
    let mut idle = pin!(activity.idle(settings.idle_timeout, settings.idle_timeout));
    let mut idle_exchanges = pin!(activity.end_idle());
    let mut looks = interval(settings.response_timeout / 2);
    let (mut is_draining, mut is_idle) = (false, false);
    loop {
        tokio::select! {
            result = served.as_mut() => return result.unwrap_or(Err(ServeError::NotTaken)),
            () = conductor.leave().notified(), if !is_draining => is_draining = true,
            _ = looks.tick() => match activity.look() {
                Late::No => continue,
                Late::OfStream | Late::OfConnection => return Err(ServeError::NotTaken),
            },
            never = idle_exchanges.as_mut() => match never {},
            () = idle.as_mut(), if !is_idle => is_idle = true,
        }
        leave();
    }
}

/// Answers one request.
async fn answer<C: Conductor>(
    shared: Rc<Shared>,
    conductor: Rc<C>,
    open: Open,
    request: Request<hyper::body::Incoming>,
    (trailers, ahead): (Trailers, Ahead),
) -> Result<Answered<C>, h2::Error> {
    trailers.begin();
    let mut request = request.map(Incoming::http1);
    let is_head = request.method() == Method::HEAD;
    let is_http11 = request.version() == Version::HTTP_11;
    let takes_chunks = is_http11 && !is_head;
    let taking = open.taking().clone();
    *request.version_mut() = Version::HTTP_2;
    // Of this hop; hyper has read them.
    for name in [CONNECTION, TRANSFER_ENCODING, EXPECT] {
        request.headers_mut().remove(name);
    }
    let mut answer = pin!(exchange::serve(shared, conductor, open, (request, None)));
    let answer = poll_fn(|context| {
        let answer = answer.as_mut().poll(context);
        // RFC 9110 section 15.2: HTTP/1.0 has none.
        let interims = taking.interims().take().into_iter().filter(|_| is_http11);
        interims.for_each(|interim| ahead.tell(&interim, &taking));
        answer
    });
    let mut response = answer.await?;
    ahead.told().await;
    let has_body = !response.body().is_end_stream()
        && !matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let is_chunked = takes_chunks
        && has_body
        && !response.headers().contains_key(CONTENT_LENGTH)
        && response.body().size_hint().exact().is_none();
    if is_chunked {
        response.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    *response.version_mut() = Version::HTTP_11;
    Ok(response.map(|body| Aside::new(body, is_chunked.then_some(trailers))))
}

/// Answers what was refused, and ends the connection in good order.
async fn say_farewell<C: Conductor>(mut stream: TcpStream, stop: Option<Stop>, conductor: &C) {
    let mut said = Vec::new();
    if let Some(Stop { refusal, asked, is_answered }) = stop {
        let decision = Some(conductor.malformed(refusal, asked, 0));
        let answer = LocalAnswer { status: refusal.status(), text: "", reason: refusal.reason(), decision };
        let to = ResponseFor { version: http1::Version::Http11, keep_alive: false, head: false };
        if is_answered {
            write_local_answer(answer, to, &mut said);
        }
    }
    let say = async {
        stream.write_all(&said).await?;
        stream.shutdown().await?;
        let mut dropped = [0; 4096];
        while stream.read(&mut dropped).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    // Who does not go by itself has had its time.
    let _ = timeout(LINGER, say).await;
}
