//! Whether a caller's connection is in use.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::upload::Upload;

/// The exchanges of one connection.
pub(super) struct Activity {
    open: Cell<u32>,
    has_begun: Cell<bool>,
    last: Cell<Instant>,
    is_over: Cell<bool>,
    /// Requests' bodies that go on after their responses.
    left: RefCell<Vec<Weak<Upload>>>,
    is_gone: Cell<bool>,
}

/// The caller, for as long as its connection is served: with it go the bodies that it was still sending.
pub(super) struct Presence(Rc<Activity>);

/// An exchange that is not over: held by its response's body.
pub(super) struct Open(Rc<Activity>);

impl Activity {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            open: Cell::new(0),
            has_begun: Cell::new(false),
            last: Cell::new(Instant::now()),
            is_over: Cell::new(false),
            left: RefCell::default(),
            is_gone: Cell::new(false),
        })
    }

    pub(super) fn presence(self: &Rc<Self>) -> Presence {
        Presence(self.clone())
    }

    /// A body goes on after its response: for as long as its caller is there. Nobody else would drop it while the
    /// application takes nothing of it.
    pub(super) fn leave_over(&self, upload: &Rc<Upload>) {
        if self.is_gone.get() {
            return upload.abandon();
        }
        let mut left = self.left.borrow_mut();
        left.retain(|upload| upload.strong_count() > 0);
        left.push(Rc::downgrade(upload));
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

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.is_gone.set(true);
        for upload in self.0.left.take().iter().filter_map(Weak::upgrade) {
            upload.abandon();
        }
    }
}

impl Open {
    /// The connection that it is on.
    pub(super) fn activity(&self) -> Rc<Activity> {
        self.0.clone()
    }

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
