//! Says something that may happen thousands of times a second now and then.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time between two lines about the same.
const REST: Duration = Duration::from_secs(10);

/// Tells when something may be said again: at once, and then every ten seconds. Shared by reference; takes no lock.
#[derive(Debug)]
pub struct Seldom {
    began: Instant,
    /// Milliseconds from `began` until when nothing is said.
    quiet_until: AtomicU64,
}

impl Default for Seldom {
    fn default() -> Self {
        Self { began: Instant::now(), quiet_until: AtomicU64::new(0) }
    }
}

impl Seldom {
    /// Whether it is time; of many who ask at once, one is told so.
    pub fn is_time(&self) -> bool {
        self.is_time_after(self.began.elapsed())
    }

    fn is_time_after(&self, elapsed: Duration) -> bool {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let until = self.quiet_until.load(Ordering::Relaxed);
        let next = millis(elapsed.saturating_add(REST));
        // Relaxed: the number alone matters, it orders no other memory.
        let exchange =
            || self.quiet_until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed);
        millis(elapsed) >= until && exchange().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_time_at_once_and_after_every_rest() {
        let seldom = Seldom::default();
        let told: Vec<bool> = [0, 1, 9_999, 10_000, 10_001, 20_000]
            .map(|at| seldom.is_time_after(Duration::from_millis(at)))
            .into();
        assert_eq!(told, [true, false, false, true, false, true]);
    }
}
