//! Whether a caller's connection is in use.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The exchanges of one connection.
pub(super) struct Activity {
    open: Cell<u32>,
    has_begun: Cell<bool>,
    last: Cell<Instant>,
    is_over: Cell<bool>,
}

/// An exchange that is not over: held by its response's body.
pub(super) struct Open(Rc<Activity>);

impl Activity {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            open: Cell::new(0),
            has_begun: Cell::new(false),
            last: Cell::new(Instant::now()),
            is_over: Cell::new(false),
        })
    }

    pub(super) fn begin(self: &Rc<Self>) -> Open {
        self.open.set(self.open.get() + 1);
        self.has_begun.set(true);
        Open(self.clone())
    }

    /// The caller's certificate has ended: what is open goes on, nothing new begins. A caller that does not heed
    /// GOAWAY could go on asking otherwise.
    pub(super) fn end(&self) {
        self.is_over.set(true);
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.get()
    }

    /// Whether an exchange is open.
    pub(super) fn is_open(&self) -> bool {
        self.open.get() > 0
    }

    /// Ends when no exchange was open for `timeout`, or when none began within `first`.
    pub(super) async fn idle(&self, first: Duration, timeout: Duration) {
        loop {
            sleep_until(self.last.get() + self.patience(first, timeout)).await;
            if self.is_open() {
                self.last.set(Instant::now());
            } else if self.last.get() + self.patience(first, timeout) <= Instant::now() {
                return;
            }
        }
    }

    fn patience(&self, first: Duration, timeout: Duration) -> Duration {
        if self.has_begun.get() { timeout } else { first }
    }
}

impl Open {
    /// Whether it began too late to be served.
    pub(super) fn is_late(&self) -> bool {
        self.0.is_over()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.last.set(Instant::now());
    }
}
