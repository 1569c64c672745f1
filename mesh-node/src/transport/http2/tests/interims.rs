//! Interim answers, over every pair of versions of HTTP.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, Response, StatusCode};
use mesh_common::http1::MAX_INTERIM;
use mesh_common::model::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::spawn_local;

use super::world::*;
use crate::transport::http2::RefusedUnseen;
use crate::transport::tunnel::Speaks;

pub(super) type Interim = (u16, Vec<(&'static str, String)>);

pub(super) fn hints(link: &str) -> Interim {
    (103, vec![("link", link.to_owned())])
}

/// An application of HTTP/2 that says this before each answer, which it gives once it may.
async fn application(interims: Vec<Interim>, may_answer: &Rc<Semaphore>) -> SocketAddr {
    ending(interims, may_answer, None).await
}

/// One that ends so instead of answering 200 `ok`, if that is given.
pub(super) async fn ending(
    interims: Vec<Interim>,
    may_answer: &Rc<Semaphore>,
    end: Option<Reason>,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (interims, may_answer) = (Rc::new(interims), may_answer.clone());
    spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (interims, may_answer) = (interims.clone(), may_answer.clone());
            spawn_local(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    tell(&mut respond, &interims);
                    let may_answer = may_answer.clone();
                    spawn_local(async move {
                        may_answer.acquire().await.unwrap().forget();
                        if let Some(reason) = end {
                            respond.send_reset(reason);
                        } else if let Ok(mut send) = respond.send_response(Response::new(()), false) {
                            let _ = send.send_data(Bytes::from_static(b"ok"), true);
                        }
                    });
                }
            });
        }
    });
    address
}

fn tell(respond: &mut SendResponse<Bytes>, interims: &[Interim]) {
    for (status, fields) in interims {
        let mut interim = Response::builder().status(*status);
        for (name, value) in fields {
            interim = interim.header(*name, value);
        }
        respond.send_informational(interim.body(()).unwrap()).unwrap();
    }
}

/// Always.
fn at_once() -> Rc<Semaphore> {
    Rc::new(Semaphore::new(1000))
}

/// What a caller of HTTP/2 is told before its answer, each of which `told` is shown as it comes; and the answer.
async fn asked(
    world: &Rc<World>,
    told: impl Fn(),
) -> (Vec<Response<()>>, Result<Response<RecvStream>, h2::Error>) {
    let (mut sender, connection) = h2::client::handshake(world.raw_caller().await).await.unwrap();
    spawn_local(async move {
        let _ = connection.await;
    });
    let request = Request::get("http://api.shop/x").body(()).unwrap();
    let (mut response, _) = sender.send_request(request, true).unwrap();
    let mut interims = Vec::new();
    while let Some(Ok(interim)) = poll_fn(|context| response.poll_informational(context)).await {
        interims.push(interim);
        told();
    }
    (interims, response.await)
}

fn fields(interim: &Response<()>) -> (u16, Vec<(&str, &str)>) {
    let fields = interim.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
    (interim.status().as_u16(), fields.collect())
}

async fn body(response: Response<RecvStream>) -> Bytes {
    response.into_body().data().await.unwrap().unwrap()
}

async fn world_of(protocol: Protocol, application: SocketAddr) -> Rc<World> {
    let world = World::start(protocol).await;
    world.application.set(application);
    world
}

#[test]
fn over_http_2_they_come_before_the_answer_is_there() {
    on_one_core(async {
        let may_answer = Rc::new(Semaphore::new(0));
        let mut sent = vec![(100, vec![]), hints("</a>"), (102, vec![("x", "1".to_owned())]), hints("</b>")];
        // None has a body.
        sent[3].1.push(("content-length", "2".to_owned()));
        let world = world_of(Protocol::Http2, application(sent, &may_answer).await).await;
        // The application answers when its caller has heard all of it.
        let heard = std::cell::Cell::new(0);
        let told = || {
            heard.set(heard.get() + 1);
            may_answer.add_permits(usize::from(heard.get() == 4));
        };
        let (interims, response) = asked(&world, told).await;
        let interims: Vec<_> = interims.iter().map(fields).collect();
        let expected = [
            (100, vec![]),
            (103, vec![("link", "</a>")]),
            (102, vec![("x", "1")]),
            (103, vec![("link", "</b>")]),
        ];
        assert_eq!(interims, expected);
        let response = response.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(body(response).await, "ok");
        let statuses: Vec<_> = world.records.borrow().iter().map(|record| record.status).collect();
        assert_eq!(statuses, [Some(StatusCode::OK); 2], "nobody takes them for the answer");
    });
}

/// An application of HTTP/1.1 that answers each request with these bytes.
async fn raw_application(answer: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            spawn_local(async move {
                let mut asked = Vec::new();
                while let Ok(byte) = stream.read_u8().await {
                    asked.push(byte);
                    if asked.ends_with(b"\r\n\r\n") {
                        asked.clear();
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                }
            });
        }
    });
    address
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn those_of_http_1_reach_callers_of_http_2_without_what_is_of_their_hop() {
    on_one_core(async {
        let interims = "HTTP/1.1 100 Continue\r\n\r\n\
                        HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nlink: </b>\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 1\r\n\r\n";
        let world = world_of(Protocol::Http1, raw_application(format!("{interims}{OK}")).await).await;
        // The connection is used again.
        for _ in 0..2 {
            let (interims, response) = asked(&world, || {}).await;
            let interims: Vec<_> = interims.iter().map(fields).collect();
            assert_eq!(interims, [(100, vec![]), (103, vec![("link", "</a>"), ("link", "</b>")])]);
            assert_eq!(body(response.unwrap()).await, "ok");
        }
    });
}

