//! The deadlines of requests as they are by default, by a clock that the test moves: nothing ends a second before its time,
//! everything does a second after it.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use mesh_common::model::Direction;

use super::slow::{gives, source_of};
use super::world::{Side, To, application, ask, connect, get, judge, polite, read_all, read_message};
use super::{HANDSHAKE, switching};
use crate::transport::CloseReason;
use crate::transport::http1::HttpSettings;
use crate::transport::patience::MOST;
use crate::transport::tunnel::Settings;
use crate::transport::tunnel::tests::world::{World, eventually, full, is_quiet, pass, ping};

const SECOND: Duration = Duration::from_secs(1);

fn source_with(world: &World, http: HttpSettings) -> Side {
    let local = judge(world, Direction::Outbound, To::Application(polite(&Arc::default())));
    Side::start(local, Direction::Outbound, Settings { http, ..Settings::default() })
}

/// One that has read so many bytes of a client's by now: the clock may move.
fn client_that_said(source: &Side, said: &str) -> TcpStream {
    let mut client = connect(source.address);
    eventually("it to be taken", || (source.counters.connections.read() >= 1).then_some(()));
    client.write_all(said.as_bytes()).unwrap();
    // The turn that answers reads what came before it.
    pass(&source.handle, Duration::ZERO);
    client
}

/// Says nothing until the `deadline`, and then how the answer begins: nothing where there is none.
fn ends_at(source: &Side, mut client: TcpStream, deadline: Duration, answer: &str) {
    pass(&source.handle, deadline - SECOND);
    assert!(is_quiet(&client), "{:?}", read_all(&mut client));
    pass(&source.handle, 2 * SECOND);
    let answered = read_all(&mut client);
    assert!(answered.starts_with(answer) && answered.is_empty() == answer.is_empty(), "{answered:?}");
}

const HEAD: &str = "GET / HTT";
const BODY: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 90\r\n\r\nx";

#[test]
fn each_deadline_of_a_client_is_the_one_that_is_set() {
    let world = World::new();
    let default = HttpSettings::default();
    for (said, deadline, answer) in [
        ("", default.idle_timeout, ""),
        (HEAD, default.header_timeout, "HTTP/1.1 408 "),
        (BODY, default.body_timeout, "HTTP/1.1 408 "),
    ] {
        let source = source_with(&world, default);
        let client = client_that_said(&source, said);
        ends_at(&source, client, deadline, answer);
    }
}

