//! What the validity of certificates says of tunnels.

use std::time::{Duration, Instant, SystemTime};

use mesh_common::model::SpiffeId;
use tracing::debug;

use super::Core;
use crate::transport::TunnelLoss;

/// A tunnel is re-made this long before its certificate expires, at least.
const RETIRE_BEFORE: Duration = Duration::from_secs(1);

impl Core {
    /// Counts that a pod has no certificate of its own.
    pub(super) fn without_certificate(&self, error: &crate::identity::Unavailable) -> TunnelLoss {
        self.shared.metrics.refused(TunnelLoss::NoCertificate.reason());
        debug!(%error, "no certificate to speak with");
        TunnelLoss::NoCertificate
    }

    /// When a tunnel of this identity must be re-made: at three quarters of what is left of its certificate.
    pub(super) fn retire_at(&self, local: &SpiffeId) -> Option<Instant> {
        let left = left_until(self.shared.identities.not_after(local)?)?;
        Some(Instant::now() + left.saturating_sub(RETIRE_BEFORE).min(left.mul_f64(0.75)))
    }
}

/// How long until `not_after`, in seconds since the epoch; nothing if it is over.
pub(super) fn left_until(not_after: u64) -> Option<Duration> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Duration::from_secs(not_after).saturating_sub(now))
}
