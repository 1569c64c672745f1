//! WebSockets over HTTP/2 (RFC 8441): opened by CONNECT or not at all, over HTTP/2 and HTTP/1.1 to applications.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::ext::Protocol as WireProtocol;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_common::http1::Refusal;
use mesh_common::model::Protocol;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::world::*;
use crate::transport::http2::runtime::OnThisCore;
use crate::transport::http2::{Ending, Settings};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// What an application answers to a key.
type Answer = fn(&str) -> String;

/// Asks for a WebSocket as a browser does.
fn connect(path: &str) -> Request<TestBody> {
    let request = Request::builder().method(Method::CONNECT).uri(format!("http://api.shop{path}"));
    let request = request.header("sec-websocket-version", "13").header("origin", "http://shop");
    request.extension(WireProtocol::from_static("websocket")).body(body("")).unwrap()
}

/// Its stream, once it is open.
async fn open(
    caller: &Caller,
    request: Request<TestBody>,
) -> Result<TokioIo<hyper::upgrade::Upgraded>, StatusCode> {
    let mut response = caller.0.clone().send_request(request).await.unwrap();
    if response.status() != StatusCode::OK {
        return Err(response.status());
    }
    Ok(TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap()))
}

/// An application of HTTP/1.1 that gives every request the answer that `answer` makes of its key, and echoes after it.
async fn by_hand(answer: impl Fn(&str) -> String + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Rc::new(answer);
    tokio::task::spawn_local(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::task::spawn_local(async move {
                let head = read_head(&mut stream).await;
                assert!(head.starts_with("GET /ws HTTP/1.1\r\n"), "{head}");
                for field in
                    ["connection: upgrade\r\n", "upgrade: websocket\r\n", "sec-websocket-version: 13\r\n"]
                {
                    assert_eq!(head.to_ascii_lowercase().matches(field).count(), 1, "{head}");
                }
                let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
                stream.write_all(answer(key).as_bytes()).await.unwrap();
                let (mut from, mut to) = stream.split();
                // Whoever is cut off is told so by a reset.
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn accept_of(key: &str) -> String {
    let hashed = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes(),
    );
    data_encoding::BASE64.encode(hashed.as_ref())
}

fn switches(key: &str) -> String {
    let accept = accept_of(key);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\nX-Seen: yes\r\n\r\nfirst"
    )
}

/// An application of HTTP/2 that opens every WebSocket and echoes; whether it says that it does.
async fn over_http2(says_so: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::task::spawn_local(async move {
                let mut server = hyper::server::conn::http2::Builder::new(OnThisCore);
                if says_so {
                    server.enable_connect_protocol();
                }
                let service = service_fn(|mut request: Request<Incoming>| async move {
                    assert!(says_so, "{request:?}");
                    assert_eq!(request.extensions().get::<WireProtocol>().unwrap().as_ref(), b"websocket");
                    assert_eq!(request.uri().to_string(), "http://api.shop/ws");
                    let way = hyper::upgrade::on(&mut request);
                    tokio::task::spawn_local(async move {
                        let Ok(way) = way.await else { return };
                        let (mut from, mut to) = tokio::io::split(TokioIo::new(way));
                        // Whoever is cut off is told so by a reset.
                        let _ = tokio::io::copy(&mut from, &mut to).await;
                        let _ = to.shutdown().await;
                    });
                    Ok::<_, std::convert::Infallible>(Response::new(body("")))
                });
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

async fn world_with(protocol: Protocol, application: SocketAddr, settings: Settings) -> Rc<World> {
    let world = World::start_with(protocol, settings).await;
    world.application.set(application);
    world
}

/// Says more than any window holds, and hears it back.
async fn echoes(stream: TokioIo<hyper::upgrade::Upgraded>, first: &[u8]) {
    let (mut from, mut to) = tokio::io::split(stream);
    let mut heard = vec![0; first.len()];
    from.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, first);
    let said: Vec<u8> = (0..3_000_000_u32).map(|index| index.to_le_bytes()[index as usize % 2]).collect();
    let sent = said.clone();
    tokio::task::spawn_local(async move {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    });
    let mut heard = Vec::new();
    from.read_to_end(&mut heard).await.unwrap();
    assert!(heard == said, "{} bytes came back of {}", heard.len(), said.len());
}

#[test]
fn a_websocket_opens_to_applications_of_both_versions() {
    on_one_core(async {
        for (protocol, application, first) in [
            (Protocol::Http2, over_http2(true).await, &b""[..]),
            (Protocol::Http1, by_hand(switches).await, b"first"),
        ] {
            let world = world_with(protocol, application, Settings::default()).await;
            let caller = world.caller().await;
            echoes(open(&caller, connect("/ws")).await.unwrap(), first).await;
            eventually("both records", || world.records.borrow().len() == 2).await;
            for who in [None, Some(WEB)] {
                let [record] = world.recorded(who).try_into().unwrap();
                assert_eq!(
                    (record.path.as_str(), record.status),
                    ("/ws", Some(StatusCode::SWITCHING_PROTOCOLS))
                );
                assert_eq!(record.end.ending, Ending::Complete, "{protocol:?} {who:?}");
                let passed = (record.end.request_bytes, record.end.response_bytes);
                assert_eq!(passed, (3_000_000, 3_000_000 + first.len() as u64), "{protocol:?} {who:?}");
            }
        }
    });
}

#[test]
fn an_application_that_does_not_say_so_is_not_asked() {
    on_one_core(async {
        let world = world_with(Protocol::Http2, over_http2(false).await, Settings::default()).await;
        let caller = world.caller().await;
        assert_eq!(open(&caller, connect("/ws")).await.unwrap_err(), StatusCode::NOT_IMPLEMENTED);
    });
}

#[test]
fn only_a_valid_101_opens_the_way_over_http_1() {
    on_one_core(async {
        let answers: [(Answer, u16); 6] = [
            (|_| "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(), 502),
            (|_| "HTTP/1.1 204 No Content\r\n\r\n".to_owned(), 502),
            (|key| switches(key).replace("Accept: ", "Accept: x"), 502),
            (|key| switches(key).replace("Upgrade: websocket", "Upgrade: h2c"), 502),
            (|key| switches(key).replace("Connection: Upgrade\r\n", ""), 502),
            (|_| "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno".to_owned(), 403),
        ];
        for (answer, status) in answers {
            let world = world_with(Protocol::Http1, by_hand(answer).await, Settings::default()).await;
            let caller = world.caller().await;
            assert_eq!(open(&caller, connect("/ws")).await.unwrap_err().as_u16(), status);
            eventually("both records", || world.records.borrow().len() == 2).await;
            assert_eq!(world.recorded(None)[0].status.map(|status| status.as_u16()), Some(status));
        }
    });
}

#[test]
fn a_101_that_nobody_asked_for_is_502() {
    on_one_core(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await;
            stream.write_all(switches("x").as_bytes()).await.unwrap();
        });
        let world = world_with(Protocol::Http1, address, Settings::default()).await;
        let seen = world.caller().await.ask(get("/ws")).await.unwrap();
        assert_eq!(seen.status, StatusCode::BAD_GATEWAY);
    });
}

#[test]
fn what_else_connect_asks_for_is_refused_and_asked_of_nobody() {
    on_one_core(async {
        let world = world_with(Protocol::Http2, over_http2(true).await, Settings::default()).await;
        let caller = world.caller().await;
        let mut plain = connect("/ws");
        plain.extensions_mut().remove::<WireProtocol>();
        *plain.uri_mut() = "api.shop:80".parse().unwrap();
        let mut other = connect("/ws");
        other.extensions_mut().insert(WireProtocol::from_static("connect-udp"));
        let mut old = connect("/ws");
        old.headers_mut().insert("sec-websocket-version", "8".parse().unwrap());
        for (request, status) in [(plain, 501), (other, 501), (old, 426)] {
            assert_eq!(open(&caller, request).await.unwrap_err().as_u16(), status);
        }
        let refusals = [Refusal::Connect, Refusal::Protocol, Refusal::WebSocketVersion];
        assert_eq!(*world.malformed.borrow(), refusals);
        assert_eq!(world.dials.get(), 0);
    });
}

#[test]
fn rules_see_a_get() {
    on_one_core(async {
        let world = world_with(Protocol::Http2, over_http2(true).await, Settings::default()).await;
        world.apply(deny_path("/ws"));
        let caller = world.caller().await;
        assert_eq!(open(&caller, connect("/ws")).await.unwrap_err(), StatusCode::FORBIDDEN);
        assert_eq!(world.recorded(Some(WEB)).len(), 1);
    });
}

#[test]
fn a_cut_ends_both_sides() {
    on_one_core(async {
        for (protocol, application) in
            [(Protocol::Http2, over_http2(true).await), (Protocol::Http1, by_hand(switches).await)]
        {
            // The other agent sees an end, and gives its caller that long to end too.
            let settings = Settings { body_timeout: Duration::from_millis(300), ..Settings::default() };
            let world = world_with(protocol, application, settings).await;
            let caller = world.caller().await;
            let mut stream = open(&caller, connect("/ws")).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            stream.read_u8().await.unwrap();
            world.cuts.borrow().last().unwrap().now();
            // By an end or by a reset; hyper tells of some resets as of an end.
            let _ = stream.read_to_end(&mut Vec::new()).await;
            eventually("both records", || world.records.borrow().len() == 2).await;
            assert_eq!(world.recorded(Some(WEB))[0].end.ending, Ending::Cut);
        }
    });
}

#[test]
fn a_caller_that_gives_up_takes_its_application_along() {
    on_one_core(async {
        let world = world_with(Protocol::Http1, by_hand(switches).await, Settings::default()).await;
        let caller = world.caller().await;
        let stream = open(&caller, connect("/ws")).await.unwrap();
        drop(stream);
        drop(caller);
        eventually("both records", || world.records.borrow().len() == 2).await;
    });
}

#[test]
fn a_quiet_websocket_ends_after_its_time_and_not_after_that_of_requests() {
    on_one_core(async {
        let short = Duration::from_millis(200);
        let settings = Settings {
            body_timeout: short / 4,
            response_timeout: short / 4,
            stream_idle_timeout: short,
            ..Settings::default()
        };
        let world = world_with(Protocol::Http1, by_hand(switches).await, settings).await;
        let caller = world.caller().await;
        let began = tokio::time::Instant::now();
        let mut stream = open(&caller, connect("/ws")).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
        assert!(began.elapsed() >= short, "{:?}", began.elapsed());
        eventually("both records", || world.records.borrow().len() == 2).await;
        let endings: Vec<Ending> = world.records.borrow().iter().map(|record| record.end.ending).collect();
        assert!(endings.contains(&Ending::IdleTimedOut), "{endings:?}");
    });
}

#[test]
fn bytes_sent_early_wait_for_the_answer() {
    on_one_core(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let held = tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = read_head(&mut stream).await;
            let key =
                head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap().to_owned();
            gone.await.unwrap();
            let mut early = [0; 9];
            let nothing = stream.try_read(&mut early).map_err(|error| error.kind());
            assert_eq!(nothing, Err(std::io::ErrorKind::WouldBlock), "before the switch");
            stream.write_all(switches(&key).as_bytes()).await.unwrap();
            stream.read_exact(&mut early).await.unwrap();
            early
        });
        let world = world_with(Protocol::Http1, address, Settings::default()).await;
        let mut raw = world.raw_caller().await;
        raw.write_all(&[PREFACE, &headers_of_a_handshake(), &data(b"too early")].concat()).await.unwrap();
        eventually("the handshake to be under way", || world.dials.get() == 2).await;
        go.send(()).unwrap();
        assert_eq!(&held.await.unwrap(), b"too early");
    });
}

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

