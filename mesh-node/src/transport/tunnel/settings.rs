//! What may be set about the engine, and what it allows itself.

use std::time::Duration;

use mesh_common::tunnel::Limits;

use crate::transport::http1::HttpSettings;

/// Deadlines and limits of one core's engine.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `--tunnel-max-age`: a tunnel older than this takes no new stream.
    pub tunnel_max_age: Duration,
    /// `--tunnel-idle-timeout`: a tunnel without streams is closed after this, by its client. A server waits
    /// [`silence`](Self::silence) longer, so that a client that keeps to it never meets the end of a tunnel that it is
    /// about to use.
    pub tunnel_idle_timeout: Duration,
    /// `--tunnels-per-destination`, on each core.
    pub tunnels_per_destination: usize,
    /// Tunnels accepted from one address that are open at a time, on each core. A pod of many cores has one for each of
    /// them and each pod and port that it calls, and those whose streams outlive the tunnel's age.
    pub tunnels_per_source: usize,
    /// Streams of one tunnel and growth of its windows.
    pub tunnel: Limits,
    /// `--connect-timeout`: to an application; also from accept to a tunnel that is up.
    pub connect_timeout: Duration,
    /// `--handshake-timeout`: TLS, in either direction.
    pub handshake_timeout: Duration,
    /// `--detect-timeout`: first bytes of an inbound connection.
    pub detect_timeout: Duration,
    /// A connection of which nothing can be decided yet.
    pub hold_timeout: Duration,
    /// `--tcp-idle-timeout`: a connection on which nothing moves.
    pub idle_timeout: Duration,
    /// A tunnel with streams that is silent for this long is asked with PING.
    pub silence: Duration,
    /// How long the answer may take.
    pub answer: Duration,
    /// HTTP/1.1.
    pub http: HttpSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tunnel_max_age: Duration::from_secs(60),
            tunnel_idle_timeout: Duration::from_secs(30),
            tunnels_per_destination: 1,
            tunnels_per_source: 4096,
            tunnel: Limits::default(),
            connect_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(10),
            detect_timeout: Duration::from_secs(5),
            hold_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(3600),
            silence: Duration::from_secs(10),
            answer: Duration::from_secs(5),
            http: HttpSettings::default(),
        }
    }
}

/// Most bytes that one connection or tunnel moves before others get their turn.
pub(in crate::transport) const BUDGET: usize = 64 * 1024;
/// Bytes of queued bulk work in one turn, after which epoll is asked again: light connections wait no longer
/// than this takes.
pub(super) const TURN: usize = 128 * 1024;
/// A read of more than this marks a connection as bulk: it waits its turn in the queue.
pub(super) const BULK: usize = 16 * 1024;
/// Unsent bytes in a tunnel's socket beyond which it counts as full (TCP_NOTSENT_LOWAT).
pub(super) const UNSENT: u32 = 128 * 1024;
/// Bytes of a tunnel that its socket has not taken, sealed or not, beyond which its streams wait until all of them
/// are gone. What is over is at most what one connection adds at a time.
pub(super) const BACKLOG: usize = 512 * 1024;
/// Sealed bytes that a peer may leave unread before its tunnel is closed. Data stops at [`BACKLOG`]; only answers
/// to its own frames can grow so far.
pub(super) const UNREAD: usize = 4 * 1024 * 1024;
/// Connections taken from one listener in a turn.
pub(super) const ACCEPTS: usize = 32;
/// First bytes of a stream that are kept until the peer shows that it took the stream, for one more try elsewhere.
pub(super) const REPLAY: usize = 16 * 1024;
