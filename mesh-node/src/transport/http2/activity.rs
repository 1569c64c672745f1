//! Whether a caller's connection is in use.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The exchanges of one connection.
pub(super) struct Activity {
    open: Cell<u32>,
    last: Cell<Instant>,
}

/// An exchange that is not over: held by its response's body.
pub(super) struct Open(Rc<Activity>);

impl Activity {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self { open: Cell::new(0), last: Cell::new(Instant::now()) })
    }

    pub(super) fn begin(self: &Rc<Self>) -> Open {
        self.open.set(self.open.get() + 1);
        Open(self.clone())
    }

    /// Ends when no exchange was open for `timeout`.
    pub(super) async fn idle(&self, timeout: Duration) {
        loop {
            sleep_until(self.last.get() + timeout).await;
            if self.open.get() > 0 {
                self.last.set(Instant::now());
            } else if self.last.get() + timeout <= Instant::now() {
                return;
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.last.set(Instant::now());
    }
}
