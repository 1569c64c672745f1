//! What does not pass, and what the caller is told.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use mesh_common::model::{Protocol, WorkloadUid};
use mesh_common::snapshot::Delta;
use tokio::net::TcpListener;

use super::world::*;
use crate::transport::handshakes::{Limits, Place, Source};
use crate::transport::http2::{Ending, Settings};

#[test]
fn a_denied_call_is_a_grpc_status() {
    on_one_core(async {
        let world = World::start(Protocol::Grpc).await;
        world.apply(deny_path("/echo.Echo/Secret"));
        let caller = world.caller().await;

        let seen = caller.ask(grpc("/echo.Echo/Secret", "x")).await.unwrap();

        assert_eq!(seen.status, StatusCode::OK);
        assert_eq!(seen.header("grpc-status"), Some("7"));
        assert_eq!(seen.header("grpc-message"), Some("RBAC: access denied"));
        assert_eq!(seen.header("content-type"), Some("application/grpc"));
        assert!(seen.body.is_empty());
        assert_eq!(caller.ask(grpc("/echo.Echo/Open", "x")).await.unwrap().trailer("grpc-status"), Some("0"));
        let at_destination = world.recorded(Some("spiffe://cluster.local/ns/shop/sa/web"));
        assert_eq!(at_destination[0].end.ending, Ending::OwnAnswer);
        assert_eq!(at_destination[0].end.grpc_status, Some(7));
        // The source passed on what the destination said.
        assert_eq!(world.recorded(None)[0].end.grpc_status, Some(7));
    });
}

#[test]
fn a_denied_request_is_403() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        world.apply(deny_path("/secret"));
        let seen = world.caller().await.ask(get("/secret")).await.unwrap();
        assert_eq!(
            (seen.status, seen.body.as_ref()),
            (StatusCode::FORBIDDEN, b"RBAC: access denied".as_ref())
        );
        assert_eq!(seen.header("x-nodemesh-reason"), Some("rule_denies"));
    });
}

#[test]
fn a_pod_with_too_many_handshakes_is_told() {
    on_one_core(async {
        let world = World::start(Protocol::Grpc).await;
        let caller = world.caller().await;
        let of_the_pod = || world.handshakes.take(Source::Pod(WorkloadUid("web".into())));
        let others: Vec<Place> = std::iter::from_fn(of_the_pod).collect();
        assert_eq!(others.len(), Limits::default().per_source);
        let seen = caller.ask(grpc("/e/U", "x")).await.unwrap();
        assert_eq!(seen.header("grpc-status"), Some("14"));
        assert_eq!(seen.header("x-nodemesh-reason"), Some("too_many_handshakes"));
        drop(others);
        assert_eq!(caller.ask(grpc("/e/U", "x")).await.unwrap().trailer("grpc-status"), Some("0"));
    });
}

