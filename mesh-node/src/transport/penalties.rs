//! Who is cut off for abuse again and again begins only now and then. A connection that ends for what its caller sends costs
//! little, but its caller comes back at once, and each time we accept, decide and make our TLS anew.
//!
//! In: who was cut off, who is about to begin, and when. Out: how long that has to wait. Counts for one core alone, as
//! handshakes do: that is what its other callers share with the abuser. What is kept of a source is a moment, and of so many
//! sources at most. Apache Traffic Server's `block_errors` and HAProxy's counts of glitches do the same by address.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::handshakes::Source;

/// So often one may be cut off at once. One of them is forgiven in each [`SHARE`] of a penalty.
const FORGIVEN: u32 = 4;
/// A penalty is so many times as long as what passes between two connections in it.
const SHARE: u32 = 5;
/// Sources that are known on one core: when there are more, the one that is forgiven first is forgotten.
const SOURCES: usize = 1024;

/// Who was cut off lately, on one core. A clone knows the same.
#[derive(Clone, Debug)]
pub struct Penalties(Rc<Known>);

#[derive(Debug)]
struct Known {
    terms: Terms,
    sources: RefCell<HashMap<Source, Standing>>,
}

/// What a penalty is.
#[derive(Clone, Copy, Debug)]
struct Terms {
    /// From the last time that one was cut off; zero for none.
    length: Duration,
}

/// How one source stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    /// When all is forgiven.
    forgiven: Instant,
    /// In a penalty: when another connection may begin.
    next: Instant,
}

impl Terms {
    /// What passes between two connections in a penalty, and until one is forgiven.
    fn step(self) -> Duration {
        self.length / SHARE
    }

    /// What may be unforgiven without a penalty.
    fn free(self) -> Duration {
        self.step() * FORGIVEN
    }
}

impl Standing {
    fn new(now: Instant) -> Self {
        Self { forgiven: now, next: now }
    }

    /// One more cut off.
    fn cut_off(&mut self, now: Instant, terms: Terms) {
        let was_in_penalty = self.is_in_penalty(now, terms);
        self.forgiven = self.forgiven.max(now) + terms.step();
        if !self.is_in_penalty(now, terms) {
            return;
        }
        self.forgiven = now + terms.free() + terms.length;
        if !was_in_penalty {
            self.next = now + terms.step();
        }
    }

    fn is_in_penalty(&self, now: Instant, terms: Terms) -> bool {
        self.forgiven > now + terms.free()
    }

    /// How long until it may begin a connection; `None` for at once.
    fn wait(&self, now: Instant, terms: Terms) -> Option<Duration> {
        let over = self.forgiven.checked_sub(terms.free())?;
        let wait = self.next.min(over).saturating_duration_since(now);
        (!wait.is_zero()).then_some(wait)
    }

    /// It begins a connection.
    fn begins(&mut self, now: Instant, terms: Terms) {
        if self.is_in_penalty(now, terms) {
            self.next = now + terms.step();
        }
    }
}

impl Penalties {
    /// Nobody was cut off. A penalty is over when its source was not cut off for `length`; zero for no penalties.
    pub fn new(length: Duration) -> Self {
        Self(Rc::new(Known { terms: Terms { length }, sources: RefCell::default() }))
    }

    /// A connection of a source was ended for what it sent. Returns whether its penalty begins now.
    pub fn cut_off(&self, source: Source, now: Instant) -> bool {
        let Known { terms, sources } = &*self.0;
        if terms.length.is_zero() {
            return false;
        }
        let mut sources = sources.borrow_mut();
        if !sources.contains_key(&source) {
            make_room(&mut sources, now);
        }
        let standing = sources.entry(source).or_insert_with(|| Standing::new(now));
        let was_in_penalty = standing.is_in_penalty(now, *terms);
        standing.cut_off(now, *terms);
        !was_in_penalty && standing.is_in_penalty(now, *terms)
    }

    /// How long until a source may begin a connection; `None` for at once. Costs nothing while nobody is known.
    pub fn wait(&self, source: &Source, now: Instant) -> Option<Duration> {
        let Known { terms, sources } = &*self.0;
        sources.borrow().get(source)?.wait(now, *terms)
    }

    /// A source begins a connection.
    pub fn begins(&self, source: &Source, now: Instant) {
        let Known { terms, sources } = &*self.0;
        if let Some(standing) = sources.borrow_mut().get_mut(source) {
            standing.begins(now, *terms);
        }
    }

