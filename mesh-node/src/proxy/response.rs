//! What the parties see of a refusal or a failure: one table for resets, metric flags and words.

use mesh_common::policy::{Denial, DenialReason};
use mesh_common::resolve::UnknownTarget;
use mesh_common::route::Unroutable;
use mesh_common::token::TokenFault;
use mesh_common::tunnel::ResetReason;

use super::decisions::Cause;
use super::limits::LimitReached;
use crate::telemetry::labels::{ResponseFlags, Verdict};
use crate::transport::{CloseReason, ConnectFailure, TunnelLoss};

/// What a penalty is called in logs and metrics.
pub(super) const PENALTY: &str = "abuse_penalty";

/// Why a connection, stream or request was not carried.
#[derive(Clone, Debug)]
pub(super) enum Rejection {
    /// Policy, or nothing is known of what was asked for.
    Denied(Denial),
    /// An authorization server was asked and said nothing that counts: the caller is answered this status.
    Unanswered(Denial, u16),
    /// A limit is reached.
    Limited(LimitReached),
    /// Its source was cut off for abuse again and again, and began another connection just now.
    Penalty,
    /// There is no endpoint.
    Unroutable(Unroutable),
    /// The kernel's map has no original destination: nobody was led here, somebody dialled the listener itself.
    NotCaptured,
    /// The pod is not captured any more.
    PodGone,
    /// A peer's stream names an address that this pod does not answer for.
    WrongDestination,
    /// Rules about requests apply, and what comes is not HTTP.
    NotHttp,
}

impl Rejection {
    /// The stable word for logs and metrics.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Denied(denial) | Self::Unanswered(denial, _) => denial.reason.code(),
            Self::Limited(LimitReached::Node) => "node_connection_limit",
            Self::Limited(LimitReached::Namespace) => "namespace_connection_limit",
            Self::Limited(LimitReached::Pod) => "pod_connection_limit",
            Self::Penalty => PENALTY,
            Self::Unroutable(unroutable) => unroutable.code(),
            Self::NotCaptured => "no_original_destination",
            Self::PodGone => "pod_gone",
            Self::WrongDestination => "wrong_destination",
            Self::NotHttp => "request_rules_need_http",
        }
    }

    /// Who or what refuses, to be kept under the refusal's id.
    pub(super) fn cause(&self) -> Cause {
        Cause::Carrying(match self {
            Self::Denied(denial) | Self::Unanswered(denial, _) => return Cause::Policy(denial.clone()),
            Self::NotHttp => return Cause::NotHttp,
            Self::Limited(LimitReached::Node) => {
                "the node has as many connections as --max-connections lets it"
            }
            Self::Limited(LimitReached::Namespace) => {
                "the pod's namespace has as many connections as --max-connections-per-namespace lets it"
            }
            Self::Limited(LimitReached::Pod) => {
                "the pod has as many connections as --max-connections-per-pod lets it"
            }
            Self::Penalty => "its source was cut off for abuse again and again (--abuse-penalty)",
            Self::Unroutable(unroutable) => return Cause::NoEndpoint(*unroutable),
            Self::NotCaptured => "somebody dialled the mesh's own listener, and was not led there",
            Self::PodGone => "the pod is not in the mesh any more",
            Self::WrongDestination => "a peer named an address that this pod does not answer for",
        })
    }

    /// What the metric's label says.
    pub(super) fn flags(&self) -> ResponseFlags {
        match self {
            Self::Denied(Denial { reason: DenialReason::UnknownDestination(_), .. })
            | Self::Unroutable(_)
            | Self::NotCaptured
            | Self::PodGone
            | Self::WrongDestination => ResponseFlags::NoHealthyUpstream,
            Self::Denied(_) | Self::Unanswered(..) | Self::NotHttp => ResponseFlags::Denied,
            Self::Limited(_) | Self::Penalty => ResponseFlags::UpstreamOverflow,
        }
    }

    /// What policy said.
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::Denied(Denial { reason: DenialReason::UnknownDestination(_), .. })
            | Self::Limited(_)
            | Self::Penalty
            | Self::NotCaptured
            | Self::PodGone
            | Self::WrongDestination => Verdict::Undecided,
            Self::Denied(_) | Self::Unanswered(..) | Self::NotHttp => Verdict::Denied,
            Self::Unroutable(_) => Verdict::Allowed,
        }
    }

    /// What is wrong with the request's token.
    pub(super) fn token_fault(&self) -> Option<TokenFault> {
        match self {
            Self::Denied(Denial { reason: DenialReason::InvalidToken(fault), .. }) => Some(*fault),
            _ => None,
        }
    }

    /// Status and body of the answer to a request. Envoy's and Istio's words, which people search for.
    pub(super) fn answer(&self) -> (u16, &'static str) {
        if let Self::Unanswered(_, status) = self {
            return (*status, "external authorization failed");
        }
        match self.verdict() {
            Verdict::Denied => match self.token_fault() {
                Some(fault) => (401, fault.as_str()),
                None => (403, "RBAC: access denied"),
            },
            Verdict::Allowed | Verdict::Audited | Verdict::Undecided => match self {
                Self::Limited(_) | Self::Penalty => (503, "upstream connect error: overflow"),
                _ => (503, "no healthy upstream"),
            },
        }
    }

    /// What a peer is told of its stream.
    pub(super) fn reset(&self) -> ResetReason {
        match self {
            Self::Denied(Denial {
                reason: DenialReason::UnknownDestination(UnknownTarget::NotLocalAddress),
                ..
            })
            | Self::WrongDestination => ResetReason::WrongDestination,
            Self::Denied(_) | Self::Unanswered(..) | Self::NotHttp => ResetReason::Denied,
            Self::Limited(_) | Self::Penalty => ResetReason::Overloaded,
            Self::Unroutable(_) | Self::NotCaptured | Self::PodGone => ResetReason::Unreachable,
        }
    }
}

