//! What a changed policy does to connections and exchanges that are open.

use std::io::{Read, Write};
use std::sync::Arc;

use mesh_common::http1::relay::Ending;
use mesh_common::model::Direction;

use super::world::{
    Side, To, application, ask, connect, eventually, get, judge, pair, polite, read_all, read_message,
};
use crate::transport::tunnel::Settings;
use crate::transport::tunnel::tests::world::World;

#[test]
fn a_changed_policy_cuts_the_exchange_under_way() {
    let world = World::new();
    let hangs = application(|mut stream| {
        read_message(&mut stream);
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let (source, destination) = pair(&world, hangs);
    let mut client = connect(source.address);
    client.write_all(get("/").as_bytes()).unwrap();
    eventually("the request to arrive", || {
        (destination.log.requests.lock().unwrap().len() == 1).then_some(())
    });
    destination.handle.send(|engine| {
        engine.conductor().permitted = false;
        engine.recheck();
    });
    let (head, body) = read_message(&mut client).unwrap();
    assert!(head.starts_with("HTTP/1.1 403 ") && body == b"RBAC: access denied", "{head}");
    assert_eq!(destination.exchanges(1)[0].1.ending, Ending::Cut);
}

#[test]
fn a_connection_that_is_no_longer_permitted_is_told_and_counted_once() {
    let world = World::new();
    let source = judge(&world, Direction::Outbound, To::Application(polite(&Arc::default())));
    let source = Side::start(source, Direction::Outbound, Settings::default());
    let mut client = connect(source.address);
    assert_eq!(ask(&mut client, &get("/")).0, 200);
    // It stays for as long as a head may take.
    client.write_all(b"GET / HT").unwrap();
    for _ in 0..3 {
        source.handle.send(|engine| {
            engine.conductor().forbids = true;
            engine.recheck();
        });
    }
    client.write_all(b"TP/1.1\r\nHost: web\r\n\r\n").unwrap();
    let answer = read_all(&mut client);
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(*source.log.forbidden.lock().unwrap(), 1);
}
