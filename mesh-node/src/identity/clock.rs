//! The one wall clock of the identity stage, which tests replace.
//!
//! Wall time only judges and makes certificates; waiting is tokio's monotonic time.

use std::sync::Arc;

use rustls::time_provider::{DefaultTimeProvider, TimeProvider};

/// Where wall time comes from; rustls asks the same one during handshakes.
pub type Clock = Arc<dyn TimeProvider>;

/// The machine's own wall clock.
pub fn system_clock() -> Clock {
    Arc::new(DefaultTimeProvider)
}

/// Now, in UTC seconds since the epoch.
///
/// A clock that cannot be read is at the end of time: everything has expired, so nothing is trusted by mistake.
pub fn now(clock: &Clock) -> u64 {
    clock.current_time().map_or(u64::MAX, |time| time.as_secs())
}
