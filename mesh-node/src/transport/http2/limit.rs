//! How long an exchange may take: the moment at which its request must be there as a whole (`--request-timeout`).
//!
//! In: a request's head, and what cuts its exchange off. Out: that, when the moment comes. The timer is part of the task that
//! runs the exchange: nothing is allocated for it, and a request without a body has none.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::Method;
use http::request::Parts;
use tokio::time::{Instant, Sleep, sleep_until};

use super::cut::{Cut, Why};
use super::settings::Settings;
use super::upload::Upload;

/// When an exchange ends that is not over by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    at: Instant,
    why: Why,
}

/// An exchange that has a limit.
struct Bound {
    limit: Limit,
    cut: Cut,
    upload: Rc<Upload>,
}

/// The limit of one exchange, if it has one.
#[derive(Default)]
pub(super) struct Bounds(RefCell<Option<Bound>>);

impl Limit {
    /// That of a request which is there up to its head; `None` for one that is whole, and for those that are never over by
    /// themselves: calls of gRPC and what another protocol is to follow.
    pub(super) fn of(parts: &Parts, is_grpc: bool, is_whole: bool, settings: &Settings) -> Option<Self> {
        if is_grpc || is_whole || parts.method == Method::CONNECT {
            return None;
        }
        Some(Self { at: Instant::now() + settings.request_timeout, why: Why::RequestTimeout })
    }
}

impl Bounds {
    /// From now on the exchange has this limit.
    pub(super) fn set(&self, limit: Limit, cut: &Cut, upload: &Rc<Upload>) {
        *self.0.borrow_mut() = Some(Bound { limit, cut: cut.clone(), upload: upload.clone() });
    }

    /// The response begins: nobody waits for the request alone any more.
    pub(super) fn answered(&self) {
        let mut bound = self.0.borrow_mut();
        bound.take_if(|bound| bound.limit.why == Why::RequestTimeout);
    }

    /// The exchange is over.
    pub(super) fn lift(&self) {
        self.0.take();
    }

    /// Ready once the exchange was cut off, and is to be looked at again.
    pub(super) fn poll(&self, mut timer: Pin<&mut Option<Sleep>>, context: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.0.borrow().as_ref().map(|bound| bound.limit.at) else {
            timer.set(None);
            return Poll::Pending;
        };
        if timer.is_none() {
            timer.set(Some(sleep_until(at)));
        }
        let running = timer.as_mut().as_pin_mut().expect("it was set above");
        ready!(running.poll(context));
        timer.set(None);
        match self.0.take().is_some_and(|bound| bound.cut_off()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl Bound {
    /// Returns whether there was something to be cut off.
    fn cut_off(&self) -> bool {
        let is_late = match self.limit.why {
            Why::RequestTimeout => !self.upload.is_complete(),
            Why::NotPermitted => true,
        };
        if is_late {
            self.cut.end(self.limit.why);
        }
        is_late
    }
}
