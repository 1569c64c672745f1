//! Shares new connections among the cores: who accepts one while it has clearly more to carry gives it away.
//!
//! The cores wait for the same listeners, and the kernel wakes those that wait in an order that never changes: without this
//! the first would carry everything until it is never asleep any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mesh_common::model::Direction;

use super::conductor::Conductor;
use super::counters::{Counter, Counters};
use super::engine::Engine;
use super::mailbox::Handle;

/// So many connections of applications more say little about how busy a core is: there the kernel, which wakes one that
/// sleeps, knows better.
const FEW: u64 = 4;

/// A core as those beside it see it: how much it carries, and where to bring it something.
pub struct Neighbour<C: Conductor> {
    handle: Handle<C>,
    load: Arc<Load>,
}

/// What a core carries.
#[derive(Debug)]
pub(super) struct Load {
    counters: Arc<Counters>,
    tasks: Arc<Counter>,
    /// Connections that were given to it, and that it has not taken yet.
    coming: AtomicU64,
}

impl Load {
    /// Of a core whose tasks are counted in `tasks`.
    pub(super) fn new(counters: Arc<Counters>, tasks: Arc<Counter>) -> Arc<Self> {
        Arc::new(Self { counters, tasks, coming: AtomicU64::new(0) })
    }

    /// In connections; a tunnel counts as one, beside what it carries.
    fn now(&self) -> u64 {
        let Counters { connections, tunnels, pending_handshakes, .. } = &*self.counters;
        let counted = [connections, tunnels, pending_handshakes, &self.tasks].map(Counter::read);
        counted.into_iter().sum::<u64>() + self.coming.load(Ordering::Relaxed)
    }

    /// It has taken what was given to it.
    pub(super) fn taken(&self) {
        self.coming.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<C: Conductor> Clone for Neighbour<C> {
    fn clone(&self) -> Self {
        Self { handle: self.handle.clone(), load: Arc::clone(&self.load) }
    }
}

impl<C: Conductor> Neighbour<C> {
    pub(super) fn new(handle: Handle<C>, load: Arc<Load>) -> Self {
        Self { handle, load }
    }

    /// Has `take` run by it, which says [`taken`](Load::taken).
    pub(super) fn give(&self, take: impl FnOnce(&mut Engine<C>) + Send + 'static) {
        self.load.coming.fetch_add(1, Ordering::Relaxed);
        // A core that has ended takes nothing: what was given is closed with it, as its own are.
        self.handle.send(take);
    }
}

/// Who is to have a new connection that came to a core with `own`: `None` for itself.
pub(super) fn choose<'a, C: Conductor>(
    own: &Load,
    neighbours: &'a [Neighbour<C>],
    direction: Direction,
) -> Option<&'a Neighbour<C>> {
    let slack = match direction {
        Direction::Outbound => FEW,
        // It may be a tunnel, which is going to carry many.
        Direction::Inbound => 0,
    };
    let own = own.now();
    let loads = neighbours.iter().map(|neighbour| neighbour.load.now());
    neighbours.get(least(own, slack, loads)?)
}

/// PURE. Which of the others has the least, if `own` is more than that and `slack` by a quarter: a smaller difference is
/// not worth waking another core.
fn least(own: u64, slack: u64, others: impl Iterator<Item = u64>) -> Option<usize> {
    let (place, least) = others.enumerate().min_by_key(|(_, load)| *load)?;
    (own > least + slack.max(least / 4)).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_clearly_more_gives_to_who_has_least() {
        for (own, slack, others, chosen) in [
            (0, 0, vec![], None),
            (0, 0, vec![0, 0], None),
            (1, 0, vec![1, 0], Some(1)),
            (4, 4, vec![1, 0], None),
            (5, 4, vec![1, 0], Some(1)),
            (5, 0, vec![4], None),
            (6, 0, vec![4], Some(0)),
            (100, 4, vec![90, 80, 79], Some(2)),
            (100, 4, vec![90, 80], None),
            (7, 0, vec![9, 12], None),
        ] {
            assert_eq!(least(own, slack, others.iter().copied()), chosen, "{own} beside {others:?}");
        }
    }
}
