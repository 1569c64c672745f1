//! Whether a request's body comes fast enough.

use super::settings::HttpSettings;
use crate::transport::tunnel::Tick;

/// What has come of a body since it last was in time. A deadline for the next byte alone would let one byte a minute hold
/// a place for as long as its sender likes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    since: Tick,
    bytes: u64,
}

impl Pace {
    /// A body begins now, or its sender waited for us until now.
    pub(super) fn begins(now: Tick) -> Self {
        Self { since: now, bytes: 0 }
    }

    /// So many bytes came now.
    pub(super) fn came(&mut self, bytes: usize, now: Tick, settings: &HttpSettings) {
        self.bytes += bytes as u64;
        if self.bytes >= settings.body_rate * settings.body_timeout.as_secs() {
            *self = Self::begins(now);
        }
    }

    /// When it is too slow if not enough comes until then.
    pub(super) fn deadline(self, settings: &HttpSettings) -> Tick {
        self.since.after(settings.body_timeout)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_as_much_as_is_wanted_moves_the_deadline() {
        let settings =
            HttpSettings { body_timeout: Duration::from_secs(60), body_rate: 10, ..HttpSettings::default() };
        let (start, later) = (Tick::default(), Tick::default().after(Duration::from_secs(59)));
        let mut pace = Pace::begins(start);
        pace.came(599, later, &settings);
        assert_eq!(pace.deadline(&settings), start.after(settings.body_timeout));
        pace.came(1, later, &settings);
        assert_eq!(pace.deadline(&settings), later.after(settings.body_timeout));
    }

    #[test]
    fn a_rate_of_nothing_is_met_by_every_byte() {
        let settings = HttpSettings { body_rate: 0, ..HttpSettings::default() };
        let later = Tick::default().after(Duration::from_secs(59));
        let mut pace = Pace::begins(Tick::default());
        pace.came(1, later, &settings);
        assert_eq!(pace.deadline(&settings), later.after(settings.body_timeout));
    }
}
