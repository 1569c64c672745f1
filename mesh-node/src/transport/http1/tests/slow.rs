//! Networks and clients that are slower than those who send to them.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use mesh_common::model::Direction;

use super::world::{Side, To, application, connect, get, judge, polite, read_all, read_message};
use crate::transport::CloseReason;
use crate::transport::http1::HttpSettings;
use crate::transport::tunnel::Settings;
use crate::transport::tunnel::tests::slow::slow_wire;
use crate::transport::tunnel::tests::world::World;

#[test]
fn uploads_that_are_more_than_the_network_takes_wait_for_it() {
    let (world, seen) = (World::new(), Arc::default());
    let inbound = judge(&world, Direction::Inbound, To::Application(polite(&seen)));
    let destination = Side::start(inbound, Direction::Inbound, Settings::default());
    let outbound = judge(&world, Direction::Outbound, To::Tunnel(slow_wire(destination.address)));
    let source = Side::start(outbound, Direction::Outbound, Settings::default());
    let body = vec![1; 128 << 10];
    let clients: Vec<_> = (0..80)
        .map(|_| {
            let (mut client, body) = (connect(source.address), body.clone());
            std::thread::spawn(move || {
                let length = body.len();
                write!(client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n").unwrap();
                client.write_all(&body).unwrap();
                String::from_utf8(read_message(&mut client).unwrap().1).unwrap()
            })
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().unwrap(), format!("POST / HTTP/1.1 +{}", body.len()));
    }
    assert_eq!(source.counters.tunnels_lost.read(), 0);
    assert_eq!(source.counters.tunnels_opened.read(), 1);
}

/// An application that answers with so many bytes, whose end is that of the connection.
pub(super) fn gives(bytes: usize) -> SocketAddr {
    application(move |mut stream| {
        if read_message(&mut stream).is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            // Where the client is cut off this fails.
            let _ = stream.write_all(&vec![b'x'; bytes]);
        }
    })
}

pub(super) fn source_of(world: &World, application: SocketAddr, http: HttpSettings) -> Side {
    let local = judge(world, Direction::Outbound, To::Application(application));
    Side::start(local, Direction::Outbound, Settings { http, ..Settings::default() })
}

#[test]
fn a_client_that_takes_nothing_of_what_waits_for_it_is_cut_off() {
    let world = World::new();
    // What kernels take counts as taken: with this rate it buys half a second.
    let http = HttpSettings {
        response_timeout: Duration::from_secs(1),
        response_rate: 1 << 20,
        ..HttpSettings::default()
    };
    // More than kernels hold for a reader.
    let source = source_of(&world, gives(64 << 20), http);
    let mut client = connect(source.address);
    client.write_all(get("/").as_bytes()).unwrap();
    let (_, outcome) = source.exchanges(1)[0];
    assert_eq!((outcome.status, outcome.failure), (200, Some(CloseReason::NotTaken)));
    let ended = std::io::copy(&mut client, &mut std::io::sink());
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset, "never as if that had been all");
}

#[test]
fn a_client_that_pauses_gets_the_end_of_its_last_answer() {
    let world = World::new();
    // What the kernels hold of a connection whose reader pauses, and around it: some of these answers end while
    // only a little waits here.
    let held = held_by_kernels();
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let size = held + number * (32 << 10);
            let source = source_of(&world, gives(size), HttpSettings::default());
            std::thread::spawn(move || {
                let source = source;
                let mut client = connect(source.address);
                client.write_all(b"GET / HTTP/1.0\r\nHost: web\r\n\r\n").unwrap();
                // Longer than a client has that is only to end its connection.
                std::thread::park_timeout(Duration::from_secs(3));
                let text = read_all(&mut client);
                let (_, body) = text.split_once("\r\n\r\n").unwrap();
                assert_eq!(body.len(), size);
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
}

fn held_by_kernels() -> usize {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _reader = connect(listener.local_addr().unwrap());
    let (mut writer, _) = listener.accept().unwrap();
    writer.set_nonblocking(true).unwrap();
    let (block, mut held) = (vec![b'x'; 64 << 10], 0);
    while let Ok(length) = writer.write(&block) {
        held += length;
    }
    held
}
