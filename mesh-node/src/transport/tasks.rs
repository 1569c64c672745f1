//! Tasks beside the engine on a core's thread, and whether there are any.
//!
//! In: futures of whoever carries HTTP/2. Out: for the engine, whether it is alone on its thread and may wait by
//! itself. Whatever runs on a core is to be begun here: a task that is not counted is not woken while the engine
//! waits alone.

use std::future::Future;
use std::sync::Arc;

use super::tunnel::Counter;

thread_local! {
    static ALIVE: Arc<Counter> = Arc::default();
}

/// A task that has not ended; counted until it is dropped.
struct Alive;

impl Alive {
    fn enter() -> Self {
        ALIVE.with(|alive| alive.add(1));
        Self
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        ALIVE.with(|alive| alive.subtract(1));
    }
}

/// Runs a future on this thread, inside a [`LocalSet`](tokio::task::LocalSet). A large one is boxed by who has it: by value it
/// is kept twice, and copied at each step on its way to the runtime and at its end.
pub fn spawn(future: impl Future + 'static) {
    let alive = Alive::enter();
    tokio::task::spawn_local(async move {
        let _alive = alive;
        future.await;
    });
}

/// Whether a task of this thread has not ended.
pub(super) fn are_any() -> bool {
    ALIVE.with(|alive| alive.read() > 0)
}

/// How many tasks of this thread have not ended, for other threads to read.
pub(super) fn counter() -> Arc<Counter> {
    ALIVE.with(Arc::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_counts_until_it_ends_or_is_dropped() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let set = tokio::task::LocalSet::new();
        set.block_on(&runtime, async {
            spawn(tokio::task::yield_now());
            assert!(are_any());
            while are_any() {
                tokio::task::yield_now().await;
            }
            spawn(std::future::pending::<()>());
        });
        assert!(are_any());
        drop(set);
        assert!(!are_any());
    }
}
