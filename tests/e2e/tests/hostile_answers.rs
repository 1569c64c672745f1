//! RELIABILITY 2.1, the other direction: what an application answers is read as strictly as what a caller asks.
//!
//! Each answer comes on a connection that would have been kept. A doubt costs the application that connection, and its
//! caller gets 502, or a broken response where the head was out already: never a second response, and never a
//! shortened one that passes for whole.

use std::fmt::Write;

use anyhow::Result;
use mesh_test_e2e::{HTTP, at, pair, request};
use mesh_test_harness::clients::Connected;
use mesh_test_harness::eventually::PATIENCE;
use mesh_test_harness::mesh::Mesh;
use mesh_test_harness::servers::{Kind, Server};

/// What the caller may make of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passes {
    /// Nothing: 502.
    No,
    /// This status and this body, whole, without what follows.
    Whole(u16, &'static str),
    /// The head and some of the body; that it is not whole can be seen.
    Broken,
}

/// What each answer is, its bytes, whether the connection ends after them, and what becomes of it.
const ANSWERS: [(&str, &str, bool, Passes); 40] = [
    (
        "two responses",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nsmuggled",
        false,
        Passes::Whole(200, "ok"),
    ),
    (
        "more than its length",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\noksmuggled",
        false,
        Passes::Whole(200, "ok"),
    ),
    ("204 with a body", "HTTP/1.1 204 No\r\ncontent-length: 8\r\n\r\nsmuggled", false, Passes::No),
    ("204 with bytes after it", "HTTP/1.1 204 No\r\n\r\nsmuggled", false, Passes::Whole(204, "")),
    (
        "204 in chunks",
        "HTTP/1.1 204 No\r\ntransfer-encoding: chunked\r\n\r\n8\r\nsmuggled\r\n0\r\n\r\n",
        false,
        Passes::No,
    ),
    ("304 with bytes after it", "HTTP/1.1 304 Same\r\n\r\nsmuggled", false, Passes::Whole(304, "")),
    (
        "100 in chunks",
        "HTTP/1.1 100 Go\r\ntransfer-encoding: chunked\r\n\r\n8\r\nsmuggled\r\n0\r\n\r\n",
        false,
        Passes::No,
    ),
    (
        "101 that nobody asked for",
        "HTTP/1.1 101 Switch\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nsmuggled",
        false,
        Passes::No,
    ),
    (
        "length and chunks",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n8\r\nsmuggled\r\n0\r\n\r\n",
        false,
        Passes::No,
    ),
    (
        "chunks and length",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n8\r\nsmuggled\r\n0\r\n\r\n",
        false,
        Passes::No,
    ),
    (
        "two lengths",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 8\r\n\r\nsmuggled",
        false,
        Passes::No,
    ),
    ("a list of lengths", "HTTP/1.1 200 OK\r\ncontent-length: 8, 8\r\n\r\nsmuggled", false, Passes::No),
    ("length +8", "HTTP/1.1 200 OK\r\ncontent-length: +8\r\n\r\nsmuggled", false, Passes::No),
    ("length -1", "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nsmuggled", false, Passes::No),
    ("an empty length", "HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\nsmuggled", false, Passes::No),
    (
        "a huge length",
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\nsmuggled",
        false,
        Passes::No,
    ),
    (
        "chunked twice",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n8\r\nsmuggled\r\n0\r\n\r\n",
        false,
        Passes::No,
    ),
    (
        "gzip, chunked",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n8\r\nsmuggled\r\n0\r\n\r\n",
        false,
        Passes::No,
    ),
    (
        "xchunked",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\n8\r\nsmuggled\r\n0\r\n\r\n",
        false,
        Passes::No,
    ),
    (
        "1.0 in chunks",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\nsmuggled\r\n0\r\n\r\n",
        false,
        Passes::No,
    ),
    (
        "a first chunk without a size",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxx\r\nsmuggled\r\n0\r\n\r\n",
        false,
        Passes::Broken,
    ),
    (
        "a first chunk of size 0x8",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0x8\r\nsmuggled\r\n0\r\n\r\n",
        false,
        Passes::Broken,
    ),
    (
        "a chunk that ends in LF",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\nok\n8\nsmuggled\n0\n\n",
        false,
        Passes::Broken,
    ),
    (
        "a later chunk without a size",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\nxx\r\nsmuggled\r\n0\r\n\r\n",
        false,
        Passes::Broken,
    ),
    (
        "a chunk longer than it says",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\noksmuggled\r\n0\r\n\r\n",
        false,
        Passes::Broken,
    ),
    ("a length cut short", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nok", true, Passes::Broken),
    (
        "chunks cut short",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
        true,
        Passes::Broken,
    ),
    (
        "a chunk cut short",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\nok",
        true,
        Passes::Broken,
    ),
    ("a head cut short", "HTTP/1.1 200 OK\r\ncontent-le", true, Passes::Broken),
    ("nothing", "", true, Passes::Broken),
    ("bare LF", "HTTP/1.1 200 OK\ncontent-length: 8\n\nsmuggled", false, Passes::No),
    ("bare CR", "HTTP/1.1 200 OK\r\nx: 1\ry: 2\r\ncontent-length: 8\r\n\r\nsmuggled", false, Passes::No),
    (
        "a folded field",
        "HTTP/1.1 200 OK\r\nx: 1\r\n 2\r\ncontent-length: 8\r\n\r\nsmuggled",
        false,
        Passes::No,
    ),
    ("NUL in a value", "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 8\r\n\r\nsmuggled", false, Passes::No),
    ("space before the colon", "HTTP/1.1 200 OK\r\ncontent-length : 8\r\n\r\nsmuggled", false, Passes::No),
    ("status of two digits", "HTTP/1.1 20 OK\r\ncontent-length: 8\r\n\r\nsmuggled", false, Passes::No),
    ("status 099", "HTTP/1.1 099 OK\r\ncontent-length: 8\r\n\r\nsmuggled", false, Passes::No),
    ("version 2.0", "HTTP/2.0 200 OK\r\ncontent-length: 8\r\n\r\nsmuggled", false, Passes::No),
    ("no version", "200 OK\r\ncontent-length: 8\r\n\r\nsmuggled", false, Passes::No),
    ("a request", "GET / HTTP/1.1\r\nhost: a\r\n\r\nsmuggled", false, Passes::No),
];

fn path(bytes: &str, ends: bool) -> String {
    let mut path = String::from(if ends { "/last/" } else { "/verbatim/" });
    for byte in bytes.bytes() {
        write!(path, "{byte:02x}").expect("a string takes everything");
    }
    path
}

/// On which of its connections the application saw the requests so far.
fn connections(server: &Server) -> Vec<u64> {
    server.events("request").iter().filter_map(|event| event["connection"].as_u64()).collect()
}

/// What is wrong with what a caller got, if anything is.
fn fault(passes: Passes, seen: &Answer) -> Option<&'static str> {
    let Answer { status, body, whole } = seen;
    // 503 where the called pod's daemon broke off what the caller's had not begun to pass on.
    let refused = matches!(status, 502 | 503);
    match passes {
        _ if body.contains("smuggled") => Some("it is passed on"),
        Passes::No if *status != 502 => Some("it is no 502"),
        Passes::Whole(expected, text) if (*status, body.as_str(), *whole) != (expected, text, true) => {
            Some("what is good of it does not pass")
        }
        Passes::Broken if !refused && *whole => Some("it passes for whole"),
        _ => None,
    }
}

