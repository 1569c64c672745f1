//! Callers that take their time to take what they asked for.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_common::model::Protocol;
use tokio::net::TcpListener;
use tokio::sync::mpsc::channel;
use tokio::time::{sleep, timeout};

use super::world::*;
use crate::transport::http2::runtime::OnThisCore;
use crate::transport::http2::{Ending, Settings};

/// What a caller has that takes nothing: long enough that a busy machine does not make an honest one late.
const TIME: Duration = Duration::from_millis(500);

/// What is taken buys an eighth of a second for an eighth of a megabyte.
fn settings() -> Settings {
    Settings { response_timeout: TIME, response_rate: 1 << 20, ..Settings::default() }
}

/// An application that answers with so many bytes at once.
pub(super) async fn gives(bytes: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let whole = Bytes::from(vec![b'x'; bytes]);
    tokio::task::spawn_local(async move {
        loop {
            let io = TokioIo::new(listener.accept().await.unwrap().0);
            let whole = whole.clone();
            let service = service_fn(move |_| {
                let body = http_body_util::Full::new(whole.clone());
                async move { Ok::<_, std::convert::Infallible>(Response::new(body)) }
            });
            let served = server_of(OnThisCore, &Settings::default()).serve_connection(io, service);
            tokio::task::spawn_local(served);
        }
    });
    address
}

#[test]
fn a_response_of_which_nothing_is_taken_is_given_up_and_others_of_its_connection_go_on() {
    on_one_core(async {
        let world = World::start_with(Protocol::Http2, settings()).await;
        let echoes = world.application.replace(gives(500 << 10).await);
        let caller = world.caller_with_window(1000).await;
        let mut kept = caller.0.clone().send_request(get("/large")).await.unwrap().into_body();
        kept.frame().await.unwrap().unwrap();
        world.application.set(echoes);
        eventually("both are recorded", || world.records.borrow().len() == 2).await;
        assert_eq!(world.recorded(None)[0].end.ending, Ending::NotTaken);
        let rest = timeout(Duration::from_secs(5), kept.collect()).await.expect("it is told");
        assert!(rest.is_err(), "and told that it is not all");
        assert!(!caller.0.is_closed());
        assert_eq!(caller.ask(get("/small")).await.unwrap().status, StatusCode::OK);
    });
}

#[test]
fn a_caller_that_never_opens_a_window_has_no_stream_for_long() {
    on_one_core(async {
        let world = World::start_with(Protocol::Http2, settings()).await;
        world.application.set(gives(10).await);
        let caller = world.caller_with_window(0).await;
        let asked = timeout(Duration::from_secs(10), caller.ask(get("/x"))).await;
        assert!(asked.expect("it is told").is_err());
        eventually("the record", || world.recorded(None).len() == 1).await;
        assert_eq!(world.recorded(None)[0].end.ending, Ending::NotTaken);
    });
}

/// The agents have read it to its end.
#[test]
fn an_answer_that_its_caller_gives_up_before_it_has_room_for_it_is_not_complete() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        world.application.set(gives(10).await);
        let caller = world.caller_with_window(0).await;
        let response = caller.0.clone().send_request(get("/x")).await.unwrap();
        eventually("the destination has passed it on", || {
            world.recorded(Some("spiffe://cluster.local/ns/shop/sa/web")).len() == 1
        })
        .await;
        drop(response);
        eventually("the record", || world.recorded(None).len() == 1).await;
        assert_eq!(world.recorded(None)[0].end.ending, Ending::CallerGone);
    });
}

#[test]
fn an_answer_that_waits_for_room_ends_with_its_permission() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        world.application.set(gives(10).await);
        let caller = world.caller_with_window(0).await;
        let mut answer = caller.0.clone().send_request(get("/x")).await.unwrap().into_body();
        world.cuts.borrow()[0].now();
        assert!(answer.frame().await.expect("it has no end").is_err());
        assert_eq!(world.recorded(None)[0].end.ending, Ending::Cut);
    });
}

