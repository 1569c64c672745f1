//! Whose turn it is to begin: a few agents at a time, in the order in which they came.
//!
//! An agent that begins says what it has, and is sent what differs: up to the whole cluster, in megabytes that stay with
//! its stream until it has answered. Agents that all begin at once, after a controller was lost, would take gigabytes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

/// The places of those that begin.
#[derive(Debug)]
pub(super) struct Turns {
    places: Arc<Semaphore>,
    longest: Duration,
}

/// A place; it ends when it is dropped, or by itself: one that is slow holds up the others so long and no longer, and goes
/// on without it.
#[derive(Debug)]
pub(super) struct Turn {
    _over: oneshot::Sender<()>,
}

impl Turns {
    pub(super) fn new(places: usize, longest: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), longest }
    }

    /// Waits for a place; who came first has it first.
    pub(super) async fn next(&self) -> Turn {
        // Never closed.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (over, is_over) = oneshot::channel();
        tokio::spawn(hold(place, is_over, self.longest));
        Turn { _over: over }
    }
}

async fn hold(place: Option<OwnedSemaphorePermit>, over: oneshot::Receiver<()>, longest: Duration) {
    let _ = timeout(longest, over).await;
    drop(place);
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const LONGEST: Duration = Duration::from_secs(20);

    #[tokio::test(start_paused = true)]
    async fn a_place_is_free_when_its_turn_is_dropped() {
        let turns = Turns::new(1, LONGEST);
        let began = Instant::now();
        drop(turns.next().await);
        drop(turns.next().await);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_end_its_turn_holds_up_others_so_long_and_no_longer() {
        let turns = Turns::new(1, LONGEST);
        let began = Instant::now();
        let first = turns.next().await;
        let second = turns.next().await;
        assert_eq!(began.elapsed(), LONGEST);
        drop((first, second));
    }
}