/// What a caller got.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: String,
    /// Whether it says that it is.
    whole: bool,
}

impl Answer {
    /// The first answer among what came over HTTP/1.1, and the status of the one after it.
    fn read(seen: &Connected) -> (Self, Option<u16>) {
        let mut parts = seen.received.split("HTTP/1.1 ").skip(1);
        let status = |part: &str| part.get(..3)?.parse().ok();
        let first = parts.next().unwrap_or_default();
        let second = parts.next().and_then(status);
        let (head, body) = first.split_once("\r\n\r\n").unwrap_or((first, ""));
        let whole = second.is_some() || head.contains("chunked") && body.ends_with("0\r\n\r\n");
        (Self { status: status(first).unwrap_or(0), body: body.to_owned(), whole }, second)
    }
}

/// Tries every answer: what is wrong, by name.
fn faults(server: &Server, ask: impl Fn(&str) -> Result<(Answer, Option<u16>)>) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for (name, answer, ends, passes) in ANSWERS {
        let before = connections(server).len();
        let (first, second) = ask(&path(answer, ends))?;
        let again = connections(server)[before..].windows(2).any(|pair| pair[0] == pair[1]);
        let after = (again).then_some("the connection is used again");
        let lost =
            (second.is_some_and(|status| status != 299)).then_some("the next request has another answer");
        for fault in [fault(passes, &first), after, lost].into_iter().flatten() {
            faults.push(format!("{name}: {fault}: {first:?}, then {second:?}"));
        }
    }
    Ok(faults)
}

#[test]
fn a_doubtful_answer_over_http_1_is_502_or_broken() {
    pair().run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        let faults = faults(&server, |path| {
            let asked =
                request(&format!("GET {path}"), "") + &request("GET /status/299", "connection: close\r\n");
            Ok(Answer::read(&mesh.pod("client").dial(at(80)).send(asked).quiet(PATIENCE).connected()?))
        })?;
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        Ok(())
    });
}

#[test]
fn a_doubtful_answer_to_a_caller_of_http_2_is_502_or_broken() {
    pair().run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        let faults = faults(&server, |path| ask_http2(mesh, path))?;
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        Ok(())
    });
}

/// Asks for a path over HTTP/2, then for another.
fn ask_http2(mesh: &Mesh, path: &str) -> Result<(Answer, Option<u16>)> {
    let ask = |path: &str| {
        mesh.pod("client").curl(&format!("http://{}{path}", at(80)), &["--http2-prior-knowledge"])
    };
    let (first, second) = (ask(path)?, ask("/status/299")?);
    Ok((Answer { status: first.status, body: first.body, whole: first.exit == 0 }, Some(second.status)))
}

#[test]
fn a_body_in_answer_to_head_reaches_nobody() {
    pair().run(|mesh| {
        let server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nsmuggled";
        let asked = request(&format!("HEAD {}", path(answer, false)), "")
            + &request("GET /status/299", "connection: close\r\n");
        let seen = mesh.pod("client").dial(at(80)).send(asked).quiet(PATIENCE).connected()?;
        assert!(seen.received.starts_with("HTTP/1.1 200") && !seen.received.contains("smuggled"), "{seen:?}");
        assert_ne!(connections(&server)[0], connections(&server)[1], "the connection is used again");
        Ok(())
    });
}

#[test]
fn interim_answers_without_end_are_502() {
    pair().run(|mesh| {
        let _server = mesh.pod("server").serve(Kind::Http, HTTP)?;
        let answer = "HTTP/1.1 102 Wait\r\n\r\n".repeat(80);
        let asked = request(&format!("GET {}", path(&answer, false)), "connection: close\r\n");
        let seen = mesh.pod("client").dial(at(80)).send(asked).quiet(PATIENCE).connected()?;
        assert!(seen.received.contains("HTTP/1.1 502"), "{seen:?}");
        Ok(())
    });
}
