//! Connections to endpoints: the TCP connect that the conductor began, then TLS, then HTTP.

use std::error::Error as _;
use std::io;
use std::net::TcpStream as StdTcpStream;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1;
use mesh_common::http1::Refusal;
use mesh_common::model::SpiffeId;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use super::conductor::{DEADLINE_EXCEEDED, IDLE_TIMED_OUT};
use super::empties::{FramesOf, without_empties};
use super::incoming::HttpError;
use super::peers::Peers;
use super::pool::Load;
use super::settings::Settings;
use super::{ask, strict};
use crate::identity::{Alpn, HandshakeFailure, Identities, Unavailable};
use crate::transport::handshakes::Place;

/// Why an endpoint has no connection for a request, or gave no answer on it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectFailure {
    /// The connect ended without a connection.
    #[error("connect to the endpoint")]
    Connect(#[source] Rc<io::Error>),
    /// The connect could not begin, or ended at once.
    #[error("dial the endpoint")]
    Dial(#[source] Rc<io::Error>),
    /// The connect took too long.
    #[error("connect to the endpoint timed out")]
    ConnectTimeout,
    /// TLS did not come about.
    #[error("TLS with the endpoint")]
    Handshake(#[source] HandshakeFailure),
    /// TLS or the settings after it took too long.
    #[error("handshake with the endpoint timed out")]
    HandshakeTimeout,
    /// Too many others are at it, in all or for the same pod.
    #[error(
        "too many TLS handshakes are under way (--max-pending-handshakes, --max-pending-handshakes-per-source)"
    )]
    TooManyHandshakes,
    /// We have no certificate for the caller.
    #[error("no certificate for the caller")]
    NoIdentity(#[source] Unavailable),
    /// The endpoint closed every new connection at once.
    #[error("the endpoint closes new connections")]
    Closed,
    /// It serves no WebSocket over HTTP/2 (RFC 8441): it has not said so.
    #[error("the endpoint takes no WebSocket over HTTP/2 (SETTINGS_ENABLE_CONNECT_PROTOCOL)")]
    NoExtendedConnect,
    /// It answered what would open a WebSocket that is none: a success without a valid switch, or a 101 unasked for.
    #[error("the endpoint's answer is no valid change of protocol")]
    NoSwitch,
    /// It answered over HTTP/1.1 what cannot be believed.
    #[error("the endpoint's answer is malformed")]
    Malformed(#[source] Refusal),
    /// The request's body cannot be read to its end.
    #[error("the request's body is malformed")]
    BadBody(#[source] Refusal),
    /// The caller took too long for the request.
    #[error("the request does not come in time (--min-body-rate, --request-timeout)")]
    SlowRequest,
    /// The call took longer than its caller waits.
    #[error("the call took longer than its caller waits (grpc-timeout)")]
    DeadlineExceeded,
    /// Nothing moved for too long, and nothing was answered.
    #[error("the endpoint does not answer in time (--tcp-idle-timeout)")]
    IdleTimedOut,
    /// HTTP did not come about, or broke before the response's head.
    #[error("HTTP with the endpoint")]
    Http(#[source] Rc<HttpError>),
}

impl ConnectFailure {
    /// The stable code for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Connect(error) | Self::Dial(error) if is_refusal(error) => "connect_refused",
            Self::Connect(_) | Self::Dial(_) => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::Handshake(failure) => failure.as_str(),
            Self::HandshakeTimeout => "handshake_timeout",
            Self::TooManyHandshakes => "too_many_handshakes",
            Self::NoIdentity(_) => "no_own_certificate",
            Self::Closed => "connection_closed",
            Self::NoExtendedConnect => "no_extended_connect",
            Self::NoSwitch => "no_valid_switch",
            Self::Malformed(refusal) | Self::BadBody(refusal) => refusal.reason(),
            Self::SlowRequest | Self::IdleTimedOut => IDLE_TIMED_OUT,
            Self::DeadlineExceeded => DEADLINE_EXCEEDED,
            Self::Http(_) => "upstream_broke",
        }
    }

    /// Whether the endpoint was never reached, so that another one may be tried.
    pub fn is_before_request(&self) -> bool {
        match self {
            Self::Connect(_)
            | Self::Dial(_)
            | Self::ConnectTimeout
            | Self::Handshake(_)
            | Self::HandshakeTimeout => true,
            Self::TooManyHandshakes
            | Self::NoIdentity(_)
            | Self::Closed
            | Self::NoExtendedConnect
            | Self::NoSwitch
            | Self::Malformed(_)
            | Self::BadBody(_)
            | Self::SlowRequest
            | Self::DeadlineExceeded
            | Self::IdleTimedOut
            | Self::Http(_) => false,
        }
    }
}

impl From<HttpError> for ConnectFailure {
    fn from(error: HttpError) -> Self {
        match refusal_in(&error) {
            Some(refusal) => Self::Malformed(refusal),
            None => Self::Http(Rc::new(error)),
        }
    }
}

/// What our codec refused of what hyper was to read, if it did.
pub(super) fn refusal_in(error: &HttpError) -> Option<Refusal> {
    let HttpError::Http1(error) = error else { return None };
    let read = error.source()?.downcast_ref::<io::Error>()?;
    read.get_ref()?.downcast_ref::<Refusal>().copied()
}

fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionRefused
}

/// How to prove who we are to an endpoint, and whom to expect.
pub(super) struct TlsTo {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    place: Place,
    /// The last second of the certificate that is shown: from then on the other side takes no request.
    own_until: u64,
}

/// A connection that just began: how to ask on it, and the work that carries it.
pub(super) struct Begun<S, W> {
    pub(super) sender: S,
    pub(super) work: W,
    /// The last second (UTC, since the epoch) at which both ends are who they proved to be; `None` in the clear.
    pub(super) until: Option<u64>,
}

/// The work of a connection; ends with it.
pub(super) type Work = Pin<Box<dyn Future<Output = ()>>>;

/// Waits for the connect that was begun.
pub(super) async fn connected(dialled: OwnedFd, settings: &Settings) -> Result<TcpStream, ConnectFailure> {
    let io = |error| ConnectFailure::Connect(Rc::new(error));
    let stream = TcpStream::from_std(StdTcpStream::from(dialled)).map_err(io)?;
    timeout(settings.connect_timeout, stream.writable())
        .await
        .map_err(|_| ConnectFailure::ConnectTimeout)?
        .map_err(io)?;
    match stream.take_error().map_err(io)? {
        Some(error) => Err(io(error)),
        None => Ok(stream),
    }
}

/// HTTP/2 to the agent of another node.
pub(super) async fn http2_over_tls(
    dialled: OwnedFd,
    tls: TlsTo,
    (identities, peers): (&Identities, &Rc<Peers>),
    load: Rc<Load>,
    settings: &Settings,
) -> Result<Begun<ask::Sender, Work>, ConnectFailure> {
    let TlsTo { config, name, place, own_until } = tls;
    let stream = connected(dialled, settings).await?;
    let handshake = TlsConnector::from(config).connect(name, stream);
    let stream = timeout(settings.handshake_timeout, handshake)
        .await
        .map_err(|_| ConnectFailure::HandshakeTimeout)?
        .map_err(|error| ConnectFailure::Handshake(failure_of(&error)))?;
    drop(place);
    let (_, session) = stream.get_ref();
    // A server that chose nothing does not know us (RFC 7301 section 3.2).
    if session.alpn_protocol() != Some(Alpn::H2.as_bytes()) {
        return Err(ConnectFailure::Handshake(HandshakeFailure::Incompatible));
    }
    let peer = identities
        .peer(session.peer_certificates())
        .map_err(|reason| ConnectFailure::Handshake(HandshakeFailure::PeerRefused(reason)))?;
    let watched = peers.watch(session.peer_certificates());
    let Begun { sender, work, .. } = http2_over(stream, load, settings).await?;
    let work: Work = Box::pin(async move {
        tokio::select! {
            () = work => {}
            () = watched.distrusted() => {}
        }
    });
    Ok(Begun { sender, work, until: Some(peer.not_after.min(own_until)) })
}

/// HTTP/2 in the clear.
pub(super) async fn http2_in_the_clear(
    dialled: OwnedFd,
    load: Rc<Load>,
    settings: &Settings,
) -> Result<Begun<ask::Sender, Work>, ConnectFailure> {
    http2_over(connected(dialled, settings).await?, load, settings).await
}

/// HTTP/1.1 in the clear, to an application.
pub(super) async fn http1_in_the_clear(
    dialled: OwnedFd,
    settings: &Settings,
) -> Result<Begun<strict::Sender, Work>, ConnectFailure> {
    let stream = connected(dialled, settings).await?;
    let mut builder = http1::Builder::new();
    builder.max_headers(settings.max_fields).max_buf_size(settings.stream_window as usize);
    let (sender, connection) = strict::begin(&builder, stream, settings.http1_limits())
        .await
        .map_err(|error| ConnectFailure::Http(Rc::new(error.into())))?;
    let work: Work = Box::pin(async move {
        // How it ended is told to the request that it carried. What it may change to is taken out of it.
        let _ = connection.with_upgrades().await;
    });
    Ok(Begun { sender, work, until: None })
}

/// Whether the other side takes WebSockets over HTTP/2 (RFC 8441), which its settings say: they are waited for.
pub(super) async fn takes_websockets(sender: &mut ask::Sender, settings: &Settings) -> bool {
    const LONGEST: Duration = Duration::from_millis(50);
    // Nobody tells when they come. It is once for each connection, a round trip after it began.
    let mut pause = Duration::from_millis(1);
    let deadline = Instant::now() + settings.handshake_timeout;
    loop {
        match sender.takes_websockets() {
            Some(takes) => return takes,
            None if Instant::now() >= deadline => return false,
            None => sleep(pause).await,
        }
        pause = (2 * pause).min(LONGEST);
    }
}

async fn http2_over<T>(
    stream: T,
    load: Rc<Load>,
    settings: &Settings,
) -> Result<Begun<ask::Sender, Work>, ConnectFailure>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (sender, work) = ask::begin(without_empties(stream, FramesOf::Server), load, settings).await?;
    Ok(Begun { sender, work: Box::pin(work), until: None })
}

/// Why TLS did not come about, in one word.
pub(super) fn failure_of(error: &io::Error) -> HandshakeFailure {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .map_or(HandshakeFailure::Malformed, HandshakeFailure::of)
}

/// The TLS of a tunnel's plan.
pub(super) fn tls_to(
    identities: &Identities,
    local: &SpiffeId,
    tunnel: &mesh_common::route::Tunnel,
    place: Place,
) -> Result<TlsTo, ConnectFailure> {
    // Read first: a renewal in between makes it too early, never too late.
    let own_until = identities.not_after(local).unwrap_or(0);
    let config = identities.client(local, tunnel.expected(), Alpn::H2).map_err(ConnectFailure::NoIdentity)?;
    let name = crate::identity::server_name(tunnel.sni.as_deref(), tunnel.endpoint.ip());
    Ok(TlsTo { config, name, place, own_until })
}
