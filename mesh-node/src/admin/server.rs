//! Serves HTTP/1.1 on the control runtime: few connections, short ones, each under a deadline.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Agent;
use super::routes::{self, Answer};
use crate::system::pause_accepting;

/// Connections of one address at a time; the next one waits in the backlog.
const MAX_CONNECTIONS: usize = 32;

/// From a connection's first byte to the end of a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// For a whole connection, with all its requests: a scrape interval or two.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);

/// Serves `/metrics`; ends when it is dropped.
pub async fn serve_metrics<A: Agent>(listener: TcpListener, agent: Arc<A>) {
    let accept = async || listener.accept().await.map(|(stream, _)| stream);
    serve(accept, move |request: Request<Incoming>| {
        let agent = Arc::clone(&agent);
        async move { routes::metrics(&*agent, request.method(), request.uri().path()).await }
    })
    .await;
}

/// Serves `/readyz` and `/livez`; ends when it is dropped.
pub async fn serve_readiness<A: Agent>(listener: TcpListener, agent: Arc<A>) {
    let accept = async || listener.accept().await.map(|(stream, _)| stream);
    serve(accept, move |request: Request<Incoming>| {
        let agent = Arc::clone(&agent);
        async move { routes::readiness(&*agent, request.method(), request.uri().path()).await }
    })
    .await;
}

/// Accepts connections for ever, and answers their requests.
pub async fn serve<S, F>(
    accept: impl AsyncFn() -> io::Result<S>,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = match accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "admin connection not accepted");
                pause_accepting().await;
                continue;
            }
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            match timeout(CONNECTION_TIMEOUT, connection).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(error)) => tracing::debug!(%error, "admin connection failed"),
            }
            drop(place);
        });
    }
}
