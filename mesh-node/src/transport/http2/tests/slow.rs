//! Callers that take their time.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2::handshake;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_common::model::Protocol;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, channel, unbounded_channel};
use tokio::time::{sleep, timeout};

use super::world::*;
use crate::transport::http2::runtime::OnThisCore;
use crate::transport::http2::{Ending, Settings};

/// In which a body is to bring 500 bytes: long enough that a busy machine does not make an honest one late.
const TIME: Duration = Duration::from_millis(500);
/// Between two pieces of a body.
const PIECE: Duration = Duration::from_millis(25);

fn settings() -> Settings {
    Settings { body_timeout: TIME, body_rate: 1000, ..Settings::default() }
}

/// When an application answers.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Answers {
    AtOnce,
    AtTheEnd,
}

/// An application that says how each request's body ended.
pub(super) async fn reads(protocol: Protocol, answers: Answers) -> (SocketAddr, UnboundedReceiver<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = unbounded_channel();
    tokio::task::spawn_local(async move {
        let service = service_fn(|request: Request<Incoming>| {
            let tell = tell.clone();
            async move {
                let reading = tokio::task::spawn_local(async move {
                    let _ = tell.send(request.into_body().collect().await.is_ok());
                });
                if answers == Answers::AtTheEnd {
                    reading.await.unwrap();
                }
                Ok::<_, std::convert::Infallible>(Response::new(body("an answer")))
            }
        });
        let io = TokioIo::new(listener.accept().await.unwrap().0);
        let _ = match protocol {
            Protocol::Http1 => hyper::server::conn::http1::Builder::new().serve_connection(io, service).await,
            _ => server_of(OnThisCore, &Settings::default()).serve_connection(io, service).await,
        };
    });
    (address, told)
}

/// Sends a byte now and then for so long, as long as somebody takes it.
async fn drip(into: Sender<Bytes>, time: Duration) {
    for _ in 0..time.as_millis() / PIECE.as_millis() {
        if into.send(Bytes::from_static(b"x")).await.is_err() {
            return;
        }
        // The pace of the drip: a twentieth of the time in which another byte must come.
        sleep(PIECE).await;
    }
}

#[test]
fn a_body_that_drips_is_cut_off_though_something_always_comes() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        on_one_core(async {
            let world = World::start_with(protocol, settings()).await;
            let (application, mut told) = reads(protocol, Answers::AtTheEnd).await;
            world.application.set(application);
            let (send, receive) = channel(1);
            tokio::task::spawn_local(drip(send, Duration::from_secs(60)));
            let request = Request::post("http://api.shop/x").body(channel_body(receive)).unwrap();
            let asked = timeout(Duration::from_secs(10), world.caller().await.ask(request)).await;
            let seen = asked.expect("it is cut off").unwrap();
            assert_eq!(seen.status, StatusCode::REQUEST_TIMEOUT, "{seen:?}");
            assert_eq!(seen.header("x-nodemesh-reason"), Some("request_timeout"));
            assert_eq!(told.recv().await, Some(false), "the application has no whole request");
            eventually("both records", || world.records.borrow().len() == 2).await;
            assert_eq!(world.recorded(None)[0].end.ending, Ending::OwnAnswer);
        });
    }
}

#[test]
fn a_body_that_keeps_its_pace_is_not_cut_off() {
    on_one_core(async {
        let world = World::start_with(Protocol::Http2, settings()).await;
        let (application, mut told) = reads(Protocol::Http2, Answers::AtTheEnd).await;
        world.application.set(application);
        let (send, receive) = channel(1);
        let request = Request::post("http://api.shop/x").body(channel_body(receive)).unwrap();
        let caller = world.caller().await;
        let asked = tokio::task::spawn_local(async move { caller.ask(request).await.unwrap().status });
        for _ in 0..2 * TIME.as_millis() / PIECE.as_millis() {
            send.send(Bytes::from_static(&[b'x'; 500])).await.unwrap();
            // In all twice the time that there is for so many bytes: what passes is what is tested.
            sleep(PIECE).await;
        }
        drop(send);
        assert_eq!((asked.await.unwrap(), told.recv().await), (StatusCode::OK, Some(true)));
    });
}

