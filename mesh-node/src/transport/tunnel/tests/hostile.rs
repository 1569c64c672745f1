//! A peer that holds a valid certificate and speaks the wire by hand, well and badly.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

use mesh_common::model::Direction;
use mesh_common::tunnel::{Frame, MAX_RECORD, Open, ResetReason, StreamId, StreamKind, StreamToken, frames};
use rustls::{ClientConnection, StreamOwned};

use super::world::{PATIENCE, Side, World, application, connect, echo, eventually, nobody};
use crate::identity::{Alpn, server_name};
use crate::transport::tunnel::Settings;
use crate::transport::{CloseReason, TunnelLoss};

/// The client's end of a tunnel, by hand.
struct Peer {
    tls: StreamOwned<ClientConnection, TcpStream>,
}

impl Peer {
    fn of(world: &World, destination: SocketAddr) -> Self {
        let config = world.identities.client(&world.client, &world.server, Alpn::Mux1).unwrap();
        let name = server_name(None, destination.ip());
        let connection = ClientConnection::new(config, name).unwrap();
        Self { tls: StreamOwned::new(connection, connect(destination)) }
    }

    /// Sends the frames as one record.
    fn say(&mut self, said: &[Frame<'_>]) -> std::io::Result<()> {
        let mut record = Vec::new();
        said.iter().for_each(|frame| frame.write(&mut record));
        assert!(record.len() <= MAX_RECORD);
        self.tls.write_all(&record)?;
        self.tls.flush()
    }

    /// Reads until `enough` of what was read.
    fn hear(&mut self, mut enough: impl FnMut(&[Frame<'_>]) -> bool) {
        let mut heard = Vec::new();
        let mut buffer = [0; MAX_RECORD];
        loop {
            let length = self.tls.read(&mut buffer).unwrap();
            assert!(length > 0, "the tunnel ended");
            heard.extend_from_slice(&buffer[..length]);
            if enough(&frames(&heard).map_while(Result::ok).collect::<Vec<_>>()) {
                return;
            }
        }
    }

    /// Whether the other side ends the tunnel.
    fn is_ended(&mut self) -> bool {
        let mut buffer = [0; MAX_RECORD];
        loop {
            match self.tls.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            }
        }
    }
}

fn open(stream: u32) -> Frame<'static> {
    Frame::Open(
        StreamId(stream),
        Open {
            token: StreamToken([stream as u8; 16]),
            kind: StreamKind::Opaque,
            dialled: "10.96.0.1:80".parse().unwrap(),
            source_port: 40_000,
        },
    )
}

fn losses(side: &Side) -> Vec<TunnelLoss> {
    eventually("the tunnel to be lost", || {
        let losses = side.log.losses.lock().unwrap();
        (!losses.is_empty()).then(|| losses.clone())
    })
}

#[test]
fn a_tunnel_spoken_by_hand_carries_a_stream() {
    let world = World::new();
    let destination = world.destination(application(echo));
    let mut peer = Peer::of(&world, destination.address);
    peer.say(&[open(1), Frame::Data(StreamId(1), b"ping"), Frame::Fin(StreamId(1)), Frame::Ping(7)]).unwrap();
    peer.hear(|heard| {
        heard.contains(&Frame::Data(StreamId(1), b"ping"))
            && heard.contains(&Frame::Fin(StreamId(1)))
            && heard.contains(&Frame::Pong(7))
    });
    assert_eq!(destination.outcomes(1)[0].reason, CloseReason::Completed);
}

#[test]
fn a_violation_ends_the_tunnel_and_resets_what_it_carried() {
    let world = World::new();
    let cases: [&[Frame<'_>]; 4] = [
        &[Frame::Data(StreamId(9), b"never opened")],
        &[open(1)],
        &[Frame::Fin(StreamId(1)), Frame::Data(StreamId(1), b"after the end")],
        &[Frame::Credit { stream: StreamId(1), acknowledged: 1 << 40, window: 0 }],
    ];
    for bad in cases {
        let destination = world.destination(application(echo));
        let mut peer = Peer::of(&world, destination.address);
        peer.say(&[open(1), Frame::Data(StreamId(1), b"ping")]).unwrap();
        peer.hear(|heard| heard.contains(&Frame::Data(StreamId(1), b"ping")));
        peer.say(bad).unwrap();
        assert!(peer.is_ended(), "{bad:?} was borne");
        assert_eq!(losses(&destination), [TunnelLoss::Violation], "{bad:?}");
        let reason = destination.outcomes(1)[0].reason;
        assert_eq!(reason, CloseReason::TunnelLost(TunnelLoss::Violation), "{bad:?}");
    }
}

#[test]
fn no_more_than_the_window_is_held_for_an_application_that_does_not_read() {
    let world = World::new();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let never_reads = application(move |_stream| {
        let _ = held.lock().unwrap().recv_timeout(PATIENCE);
    });
    let destination = world.destination(never_reads);
    let mut peer = Peer::of(&world, destination.address);
    peer.say(&[open(1)]).unwrap();
    let block = vec![0; 16_000];
    // Far more than the window and any socket buffer: nobody grants credit for it.
    let broke = (0..10_000).any(|_| peer.say(&[Frame::Data(StreamId(1), &block)]).is_err());
    assert!(broke || peer.is_ended());
    assert_eq!(losses(&destination), [TunnelLoss::Violation]);
    let taken = destination.outcomes(1)[0].to_server;
    assert!(taken < 10_000 * 16_000, "{taken} bytes went to an application that reads none");
    drop(release);
}

#[test]
fn a_peer_that_only_asks_and_never_reads_is_given_up() {
    let world = World::new();
    let destination = world.destination(nobody());
    let mut peer = Peer::of(&world, destination.address);
    let pings: Vec<_> = (0..1000).map(Frame::Ping).collect();
    let broke = (0..4000).any(|_| peer.say(&pings).is_err());
    assert!(broke, "64 MB of questions were taken without one answer read");
    assert_eq!(losses(&destination), [TunnelLoss::NotRead]);
}

#[test]
fn streams_reset_before_an_answer_are_borne_up_to_a_limit() {
    let world = World::new();
    let destination = world.destination(nobody());
    let mut peer = Peer::of(&world, destination.address);
    // The application refuses, so the streams end by themselves too: what counts is that nothing is left behind.
    for stream in 1..=200 {
        let id = StreamId(stream);
        peer.say(&[open(stream), Frame::Reset(id, ResetReason::Cancelled)]).unwrap();
    }
    destination.outcomes(200);
    assert_eq!(destination.log.opened.load(Ordering::SeqCst), 200);
    eventually("every connection to be forgotten", || {
        (destination.counters.connections.read() == 0).then_some(())
    });
}

#[test]
fn frames_of_a_later_version_are_skipped() {
    let world = World::new();
    let destination = world.destination(application(echo));
    let mut peer = Peer::of(&world, destination.address);
    peer.tls.write_all(&[0, 0, 0, 9, 200, 0, 0, 3, 1, 2, 3]).unwrap();
    peer.say(&[open(1), Frame::Data(StreamId(1), b"ping")]).unwrap();
    peer.hear(|heard| heard.contains(&Frame::Data(StreamId(1), b"ping")));
}

#[test]
fn an_open_that_cannot_be_read_refuses_the_stream_alone() {
    let world = World::new();
    let destination = world.destination(application(echo));
    let mut peer = Peer::of(&world, destination.address);
    peer.tls.write_all(&[0, 0, 0, 1, 1, 0, 0, 3, 2, 0, 9]).unwrap();
    peer.say(&[open(2), Frame::Data(StreamId(2), b"ping")]).unwrap();
    peer.hear(|heard| {
        heard.contains(&Frame::Reset(StreamId(1), ResetReason::BadMessage))
            && heard.contains(&Frame::Data(StreamId(2), b"ping"))
    });
    assert_eq!(destination.counters.refused_streams.read(), 1);
}

#[test]
fn a_handshake_that_never_ends_is_given_up_without_growing() {
    let world = World::new();
    let settings = Settings { handshake_timeout: Duration::from_millis(300), ..Settings::default() };
    let script = world.script(Direction::Inbound, nobody());
    let destination = Side::start(script, Direction::Inbound, settings);
    // A hello that offers our ALPN, then nothing but the beginning of a message that is never complete.
    let config = world.identities.client(&world.client, &world.server, Alpn::Mux1).unwrap();
    let mut client = ClientConnection::new(config, server_name(None, destination.address.ip())).unwrap();
    let mut stream = connect(destination.address);
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    stream.write_all(&hello).unwrap();
    let record = [&[22, 3, 3, 0x40, 0][..], &[11, 0, 0xff, 0xff], &[0; 0x4000 - 4]].concat();
    let _ = (0..100).try_for_each(|_| stream.write_all(&record));
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert_eq!(losses(&destination).len(), 1);
    assert_eq!(destination.counters.pending_handshakes.read(), 0);
}

#[test]
fn a_stream_that_meets_the_end_of_its_tunnel_is_refused_not_lost() {
    let world = World::new();
    let mut script = world.script(Direction::Inbound, nobody());
    script.believed = Some(Duration::from_millis(20));
    let settings = Settings { silence: Duration::from_millis(10), ..Settings::default() };
    let destination = Side::start(script, Direction::Inbound, settings);
    let mut peer = Peer::of(&world, destination.address);
    peer.say(&[Frame::Ping(1)]).unwrap();
    peer.hear(|heard| heard.iter().any(|frame| matches!(frame, Frame::GoAway { last: 0, .. })));
    peer.say(&[open(1), Frame::Data(StreamId(1), b"on its way")]).unwrap();
    peer.hear(|heard| heard.contains(&Frame::Reset(StreamId(1), ResetReason::Draining)));
    assert_eq!(destination.log.opened.load(Ordering::SeqCst), 0);
}

#[test]
fn a_peer_that_keeps_a_tunnel_without_using_it_loses_it() {
    let world = World::new();
    let settings = Settings {
        tunnel_idle_timeout: Duration::from_millis(30),
        silence: Duration::from_millis(10),
        answer: Duration::from_millis(30),
        ..Settings::default()
    };
    let destination = Side::start(world.script(Direction::Inbound, nobody()), Direction::Inbound, settings);
    let mut peer = Peer::of(&world, destination.address);
    peer.say(&[Frame::Ping(1)]).unwrap();
    // It hears GOAWAY, does nothing about it, and asks for another stream.
    peer.hear(|heard| heard.iter().any(|frame| matches!(frame, Frame::GoAway { .. })));
    let _ = peer.say(&[open(1)]);
    assert!(peer.is_ended());
    eventually("it to be forgotten", || (destination.counters.tunnels.read() == 0).then_some(()));
    assert_eq!(destination.log.opened.load(Ordering::SeqCst), 0);
}