#[test]
fn no_endpoint_is_unavailable() {
    on_one_core(async {
        let world = World::start(Protocol::Grpc).await;
        world.apply(Delta::RemoveWorkload(WorkloadUid("api".into())));
        let caller = world.caller().await;
        let seen = caller.ask(grpc("/e/U", "x")).await.unwrap();
        assert_eq!(seen.header("grpc-status"), Some("14"));
        let seen = caller.ask(get("/x")).await.unwrap();
        assert_eq!(seen.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(seen.header("x-nodemesh-reason"), Some("no_endpoints"));
    });
}

#[test]
fn an_endpoint_that_refuses_is_tried_once_elsewhere() {
    on_one_core(async {
        let world = World::start(Protocol::Grpc).await;
        // Nobody listens there.
        world.apply(Delta::UpsertWorkload(pod("api-1", "api", "b", "127.0.0.3")));
        let caller = world.caller().await;
        for _ in 0..4 {
            assert_eq!(caller.ask(grpc("/e/U", "x")).await.unwrap().trailer("grpc-status"), Some("0"));
        }

        world.apply(Delta::RemoveWorkload(mesh_common::model::WorkloadUid("api".into())));
        let seen = caller.ask(grpc("/e/U", "x")).await.unwrap();

        assert_eq!(seen.header("grpc-status"), Some("14"));
        assert_eq!(seen.header("x-nodemesh-reason"), Some("connect_refused"));
    });
}

#[test]
fn an_agent_with_another_identity_is_not_spoken_to() {
    on_one_core(async {
        let world = World::start(Protocol::Grpc).await;
        // The table says that `api` is at 127.0.0.2; whoever is there now is `thief`.
        world.identities.ensure(&id("thief")).await.unwrap();
        let listener = TcpListener::bind("127.0.0.4:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        world.clone().accept_as("thief", listener, Rc::default());
        world.move_service(port, Protocol::Grpc);
        world.apply(Delta::UpsertWorkload(pod("api", "api", "b", "127.0.0.4")));

        let seen = world.caller().await.ask(grpc("/e/U", "secret")).await.unwrap();

        assert_eq!(seen.header("grpc-status"), Some("14"));
        assert_eq!(seen.header("x-nodemesh-reason"), Some("other_identity"));
        assert_eq!(world.recorded(Some("spiffe://cluster.local/ns/shop/sa/web")), []);
    });
}

#[test]
fn goaway_ends_no_stream_and_takes_no_new_one() {
    on_one_core(async {
        let world = World::start(Protocol::Grpc).await;
        let listener = TcpListener::bind("127.0.0.5:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let leave = Rc::new(tokio::sync::Notify::new());
        world.clone().accept_as("api", listener, leave.clone());
        world.move_service(port, Protocol::Grpc);
        world.apply(Delta::UpsertWorkload(pod("api", "api", "b", "127.0.0.5")));
        let caller = world.caller().await;
        let (send, receive) = tokio::sync::mpsc::channel(1);
        let request = grpc("/e/S", "").map(|_| channel_body(receive));
        let response = caller.0.clone().send_request(request).await.unwrap();
        let mut open = response.into_body();

        let before = world.dials.get();
        leave.notify_waiters();
        let mut asked = 0;
        while world.dials.get() == before && asked < 500 {
            let seen = caller.ask(grpc("/e/U", "x")).await.unwrap();
            assert_eq!(seen.trailer("grpc-status"), Some("0"), "request {asked}");
            asked += 1;
        }
        assert_eq!(world.dials.get(), before + 1, "another connection between the agents");
        send.send(bytes::Bytes::from_static(b"still here")).await.unwrap();

        assert_eq!(open.frame().await.unwrap().unwrap().into_data().unwrap().as_ref(), b"still here");
        drop(send);
        assert_eq!(open.frame().await.unwrap().unwrap().into_trailers().unwrap()["grpc-status"], "0");
    });
}

#[test]
fn requests_go_on_while_agents_drain_their_connections() {
    on_one_core(async {
        // Each connection is left after 30 ms: requests meet dying ones all the time.
        let settings = Settings { max_age: Duration::from_millis(30), ..Settings::default() };
        let world = World::start_with(Protocol::Grpc, settings).await;
        let caller = world.caller().await;
        for turn in 0..100 {
            let seen = caller.ask(grpc("/e/U", "x")).await.unwrap();
            assert_eq!(seen.trailer("grpc-status"), Some("0"), "turn {turn}");
            // The pace of the requests: they span ten lives of a connection.
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        assert!(world.dials.get() > 4, "{} dials", world.dials.get());
    });
}

#[test]
fn a_caller_that_goes_away_is_recorded_and_its_stream_reset() {
    on_one_core(async {
        let world = World::start(Protocol::Grpc).await;
        let caller = world.caller().await;
        let (send, receive) = tokio::sync::mpsc::channel(1);
        let request = grpc("/e/S", "").map(|_| channel_body(receive));
        let response = caller.0.clone().send_request(request).await.unwrap();

        drop((response, send));

        eventually("both ends know", || world.records.borrow().len() == 2).await;
        assert_eq!(world.recorded(None)[0].end.ending, Ending::CallerGone);
        assert_eq!(world.source.connections(), 1, "the connection is not the stream's");
    });
}

#[test]
fn an_application_that_dies_in_the_middle_breaks_the_stream_and_nothing_else() {
    on_one_core(async {
        let world = World::start(Protocol::Grpc).await;
        let dying = TcpListener::bind("127.0.0.1:0").await.unwrap();
        world.application.set(dying.local_addr().unwrap());
        tokio::task::spawn_local(async move { drop(dying.accept().await.unwrap()) });
        let caller = world.caller().await;

        let seen = caller.ask(grpc("/e/U", "x")).await.unwrap();

        assert_eq!(seen.header("grpc-status"), Some("14"));
        world.application.set(application(Protocol::Grpc).await);
        assert_eq!(caller.ask(grpc("/e/U", "x")).await.unwrap().trailer("grpc-status"), Some("0"));
    });
}

#[test]
fn a_header_bomb_ends_at_the_first_agent() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        let caller = world.caller().await;
        let mut bomb = get("/x");
        for index in 0..1000 {
            let name = http::HeaderName::from_bytes(format!("x-{index}").as_bytes()).unwrap();
            bomb.headers_mut().insert(name, "0123456789".parse().unwrap());
        }
        let mut many = get("/x");
        for _ in 0..101 {
            many.headers_mut().append("x-a", "1".parse().unwrap());
        }

        let bombed = caller.ask(bomb).await;
        let many = caller.ask(many).await.unwrap();

        let status = bombed.map(|seen| seen.status);
        assert!(matches!(status, Err(_) | Ok(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)), "{status:?}");
        assert_eq!(many.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        assert_eq!(world.dials.get(), 0);
        assert_eq!(world.caller().await.ask(get("/x")).await.unwrap().status, StatusCode::OK);
    });
}

#[test]
fn more_streams_than_one_connection_takes_open_another_up_to_the_bound() {
    on_one_core(async {
        let settings =
            Settings { streams_per_connection: 2, connections_per_endpoint: 3, ..Settings::default() };
        let world = World::start_with(Protocol::Grpc, settings).await;
        let caller = world.caller().await;
        let open = Cell::new(Vec::new());
        for _ in 0..10 {
            let (send, receive) = tokio::sync::mpsc::channel(1);
            let request = grpc("/e/S", "").map(|_| channel_body(receive));
            let response = caller.0.clone().send_request(request).await.unwrap();
            let mut held = open.take();
            held.push((send, response));
            open.set(held);
        }
        assert_eq!(world.source.connections(), 3);
    });
}

#[test]
fn a_stream_that_is_cut_breaks_off_and_its_neighbour_goes_on() {
    on_one_core(async {
        let world = World::start(Protocol::Grpc).await;
        let caller = world.caller().await;
        let (send, receive) = tokio::sync::mpsc::channel(1);
        let request = grpc("/e/S", "").map(|_| channel_body(receive));
        let mut body = caller.0.clone().send_request(request).await.unwrap().into_body();
        send.send(bytes::Bytes::from_static(b"one")).await.unwrap();
        body.frame().await.unwrap().unwrap();

        // The second to begin was the destination's.
        world.cuts.borrow()[1].now();

        assert!(body.frame().await.unwrap().is_err(), "no end that looks like a whole answer");
        assert_eq!(caller.ask(grpc("/e/U", "x")).await.unwrap().trailer("grpc-status"), Some("0"));
        let at_destination = world.recorded(Some("spiffe://cluster.local/ns/shop/sa/web"));
        assert_eq!(at_destination[0].end.ending, Ending::Cut);
    });
}

#[test]
fn a_burst_that_fills_several_new_connections_is_served_whole() {
    on_one_core(async {
        let settings =
            Settings { streams_per_connection: 2, connections_per_endpoint: 4, ..Settings::default() };
        let world = World::start_with(Protocol::Grpc, settings).await;
        let caller = world.caller().await;
        let asked: Vec<_> = (0..20)
            .map(|_| {
                let caller = caller.clone();
                tokio::task::spawn_local(async move { caller.ask(grpc("/e/U", "x")).await.unwrap() })
            })
            .collect();
        for asked in asked {
            let seen = asked.await.unwrap();
            assert_eq!(seen.trailer("grpc-status"), Some("0"), "{:?}", seen.headers);
        }
    });
}

#[test]
fn an_answer_of_ours_to_head_has_no_body_and_passes_the_other_agent() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        world.apply(deny_path("/secret"));
        let mut request = get("/secret");
        *request.method_mut() = http::Method::HEAD;
        let seen = world.caller().await.ask(request).await.unwrap();
        assert_eq!((seen.status, seen.body.as_ref()), (StatusCode::FORBIDDEN, b"".as_ref()));
        assert_eq!(seen.header("content-length"), Some("19"));
    });
}

