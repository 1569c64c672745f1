//! What RELIABILITY 2.3 sends: frames by hand, from a caller that breaks the rules or plays them against us. The
//! connection ends or is held to its bounds, and another caller of the same pod is served meanwhile.

use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use mesh_common::model::Protocol;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::world::*;
use crate::identity::Alpn;
use crate::transport::http2::Settings;
use crate::transport::http2::runtime::OnThisCore;

const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// RFC 9113 section 7.
const ENHANCE_YOUR_CALM: u32 = 11;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// GET http://api.shop/ with the static table (RFC 7541 appendix A).
pub(super) fn head() -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x84, 0x01, 8];
    block.extend(b"api.shop");
    block
}

pub(super) fn preface() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat()
}

/// Stream ids of a client.
fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|index| index * 2 + 1)
}

/// Sends `bytes` while it reads; the error code of GOAWAY when the connection is closed, `None` if it is not closed
/// within two seconds after the last byte.
async fn attack(stream: TcpStream, bytes: Vec<u8>) -> Option<u32> {
    let (mut read, mut write) = stream.into_split();
    let sent = tokio::task::spawn_local(async move {
        // Broken off by a connection that ends: that is the point.
        let _ = write.write_all(&bytes).await;
        write
    });
    let mut seen = Vec::new();
    let mut buffer = [0; 16 << 10];
    let mut write_half = None;
    let mut sent = Some(sent);
    loop {
        if let Some(task) = sent.take_if(|task| task.is_finished()) {
            write_half = Some(task.await.unwrap());
        }
        match tokio::time::timeout(Duration::from_secs(2), read.read(&mut buffer)).await {
            Err(_) => {
                drop(write_half);
                return None;
            }
            Ok(Ok(0) | Err(_)) => return Some(goaway_code(&seen)),
            Ok(Ok(count)) => seen.extend_from_slice(&buffer[..count]),
        }
    }
}

/// The error code of the last GOAWAY; 0 without one.
fn goaway_code(mut bytes: &[u8]) -> u32 {
    let mut code = 0;
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = bytes {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        let Some((payload, after)) = rest.split_at_checked(length) else { break };
        if *kind == GOAWAY {
            code = u32::from_be_bytes(payload[4..8].try_into().unwrap());
        }
        bytes = after;
    }
    code
}

/// Attacks with `bytes` after the preface while another caller asks; returns how the attacker's connection ended.
fn check(bytes: Vec<u8>) -> Option<u32> {
    let ended = std::cell::Cell::new(None);
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        let attacker = world.raw_caller().await;
        let good = world.caller().await;
        let attacking = tokio::task::spawn_local(attack(attacker, [preface(), bytes].concat()));
        for turn in 0..20 {
            let asked = tokio::time::timeout(Duration::from_secs(5), good.ask(get("/good"))).await;
            let status = asked.expect("the good caller is served").unwrap().status;
            assert_eq!(status, StatusCode::OK, "turn {turn}");
        }
        ended.set(attacking.await.unwrap());
    });
    ended.get()
}

#[test]
fn rapid_resets_end_the_connection() {
    let bytes = streams(20_000)
        .flat_map(|stream| {
            let reset = frame(RESET, 0, stream, &8_u32.to_be_bytes());
            [frame(HEADERS, END_HEADERS | END_STREAM, stream, &head()), reset].concat()
        })
        .collect();
    assert_eq!(check(bytes), Some(ENHANCE_YOUR_CALM));
}

#[test]
fn resets_that_we_are_made_to_send_end_the_connection() {
    // A window that overflows is a stream error (RFC 9113 section 6.9.1).
    let bytes = streams(5_000)
        .flat_map(|stream| {
            let overflow = frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]);
            [frame(HEADERS, END_HEADERS, stream, &head()), overflow].concat()
        })
        .collect();
    assert_eq!(check(bytes), Some(ENHANCE_YOUR_CALM));
}

#[test]
fn a_flood_of_continuations_ends_the_connection() {
    let mut bytes = frame(HEADERS, 0, 1, &head());
    for _ in 0..2_000 {
        // Literal fields without indexing: name `x`, 1,000 bytes of value.
        let mut field = vec![0x00, 1, b'x', 0x7f, 0xe9, 0x06];
        field.extend([b'v'; 1_000]);
        bytes.extend(frame(CONTINUATION, 0, 1, &field));
    }
    assert!(check(bytes).is_some(), "still open after 2 MB of header");
}

