//! Callers of HTTP/2 and applications of HTTP/1.1: what a message means to one side it means to the other.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::BodyExt;
use mesh_common::model::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::websockets::{PREFACE, frame, headers, reset};
use super::world::*;

/// An application of HTTP/1.1 that gives every request that ends with `end` the same answer, and closes; and what it was
/// asked, as it came.
async fn answers(end: &'static str, answer: &'static [u8]) -> (SocketAddr, Rc<RefCell<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&asked);
    tokio::task::spawn_local(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            while !seen.borrow().ends_with(end.as_bytes()) {
                match stream.read_u8().await {
                    Ok(byte) => seen.borrow_mut().push(byte),
                    Err(_) => break,
                }
            }
            if seen.borrow().ends_with(end.as_bytes()) {
                stream.write_all(answer).await.unwrap();
            }
        }
    });
    (address, asked)
}

/// Asks such an application once: what the caller saw, and what was asked.
async fn ask(end: &'static str, answer: &'static [u8], request: Request<TestBody>) -> (Seen, Vec<u8>) {
    let world = World::start(Protocol::Http1).await;
    let (application, asked) = answers(end, answer).await;
    world.application.set(application);
    let seen = world.caller().await.ask(request).await.unwrap();
    let asked = asked.borrow().clone();
    (seen, asked)
}

/// Names and values, in alphabetical order; not the date, which each hop may say.
fn sorted(headers: &HeaderMap) -> Vec<(&str, &[u8])> {
    let fields = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let mut fields: Vec<_> = fields.filter(|(name, _)| *name != "date").collect();
    fields.sort_unstable();
    fields
}

type Fields = &'static [(&'static str, &'static [u8])];

/// Of an answer over HTTP/1.1 the caller has this status, these fields and no other, this body, these trailers.
fn check(method: Method, answer: &'static [u8], status: u16, fields: Fields, body: &str, trailers: Fields) {
    on_one_core(async {
        let mut request = get("/x");
        *request.method_mut() = method;
        let (seen, _) = ask("\r\n\r\n", answer, request).await;
        let text = answer.escape_ascii();
        assert_eq!((seen.status.as_u16(), sorted(&seen.headers)), (status, fields.to_vec()), "{text}");
        assert_eq!(seen.body, body, "{text}");
        assert_eq!(sorted(&seen.trailers.unwrap_or_default()), trailers, "{text}");
    });
}

#[test]
fn fields_of_an_answer_pass_as_they_are_but_for_those_of_its_hop() {
    check(
        Method::GET,
        b"HTTP/1.1 200 OK\r\nX: \x85admin\xa0\r\nSet-Cookie: b=2\r\nSet-Cookie: a=1\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\
          Keep-Alive: timeout=5\r\nProxy-Connection: close\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nok",
        200,
        &[("content-length", b"2"), ("set-cookie", b"a=1"), ("set-cookie", b"b=2"), ("x", b"\x85admin\xa0")],
        "ok",
        &[],
    );
}

#[test]
fn chunks_and_their_trailers_are_frames() {
    check(
        Method::GET,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nok\r\n0\r\nX-Sum: 7\r\nContent-Length: 9\r\nX-Sum: 8\r\n\r\n",
        200,
        &[],
        "ok",
        &[("x-sum", b"7"), ("x-sum", b"8")],
    );
}

#[test]
fn a_body_until_close_is_whole_at_its_close() {
    let answer = b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\nuntil the end";
    check(Method::GET, answer, 200, &[("server", b"x")], "until the end", &[]);
}