#[test]
fn answers_that_nobody_reads_hold_up_no_other_call() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        let text: &'static str = Box::leak("0123456789abcdef".repeat(1 << 16).into_boxed_str());
        let mut unread = Vec::new();
        for _ in 0..20 {
            let Caller(mut sender) = world.caller_with_window(1024).await;
            let request = Request::post("http://api.shop/big").body(body(text)).unwrap();
            unread.push(sender.send_request(request).await.unwrap());
            let request = Request::post("http://api.shop/small").body(body("x")).unwrap();
            let seen = tokio::time::timeout(Duration::from_secs(5), world.caller().await.ask(request)).await;
            let seen = seen.unwrap_or_else(|_| panic!("held up by {} unread answers", unread.len()));
            assert_eq!(seen.unwrap().body, "x");
        }
        assert_eq!(world.source.connections(), 1, "all of them share a connection");
    });
}

#[test]
fn a_connection_is_left_before_either_ends_certificate_is_over() {
    on_one_core(async {
        let world = World::start_for(Protocol::Grpc, Settings::default(), Duration::from_secs(3)).await;
        let caller = world.caller().await;
        // The certificate is not renewed here: what is asked until it ends goes over connections that are left early.
        let until = tokio::time::Instant::now() + Duration::from_millis(2_200);
        while tokio::time::Instant::now() < until {
            let seen = caller.ask(grpc("/e/U", "x")).await.unwrap();
            assert_eq!(seen.trailer("grpc-status"), Some("0"));
            // The pace of the requests: certificates of whole seconds cannot be shorter.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(world.late.get(), 0);
    });
}
