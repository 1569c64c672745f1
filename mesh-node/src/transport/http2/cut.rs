//! Ends one exchange from outside its own tasks, and says since when nothing of it moves, which is one reason to.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use super::incoming::Incoming;

/// Ends one exchange: its request is answered, or breaks off with its response. A clone ends the same one.
#[derive(Clone, Debug, Default)]
pub struct Cut(Rc<State>);

#[derive(Debug, Default)]
struct State {
    why: Cell<Option<Why>>,
    /// When something of it last moved, either way.
    moved: Cell<Option<Instant>>,
    /// The tasks that carry the request and the response: each reads when the other side has room.
    waiting: [RefCell<Option<Waker>>; 2],
    /// Kept here because its task does not look at it while the caller's window is closed.
    response: RefCell<Option<Incoming>>,
}

/// Why an exchange is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Policy no longer permits it.
    NotPermitted,
    /// Its request took too long.
    RequestTimeout,
    /// A call took longer than its caller waits (`grpc-timeout`).
    DeadlineExceeded,
    /// Nothing moved for too long (`--tcp-idle-timeout`).
    IdleTimedOut,
}

/// Which way of an exchange waits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Half {
    Request,
    Response,
}

impl Cut {
    /// Ends it as one that is no longer permitted. Does nothing if it is over.
    pub fn now(&self) {
        self.end(Why::NotPermitted);
    }

    /// Ends it; what was said first of why holds.
    pub(super) fn end(&self, why: Why) {
        if self.0.why.get().is_none() {
            self.0.why.set(Some(why));
        }
        // Whoever answered is told at once, also when the caller takes nothing.
        drop(self.0.response.take());
        for waiting in &self.0.waiting {
            if let Some(waker) = waiting.take() {
                waker.wake();
            }
        }
    }

    /// Something of it moves now.
    pub(super) fn moves(&self) {
        self.0.moved.set(Some(Instant::now()));
    }

    /// When something of it last moved; `None` while it has not begun.
    pub(super) fn moved(&self) -> Option<Instant> {
        self.0.moved.get()
    }

    /// Has the task that carries a half look at it again.
    pub(super) fn look_again(&self, half: Half) {
        if let Some(waker) = self.0.waiting[half as usize].take() {
            waker.wake();
        }
    }

    pub(super) fn is_cut(&self) -> bool {
        self.why().is_some()
    }

    /// Why it is ended, if it is.
    pub(super) fn why(&self) -> Option<Why> {
        self.0.why.get()
    }

    /// Ready when it is to end.
    pub(super) fn poll(&self, half: Half, context: &mut Context<'_>) -> Poll<()> {
        if self.is_cut() {
            return Poll::Ready(());
        }
        let mut waiting = self.0.waiting[half as usize].borrow_mut();
        if waiting.as_ref().is_none_or(|waker| !waker.will_wake(context.waker())) {
            *waiting = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Keeps the response until it is read or cut.
    pub(super) fn keep(&self, response: Incoming) {
        if !self.is_cut() {
            *self.0.response.borrow_mut() = Some(response);
        }
    }

    /// Looks at the response; `None` once it is cut.
    pub(super) fn response<T>(&self, look: impl FnOnce(&mut Incoming) -> T) -> Option<T> {
        self.0.response.borrow_mut().as_mut().map(look)
    }
}
