//! Frames by hand, and how callers and applications see them.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::spawn_local;

use super::world::*;

/// Types and flags of frames (RFC 9113 section 6).
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RESET: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// `:status` 200, of the static table (RFC 7541 appendix A).
pub(super) const OK: &[u8] = b"\x88";
/// `:status` 103, written out.
pub(super) const HINTS: &[u8] = b"\x08\x03103";

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub(super) fn head(stream: u32, fields: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, fields)
}

pub(super) fn last_head(stream: u32, fields: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, fields)
}

pub(super) fn reset(stream: u32, reason: Reason) -> Vec<u8> {
    frame(RESET, 0, stream, &u32::from(reason).to_be_bytes())
}

/// Names the last stream that is looked at.
pub(super) fn goaway(last: u32, reason: Reason) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), u32::from(reason).to_be_bytes()].concat())
}

/// A field that is written out, its name too.
pub(super) fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// GET http://api.shop/, or POST.
pub(super) fn asks(method: u8) -> Vec<u8> {
    [&[method, 0x86, 0x84, 0x01, 8], &b"api.shop"[..]].concat()
}

pub(super) const GET: u8 = 0x82;
pub(super) const POST: u8 = 0x83;

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Came {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

/// The next one; `None` at the end. Settings and PINGs are answered.
pub(super) async fn next(connection: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Option<Came> {
    let mut header = [0; 9];
    connection.read_exact(&mut header).await.ok()?;
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
    let mut payload = vec![0; number(&header[..3]) as usize];
    connection.read_exact(&mut payload).await.ok()?;
    let (kind, flags) = (header[3], header[4]);
    if matches!(kind, SETTINGS | PING) && flags & ACK == 0 {
        let echoed: &[u8] = if kind == PING { &payload } else { b"" };
        // Where it is closed meanwhile the next read tells.
        let _ = connection.write_all(&frame(kind, ACK, 0, echoed)).await;
    }
    Some(Came { kind, flags, stream: number(&header[5..]), payload })
}

/// What applications of a test saw: each frame of each connection.
pub(super) type Seen = Rc<RefCell<Vec<Came>>>;

/// An application that answers each request of a stream with these frames.
pub(super) async fn answers(frames: impl Fn(u32) -> Vec<u8> + 'static) -> (SocketAddr, Seen) {
    answers_head(move |head| frames(head.stream)).await
}

/// The same, of a request's head.
pub(super) async fn answers_head(frames: impl Fn(&Came) -> Vec<u8> + 'static) -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, frames) = (Seen::default(), Rc::new(frames));
    let shown = seen.clone();
    spawn_local(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (seen, frames) = (shown.clone(), frames.clone());
            spawn_local(async move {
                stream.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
                stream.write_all(&frame(SETTINGS, 0, 0, b"")).await.unwrap();
                let mut asked = 0;
                while let Some(came) = next(&mut stream).await {
                    // What comes later of the same stream are trailers.
                    seen.borrow_mut().push(came.clone());
                    if came.kind == HEADERS && came.stream > asked {
                        asked = came.stream;
                        if stream.write_all(&frames(&came)).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    (address, seen)
}

/// How a caller saw an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Status, body and trailers, up to its end.
    Whole(u16, Bytes, Option<HeaderMap>),
    /// A head, and no end.
    Broken,
    /// Not even a head.
    Reset,
}

pub(super) async fn read(response: Result<Response<RecvStream>, h2::Error>) -> Answer {
    let Ok(response) = response else { return Answer::Reset };
    let (head, mut body) = response.into_parts();
    let mut came = Vec::new();
    while let Some(data) = body.data().await {
        let Ok(data) = data else { return Answer::Broken };
        let _ = body.flow_control().release_capacity(data.len());
        came.extend_from_slice(&data);
    }
    match body.trailers().await {
        Ok(trailers) => Answer::Whole(head.status.as_u16(), came.into(), trailers),
        Err(_) => Answer::Broken,
    }
}

/// A caller of h2's, and its connection.
pub(super) async fn caller(world: &Rc<World>) -> h2::client::SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(world.raw_caller().await).await.unwrap();
    spawn_local(async move { drop(connection.await) });
    sender
}

/// Asks with a body of which so much is sent, and its end if it has one.
pub(super) async fn asked(world: &Rc<World>, body: &'static [u8], ends: bool) -> (Answer, SendStream<Bytes>) {
    let mut sender = caller(world).await;
    let request = Request::post("http://api.shop/x").body(()).unwrap();
    let (response, mut send) = sender.send_request(request, false).unwrap();
    send.send_data(Bytes::from_static(body), ends).unwrap();
    let answer = read(response.await).await;
    (answer, send)
}

pub(super) fn whole(status: u16, body: &'static str) -> Answer {
    Answer::Whole(status, Bytes::from_static(body.as_bytes()), None)
}
