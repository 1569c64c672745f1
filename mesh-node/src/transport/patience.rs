//! How long what waits for a client is kept that takes little of it, or nothing.
//!
//! Only the time counts in which something waits: a client may be quiet where nothing is to be taken. It has some time at
//! first, and more with each byte that it takes, up to a few times as much. Clients take in large pieces, for a kernel or an
//! agent between tells of room only when there is much of it: who took much may pause for longer than who never took anything,
//! but nobody for long.
//!
//! Pure. Times are on a clock of whoever asks.

use std::time::Duration;

/// The most that a client can have, in times of what it has at first. By default five minutes, after which Envoy ends a stream on
/// which nothing moves (`stream_idle_timeout`). One time alone, as between two writes of nginx (`send_timeout`), would end clients
/// that keep the pace in pieces of which each takes them longer.
pub(in crate::transport) const MOST: u32 = 5;

/// What a client is to take.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport) struct Terms {
    /// What it has at first, and again whenever it took all.
    time: Duration,
    /// What each byte adds.
    per_byte: Duration,
    /// The most that it can have.
    most: Duration,
}

/// What a client has left.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport) struct Patience {
    left: Duration,
    /// Since when something waits for it.
    since: Option<Duration>,
}

/// Bytes that a rate per second comes to in a time: at least one, for what has none of them does not come at all.
pub(in crate::transport) fn bytes_in(time: Duration, rate: u64) -> u64 {
    (rate.saturating_mul(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)) / 1000).max(1)
}

impl Terms {
    /// At least `rate` bytes per second, over `time`; where that is 0, one byte in it.
    pub(in crate::transport) fn new(rate: u64, time: Duration) -> Self {
        let per_byte = time / u32::try_from(bytes_in(time, rate)).unwrap_or(u32::MAX);
        Self { time, per_byte, most: time * MOST }
    }
}

impl Patience {
    /// With a client for which nothing waits so far.
    pub(in crate::transport) fn new(terms: &Terms) -> Self {
        Self { left: terms.time, since: None }
    }

    /// At `now` so many bytes were taken since this was said last, and something `waits` still, or again.
    pub(in crate::transport) fn took(&mut self, bytes: u64, waits: bool, now: Duration, terms: &Terms) {
        let waited = self.since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        let earned = terms.per_byte.saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.left = self.left.saturating_add(earned).saturating_sub(waited).min(terms.most);
        self.since = waits.then_some(now);
        if !waits {
            self.left = self.left.max(terms.time);
        }
    }

    /// Nothing waited for a moment.
    pub(in crate::transport) fn took_all(&mut self, terms: &Terms) {
        self.since = None;
        self.left = self.left.max(terms.time);
    }

    /// When it is over if nothing is taken until then; `None` while nothing waits.
    pub(in crate::transport) fn deadline(&self) -> Option<Duration> {
        Some(self.since? + self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// 10 bytes a second over a minute.
    fn terms() -> Terms {
        Terms::new(10, seconds(60))
    }

    #[test]
    fn who_takes_nothing_has_a_minute_from_when_something_waits() {
        let mut patience = Patience::new(&terms());
        patience.took(0, false, seconds(1000), &terms());
        assert_eq!(patience.deadline(), None);
        patience.took(0, true, seconds(2000), &terms());
        patience.took(0, true, seconds(2050), &terms());
        assert_eq!(patience.deadline(), Some(seconds(2060)));
    }

    #[test]
    fn who_keeps_the_pace_goes_on_and_who_does_not_is_late() {
        for (bytes, is_late) in [(100, false), (99, false), (80, true)] {
            let mut patience = Patience::new(&terms());
            patience.took(0, true, seconds(0), &terms());
            // In pieces: 10 s without a byte, then all of it.
            (1..=50).for_each(|turn| patience.took(bytes, true, seconds(10 * turn), &terms()));
            assert_eq!(patience.deadline().unwrap() < seconds(501), is_late, "{bytes} bytes in 10 s");
        }
    }

    #[test]
    fn a_large_piece_gives_longer_and_never_long() {
        let mut patience = Patience::new(&terms());
        patience.took(500, true, seconds(0), &terms());
        assert_eq!(patience.deadline(), Some(seconds(60 + 50)));
        for turn in 0..10 {
            patience.took(1 << 40, true, seconds(turn), &terms());
            assert_eq!(patience.deadline(), Some(seconds(turn + 300)));
        }
    }

    #[test]
    fn who_keeps_the_pace_in_pieces_of_minutes_goes_on() {
        let mut patience = Patience::new(&terms());
        patience.took(3000, true, seconds(0), &terms());
        for turn in 1..=20 {
            let now = seconds(290 * turn);
            patience.took(0, true, now, &terms());
            assert!(patience.deadline() > Some(now), "{turn}");
            patience.took(3000, true, now, &terms());
        }
    }

    #[test]
    fn who_took_all_has_a_minute_again() {
        let mut patience = Patience::new(&terms());
        patience.took(0, true, seconds(0), &terms());
        patience.took(1, false, seconds(59), &terms());
        patience.took(0, true, seconds(100), &terms());
        assert_eq!(patience.deadline(), Some(seconds(160)));
    }

    #[test]
    fn a_rate_of_nothing_asks_for_one_byte_in_each_time() {
        let terms = Terms::new(0, seconds(60));
        let mut patience = Patience::new(&terms);
        patience.took(0, true, seconds(0), &terms);
        assert_eq!(patience.deadline(), Some(seconds(60)));
        patience.took(1, true, seconds(59), &terms);
        assert_eq!(patience.deadline(), Some(seconds(120)));
        assert_eq!(bytes_in(seconds(60), 0), 1);
    }
}
