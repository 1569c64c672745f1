//! The end of an agent that was told to stop: what is open finishes, bounded by `--drain-timeout`.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};
use tracing::info;

use super::pods::Pods;

/// Between two looks at what is still open.
const LOOK: Duration = Duration::from_millis(20);

/// Lets open connections finish, bounded, then ends the cores. The other ends of tunnels end them, once they have heard
/// of it: what they send until then may go elsewhere.
pub(super) async fn drain(pods: Pods, limit: Duration) {
    let cores = pods.into_cores();
    info!(connections = cores.connections(), "draining");
    cores.drain();
    if !are_over(limit, || cores.connections() == 0 && cores.tunnels() == 0).await {
        info!(connections = cores.connections(), "the rest is reset");
    }
    cores.stop();
}

/// Waits until all is over, at most so long. Returns whether it is.
async fn are_over(limit: Duration, is_over: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    let over = async {
        while !is_over() {
            sleep_until((Instant::now() + LOOK).min(deadline)).await;
        }
    };
    timeout(limit, over).await.is_ok()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// The default of the flag.
    const LIMIT: Duration = Duration::from_secs(5);

    /// By a clock that moves on when everything waits: whether all was over, and after how long.
    async fn drained(is_over: impl Fn() -> bool) -> (bool, Duration) {
        let began = Instant::now();
        (are_over(LIMIT, is_over).await, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_has_five_seconds() {
        assert_eq!(drained(|| false).await, (false, LIMIT));
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_is_waited_for_no_longer() {
        assert_eq!(drained(|| true).await, (true, Duration::ZERO));
        let began = Instant::now();
        let ends = Duration::from_millis(4900);
        let (all, after) = drained(|| began.elapsed() >= ends).await;
        assert!(all && after >= ends && after < ends + LOOK, "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_looked_at_often() {
        let looks = Cell::new(0);
        drained(|| {
            looks.set(looks.get() + 1);
            false
        })
        .await;
        assert!(looks.get() >= 200, "{}", looks.get());
    }
}
