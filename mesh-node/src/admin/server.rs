//! Serves HTTP/1.1 on the control runtime: few connections, short ones, each under a deadline, one request each.
//!
//! hyper reads more than the mesh's own codec does: a lone LF, two Hosts, none. Nothing comes of it, for there is no second
//! request that a first one could hide: what follows the first head is read as its body or by nobody, and the connection ends
//! with the answer. None of these answers depends on Host, and nothing is passed on.
//!
//! Where all places are taken the newcomer has that of who has most of them, so that nobody keeps the others out: a node
//! whose probes are not answered is taken for dead.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::Agent;
use super::routes::{self, Answer};
use crate::system::pause_accepting;

/// Connections of one listener at a time.
const MAX_CONNECTIONS: usize = 32;

/// Bytes of a request that are held: a head with a token in it, and more.
const MAX_BUFFER: usize = 32 * 1024;

/// From a connection's first byte to the end of a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// For a whole connection: its request, and taking an answer of some megabytes.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);

/// Serves `/metrics`; ends when it is dropped.
pub async fn serve_metrics<A: Agent>(listener: TcpListener, agent: Arc<A>) {
    serve(
        async || accept(&listener).await,
        move |request: Request<Incoming>| {
            let agent = Arc::clone(&agent);
            async move { routes::metrics(&*agent, request.method(), request.uri().path()).await }
        },
    )
    .await;
}

/// Serves `/readyz` and `/livez`; ends when it is dropped.
pub async fn serve_readiness<A: Agent>(listener: TcpListener, agent: Arc<A>) {
    serve(
        async || accept(&listener).await,
        move |request: Request<Incoming>| {
            let agent = Arc::clone(&agent);
            async move { routes::readiness(&*agent, request.method(), request.uri().path()).await }
        },
    )
    .await;
}

/// The next connection of a listener, and whose it is.
///
/// # Errors
/// The system's.
pub async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, Option<IpAddr>)> {
    listener.accept().await.map(|(stream, from)| (stream, Some(from.ip().to_canonical())))
}

/// Accepts connections for ever, and answers their requests. Whoever has no address is one more.
pub async fn serve<S, F>(
    accept: impl AsyncFn() -> io::Result<(S, Option<IpAddr>)>,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let mut places = Places::default();
    loop {
        match accept().await {
            Ok((stream, from)) => {
                let connection = tokio::spawn(connection(stream, answer.clone()));
                places.take(from, connection.abort_handle());
            }
            Err(error) => {
                tracing::warn!(%error, "admin connection not accepted");
                pause_accepting().await;
            }
        }
    }
}

/// Carries one connection to its end.
async fn connection<S, F>(stream: S, answer: impl Fn(Request<Incoming>) -> F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Answer>,
{
    let service = service_fn(move |request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(MAX_BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection failed"),
    }
}

/// The connections that are open, in the order in which they came.
#[derive(Debug, Default)]
struct Places(Vec<(Option<IpAddr>, AbortHandle)>);

impl Places {
    fn take(&mut self, from: Option<IpAddr>, connection: AbortHandle) {
        self.0.retain(|(_, connection)| !connection.is_finished());
        if self.0.len() >= MAX_CONNECTIONS {
            let addresses: Vec<Option<IpAddr>> = self.0.iter().map(|(from, _)| *from).collect();
            if let Some(at) = oldest_of_most(&addresses) {
                let (from, connection) = self.0.remove(at);
                tracing::debug!(?from, "admin connection ended: there are too many");
                connection.abort();
            }
        }
        self.0.push((from, connection));
    }
}

/// Which connection makes room: the first of the address that has most; `None` of none.
fn oldest_of_most(addresses: &[Option<IpAddr>]) -> Option<usize> {
    let mut counts = HashMap::<Option<IpAddr>, usize>::new();
    for address in addresses {
        *counts.entry(*address).or_default() += 1;
    }
    let most = counts.values().copied().max()?;
    addresses.iter().position(|address| counts[address] == most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_most_places_makes_room() {
        let [a, b] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse().ok());
        assert_eq!(oldest_of_most(&[]), None);
        assert_eq!(oldest_of_most(&[a, b]), Some(0), "the oldest, where nobody has more");
        assert_eq!(oldest_of_most(&[a, b, b]), Some(1));
        assert_eq!(oldest_of_most(&[b, None, None]), Some(1));
    }
}