/// What the metric's label says of a connection that was carried.
pub(super) fn flags_of(reason: CloseReason) -> ResponseFlags {
    match reason {
        CloseReason::Completed => ResponseFlags::None,
        CloseReason::ClientReset | CloseReason::NotTaken => ResponseFlags::DownstreamDisconnect,
        CloseReason::PeerReset(ResetReason::Denied) | CloseReason::NoLongerPermitted => ResponseFlags::Denied,
        CloseReason::PeerReset(ResetReason::Overloaded)
        | CloseReason::Overloaded
        | CloseReason::NoDescriptors => ResponseFlags::UpstreamOverflow,
        CloseReason::Connect(
            ConnectFailure::Refused | ConnectFailure::Unreachable | ConnectFailure::Local,
        )
        | CloseReason::TunnelLost(TunnelLoss::Connect(_))
        | CloseReason::PeerReset(ResetReason::ConnectRefused | ResetReason::Unreachable) => {
            ResponseFlags::ConnectFailure
        }
        CloseReason::Connect(ConnectFailure::TimedOut)
        | CloseReason::PeerReset(ResetReason::ConnectTimedOut | ResetReason::DeadlineExceeded)
        | CloseReason::TunnelLost(TunnelLoss::HandshakeTimedOut)
        | CloseReason::IdleTimedOut => ResponseFlags::UpstreamTimeout,
        CloseReason::TunnelLost(TunnelLoss::NoCertificate) => ResponseFlags::IdentityError,
        CloseReason::TunnelLost(TunnelLoss::Handshake | TunnelLoss::NotTrusted) => ResponseFlags::TlsFailure,
        CloseReason::BadMessage => ResponseFlags::DownstreamProtocolError,
        CloseReason::ServerReset
        | CloseReason::PeerReset(_)
        | CloseReason::TunnelLost(_)
        | CloseReason::Draining
        | CloseReason::Internal => ResponseFlags::UpstreamFailure,
    }
}
