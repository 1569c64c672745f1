//! Deadlines: one heap per core, nothing per byte.
//!
//! An entry is a time at which to look, not a promise that something is due: who moved its deadline in the
//! meantime is looked at and entered again. So activity costs an assignment, and the heap one entry per object.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::slots::Key;

/// Milliseconds since the engine started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::transport) struct Tick(pub(super) u64);

impl Tick {
    pub(in crate::transport) fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))
    }

    pub(in crate::transport) fn until(self, later: Self) -> Duration {
        Duration::from_millis(later.0.saturating_sub(self.0))
    }
}

/// Whose deadline it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::transport) enum Timed {
    /// Of whose pod nothing is accepted until then.
    Listener(Key),
    Detecting(Key),
    Held(Key),
    Tunnel(Key),
    Connection(Key),
    /// Of the pooled connections to applications, the one that waited longest.
    Applications,
}

#[derive(Debug)]
pub(in crate::transport) struct Timers {
    heap: BinaryHeap<Reverse<(Tick, Timed)>>,
    /// With so many entries those of objects that are gone are looked for.
    crowded: usize,
}

/// Fewer entries are never worth looking through.
const CROWD: usize = 1024;

impl Default for Timers {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), crowded: CROWD }
    }
}

impl Timers {
    pub(super) fn at(&mut self, at: Tick, timed: Timed) {
        self.heap.push(Reverse((at, timed)));
    }

    /// Takes one entry whose time has come.
    pub(super) fn due(&mut self, now: Tick) -> Option<Timed> {
        let Reverse((at, _)) = self.heap.peek()?;
        if *at > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, timed))| timed)
    }

    /// Whether it is time to [forget](Self::forget).
    pub(super) fn is_crowded(&self) -> bool {
        self.heap.len() >= self.crowded
    }

    /// Forgets entries of objects that are gone: exchanges end long before their deadlines. Each look drops at
    /// least half of what was entered since the last one, or the next one comes later.
    pub(super) fn forget(&mut self, lives: impl Fn(Timed) -> bool) {
        self.heap.retain(|Reverse((_, timed))| lives(*timed));
        self.crowded = CROWD.max(2 * self.heap.len());
    }

    /// Entries, those of objects that are gone included.
    #[cfg(test)]
    pub(in crate::transport) fn len(&self) -> usize {
        self.heap.len()
    }

    pub(super) fn next(&self) -> Option<Tick> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }
}