pub(super) fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

fn data(bytes: &[u8]) -> Vec<u8> {
    frame(0, 0, bytes)
}

/// Each field as a literal without indexing (RFC 7541 section 6.2.2).
pub(super) fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    frame(1, 4, &block)
}

/// The stream, or its connection, ends with PROTOCOL_ERROR and without an answer.
pub(super) async fn reset(raw: &mut (impl AsyncRead + Unpin), asked: &str) {
    loop {
        let mut head = [0; 9];
        raw.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        raw.read_exact(&mut payload).await.unwrap();
        assert_ne!(head[3], 1, "answered: {asked}");
        // RST_STREAM or GOAWAY.
        if matches!(head[3], 3 | 7) {
            assert_eq!(payload[payload.len().min(8) - 1], 1, "{asked}: {payload:?}");
            return;
        }
    }
}

const HANDSHAKE: [(&str, &str); 6] = [
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "http"),
    (":path", "/ws"),
    (":authority", "api.shop"),
    ("sec-websocket-version", "13"),
];

fn headers_of_a_handshake() -> Vec<u8> {
    headers(&HANDSHAKE)
}

#[test]
fn a_protocol_said_twice_or_of_another_method_resets_the_stream() {
    on_one_core(async {
        let world = world_with(Protocol::Http2, over_http2(true).await, Settings::default()).await;
        let mut twice = HANDSHAKE.to_vec();
        twice.insert(1, (":protocol", "websocket"));
        let mut get = HANDSHAKE.to_vec();
        get[0].1 = "GET";
        let pathless: Vec<_> = HANDSHAKE.iter().copied().filter(|(name, _)| *name != ":path").collect();
        for fields in [twice, get, pathless] {
            let mut raw = world.raw_caller().await;
            raw.write_all(&[PREFACE, &headers(&fields)].concat()).await.unwrap();
            reset(&mut raw, &format!("{fields:?}")).await;
        }
        assert_eq!(world.dials.get(), 0);
    });
}