#[test]
fn an_upload_goes_with_a_response_of_which_nothing_is_taken() {
    on_one_core(async {
        let world = World::start_with(Protocol::Grpc, settings()).await;
        let caller = world.caller_with_window(0).await;
        let (send, receive) = channel(1);
        send.send(Bytes::from_static(b"to be echoed")).await.unwrap();
        let request = grpc("/e/S", "").map(|_| channel_body(receive));
        let asked = timeout(Duration::from_secs(10), caller.ask(request)).await;
        assert!(asked.expect("it is told").is_err());
        eventually("no body is held", || (world.source.bodies(), world.destination.bodies()) == (0, 0)).await;
    });
}

#[test]
fn a_caller_that_leaves_the_end_of_a_response_is_told_to_go() {
    on_one_core(async {
        let world = World::start_with(Protocol::Http2, settings()).await;
        // The last piece begins within the window and ends beyond it: only h2 has it.
        let echoes = world.application.replace(gives(2000).await);
        let caller = world.caller_with_window(1000).await;
        let kept = caller.0.clone().send_request(get("/x")).await.unwrap();
        world.application.set(echoes);
        let gone = async { while caller.ask(get("/y")).await.is_ok() {} };
        timeout(Duration::from_secs(10), gone).await.expect("it takes no request any more");
        drop(kept);
    });
}

#[test]
fn a_caller_that_does_not_read_its_connection_is_served_no_longer() {
    on_one_core(async {
        let world = World::start_with(Protocol::Http2, settings()).await;
        // More than kernels hold for a reader.
        world.application.set(gives(64 << 20).await);
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1 << 30).initial_connection_window_size(1 << 30);
        let stream = world.raw_caller().await;
        let (mut sender, mut connection) = builder.handshake::<_, Bytes>(stream).await.unwrap();
        let request = Request::get("http://api.shop/x").body(()).unwrap();
        let (answer, _) = sender.send_request(request, true).unwrap();
        // Until the answer is there; then nobody reads.
        tokio::select! {
            answer = answer => assert_eq!(answer.unwrap().status(), StatusCode::OK),
            ended = &mut connection => panic!("{ended:?}"),
        }
        eventually("it is served no longer", || world.served.borrow().len() == 1).await;
        assert_eq!(world.recorded(None)[0].end.ending, Ending::NotTaken);
    });
}

#[test]
fn a_caller_that_takes_little_at_a_time_gets_all() {
    on_one_core(async {
        let settings = Settings { response_rate: 1000, ..settings() };
        let world = World::start_with(Protocol::Http2, settings).await;
        let size = 40_000;
        world.application.set(gives(size).await);
        let caller = world.caller_with_window(1000).await;
        let mut body = caller.0.clone().send_request(get("/x")).await.unwrap().into_body();
        let mut seen = 0;
        while seen < size {
            seen += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
            // In all several times what a caller has that takes nothing: what passes is what is tested.
            sleep(TIME / 10).await;
        }
        assert_eq!(seen, size);
    });
}

#[test]
fn a_response_that_is_quiet_for_long_goes_on() {
    on_one_core(async {
        let world = World::start_with(Protocol::Grpc, settings()).await;
        let (send, receive) = channel(1);
        let request = grpc("/e/S", "").map(|_| channel_body(receive));
        send.send(Bytes::from_static(b"soon")).await.unwrap();
        let caller = world.caller_with_window(1000).await;
        let mut echoed = caller.0.clone().send_request(request).await.unwrap().into_body();
        for said in [&b"soon"[..], b"late"] {
            assert_eq!(echoed.frame().await.unwrap().unwrap().into_data().unwrap(), said);
            // More than a caller has that takes nothing: what passes is what is tested.
            sleep(2 * TIME).await;
            let _ = send.try_send(Bytes::from_static(b"late"));
        }
    });
}
