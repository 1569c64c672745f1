//! The life of a tunnel: lost, too old, no longer believed, idle, drained, never up.

use super::*;

#[test]
fn a_lost_tunnel_resets_its_streams_and_the_next_connection_has_another() {
    let world = World::new();
    let app = application(echo);
    let mut destination = world.destination(app);
    let relay = Relay::to(destination.address);
    let source = world.source(relay.address);
    let mut stream = connect(source.address);
    ping(&mut stream, b"before");
    relay.cut();
    assert_eq!(ends_in(stream), Some(ErrorKind::ConnectionReset));
    assert_eq!(source.outcomes(1)[0].reason, CloseReason::TunnelLost(TunnelLoss::Closed));
    let mut stream = connect(source.address);
    ping(&mut stream, b"after");
    assert_eq!(source.counters.tunnels_opened.read(), 2);
    drop(stream);
    source.outcomes(2);
    destination.stop();
}

/// Carries connections on to another address until it is told to cut them.
struct Relay {
    address: SocketAddr,
    carried: std::sync::Arc<std::sync::Mutex<Vec<TcpStream>>>,
}

impl Relay {
    fn to(destination: SocketAddr) -> Self {
        let carried = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let ours = carried.clone();
        let address = application(move |near| {
            let far = connect(destination);
            ours.lock().unwrap().extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
            let (mut a, mut b) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut a, &mut b));
            let (mut a, mut b) = (far, near);
            let _ = std::io::copy(&mut a, &mut b);
        });
        Self { address, carried }
    }

    fn cut(&self) {
        for stream in self.carried.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn an_old_tunnel_takes_no_new_stream_and_ends_with_its_last() {
    let world = World::new();
    let destination = world.destination(application(echo));
    let settings = Settings { tunnel_max_age: Duration::from_millis(1), ..Settings::default() };
    let script = world.script(Direction::Outbound, destination.address);
    let source = Side::start(script, Direction::Outbound, settings);
    let mut old = connect(source.address);
    ping(&mut old, b"one");
    eventually("the tunnel to be retired", || {
        let mut new = connect(source.address);
        ping(&mut new, b"two");
        (source.counters.tunnels_opened.read() >= 2).then_some(())
    });
    ping(&mut old, b"still carried");
    drop(old);
    eventually("every tunnel to end", || (source.counters.tunnels.read() == 0).then_some(()));
    assert_eq!(source.counters.tunnels_lost.read(), 0);
    eventually("the other side too", || (destination.counters.tunnels.read() == 0).then_some(()));
    assert_eq!(destination.counters.tunnels_lost.read(), 0);
}

#[test]
fn a_tunnel_whose_peer_is_no_longer_believed_takes_no_new_stream() {
    let world = World::new();
    let mut script = world.script(Direction::Inbound, application(echo));
    script.believed = Some(Duration::from_millis(20));
    let settings = Settings { silence: Duration::from_millis(10), ..Settings::default() };
    let destination = Side::start(script, Direction::Inbound, settings);
    let source = world.source(destination.address);
    let mut old = connect(source.address);
    ping(&mut old, b"believed");
    eventually("another tunnel", || {
        let mut new = connect(source.address);
        let _ = new.write_all(b"new");
        let _ = new.read(&mut [0; 3]);
        (source.counters.tunnels_opened.read() >= 2).then_some(())
    });
    ping(&mut old, b"still carried");
}

#[test]
fn a_tunnel_without_streams_is_closed_after_a_while() {
    let world = World::new();
    let destination = world.destination(application(echo));
    let settings = Settings {
        tunnel_idle_timeout: Duration::from_millis(30),
        silence: Duration::from_millis(10),
        ..Settings::default()
    };
    let script = world.script(Direction::Outbound, destination.address);
    let source = Side::start(script, Direction::Outbound, settings);
    ping(&mut connect(source.address), b"once");
    eventually("the tunnel to end", || (source.counters.tunnels.read() == 0).then_some(()));
    eventually("the other side too", || (destination.counters.tunnels.read() == 0).then_some(()));
    assert_eq!((source.counters.tunnels_lost.read(), destination.counters.tunnels_lost.read()), (0, 0));
}

/// A client that never closes a tunnel by itself.
fn patient_source(world: &World, destination: &Side) -> Side {
    let settings = Settings { tunnel_idle_timeout: PATIENCE, ..Settings::default() };
    Side::start(world.script(Direction::Outbound, destination.address), Direction::Outbound, settings)
}

fn impatient_destination(world: &World) -> Side {
    let settings = Settings {
        tunnel_idle_timeout: Duration::from_millis(30),
        silence: Duration::from_millis(10),
        answer: Duration::from_millis(100),
        ..Settings::default()
    };
    Side::start(world.script(Direction::Inbound, application(echo)), Direction::Inbound, settings)
}

#[test]
fn a_server_asks_its_client_to_end_a_tunnel_without_streams() {
    let world = World::new();
    let destination = impatient_destination(&world);
    let source = patient_source(&world, &destination);
    for count in 1..=2 {
        ping(&mut connect(source.address), b"once");
        eventually("the tunnel to end", || (source.counters.tunnels.read() == 0).then_some(()));
        eventually("the other side too", || (destination.counters.tunnels.read() == 0).then_some(()));
        assert_eq!(source.counters.tunnels_opened.read(), count);
    }
    assert_eq!((source.counters.tunnels_lost.read(), destination.counters.tunnels_lost.read()), (0, 0));
}

#[test]
fn a_source_has_no_more_tunnels_than_it_may() {
    let world = World::new();
    let settings = Settings { tunnels_per_source: 1, ..Settings::default() };
    let script = world.script(Direction::Inbound, application(echo));
    let destination = Side::start(script, Direction::Inbound, settings);
    let first = patient_source(&world, &destination);
    let mut held = connect(first.address);
    ping(&mut held, b"the only one");
    let second = patient_source(&world, &destination);
    assert_eq!(ends_in(connect(second.address)), Some(ErrorKind::ConnectionReset));
    assert_eq!(*destination.log.losses.lock().unwrap(), [TunnelLoss::TooMany]);
    ping(&mut held, b"goes on");
    drop(first);
    eventually("its place to be free", || (destination.counters.tunnels.read() == 0).then_some(()));
    let third = patient_source(&world, &destination);
    ping(&mut connect(third.address), b"again");
}

#[test]
fn a_drained_destination_lets_its_streams_finish_and_takes_no_more() {
    let world = World::new();
    let (source, destination) = world.pair(application(echo));
    let mut stream = connect(source.address);
    ping(&mut stream, b"open");
    destination.handle.send(super::super::Engine::drain);
    eventually("the source to hear of it", || {
        let other = connect(source.address);
        (ends_in(other) == Some(ErrorKind::ConnectionReset)).then_some(())
    });
    ping(&mut stream, b"goes on");
    drop(stream);
    destination.outcomes(1);
    eventually("the source to end the tunnel", || (destination.counters.tunnels.read() == 0).then_some(()));
    assert_eq!(destination.counters.tunnels_lost.read(), 0);
}

#[test]
fn a_peer_that_never_answers_the_handshake_is_given_up() {
    let world = World::new();
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = Settings { handshake_timeout: Duration::from_millis(50), ..Settings::default() };
    let script = world.script(Direction::Outbound, mute.local_addr().unwrap());
    let source = Side::start(script, Direction::Outbound, settings);
    assert_eq!(ends_in(connect(source.address)), Some(ErrorKind::ConnectionReset));
    let lost = CloseReason::TunnelLost(TunnelLoss::HandshakeTimedOut);
    assert_eq!(source.outcomes(1)[0].reason, lost);
    assert_eq!(source.counters.pending_handshakes.read(), 0);
}
