//! A unary gRPC server and a load for it, over HTTP/2 without TLS: what an application would speak.
//!
//! Both are processes of their own, so that each sits in its pod's namespace and cgroup.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

use crate::report::Requests;

/// Path of the one method.
const METHOD: &str = "/bench.Echo/Unary";
/// A gRPC message: not compressed, 16 bytes long (gRPC over HTTP/2, Length-Prefixed-Message).
const MESSAGE: &[u8] = &[0, 0, 0, 0, 16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

/// Serves echoes on `address` until the process ends.
///
/// # Errors
/// If the address cannot be listened on.
pub async fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
    loop {
        let (stream, _) = listener.accept().await.context("accept")?;
        stream.set_nodelay(true)?;
        tokio::task::spawn_local(async move {
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            // The load ends connections as it likes; what that says is not news.
            let _ = server.serve_connection(TokioIo::new(stream), service_fn(echo)).await;
        });
    }
}

async fn echo(
    request: Request<Incoming>,
) -> Result<Response<impl http_body::Body<Data = Bytes, Error = Infallible>>, hyper::Error> {
    let message = request.into_body().collect().await?.to_bytes();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Ok(Frame::data(message)), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(StreamBody::new(Frames(frames.into_iter())));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}

/// Frames that are all there already.
struct Frames<I>(I);

impl<I: Iterator + Unpin> futures_core::Stream for Frames<I> {
    type Item = I::Item;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<I::Item>> {
        std::task::Poll::Ready(self.0.next())
    }
}

/// Calls as fast as answers come, one call at a time on each of `connections`, for `seconds`.
///
/// # Errors
/// If a connection cannot be made, or a call ends otherwise than with grpc-status 0.
pub async fn load(address: SocketAddr, connections: usize, seconds: u64) -> anyhow::Result<Requests> {
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(connect(address).await?);
    }
    let end = Instant::now() + Duration::from_secs(seconds);
    let started = Instant::now();
    let calls: Vec<_> = clients
        .into_iter()
        .map(|client| tokio::task::spawn_local(call_until(client, format!("http://{address}{METHOD}"), end)))
        .collect();
    let mut micros = Vec::new();
    for call in calls {
        micros.extend(call.await.context("a load task ended early")??);
    }
    Requests::from_micros(micros, started.elapsed())
}

/// A connection for calls.
///
/// # Errors
/// It cannot be made.
pub async fn connect(address: SocketAddr) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true)?;
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::task::spawn_local(connection);
    Ok(client)
}

async fn call_until(
    mut client: SendRequest<Full<Bytes>>,
    uri: String,
    end: Instant,
) -> anyhow::Result<Vec<u32>> {
    let mut micros = Vec::new();
    while Instant::now() < end {
        let started = Instant::now();
        call(&mut client, &uri).await?;
        micros.push(started.elapsed().as_micros().min(u128::from(u32::MAX)) as u32);
    }
    Ok(micros)
}

/// One call.
///
/// # Errors
/// It ends otherwise than with grpc-status 0.
pub async fn call(client: &mut SendRequest<Full<Bytes>>, uri: &str) -> anyhow::Result<()> {
    let request = Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(MESSAGE)))?;
    client.ready().await?;
    let answer = client.send_request(request).await?.into_body().collect().await?;
    let status = answer.trailers().and_then(|trailers| trailers.get("grpc-status"));
    ensure!(status.is_some_and(|status| status == "0"), "a call ended with grpc-status {status:?}");
    Ok(())
}