#[test]
fn an_answer_without_a_body_has_none_over_http_2() {
    let length: Fields = &[("content-length", b"1000")];
    check(Method::HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", 200, length, "", &[]);
    check(Method::HEAD, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, &[], "", &[]);
    check(Method::GET, b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", 204, &[], "", &[]);
    let same = b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 20\r\n\r\n";
    check(Method::GET, same, 304, &[("content-length", b"20"), ("etag", b"\"x\"")], "", &[]);
}

#[test]
fn an_interim_answer_is_not_taken_for_the_final_one() {
    let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
                   HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    check(Method::GET, answer, 200, &[("content-length", b"2")], "ok", &[]);
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// The lines of a head, in alphabetical order.
fn lines(asked: &[u8]) -> Vec<&[u8]> {
    let head = asked.windows(4).position(|end| end == b"\r\n\r\n").expect("it ends");
    let mut lines: Vec<_> = asked[..head].split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_request_over_http_2_says_the_same_over_http_1() {
    on_one_core(async {
        let mut request = Request::post("http://api.shop/x?q=1").body(body("text")).unwrap();
        for (name, value) in [
            ("cookie", &b"a=1"[..]),
            ("cookie", b"b=2"),
            ("expect", b"100-continue"),
            ("te", b"trailers"),
            ("x", b"\x85admin\xa0"),
            ("x", b"2"),
        ] {
            request.headers_mut().append(name, HeaderValue::from_bytes(value).unwrap());
        }
        let (seen, asked) = ask("\r\n\r\ntext", OK, request).await;
        assert_eq!(seen.status, StatusCode::OK);
        let expected: [&[u8]; 7] = [
            b"POST /x?q=1 HTTP/1.1",
            b"content-length: 4",
            b"cookie: a=1; b=2",
            b"expect: 100-continue",
            b"host: api.shop",
            b"x: 2",
            b"x: \x85admin\xa0",
        ];
        assert_eq!(lines(&asked), expected, "{}", asked.escape_ascii());
    });
}

/// A request of this method whose body has no length, with trailers.
fn with_trailers(method: Method, named: Option<&'static str>) -> Request<TestBody> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let mut trailers = HeaderMap::new();
    for (name, value) in [("x-sum", &b"7"[..]), ("host", b"7"), ("x-sum", b"\x85"), ("y", b"")] {
        trailers.append(name, HeaderValue::from_bytes(value).unwrap());
    }
    let body = channel_body(receiver).with_trailers(async { Some(Ok(trailers)) }).boxed_unsync();
    let mut request = Request::builder().method(method).uri("http://api.shop/x");
    if let Some(named) = named {
        request = request.header("trailer", named);
    }
    tokio::task::spawn_local(async move { sender.send(Bytes::from_static(b"text")).await });
    request.body(body).unwrap()
}

#[test]
fn a_request_without_a_length_goes_in_chunks_with_its_trailers_named_or_not() {
    on_one_core(async {
        for (method, named) in [(Method::PUT, Some("x-sum")), (Method::PUT, None), (Method::GET, None)] {
            let sent = with_trailers(method.clone(), named);
            let (seen, asked) = ask("\r\ny: \r\n\r\n", OK, sent).await;
            assert_eq!(seen.status, StatusCode::OK);
            let line = format!("{method} /x HTTP/1.1");
            let named = named.map(|names| format!("trailer: {names}"));
            let mut expected = vec![line.as_bytes(), b"host: api.shop"];
            expected.extend(named.as_ref().map(String::as_bytes));
            expected.push(b"transfer-encoding: chunked");
            assert_eq!(lines(&asked), expected, "{}", asked.escape_ascii());
            let rest = b"\r\n\r\n4\r\ntext\r\n0\r\nx-sum: 7\r\nx-sum: \x85\r\ny: \r\n\r\n";
            assert!(asked.ends_with(rest), "{}", asked.escape_ascii());
        }
    });
}

/// A request over HTTP/2 without what makes it one over HTTP/1.1.
const HEAD: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":path", "/x"), (":authority", "api.shop")];

#[test]
fn what_would_be_two_requests_over_http_1_is_none() {
    on_one_core(async {
        let world = World::start(Protocol::Http1).await;
        let (application, asked) = answers("\r\n\r\n", OK).await;
        world.application.set(application);
        for (name, value) in [
            ("transfer-encoding", "chunked"),
            ("connection", "close"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("te", "gzip"),
            (":authority", "other.shop"),
            (":path", "/y"),
            ("X-Upper", "1"),
            ("x y", "1"),
            ("x:y", "1"),
            ("x\r\ny", "1"),
            ("x", "1\r\ny: 2"),
            ("x", "1\ny: 2"),
            ("x", "1\0"),
        ] {
            let mut raw = world.raw_caller().await;
            let fields = [&HEAD[..], &[(name, value)]].concat();
            raw.write_all(&[PREFACE, &headers(&fields)].concat()).await.unwrap();
            reset(&mut raw, &format!("{name}: {value}")).await;
        }
        for path in ["/x y", "/x\r\ny", "x", ""] {
            let mut raw = world.raw_caller().await;
            let mut fields = HEAD;
            fields[2].1 = path;
            raw.write_all(&[PREFACE, &headers(&fields)].concat()).await.unwrap();
            reset(&mut raw, &format!(":path {path}")).await;
        }
        assert_eq!(world.dials.get(), 0);
        assert_eq!(*asked.borrow(), b"");
    });
}

#[test]
fn a_length_that_data_does_not_come_to_resets_the_stream() {
    on_one_core(async {
        for (length, data) in [("5", "abc"), ("2", "abc"), ("0", "abc"), ("5", "")] {
            let world = World::start(Protocol::Http1).await;
            let (application, asked) = answers("abc", OK).await;
            world.application.set(application);
            let mut raw = world.raw_caller().await;
            let fields = [&HEAD[..], &[("content-length", length)]].concat();
            let asking = [PREFACE, &headers(&fields), &frame(0, 1, data.as_bytes())].concat();
            raw.write_all(&asking).await.unwrap();
            reset(&mut raw, &format!("{length} and '{data}'")).await;
            // It may have begun before the end came; a whole one of another length it is not.
            let asked = asked.borrow();
            let head = asked.windows(4).position(|end| end == b"\r\n\r\n");
            let came = head.map_or(0, |head| asked.len() - head - 4);
            assert!(head.is_none() || came < length.parse().unwrap(), "{}", asked.escape_ascii());
        }
    });
}
