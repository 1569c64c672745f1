//! Engines that take no more, and clients that are told to go.

use std::io::{Read, Write};
use std::sync::Arc;

use mesh_common::model::Direction;

use super::world::{
    Side, To, application, ask, connect, eventually, get, judge, pair, polite, read_all, read_message,
};
use crate::transport::tunnel::tests::world::{World, share};
use crate::transport::tunnel::{Engine, Settings};

#[test]
fn a_drained_engine_lets_exchanges_end_and_takes_no_more() {
    let world = World::new();
    let (answer, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let waits = application(move |mut stream| {
        read_message(&mut stream);
        wait.lock().unwrap().recv().unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        let _ = stream.read(&mut [0]);
    });
    let (source, destination) = pair(&world, waits);
    let mut client = connect(source.address);
    client.write_all(get("/").as_bytes()).unwrap();
    eventually("the request to arrive", || {
        (destination.log.requests.lock().unwrap().len() == 1).then_some(())
    });
    source.handle.send(Engine::drain);
    answer.send(()).unwrap();
    let text = read_all(&mut client);
    assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("connection: close"), "{text:?}");
}

#[test]
fn a_connection_that_nobody_takes_before_all_drain_is_served_and_hears_of_it() {
    let (world, seen) = (World::new(), Arc::default());
    let application = polite(&seen);
    let start = || {
        let judge = judge(&world, Direction::Outbound, To::Application(application));
        Side::start(judge, Direction::Outbound, Settings::default())
    };
    let [busy, drains] = [start(), start()];
    share(&busy.handle, &drains.handle);
    // As many as it keeps in any case.
    let mut kept: Vec<_> = (0..5).map(|_| connect(busy.address)).collect();
    for client in &mut kept {
        assert_eq!(ask(client, &get("/")).0, 200);
    }
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    drains.handle.send(move |engine| {
        wait.recv().unwrap();
        engine.drain();
    });
    let mut given = connect(busy.address);
    given.write_all(get("/").as_bytes()).unwrap();
    eventually("it to be given", || (busy.counters.given.read() == 1).then_some(()));
    busy.handle.send(Engine::drain);
    eventually("idle ones to go", || (busy.counters.connections.read() == 0).then_some(()));
    go_on.send(()).unwrap();
    let text = read_all(&mut given);
    assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("connection: close"), "{text:?}");
    assert_eq!(drains.counters.accepted.read(), 0, "it was given");
}
