//! Ends one exchange from outside its own task.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Ends one exchange: its request is answered as denied, or its response breaks off. A clone ends the same one.
#[derive(Clone, Debug, Default)]
pub struct Cut(Rc<State>);

#[derive(Debug, Default)]
struct State {
    is_cut: Cell<bool>,
    /// The task that carries the exchange: always one.
    waiting: RefCell<Option<Waker>>,
}

impl Cut {
    /// Ends it. Does nothing if it is over.
    pub fn now(&self) {
        self.0.is_cut.set(true);
        if let Some(waker) = self.0.waiting.take() {
            waker.wake();
        }
    }

    /// Ready when it is to end.
    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.0.is_cut.get() {
            return Poll::Ready(());
        }
        let mut waiting = self.0.waiting.borrow_mut();
        if waiting.as_ref().is_none_or(|waker| !waker.will_wake(context.waker())) {
            *waiting = Some(context.waker().clone());
        }
        Poll::Pending
    }
}
