//! A network that is slower than those who send over it: everybody waits, nobody is reset.

use mesh_common::tunnel::{Frame, MAX_RECORD, frames};
use rustls::{ServerConnection, StreamOwned};

use super::*;
use crate::identity::Alpn;
use crate::transport::tunnel::link::Link;
use crate::transport::tunnel::settings::{BACKLOG, BUDGET, REPLAY};

/// Passes on what goes to `destination` in blocks with a rest after each: some 10 MB/s, and what is ahead of it waits
/// at the sender. What comes back is not held up.
pub(in crate::transport) fn slow_wire(destination: SocketAddr) -> SocketAddr {
    application(move |mut near| {
        socket2::SockRef::from(&near).set_recv_buffer_size(64 * 1024).unwrap();
        let mut far = connect(destination);
        let (mut from, mut to) = (far.try_clone().unwrap(), near.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        let mut block = [0; 32 * 1024];
        while let Ok(length @ 1..) = near.read(&mut block) {
            if far.write_all(&block[..length]).is_err() {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(3));
        }
        let _ = far.shutdown(Shutdown::Both);
    })
}

/// Reads to the end, then says how much it was.
fn counts(mut stream: TcpStream) {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    stream.write_all(&(all.len() as u64).to_be_bytes()).unwrap();
}

/// No deadline of its own: how long a machine takes for megabytes over a slow wire says nothing of the engine.
fn patient() -> Settings {
    Settings {
        connect_timeout: PATIENCE,
        handshake_timeout: PATIENCE,
        silence: PATIENCE,
        ..Settings::default()
    }
}

/// Has `count` clients send `total` bytes each, `piece` by `piece`, over a slow wire, and checks that all arrive and
/// that no more than the backlog waits for the wire meanwhile.
fn check_uploads(count: usize, total: usize, piece: usize) {
    let world = World::new();
    let destination =
        Side::start(world.script(Direction::Inbound, application(counts)), Direction::Inbound, patient());
    let script = world.script(Direction::Outbound, slow_wire(destination.address));
    let source = Side::start(script, Direction::Outbound, patient());
    let clients: Vec<_> = (0..count)
        .map(|_| {
            let mut client = connect(source.address);
            std::thread::spawn(move || {
                let bytes = vec![7; piece];
                (0..total / piece).for_each(|_| client.write_all(&bytes).unwrap());
                client.shutdown(Shutdown::Write).unwrap();
                let mut arrived = [0; 8];
                client.read_exact(&mut arrived).unwrap();
                u64::from_be_bytes(arrived)
            })
        })
        .collect();
    let mut most = 0;
    eventually("every client to have an answer", || {
        most = most.max(backlog(&source));
        clients.iter().all(std::thread::JoinHandle::is_finished).then_some(())
    });
    for client in clients {
        assert_eq!(client.join().unwrap(), (total / piece * piece) as u64);
    }
    assert_eq!(*source.log.losses.lock().unwrap(), []);
    assert!(most < BACKLOG + 2 * BUDGET, "{most} bytes waited for the wire");
    assert!(most > BUDGET, "the wire was not slower than its senders: {most} bytes waited for it");
}

fn backlog(side: &Side) -> usize {
    let (send, receive) = std::sync::mpsc::channel();
    side.handle.send(move |engine| {
        let _ = send.send(engine.tunnels.values_mut().map(|link| Link::backlog(link)).sum());
    });
    receive.recv_timeout(PATIENCE).unwrap()
}

/// The other end of a tunnel, by hand: takes `count` streams with `each` bytes of data, then says of every one that
/// nobody was there.
fn refuses_late(world: &World, count: usize, each: usize) -> SocketAddr {
    let config = world.identities.server(&world.server, Alpn::Mux1).unwrap();
    application(move |stream| {
        let mut tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
        let (mut heard, mut buffer) = (Vec::new(), [0; MAX_RECORD]);
        let (mut streams, mut data) = (Vec::new(), 0);
        while data < count * each {
            let length = tls.read(&mut buffer).unwrap();
            assert!(length > 0, "the tunnel ended");
            heard.extend_from_slice(&buffer[..length]);
            (streams, data) = (Vec::new(), 0);
            for frame in frames(&heard).map_while(Result::ok) {
                match frame {
                    Frame::Open(id, _) => streams.push(id),
                    Frame::Data(_, bytes) => data += bytes.len(),
                    _ => {}
                }
            }
        }
        for stream in streams {
            let mut record = Vec::new();
            Frame::Reset(stream, ResetReason::ConnectRefused).write(&mut record);
            tls.write_all(&record).unwrap();
        }
        tls.flush().unwrap();
        // Until the other side ends it.
        while matches!(tls.read(&mut buffer), Ok(1..)) {}
    })
}

#[test]
fn what_is_said_again_elsewhere_waits_for_the_network_too() {
    const CLIENTS: usize = 300;
    let world = World::new();
    let destination =
        Side::start(world.script(Direction::Inbound, application(counts)), Direction::Inbound, patient());
    let mut script = world.script(Direction::Outbound, refuses_late(&world, CLIENTS, REPLAY));
    script.second = Some(Route::Tunnel(slow_wire(destination.address)));
    let source = Side::start(script, Direction::Outbound, patient());
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| connect(source.address)).collect();
    clients.iter_mut().for_each(|client| client.write_all(&[7; REPLAY]).unwrap());
    let mut most = 0;
    eventually("all of them to be tried elsewhere", || {
        most = most.max(backlog(&source));
        (source.counters.retries.read() == CLIENTS as u64).then_some(())
    });
    for client in &mut clients {
        client.shutdown(Shutdown::Write).unwrap();
        let mut arrived = [0; 8];
        let answer = client.read_exact(&mut arrived);
        assert!(answer.is_ok(), "{answer:?}; tunnels were lost: {:?}", source.log.losses.lock().unwrap());
        assert_eq!(u64::from_be_bytes(arrived), REPLAY as u64);
        most = most.max(backlog(&source));
    }
    assert_eq!(*source.log.losses.lock().unwrap(), []);
    assert!(most < BACKLOG + 2 * BUDGET, "{most} bytes waited for the wire");
    for outcome in source.outcomes(CLIENTS) {
        assert_eq!((outcome.to_server, outcome.to_client), (REPLAY as u64, 8));
    }
}

#[test]
fn bulk_that_is_faster_than_the_network_waits_for_it() {
    check_uploads(16, 1 << 20, 64 * 1024);
}

#[test]
fn many_small_writes_that_are_more_than_the_network_takes_wait_for_it() {
    check_uploads(150, 100_000, 4000);
}