#[test]
fn who_sent_much_of_a_body_has_a_minute_for_the_next_of_it() {
    const MUCH: usize = 500 << 10;
    let world = World::new();
    let (has_it, given) = std::sync::mpsc::channel();
    let takes = application(move |mut stream| {
        let mut taken = 0;
        while taken < MUCH {
            match stream.read(&mut [0; 4096]) {
                Ok(count @ 1..) => taken += count,
                _ => return,
            }
        }
        has_it.send(()).unwrap();
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let local = judge(&world, Direction::Outbound, To::Application(takes));
    let source = Side::start(local, Direction::Outbound, Settings::default());
    let mut client =
        client_that_said(&source, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n");
    client.write_all(&[b'x'; MUCH]).unwrap();
    given.recv().unwrap();
    ends_at(&source, client, HttpSettings::default().body_timeout, "HTTP/1.1 408 ");
}

/// Has kernels take what they take of an endless answer, and returns once that is all.
fn stands_still(source: &Side) -> TcpStream {
    let mut client = connect(source.address);
    client.write_all(get("/").as_bytes()).unwrap();
    let (mut seen, mut looks) = (0, 0);
    eventually("kernels to take no more", || {
        let queued = queued(&client);
        // Nothing has moved for half a second, in looks of some milliseconds each.
        looks = if queued > 0 && queued == seen { looks + 1 } else { 0 };
        seen = queued;
        (looks > 100).then_some(())
    });
    client
}

/// Bytes that came and were not read.
fn queued(client: &TcpStream) -> u64 {
    rustix::io::ioctl_fionread(client).unwrap()
}

#[test]
fn who_stands_still_has_a_minute_and_five_of_them_after_much_was_taken() {
    let default = HttpSettings::default();
    // What kernels took buys milliseconds, or hours.
    for (response_rate, deadline) in
        [(1 << 40, default.response_timeout), (default.response_rate, MOST * default.response_timeout)]
    {
        let world = World::new();
        // More than kernels hold for a reader.
        let source = source_of(&world, gives(64 << 20), HttpSettings { response_rate, ..default });
        let _client = stands_still(&source);
        pass(&source.handle, deadline - 2 * SECOND);
        assert_eq!(source.counters.connections.read(), 1, "it ended too early");
        pass(&source.handle, 3 * SECOND);
        let (_, outcome) = source.exchanges(1)[0];
        assert_eq!((outcome.status, outcome.failure), (200, Some(CloseReason::NotTaken)));
    }
}

/// What else would end them is set out of the way.
fn only_as_a_whole() -> HttpSettings {
    let later = 2 * HttpSettings::default().request_timeout;
    HttpSettings { header_timeout: later, body_timeout: later, body_rate: 0, ..HttpSettings::default() }
}

#[test]
fn a_request_has_an_hour_as_a_whole() {
    let world = World::new();
    for said in [HEAD, BODY] {
        let source = source_with(&world, only_as_a_whole());
        let client = client_that_said(&source, said);
        ends_at(&source, client, only_as_a_whole().request_timeout, "HTTP/1.1 408 ");
    }
}

#[test]
fn what_comes_of_a_request_moves_its_deadline_no_further() {
    let world = World::new();
    let source = source_with(&world, only_as_a_whole());
    let mut client = client_that_said(&source, HEAD);
    let half = only_as_a_whole().request_timeout / 2;
    pass(&source.handle, half);
    client.write_all(&BODY.as_bytes()["POST / HTT".len()..]).unwrap();
    pass(&source.handle, Duration::ZERO);
    ends_at(&source, client, half, "HTTP/1.1 408 ");
}

#[test]
fn each_request_of_a_connection_has_its_own_hour() {
    let world = World::new();
    let source = source_with(&world, only_as_a_whole());
    let mut client = connect(source.address);
    let most = only_as_a_whole().request_timeout - SECOND;
    let (begun, rest) = BODY.split_at(BODY.len() - 1);
    for _ in 0..3 {
        assert_eq!(ask(&mut client, &get("/")).0, 200);
        client.write_all(begun.as_bytes()).unwrap();
        pass(&source.handle, Duration::ZERO);
        pass(&source.handle, most);
        client.write_all(rest.repeat(90).as_bytes()).unwrap();
        assert!(read_message(&mut client).unwrap().0.starts_with("HTTP/1.1 200 "));
    }
}

#[test]
fn heads_that_follow_each_other_closely_have_their_time_each() {
    let world = World::new();
    let mut denying = judge(&world, Direction::Outbound, To::Application(polite(&Arc::default())));
    denying.denies = true;
    let source = Side::start(denying, Direction::Outbound, Settings::default());
    let mut client = client_that_said(&source, HEAD);
    let (rest, next) = ("P/1.1\r\nHost: a\r\n\r\n", "GET /denied HTT");
    client.write_all(format!("P/1.1\r\nHost: a\r\n\r\n{next}").as_bytes()).unwrap();
    read_message(&mut client).unwrap();
    let most = HttpSettings::default().header_timeout - SECOND;
    for _ in 0..3 {
        pass(&source.handle, most);
        // The end of one head and the beginning of the next in one turn: it waits for a head before and after.
        client.write_all(format!("{rest}{next}").as_bytes()).unwrap();
        assert!(read_message(&mut client).unwrap().0.starts_with("HTTP/1.1 403 "));
    }
    ends_at(&source, client, HttpSettings::default().header_timeout, "HTTP/1.1 408 ");
}

#[test]
fn what_follows_the_beginning_of_the_response_has_no_such_deadline() {
    let world = World::new();
    let answers = application(|mut stream| {
        let mut read = [0; 4096];
        let _ = std::io::Read::read(&mut stream, &mut read);
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let local = judge(&world, Direction::Outbound, To::Application(answers));
    let settings = Settings {
        http: only_as_a_whole(),
        idle_timeout: 3 * only_as_a_whole().request_timeout,
        ..Settings::default()
    };
    let source = Side::start(local, Direction::Outbound, settings);
    let mut client = connect(source.address);
    client.write_all(BODY.as_bytes()).unwrap();
    assert!(read_message(&mut client).unwrap().0.starts_with("HTTP/1.1 200 "));
    pass(&source.handle, 2 * only_as_a_whole().request_timeout);
    assert!(is_quiet(&client), "{:?}", read_all(&mut client));
}

#[test]
fn an_application_that_does_not_accept_has_five_seconds() {
    let world = World::new();
    let (address, _held) = full();
    for said in [get("/"), BODY.to_owned()] {
        let local = judge(&world, Direction::Outbound, To::Application(address));
        let source = Side::start(local, Direction::Outbound, Settings::default());
        let mut client = client_that_said(&source, &said);
        pass(&source.handle, Settings::default().connect_timeout - SECOND);
        assert!(is_quiet(&client), "{:?}", read_all(&mut client));
        pass(&source.handle, 2 * SECOND);
        let (head, _) = read_message(&mut client).unwrap();
        assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("connect_timed_out"), "{head}");
    }
}

#[test]
fn an_application_that_never_answers_has_an_hour() {
    let world = World::new();
    let (has_it, given) = std::sync::mpsc::channel();
    let mute = application(move |mut stream| {
        read_message(&mut stream);
        has_it.send(()).unwrap();
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let local = judge(&world, Direction::Outbound, To::Application(mute));
    let source = Side::start(local, Direction::Outbound, Settings::default());
    let mut client = client_that_said(&source, &get("/"));
    given.recv().unwrap();
    pass(&source.handle, Settings::default().idle_timeout - SECOND);
    assert!(is_quiet(&client), "{:?}", read_all(&mut client));
    pass(&source.handle, 2 * SECOND);
    let (head, _) = read_message(&mut client).unwrap();
    assert!(head.starts_with("HTTP/1.1 504 ") && head.contains("response_timeout"), "{head}");
}

#[test]
fn a_quiet_websocket_has_an_hour() {
    let world = World::new();
    let local = judge(&world, Direction::Outbound, To::Application(switching()));
    let source = Side::start(local, Direction::Outbound, Settings::default());
    let mut client = connect(source.address);
    client.write_all(HANDSHAKE).unwrap();
    let (head, _) = read_message(&mut client).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    client.read_exact(&mut [0; 2]).unwrap();
    let idle = Settings::default().idle_timeout;
    for _ in 0..2 {
        ping(&mut client, b"moves");
        pass(&source.handle, idle - SECOND);
        assert!(is_quiet(&client), "it ended too early");
    }
    pass(&source.handle, 2 * SECOND);
    let ended = client.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(ended, Err(ErrorKind::ConnectionReset));
}
