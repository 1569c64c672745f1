//! Places for TLS handshakes: how many may be under way at a time on one core, in all and for one source.
//!
//! In: who causes a handshake, or a wait for first bytes that may become one. Out: a [`Place`], which is given back
//! when it is dropped, or nothing. Tunnels and HTTP/2 draw on the same places, as client and as server. Without a
//! bound for each source, one pod that never finishes its handshakes could keep every other one out.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use mesh_common::model::WorkloadUid;

use super::tunnel::Counters;

/// How many handshakes may be under way.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `--max-pending-handshakes`.
    pub total: usize,
    /// `--max-pending-handshakes-per-source`.
    pub per_source: usize,
}

/// Who causes a handshake.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Whoever connects to a pod: the address of the TCP peer, which it cannot choose. Those behind one address
    /// share its places.
    Address(IpAddr),
    /// A pod of this node that connects.
    Pod(WorkloadUid),
}

/// The places of one core. A clone gives out the same ones.
#[derive(Clone, Debug)]
pub struct Handshakes(Rc<Places>);

#[derive(Debug)]
struct Places {
    limits: Limits,
    /// Only sources that have a handshake under way: never more of them than places.
    sources: RefCell<HashMap<Source, usize>>,
    counters: Arc<Counters>,
}

/// The place of one handshake, until it has ended either way.
#[derive(Debug)]
#[must_use]
pub struct Place {
    places: Rc<Places>,
    source: Source,
}

impl Default for Limits {
    fn default() -> Self {
        Self { total: 1024, per_source: 256 }
    }
}

impl Default for Handshakes {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Handshakes {
    /// Places of which none is taken.
    pub fn new(limits: Limits) -> Self {
        Self(Rc::new(Places { limits, sources: RefCell::default(), counters: Arc::default() }))
    }

    /// A place for one more handshake, if there may be one. A refusal is counted.
    pub fn take(&self, source: Source) -> Option<Place> {
        let Places { limits, sources, counters } = &*self.0;
        let mut sources = sources.borrow_mut();
        let of_source = sources.get(&source).copied().unwrap_or_default();
        if of_source >= limits.per_source {
            counters.refused_handshakes.add(1);
            counters.refused_handshakes_of_source.add(1);
            return None;
        }
        if counters.pending_handshakes.read() >= limits.total as u64 {
            counters.refused_handshakes.add(1);
            return None;
        }
        counters.pending_handshakes.add(1);
        sources.insert(source.clone(), of_source + 1);
        drop(sources);
        Some(Place { places: Rc::clone(&self.0), source })
    }

    /// What this core counts: its engine counts there too.
    pub(super) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.0.counters)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Places { sources, counters, .. } = &*self.places;
        counters.pending_handshakes.subtract(1);
        let mut sources = sources.borrow_mut();
        if let Some(count) = sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Source {
        Source::Address(IpAddr::from([10, 0, 0, last]))
    }

    fn places(total: usize, per_source: usize) -> Handshakes {
        Handshakes::new(Limits { total, per_source })
    }

    fn counted(handshakes: &Handshakes) -> (u64, u64, u64) {
        let counters = handshakes.counters();
        let Counters { pending_handshakes, refused_handshakes, refused_handshakes_of_source, .. } =
            &*counters;
        (pending_handshakes.read(), refused_handshakes.read(), refused_handshakes_of_source.read())
    }

    #[test]
    fn a_source_has_no_more_than_its_own_and_takes_nothing_from_another() {
        let handshakes = places(10, 2);
        let held = [(); 2].map(|()| handshakes.take(address(1)).unwrap());
        assert!(handshakes.take(address(1)).is_none());
        assert_eq!(counted(&handshakes), (2, 1, 1));
        let other = handshakes.take(address(2)).unwrap();
        let pod = handshakes.take(Source::Pod(WorkloadUid("shop/web".into()))).unwrap();
        assert_eq!(counted(&handshakes), (4, 1, 1));
        drop((held, other, pod));
        assert!(handshakes.take(address(1)).is_some());
    }

    #[test]
    fn all_sources_together_have_no_more_than_there_are() {
        let handshakes = places(3, 2);
        let held: Vec<_> = (1..=3).map(|last| handshakes.take(address(last)).unwrap()).collect();
        assert!(handshakes.take(address(4)).is_none());
        assert_eq!(counted(&handshakes), (3, 1, 0));
        drop(held);
        assert!(handshakes.take(address(4)).is_some());
    }

    #[test]
    fn only_sources_with_a_handshake_under_way_are_kept() {
        let handshakes = places(1000, 2);
        let sources = || handshakes.0.sources.borrow().len();
        let first = handshakes.take(address(1)).unwrap();
        let second = handshakes.take(address(1)).unwrap();
        for last in 2..200 {
            let _ = handshakes.take(address(last));
        }
        assert_eq!(sources(), 1);
        drop(first);
        assert_eq!(sources(), 1);
        drop(second);
        assert_eq!((sources(), counted(&handshakes).0), (0, 0));
    }
}
