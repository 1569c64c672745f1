//! A peer that is no daemon of ours and speaks HTTP/2 with our ALPN: it says whatever a test wants it to say.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_test_harness::pod::Pod;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::peer::{Credentials, client_config};

/// How long anything is waited for.
const LIMIT: Duration = Duration::from_secs(5);

/// What the destination answered.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The value of `grpc-status` in the head.
    pub grpc_status: Option<String>,
    /// The body.
    pub body: String,
}

/// Who asks, from where, and whom.
pub struct Http2Peer<'mesh> {
    /// Whose network namespace it is in, past every hook.
    pub from: &'mesh Pod,
    /// The pod's address and port.
    pub to: SocketAddr,
    /// What it shows.
    pub credentials: Option<&'mesh Credentials>,
    /// SNI.
    pub service: &'mesh str,
}

impl Http2Peer<'_> {
    /// Sends one request on a connection of its own.
    ///
    /// # Errors
    /// The handshake fails, or the destination ends the connection without an answer: that is how it refuses.
    pub fn ask(&self, request: http::request::Builder) -> Result<Response> {
        let request = request.body(Empty::new()).context("the test's request is well formed")?;
        self.ask_at_once(vec![request])?.pop().context("one answer")
    }

    /// Sends requests at once, on one connection.
    ///
    /// # Errors
    /// As [`Self::ask`], for any of them.
    pub fn ask_at_once(&self, requests: Vec<Request<Empty<Bytes>>>) -> Result<Vec<Response>> {
        let tcp = self.from.place().netns().run(|| Ok(TcpStream::connect_timeout(&self.to, LIMIT)?))?;
        tcp.set_nonblocking(true)?;
        let tls = TlsConnector::from(Arc::new(client_config(self.credentials, b"nodemesh/h2")?));
        let name = ServerName::try_from(self.service.to_owned())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            tokio::time::timeout(LIMIT, converse(tls, name, tcp, requests))
                .await
                .context("an answer in time")?
        })
    }
}

async fn converse(
    tls: TlsConnector,
    name: ServerName<'static>,
    tcp: TcpStream,
    requests: Vec<Request<Empty<Bytes>>>,
) -> Result<Vec<Response>> {
    let stream = tls.connect(name, tokio::net::TcpStream::from_std(tcp)?).await.context("handshake")?;
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .context("HTTP/2")?;
    tokio::spawn(connection);
    let asked: Vec<_> =
        requests.into_iter().map(|request| tokio::spawn(answer(sender.clone(), request))).collect();
    let mut answers = Vec::new();
    for asked in asked {
        answers.push(asked.await??);
    }
    Ok(answers)
}

async fn answer(
    mut sender: hyper::client::conn::http2::SendRequest<Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
) -> Result<Response> {
    let response = sender.send_request(request).await.context("ask")?;
    let status = response.status().as_u16();
    let grpc_status = response.headers().get("grpc-status");
    let grpc_status = grpc_status.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let body = response.into_body().collect().await.context("read the body")?.to_bytes();
    Ok(Response { status, grpc_status, body: String::from_utf8_lossy(&body).into_owned() })
}
