//! When to renew a certificate. PURE: no clock, no randomness, no waiting; they are arguments.
//!
//! Times are UTC seconds since the epoch; `jitter` is in `0.0..1.0`.

use std::time::Duration;

/// The share of a certificate's life by which jitter moves its renewal earlier.
const JITTER_SHARE: f64 = 0.1;
/// The first wait after a failed renewal.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest wait after failed renewals: long enough to spare an authority that is ill, short enough that
/// its recovery is noticed soon.
const LONGEST_RETRY: Duration = Duration::from_secs(150);
/// A retry waits between 80% and 120% of its step.
const RETRY_SPREAD: f64 = 0.2;

/// The life of a certificate as its holder sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// When it was obtained. Not `notBefore`: that is backdated for peers whose clocks are late.
    pub obtained: u64,
    /// `notBefore` of the certificate.
    pub not_before: u64,
    /// `notAfter` of the certificate, its last valid second (RFC 5280 section 4.1.2.5).
    pub not_after: u64,
}

/// What a holder may do with its certificate now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Valid, and renewal is not due before `renew_in` has passed.
    Fresh {
        /// How long renewal can wait.
        renew_in: Duration,
    },
    /// Valid, and due for renewal.
    Due,
    /// Outside its validity: it must not be shown to anyone.
    Unusable,
}

/// Judges a certificate.
///
/// Renewal is due at half of the life that was left when it was obtained, moved earlier by up to 10% of that
/// life with `jitter`, so that pods which started together do not renew together. A clock that went back
/// before `obtained` changes nothing as long as the certificate is valid.
pub fn standing(life: Life, now: u64, jitter: f64) -> Standing {
    if now > life.not_after || now < life.not_before {
        return Standing::Unusable;
    }
    let whole = life.not_after.saturating_sub(life.obtained) as f64;
    let age = now.saturating_sub(life.obtained) as f64;
    let wait = whole * (0.5 - JITTER_SHARE * jitter) - age;
    if wait <= 0.0 { Standing::Due } else { Standing::Fresh { renew_in: Duration::from_secs_f64(wait) } }
}

/// How long to wait after the `failures`-th failed try in a row (1 is the first).
///
/// Doubles from half a second to 150 seconds, spread by 20% either way, and never waits past half of what is
/// left of the certificate, so that an authority which comes back before expiry is always met.
/// `left` is `None` where there is no valid certificate: nothing to run out.
pub fn retry_after(failures: u32, left: Option<Duration>, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let step = FIRST_RETRY.saturating_mul(1 << doublings).min(LONGEST_RETRY);
    let spread = step.mul_f64(1.0 - RETRY_SPREAD + 2.0 * RETRY_SPREAD * jitter);
    match left {
        Some(left) => spread.min((left / 2).max(FIRST_RETRY)),
        None => spread,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Life = Life { obtained: 1_000_000, not_before: 999_700, not_after: 1_086_400 };

    #[test]
    fn renewal_is_due_at_half_of_the_life() {
        assert_eq!(standing(DAY, 1_000_000, 0.0), Standing::Fresh { renew_in: Duration::from_secs(43_200) });
        assert_eq!(standing(DAY, 1_043_199, 0.0), Standing::Fresh { renew_in: Duration::from_secs(1) });
        assert_eq!(standing(DAY, 1_043_200, 0.0), Standing::Due);
    }

    #[test]
    fn jitter_moves_renewal_earlier_by_at_most_a_tenth_of_the_life() {
        for jitter in [0.0, 0.3, 0.999] {
            assert_eq!(standing(DAY, 1_043_200, jitter), Standing::Due);
            assert!(matches!(standing(DAY, 1_034_559, jitter), Standing::Fresh { .. }), "jitter {jitter}");
        }
        assert_eq!(standing(DAY, 1_034_600, 0.999), Standing::Due);
    }

    #[test]
    fn backdating_does_not_make_renewal_due_earlier() {
        let short = Life { obtained: 1_000, not_before: 700, not_after: 1_010 };
        assert_eq!(standing(short, 1_000, 0.0), Standing::Fresh { renew_in: Duration::from_secs(5) });
        assert_eq!(standing(short, 1_005, 0.0), Standing::Due);
    }

    #[test]
    fn the_last_second_of_validity_is_still_usable_and_the_next_is_not() {
        assert_eq!(standing(DAY, DAY.not_after, 0.0), Standing::Due);
        assert_eq!(standing(DAY, DAY.not_after + 1, 0.0), Standing::Unusable);
    }

    #[test]
    fn a_clock_that_went_back_before_the_validity_makes_it_unusable() {
        assert_eq!(standing(DAY, DAY.not_before - 1, 0.0), Standing::Unusable);
        assert!(matches!(standing(DAY, DAY.not_before, 0.0), Standing::Fresh { .. }));
    }

    #[test]
    fn retries_double_up_to_their_bound() {
        let steps = |failures| retry_after(failures, None, 0.5).as_millis();
        assert_eq!([steps(1), steps(2), steps(3), steps(9)], [500, 1_000, 2_000, 128_000]);
        assert_eq!([steps(10), steps(1_000), steps(u32::MAX)], [150_000; 3]);
    }

    #[test]
    fn retries_spread_by_a_fifth_either_way() {
        assert_eq!(retry_after(1, None, 0.0), Duration::from_millis(400));
        assert!(retry_after(1, None, 0.999) < Duration::from_millis(600));
    }

    #[test]
    fn a_retry_comes_before_the_certificate_expires() {
        assert_eq!(retry_after(20, Some(Duration::from_secs(60)), 0.5), Duration::from_secs(30));
        assert_eq!(retry_after(20, Some(Duration::ZERO), 0.5), Duration::from_millis(500));
    }
}
