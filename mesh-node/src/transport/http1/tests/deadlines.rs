//! How long a client may take, for real.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_common::model::Direction;

use super::world::{Side, To, application, ask, connect, eventually, get, judge, polite, read_all};
use crate::transport::http1::HttpSettings;
use crate::transport::tunnel::Settings;
use crate::transport::tunnel::tests::world::{PATIENCE, World};

/// A source whose clients have so long for each thing.
fn source_with_deadlines(world: &World, each: Duration) -> Side {
    let http = HttpSettings {
        header_timeout: each,
        body_timeout: each,
        idle_timeout: each,
        ..HttpSettings::default()
    };
    let local = judge(world, Direction::Outbound, To::Application(polite(&Arc::default())));
    Side::start(local, Direction::Outbound, Settings { http, ..Settings::default() })
}

#[test]
fn each_deadline_of_a_slow_client_holds() {
    let world = World::new();
    let source = source_with_deadlines(&world, Duration::from_millis(200));
    let start = Instant::now();
    for (sent, expected) in [
        ("", ""),
        ("GET / HT", "HTTP/1.1 408 "),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx", "HTTP/1.1 408 "),
    ] {
        let mut client = connect(source.address);
        client.write_all(sent.as_bytes()).unwrap();
        let answer = read_all(&mut client);
        assert!(answer.starts_with(expected), "{sent:?}: {answer:?}");
    }
    assert!(start.elapsed() >= Duration::from_millis(600), "{:?}", start.elapsed());
}

/// Writes a byte after each `pace` until there is an answer: how that begins.
fn drip(client: &mut TcpStream, pace: Duration) -> String {
    let start = Instant::now();
    client.set_read_timeout(Some(pace)).unwrap();
    let mut answer = [0; 12];
    while client.read_exact(&mut answer).is_err() {
        assert!(start.elapsed() < PATIENCE / 2, "still taken");
        client.write_all(b"x").unwrap();
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_body_that_drips_is_cut_off_though_something_always_comes() {
    let each = Duration::from_secs(1);
    let world = World::new();
    let http = HttpSettings { body_timeout: each, body_rate: 1000, ..HttpSettings::default() };
    let local = judge(&world, Direction::Outbound, To::Application(polite(&Arc::default())));
    let source = Side::start(local, Direction::Outbound, Settings { http, ..Settings::default() });
    let mut client = connect(source.address);
    let start = Instant::now();
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n").unwrap();
    assert_eq!(drip(&mut client, each / 20), "HTTP/1.1 408");
    assert!(start.elapsed() >= each, "{:?}", start.elapsed());
}

#[test]
fn framing_is_no_progress_of_a_body() {
    let each = Duration::from_secs(1);
    let world = World::new();
    let http = HttpSettings { body_timeout: each, body_rate: 0, ..HttpSettings::default() };
    let listens = application(|mut stream| drop(std::io::copy(&mut stream, &mut std::io::sink())));
    let local = judge(&world, Direction::Outbound, To::Application(listens));
    let source = Side::start(local, Direction::Outbound, Settings { http, ..Settings::default() });
    let mut client = connect(source.address);
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;").unwrap();
    assert_eq!(drip(&mut client, each / 20), "HTTP/1.1 408");
}

#[test]
fn the_beginning_of_an_http_2_preface_has_as_long_as_a_head() {
    let world = World::new();
    let http = HttpSettings {
        header_timeout: Duration::from_millis(100),
        idle_timeout: PATIENCE,
        ..HttpSettings::default()
    };
    let local = judge(&world, Direction::Outbound, To::Application(polite(&Arc::default())));
    let source = Side::start(local, Direction::Outbound, Settings { http, ..Settings::default() });
    let mut client = connect(source.address);
    let start = Instant::now();
    client.write_all(b"PRI * HTTP/2.0\r\n").unwrap();
    assert_eq!(read_all(&mut client), "");
    assert!(start.elapsed() < PATIENCE / 2, "it had {:?}", start.elapsed());
}

#[test]
fn a_client_that_sends_is_never_cut_off_however_long_its_connection_lives() {
    let each = Duration::from_secs(1);
    let world = World::new();
    let source = source_with_deadlines(&world, each);
    let mut client = connect(source.address);
    let start = Instant::now();
    while start.elapsed() < each + each / 4 {
        assert_eq!(ask(&mut client, &get("/")).0, 200);
        // Far from the deadline, also where this thread is not scheduled for a while.
        std::thread::park_timeout(each / 20);
    }
}

#[test]
fn a_tunnel_that_is_too_old_takes_no_new_request_from_that_moment_on() {
    let world = World::new();
    let inbound = judge(&world, Direction::Inbound, To::Application(polite(&Arc::default())));
    let destination = Side::start(inbound, Direction::Inbound, Settings::default());
    let age = Duration::from_millis(1000);
    // Looked at when it should have been there by, and then because of its age alone.
    let each = Duration::from_millis(500);
    let settings = Settings {
        connect_timeout: each,
        handshake_timeout: each,
        tunnel_max_age: age,
        silence: PATIENCE,
        ..Settings::default()
    };
    let outbound = judge(&world, Direction::Outbound, To::Tunnel(destination.address));
    let source = Side::start(outbound, Direction::Outbound, settings);
    let (begun, mut client) = (Instant::now(), connect(source.address));
    assert_eq!(ask(&mut client, &get("/young")).0, 200);
    eventually("it to be too old", || (begun.elapsed() > age + Duration::from_millis(50)).then_some(()));
    assert_eq!(ask(&mut client, &get("/old")).0, 200);
    assert_eq!(source.counters.tunnels_opened.read(), 2);
}