#[test]
fn a_small_head_that_unpacks_to_a_large_one_is_refused() {
    // One field of 4,000 bytes goes into the table, 30,000 times the same one comes out of it.
    let mut block = head();
    block.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    block.extend([b'v'; 4_000]);
    let mut bytes = frame(HEADERS, END_STREAM, 1, &block);
    bytes.extend(frame(CONTINUATION, 0, 1, &[0xbe; 15_000]));
    bytes.extend(frame(CONTINUATION, END_HEADERS, 1, &[0xbe; 15_000]));
    // The connection may live on, as long as nothing of it was kept or passed on.
    check(bytes);
}

#[test]
fn frames_without_end_that_ask_for_nothing_end_the_connection() {
    let floods: [(u8, u32, &[u8]); 4] = [
        (PING, 0, &[7; 8]),
        (SETTINGS, 0, &[]),
        (PRIORITY, 1, &[0, 0, 0, 3, 7]),
        (WINDOW_UPDATE, 1, &[0, 0, 0, 1]),
    ];
    for (kind, stream, payload) in floods {
        let mut bytes = frame(HEADERS, END_HEADERS, 1, &head());
        bytes.extend(frame(kind, 0, stream, payload).repeat(100_000));
        assert_eq!(check(bytes), Some(ENHANCE_YOUR_CALM), "frames of type {kind}");
    }
}

#[test]
fn requests_taken_back_once_they_were_read_end_the_connection() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        let mut attacker = world.raw_caller().await;
        attacker.write_all(&preface()).await.unwrap();
        let (mut seen, mut buffer) = (Vec::new(), [0; 16 << 10]);
        // In batches, each taken back once its PING was answered: what stood before it was read then.
        let over = async {
            for batch in streams(20_000).collect::<Vec<u32>>().chunks(50) {
                let ask = |stream: &u32| frame(HEADERS, END_HEADERS, *stream, &head());
                let asked: Vec<u8> = batch.iter().flat_map(ask).collect();
                attacker.write_all(&[asked, frame(PING, 0, 0, &[1; 8])].concat()).await?;
                while !seen.windows(9).any(|header| header[..5] == [0, 0, 8, PING, 1]) {
                    match attacker.read(&mut buffer).await? {
                        0 => return Ok(()),
                        count => seen.extend_from_slice(&buffer[..count]),
                    }
                }
                seen.clear();
                let reset = |stream: &u32| frame(RESET, 0, *stream, &8_u32.to_be_bytes());
                attacker.write_all(&batch.iter().flat_map(reset).collect::<Vec<u8>>()).await?;
            }
            panic!("20,000 requests were taken back");
        };
        let over: std::io::Result<()> = tokio::time::timeout(Duration::from_secs(20), over).await.unwrap();
        if over.is_err() {
            // What it was told before the end is still there.
            while let Ok(count @ 1..) = attacker.read(&mut buffer).await {
                seen.extend_from_slice(&buffer[..count]);
            }
        }
        assert_eq!(goaway_code(&seen), ENHANCE_YOUR_CALM);
        eventually("the end is told", || !world.served.borrow().is_empty()).await;
        assert_eq!(world.served.take(), [Some(true)]);
        assert_eq!(world.caller().await.ask(get("/good")).await.unwrap().status, StatusCode::OK);
    });
}

#[test]
fn a_head_of_very_many_fields_ends_the_connection() {
    // A cookie goes into the table, and comes out of it 700 times: 29 kB of fields, below the limit of a head's size.
    let mut block = head();
    block.extend([0x40, 6]);
    block.extend(b"cookie\x01a");
    block.extend([0xbe; 700]);
    let bytes = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block);
    assert_eq!(check(bytes), Some(ENHANCE_YOUR_CALM));
}

#[test]
fn empty_data_without_end_is_answered_or_refused_and_costs_nobody_else() {
    let mut bytes = frame(HEADERS, END_HEADERS, 1, &head());
    bytes.extend(frame(DATA, 0, 1, &[]).repeat(200_000));
    check(bytes);
}

#[test]
fn more_streams_than_allowed_are_refused_one_by_one() {
    // Windows of zero: no response can go out, all streams stay open.
    let mut bytes = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    bytes.extend(streams(400).flat_map(|stream| frame(HEADERS, END_HEADERS, stream, &head())));
    let ended = check(bytes);
    assert!(matches!(ended, None | Some(0 | ENHANCE_YOUR_CALM)), "{ended:?}");
}

/// An application that answers at once, and says how the request's body ended.
async fn reads_to_the_end() -> (std::net::SocketAddr, tokio::sync::mpsc::UnboundedReceiver<bool>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    tokio::task::spawn_local(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| {
            let tell = tell.clone();
            async move {
                let _reading = tokio::task::spawn_local(async move {
                    tell.send(request.into_body().collect().await.is_ok()).unwrap();
                });
                Ok::<_, std::convert::Infallible>(http::Response::new(body("an answer")))
            }
        });
        let _ =
            server_of(OnThisCore, &Settings::default()).serve_connection(TokioIo::new(stream), service).await;
    });
    (address, told)
}

