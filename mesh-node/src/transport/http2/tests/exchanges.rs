//! What passes: unary and streaming calls with trailers, over shared connections.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use mesh_common::model::Protocol;
use mesh_common::snapshot::Delta;

use super::world::*;
use crate::transport::http2::{End, Ending, Settings};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

#[test]
fn a_unary_call_passes_with_its_trailers_and_is_recorded_at_both_ends() {
    on_one_core(async {
        let world = World::start(Protocol::Grpc).await;

        let seen = world.caller().await.ask(grpc("/echo.Echo/Unary", "hello")).await.unwrap();

        assert_eq!((seen.status, seen.body.as_ref()), (StatusCode::OK, b"hello".as_ref()));
        assert_eq!((seen.trailer("grpc-status"), seen.trailer("x-checksum")), (Some("0"), Some("7")));
        assert_eq!(seen.trailer("content-length"), None, "no head in trailers");
        eventually("both records", || world.records.borrow().len() == 2).await;
        let end = End { request_bytes: 5, response_bytes: 5, grpc_status: Some(0), ending: Ending::Complete };
        for caller in [None, Some(WEB)] {
            let [record] = world.recorded(caller).try_into().unwrap();
            assert_eq!(record.path, "/echo.Echo/Unary");
            assert_eq!((record.status, record.end), (Some(StatusCode::OK), end.clone()));
        }
    });
}

#[test]
fn a_stream_passes_both_ways_message_by_message() {
    on_one_core(async {
        let world = World::start(Protocol::Grpc).await;
        let caller = world.caller().await;
        let (send, receive) = tokio::sync::mpsc::channel::<Bytes>(1);
        let request = grpc("/echo.Echo/Stream", "").map(|_| channel_body(receive));

        let response = caller.0.clone().send_request(request).await.unwrap();
        let mut body = response.into_body();
        for message in ["one", "two", "three"] {
            send.send(Bytes::from_static(message.as_bytes())).await.unwrap();
            // The next message is not sent before this one came back: nothing waits for the whole body.
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.data_ref().map(Bytes::as_ref), Some(message.as_bytes()));
        }
        drop(send);
        let last = body.frame().await.unwrap().unwrap();

        assert_eq!(last.trailers_ref().unwrap()["grpc-status"], "0");
        assert!(body.frame().await.is_none());
    });
}

#[test]
fn many_calls_of_many_callers_share_one_connection() {
    on_one_core(async {
        let world = World::start(Protocol::Grpc).await;
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let caller = world.caller().await;
            for _ in 0..25 {
                let caller = caller.clone();
                calls.spawn_local(async move { caller.ask(grpc("/e/U", "x")).await.unwrap().status });
            }
        }
        while let Some(status) = calls.join_next().await {
            assert_eq!(status.unwrap(), StatusCode::OK);
        }
        // One between the agents, one to the application.
        assert_eq!((world.dials.get(), world.source.connections()), (2, 1));
        assert_eq!(world.recorded(Some(WEB)).len(), 100);
    });
}

#[test]
fn a_megabyte_passes_whole_in_both_directions() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        let text: &'static str = Box::leak("0123456789abcdef".repeat(1 << 16).into_boxed_str());
        let request = Request::post("http://api.shop/big").body(body(text)).unwrap();
        let seen = world.caller().await.ask(request).await.unwrap();
        assert!(seen.body == text.as_bytes(), "{} bytes came back", seen.body.len());
    });
}

#[test]
fn an_application_of_http_1_is_spoken_to_in_its_own_tongue() {
    on_one_core(async {
        let world = World::start(Protocol::Http1).await;
        let caller = world.caller().await;
        for turn in 0..5 {
            let mut request = Request::post("http://api.shop/x?q=1").body(body("text")).unwrap();
            for crumb in ["a=1", "b=2"] {
                request.headers_mut().append("cookie", crumb.parse().unwrap());
            }
            let seen = caller.ask(request).await.unwrap();
            assert_eq!((seen.status, seen.body.as_ref()), (StatusCode::OK, b"text".as_ref()), "turn {turn}");
            assert_eq!(
                (seen.header("x-seen-version"), seen.header("x-seen-uri")),
                (Some("HTTP/1.1"), Some("/x?q=1"))
            );
            let fields = seen.header("x-seen-fields").unwrap();
            assert!(fields.contains("cookie=a=1; b=2") && fields.contains("host=api.shop"), "{fields}");
            assert_eq!(seen.header("keep-alive"), None);
        }
        // One between the agents, one kept alive to the application.
        assert_eq!(world.dials.get(), 2);
    });
}

