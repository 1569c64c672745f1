//! What may be set about HTTP/1.1, and what it allows itself.

use std::time::Duration;

use mesh_common::http1::Limits;

use crate::transport::patience::Terms;

/// Deadlines and limits of HTTP/1.1 on one core.
#[derive(Clone, Copy, Debug)]
pub struct HttpSettings {
    /// `--max-request-line`, `--max-header-bytes`, `--max-headers`.
    pub limits: Limits,
    /// `--header-timeout`: from a request's first byte to the end of its head.
    pub header_timeout: Duration,
    /// `--request-timeout`: from a request's first byte until it is whole, or its response begins.
    pub request_timeout: Duration,
    /// `--http-idle-timeout`: between two requests of one connection.
    pub idle_timeout: Duration,
    /// A body of which nothing more arrives.
    pub body_timeout: Duration,
    /// `--min-body-rate`: bytes per second of a request's body, over each [`body_timeout`](Self::body_timeout).
    pub body_rate: u64,
    /// `--min-response-rate`: bytes per second that a client takes of a response while something of it waits.
    pub response_rate: u64,
    /// What a client has that takes nothing of it.
    pub response_timeout: Duration,
    /// A pooled connection to an application that nobody needs. Below the shortest keep-alive of common servers
    /// (5 s), so that they seldom close first.
    pub pool_idle_timeout: Duration,
    /// Pooled connections of one caller to one application that wait for a request.
    pub pooled_per_scope: usize,
    /// Pooled connections that wait for a request, on this core.
    pub pooled: usize,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            header_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(3600),
            idle_timeout: Duration::from_secs(300),
            body_timeout: Duration::from_secs(60),
            body_rate: 16,
            response_rate: 16,
            response_timeout: Duration::from_secs(60),
            pool_idle_timeout: Duration::from_secs(4),
            // Closing what finds no place costs more than keeping it: each close holds a port of the pod for a minute,
            // and without free ports every connect searches them all.
            pooled_per_scope: 1024,
            pooled: 4096,
        }
    }
}

impl HttpSettings {
    /// On which what waits for a client is kept.
    pub(super) fn terms(&self) -> Terms {
        Terms::new(self.response_rate, self.response_timeout)
    }
}

/// How long a client may take to stop sending that was sent its last answer.
pub(super) const LINGER: Duration = Duration::from_secs(2);
/// Rounds of one turn: what has more to do then waits in the queue.
pub(super) const ROUNDS: usize = 4;
