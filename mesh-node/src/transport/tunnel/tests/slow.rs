//! A network that is slower than those who send over it: everybody waits, nobody is reset.

use super::*;
use crate::transport::tunnel::link::Link;
use crate::transport::tunnel::settings::{BACKLOG, BUDGET};

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

/// Has `count` clients send `total` bytes each, `piece` by `piece`, over a slow wire, and checks that all arrive and
/// that no more than the backlog waits for the wire meanwhile.
fn check_uploads(count: usize, total: usize, piece: usize) {
    let world = World::new();
    let destination = world.destination(application(counts));
    let source = world.source(slow_wire(destination.address));
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

#[test]
fn bulk_that_is_faster_than_the_network_waits_for_it() {
    check_uploads(16, 1 << 20, 64 * 1024);
}

#[test]
fn many_small_writes_that_are_more_than_the_network_takes_wait_for_it() {
    check_uploads(150, 100_000, 4000);
}
