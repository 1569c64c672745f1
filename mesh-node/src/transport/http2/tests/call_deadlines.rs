//! `grpc-timeout`: a call is over when its caller stops to wait for it.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use mesh_common::http1::Refusal;
use mesh_common::model::Protocol;
use tokio::sync::mpsc::channel;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::slow::{Answers, Takes, reads, takes_nothing};
use super::virtual_clock::{SECOND, SOON, begin, by_the_clock, ends_at, never_idle, pass, world_with};
use super::world::*;
use crate::transport::http2::{Ending, Settings};

const MINUTE: Duration = Duration::from_secs(60);

fn call(within: &str) -> Request<()> {
    let mut request = grpc("/e/S", "").map(drop);
    request.headers_mut().append("grpc-timeout", within.parse().unwrap());
    request
}

/// What `grpc-status` both agents recorded.
async fn recorded(world: &Rc<World>) -> Vec<(Option<u16>, Ending)> {
    eventually("both records", || world.records.borrow().len() == 2).await;
    let at = |caller| world.recorded(caller)[0].end.clone();
    let ends = [at(None), at(Some("spiffe://cluster.local/ns/shop/sa/web"))];
    ends.map(|end| (end.grpc_status, end.ending)).to_vec()
}

fn is_told(seen: &Seen) -> bool {
    seen.status == StatusCode::OK
        && seen.header("grpc-status") == Some("4")
        && seen.header("grpc-message") == Some("deadline exceeded")
        && seen.header("x-nodemesh-reason") == Some("deadline_exceeded")
}

#[test]
fn a_call_is_over_when_its_caller_stops_to_wait() {
    by_the_clock(async {
        let world = world_with(Protocol::Grpc, Settings::default()).await;
        let (application, mut told) = reads(Protocol::Grpc, Answers::AtTheEnd).await;
        world.application.set(application);
        let (_send, asked) = begin(&world, call("1M")).await;
        let seen = ends_at(MINUTE, asked).await;
        assert!(is_told(&seen), "{seen:?}");
        let whole = timeout(20 * SECOND, told.recv()).await;
        assert_eq!(whole.expect("the application is told"), Some(false));
        let ends = recorded(&world).await;
        assert_eq!(ends[0], (Some(4), Ending::OwnAnswer));
        // The called side ends it too, or hears of the end: both by the same clock here.
        assert_eq!(ends[1].0, Some(4), "{ends:?}");
    });
}

#[test]
fn a_response_that_has_begun_ends_with_the_status() {
    by_the_clock(async {
        let world = world_with(Protocol::Grpc, Settings::default()).await;
        let (send, asked) = begin(&world, call("60S")).await;
        send.send(Bytes::from_static(b"message")).await.unwrap();
        let seen = ends_at(MINUTE, asked).await;
        assert_eq!((seen.status, seen.body.as_ref()), (StatusCode::OK, &b"message"[..]));
        assert_eq!(seen.trailer("grpc-status"), Some("4"), "{seen:?}");
        let ends = recorded(&world).await;
        assert_eq!(ends[0], (Some(4), Ending::DeadlineExceeded));
        assert_eq!(ends[1].0, Some(4), "{ends:?}");
    });
}

#[test]
fn what_comes_of_a_call_moves_its_deadline_no_further() {
    by_the_clock(async {
        let world = world_with(Protocol::Grpc, Settings::default()).await;
        let (send, asked) = begin(&world, call("60000m")).await;
        pass(MINUTE / 2).await;
        send.send(Bytes::from_static(b"message")).await.unwrap();
        let seen = ends_at(MINUTE / 2 - SOON, asked).await;
        assert_eq!(seen.trailer("grpc-status"), Some("4"), "{seen:?}");
    });
}

#[test]
fn a_call_that_nobody_takes_is_over_in_time_nevertheless() {
    by_the_clock(async {
        let world = world_with(Protocol::Grpc, Settings::default()).await;
        world.application.set(takes_nothing(Takes::NothingAndSaysNothing).await);
        let (send, asked) = begin(&world, call("1M")).await;
        send.send(Bytes::from(vec![b'x'; 500 << 10])).await.unwrap();
        assert!(is_told(&ends_at(MINUTE, asked).await));
    });
}

