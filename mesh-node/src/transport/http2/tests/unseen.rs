//! Requests that the other side says, or cannot but have, it never looked at.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use http::{Request, StatusCode};
use mesh_common::model::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::world::*;
use crate::transport::http2::{Ending, RefusedUnseen, Settings};

/// An application that refuses so many requests, once their bodies are there, and echoes what comes after.
struct Refusing {
    address: SocketAddr,
    /// Requests of each connection.
    asked: Rc<std::cell::RefCell<Vec<usize>>>,
}

async fn refuses(count: usize) -> Refusing {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (left, asked) = (Rc::new(Cell::new(count)), Rc::<std::cell::RefCell<Vec<usize>>>::default());
    let connections = asked.clone();
    tokio::task::spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let index = connections.borrow().len();
            connections.borrow_mut().push(0);
            tokio::task::spawn_local(answer(stream, left.clone(), connections.clone(), index));
        }
    });
    Refusing { address, asked }
}

async fn answer(
    stream: tokio::net::TcpStream,
    left: Rc<Cell<usize>>,
    asked: Rc<std::cell::RefCell<Vec<usize>>>,
    index: usize,
) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        asked.borrow_mut()[index] += 1;
        let refuses = left.get() > 0;
        left.set(left.get().saturating_sub(1));
        tokio::task::spawn_local(async move {
            let mut body = request.into_body();
            let mut said = Vec::new();
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
                said.extend(data);
            }
            if refuses {
                return respond.send_reset(h2::Reason::REFUSED_STREAM);
            }
            let mut send = respond.send_response(http::Response::new(()), false).unwrap();
            send.send_data(said.into(), true).unwrap();
        });
    }
}

#[test]
fn a_request_that_was_refused_unseen_is_sent_again_whole() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        world.application.set(refuses(1).await.address);
        let request = Request::post("http://api.shop/x").body(body("all of it")).unwrap();
        let seen = world.caller().await.ask(request).await.unwrap();
        assert_eq!((seen.status, seen.body.as_ref()), (StatusCode::OK, b"all of it".as_ref()));
        let recorded = &world.recorded(None)[0].end;
        assert_eq!((recorded.request_bytes, recorded.ending), (9, Ending::Complete), "counted once");
    });
}

#[test]
fn a_refused_request_of_which_too_much_was_sent_fails() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        world.application.set(refuses(1).await.address);
        let text: &'static str = Box::leak("x".repeat(20_000).into_boxed_str());
        let request = Request::post("http://api.shop/x").body(body(text)).unwrap();
        let seen = world.caller().await.ask(request).await.unwrap();
        assert_eq!(seen.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(seen.header("x-nodemesh-reason"), Some("upstream_broke"));
        assert_eq!(*world.refused.borrow(), [RefusedUnseen::TooLarge]);
    });
}

#[test]
fn a_request_after_the_last_that_goaway_names_is_sent_again() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let whole = world.application.replace(listener.local_addr().unwrap());
        let (going, next) = (world.clone(), whole);
        tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            going.application.set(next);
            let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
            stream.write_all(&settings).await.unwrap();
            let mut said = Vec::new();
            while !said.windows(9).any(|text| text == b"all of it") {
                assert!(stream.read_buf(&mut said).await.unwrap() > 0);
            }
            // GOAWAY (RFC 9113 section 6.8): no stream was looked at, no error.
            let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            stream.write_all(&goaway).await.unwrap();
        });
        let request = Request::post("http://api.shop/x").body(body("all of it")).unwrap();
        let seen = world.caller().await.ask(request).await.unwrap();
        assert_eq!((seen.status, seen.body.as_ref()), (StatusCode::OK, b"all of it".as_ref()));
    });
}

