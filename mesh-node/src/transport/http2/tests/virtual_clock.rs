//! The deadlines of requests as they are by default, by a clock that the test moves: nothing ends a second before its time,
//! everything does a second after it. Between its jumps the clock is the real one, by which sockets go.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use mesh_common::model::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};

use super::attacks::{END_HEADERS, END_STREAM, HEADERS, frame, head, preface};
use super::slow::{Answers, Takes, reads, takes_nothing};
use super::untaken::gives;
use super::world::*;
use crate::transport::http2::{Ending, Settings};
use crate::transport::patience::MOST;
use crate::transport::tunnel::tests::world::full;

pub(super) const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// In which what is due by now happens, and some more.
pub(super) const SOON: Duration = Duration::from_millis(100);

/// Runs a test whose clock may jump by days.
pub(super) fn by_the_clock(test: impl Future<Output = ()>) {
    on_one_core_for(30 * DAY, test);
}

/// Lets so much time pass at once.
pub(super) async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
    // What is due by now happens.
    sleep(SOON).await;
}

/// What is over a second after its deadline, and not a second before it.
pub(super) async fn ends_at<T>(deadline: Duration, what: JoinHandle<T>) -> T {
    pass(deadline - SECOND).await;
    assert!(!what.is_finished(), "it ended too early");
    pass(2 * SECOND).await;
    timeout(20 * SECOND, what).await.expect("it is over").unwrap()
}

pub(super) async fn world_with(protocol: Protocol, settings: Settings) -> Rc<World> {
    World::start_for(protocol, settings, 30 * DAY).await
}

/// Where exchanges of which nothing moves are not ended for that.
pub(super) fn never_idle() -> Settings {
    Settings { stream_idle_timeout: 10 * DAY, ..Settings::default() }
}

/// Begins a request, at both agents, whose body does not end.
pub(super) async fn begin(world: &Rc<World>, request: Request<()>) -> (Sender<Bytes>, JoinHandle<Seen>) {
    let (send, receive) = channel(1);
    let request = request.map(|()| channel_body(receive));
    let caller = world.caller().await;
    let asked = spawn_local(async move { caller.ask(request).await.unwrap() });
    eventually("both agents have it", || world.cuts.borrow().len() == 2).await;
    (send, asked)
}

fn post() -> Request<()> {
    Request::post("http://api.shop/x").body(()).unwrap()
}

/// Whose application answers at the end of a body.
async fn patient_world(protocol: Protocol, settings: Settings) -> Rc<World> {
    let world = world_with(protocol, settings).await;
    let (application, _) = reads(protocol, Answers::AtTheEnd).await;
    world.application.set(application);
    world
}

#[test]
fn a_request_has_an_hour_as_a_whole() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        by_the_clock(async {
            let settings = Settings { body_timeout: DAY, ..Settings::default() };
            let world = patient_world(protocol, settings.clone()).await;
            let (_send, asked) = begin(&world, post()).await;
            let seen = ends_at(settings.request_timeout, asked).await;
            assert_eq!(seen.status, StatusCode::REQUEST_TIMEOUT);
            assert_eq!(seen.header("x-nodemesh-reason"), Some("request_timeout"));
            eventually("both records", || world.records.borrow().len() == 2).await;
            assert_eq!(world.recorded(None)[0].end.ending, Ending::OwnAnswer);
        });
    }
}

#[test]
fn what_comes_of_a_request_moves_its_deadline_no_further() {
    by_the_clock(async {
        let settings = Settings { body_timeout: DAY, ..Settings::default() };
        let world = patient_world(Protocol::Http2, settings.clone()).await;
        let (send, asked) = begin(&world, post()).await;
        pass(settings.request_timeout / 2).await;
        send.send(Bytes::from_static(&[b'x'; 1000])).await.unwrap();
        let seen = ends_at(settings.request_timeout / 2, asked).await;
        assert_eq!(seen.status, StatusCode::REQUEST_TIMEOUT);
    });
}

#[test]
fn a_body_has_a_minute_for_the_least_of_it() {
    by_the_clock(async {
        let world = patient_world(Protocol::Http2, Settings::default()).await;
        let (_send, asked) = begin(&world, post()).await;
        let seen = ends_at(Settings::default().body_timeout, asked).await;
        assert_eq!(seen.status, StatusCode::REQUEST_TIMEOUT);
    });
}

#[test]
fn who_sent_much_of_a_body_has_a_minute_for_the_next_of_it() {
    by_the_clock(async {
        let world = patient_world(Protocol::Http2, Settings::default()).await;
        let (send, asked) = begin(&world, post()).await;
        // The second is taken when the first has gone, the third when there is room at the application.
        for _ in 0..3 {
            send.send(Bytes::from(vec![b'x'; 100 << 10])).await.unwrap();
        }
        sleep(SOON).await;
        let seen = ends_at(Settings::default().body_timeout, asked).await;
        assert_eq!(seen.status, StatusCode::REQUEST_TIMEOUT);
    });
}