#[test]
fn a_call_that_is_answered_in_time_ends_as_its_application_says() {
    by_the_clock(async {
        let world = world_with(Protocol::Grpc, never_idle()).await;
        for within in ["3H", "99999999H"] {
            world.cuts.borrow_mut().clear();
            let (send, asked) = begin(&world, call(within)).await;
            pass(2 * 60 * MINUTE).await;
            drop(send);
            let seen = timeout(20 * SECOND, asked).await.expect("it is over").unwrap();
            assert_eq!(seen.trailer("grpc-status"), Some("0"), "{within}: {seen:?}");
        }
    });
}

#[test]
fn a_caller_that_goes_about_its_deadline_goes_for_that() {
    for (left, ending) in
        [(Duration::from_millis(20), Ending::DeadlineExceeded), (2 * SECOND, Ending::CallerGone)]
    {
        by_the_clock(async {
            let world = world_with(Protocol::Grpc, Settings::default()).await;
            let (application, _) = reads(Protocol::Grpc, Answers::AtTheEnd).await;
            world.application.set(application);
            let (_send, asked) = begin(&world, call("1M")).await;
            // What `pass` waits for and some: the moment is near.
            pass(MINUTE - left - SOON).await;
            asked.abort();
            let told = recorded(&world).await[0];
            match ending {
                Ending::CallerGone => assert_eq!(told, (None, ending)),
                // Where this thread was held up, the call was ended before its caller had gone.
                _ => assert!(
                    matches!(told, (Some(4), Ending::DeadlineExceeded | Ending::OwnAnswer)),
                    "{told:?}"
                ),
            }
        });
    }
}

#[test]
fn a_time_that_cannot_be_read_is_refused() {
    on_one_core(async {
        let world = World::start(Protocol::Grpc).await;
        for values in [&["1s"][..], &["100000000S"], &[""], &["1S", "2S"]] {
            let mut request = grpc("/e/U", "x");
            for value in values {
                request.headers_mut().append("grpc-timeout", value.parse().unwrap());
            }
            let seen = world.caller().await.ask(request).await.unwrap();
            assert_eq!(seen.header("grpc-status"), Some("13"), "{values:?}: {seen:?}");
            assert_eq!(seen.header("x-nodemesh-reason"), Some("grpc_timeout"));
        }
        assert_eq!(*world.malformed.borrow(), [Refusal::GrpcTimeout; 4]);
        assert_eq!(world.dials.get(), 0, "nothing of it went anywhere");
    });
}

#[test]
fn what_is_no_call_may_say_what_it_likes() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        let mut request = get("/x");
        request.headers_mut().append("grpc-timeout", "0n".parse().unwrap());
        request.headers_mut().append("grpc-timeout", "soon".parse().unwrap());
        assert_eq!(world.caller().await.ask(request).await.unwrap().status, StatusCode::OK);
    });
}

#[test]
fn for_real_it_takes_as_long_as_it_says() {
    for (within, least) in [("300m", 300), ("0n", 0)] {
        on_one_core(async {
            let world = World::start(Protocol::Grpc).await;
            let (application, _) = reads(Protocol::Grpc, Answers::AtTheEnd).await;
            world.application.set(application);
            let (_send, receive) = channel(1);
            let request = call(within).map(|()| channel_body(receive));
            let caller = world.caller().await;
            let began = Instant::now();
            let asked = spawn_local(async move { caller.ask(request).await.unwrap() });
            let seen = timeout(20 * SECOND, asked).await.expect("it is over").unwrap();
            assert!(is_told(&seen), "{within}: {seen:?}");
            assert!(began.elapsed() >= Duration::from_millis(least), "{:?}", began.elapsed());
        });
    }
}

#[test]
fn trailers_of_a_stream_that_goes_on_stay_the_applications() {
    on_one_core(async {
        let world = World::start(Protocol::Grpc).await;
        let (send, receive) = channel(1);
        let request = call("20S").map(|()| channel_body(receive));
        let response = world.caller().await.0.send_request(request).await.unwrap();
        send.send(Bytes::from_static(b"one")).await.unwrap();
        drop(send);
        let whole = response.into_body().collect().await.unwrap();
        assert_eq!(whole.trailers().unwrap()["grpc-status"], "0");
    });
}
