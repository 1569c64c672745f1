//! One fetch: a name resolved, an allowed address connected to, an answer read, all of it bounded.
//!
//! In: a URI, and how long it may take. Out: the keys there. The address that is connected to is the one that was looked at:
//! a name that resolves to another one a moment later changes nothing. Each hop of a redirection is looked at alike. What a
//! server sends is neither logged nor passed on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_ENCODING, HOST, LOCATION, USER_AGENT};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use mesh_common::token::{KeySet, MAX_KEY_SET};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::error::FetchError;
use super::target::Target;
use crate::control::translate::key_address::forbidden;

/// Hops after the first: some issuers move their keys once or twice.
const MAX_REDIRECTS: usize = 3;
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;
/// Bytes of an answer's head.
const MAX_HEAD: usize = 16 << 10;
/// Fields of an answer's head.
const MAX_FIELDS: usize = 100;

/// Fetches keys.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) tls: Arc<ClientConfig>,
    /// Ports that we listen on, on every address of this machine.
    pub(super) own_ports: Arc<[u16]>,
    /// [`forbidden`], except in tests, whose servers have no other address.
    pub(super) forbidden: fn(IpAddr) -> Option<&'static str>,
}

/// What a server says.
enum Answer {
    Body(Vec<u8>),
    Moved(String),
}

impl Client {
    pub(super) fn new(tls: Arc<ClientConfig>, own_ports: Arc<[u16]>) -> Self {
        Self { tls, own_ports, forbidden }
    }

    /// Fetches the keys of a URI. `limit` is for all of it: names, connections, redirections, the last byte.
    pub(super) async fn fetch(&self, uri: &str, limit: Duration) -> Result<KeySet, FetchError> {
        let text = timeout(limit, self.follow(uri)).await;
        let text = text.map_err(|_| FetchError::Late { after_ms: limit.as_millis() })??;
        let text = String::from_utf8(text).map_err(|_| FetchError::NotText)?;
        // Ten thousand keys are some milliseconds: not on the thread that everything else waits for.
        let read = tokio::task::spawn_blocking(move || KeySet::published(&text)).await;
        let keys = read.map_err(|_| FetchError::NotText)?.map_err(FetchError::KeySet)?;
        if keys.is_empty() { Err(FetchError::NoKey) } else { Ok(keys) }
    }

    async fn follow(&self, uri: &str) -> Result<Vec<u8>, FetchError> {
        let mut target = Target::parse(uri)?;
        for _ in 0..=MAX_REDIRECTS {
            match self.ask(&target).await? {
                Answer::Body(text) => return Ok(text),
                Answer::Moved(location) => target = target.moved(&location)?,
            }
        }
        Err(FetchError::Redirects)
    }

    async fn ask(&self, target: &Target) -> Result<Answer, FetchError> {
        let stream = self.connect(target).await?;
        if !target.is_tls {
            return exchange(stream, target).await;
        }
        let name = ServerName::try_from(target.host.clone()).map_err(|_| FetchError::Uri)?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        exchange(connector.connect(name, stream).await.map_err(FetchError::Tls)?, target).await
    }

    /// Connects to the first allowed address that takes it.
    async fn connect(&self, target: &Target) -> Result<TcpStream, FetchError> {
        let mut error = FetchError::NoAddress;
        for address in self.addresses(target).await?.into_iter().take(MAX_ADDRESSES) {
            if let Some(what) = self.forbids(address) {
                error = FetchError::Forbidden { address: address.ip(), what };
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(source) => error = FetchError::Connect { address: address.ip(), source },
            }
        }
        Err(error)
    }

    async fn addresses(&self, target: &Target) -> Result<Vec<SocketAddr>, FetchError> {
        if let Ok(address) = target.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address.to_canonical(), target.port)]);
        }
        let found = lookup_host((&*target.host, target.port)).await.map_err(FetchError::Name)?;
        Ok(found.map(|address| SocketAddr::new(address.ip().to_canonical(), address.port())).collect())
    }

    fn forbids(&self, address: SocketAddr) -> Option<&'static str> {
        (self.forbidden)(address.ip()).or_else(|| {
            let is_own = self.own_ports.contains(&address.port()) && is_here(address.ip());
            is_own.then_some("where the mesh itself listens")
        })
    }
}

/// Whether an address is this machine's, or this pod's: the system would choose it as the source, too. Sends nothing.
fn is_here(address: IpAddr) -> bool {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        // Any port: no packet is sent.
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == address)
}

async fn exchange<S>(stream: S, target: &Target) -> Result<Answer, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut client = http1::Builder::new();
    client.max_buf_size(MAX_HEAD).max_headers(MAX_FIELDS);
    let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await.map_err(FetchError::Http)?;
    let mut connection = pin!(connection);
    let mut exchange = pin!(async {
        let response = sender.send_request(request(target)?).await.map_err(FetchError::Http)?;
        read(response).await
    });
    tokio::select! {
        answer = &mut exchange => answer,
        // What has come of the answer is still to be read.
        _ = &mut connection => exchange.await,
    }
}

fn request(target: &Target) -> Result<Request<Empty<Bytes>>, FetchError> {
    let request = Request::get(&target.path)
        .header(HOST, &target.authority)
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("nodemesh/", env!("CARGO_PKG_VERSION")));
    request.body(Empty::new()).map_err(|_| FetchError::Uri)
}

async fn read(response: Response<Incoming>) -> Result<Answer, FetchError> {
    match response.status().as_u16() {
        200 => {}
        301 | 302 | 303 | 307 | 308 => {
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            return Ok(Answer::Moved(location.ok_or(FetchError::Location)?.to_owned()));
        }
        status => return Err(FetchError::Status(status)),
    }
    if response.headers().get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err(FetchError::Coding);
    }
    let mut body = response.into_body();
    if body.size_hint().lower() > MAX_KEY_SET as u64 {
        return Err(FetchError::TooLarge);
    }
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(FetchError::Http)?.into_data() else { continue };
        if text.len() + piece.len() > MAX_KEY_SET {
            return Err(FetchError::TooLarge);
        }
        text.extend_from_slice(&piece);
    }
    Ok(Answer::Body(text))
}

#[cfg(test)]
mod tests;