#[test]
fn a_pod_of_the_same_node_is_reached_in_process() {
    on_one_core(async {
        let world = World::start(Protocol::Grpc).await;
        world.apply(Delta::UpsertWorkload(pod("api", "api", "a", "127.0.0.2")));
        let seen = world.caller().await.ask(grpc("/e/U", "near")).await.unwrap();
        assert_eq!((seen.body.as_ref(), seen.trailer("grpc-status")), (b"near".as_ref(), Some("0")));
        assert_eq!(world.dials.get(), 1, "to the application alone");

        world.apply(deny_path("/e/U"));
        let seen = world.caller().await.ask(grpc("/e/U", "near")).await.unwrap();
        assert_eq!(seen.header("grpc-status"), Some("7"), "its policies hold all the same");
    });
}

#[test]
fn a_connection_between_agents_takes_no_request_after_its_age() {
    on_one_core(async {
        let settings = Settings { max_age: Duration::from_millis(50), ..Settings::default() };
        let world = World::start_with(Protocol::Grpc, settings).await;
        let caller = world.caller().await;
        caller.ask(grpc("/e/U", "x")).await.unwrap();
        let gone = Rc::clone(&world);
        eventually("the old connection is left", || gone.source.connections() == 0).await;

        assert_eq!(caller.ask(grpc("/e/U", "x")).await.unwrap().status, StatusCode::OK);

        assert_eq!(world.recorded(Some(WEB)).len(), 2);
    });
}

#[test]
fn a_connection_between_agents_is_left_before_its_certificates_expire() {
    on_one_core(async {
        let lifetime = Duration::from_secs(2);
        let world = World::start_for(Protocol::Grpc, Settings::default(), lifetime).await;
        world.caller().await.ask(grpc("/e/U", "x")).await.unwrap();
        assert_eq!(world.source.connections(), 1);
        eventually("the connection is left at half of its life", || world.source.connections() == 0).await;
    });
}

#[test]
fn a_connection_verified_under_older_roots_takes_no_request() {
    on_one_core(async {
        let world = World::start(Protocol::Grpc).await;
        let caller = world.caller().await;
        caller.ask(grpc("/e/U", "x")).await.unwrap();
        let before = world.dials.get();
        let other = World::start(Protocol::Grpc).await;
        std::fs::copy(other.folder.path().join("tls.crt"), world.folder.path().join("ca.crt")).unwrap();
        // It looks at the roots before anything else.
        let look = Duration::from_millis(20);
        assert!(tokio::time::timeout(look, world.identities.run()).await.is_err());
        assert_eq!(world.identities.generation(), 2);

        caller.ask(grpc("/e/U", "x")).await.unwrap();

        assert_eq!(world.dials.get(), before + 1);
    });
}

#[test]
fn an_idle_connection_is_closed_though_its_caller_says_nothing() {
    on_one_core(async {
        let short = Duration::from_millis(50);
        let settings = Settings { idle_timeout: short, handshake_timeout: short * 4, ..Settings::default() };
        let world = World::start_with(Protocol::Grpc, settings).await;
        let mut silent = world.raw_caller().await;
        let mut rest = Vec::new();
        let closed = tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut rest);
        tokio::time::timeout(Duration::from_secs(5), closed).await.expect("it is closed").ok();
    });
}

#[test]
fn a_stream_that_is_open_for_longer_than_the_idle_timeout_goes_on() {
    on_one_core(async {
        let settings = Settings { idle_timeout: Duration::from_millis(40), ..Settings::default() };
        let world = World::start_with(Protocol::Grpc, settings).await;
        let (send, receive) = tokio::sync::mpsc::channel(1);
        let request = grpc("/e/S", "").map(|_| channel_body(receive));
        let response = world.caller().await.0.clone().send_request(request).await.unwrap();
        let mut body = response.into_body();
        for _ in 0..3 {
            // Three idle timeouts without a message: the time that passes is what is tested.
            tokio::time::sleep(Duration::from_millis(120)).await;
            send.send(Bytes::from_static(b"late")).await.unwrap();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().as_ref(), b"late");
        }
    });
}
