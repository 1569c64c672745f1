//! A network that is slower than those who send requests over it.

use std::io::Write;
use std::sync::Arc;

use mesh_common::model::Direction;

use super::world::{Side, To, connect, judge, polite, read_message};
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
