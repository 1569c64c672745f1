//! What a peer still says on a stream whose exchange is over: it concerns no other exchange.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use mesh_common::model::Direction;
use mesh_common::tunnel::{Frame, MAX_RECORD, ResetReason, StreamId, frames};
use rustls::{ServerConnection, StreamOwned};

use super::world::{Side, To, application, ask, connect, get, judge, read_message};
use crate::identity::Alpn;
use crate::transport::tunnel::Settings;
use crate::transport::tunnel::tests::world::{PATIENCE, World};

/// A daemon by hand that answers the first request of each tunnel whole, without FIN.
struct ByHand {
    address: SocketAddr,
    /// Has it say `late` on that stream, and then wait until the other side has heard it.
    speak: Sender<Vec<Frame<'static>>>,
    heard: Receiver<()>,
}

type Tls = StreamOwned<ServerConnection, TcpStream>;

impl ByHand {
    fn new(world: &World) -> Self {
        let config = world.identities.server(&world.server, Alpn::Mux1).unwrap();
        let (speak, late) = channel::<Vec<Frame<'static>>>();
        let (hears, heard) = channel();
        let both = Mutex::new((late, hears));
        let address = application(move |stream| {
            let (late, hears) = &*both.lock().unwrap();
            let mut tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
            answer_first(&mut tls);
            for said in late {
                say(&mut tls, &[&said[..], &[Frame::Ping(1)]].concat());
                hear(&mut tls, |frame| *frame == Frame::Pong(1));
                hears.send(()).unwrap();
            }
        });
        Self { address, speak, heard }
    }

    fn say_late(&self, late: Vec<Frame<'static>>) {
        self.speak.send(late).unwrap();
        self.heard.recv_timeout(PATIENCE).unwrap();
    }
}

fn answer_first(tls: &mut Tls) {
    hear(tls, |frame| matches!(frame, Frame::Open(StreamId(1), _)));
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nbyhand";
    say(tls, &[Frame::Data(StreamId(1), answer)]);
}

fn say(tls: &mut Tls, said: &[Frame<'_>]) {
    let mut record = Vec::new();
    said.iter().for_each(|frame| frame.write(&mut record));
    tls.write_all(&record).unwrap();
    tls.flush().unwrap();
}

fn hear(tls: &mut Tls, mut wanted: impl FnMut(&Frame<'_>) -> bool) {
    let mut record = [0; MAX_RECORD];
    loop {
        let length = tls.read(&mut record).unwrap();
        assert!(length > 0, "the tunnel ended");
        if frames(&record[..length]).map_while(Result::ok).any(|frame| wanted(&frame)) {
            return;
        }
    }
}

#[test]
fn a_stream_that_its_peer_never_ends_is_reset() {
    let world = World::new();
    let config = world.identities.server(&world.server, Alpn::Mux1).unwrap();
    let (resets, reset) = channel();
    let resets = Mutex::new(resets);
    let first = application(move |stream| {
        let mut tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
        answer_first(&mut tls);
        hear(&mut tls, |frame| matches!(frame, Frame::Reset(StreamId(1), ResetReason::Cancelled)));
        resets.lock().unwrap().send(()).unwrap();
    });
    let outbound = judge(&world, Direction::Outbound, To::Tunnel(first));
    let settings = Settings { answer: Duration::from_millis(50), ..Settings::default() };
    let source = Side::start(outbound, Direction::Outbound, settings);
    let mut client = connect(source.address);
    assert_eq!(ask(&mut client, &get("/")), (200, "byhand".to_owned()));
    // The client may be gone by then.
    drop(client);
    reset.recv_timeout(PATIENCE).unwrap();
}

/// A client asks one endpoint, by hand, and then another, which holds its answer back until the first has said `late`.
fn check_late(late: Vec<Frame<'static>>) {
    let world = World::new();
    let first = ByHand::new(&world);
    let (asked, is_asked) = channel();
    let (go, goes) = channel::<()>();
    let held = Mutex::new((asked, goes));
    let patient = application(move |mut stream| {
        let (asked, goes) = &*held.lock().unwrap();
        while let Some(_request) = read_message(&mut stream) {
            asked.send(()).unwrap();
            goes.recv_timeout(PATIENCE).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhonest").unwrap();
        }
    });
    let second = judge(&world, Direction::Inbound, To::Application(patient));
    let second = Side::start(second, Direction::Inbound, Settings::default());
    let mut outbound = judge(&world, Direction::Outbound, To::Tunnel(first.address));
    outbound.elsewhere = Some(To::Tunnel(second.address));
    let source = Side::start(outbound, Direction::Outbound, Settings::default());

    let mut client = connect(source.address);
    assert_eq!(ask(&mut client, &get("/")), (200, "byhand".to_owned()));
    client.write_all(get("/elsewhere").as_bytes()).unwrap();
    is_asked.recv_timeout(PATIENCE).unwrap();
    first.say_late(late);
    go.send(()).unwrap();
    let (head, body) = read_message(&mut client).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && body == b"honest", "{head}{body:?}");
}

#[test]
fn a_late_end_of_one_stream_does_not_end_the_exchange_of_another_tunnel() {
    check_late(vec![Frame::Fin(StreamId(1))]);
}

#[test]
fn late_bytes_of_one_stream_are_no_answer_to_the_request_on_another_tunnel() {
    check_late(vec![Frame::Data(StreamId(1), b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")]);
}

#[test]
fn a_late_reset_of_one_stream_does_not_end_the_exchange_of_another_tunnel() {
    check_late(vec![Frame::Reset(StreamId(1), ResetReason::Cancelled)]);
}
