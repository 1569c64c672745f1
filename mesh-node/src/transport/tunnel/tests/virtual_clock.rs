//! The deadlines of connections as they are by default, by a clock that the test moves: nothing ends a second before its
//! time, everything does a second after it.

use rustls::ClientConnection;

use super::world::{full, is_quiet, pass};
use super::*;
use crate::identity::{Alpn, server_name};

const SECOND: Duration = Duration::from_secs(1);

/// A connection that is quiet until its `deadline`, and reset then.
fn ends_at(side: &Side, stream: TcpStream, deadline: Duration) {
    pass(&side.handle, deadline - SECOND);
    assert!(is_quiet(&stream), "it ended too early");
    pass(&side.handle, 2 * SECOND);
    assert_eq!(ends_in(stream), Some(ErrorKind::ConnectionReset));
}

#[test]
fn a_connection_on_which_nothing_moves_has_an_hour() {
    let world = World::new();
    let (source, _destination) = world.pair(application(echo));
    let mut stream = connect(source.address);
    ping(&mut stream, b"first");
    pass(&source.handle, 1800 * SECOND);
    ping(&mut stream, b"moves");
    ends_at(&source, stream, Settings::default().idle_timeout);
    assert_eq!(source.outcomes(1)[0].reason, CloseReason::IdleTimedOut);
}

#[test]
fn first_bytes_have_five_seconds() {
    let world = World::new();
    let destination = world.destination(nobody());
    let stream = connect(destination.address);
    eventually("it to wait", || (destination.counters.pending_handshakes.read() == 1).then_some(()));
    ends_at(&destination, stream, Settings::default().detect_timeout);
}

/// A source whose tunnels go to `destination`; what it is held up by is under way when the clock moves.
fn source_to(world: &World, destination: SocketAddr) -> (Side, TcpStream) {
    let source = world.source(destination);
    let stream = connect(source.address);
    eventually("it to be under way", || (source.counters.connections.read() == 1).then_some(()));
    (source, stream)
}

#[test]
fn a_connection_that_waits_for_its_tunnel_has_five_seconds() {
    let world = World::new();
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let (source, stream) = source_to(&world, mute.local_addr().unwrap());
    ends_at(&source, stream, Settings::default().connect_timeout);
}

#[test]
fn a_connect_has_five_seconds() {
    let world = World::new();
    let (address, _held) = full();
    let mut script = world.script(Direction::Outbound, nobody());
    script.outbound = Route::Direct(address);
    let source = Side::start(script, Direction::Outbound, Settings::default());
    let stream = connect(source.address);
    eventually("the connect to begin", || (source.counters.connections.read() == 1).then_some(()));
    ends_at(&source, stream, Settings::default().connect_timeout);
    assert_eq!(source.outcomes(1)[0].reason, CloseReason::Connect(ConnectFailure::TimedOut));
}

#[test]
fn a_tunnel_without_streams_has_half_a_minute() {
    let world = World::new();
    let (source, destination) = world.pair(application(echo));
    ping(&mut connect(source.address), b"once");
    source.outcomes(1);
    pass(&source.handle, Settings::default().tunnel_idle_timeout - SECOND);
    assert_eq!(source.counters.tunnels.read(), 1, "it ended too early");
    pass(&source.handle, 2 * SECOND);
    eventually("the tunnel to end", || (source.counters.tunnels.read() == 0).then_some(()));
    eventually("the other side too", || (destination.counters.tunnels.read() == 0).then_some(()));
}

#[test]
fn a_tunnel_takes_new_streams_for_a_minute() {
    let world = World::new();
    let (source, _destination) = world.pair(application(echo));
    let mut first = connect(source.address);
    ping(&mut first, b"first");
    let opened = || source.counters.tunnels_opened.read();
    pass(&source.handle, Settings::default().tunnel_max_age - SECOND);
    ping(&mut connect(source.address), b"in time");
    assert_eq!(opened(), 1, "it takes no more too early");
    pass(&source.handle, 2 * SECOND);
    ping(&mut connect(source.address), b"later");
    assert_eq!(opened(), 2);
    ping(&mut first, b"what it carries goes on");
}

/// A handshake of this side that is under way, whatever comes of it, until its `deadline`.
fn handshake_ends_at(side: &Side, deadline: Duration) {
    pass(&side.handle, deadline - SECOND);
    let lost = || side.log.losses.lock().unwrap().clone();
    assert_eq!((lost(), side.counters.pending_handshakes.read()), (vec![], 1), "it ended too early");
    pass(&side.handle, 2 * SECOND);
    assert_eq!((lost(), side.counters.pending_handshakes.read()), (vec![TunnelLoss::HandshakeTimedOut], 0));
}

#[test]
fn a_handshake_with_an_agent_that_says_nothing_has_ten_seconds() {
    let world = World::new();
    // Also where it is over before a connect would be.
    for handshake_timeout in [Settings::default().handshake_timeout, 3 * SECOND] {
        let mute = TcpListener::bind("127.0.0.1:0").unwrap();
        let script = world.script(Direction::Outbound, mute.local_addr().unwrap());
        let settings = Settings { handshake_timeout, ..Settings::default() };
        let source = Side::start(script, Direction::Outbound, settings);
        let _stream = connect(source.address);
        let mut accepted = mute.accept().unwrap().0;
        accepted.set_read_timeout(Some(PATIENCE)).unwrap();
        // The connect is over for both sides once something was said.
        accepted.read_exact(&mut [0]).unwrap();
        handshake_ends_at(&source, handshake_timeout);
    }
}

#[test]
fn a_handshake_of_an_agent_that_says_nothing_more_has_ten_seconds() {
    let world = World::new();
    let destination = world.destination(nobody());
    let mut stream = connect(destination.address);
    let config = world.identities.client(&world.client, &world.server, Alpn::Mux1).unwrap();
    let name = server_name(Some("web.shop.svc.cluster.local"), destination.address.ip());
    let mut tls = ClientConnection::new(config, name).unwrap();
    tls.write_tls(&mut stream).unwrap();
    // The answer: from now on the client is waited for.
    stream.read_exact(&mut [0]).unwrap();
    handshake_ends_at(&destination, Settings::default().handshake_timeout);
}

/// Whether nothing is accepted for now.
fn is_held_back(side: &Side) -> bool {
    let (tell, told) = std::sync::mpsc::channel();
    side.handle.send(move |engine| {
        tell.send(engine.listeners.iter().all(|(_, listening)| listening.is_held_back)).unwrap();
    });
    told.recv_timeout(PATIENCE).unwrap()
}

#[test]
fn what_a_pod_that_is_held_back_opens_is_left_where_it_is_until_then() {
    let world = World::new();
    let destination = world.destination(application(echo));
    let mut script = world.script(Direction::Outbound, destination.address);
    script.held_back = Some(3600 * SECOND);
    let source = Side::start(script, Direction::Outbound, Settings::default());
    let mut stream = connect(source.address);
    eventually("it to be held back", || is_held_back(&source).then_some(()));
    // It is not asked again before the time is over.
    source.handle.send(|engine| engine.conductor().held_back = None);
    pass(&source.handle, 3500 * SECOND);
    assert!(is_held_back(&source) && is_quiet(&stream));
    assert_eq!(source.counters.accepted.read(), 0);
    pass(&source.handle, 200 * SECOND);
    ping(&mut stream, b"it waited");
    assert!(!is_held_back(&source));
    assert_eq!(source.counters.accepted.read(), 1);
}
