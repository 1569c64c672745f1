//! Exchanges of which nothing moves (`--tcp-idle-timeout`): by a clock that the test moves, and for real.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_common::model::Protocol;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, channel, unbounded_channel};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;

use super::virtual_clock::{SECOND, by_the_clock, ends_at, pass, world_with};
use super::world::*;
use crate::transport::http2::runtime::OnThisCore;
use crate::transport::http2::{Ending, Settings};

const HOUR: Duration = Duration::from_secs(3600);

/// An application that takes requests and answers none; it tells of each that it was given up.
async fn mute(protocol: Protocol) -> (SocketAddr, UnboundedReceiver<()>) {
    struct Given<F: Fn()>(F);
    impl<F: Fn()> Drop for Given<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = unbounded_channel();
    spawn_local(async move {
        let service = service_fn(|request: Request<Incoming>| {
            let tell = tell.clone();
            let given = Given(move || tell.send(()).unwrap_or_default());
            async move {
                let _held = (request, given);
                std::future::pending::<Result<Response<TestBody>, std::convert::Infallible>>().await
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

/// Asks, at both agents; the request is whole.
async fn ask(world: &Rc<World>, request: Request<TestBody>) -> JoinHandle<Seen> {
    let caller = world.caller().await;
    let asked = spawn_local(async move { caller.ask(request).await.unwrap() });
    eventually("both agents have it", || world.cuts.borrow().len() == 2).await;
    asked
}

/// How both agents say that it ended: that of the caller, that of the application.
async fn endings(world: &Rc<World>) -> [Ending; 2] {
    eventually("both records", || world.records.borrow().len() == 2).await;
    [None, Some("spiffe://cluster.local/ns/shop/sa/web")].map(|caller| world.recorded(caller)[0].end.ending)
}

#[test]
fn an_application_that_never_answers_has_an_hour() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        by_the_clock(async {
            let world = world_with(protocol, Settings::default()).await;
            let (application, mut given_up) = mute(protocol).await;
            world.application.set(application);
            let asked = ask(&world, get("/x")).await;
            let seen = ends_at(HOUR, asked).await;
            assert_eq!(seen.status, StatusCode::GATEWAY_TIMEOUT, "{protocol:?}: {seen:?}");
            assert_eq!(seen.header("x-nodemesh-reason"), Some("idle_timed_out"));
            let told = timeout(20 * SECOND, given_up.recv()).await;
            assert_eq!(told.expect("the application is told"), Some(()));
            let ended = endings(&world).await;
            // Whose clock comes first answers; the other one hears of it, and knows why.
            let is_of_idleness = |ending| matches!(ending, Ending::OwnAnswer | Ending::IdleTimedOut);
            assert!(ended[0] == Ending::OwnAnswer && is_of_idleness(ended[1]), "{ended:?}");
        });
    }
}

#[test]
fn a_call_that_is_never_answered_has_an_hour_too() {
    by_the_clock(async {
        let world = world_with(Protocol::Grpc, Settings::default()).await;
        let (application, _given_up) = mute(Protocol::Grpc).await;
        world.application.set(application);
        let asked = ask(&world, grpc("/e/U", "x")).await;
        let seen = ends_at(HOUR, asked).await;
        let told = (seen.status, seen.header("grpc-status"), seen.header("x-nodemesh-reason"));
        assert_eq!(told, (StatusCode::OK, Some("14"), Some("idle_timed_out")));
    });
}

/// An exchange whose response has begun, with what has come of it; more of both sides may come.
async fn begun(world: &Rc<World>, request: Request<()>) -> (Sender<Bytes>, Incoming) {
    let (send, receive) = channel(1);
    let request = request.map(|()| channel_body(receive));
    let mut echoed = world.caller().await.0.send_request(request).await.unwrap().into_body();
    echo(&send, &mut echoed).await;
    (send, echoed)
}

async fn echo(send: &Sender<Bytes>, echoed: &mut Incoming) {
    send.send(Bytes::from_static(b"message")).await.unwrap();
    let frame = timeout(20 * SECOND, echoed.frame()).await.expect("it comes back");
    assert_eq!(frame.unwrap().unwrap().into_data().unwrap().as_ref(), b"message");
}

#[test]
fn a_response_that_stands_still_is_reset_after_an_hour() {
    by_the_clock(async {
        let world = world_with(Protocol::Http2, Settings::default()).await;
        let request = Request::post("http://api.shop/x").body(()).unwrap();
        let (_send, mut echoed) = begun(&world, request).await;
        let next = spawn_local(async move { echoed.frame().await.expect("not a good end").is_err() });
        assert!(ends_at(HOUR, next).await, "it is told that it is not all");
        assert_eq!(endings(&world).await, [Ending::IdleTimedOut; 2]);
    });
}

#[test]
fn a_call_whose_stream_stands_still_ends_with_the_status() {
    by_the_clock(async {
        let world = world_with(Protocol::Grpc, Settings::default()).await;
        let (_send, echoed) = begun(&world, grpc("/e/S", "").map(drop)).await;
        let rest = spawn_local(async move { echoed.collect().await.unwrap().trailers().cloned() });
        let trailers = ends_at(HOUR, rest).await.expect("trailers");
        assert_eq!(
            (&trailers["grpc-status"], &trailers["grpc-message"]),
            (&"14".parse().unwrap(), &"upstream request timeout".parse().unwrap())
        );
        let caller = Some("spiffe://cluster.local/ns/shop/sa/web");
        eventually("both records", || world.records.borrow().len() == 2).await;
        let status = [None, caller].map(|caller| world.recorded(caller)[0].end.grpc_status);
        assert!(status.contains(&Some(14)), "{status:?}");
    });
}

#[test]
fn what_moves_moves_the_deadline() {
    for protocol in [Protocol::Http2, Protocol::Grpc] {
        by_the_clock(async {
            let world = world_with(protocol, Settings::default()).await;
            let request = match protocol {
                Protocol::Grpc => grpc("/e/S", "").map(drop),
                _ => Request::post("http://api.shop/x").body(()).unwrap(),
            };
            let (send, mut echoed) = begun(&world, request).await;
            for _ in 0..3 {
                pass(HOUR - SECOND).await;
                echo(&send, &mut echoed).await;
            }
            let rest = spawn_local(echoed.collect());
            let _ = ends_at(HOUR, rest).await;
        });
    }
}

#[test]
fn others_on_the_connection_go_on() {
    by_the_clock(async {
        let world = world_with(Protocol::Http2, Settings::default()).await;
        let caller = world.caller().await;
        let request = |receive| Request::post("http://api.shop/x").body(channel_body(receive)).unwrap();
        let (_still, receive) = channel(1);
        let mut still = caller.0.clone().send_request(request(receive)).await.unwrap().into_body();
        let (send, receive) = channel(1);
        let mut moves = caller.0.clone().send_request(request(receive)).await.unwrap().into_body();
        pass(HOUR / 2).await;
        echo(&send, &mut moves).await;
        let ended = spawn_local(async move { still.frame().await.expect("not a good end").is_err() });
        assert!(ends_at(HOUR / 2, ended).await);
        echo(&send, &mut moves).await;
        assert_eq!(caller.ask(get("/y")).await.unwrap().status, StatusCode::OK);
    });
}

#[test]
fn for_real_it_takes_as_long_as_is_set() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        on_one_core(async {
            let short = Duration::from_millis(300);
            let settings = Settings { stream_idle_timeout: short, ..Settings::default() };
            let world = World::start_with(protocol, settings).await;
            let (application, _given_up) = mute(protocol).await;
            world.application.set(application);
            let began = Instant::now();
            let seen = timeout(20 * SECOND, world.caller().await.ask(get("/x"))).await;
            let seen = seen.expect("it is over").unwrap();
            assert_eq!(seen.status, StatusCode::GATEWAY_TIMEOUT);
            assert_eq!(seen.header("x-nodemesh-reason"), Some("idle_timed_out"));
            assert!(began.elapsed() >= short, "{:?}", began.elapsed());
        });
    }
}
