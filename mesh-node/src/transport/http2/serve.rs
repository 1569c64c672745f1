//! Connections from callers: captured ones in the clear, and those of other agents in our TLS.

use std::future::{pending, poll_fn};
use std::io;
use std::net::TcpStream as StdTcpStream;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mesh_common::http1::Refusal;
use mesh_common::model::SpiffeId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use super::activity::Activity;
use super::calm::OpenHead;
use super::conductor::Conductor;
use super::connect::failure_of;
use super::empties::{FramesOf, without_empties};
use super::exchange::Shared;
use super::http1_callers;
use super::incoming::HttpError;
use super::peers::Peers;
use super::pool::Pool;
use super::pool_http1::IdlePool;
use super::resends::Resends;
use super::server::{self, Server};
use super::settings::Settings;
use super::taking::{Late, Socket};
use crate::identity::{Alpn, HandshakeFailure, Identities, Peer, Unavailable};
use crate::transport::TunnelLoss;
use crate::transport::connect;
use crate::transport::handshakes::{Handshakes, Place};

/// HTTP/2 of one core. A clone shares its connections.
#[derive(Clone)]
pub struct Http2 {
    shared: Rc<Shared>,
}

/// Why a caller's connection was not served to its end.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket cannot be used.
    #[error("use the caller's socket")]
    Socket(#[source] io::Error),
    /// The caller's address has as many connections to this core as it may.
    #[error("the caller's address has too many connections")]
    TooMany,
    /// The pod has no certificate to accept with.
    #[error("accept TLS")]
    NoIdentity(#[source] Unavailable),
    /// TLS did not come about.
    #[error("accept TLS")]
    Handshake(#[source] HandshakeFailure),
    /// TLS took too long.
    #[error("accepting TLS timed out")]
    HandshakeTimeout,
    /// The trust bundle changed, and nobody vouches for the caller any more.
    #[error("the caller is no longer trusted")]
    NotTrusted,
    /// The caller is not served.
    #[error("the caller is not served")]
    NotServed,
    /// The caller reads too little of what it asked for.
    #[error("the caller does not read its connection (--min-response-rate)")]
    NotTaken,
    /// The caller sends a head, or trailers, and does not come to their end.
    #[error("a head does not come to its end (--header-timeout)")]
    SlowHead,
    /// The caller sends too much of what asks for nothing.
    #[error("the caller sends too many frames that ask for nothing (ENHANCE_YOUR_CALM)")]
    Restless,
    /// The caller broke HTTP, or its connection broke.
    #[error("serve HTTP/2")]
    Http(#[source] HttpError),
}

impl ServeError {
    /// Whether it ended before anybody was asked about it.
    pub fn is_of_handshake(&self) -> bool {
        match self {
            Self::Socket(_)
            | Self::TooMany
            | Self::NoIdentity(_)
            | Self::Handshake(_)
            | Self::HandshakeTimeout => true,
            Self::NotTrusted
            | Self::NotServed
            | Self::NotTaken
            | Self::SlowHead
            | Self::Restless
            | Self::Http(_) => false,
        }
    }

    /// Whether the caller broke a rule of HTTP/2.
    pub fn is_violation(&self) -> bool {
        match self {
            Self::Restless => true,
            Self::Http(HttpError::Http2(error)) => error.is_library(),
            _ => false,
        }
    }

    /// The stable code for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Socket(_) => "socket_error",
            Self::TooMany => TunnelLoss::TooMany.reason(),
            Self::NoIdentity(_) => "no_own_certificate",
            Self::Handshake(failure) => failure.as_str(),
            Self::HandshakeTimeout => "handshake_timeout",
            Self::NotTrusted => TunnelLoss::NotTrusted.reason(),
            Self::NotServed => "not_served",
            Self::NotTaken => TunnelLoss::NotRead.reason(),
            Self::SlowHead => Refusal::Slow.reason(),
            Self::Restless => TunnelLoss::Violation.reason(),
            Self::Http(error) => reason_of(error),
        }
    }
}

/// What became of a connection over which HTTP/2 ended early, in the words for tunnels.
fn reason_of(error: &HttpError) -> &'static str {
    match error {
        HttpError::Silent => TunnelLoss::Silent.reason(),
        error if error.is_io() => TunnelLoss::Closed.reason(),
        error if error.is_of_protocol() => TunnelLoss::Violation.reason(),
        _ => "http2_error",
    }
}

