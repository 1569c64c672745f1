//! A server of HTTP/2 without TLS that sends interim answers, which hyper's does not.
//!
//! `/103/102` answers so much, each with a `link` that says its place, before the answer; `expect: 100-continue` is answered
//! 100. The answer comes once all of the request is there.

use std::io;
use std::net::TcpStream;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use mesh_test_harness::PLAINTEXT_MARKER;
use serde_json::json;
use tokio::task::LocalSet;

use crate::report::event;

/// Serves one connection until it ends.
pub(crate) fn serve(number: u64, stream: &TcpStream) -> io::Result<u64> {
    let stream = stream.try_clone()?;
    stream.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let stream = tokio::net::TcpStream::from_std(stream)?;
        let mut connection = h2::server::handshake(stream).await.map_err(io::Error::other)?;
        while let Some(asked) = connection.accept().await {
            let (request, respond) = asked.map_err(io::Error::other)?;
            tokio::task::spawn_local(async move {
                // A caller that goes has what it wants.
                let _ = answer(number, request, respond).await;
            });
        }
        Ok(0)
    })
}

async fn answer(
    number: u64,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (head, mut body) = request.into_parts();
    event(&json!({ "event": "request", "connection": number, "path": head.uri.path() }));
    let expected = head.headers.contains_key("expect").then_some("100");
    let named = head.uri.path().split('/').filter(|status| !status.is_empty());
    for (place, status) in expected.into_iter().chain(named).enumerate() {
        let interim = Response::builder().status(status).header("link", format!("</{place}>"));
        respond.send_informational(interim.body(()).expect("a test names a status"))?;
    }
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    let mut send = respond.send_response(Response::new(()), false)?;
    send.send_data(Bytes::from_static(PLAINTEXT_MARKER.as_bytes()), true)
}
