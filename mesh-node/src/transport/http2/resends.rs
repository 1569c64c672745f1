//! What may be sent once more to a destination that refuses requests unseen: a bounded part of what it is asked, so that
//! one that refuses everything is not asked three times as much.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

/// Of so many requests one may be sent once more, beyond what always may.
const PART: u32 = 5;

/// For so long is counted, then anew.
const TIME: Duration = Duration::from_secs(10);

/// What destinations that refused something were asked lately.
pub(super) struct Resends {
    destinations: RefCell<HashMap<SocketAddr, Lately>>,
    always: u32,
}

#[derive(Clone, Copy)]
struct Lately {
    since: Instant,
    asked: u32,
    resent: u32,
}

impl Resends {
    /// `always`: how many may be sent once more to a destination in ten seconds, however few it is asked.
    pub(super) fn new(always: u32) -> Self {
        Self { destinations: RefCell::default(), always }
    }

    /// A request is sent for the first time.
    pub(super) fn asked(&self, to: SocketAddr) {
        let mut destinations = self.destinations.borrow_mut();
        // Most refuse nothing, and nothing is counted of them.
        if !destinations.is_empty()
            && let Some(lately) = destinations.get_mut(&to)
        {
            lately.asked += 1;
        }
    }

    /// Takes what one more sending costs; `false` if there is nothing left.
    pub(super) fn take(&self, to: SocketAddr, now: Instant) -> bool {
        let mut destinations = self.destinations.borrow_mut();
        destinations.retain(|_, lately| now.saturating_duration_since(lately.since) < TIME);
        let lately = destinations.entry(to).or_insert(Lately { since: now, asked: 0, resent: 0 });
        let is_left = lately.resent < self.always + lately.asked / PART;
        lately.resent += u32::from(is_left);
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);
    const OTHER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 2);

    fn taken(resends: &Resends, to: SocketAddr, now: Instant) -> usize {
        (0..1000).take_while(|_| resends.take(to, now)).count()
    }

    #[test]
    fn a_part_of_what_is_asked_is_sent_once_more_and_a_few_always() {
        let (resends, now) = (Resends::new(3), Instant::now());
        assert_eq!(taken(&resends, TO, now), 3);
        (0..50).for_each(|_| resends.asked(TO));
        assert_eq!(taken(&resends, TO, now), 10);
        assert_eq!(taken(&resends, OTHER, now), 3, "each destination has its own");
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let (resends, now) = (Resends::new(3), Instant::now());
        assert_eq!(taken(&resends, TO, now), 3);
        assert_eq!(taken(&resends, OTHER, now + TIME), 3);
        assert_eq!(resends.destinations.borrow().len(), 1);
        assert_eq!(taken(&resends, TO, now + TIME), 3);
    }
}