impl Http2 {
    /// HTTP/2 for the core that runs this and whose handshakes are in `handshakes`.
    pub fn new(identities: Arc<Identities>, settings: Settings, handshakes: Handshakes) -> Self {
        let settings = Rc::new(settings);
        let peers = Rc::<Peers>::default();
        let http2 = Pool::new(settings.clone(), identities.clone(), peers.clone());
        let http1 = IdlePool::new(settings.clone());
        let (sources, resends) = (Rc::default(), Resends::new(settings.resends));
        let bodies = Rc::default();
        let shared =
            Shared { settings, identities, http2, http1, handshakes, peers, sources, resends, bodies };
        Self { shared: Rc::new(shared) }
    }

    /// Serves a caller in the clear. `socket` is not blocking, and nothing was read from it. Dropping the future ends
    /// all at once; see [`Conductor::leave`] for the gentle way.
    ///
    /// # Errors
    /// [`ServeError`] if the connection ended before its time.
    pub async fn serve<C: Conductor>(&self, socket: OwnedFd, conductor: Rc<C>) -> Result<(), ServeError> {
        let stream = stream_of(socket).map_err(ServeError::Socket)?;
        self.serve_stream(stream, conductor, None).await
    }

    /// Serves a caller in the clear that speaks HTTP/1.1 where HTTP/2 is spoken, and that dialled `dialled`, as
    /// [`serve`](Self::serve) serves others.
    ///
    /// # Errors
    /// [`ServeError`] if the connection ended before its time.
    pub async fn serve_http1<C: Conductor>(
        &self,
        socket: OwnedFd,
        dialled: SocketAddr,
        conductor: Rc<C>,
    ) -> Result<(), ServeError> {
        let stream = stream_of(socket).map_err(ServeError::Socket)?;
        http1_callers::serve(&self.shared, stream, dialled, conductor).await
    }

    /// Accepts our TLS from `address` as `local`, and serves whoever it is. `begin` makes the conductor, once the caller is
    /// verified and before a byte of what it says is read; it gets the name of the Service that the caller says it
    /// dialled (SNI), and returns `None` for a caller that is not served at all. When the caller's certificate ends,
    /// it is told to go. `place` is given back once the handshake has ended.
    ///
    /// # Errors
    /// [`ServeError`] if TLS did not come about, or the connection ended before its time.
    pub async fn serve_tls<C: Conductor>(
        &self,
        (socket, address): (OwnedFd, IpAddr),
        local: &SpiffeId,
        place: Place,
        begin: impl FnOnce(Peer, Option<&str>) -> Option<Rc<C>>,
    ) -> Result<(), ServeError> {
        let Shared { settings, identities, sources, .. } = &*self.shared;
        let Some(_counted) = sources.take(address, settings.connections_per_source) else {
            connect::reset_on_close(&socket);
            return Err(ServeError::TooMany);
        };
        let config = identities.server(local, Alpn::H2).map_err(ServeError::NoIdentity)?;
        let stream = stream_of(socket).map_err(ServeError::Socket)?;
        let stream = timeout(settings.handshake_timeout, TlsAcceptor::from(config).accept(stream))
            .await
            .map_err(|_| ServeError::HandshakeTimeout)?
            .map_err(|error| ServeError::Handshake(failure_of(&error)))?;
        let (_, session) = stream.get_ref();
        let peer = identities
            .peer(session.peer_certificates())
            .map_err(|reason| ServeError::Handshake(HandshakeFailure::PeerRefused(reason)))?;
        // A client that offered no ALPN is a peer, but not one that said HTTP/2.
        if session.alpn_protocol() != Some(Alpn::H2.as_bytes()) {
            return Err(ServeError::Handshake(HandshakeFailure::Incompatible));
        }
        drop(place);
        let valid = identities.time_left(peer.not_after);
        let conductor = begin(peer, session.server_name()).ok_or(ServeError::NotServed)?;
        let peer = self.shared.peers.watch(session.peer_certificates());
        tokio::select! {
            served = self.serve_stream(stream, conductor, Some(valid)) => served,
            () = peer.distrusted() => Err(ServeError::NotTrusted),
        }
    }

