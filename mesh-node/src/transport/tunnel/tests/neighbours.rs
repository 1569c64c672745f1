//! Two engines of one daemon: what one accepts while it carries more, the other gets.

use std::net::TcpStream;

use mesh_common::model::Direction;

use super::world::{PATIENCE, Side, World, application, connect, echo, eventually, ping, share};
use crate::transport::tunnel::Settings;

fn carried(side: &Side) -> u64 {
    side.counters.connections.read()
}

/// `count` connections to `side`, each served.
fn pinged(side: &Side, count: usize) -> Vec<TcpStream> {
    let mut streams: Vec<_> = (0..count).map(|_| connect(side.address)).collect();
    for stream in &mut streams {
        ping(stream, b"whoever has it answers");
    }
    streams
}

#[test]
fn connections_to_one_core_are_carried_by_both() {
    let world = World::new();
    let destination = world.destination(application(echo));
    let [busy, idle] = [world.source(destination.address), world.source(destination.address)];
    share(&busy.handle, &idle.handle);
    let streams = pinged(&busy, 64);
    // Each has a tunnel too, and gives nothing away for less than a quarter.
    assert_eq!(carried(&busy) + carried(&idle), 64);
    assert!((25..=39).contains(&carried(&busy)), "of 64 it kept {}", carried(&busy));
    assert_eq!(busy.counters.given.read(), carried(&idle));
    drop(streams);
    eventually("all to end", || (carried(&busy) + carried(&idle) == 0).then_some(()));
    // What was given has been counted off: those that come next are shared as evenly.
    let _streams = pinged(&busy, 64);
    assert!((25..=39).contains(&carried(&busy)), "of 64 more it kept {}", carried(&busy));
}

#[test]
fn who_accepts_alone_keeps_all() {
    let world = World::new();
    let destination = world.destination(application(echo));
    let only = world.source(destination.address);
    let _streams = pinged(&only, 16);
    assert_eq!((carried(&only), only.counters.given.read()), (16, 0));
}

#[test]
fn what_a_core_would_hold_back_is_given_back_to_it() {
    let world = World::new();
    let destination = world.destination(application(echo));
    let mut script = world.script(Direction::Outbound, destination.address);
    script.held_back = Some(PATIENCE);
    let [busy, holds] =
        [world.source(destination.address), Side::start(script, Direction::Outbound, Settings::default())];
    share(&busy.handle, &holds.handle);
    let _streams = pinged(&busy, 16);
    assert_eq!([carried(&busy), carried(&holds)], [16, 0]);
    assert!(busy.counters.given.read() > 0);
}
