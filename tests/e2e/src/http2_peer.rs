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
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;

use crate::peer::{Credentials, client_config};

/// How long anything is waited for.
const LIMIT: Duration = Duration::from_secs(10);

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
        self.with_connection(async |stream| converse(stream, requests).await)
    }

    /// Goes on asking on one connection whatever it is told, by hand and without reading, until `enough`.
    ///
    /// # Errors
    /// The handshake fails, the destination ends the connection, or there is not enough in time.
    pub fn ask_on_and_on(&self, enough: impl Fn() -> bool) -> Result<()> {
        self.with_connection(async |mut stream| {
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
            let mut streams = (1_u32..).step_by(2);
            while !enough() {
                // HEADERS with END_STREAM and END_HEADERS: GET http://api.shop/ (RFC 7541 appendix A).
                stream.write_all(b"\0\0\x0d\x01\x05").await?;
                stream.write_all(&streams.next().context("a stream's number")?.to_be_bytes()).await?;
                stream.write_all(b"\x82\x86\x84\x01\x08api.shop").await?;
                // The pace of the requests: what ends them is told to nobody here.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        })
    }

    fn with_connection<T>(&self, use_it: impl AsyncFnOnce(Stream) -> Result<T>) -> Result<T> {
        let tcp = self.from.place().netns().run(|| Ok(TcpStream::connect_timeout(&self.to, LIMIT)?))?;
        tcp.set_nonblocking(true)?;
        let tls = TlsConnector::from(Arc::new(client_config(self.credentials, b"nodemesh/h2")?));
        let name = ServerName::try_from(self.service.to_owned())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let used = async {
                let stream = tls.connect(name, tokio::net::TcpStream::from_std(tcp)?).await;
                use_it(stream.context("handshake")?).await
            };
            tokio::time::timeout(LIMIT, used).await.context("an answer in time")?
        })
    }
}

type Stream = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

async fn converse(stream: Stream, requests: Vec<Request<Empty<Bytes>>>) -> Result<Vec<Response>> {
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
