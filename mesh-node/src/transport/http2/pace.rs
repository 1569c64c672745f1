//! Whether a request's body comes fast enough: as for HTTP/1.1, but that waiting for us costs its sender nothing.

use std::time::Duration;

use tokio::time::Instant;

use super::settings::Settings;
use crate::transport::patience::bytes_in;

/// What a body is to bring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// In each such time...
    time: Duration,
    /// ...so many bytes; at least one, so that a frame of none never passes for progress.
    bytes: u64,
}

/// What has come of a body since it last was in time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    since: Instant,
    bytes: u64,
    /// Since when nobody asks for more of it.
    held_up: Option<Instant>,
}

impl Wanted {
    pub(super) fn of(settings: &Settings) -> Self {
        let Settings { body_timeout: time, body_rate: rate, .. } = *settings;
        Self { time, bytes: bytes_in(time, rate) }
    }
}

impl Pace {
    /// A body begins of which nobody has asked for anything so far.
    pub(super) fn begins(now: Instant) -> Self {
        Self { since: now, bytes: 0, held_up: Some(now) }
    }

    /// More is asked for.
    pub(super) fn asked(&mut self, now: Instant) {
        if let Some(held_up) = self.held_up.take() {
            self.since += now.saturating_duration_since(held_up);
        }
    }

    /// So many bytes came now.
    pub(super) fn came(&mut self, bytes: usize, now: Instant, wanted: Wanted) {
        self.held_up = Some(now);
        self.bytes += bytes as u64;
        if self.bytes >= wanted.bytes {
            (self.since, self.bytes) = (now, 0);
        }
    }

    /// When it is too slow if not enough comes until then.
    pub(super) fn deadline(self, wanted: Wanted) -> Instant {
        self.since + wanted.time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted { time: Duration::from_secs(60), bytes: 600 };

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn only_as_much_as_is_wanted_moves_the_deadline() {
        let start = Instant::now();
        let mut pace = Pace::begins(start);
        pace.asked(start);
        pace.came(599, after(start, 59), WANTED);
        pace.asked(after(start, 59));
        assert_eq!(pace.deadline(WANTED), after(start, 60));
        pace.came(1, after(start, 59), WANTED);
        pace.asked(after(start, 59));
        assert_eq!(pace.deadline(WANTED), after(start, 119));
    }

    #[test]
    fn frames_without_a_byte_move_no_deadline_also_where_nothing_is_wanted() {
        let settings = Settings { body_rate: 0, ..Settings::default() };
        let (wanted, start) = (Wanted::of(&settings), Instant::now());
        let mut pace = Pace::begins(start);
        pace.asked(start);
        pace.came(0, after(start, 59), wanted);
        pace.asked(after(start, 59));
        assert_eq!(pace.deadline(wanted), after(start, 60));
        pace.came(1, after(start, 59), wanted);
        assert_eq!(pace.deadline(wanted), after(start, 119));
    }

    #[test]
    fn the_time_in_which_nobody_asks_does_not_count() {
        let start = Instant::now();
        let mut pace = Pace::begins(start);
        pace.asked(after(start, 10));
        pace.came(1, after(start, 20), WANTED);
        pace.asked(after(start, 50));
        assert_eq!(pace.deadline(WANTED), after(start, 100));
    }
}