/// What a caller of HTTP/1.1 reads that asks so.
async fn read(world: &Rc<World>, asked: &str) -> String {
    let mut caller = world.raw_caller_that(Speaks::Http1).await;
    caller.write_all(asked.as_bytes()).await.unwrap();
    caller.shutdown().await.unwrap();
    let mut seen = String::new();
    caller.read_to_string(&mut seen).await.unwrap();
    seen
}

#[test]
fn those_of_http_2_reach_callers_of_http_1_1_before_each_answer() {
    on_one_core(async {
        let sent = vec![hints("</a>"), hints("</b>")];
        let world = world_of(Protocol::Http2, application(sent, &at_once()).await).await;
        let seen = read(&world, &"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3)).await;
        let interims = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </b>\r\n\r\nHTTP/1.1 200 OK\r\n";
        let parts: Vec<_> = seen.split(interims).collect();
        assert_eq!((parts.len(), parts[0]), (4, ""), "{seen}");
        assert!(
            parts[1..].iter().all(|part| part.contains("chunked") && part.contains("2\r\nok\r\n0\r\n\r\n")),
            "{seen}"
        );
    });
}

#[test]
fn a_caller_of_http_1_1_hears_them_while_it_waits() {
    on_one_core(async {
        let may_answer = Rc::new(Semaphore::new(0));
        let world = world_of(Protocol::Http2, application(vec![hints("</a>")], &may_answer).await).await;
        let mut caller = world.raw_caller_that(Speaks::Http1).await;
        for _ in 0..2 {
            caller.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"link: </a>\r\n\r\n") {
                seen.push(caller.read_u8().await.unwrap());
            }
            may_answer.add_permits(1);
            while !seen.ends_with(b"0\r\n\r\n") {
                seen.push(caller.read_u8().await.unwrap());
            }
        }
    });
}

#[test]
fn http_1_0_has_none() {
    on_one_core(async {
        let world = world_of(Protocol::Http2, application(vec![hints("</a>")], &at_once()).await).await;
        let seen = read(&world, "GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
        assert!(seen.starts_with("HTTP/1.0 200 OK\r\n") && !seen.contains("103"), "{seen}");
    });
}

#[test]
fn as_many_pass_as_over_http_1_and_no_more() {
    on_one_core(async {
        for (count, status) in [(MAX_INTERIM, 200), (MAX_INTERIM + 1, 502)] {
            let sent: Vec<_> = (0..count).map(|number| hints(&format!("</{number}>"))).collect();
            let http1: String =
                (0..count).map(|number| format!("HTTP/1.1 103 -\r\nLink: </{number}>\r\n\r\n")).collect();
            let http1 = raw_application(http1 + OK).await;
            for (protocol, application) in
                [(Protocol::Http2, application(sent, &at_once()).await), (Protocol::Http1, http1)]
            {
                let world = world_of(protocol, application).await;
                let (interims, response) = asked(&world, || {}).await;
                assert_eq!(response.unwrap().status(), status, "{protocol:?}");
                assert!(interims.len() <= MAX_INTERIM.into(), "{protocol:?} {}", interims.len());
                assert!(
                    status == 502 || interims.len() == usize::from(count),
                    "{protocol:?} {}",
                    interims.len()
                );
            }
        }
    });
}

#[test]
fn many_bytes_of_them_are_none_that_a_caller_would_wait_for() {
    on_one_core(async {
        let large = |count| (0..count).map(|_| hints(&"x".repeat(15 << 10))).collect();
        for (count, status) in [(4, 200), (5, 502)] {
            let world = world_of(Protocol::Http2, application(large(count), &at_once()).await).await;
            let (_, response) = asked(&world, || {}).await;
            assert_eq!(response.unwrap().status(), status, "{count}");
        }
    });
}

#[test]
fn a_change_of_protocol_is_no_interim_answer_of_http_2() {
    on_one_core(async {
        let switch = vec![(101, vec![("x", "1".to_owned())])];
        let world = world_of(Protocol::Http2, application(switch, &at_once()).await).await;
        let (interims, response) = asked(&world, || {}).await;
        let response = response.unwrap();
        assert_eq!((response.status(), interims.len()), (StatusCode::BAD_GATEWAY, 0));
        assert_eq!(response.headers()["x-nodemesh-reason"], "no_valid_switch");
    });
}

#[test]
fn what_was_told_of_is_not_asked_again() {
    on_one_core(async {
        let may_answer = Rc::new(Semaphore::new(0));
        let address = ending(vec![hints("</a>")], &may_answer, Some(Reason::REFUSED_STREAM)).await;
        let world = world_of(Protocol::Http2, address).await;
        let (_, response) = asked(&world, || may_answer.add_permits(1)).await;
        assert_eq!(response.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
        let was_sent_again = world.refused.borrow().contains(&RefusedUnseen::SentAgain);
        assert!(!was_sent_again, "{:?}", world.refused.borrow());
    });
}
