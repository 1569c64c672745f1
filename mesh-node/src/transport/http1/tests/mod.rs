//! HTTP/1.1 through two engines over loopback, with real TLS, sockets and applications.

mod deadlines;
mod drains;
mod late;
mod recheck;
mod slow;
mod virtual_clock;
mod world;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_common::http1::Refusal;
use mesh_common::http1::relay::Ending;
use mesh_common::model::Direction;
use mesh_common::tunnel::ResetReason;

use self::world::{
    Seen, Side, To, application, ask, connect, eventually, get, judge, nobody, pair, polite, read_all,
    read_message,
};
use crate::transport::http1::HttpSettings;
use crate::transport::tunnel::Settings;
use crate::transport::tunnel::tests::world::World;
use crate::transport::{CloseReason, ConnectFailure};

#[test]
fn requests_share_connections_on_every_leg() {
    let (world, seen) = (World::new(), Arc::default());
    let (source, destination) = pair(&world, polite(&seen));
    let mut client = connect(source.address);
    for path in ["/1", "/2", "/3"] {
        assert_eq!(ask(&mut client, &get(path)), (200, format!("GET {path} HTTP/1.1 +0")));
    }
    assert_eq!(*seen.connections.lock().unwrap(), 1);
    assert_eq!(source.counters.tunnels_opened.read(), 1);
    assert_eq!(source.counters.streams_opened.read(), 3);
    for side in [&source, &destination] {
        let exchanges = side.exchanges(3);
        assert_eq!(exchanges[2].0, "GET web /3");
        assert!(
            exchanges.iter().all(|(_, outcome)| (outcome.status, outcome.ending) == (200, Ending::Complete))
        );
    }
    drop(client);
    for side in [&source, &destination] {
        eventually("connections to be forgotten", || (side.counters.connections.read() == 0).then_some(()));
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (world, seen) = (World::new(), Arc::default());
    let (source, _destination) = pair(&world, polite(&seen));
    let mut client = connect(source.address);
    let requests: String = (0..50).map(|number| get(&format!("/{number}"))).collect();
    client.write_all(requests.as_bytes()).unwrap();
    for number in 0..50 {
        let (_, body) = read_message(&mut client).unwrap();
        assert_eq!(String::from_utf8(body).unwrap(), format!("GET /{number} HTTP/1.1 +0"));
    }
}

#[test]
fn a_request_pipelined_behind_one_that_failed_is_answered_too() {
    let (world, seen) = (World::new(), Arc::default());
    let mut local = judge(&world, Direction::Outbound, To::Application(polite(&seen)));
    local.elsewhere = Some(To::Application(nobody()));
    let source = Side::start(local, Direction::Outbound, Settings::default());
    let mut client = connect(source.address);
    client.write_all([get("/elsewhere"), get("/elsewhere"), get("/")].concat().as_bytes()).unwrap();
    for expected in ["HTTP/1.1 503 ", "HTTP/1.1 503 ", "HTTP/1.1 200 "] {
        let (head, _) = read_message(&mut client).unwrap();
        assert!(head.starts_with(expected), "{head}");
    }
}

#[test]
fn a_denied_request_is_403_and_the_connection_goes_on() {
    let (world, seen) = (World::new(), Arc::default());
    let (source, destination) = pair(&world, polite(&seen));
    let mut client = connect(source.address);
    assert_eq!(ask(&mut client, &get("/denied")), (403, "RBAC: access denied".to_owned()));
    assert_eq!(ask(&mut client, &get("/x/../%64enied")), (403, "RBAC: access denied".to_owned()));
    assert_eq!(ask(&mut client, &get("/allowed")).0, 200);
    assert_eq!(seen.heads.lock().unwrap().len(), 1);
    assert_eq!(source.exchanges(3)[0].1.status, 403);
    assert_eq!(destination.exchanges(1).len(), 1);
}

#[test]
fn what_is_refused_never_reaches_the_application() {
    let (world, seen) = (World::new(), Arc::default());
    let (source, _destination) = pair(&world, polite(&seen));
    for request in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /%2e%2e%5cadmin HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nZ\r\n0\r\n\r\n",
    ] {
        let mut client = connect(source.address);
        client.write_all(format!("{request}{}", get("/smuggled")).as_bytes()).unwrap();
        let answer = read_all(&mut client);
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{request:?}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{request:?}: {answer:?}");
    }
    assert_eq!(*seen.connections.lock().unwrap(), 0);
    let refusals = source.log.refusals.lock().unwrap().clone();
    assert_eq!((refusals.len(), refusals[2]), (5, Refusal::BareLineFeed));
}

