//! How a connection ended: what the access log and the metrics are told.

use std::time::Duration;

use mesh_common::tunnel::ResetReason;

/// Of a response too little was taken, whatever it was carried by.
pub(in crate::transport) const NOT_TAKEN: &str = "response_not_taken";

/// What a connection carried and why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes of the application that connected, as far as they were passed on.
    pub to_server: u64,
    /// Bytes of the application that was connected to.
    pub to_client: u64,
    /// From accept to end.
    pub duration: Duration,
    /// Why it ended.
    pub reason: CloseReason,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Both sides finished.
    Completed,
    /// The connecting application reset its connection.
    ClientReset,
    /// The application that was connected to reset its connection.
    ServerReset,
    /// The other daemon reset the stream.
    PeerReset(ResetReason),
    /// The tunnel that carried it is gone, or never came up.
    TunnelLost(TunnelLoss),
    /// The address could not be connected to.
    Connect(ConnectFailure),
    /// Nothing moved for longer than the idle deadline.
    IdleTimedOut,
    /// The client takes too little of a response that waits for it.
    NotTaken,
    /// Policy or identity no longer permits it.
    NoLongerPermitted,
    /// The daemon stops.
    Draining,
    /// A limit of this daemon is reached.
    Overloaded,
    /// This daemon has no descriptor left.
    NoDescriptors,
    /// The bytes are not what they were announced to be.
    BadMessage,
    /// A fault of our own.
    Internal,
}

/// Why a TCP connection could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFailure {
    /// Nobody listens, or it was answered with a reset.
    Refused,
    /// No way there.
    Unreachable,
    /// No answer before the deadline.
    TimedOut,
    /// Refused by this machine: descriptors, ports, memory or permission.
    Local,
}

/// Why a tunnel is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelLoss {
    /// Its TCP connection could not be made.
    Connect(ConnectFailure),
    /// Identity has no configuration to speak with.
    NoCertificate,
    /// The TLS handshake failed: most often an identity that is not the expected one.
    Handshake,
    /// The TLS handshake did not end before the deadline.
    HandshakeTimedOut,
    /// The peer closed or reset it.
    Closed,
    /// The peer is silent, also when asked.
    Silent,
    /// The peer broke a rule of the wire, or says that we did.
    Violation,
    /// The peer does not read.
    NotRead,
    /// The peer's address has as many tunnels to this core as it may.
    TooMany,
    /// The trust bundle changed, and nobody vouches for the peer any more.
    NotTrusted,
    /// It is no longer wanted: drain, age, a pod or an identity that is gone.
    Retired,
}

impl CloseReason {
    /// The stable word for logs and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ClientReset => "client_reset",
            Self::ServerReset => "server_reset",
            Self::PeerReset(reason) => reason.reason(),
            Self::TunnelLost(loss) => loss.reason(),
            Self::Connect(failure) => failure.reason(),
            Self::IdleTimedOut => "idle_timed_out",
            Self::NotTaken => NOT_TAKEN,
            Self::NoLongerPermitted => "no_longer_permitted",
            Self::Draining => "draining",
            Self::Overloaded => "overloaded",
            Self::NoDescriptors => "no_descriptors",
            Self::BadMessage => "bad_message",
            Self::Internal => "internal",
        }
    }

    /// What the other daemon is told when this ends a stream.
    pub fn as_reset(self) -> ResetReason {
        match self {
            // Not DRAINING: an application may have seen bytes of it, so it may not begin elsewhere.
            Self::Completed | Self::ClientReset | Self::ServerReset | Self::Draining => {
                ResetReason::Cancelled
            }
            Self::PeerReset(reason) => reason,
            Self::Connect(ConnectFailure::Refused) => ResetReason::ConnectRefused,
            Self::Connect(ConnectFailure::Unreachable) => ResetReason::Unreachable,
            Self::Connect(ConnectFailure::TimedOut) => ResetReason::ConnectTimedOut,
            Self::Connect(ConnectFailure::Local) | Self::TunnelLost(_) | Self::Internal => {
                ResetReason::Internal
            }
            Self::IdleTimedOut | Self::NotTaken => ResetReason::IdleTimedOut,
            Self::NoLongerPermitted => ResetReason::Denied,
            Self::Overloaded | Self::NoDescriptors => ResetReason::Overloaded,
            Self::BadMessage => ResetReason::BadMessage,
        }
    }

    /// Whether only the tunnel went away, or its daemon is about to: the same endpoint may be tried again, if there is no
    /// other.
    pub fn spares_the_endpoint(self) -> bool {
        self == Self::PeerReset(ResetReason::Draining)
    }

    /// Whether another endpoint may be tried, given that no byte reached an application: the endpoint was not
    /// there, as opposed to the connection not being wanted.
    pub fn spares_the_application(self) -> bool {
        match self {
            Self::Connect(failure) => failure != ConnectFailure::Local,
            Self::TunnelLost(
                TunnelLoss::Connect(_) | TunnelLoss::HandshakeTimedOut | TunnelLoss::Handshake,
            ) => true,
            Self::PeerReset(reason) => matches!(
                reason,
                ResetReason::ConnectRefused
                    | ResetReason::Unreachable
                    | ResetReason::ConnectTimedOut
                    | ResetReason::Overloaded
                    | ResetReason::Draining
            ),
            _ => false,
        }
    }
}

impl ConnectFailure {
    /// The stable word for logs and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Refused => "connect_refused",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "connect_timed_out",
            Self::Local => "connect_failed_here",
        }
    }
}

impl TunnelLoss {
    /// The stable word for logs and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Connect(failure) => failure.reason(),
            Self::NoCertificate => "no_certificate",
            Self::Handshake => "handshake_failed",
            Self::HandshakeTimedOut => "handshake_timed_out",
            Self::Closed => "tunnel_closed",
            Self::Silent => "tunnel_silent",
            Self::Violation => "tunnel_violation",
            Self::NotRead => "tunnel_not_read",
            Self::TooMany => "too_many_tunnels",
            Self::NotTrusted => "peer_not_trusted",
            Self::Retired => "tunnel_retired",
        }
    }
}
