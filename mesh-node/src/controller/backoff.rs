//! How long to wait before a failed call is made again: longer each time, bounded, and never in step with others.

use std::time::Duration;

/// After the first failure, on average.
const SHORTEST: Duration = Duration::from_millis(500);
/// After many, on average.
const LONGEST: Duration = Duration::from_secs(30);

/// Counts failures in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait: doubled with each failure, and anything from half of that to one and a half times it.
    pub(super) fn next(&mut self) -> Duration {
        let wait = SHORTEST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        wait.mul_f64(0.5 + fastrand::f64())
    }

    /// Takes that it worked.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_are_bounded() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..100).map(|_| backoff.next()).collect();
        assert!(waits[0] >= SHORTEST / 2 && waits[0] <= SHORTEST * 2);
        assert!(waits[50..].iter().all(|wait| (LONGEST / 2..=LONGEST * 3 / 2).contains(wait)));
        backoff.reset();
        assert!(backoff.next() <= SHORTEST * 2);
    }
}