#[test]
fn a_caller_that_takes_no_answer_is_cut_off_too() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        let (application, mut told) = reads_to_the_end().await;
        world.application.set(application);
        let mut attacker = world.raw_caller().await;
        // A window of zero: the answer never goes out, so nobody looks whether there is more of it.
        let window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
        let open = frame(HEADERS, END_HEADERS, 1, &head());
        attacker.write_all(&[preface(), window, open].concat()).await.unwrap();
        eventually("the answer's head is there", || {
            world.answered.borrow().iter().filter(|status| **status == StatusCode::OK).count() == 2
        })
        .await;

        world.cuts.borrow()[0].now();

        let whole = tokio::time::timeout(Duration::from_secs(5), told.recv()).await;
        assert_eq!(whole.expect("the application is told"), Some(false), "the request broke off");
    });
}

#[test]
fn a_caller_that_stays_after_its_certificate_is_served_no_more() {
    on_one_core(async {
        let world = World::start_for(Protocol::Http2, Settings::default(), Duration::from_secs(3)).await;
        let mut stays = world.raw_peer().await;
        let ask = |stream: u32| frame(HEADERS, END_HEADERS | END_STREAM, stream, &head());
        stays.write_all(&[preface(), ask(1)].concat()).await.unwrap();
        eventually("the first request is served", || world.records.borrow().len() == 1).await;
        // It answers no PING: for h2 it may not have seen GOAWAY yet, so streams still begin.
        let mut stream = 3;
        while world.late.get() == 0 {
            stays.write_all(&ask(stream)).await.expect("the connection is open");
            stream += 2;
            assert!(stream < 20_000, "still served");
            // The pace of the requests: the certificate ends while they go on, and no event says so.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let served = world.records.borrow().len();
        let late = world.late.get();
        stays.write_all(&[ask(stream), ask(stream + 2)].concat()).await.unwrap();
        eventually("both are refused", || world.late.get() == late + 2).await;
        assert_eq!(world.records.borrow().len(), served);
    });
}

#[test]
fn who_breaks_http_2_in_the_clear_is_told_from_who_goes_away() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        for (said, is_violation) in
            [(frame(HEADERS, END_HEADERS, 0, &head()), Some(true)), (Vec::new(), None)]
        {
            let mut client = world.raw_caller().await;
            client.write_all(&[preface(), said].concat()).await.unwrap();
            client.shutdown().await.unwrap();
            let _ = client.read_to_end(&mut Vec::new()).await;
            eventually("it is over", || !world.served.borrow().is_empty()).await;
            assert_eq!(world.served.take(), [is_violation]);
        }
    });
}

#[test]
fn what_is_no_http_is_the_peers_fault() {
    on_one_core(async {
        let world = World::start(Protocol::Http2).await;
        let mut peer = world.raw_peer().await;
        peer.write_all(&[b'x'; 100]).await.unwrap();
        eventually("the connection ends", || !world.ended.borrow().is_empty()).await;
        assert_eq!(*world.ended.borrow(), ["tunnel_violation"]);
    });
}

#[test]
fn a_source_has_no_more_connections_than_it_may() {
    on_one_core(async {
        let settings = Settings { connections_per_source: 1, ..Settings::default() };
        let world = World::start_with(Protocol::Grpc, settings).await;
        let caller = world.caller().await;
        assert_eq!(caller.ask(grpc("/e/U", "x")).await.unwrap().trailer("grpc-status"), Some("0"));
        let mut second = TcpStream::connect(world.destination_address()).await.unwrap();
        let refused = second.read_to_end(&mut Vec::new()).await;
        assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(*world.ended.borrow(), ["too_many_tunnels"]);
        assert_eq!(caller.ask(grpc("/e/U", "x")).await.unwrap().trailer("grpc-status"), Some("0"));
    });
}

#[test]
fn a_peer_that_asks_for_nothing_is_not_waited_for() {
    on_one_core(async {
        let settings = Settings { handshake_timeout: Duration::from_millis(200), ..Settings::default() };
        let world = World::start_with(Protocol::Grpc, settings).await;
        for said in [&b""[..], b"PRI * HTT", &preface()] {
            let tcp = TcpStream::connect(world.destination_address()).await.unwrap();
            let config = world.identities.client(&id("web"), &id("api"), Alpn::H2).unwrap();
            let name = ServerName::try_from("api.shop.svc.cluster.local").unwrap();
            let mut peer = TlsConnector::from(config).connect(name, tcp).await.unwrap();
            peer.write_all(said).await.unwrap();
            // Ended by the destination, with GOAWAY or without: the test's own bound is far below the idle timeout.
            let _ = peer.read_to_end(&mut Vec::new()).await;
        }
    });
}