#[test]
fn large_bodies_go_both_ways_unchanged() {
    let world = World::new();
    let echo = application(|mut stream| {
        while let Some((_, body)) = read_message(&mut stream) {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&body).unwrap();
        }
    });
    let (source, _destination) = pair(&world, echo);
    let mut client = connect(source.address);
    let body: Vec<u8> =
        (0..3_u32 << 20).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for _ in 0..2 {
        let head = format!("POST /big HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        client.write_all(head.as_bytes()).unwrap();
        client.write_all(&body).unwrap();
        let (_, back) = read_message(&mut client).unwrap();
        assert!(back == body, "{} of {} bytes came back, or others", back.len(), body.len());
    }
    assert_eq!(source.exchanges(2)[1].1.bytes.request, body.len() as u64);
}

#[test]
fn a_slow_application_holds_its_client_back() {
    let world = World::new();
    let (resume, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let slow = application(move |mut stream| {
        wait.lock().unwrap().recv().unwrap();
        let (_, body) = read_message(&mut stream).unwrap();
        stream
            .write_all(
                format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: {}\r\n\r\n", body.len()).as_bytes(),
            )
            .unwrap();
    });
    let (source, _destination) = pair(&world, slow);
    let mut client = connect(source.address);
    let total = 32 << 20;
    client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    socket2::SockRef::from(&client).set_send_buffer_size(64 << 10).unwrap();
    write!(client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {total}\r\n\r\n").unwrap();
    client.set_nonblocking(true).unwrap();
    let (piece, mut sent, mut last) = (vec![7; 64 << 10], 0, Instant::now());
    // Full when nothing was taken for a while.
    while last.elapsed() < Duration::from_millis(300) {
        match client.write(&piece) {
            Ok(length) => (sent, last) = (sent + length, Instant::now()),
            Err(_) => std::thread::park_timeout(Duration::from_millis(1)),
        }
    }
    // What the kernel buffers between the engines and their neighbours (up to 6 MiB to read and 4 to write), the
    // window of the stream, and what the two engines hold.
    assert!(sent < 24 << 20, "{sent} bytes were taken");
    resume.send(()).unwrap();
    client.set_nonblocking(false).unwrap();
    while sent < total {
        sent += client.write(&piece[..piece.len().min(total - sent)]).unwrap();
    }
    assert!(read_message(&mut client).unwrap().0.contains(&format!("X: {total}\r\n")));
}

#[test]
fn chunks_trailers_and_interim_responses_pass() {
    let world = World::new();
    let fancy = application(|mut stream| {
        let (head, _) = read_message(&mut stream).unwrap();
        assert!(head.contains("Expect: 100-continue"), "{head}");
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        let mut body = [0; 36];
        stream.read_exact(&mut body).unwrap();
        assert_eq!(&body, b"5\r\nhello\r\n0\r\nX-Sum: 5\r\nX-Ok: yes\r\n\r\n"[..36].as_ref());
        stream
            .write_all(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: v\r\n\r\n",
            )
            .unwrap();
        let _ = stream.read(&mut [0; 64]);
    });
    let (source, _destination) = pair(&world, fancy);
    let mut client = connect(source.address);
    let head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(ask(&mut client, head).0, 100);
    client.write_all(b"5;ext\r\nhello\r\n0\r\nX-Sum: 5\r\nHost: b\r\nX-Ok: yes\r\n\r\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let answer = read_all(&mut client);
    assert!(answer.ends_with("\r\n\r\n3\r\nabc\r\n0\r\nT: v\r\n\r\n"), "{answer:?}");
}

#[test]
fn an_application_that_is_not_there_is_503_and_another_is_tried_first() {
    let (world, seen) = (World::new(), Arc::default());
    let (source, destination) = pair(&world, nobody());
    let mut client = connect(source.address);
    let (status, text) = ask(&mut client, &get("/"));
    assert_eq!((status, text.as_str()), (503, "upstream connect error: connection failure"));
    let (_, outcome) = &source.exchanges(1)[0];
    assert_eq!(outcome.ending, Ending::Answered("connect_refused"));
    let (_, outcome) = &destination.exchanges(1)[0];
    assert_eq!(outcome.failure, Some(CloseReason::Connect(ConnectFailure::Refused)));
    // The same connection of the client goes on, and finds an endpoint elsewhere.
    let other = judge(&world, Direction::Inbound, To::Application(polite(&seen)));
    let other = Side::start(other, Direction::Inbound, Settings::default());
    let second = To::Tunnel(other.address);
    source.handle.send(move |engine| engine.conductor().second = Some(second));
    assert_eq!(ask(&mut client, &get("/again")).0, 200);
    assert_eq!(
        ask(&mut client, "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").1,
        "POST /body HTTP/1.1 +2"
    );
}

#[test]
fn a_tunnel_that_cannot_be_made_is_503() {
    let world = World::new();
    let outbound = judge(&world, Direction::Outbound, To::Tunnel(nobody()));
    let source = Side::start(outbound, Direction::Outbound, Settings::default());
    let mut client = connect(source.address);
    for _ in 0..2 {
        assert_eq!(ask(&mut client, &get("/")).0, 503);
    }
}

#[test]
fn a_pooled_connection_that_its_application_closed_costs_nobody_an_error() {
    let (world, seen) = (World::new(), Arc::<Seen>::default());
    let counted = seen.clone();
    let closes = application(move |mut stream| {
        *counted.connections.lock().unwrap() += 1;
        read_message(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    });
    let (source, _destination) = pair(&world, closes);
    let mut client = connect(source.address);
    for _ in 0..20 {
        assert_eq!(ask(&mut client, &get("/")).0, 200);
    }
    assert_eq!(*seen.connections.lock().unwrap(), 20);
}

#[test]
fn an_early_answer_leaves_no_connection_out_of_step() {
    let world = World::new();
    let early = application(|mut stream| {
        let mut head = [0; 10];
        let _ = stream.read(&mut head);
        stream.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let (source, _destination) = pair(&world, early);
    for _ in 0..10 {
        let mut client = connect(source.address);
        client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc").unwrap();
        let answer = read_all(&mut client);
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("connection: close"), "{answer:?}");
    }
    assert!(source.exchanges(10).iter().all(|(_, outcome)| outcome.ending == Ending::Early));
}

#[test]
fn a_response_that_is_cut_short_ends_in_a_reset_or_in_an_error() {
    let world = World::new();
    let (cut, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let cuts = application(move |mut stream| {
        read_message(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").unwrap();
        wait.lock().unwrap().recv().unwrap();
    });
    let (source, destination) = pair(&world, cuts);
    // The client has the head: all that is left is a reset.
    let mut client = connect(source.address);
    client.write_all(get("/").as_bytes()).unwrap();
    client.read_exact(&mut [0; 20]).unwrap();
    cut.send(()).unwrap();
    let error = client.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(destination.exchanges(1)[0].1.ending, Ending::UpstreamGone);
    // The application cuts at once: what the client is given depends on how far the head came, and is no success.
    cut.send(()).unwrap();
    let mut client = connect(source.address);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let reset = client.read_to_end(&mut answer).is_err();
    assert!(reset || answer.starts_with(b"HTTP/1.1 503 "), "{}", String::from_utf8_lossy(&answer));
}

const HANDSHAKE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// An application that switches, says `hi`, and echoes.
fn switching() -> SocketAddr {
    application(|mut stream| {
        let (head, _) = read_message(&mut stream).unwrap();
        assert!(head.contains("Upgrade: websocket"), "{head}");
        stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi",
            )
            .unwrap();
        crate::transport::tunnel::tests::world::echo(stream);
    })
}

#[test]
fn a_quiet_websocket_has_the_time_of_tcp_and_not_that_of_requests() {
    let (short, long) = (Duration::from_millis(50), Duration::from_millis(400));
    let world = World::new();
    let http = HttpSettings {
        header_timeout: short,
        body_timeout: short,
        idle_timeout: short,
        ..HttpSettings::default()
    };
    let local = judge(&world, Direction::Outbound, To::Application(switching()));
    let settings = Settings { http, idle_timeout: long, ..Settings::default() };
    let source = Side::start(local, Direction::Outbound, settings);
    let mut client = connect(source.address);
    client.write_all(HANDSHAKE).unwrap();
    let (head, _) = read_message(&mut client).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let quiet = Instant::now();
    let mut rest = Vec::new();
    let ended = client.read_to_end(&mut rest).map_err(|error| error.kind());
    assert_eq!((ended, &rest[..]), (Err(ErrorKind::ConnectionReset), &b"hi"[..]));
    // What had come before it may have been some of the time.
    assert!(quiet.elapsed() >= long / 2, "{:?}", quiet.elapsed());
    let (_, outcome) = &source.exchanges(1)[0];
    assert_eq!((outcome.status, outcome.ending), (101, Ending::TimedOut));
}

/// Were it told that the application had gone, its record would say that, or nothing of the time, by which of the two was first.
#[test]
fn who_ends_a_quiet_websocket_tells_the_other_daemon_why() {
    let world = World::new();
    let inbound = judge(&world, Direction::Inbound, To::Application(switching()));
    let settings = Settings { idle_timeout: Duration::from_millis(200), ..Settings::default() };
    let destination = Side::start(inbound, Direction::Inbound, settings);
    let outbound = judge(&world, Direction::Outbound, To::Tunnel(destination.address));
    let source = Side::start(outbound, Direction::Outbound, Settings::default());
    let mut client = connect(source.address);
    let begun = Instant::now();
    client.write_all(HANDSHAKE).unwrap();
    let (head, _) = read_message(&mut client).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let ended = client.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
    assert_eq!(ended, Err(ErrorKind::ConnectionReset));
    assert!(begun.elapsed() < Settings::default().connect_timeout, "it ended with the time for connecting");
    assert_eq!(destination.exchanges(1)[0].1.failure, Some(CloseReason::IdleTimedOut));
    let told = CloseReason::PeerReset(ResetReason::IdleTimedOut);
    assert_eq!(source.exchanges(1)[0].1.failure, Some(told));
}

#[test]
fn a_websocket_passes_after_101() {
    let world = World::new();
    let (source, destination) = pair(&world, switching());
    let mut client = connect(source.address);
    client.write_all(HANDSHAKE).unwrap();
    client.write_all(b"early").unwrap();
    let (head, _) = read_message(&mut client).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("Upgrade: websocket"), "{head}");
    let mut back = [0; 7];
    client.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hiearly");
    crate::transport::tunnel::tests::world::ping(&mut client, &[9; 200_000]);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut client), "");
    for side in [&source, &destination] {
        let (_, outcome) = &side.exchanges(1)[0];
        assert_eq!(
            (outcome.status, outcome.ending, outcome.bytes.response),
            (101, Ending::Complete, 200_007)
        );
    }
}

#[test]
fn a_client_that_resets_takes_its_upstream_along() {
    let world = World::new();
    let (ends, ended) = std::sync::mpsc::channel();
    let waits = application(move |mut stream| {
        read_message(&mut stream);
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        ends.send(stream.read(&mut [0; 1]).map_err(|error| error.kind())).unwrap();
    });
    let (source, _destination) = pair(&world, waits);
    let mut client = connect(source.address);
    assert_eq!(ask(&mut client, &get("/")).0, 100);
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let end = ended.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
    assert_eq!(source.exchanges(1)[0].1.ending, Ending::ClientGone);
}

#[test]
fn requests_inside_an_opaque_stream_are_decided_one_by_one() {
    let (world, seen) = (World::new(), Arc::default());
    let inbound = judge(&world, Direction::Inbound, To::Application(polite(&seen)));
    let destination = Side::start(inbound, Direction::Inbound, Settings::default());
    let mut outbound = judge(&world, Direction::Outbound, To::Tunnel(destination.address));
    outbound.opaque = true;
    let source = Side::start(outbound, Direction::Outbound, Settings::default());
    let mut client = connect(source.address);
    assert_eq!(ask(&mut client, &get("/1")).0, 200);
    assert_eq!(ask(&mut client, &get("/denied")).0, 403);
    assert_eq!(ask(&mut client, &get("/2")).0, 200);
    client.write_all(b"nonsense\r\n\r\n").unwrap();
    assert!(read_all(&mut client).starts_with("HTTP/1.1 400 "));
    assert_eq!((source.counters.streams_opened.read(), seen.heads.lock().unwrap().len()), (1, 2));
}

#[test]
fn plaintext_requests_are_decided_one_by_one() {
    let (world, seen) = (World::new(), Arc::default());
    let inbound = judge(&world, Direction::Inbound, To::Application(polite(&seen)));
    let destination = Side::start(inbound, Direction::Inbound, Settings::default());
    let mut client = connect(destination.address);
    assert_eq!(ask(&mut client, &get("/1")).0, 200);
    assert_eq!(ask(&mut client, &get("/denied")).0, 403);
    assert_eq!(ask(&mut client, "GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").0, 200);
    let heads = seen.heads.lock().unwrap();
    assert!(heads[1].contains("\r\nHost: 10.0.0.1:8080\r\n"), "{}", heads[1]);
}

#[test]
fn exchanges_leave_no_deadline_behind() {
    let (world, seen) = (World::new(), Arc::default());
    let (source, destination) = pair(&world, polite(&seen));
    let mut client = connect(source.address);
    for _ in 0..1500 {
        assert_eq!(ask(&mut client, &get("/")).0, 200);
    }
    for side in [&source, &destination] {
        let (send, receive) = std::sync::mpsc::channel();
        side.handle.send(move |engine| send.send(engine.core.timers.len()).unwrap());
        let entries = receive.recv().unwrap();
        assert!(entries <= 1024, "{entries} deadlines are held");
    }
}

#[test]
fn an_idle_connection_holds_little() {
    let size = size_of::<crate::transport::http1::Http<[u8; 64]>>();
    assert!(size <= 1024, "{size} bytes");
}

#[test]
fn a_client_of_http_2_is_handed_over_with_every_byte_however_they_come() {
    let (world, seen) = (World::new(), Arc::default());
    let (source, _destination) = pair(&world, polite(&seen));
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for cuts in [&[24][..], &[1, 23], &[14, 10], &[23, 1]] {
        let mut client = connect(source.address);
        let mut rest = &preface[..];
        for &cut in cuts {
            client.write_all(&rest[..cut]).unwrap();
            rest = &rest[cut..];
            // One turn of the engine per piece: an answer to another client says that it looked.
            ask(&mut connect(source.address), &get("/between"));
        }
        let handed = eventually("the socket", || source.log.handed.lock().unwrap().pop());
        let mut handed = std::net::TcpStream::from(handed);
        handed.set_nonblocking(false).unwrap();
        let mut first = [0; 24];
        handed.read_exact(&mut first).unwrap();
        assert_eq!(&first, preface, "{cuts:?}");
    }
    let mut other = connect(source.address);
    other.write_all(b"PRI * HTTP/1.1\r\n\r\n").unwrap();
    assert!(read_all(&mut other).starts_with("HTTP/1.1 4"), "another beginning is for the codec");
    let mut cut = connect(source.address);
    cut.write_all(&preface[..10]).unwrap();
    cut.shutdown(Shutdown::Write).unwrap();
    assert!(!read_all(&mut cut).contains("200"), "half a preface ends");
}