    /// Ends the connections of peers that nobody vouches for any more. For when the trust bundle has changed.
    pub fn recheck_peers(&self) {
        self.shared.peers.recheck(&self.shared.identities);
    }

    /// HTTP/2 connections to endpoints that take requests now.
    pub fn connections(&self) -> usize {
        self.shared.http2.connections()
    }

    /// Requests' bodies that are held for their applications now, for tests and dumps.
    pub fn bodies(&self) -> usize {
        self.shared.bodies.get()
    }

    async fn serve_stream<S, C>(
        &self,
        stream: S,
        conductor: Rc<C>,
        valid: Option<Duration>,
    ) -> Result<(), ServeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
        C: Conductor,
    {
        let settings = &self.shared.settings;
        let activity = Activity::new(settings.terms(), settings.stream_idle_timeout);
        let _presence = activity.presence();
        let begin = |asked: server::Asked| {
            let both = (self.shared.clone(), conductor.clone());
            activity.run(server::serve(both, activity.begin(), asked));
        };
        let stream = Socket::new(stream, &activity, settings.max_fields);
        let is_restless = stream.is_restless();
        let mut slow_head = pin!(slow_head(stream.open_head(), settings.header_timeout));
        let failure = |error| if is_restless.get() { ServeError::Restless } else { ServeError::Http(error) };
        let (stream, heard) = without_empties(stream, FramesOf::Client);
        let mut server = Server::new(stream, heard, settings.clone());
        let mut over = pin!(after(valid));
        // Another agent connects because it has a request; one that says nothing is not waited for.
        let first = valid.map_or(settings.idle_timeout, |_| settings.handshake_timeout);
        let mut idle = pin!(activity.idle(first, settings.idle_timeout));
        let mut idle_exchanges = pin!(activity.end_idle());
        let mut looks = interval(settings.response_timeout / 2);
        let mut is_draining = false;
        loop {
            tokio::select! {
                result = poll_fn(|context| server.poll(context, begin)) => {
                    return result.map_err(failure);
                }
                () = conductor.leave().notified(), if !is_draining => is_draining = true,
                () = over.as_mut(), if !activity.is_over() => {
                    is_draining = true;
                    activity.end();
                }
                _ = looks.tick() => match activity.look() {
                    Late::No => continue,
                    // Its streams have a deadline each, and where none is open it goes.
                    Late::OfStream => {}
                    Late::OfConnection => return Err(ServeError::NotTaken),
                },
                () = slow_head.as_mut() => return Err(ServeError::SlowHead),
                never = idle_exchanges.as_mut() => match never {},
                () = idle.as_mut() => break,
            }
            server.leave();
        }
        server.leave();
        let served = poll_fn(|context| server.poll(context, begin).map_err(failure));
        bid_farewell(served, &activity, settings.handshake_timeout).await
    }
}

/// Ends after this time, if there is one.
async fn after(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => pending().await,
    }
}

/// Ends when a head has been open for so long. Looked at as often: one that begins meanwhile is not late before the next look.
async fn slow_head(open: OpenHead, patience: Duration) {
    loop {
        match open.get().map(|since| since + patience) {
            Some(late) if late <= Instant::now() => return,
            Some(late) => sleep_until(late).await,
            None => sleep(patience).await,
        }
    }
}

/// Nothing is open: a caller that does not go, or that never began with HTTP, is not waited for. A request that crossed
/// with the GOAWAY is.
async fn bid_farewell(
    served: impl Future<Output = Result<(), ServeError>>,
    activity: &Activity,
    patience: Duration,
) -> Result<(), ServeError> {
    let mut served = pin!(served);
    loop {
        match timeout(patience, served.as_mut()).await {
            Ok(result) => return result,
            Err(_) if activity.look() == Late::OfConnection => return Err(ServeError::NotTaken),
            Err(_) if activity.is_open() => {
                activity.look_for_idle();
            }
            Err(_) => return Ok(()),
        }
    }
}

fn stream_of(socket: OwnedFd) -> io::Result<TcpStream> {
    TcpStream::from_std(StdTcpStream::from(socket))
}