#[test]
fn who_stands_still_has_a_minute_and_five_of_them_after_much_was_taken() {
    let minute = Settings::default().response_timeout;
    for (window, deadline) in [(0, minute), (200 << 10, MOST * minute)] {
        by_the_clock(async {
            // Where nobody is asked whether it is there, which an answer in no time would be wanted to.
            let world =
                world_with(Protocol::Http2, Settings { ping_interval: DAY, ..Settings::default() }).await;
            world.application.set(gives(1 << 20).await);
            let caller = world.caller_with_window(window).await;
            // Nobody reads what came of it.
            let _answer = caller.0.clone().send_request(get("/x")).await.unwrap();
            sleep(SOON).await;
            // In steps, for each look.
            let step = Duration::from_secs(10);
            let pass_up_to = async |time: Duration| {
                for _ in 0..time.as_secs() / step.as_secs() {
                    pass(step).await;
                }
            };
            pass_up_to(deadline - step).await;
            assert_eq!(world.recorded(None), [], "it ended too early");
            // It is looked at twice a minute: when it began to stand still, and when its time is over.
            pass_up_to(minute + 2 * step).await;
            eventually("its record", || world.recorded(None).len() == 1).await;
            assert_eq!(world.recorded(None)[0].end.ending, Ending::NotTaken);
        });
    }
}

#[test]
fn a_request_that_nobody_takes_is_answered_in_time_nevertheless() {
    by_the_clock(async {
        let settings = Settings { response_timeout: DAY, ..Settings::default() };
        let world = world_with(Protocol::Http2, settings).await;
        world.application.set(takes_nothing(Takes::NothingAndSaysNothing).await);
        let (send, asked) = begin(&world, post()).await;
        send.send(Bytes::from(vec![b'x'; 500 << 10])).await.unwrap();
        // It comes to stand at both agents, more than their windows take.
        sleep(SOON).await;
        let seen = ends_at(Settings::default().request_timeout, asked).await;
        assert_eq!(seen.status, StatusCode::REQUEST_TIMEOUT);
    });
}

#[test]
fn what_follows_the_beginning_of_the_response_has_no_such_deadline() {
    by_the_clock(async {
        let world = world_with(Protocol::Http2, never_idle()).await;
        let (send, receive) = channel(1);
        let request = post().map(|()| channel_body(receive));
        let mut echoed = world.caller().await.0.send_request(request).await.unwrap().into_body();
        pass(3 * Settings::default().request_timeout).await;
        send.send(Bytes::from_static(b"late")).await.unwrap();
        let frame = timeout(20 * SECOND, echoed.frame()).await.expect("it comes back");
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap().as_ref(), b"late");
    });
}

#[test]
fn a_call_has_no_such_deadline() {
    by_the_clock(async {
        let world = patient_world(Protocol::Grpc, never_idle()).await;
        let (send, asked) = begin(&world, grpc("/e/S", "").map(drop)).await;
        pass(3 * Settings::default().request_timeout).await;
        drop(send);
        assert_eq!(timeout(20 * SECOND, asked).await.expect("it is over").unwrap().status, StatusCode::OK);
    });
}

#[test]
fn a_connection_without_requests_has_five_minutes() {
    by_the_clock(async {
        let world = world_with(Protocol::Grpc, Settings::default()).await;
        let mut silent = world.raw_caller().await;
        let closed = spawn_local(async move { silent.read_to_end(&mut Vec::new()).await });
        // The agent has taken the connection, and its clock runs.
        sleep(SOON).await;
        let Settings { idle_timeout, handshake_timeout, .. } = Settings::default();
        pass(idle_timeout - SECOND).await;
        assert!(!closed.is_finished(), "it ended too early");
        // It is told to go, and has as long for that as for a handshake.
        pass(2 * SECOND).await;
        pass(handshake_timeout).await;
        let _ = timeout(20 * SECOND, closed).await.expect("it is closed").unwrap();
    });
}

#[test]
fn an_application_that_does_not_accept_has_five_seconds() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        by_the_clock(async {
            let world = world_with(protocol, Settings::default()).await;
            let (address, _held) = full();
            world.application.set(address);
            let (_send, asked) = begin(&world, post()).await;
            let seen = ends_at(Settings::default().connect_timeout, asked).await;
            assert_eq!(seen.status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(seen.header("x-nodemesh-reason"), Some("connect_timeout"));
        });
    }
}

#[test]
fn a_handshake_has_ten_seconds() {
    by_the_clock(async {
        let world = world_with(Protocol::Grpc, Settings::default()).await;
        let mut mute = TcpStream::connect(world.agent).await.unwrap();
        let closed = spawn_local(async move { mute.read_to_end(&mut Vec::new()).await });
        let begun = || world.handshakes.counters().pending_handshakes.read() == 1;
        eventually("it to begin", begun).await;
        let _ = ends_at(Settings::default().handshake_timeout, closed).await;
        assert_eq!(*world.ended.borrow(), ["handshake_timeout"]);
    });
}

/// Beside a request that goes on, so that its connection is no idle one; and something always comes, so that nobody asks with a
/// PING, which it could not answer.
#[test]
fn a_head_that_drips_has_half_a_minute() {
    by_the_clock(async {
        let world = patient_world(Protocol::Http2, never_idle()).await;
        let mut caller = world.raw_caller().await;
        let goes_on = frame(HEADERS, END_HEADERS, 1, &head());
        let drips = frame(HEADERS, END_HEADERS | END_STREAM, 3, &head());
        let (begins, drops) = drips.split_at(10);
        caller.write_all(&[preface(), goes_on, begins.to_vec()].concat()).await.unwrap();
        eventually("both agents have the request beside it", || world.cuts.borrow().len() == 2).await;
        for drop in drops[..7].chunks(1) {
            pass(4 * SECOND).await;
            caller.write_all(drop).await.unwrap();
        }
        assert!(world.served.borrow().is_empty(), "it ended too early");
        pass(3 * SECOND).await;
        eventually("its connection has ended", || *world.served.borrow() == [Some(false)]).await;
    });
}
