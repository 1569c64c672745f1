//! Callers of HTTP/1.1 and applications of HTTP/2.

use std::rc::Rc;

use mesh_common::http1::Refusal;
use mesh_common::model::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::conductor::DECISION;
use super::world::*;
use crate::transport::tunnel::Speaks;

/// Sends this and half-closes: all that comes back.
async fn said(world: &Rc<World>, sent: &[u8]) -> String {
    let mut caller = world.raw_caller_that(Speaks::Http1).await;
    caller.write_all(sent).await.unwrap();
    caller.shutdown().await.unwrap();
    rest(&mut caller).await
}

async fn rest(caller: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    caller.read_to_end(&mut seen).await.unwrap();
    seen.escape_ascii().to_string()
}

/// Reads until it ends with this.
async fn until(caller: &mut TcpStream, end: &str) -> String {
    let mut seen = String::new();
    while !seen.ends_with(end) {
        let byte = caller.read_u8().await.unwrap_or_else(|error| panic!("{error}: {seen}"));
        seen.extend(byte.escape_ascii().map(char::from));
    }
    seen
}

fn check(sent: &'static [u8], look: impl FnOnce(&str, &World)) {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        let seen = said(&world, sent).await;
        look(&seen, &world);
    });
}

#[test]
fn a_request_over_http_1_says_the_same_over_http_2() {
    let sent = b"POST http://API.shop/./x?q=1 HTTP/1.1\r\nHost: other\r\nX: 2\r\nConnection: x-hop\r\nX-Hop: 1\r\nTE: gzip\r\n\
                 Content-Length: 4\r\n\r\ntext";
    check(sent, |seen, world| {
        assert!(seen.starts_with(r"HTTP/1.1 200 OK\r\n"), "{seen}");
        assert!(seen.contains(r"x-seen-version: HTTP/2.0\r\n"), "{seen}");
        assert!(seen.contains(r"x-seen-uri: http://api.shop/x?q=1\r\n"), "{seen}");
        assert!(seen.contains(r"x-seen-fields: content-length=4|x=2\r\n"), "{seen}");
        assert!(seen.ends_with(r"content-length: 4\r\n\r\ntext"), "{seen}");
        assert_eq!(world.records.borrow().len(), 2);
    });
}

#[test]
fn chunks_and_trailers_pass_both_ways() {
    // The application of these tests answers with trailers who says that he takes them, which is a matter of each hop.
    let sent = b"PUT /x HTTP/1.1\r\nHost: api.shop\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n\
                 3\r\nabc\r\n1;y\r\nd\r\n0\r\nX-Sum: 7\r\nContent-Length: 9\r\n\r\n";
    check(sent, |seen, world| {
        assert!(seen.contains(r"\r\ntransfer-encoding: chunked\r\n"), "{seen}");
        assert!(seen.contains(r"\r\n\r\n"), "{seen}");
        assert!(seen.ends_with(r"\r\n0\r\nx-sum: 7\r\n\r\n"), "{seen}");
        let bytes: Vec<u64> = world.records.borrow().iter().map(|record| record.end.request_bytes).collect();
        assert_eq!(bytes, [4, 4]);
    });
}

#[test]
fn requests_that_come_together_are_answered_one_after_the_other() {
    let sent = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nokHEAD /3 HTTP/1.1\r\n\
                 Host: a\r\n\r\nGET /4 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /5 HTTP/1.1\r\nHost: a\r\n\r\n";
    check(sent, |seen, _| {
        assert_eq!(seen.matches("HTTP/1.1 200 OK").count(), 4, "{seen}");
        let places: Vec<_> = (1..=5).map(|number| seen.find(&format!("http://a/{number}"))).collect();
        assert!(places[..4].is_sorted() && places[..4].iter().all(Option::is_some), "{seen}");
        assert_eq!(places[4], None, "{seen}");
    });
}

#[test]
fn http_1_0_is_answered_as_it_understands() {
    let world = |sent, look: fn(&str)| check(sent, |seen, _| look(seen));
    world(b"POST /x HTTP/1.0\r\nContent-Length: 2\r\n\r\nok", |seen| {
        assert!(!seen.contains("chunked") && seen.ends_with(r"\r\n\r\nok"), "{seen}");
        assert!(seen.contains("http://10.96.0.10/x"), "{seen}");
    });
}

#[test]
fn who_waits_for_100_is_told_to_go_on() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        let mut caller = world.raw_caller_that(Speaks::Http1).await;
        let head = b"POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
        caller.write_all(head).await.unwrap();
        assert_eq!(until(&mut caller, r"\r\n\r\n").await, r"HTTP/1.1 100 Continue\r\n\r\n");
        caller.write_all(b"ok").await.unwrap();
        let seen = until(&mut caller, r"\r\n\r\nok").await;
        assert!(seen.contains("x-seen-fields: content-length=2"), "{seen}");
    });
}

#[test]
fn what_cannot_be_read_is_answered_after_what_came_before_it() {
    let bad: [(&'static [u8], u16, Refusal); 6] = [
        (b"GET /2 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, Refusal::HostRepeated),
        (b"GET /2 HTTP/1.1\nHost: a\n\n", 400, Refusal::BareLineFeed),
        (b"GET /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, Refusal::TransferCoding),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 501, Refusal::Connect),
        (
            b"GET /2 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            501,
            Refusal::Untranslated,
        ),
        (b"GET /2 HTTP/2.0\r\nHost: a\r\n\r\n", 505, Refusal::Version),
    ];
    for (bad, status, refusal) in bad {
        on_one_core(async {
            let world = World::start(Protocol::Http2).await;
            let good = &b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"[..];
            for (before, answers) in [(&b""[..], 0), (good, 1)] {
                let seen = said(&world, &[before, bad].concat()).await;
                assert_eq!(seen.matches("HTTP/1.1 200 OK").count(), answers, "{seen}");
                let last = seen.rfind("HTTP/1.1 ").unwrap();
                assert!(seen[last..].starts_with(&format!("HTTP/1.1 {status} ")), "{seen}");
                assert!(seen[last..].contains(&format!("x-nodemesh-decision-id: {DECISION}")), "{seen}");
                assert_eq!(world.malformed.borrow_mut().pop(), Some(refusal), "{seen}");
            }
        });
    }
}

#[test]
fn what_is_no_http_at_all_gets_no_answer_of_it() {
    check(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", |seen, world| {
        assert_eq!(seen, "");
        assert_eq!(world.malformed.borrow().len(), 1);
        assert_eq!(world.dials.get(), 0);
    });
}

#[test]
fn a_body_that_cannot_be_read_ends_its_exchange() {
    let sent = b"POST /e/Collect HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nxyz\r\n";
    check(sent, |seen, _| {
        assert!(seen.starts_with("HTTP/1.1 400 "), "{seen}");
        assert!(seen.contains("x-nodemesh-reason: http1_chunk_size"), "{seen}");
    });
}
