//! Whether a request's body comes fast enough.

use super::settings::HttpSettings;
use crate::transport::patience::bytes_in;
use crate::transport::tunnel::Tick;

/// Since when a body is in time. A deadline for the next byte alone would let one byte a minute hold a place for as long as
/// its sender likes, and one for anything that comes, chunks of hardly a byte.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    since: Tick,
    /// What had come by then, of all bodies.
    bytes: u64,
}

impl Pace {
    /// A body begins now, or its sender waited for us until now. `bytes` of this and others came before.
    pub(super) fn begins(now: Tick, bytes: u64) -> Self {
        Self { since: now, bytes }
    }

    /// By now so many bytes of this body and others before it have come.
    pub(super) fn came(&mut self, bytes: u64, now: Tick, settings: &HttpSettings) {
        if bytes - self.bytes >= bytes_in(settings.body_timeout, settings.body_rate) {
            *self = Self::begins(now, bytes);
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
        let mut pace = Pace::begins(start, 1000);
        pace.came(1599, later, &settings);
        assert_eq!(pace.deadline(&settings), start.after(settings.body_timeout));
        pace.came(1600, later, &settings);
        assert_eq!(pace.deadline(&settings), later.after(settings.body_timeout));
    }

    #[test]
    fn a_rate_of_nothing_is_met_by_every_byte_and_by_nothing_less() {
        let settings = HttpSettings { body_rate: 0, ..HttpSettings::default() };
        let (start, later) = (Tick::default(), Tick::default().after(Duration::from_secs(59)));
        let mut pace = Pace::begins(start, 7);
        pace.came(7, later, &settings);
        assert_eq!(pace.deadline(&settings), start.after(settings.body_timeout));
        pace.came(8, later, &settings);
        assert_eq!(pace.deadline(&settings), later.after(settings.body_timeout));
    }
}
