//! What a client is told of an upstream that failed: one table.

use mesh_common::http1::LocalAnswer;
use mesh_common::http1::relay::Failure;
use mesh_common::tunnel::ResetReason;

use crate::transport::outcome::{CloseReason, ConnectFailure, TunnelLoss};

/// What an exchange makes of the end of its upstream.
pub(super) fn of(reason: CloseReason) -> Failure {
    let answer = answer(reason);
    if reason.spares_the_application() { Failure::Untouched(answer) } else { Failure::Lost(answer) }
}

/// The tunnel for an exchange did not come up in time.
pub(super) const TUNNEL_LATE: CloseReason =
    CloseReason::TunnelLost(TunnelLoss::Connect(ConnectFailure::TimedOut));
/// The application did not accept the connection in time.
pub(super) const APPLICATION_LATE: CloseReason = CloseReason::Connect(ConnectFailure::TimedOut);

/// The answer for a request whose upstream ended before it answered.
pub(super) fn answer(reason: CloseReason) -> LocalAnswer<'static> {
    let (status, text) = match reason {
        CloseReason::Connect(ConnectFailure::TimedOut)
        | CloseReason::TunnelLost(TunnelLoss::Connect(ConnectFailure::TimedOut))
        | CloseReason::PeerReset(ResetReason::ConnectTimedOut) => {
            (503, "upstream connect error: connection timeout")
        }
        CloseReason::Connect(_)
        | CloseReason::TunnelLost(TunnelLoss::Connect(_))
        | CloseReason::PeerReset(ResetReason::ConnectRefused | ResetReason::Unreachable) => {
            (503, "upstream connect error: connection failure")
        }
        CloseReason::IdleTimedOut
        | CloseReason::PeerReset(ResetReason::IdleTimedOut | ResetReason::DeadlineExceeded) => {
            (504, "upstream request timeout")
        }
        CloseReason::NoLongerPermitted | CloseReason::PeerReset(ResetReason::Denied) => {
            (403, "RBAC: access denied")
        }
        CloseReason::BadMessage | CloseReason::PeerReset(ResetReason::BadMessage) => {
            (502, "upstream response is malformed")
        }
        CloseReason::Completed
        | CloseReason::ClientReset
        | CloseReason::ServerReset
        | CloseReason::NotTaken
        | CloseReason::PeerReset(_)
        | CloseReason::TunnelLost(_)
        | CloseReason::Draining
        | CloseReason::Overloaded
        | CloseReason::NoDescriptors
        | CloseReason::Internal => (503, "upstream connect error or disconnect before headers"),
    };
    LocalAnswer { status, text, reason: reason.reason(), decision: None }
}