#[test]
fn a_call_may_be_quiet_before_its_server_says_anything() {
    on_one_core(async {
        let world = World::start_with(Protocol::Grpc, settings()).await;
        let (application, mut told) = reads(Protocol::Grpc, Answers::AtTheEnd).await;
        world.application.set(application);
        let (send, receive) = channel(1);
        tokio::task::spawn_local(drip(send, TIME * 2));
        let request = grpc("/e/S", "").map(|_| channel_body(receive));
        assert_eq!(world.caller().await.ask(request).await.unwrap().status, StatusCode::OK);
        assert_eq!(told.recv().await, Some(true));
    });
}

#[test]
fn a_stream_of_both_sides_may_be_quiet() {
    on_one_core(async {
        let world = World::start_with(Protocol::Http2, settings()).await;
        let (send, receive) = channel(1);
        let request = Request::post("http://api.shop/x").body(channel_body(receive)).unwrap();
        let mut echoed = world.caller().await.0.send_request(request).await.unwrap().into_body();
        for _ in 0..2 {
            // The time and more without a byte: what passes is what is tested.
            sleep(TIME + TIME / 2).await;
            send.send(Bytes::from_static(b"late")).await.unwrap();
            assert_eq!(echoed.frame().await.unwrap().unwrap().into_data().unwrap().as_ref(), b"late");
        }
    });
}

#[test]
fn a_body_that_drips_on_after_the_whole_response_is_cut_off() {
    on_one_core(async {
        let world = World::start_with(Protocol::Grpc, settings()).await;
        let (application, mut told) = reads(Protocol::Grpc, Answers::AtOnce).await;
        world.application.set(application);
        let (send, receive) = channel(1);
        tokio::task::spawn_local(drip(send, Duration::from_secs(60)));
        let request = grpc("/e/S", "").map(|_| channel_body(receive));
        assert_eq!(world.caller().await.ask(request).await.unwrap().status, StatusCode::OK);
        let whole = timeout(Duration::from_secs(10), told.recv()).await;
        assert_eq!(whole.expect("it is cut off"), Some(false));
    });
}

/// What an application says that takes nothing of any request's body.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Takes {
    NothingAndAnswers,
    NothingAndSaysNothing,
}

/// Such an application; its answers come at once and whole.
pub(super) async fn takes_nothing(takes: Takes) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut builder = h2::server::Builder::new();
        let mut connection = builder.initial_window_size(0).handshake::<_, Bytes>(stream).await.unwrap();
        let mut kept = Vec::new();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            if takes == Takes::NothingAndAnswers {
                respond.send_response(Response::new(()), true).unwrap();
            }
            kept.push((request, respond));
        }
    });
    address
}

#[test]
fn a_body_that_nobody_takes_goes_with_its_caller() {
    on_one_core(async {
        let settings =
            Settings { max_age: TIME, idle_timeout: TIME, handshake_timeout: 2 * TIME, ..settings() };
        let world = World::start_with(Protocol::Http2, settings).await;
        world.application.set(takes_nothing(Takes::NothingAndAnswers).await);
        let stream = TokioIo::new(world.raw_caller().await);
        let (sender, connection) = handshake::<_, _, TestBody>(OnThisCore, stream).await.unwrap();
        let connection = tokio::task::spawn_local(connection);
        let caller = Caller(sender);
        // More than a window and what is sent ahead: the body stands at both agents.
        let large = Bytes::from(vec![b'x'; 500 << 10]);
        for _ in 0..3 {
            let (send, receive) = channel(1);
            send.try_send(large.clone()).unwrap();
            let request = Request::post("http://api.shop/x").body(channel_body(receive)).unwrap();
            assert_eq!(caller.ask(request).await.unwrap().status, StatusCode::OK);
        }
        eventually("both hold it", || (world.source.bodies(), world.destination.bodies()) == (3, 3)).await;
        connection.abort();
        eventually("the source holds nothing", || world.source.bodies() == 0).await;
        eventually("nor does the destination", || world.destination.bodies() == 0).await;
    });
}