    /// Whether nobody is known.
    pub fn is_empty(&self) -> bool {
        self.0.sources.borrow().is_empty()
    }
}

/// Forgets who is forgiven, and if that is not enough who will be first.
fn make_room(sources: &mut HashMap<Source, Standing>, now: Instant) {
    sources.retain(|_, standing| standing.forgiven > now);
    if sources.len() >= SOURCES {
        let first = sources.iter().min_by_key(|(_, standing)| standing.forgiven);
        if let Some(first) = first.map(|(source, _)| source.clone()) {
            sources.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const LENGTH: Duration = Duration::from_secs(10);
    const STEP: Duration = Duration::from_secs(2);
    const MOMENT: Duration = Duration::from_millis(1);

    fn address(last: u16) -> Source {
        let [high, low] = last.to_be_bytes();
        Source::Address(IpAddr::from([10, 0, high, low]))
    }

    /// Cut off as often as begins a penalty, all at once.
    fn in_penalty(now: Instant) -> Penalties {
        let penalties = Penalties::new(LENGTH);
        for count in 0..=FORGIVEN {
            assert_eq!(penalties.wait(&address(1), now), None, "after {count}");
            assert_eq!(penalties.cut_off(address(1), now), count == FORGIVEN, "after {count}");
        }
        penalties
    }

    #[test]
    fn who_is_cut_off_too_often_begins_one_connection_in_each_step() {
        let now = Instant::now();
        let penalties = in_penalty(now);
        assert_eq!(penalties.wait(&address(1), now), Some(STEP));
        let then = now + STEP;
        assert_eq!(penalties.wait(&address(1), then - MOMENT), Some(MOMENT));
        assert_eq!(penalties.wait(&address(1), then), None);
        penalties.begins(&address(1), then);
        assert_eq!(penalties.wait(&address(1), then), Some(STEP));
        assert_eq!(penalties.wait(&address(2), then), None, "nobody else waits");
    }

    #[test]
    fn who_goes_on_stays_in_its_penalty_and_who_stops_is_free_after_it() {
        let mut now = Instant::now();
        let penalties = in_penalty(now);
        for _ in 0..20 {
            now += STEP;
            penalties.begins(&address(1), now);
            assert!(!penalties.cut_off(address(1), now), "it goes on, and does not begin anew");
            assert_eq!(penalties.wait(&address(1), now), Some(STEP));
        }
        penalties.begins(&address(1), now + LENGTH - MOMENT);
        assert_eq!(
            penalties.wait(&address(1), now + LENGTH - MOMENT),
            Some(MOMENT),
            "no longer than it lasts"
        );
        for _ in 0..100 {
            penalties.begins(&address(1), now + LENGTH);
            assert_eq!(penalties.wait(&address(1), now + LENGTH), None);
        }
        assert!(penalties.cut_off(address(1), now + LENGTH + MOMENT), "it is not forgiven at once");
        let forgiven = now + 3 * LENGTH;
        assert_eq!(penalties.wait(&address(1), forgiven), None);
        assert!(!penalties.cut_off(address(1), forgiven));
    }

    #[test]
    fn who_is_cut_off_now_and_then_has_no_penalty() {
        let mut now = Instant::now();
        let penalties = Penalties::new(LENGTH);
        for _ in 0..100 {
            assert!(!penalties.cut_off(address(1), now));
            assert_eq!(penalties.wait(&address(1), now), None);
            now += STEP;
        }
    }

    #[test]
    fn so_many_sources_are_known_and_who_is_worst_stays_so() {
        let now = Instant::now();
        let penalties = in_penalty(now);
        for last in 2..5000 {
            penalties.cut_off(address(last), now);
            assert!(penalties.0.sources.borrow().len() <= SOURCES);
        }
        assert_eq!(penalties.wait(&address(1), now), Some(STEP));
        penalties.cut_off(address(6000), now + 10 * LENGTH);
        assert_eq!(penalties.0.sources.borrow().len(), 1, "who is forgiven is forgotten");
    }

    #[test]
    fn a_penalty_of_no_length_is_none() {
        let now = Instant::now();
        let penalties = Penalties::new(Duration::ZERO);
        assert!((0..100).all(|_| !penalties.cut_off(address(1), now)));
        assert!(penalties.wait(&address(1), now).is_none() && penalties.is_empty());
    }
}
