//! Connections whose other side has gone without a word.

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use mesh_common::model::Protocol;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::spawn_local;

use super::websockets::{PREFACE, frame};
use super::world::*;
use crate::transport::http2::Settings;

/// Types and flags of frames (RFC 9113 section 6).
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END: u8 = 5;

/// Asked soon, and given up soon.
fn soon() -> Settings {
    Settings {
        ping_interval: Duration::from_millis(100),
        // Long for a busy machine that runs both sides.
        ping_timeout: Duration::from_secs(3),
        ..Settings::default()
    }
}

/// A frame of the connection.
fn of_connection(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = frame(kind, flags, payload);
    frame[8] = 0;
    frame
}

/// The next frame: its type, its flags, its payload. `None` at the end.
async fn next(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u8, u8, Vec<u8>)> {
    let mut header = [0; 9];
    stream.read_exact(&mut header).await.ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some((header[3], header[4], payload))
}

/// An application that answers so many PINGs and then the request, or nothing more if there is none to answer with.
async fn application(pings: usize, then: Option<&'static [u8]>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; 24]).await.unwrap();
        stream.write_all(&of_connection(SETTINGS, 0, b"")).await.unwrap();
        let mut left = pings;
        while let Some((kind, flags, payload)) = next(&mut stream).await {
            if kind != PING || flags & ACK != 0 || left == 0 {
                continue;
            }
            left -= 1;
            stream.write_all(&of_connection(PING, ACK, &payload)).await.unwrap();
            if let Some(head) = then.filter(|_| left == 0) {
                stream.write_all(&frame(HEADERS, END, head)).await.unwrap();
            }
        }
    });
    address
}

#[test]
fn an_application_that_answers_no_ping_is_given_up() {
    on_one_core(async {
        let world = World::start_with(Protocol::Http2, soon()).await;
        world.application.set(application(1, None).await);
        let seen = world.caller().await.ask(get("/x")).await.unwrap();
        assert_eq!(seen.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(seen.header("x-nodemesh-reason"), Some("upstream_broke"));
        eventually("its connection is over", || world.destination.connections() == 0).await;
    });
}

#[test]
fn one_that_answers_them_may_take_its_time() {
    on_one_core(async {
        let world = World::start_with(Protocol::Http2, soon()).await;
        // 200, of the static table (RFC 7541 appendix A).
        world.application.set(application(3, Some(b"\x88")).await);
        assert_eq!(world.caller().await.ask(get("/x")).await.unwrap().status, StatusCode::OK);
    });
}

#[test]
fn a_caller_that_answers_no_ping_is_gone() {
    on_one_core(async {
        let world = World::start_with(Protocol::Http2, soon()).await;
        let mut peer = world.raw_peer().await;
        // With its settings.
        peer.write_all(PREFACE).await.unwrap();
        let mut kinds = Vec::new();
        while let Some((kind, flags, _)) = next(&mut peer).await {
            kinds.extend((flags & ACK == 0).then_some(kind));
        }
        assert!(kinds.ends_with(&[PING, GOAWAY]), "{kinds:?}");
        eventually("it is told why", || *world.ended.borrow() == ["tunnel_silent"]).await;
    });
}
