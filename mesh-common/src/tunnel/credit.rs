//! How much of a stream may be under way: counted in bytes from the stream's start, so that a count means the
//! same on whatever tunnel it is said (`docs/wire.md` section 5).
//!
//! The receiver grants: it has consumed `acknowledged` bytes and takes `window` more. The sender may forget what
//! is acknowledged and must be able to send again the rest, which the window bounds. A window starts at
//! [`INITIAL_WINDOW`] and doubles each time that a whole window was consumed, as far as the tunnel's limits
//! go, and never beyond [`MAX_WINDOW`].

/// The window of a new stream, in bytes, in both directions, before any CREDIT.
pub const INITIAL_WINDOW: u32 = 64 * 1024;
/// The largest window that may be granted, in bytes.
pub const MAX_WINDOW: u32 = 16 * 1024 * 1024;

/// What a CREDIT frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    /// Bytes consumed since the stream's start.
    pub acknowledged: u64,
    /// Bytes that may follow.
    pub window: u32,
}

/// The sending side of one direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending {
    sent: u64,
    acknowledged: u64,
    limit: u64,
}

/// The receiving side of one direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receiving {
    received: u64,
    consumed: u64,
    acknowledged: u64,
    /// `consumed` when the window last grew.
    grown_at: u64,
    window: u32,
}

impl Sending {
    pub(super) fn new() -> Self {
        Self { sent: 0, acknowledged: 0, limit: u64::from(INITIAL_WINDOW) }
    }

    pub(super) fn available(&self) -> u64 {
        self.limit - self.sent
    }

    pub(super) fn unacknowledged(&self) -> u64 {
        self.sent - self.acknowledged
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Counts bytes handed to the wire.
    ///
    /// # Panics
    /// If they are more than [`available`](Self::available): the caller asked first.
    pub(super) fn send(&mut self, bytes: u64) {
        assert!(bytes <= self.available(), "the caller sends no more than there is credit for");
        self.sent += bytes;
    }

    /// Takes a CREDIT; `None` if it takes back what was granted, acknowledges what was not sent, or grants more
    /// than [`MAX_WINDOW`]. An old one (resent, overtaken) is not an error.
    pub(super) fn granted(&mut self, credit: Credit) -> Option<()> {
        if credit.acknowledged > self.sent || credit.window > MAX_WINDOW {
            return None;
        }
        let limit = credit.acknowledged + u64::from(credit.window);
        if credit.acknowledged >= self.acknowledged && limit < self.limit {
            return None;
        }
        self.acknowledged = self.acknowledged.max(credit.acknowledged);
        self.limit = self.limit.max(limit);
        Some(())
    }
}

impl Receiving {
    pub(super) fn new() -> Self {
        Self { received: 0, consumed: 0, acknowledged: 0, grown_at: 0, window: INITIAL_WINDOW }
    }

    pub(super) fn unconsumed(&self) -> u64 {
        self.received - self.consumed
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    pub(super) fn window(&self) -> u32 {
        self.window
    }

    /// Counts bytes that arrived; `None` if there was no credit for them.
    pub(super) fn receive(&mut self, bytes: u64) -> Option<()> {
        if self.received + bytes > self.acknowledged + u64::from(self.window) {
            return None;
        }
        self.received += bytes;
        Some(())
    }

    /// Counts bytes that the application took and returns the CREDIT to send, if it is time for one: half a
    /// window. `most` is how large it may become; `budget` is how far windows may still grow, and what this one takes
    /// of it is subtracted.
    ///
    /// More than was received counts as all of it: a caller's mistake about one stream must not end a core.
    pub(super) fn consume(&mut self, bytes: u64, most: u32, budget: &mut u64) -> Option<Credit> {
        debug_assert!(bytes <= self.unconsumed(), "nothing is consumed that was not received");
        self.consumed += bytes.min(self.unconsumed());
        if self.consumed - self.acknowledged < u64::from(self.window / 2) {
            return None;
        }
        // Grows only while the application keeps up: what waits for it would otherwise grow too.
        let keeps_up = self.unconsumed() <= u64::from(self.window / 4);
        let growth = u64::from(self.window.min(most.min(MAX_WINDOW).saturating_sub(self.window)));
        if self.consumed - self.grown_at >= u64::from(self.window) && keeps_up && *budget >= growth {
            *budget -= growth;
            self.window += growth as u32;
            self.grown_at = self.consumed;
        }
        self.acknowledged = self.consumed;
        Some(Credit { acknowledged: self.consumed, window: self.window })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_doubles_with_use_up_to_the_largest() {
        let (mut receiving, mut budget) = (Receiving::new(), u64::MAX);
        for _ in 0..1000 {
            receiving.receive(16_376).unwrap();
            let _ = receiving.consume(16_376, 1 << 20, &mut budget);
        }
        assert_eq!(receiving.window(), 1 << 20);
    }

    #[test]
    fn a_window_stays_when_the_budget_is_gone() {
        let (mut receiving, mut budget) = (Receiving::new(), 0);
        for _ in 0..100 {
            receiving.receive(16_376).unwrap();
            let _ = receiving.consume(16_376, 1 << 20, &mut budget);
        }
        assert_eq!(receiving.window(), INITIAL_WINDOW);
    }

    #[test]
    fn credit_that_takes_back_is_refused_and_an_old_one_ignored() {
        let mut sending = Sending::new();
        sending.send(50_000);
        sending.granted(Credit { acknowledged: 40_000, window: INITIAL_WINDOW }).unwrap();
        assert_eq!(sending.available(), 40_000 + u64::from(INITIAL_WINDOW) - 50_000);
        assert_eq!(sending.granted(Credit { acknowledged: 40_000, window: 10 }), None);
        assert_eq!(sending.granted(Credit { acknowledged: 50_001, window: INITIAL_WINDOW }), None);
        assert_eq!(sending.granted(Credit { acknowledged: 50_000, window: MAX_WINDOW + 1 }), None);
        sending.granted(Credit { acknowledged: 1, window: 0 }).unwrap();
        assert_eq!(sending.unacknowledged(), 10_000);
    }
}
