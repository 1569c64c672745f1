//! What may be sent once more to a destination that refuses requests unseen: for each caller a bounded part of what it asks
//! there, so that one that refuses everything is not asked three times as much, and no caller spends what others need.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::pool::{Caller, Key};

/// Of so many requests one may be sent once more, beyond what always may.
const PART: u32 = 5;

/// For so long is counted, then anew.
const TIME: Duration = Duration::from_secs(10);

/// How often what is long ago is looked for at most.
const PRUNE: Duration = Duration::from_secs(1);

/// Most callers of which something is counted, and destinations of each. Beyond that nothing is sent once more: of a
/// caller's destinations that is its own doing, and so many callers at a time are more than all pods of a large mesh.
const CALLERS: usize = 8192;
const DESTINATIONS: usize = 128;

/// What destinations that refused something were asked lately, by caller.
pub(super) struct Resends {
    callers: RefCell<HashMap<Caller, HashMap<SocketAddr, Lately>>>,
    pruned: Cell<Instant>,
    always: u32,
}

#[derive(Clone, Copy)]
struct Lately {
    since: Instant,
    asked: u32,
    resent: u32,
}

impl Resends {
    /// `always`: how many of a caller may be sent once more to a destination in ten seconds, however few it asks there.
    pub(super) fn new(always: u32) -> Self {
        Self { callers: RefCell::default(), pruned: Cell::new(Instant::now()), always }
    }

    /// A request is sent for the first time.
    pub(super) fn asked(&self, key: &Key) {
        let mut callers = self.callers.borrow_mut();
        // Most refuse nothing, and nothing is counted of them.
        if !callers.is_empty()
            && let Some(lately) = callers.get_mut(&key.caller).and_then(|lately| lately.get_mut(&key.to))
        {
            lately.asked += 1;
        }
    }

    /// Takes what one more sending costs; `false` if there is nothing left.
    pub(super) fn take(&self, key: &Key, now: Instant) -> bool {
        self.prune(now);
        let mut callers = self.callers.borrow_mut();
        if callers.len() >= CALLERS && !callers.contains_key(&key.caller) {
            return false;
        }
        let destinations = callers.entry(key.caller.clone()).or_default();
        if destinations.len() >= DESTINATIONS && !destinations.contains_key(&key.to) {
            return false;
        }
        let anew = Lately { since: now, asked: 0, resent: 0 };
        let lately = destinations.entry(key.to).or_insert(anew);
        if lately.is_over(now) {
            *lately = anew;
        }
        let is_left = lately.resent < self.always + lately.asked / PART;
        lately.resent += u32::from(is_left);
        is_left
    }

    fn prune(&self, now: Instant) {
        if now.saturating_duration_since(self.pruned.get()) < PRUNE {
            return;
        }
        self.pruned.set(now);
        self.callers.borrow_mut().retain(|_, destinations| {
            destinations.retain(|_, lately| !lately.is_over(now));
            !destinations.is_empty()
        });
    }
}

impl Lately {
    fn is_over(self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= TIME
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use mesh_common::model::WorkloadUid;

    use super::*;

    fn key(caller: &str, port: u16) -> Key {
        Key {
            caller: Caller::Pod(WorkloadUid(caller.into())),
            to: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
            called: None,
            expected: None,
            service: None,
        }
    }

    fn taken(resends: &Resends, key: &Key, now: Instant) -> usize {
        (0..1000).take_while(|_| resends.take(key, now)).count()
    }

    #[test]
    fn a_part_of_what_is_asked_is_sent_once_more_and_a_few_always() {
        let (resends, now) = (Resends::new(3), Instant::now());
        let (to, other) = (key("web", 1), key("web", 2));
        assert_eq!(taken(&resends, &to, now), 3);
        (0..50).for_each(|_| resends.asked(&to));
        assert_eq!(taken(&resends, &to, now), 10);
        assert_eq!(taken(&resends, &other, now), 3, "each destination has its own");
    }

    #[test]
    fn no_caller_takes_what_another_has() {
        let (resends, now) = (Resends::new(3), Instant::now());
        assert_eq!(taken(&resends, &key("hostile", 1), now), 3);
        assert_eq!(taken(&resends, &key("web", 1), now), 3);
        (0..50).for_each(|_| resends.asked(&key("hostile", 1)));
        assert_eq!(taken(&resends, &key("web", 1), now), 0, "nor is it given what another has asked");
    }

    #[test]
    fn a_caller_of_many_destinations_has_the_bound_to_itself() {
        let (resends, now) = (Resends::new(1), Instant::now());
        let many = (1..=1000).filter(|port| resends.take(&key("hostile", *port), now)).count();
        assert_eq!(many, DESTINATIONS);
        assert!(resends.take(&key("web", 1), now));
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let (resends, now) = (Resends::new(3), Instant::now());
        assert_eq!(taken(&resends, &key("web", 1), now), 3);
        assert_eq!(taken(&resends, &key("api", 1), now + TIME + PRUNE), 3);
        assert_eq!(resends.callers.borrow().len(), 1);
        assert_eq!(taken(&resends, &key("web", 1), now + TIME + PRUNE), 3);
    }

    #[test]
    fn what_is_long_ago_counts_no_more_also_before_it_is_looked_for() {
        let (resends, now) = (Resends::new(3), Instant::now());
        let late = now + TIME - PRUNE / 2;
        assert_eq!(taken(&resends, &key("web", 1), now), 3);
        assert_eq!(taken(&resends, &key("api", 1), late), 3, "and everything was looked through");
        assert_eq!(taken(&resends, &key("web", 1), now + TIME), 3);
    }
}
