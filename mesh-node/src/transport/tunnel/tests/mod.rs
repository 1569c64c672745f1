//! The engine against itself: two of them over loopback, with real TLS and real sockets.

mod hostile;
mod neighbours;
pub(in crate::transport) mod slow;
mod tunnels;
mod virtual_clock;
pub(in crate::transport) mod world;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

use mesh_common::model::Direction;
use mesh_common::tunnel::ResetReason;

use world::{
    PATIENCE, Route, Script, Side, World, application, connect, echo, eventually, full, nobody, ping,
};

use super::{ConnectionId, Settings};
use crate::transport::handshakes::{Handshakes, Limits};
use crate::transport::{CloseReason, ConnectFailure, TunnelLoss};

fn bytes(length: usize) -> Vec<u8> {
    (0..length as u32).map(|index| index.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

/// What reading a connection to its end gives, if that is an error.
fn ends_in(mut stream: TcpStream) -> Option<ErrorKind> {
    stream.read_to_end(&mut Vec::new()).err().map(|error| error.kind())
}

#[test]
fn an_idle_connection_keeps_little() {
    // Of the 1 kB that an idle captured connection may take, this is what is not the conductor's.
    assert!(size_of::<super::pump::Pump>() <= 160);
    assert!(size_of::<super::connection::Connection<Script>>() <= 300);
}

#[test]
fn bytes_come_back_through_both_engines() {
    let world = World::new();
    let (source, destination) = world.pair(application(echo));
    let mut stream = connect(source.address);
    for length in [1, 100, 4096, 16_376, 16_377, 60_000] {
        ping(&mut stream, &bytes(length));
    }
    drop(stream);
    let total = 1 + 100 + 4096 + 16_376 + 16_377 + 60_000;
    for side in [&source, &destination] {
        let outcome = side.outcomes(1)[0];
        assert_eq!((outcome.to_server, outcome.to_client), (total, total));
        assert_eq!(outcome.reason, CloseReason::Completed);
    }
}

#[test]
fn two_hundred_streams_share_a_tunnel() {
    let world = World::new();
    let (source, destination) = world.pair(application(echo));
    let mut streams: Vec<_> = (0..200).map(|_| connect(source.address)).collect();
    for round in 0..5 {
        for (index, stream) in streams.iter_mut().enumerate() {
            stream.write_all(format!("{index} in round {round}").as_bytes()).unwrap();
        }
        for (index, stream) in streams.iter_mut().enumerate() {
            let expected = format!("{index} in round {round}");
            let mut back = vec![0; expected.len()];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(back, expected.as_bytes());
        }
    }
    assert_eq!(source.counters.tunnels_opened.read(), 1);
    assert_eq!(source.counters.streams_opened.read(), 200);
    drop(streams);
    assert!(destination.outcomes(200).iter().all(|outcome| outcome.reason == CloseReason::Completed));
    eventually("every connection to be forgotten", || {
        (source.counters.connections.read() == 0).then_some(())
    });
}

#[test]
fn half_close_is_passed_on_in_both_directions() {
    let world = World::new();
    // Answers only after the end of the request, then ends first.
    let whole = application(|mut stream| {
        let mut request = Vec::new();
        stream.read_to_end(&mut request).unwrap();
        stream.write_all(&request.iter().rev().copied().collect::<Vec<_>>()).unwrap();
    });
    let (source, _destination) = world.pair(whole);
    let mut stream = connect(source.address);
    let request = bytes(300_000);
    stream.write_all(&request).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.iter().eq(request.iter().rev()), "{} bytes came back", answer.len());
    assert_eq!(source.outcomes(1)[0].reason, CloseReason::Completed);
}

#[test]
fn a_server_that_speaks_first_waits_for_nothing() {
    let world = World::new();
    let greets = application(|mut stream| {
        stream.write_all(b"220 ready").unwrap();
        let _ = stream.read(&mut [0; 16]);
    });
    let (source, _destination) = world.pair(greets);
    let mut stream = connect(source.address);
    let mut greeting = [0; 9];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220 ready");
}

#[test]
fn bulk_goes_through_in_both_directions_at_once() {
    let world = World::new();
    let (source, _destination) = world.pair(application(echo));
    let stream = connect(source.address);
    let sent = bytes(24 << 20);
    let expected = sent.clone();
    let mut writer = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    (&stream).read_to_end(&mut back).unwrap();
    sender.join().unwrap();
    assert!(back == expected, "{} of {} bytes came back, or others", back.len(), expected.len());
}

#[test]
fn a_reset_is_passed_on_as_a_reset() {
    let world = World::new();
    let resets = application(|mut stream| {
        let _ = stream.read(&mut [0; 4]);
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let (source, destination) = world.pair(resets);
    let mut stream = connect(source.address);
    stream.write_all(b"ping").unwrap();
    assert_eq!(ends_in(stream), Some(ErrorKind::ConnectionReset));
    assert_eq!(destination.outcomes(1)[0].reason, CloseReason::ServerReset);
    assert_eq!(source.outcomes(1)[0].reason, CloseReason::PeerReset(ResetReason::Cancelled));
}

#[test]
fn a_reset_of_the_client_reaches_the_application() {
    let world = World::new();
    let (ends, ended) = std::sync::mpsc::channel();
    let watches = application(move |mut stream| {
        stream.write_all(b"x").unwrap();
        let end = stream.read_to_end(&mut Vec::new()).err().map(|error| error.kind());
        ends.send(end).unwrap();
    });
    let (source, _destination) = world.pair(watches);
    let mut stream = connect(source.address);
    stream.read_exact(&mut [0]).unwrap();
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    assert_eq!(ended.recv_timeout(PATIENCE).unwrap(), Some(ErrorKind::ConnectionReset));
}

#[test]
fn a_slow_reader_holds_its_sender_back_and_nobody_else() {
    let world = World::new();
    let floods = application(|mut stream| {
        let mut first = [0];
        stream.read_exact(&mut first).unwrap();
        match first[0] {
            b'f' => {
                let _ = stream.write_all(&bytes(64 << 20));
            }
            _ => echo(stream),
        }
    });
    let (source, destination) = world.pair(floods);
    let mut slow = connect(source.address);
    slow.write_all(b"f").unwrap();
    // As far as buffers go, then no further.
    let passed = eventually("the flood to stop", || {
        let before = live_bytes(&destination);
        std::thread::park_timeout(Duration::from_millis(100));
        (before > 0 && live_bytes(&destination) == before).then_some(before)
    });
    assert!(passed < 32 << 20, "{passed} bytes were taken from the sender");
    let mut quick = connect(source.address);
    quick.write_all(b"e").unwrap();
    ping(&mut quick, b"still here");
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).unwrap();
    assert!(rest == bytes(64 << 20), "{} bytes came", rest.len());
}

fn live_bytes(side: &Side) -> u64 {
    let (send, receive) = std::sync::mpsc::channel();
    side.handle.send(move |engine| {
        let _ = send.send(engine.live().map(|live| live.to_client).sum());
    });
    receive.recv_timeout(PATIENCE).unwrap()
}

#[test]
fn nobody_there_ends_in_a_reset() {
    let world = World::new();
    let (source, destination) = world.pair(nobody());
    assert_eq!(ends_in(connect(source.address)), Some(ErrorKind::ConnectionReset));
    let refused = CloseReason::Connect(ConnectFailure::Refused);
    assert_eq!(destination.outcomes(1)[0].reason, refused);
    assert_eq!(source.outcomes(1)[0].reason, CloseReason::PeerReset(ResetReason::ConnectRefused));
}

#[test]
fn no_daemon_there_ends_in_a_reset() {
    let world = World::new();
    let source = world.source(nobody());
    assert_eq!(ends_in(connect(source.address)), Some(ErrorKind::ConnectionReset));
    let lost = CloseReason::TunnelLost(TunnelLoss::Connect(ConnectFailure::Refused));
    assert_eq!(source.outcomes(1)[0].reason, lost);
}

#[test]
fn an_endpoint_that_refuses_is_tried_once_elsewhere_with_what_was_said() {
    let world = World::new();
    let (dead, alive) = (world.destination(nobody()), world.destination(application(echo)));
    for first in [dead.address, nobody()] {
        let mut script = world.script(Direction::Outbound, first);
        script.second = Some(Route::Tunnel(alive.address));
        let source = Side::start(script, Direction::Outbound, Settings::default());
        let mut stream = connect(source.address);
        ping(&mut stream, b"said before the first endpoint refused");
        assert_eq!(source.counters.retries.read(), 1);
    }
}

#[test]
fn a_second_refusal_is_the_last() {
    let world = World::new();
    let mut script = world.script(Direction::Outbound, nobody());
    script.second = Some(Route::Direct(nobody()));
    let source = Side::start(script, Direction::Outbound, Settings::default());
    assert_eq!(ends_in(connect(source.address)), Some(ErrorKind::ConnectionReset));
    assert_eq!(source.outcomes(1).len(), 1);
}

#[test]
fn a_refused_stream_is_a_reset_without_a_byte_to_the_application() {
    let world = World::new();
    let mut script = world.script(Direction::Inbound, application(|_| panic!("nobody may come here")));
    script.refuse_streams = Some(ResetReason::Denied);
    let destination = Side::start(script, Direction::Inbound, Settings::default());
    let source = world.source(destination.address);
    let mut stream = connect(source.address);
    let _ = stream.write_all(b"let me in");
    assert_eq!(ends_in(stream), Some(ErrorKind::ConnectionReset));
    assert_eq!(source.outcomes(1)[0].reason, CloseReason::PeerReset(ResetReason::Denied));
    assert_eq!(destination.log.opened.load(Ordering::SeqCst), 1);
}

#[test]
fn another_identity_than_the_expected_one_gets_no_stream() {
    let world = World::new();
    let destination = world.destination(application(echo));
    let mut script = world.script(Direction::Outbound, destination.address);
    script.expected = world.client.clone();
    let source = Side::start(script, Direction::Outbound, Settings::default());
    assert_eq!(ends_in(connect(source.address)), Some(ErrorKind::ConnectionReset));
    assert_eq!(source.outcomes(1)[0].reason, CloseReason::TunnelLost(TunnelLoss::Handshake));
    assert_eq!(destination.log.opened.load(Ordering::SeqCst), 0);
    eventually("the destination to hear of it", || {
        (*destination.log.losses.lock().unwrap() == [TunnelLoss::Handshake]).then_some(())
    });
}

#[test]
fn plaintext_is_the_conductors_to_decide_by_its_first_bytes() {
    let world = World::new();
    let destination = world.destination(application(echo));
    let mut plain = connect(destination.address);
    ping(&mut plain, b"GET / HTTP/1.1");
    let mut refused = connect(destination.address);
    refused.write_all(b"secret").unwrap();
    assert_eq!(ends_in(refused), Some(ErrorKind::ConnectionReset));
    assert_eq!(destination.counters.refused_by_conductor.read(), 1);
}

#[test]
fn plaintext_that_is_permitted_at_accept_lets_the_server_speak_first() {
    let world = World::new();
    let greets = application(|mut stream| stream.write_all(b"hello").unwrap());
    let mut script = world.script(Direction::Inbound, greets);
    script.plaintext_at_accept = true;
    let destination = Side::start(script, Direction::Inbound, Settings::default());
    let mut greeting = Vec::new();
    connect(destination.address).read_to_end(&mut greeting).unwrap();
    assert_eq!(greeting, b"hello");
}

#[test]
fn silence_is_refused_when_the_time_for_first_bytes_is_over() {
    let world = World::new();
    let settings = Settings { detect_timeout: Duration::from_millis(50), ..Settings::default() };
    let script = world.script(Direction::Inbound, nobody());
    let destination = Side::start(script, Direction::Inbound, settings);
    assert_eq!(ends_in(connect(destination.address)), Some(ErrorKind::ConnectionReset));
    let mut half = connect(destination.address);
    half.write_all(&[22, 3, 1, 1, 0, 1]).unwrap();
    // What began like a ClientHello and went no further is foreign: it reaches nobody, because nobody listens.
    assert_eq!(ends_in(half), Some(ErrorKind::ConnectionReset));
    assert_eq!(destination.counters.pending_handshakes.read(), 0);
}

#[test]
fn direct_connections_pass_half_close_and_bytes() {
    let world = World::new();
    let mut script = world.script(Direction::Outbound, nobody());
    script.outbound = Route::Direct(application(echo));
    let source = Side::start(script, Direction::Outbound, Settings::default());
    let mut stream = connect(source.address);
    ping(&mut stream, &bytes(50_000));
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ends_in(stream), None);
    let outcome = source.outcomes(1)[0];
    assert_eq!((outcome.to_server, outcome.to_client), (50_000, 50_000));
    assert_eq!(outcome.reason, CloseReason::Completed);
}

#[test]
fn looking_again_resets_what_is_no_longer_permitted() {
    let world = World::new();
    let (source, destination) = world.pair(application(echo));
    let mut stream = connect(source.address);
    ping(&mut stream, b"permitted");
    destination.handle.send(|engine| {
        engine.conductor().permitted = false;
        engine.recheck();
    });
    assert_eq!(ends_in(stream), Some(ErrorKind::ConnectionReset));
    assert_eq!(destination.outcomes(1)[0].reason, CloseReason::NoLongerPermitted);
    assert_eq!(source.outcomes(1)[0].reason, CloseReason::PeerReset(ResetReason::Denied));
}

#[test]
fn one_connection_can_be_closed_by_its_name() {
    let world = World::new();
    let (source, _destination) = world.pair(application(echo));
    let (mut stays, mut goes) = (connect(source.address), connect(source.address));
    ping(&mut stays, b"first");
    ping(&mut goes, b"the second one");
    source.handle.send(|engine| {
        let longest = engine.live().max_by_key(|live| live.to_server).map(|live| live.id);
        assert!(engine.close(longest.unwrap(), CloseReason::NoLongerPermitted));
        assert!(!engine.close(ConnectionId(77), CloseReason::NoLongerPermitted));
    });
    assert_eq!(ends_in(goes), Some(ErrorKind::ConnectionReset));
    ping(&mut stays, b"still");
}

#[test]
fn a_connect_that_nobody_answers_is_given_up_at_its_deadline() {
    let world = World::new();
    let (address, _held) = full();
    let mut script = world.script(Direction::Outbound, nobody());
    script.outbound = Route::Direct(address);
    let settings = Settings { connect_timeout: Duration::from_millis(100), ..Settings::default() };
    let source = Side::start(script, Direction::Outbound, settings);
    assert_eq!(ends_in(connect(source.address)), Some(ErrorKind::ConnectionReset));
    let outcome = source.outcomes(1)[0];
    assert_eq!(outcome.reason, CloseReason::Connect(ConnectFailure::TimedOut));
    assert!(outcome.duration >= settings.connect_timeout, "{outcome:?}");
}

#[test]
fn an_idle_connection_is_reset_at_its_deadline() {
    let world = World::new();
    let destination = world.destination(application(echo));
    let settings = Settings { idle_timeout: Duration::from_millis(100), ..Settings::default() };
    let script = world.script(Direction::Outbound, destination.address);
    let source = Side::start(script, Direction::Outbound, settings);
    let mut stream = connect(source.address);
    ping(&mut stream, b"active");
    assert_eq!(ends_in(stream), Some(ErrorKind::ConnectionReset));
    assert_eq!(source.outcomes(1)[0].reason, CloseReason::IdleTimedOut);
}

#[test]
fn too_many_handshakes_at_a_time_are_refused_and_counted() {
    let world = World::new();
    let script = world.script(Direction::Inbound, nobody());
    let limits = Limits { total: 2, per_source: 2 };
    let destination = Side::start_with(script, Direction::Inbound, Settings::default(), limits);
    let _waiting: Vec<_> = (0..2).map(|_| connect(destination.address)).collect();
    eventually("both to wait", || (destination.counters.pending_handshakes.read() == 2).then_some(()));
    assert_eq!(ends_in(connect(destination.address)), Some(ErrorKind::ConnectionReset));
    assert_eq!(destination.counters.refused_handshakes.read(), 1);
}

#[test]
fn a_peer_with_too_many_handshakes_keeps_nobody_else_out() {
    let world = World::new();
    let script = world.script(Direction::Inbound, application(echo));
    let limits = Limits { total: 4, per_source: 3 };
    let destination = Side::start_with(script, Direction::Inbound, Settings::default(), limits);
    let other = |_| connect_from([127, 0, 0, 9], destination.address);
    let waiting: Vec<_> = (0..3).map(other).collect();
    eventually("all to wait", || (destination.counters.pending_handshakes.read() == 3).then_some(()));
    assert_eq!(ends_in(other(3)), Some(ErrorKind::ConnectionReset));
    let source = world.source(destination.address);
    ping(&mut connect(source.address), b"by the last place");
    assert_eq!(destination.counters.refused_handshakes_of_source.read(), 1);
    drop(waiting);
    eventually("all places", || (destination.counters.pending_handshakes.read() == 0).then_some(()));
}

fn connect_from(address: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((address, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn tunnels_on_their_way_count_for_the_pod_that_makes_them() {
    let world = World::new();
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let script = world.script(Direction::Outbound, mute.local_addr().unwrap());
    let settings = Settings { tunnels_per_destination: 3, ..Settings::default() };
    let limits = Limits { total: 4, per_source: 2 };
    let source = Side::start_with(script, Direction::Outbound, settings, limits);
    let waiting: Vec<_> = (0..2).map(|_| connect(source.address)).collect();
    eventually("both to wait", || (source.counters.pending_handshakes.read() == 2).then_some(()));
    assert_eq!(ends_in(connect(source.address)), Some(ErrorKind::ConnectionReset));
    assert_eq!(source.outcomes(1)[0].reason, CloseReason::Overloaded);
    assert_eq!(source.counters.refused_handshakes_of_source.read(), 1);
    drop(waiting);
}

#[test]
fn the_engine_turns_inside_tokio_too() {
    let world = World::new();
    let destination = world.destination(application(echo));
    let script = world.script(Direction::Outbound, destination.address);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let engine = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut engine = super::Engine::new(script, Settings::default(), Handshakes::default()).unwrap();
        let socket = std::sync::Arc::new(std::os::fd::OwnedFd::from(listener));
        let (id, direction) = (super::ListenerId(1), Direction::Outbound);
        engine.listen(super::NewListener { id, socket, pod: "pod", direction }).unwrap();
        let handle = engine.handle();
        std::thread::spawn(move || {
            let mut stream = connect(address);
            for _ in 0..100 {
                ping(&mut stream, &bytes(3000));
            }
            handle.send(super::Engine::stop);
        });
        runtime.block_on(engine.drive()).unwrap();
    });
    engine.join().unwrap();
}
