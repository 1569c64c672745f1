//! Limits and deadlines of HTTP/2 connections.

use std::time::Duration;

use mesh_common::http1::Limits;

use crate::config::{HttpConfig, TunnelConfig};
use crate::transport::patience::Terms;
use crate::transport::tunnel;

/// Limits and deadlines. The defaults hold against the attacks of the house's list (resets, continuations, header
/// bombs, empty frames) together with h2's own budgets, which are on by default.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Streams that a peer may have open on one connection; what is over is refused (RFC 9113 section 5.1.2).
    pub max_concurrent_streams: u32,
    /// Bytes of a header list, uncompressed and with 32 for each field (RFC 9113 section 6.5.2); trailers too.
    pub max_header_list: u32,
    /// Most fields of a request.
    pub max_fields: usize,
    /// Bytes of a stream's window.
    pub stream_window: u32,
    /// Bytes of a stream that are held for a slow reader. All streams of a connection may be slow at once, and the
    /// windows that a peer grants are its own choice: this alone bounds what it can make us hold.
    pub send_buffer: usize,
    /// Bytes of a connection's window: so many streams of full windows, whose readers take nothing, hold up no other.
    pub connection_window: u32,
    /// Streams that we put on one connection before another one is opened.
    pub streams_per_connection: u32,
    /// Requests of one caller that may always be sent once more to one destination in ten seconds, beyond a fifth of those
    /// that it asks there: as many as one connection carries, so that one that goes away costs no request.
    pub resends: u32,
    /// Connections accepted from one address that are open at a time, on each core: as many as tunnels.
    pub connections_per_source: usize,
    /// Connections to one endpoint for one pod; more streams share those.
    pub connections_per_endpoint: usize,
    /// Idle HTTP/1.1 connections kept for one application and caller.
    pub idle_per_application: usize,
    /// Longest time for a TCP connect.
    pub connect_timeout: Duration,
    /// Longest time for a TLS handshake, and for the settings after it.
    pub handshake_timeout: Duration,
    /// `--header-timeout`: from the first byte of a request's head to its last one; over HTTP/2 from the header of its first
    /// frame, and of trailers too.
    pub header_timeout: Duration,
    /// Bytes of a request's line over HTTP/1.1.
    pub max_request_line: usize,
    /// `--min-body-rate`: bytes per second of a request's body, over each [`body_timeout`](Self::body_timeout).
    pub body_rate: u64,
    /// `--request-timeout`: from a request's head until it is whole, or its response begins.
    pub request_timeout: Duration,
    /// A body of which nothing more arrives.
    pub body_timeout: Duration,
    /// `--min-response-rate`: bytes per second that a caller takes of a response while something of it waits.
    pub response_rate: u64,
    /// What a caller has that takes nothing of it.
    pub response_timeout: Duration,
    /// A connection on which nothing was open for so long is closed.
    pub idle_timeout: Duration,
    /// `--tcp-idle-timeout`: an exchange, or a WebSocket, on which nothing moves (Envoy's `stream_idle_timeout`).
    pub stream_idle_timeout: Duration,
    /// A connection between agents takes no new stream after this (`--tunnel-max-age`).
    pub max_age: Duration,
    /// A PING is sent when a caller, or an endpoint with a request under way, was silent for so long...
    pub ping_interval: Duration,
    /// ...and the connection is given up when no answer comes in this.
    pub ping_timeout: Duration,
}

impl Settings {
    /// What the agent was told, and defaults for the rest.
    pub fn new(http: &HttpConfig, tunnel: &TunnelConfig) -> Self {
        Self {
            max_header_list: u32::try_from(http.max_header_bytes).unwrap_or(u32::MAX),
            max_fields: http.max_headers,
            connect_timeout: tunnel.connect_timeout,
            handshake_timeout: tunnel.handshake_timeout,
            header_timeout: http.header_timeout,
            max_request_line: http.max_request_line,
            body_rate: http.min_body_rate,
            request_timeout: http.request_timeout,
            response_rate: http.min_response_rate,
            idle_timeout: http.idle_timeout,
            stream_idle_timeout: tunnel.tcp_idle_timeout,
            max_age: tunnel.max_age,
            ..Self::default()
        }
    }

    /// How much of an application's response over HTTP/1.1 is held before it is understood.
    pub(super) fn http1_limits(&self) -> Limits {
        Limits { head: self.max_header_list as usize, fields: self.max_fields, ..Limits::default() }
    }

    /// How much of a caller's request over HTTP/1.1 is held before it is understood.
    pub(super) fn http1_request_limits(&self) -> Limits {
        Limits { start_line: self.max_request_line, ..self.http1_limits() }
    }

    /// On which what waits for a caller is kept.
    pub(super) fn terms(&self) -> Terms {
        Terms::new(self.response_rate, self.response_timeout)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 256,
            max_header_list: 32 << 10,
            max_fields: 100,
            stream_window: 256 << 10,
            send_buffer: 64 << 10,
            connection_window: 16 << 20,
            streams_per_connection: 200,
            resends: 200,
            connections_per_source: tunnel::Settings::default().tunnels_per_source,
            connections_per_endpoint: 4,
            idle_per_application: 64,
            connect_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(30),
            max_request_line: 8 << 10,
            body_rate: 16,
            request_timeout: Duration::from_secs(3600),
            body_timeout: Duration::from_secs(60),
            response_rate: 16,
            response_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(300),
            stream_idle_timeout: Duration::from_secs(3600),
            max_age: Duration::from_secs(60),
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(5),
        }
    }
}
