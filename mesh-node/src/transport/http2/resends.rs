//! What may be sent once more to a destination that refuses requests unseen: for each caller a bounded part of what it asks
//! there, so that one that refuses everything is not asked three times as much, and no caller alone spends what others
//! need. All callers of a destination together are bounded as well, by some callers' parts. Who is known to the mesh shares nothing with who is not.

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

/// All callers of a destination have together what so many have who ask little.
const TOGETHER: u32 = 16;

/// Most destinations of all callers: more than the pods of a node can have between them.
const TOTALS: usize = 65_536;

/// What destinations that refused something were asked lately.
pub(super) struct Resends {
    /// By pods of this node, and by who proved an identity.
    known: RefCell<Table>,
    /// By addresses, of which anybody may have many.
    unknown: RefCell<Table>,
    pruned: Cell<Instant>,
    always: u32,
}

#[derive(Default)]
struct Table {
    callers: HashMap<Caller, HashMap<SocketAddr, Lately>>,
    /// By all of them together.
    totals: HashMap<SocketAddr, Lately>,
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
        let (known, unknown) = Default::default();
        Self { known, unknown, pruned: Cell::new(Instant::now()), always }
    }

    /// A request is sent for the first time.
    pub(super) fn asked(&self, key: &Key) {
        let Table { callers, totals } = &mut *self.table(&key.caller).borrow_mut();
        // Most refuse nothing, and nothing is counted of them.
        if totals.is_empty() {
            return;
        }
        let Some(total) = totals.get_mut(&key.to) else { return };
        total.asked = total.asked.saturating_add(1);
        if let Some(lately) = callers.get_mut(&key.caller).and_then(|lately| lately.get_mut(&key.to)) {
            lately.asked = lately.asked.saturating_add(1);
        }
    }

    /// Takes what one more sending costs; `false` if there is nothing left.
    pub(super) fn take(&self, key: &Key, now: Instant) -> bool {
        self.prune(now);
        let Table { callers, totals } = &mut *self.table(&key.caller).borrow_mut();
        let is_full = (callers.len() >= CALLERS && !callers.contains_key(&key.caller))
            || (totals.len() >= TOTALS && !totals.contains_key(&key.to));
        if is_full {
            return false;
        }
        let destinations = callers.entry(key.caller.clone()).or_default();
        if destinations.len() >= DESTINATIONS && !destinations.contains_key(&key.to) {
            return false;
        }
        let lately = destinations.entry(key.to).or_insert(Lately::anew(now)).at(now);
        let total = totals.entry(key.to).or_insert(Lately::anew(now)).at(now);
        let is_left = lately.has_left(self.always) && total.has_left(self.always.saturating_mul(TOGETHER));
        lately.resent += u32::from(is_left);
        total.resent += u32::from(is_left);
        is_left
    }

    fn table(&self, caller: &Caller) -> &RefCell<Table> {
        match caller {
            Caller::Pod(_) | Caller::Client(_, Some(_)) => &self.known,
            Caller::Client(_, None) => &self.unknown,
        }
    }

    fn prune(&self, now: Instant) {
        if now.saturating_duration_since(self.pruned.get()) < PRUNE {
            return;
        }
        self.pruned.set(now);
        for table in [&self.known, &self.unknown] {
            let Table { callers, totals } = &mut *table.borrow_mut();
            callers.retain(|_, destinations| {
                destinations.retain(|_, lately| !lately.is_over(now));
                !destinations.is_empty()
            });
            totals.retain(|_, total| !total.is_over(now));
        }
    }
}

impl Lately {
    fn anew(now: Instant) -> Self {
        Self { since: now, asked: 0, resent: 0 }
    }

    /// What counts at a time: nothing of what is long ago.
    fn at(&mut self, now: Instant) -> &mut Self {
        if self.is_over(now) {
            *self = Self::anew(now);
        }
        self
    }

    fn has_left(self, always: u32) -> bool {
        self.resent < always.saturating_add(self.asked / PART)
    }

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
    fn all_callers_of_a_destination_have_a_bound_together() {
        let (resends, now) = (Resends::new(3), Instant::now());
        let of = |caller: usize, port| key(&format!("caller-{caller}"), port);
        let sent: usize = (0..1000).map(|caller| taken(&resends, &of(caller, 1), now)).sum();
        assert_eq!(sent, 48);
        (0..50).for_each(|_| resends.asked(&of(0, 1)));
        assert_eq!(taken(&resends, &of(0, 1), now), 10, "and a part of what they ask");
        assert_eq!(taken(&resends, &of(999, 2), now), 3, "of each destination");
    }

    #[test]
    fn clients_of_whom_nothing_is_known_push_no_others_out() {
        let (resends, now) = (Resends::new(1), Instant::now());
        let client = |number: u32, identity: Option<&str>| {
            let identity = identity.map(|identity| identity.parse().unwrap());
            Key {
                caller: Caller::Client(Ipv4Addr::from(number).into(), identity),
                ..key("", u16::try_from(number).unwrap())
            }
        };
        let many = (0..10_000).filter(|number| resends.take(&client(*number, None), now)).count();
        assert_eq!(many, CALLERS);
        // Nor do they spend what those have of one destination.
        assert!(
            (0..100).any(|number| !resends.take(&Key { to: key("", 1).to, ..client(number, None) }, now))
        );
        assert!(!resends.take(&client(10_001, None), now));
        assert!(resends.take(&client(10_001, Some("spiffe://cluster.local/ns/shop/sa/web")), now));
        assert!(resends.take(&key("web", 1), now));
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let (resends, now) = (Resends::new(3), Instant::now());
        assert_eq!(taken(&resends, &key("web", 1), now), 3);
        assert_eq!(taken(&resends, &key("api", 1), now + TIME + PRUNE), 3);
        let table = resends.known.borrow();
        assert_eq!((table.callers.len(), table.totals.len()), (1, 1));
        drop(table);
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