#[test]
fn a_connection_that_refused_a_request_is_not_given_it_again() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        let application = refuses(2).await;
        world.application.set(application.address);
        assert_eq!(world.caller().await.ask(get("/x")).await.unwrap().status, StatusCode::OK);
        assert_eq!(*application.asked.borrow(), [1, 1, 1]);
        assert_eq!(*world.refused.borrow(), [RefusedUnseen::SentAgain; 2]);
    });
}

#[test]
fn one_that_refuses_everything_is_not_asked_three_times_as_much() {
    on_one_core(async {
        let world = World::start_with(Protocol::Http2, Settings { resends: 4, ..Settings::default() }).await;
        let application = refuses(usize::MAX).await;
        world.application.set(application.address);
        let caller = world.caller().await;
        for _ in 0..50 {
            assert_eq!(caller.ask(get("/x")).await.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
        }
        let asked: usize = application.asked.borrow().iter().sum();
        assert!((54..=64).contains(&asked), "{asked} for 50");
        let refused = world.refused.borrow();
        assert_eq!(refused.len(), asked, "each refusal is told");
        let sent_again = refused.iter().filter(|became| **became == RefusedUnseen::SentAgain).count();
        assert_eq!(sent_again, asked - 50);
        assert!(refused.contains(&RefusedUnseen::OverBudget), "what was not sent for want of budget is told");
    });
}

#[test]
fn the_last_refusal_of_a_request_is_told_too() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        world.application.set(refuses(usize::MAX).await.address);
        let seen = world.caller().await.ask(get("/x")).await.unwrap();
        assert_eq!(seen.status, StatusCode::SERVICE_UNAVAILABLE);
        let [first, second, third] = world.refused.borrow()[..] else { panic!("three refusals") };
        assert_eq!([first, second], [RefusedUnseen::SentAgain; 2]);
        assert_eq!(third, RefusedUnseen::TooOften);
    });
}

/// An application that takes one request at a time, and says when it has the first, and goes when it is told to, and the next
/// connection is served as it should be.
async fn goes_while_one_waits(world: Rc<World>) -> (mpsc::Receiver<()>, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let next = world.application.replace(listener.local_addr().unwrap());
    let ((tell, told), (go, mut hear)) = (mpsc::channel(1), mpsc::channel(1));
    tokio::task::spawn_local(async move {
        let (stream, _) = listener.accept().await.unwrap();
        world.application.set(next);
        let mut builder = h2::server::Builder::new();
        let mut connection =
            builder.max_concurrent_streams(1).handshake::<_, bytes::Bytes>(stream).await.unwrap();
        let _held = connection.accept().await.unwrap().unwrap();
        tell.send(()).await.unwrap();
        loop {
            tokio::select! {
                more = connection.accept() => match more {
                    Some(more) => assert!(more.is_err(), "one at a time"),
                    None => return,
                },
                Some(()) = hear.recv() => connection.graceful_shutdown(),
            }
        }
    });
    (told, go)
}

#[test]
fn a_request_that_waits_for_its_stream_when_the_connection_goes_is_sent_elsewhere() {
    on_one_core(async {
        let world = World::start(Protocol::Grpc).await;
        let (mut has_one, go) = goes_while_one_waits(world.clone()).await;
        let caller = world.caller().await;
        let ask = |request: Request<TestBody>| {
            let caller = caller.clone();
            tokio::task::spawn_local(async move { caller.ask(request).await })
        };
        let held = ask(grpc("/e/U", "held"));
        has_one.recv().await.unwrap();
        let (send, receive) = mpsc::channel(1);
        let waits = [ask(get("/x")), ask(grpc("/e/U", "").map(|_| channel_body(receive)))];
        eventually("the others wait", || world.cuts.borrow().len() == 6).await;
        // What is handed to hyper now is in its hands after its tasks had their turn.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        go.send(()).await.unwrap();
        let [one, other] = waits;
        assert_eq!(one.await.unwrap().unwrap().status, StatusCode::OK);
        drop(send);
        assert_eq!(other.await.unwrap().unwrap().trailer("grpc-status"), Some("0"));
        held.abort();
    });
}
