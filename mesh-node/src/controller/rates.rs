//! PURE. How much each of many may ask for: a bucket for each, and none that fills another's.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Instant;

/// What one may ask for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rate {
    /// Calls a second, for ever.
    pub(super) per_second: f64,
    /// Calls at once, after a rest.
    pub(super) burst: f64,
}

/// The buckets of all.
#[derive(Debug)]
pub(super) struct Rates<K> {
    rate: Rate,
    /// Most buckets that are kept.
    bound: usize,
    buckets: HashMap<K, Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl<K: Eq + Hash + Clone> Rates<K> {
    pub(super) fn new(rate: Rate, bound: usize) -> Self {
        Self { rate, bound, buckets: HashMap::new() }
    }

    /// Whether one more call of `who` is within its rate; takes it if so.
    pub(super) fn takes(&mut self, who: &K, now: Instant) -> bool {
        let rate = self.rate;
        if self.buckets.len() >= self.bound && !self.buckets.contains_key(who) {
            // A bucket that is full again says nothing.
            self.buckets.retain(|_, bucket| bucket.refilled(rate, now) < rate.burst);
            if self.buckets.len() >= self.bound {
                return false;
            }
        }
        let bucket = self.buckets.entry(who.clone()).or_insert(Bucket { left: rate.burst, at: now });
        *bucket = Bucket { left: bucket.refilled(rate, now), at: now };
        if bucket.left < 1.0 {
            return false;
        }
        bucket.left -= 1.0;
        true
    }
}

impl Bucket {
    fn refilled(&self, rate: Rate, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left + since * rate.per_second).min(rate.burst)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const RATE: Rate = Rate { per_second: 10.0, burst: 5.0 };

    #[test]
    fn a_flood_gets_the_burst_and_then_the_rate_and_harms_nobody() {
        let mut rates = Rates::new(RATE, 8);
        let start = Instant::now();
        let taken = |rates: &mut Rates<&str>, who, at| (0..100).filter(|_| rates.takes(&who, at)).count();
        assert_eq!(taken(&mut rates, "flood", start), 5);
        assert_eq!(taken(&mut rates, "flood", start + Duration::from_millis(300)), 3);
        assert_eq!(taken(&mut rates, "other", start + Duration::from_millis(300)), 5);
        assert_eq!(taken(&mut rates, "flood", start + Duration::from_secs(60)), 5);
    }

    #[test]
    fn buckets_are_bounded_and_forgotten_when_they_are_full() {
        let mut rates = Rates::new(RATE, 3);
        let start = Instant::now();
        assert!((0..3).all(|who| rates.takes(&who, start)));
        assert!(!rates.takes(&7, start), "no place is left");
        assert!(rates.takes(&0, start), "who has one keeps it");
        assert!(rates.takes(&7, start + Duration::from_secs(1)));
        assert_eq!(rates.buckets.len(), 1);
    }
}
