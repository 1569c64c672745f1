//! How long an exchange may take: until when its request must be there as a whole (`--request-timeout`), or a call of gRPC be
//! over (`grpc-timeout`).
//!
//! In: a request's head, and what cuts its exchange off. Out: that, when the moment comes. The timer is part of the task that
//! runs the exchange: nothing is allocated for it, and a request that needs none has none.
//!
//! A call is ended in the moment in which its caller stops to wait for it, neither before, because an answer in time counts,
//! nor later: whatever the application says then, nobody hears. Where its own clock comes first its own answer is passed on.
//! The caller's clock runs ahead of ours by as long as the request took to come here, so a caller mostly goes before its call
//! is ended here. One that goes that little earlier goes for that reason, and is reported so.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::HeaderMap;
use mesh_common::grpc::{TIMEOUT, read_timeout};
use mesh_common::http1::Refusal;
use tokio::time::{Instant, Sleep, sleep_until};

use super::cut::{Cut, Why};
use super::settings::Settings;
use super::upload::Upload;

/// What waits for longer never ends by itself: timers go no further.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Most by which the clock of a caller, or of another agent, is ahead of ours; never more than a tenth of what it waits.
const AHEAD: Duration = Duration::from_millis(250);

/// When an exchange ends that is not over by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    at: Instant,
    /// From when on its caller goes for the same reason.
    about: Instant,
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
    /// That of a request whose head is there; `None` if it needs none: a request of which nothing is to come, and a call whose
    /// caller waits for as long as it takes.
    ///
    /// # Errors
    /// A call does not say how long it may take so that it can be read.
    pub(super) fn of(
        headers: &HeaderMap,
        is_grpc: bool,
        is_whole: bool,
        settings: &Settings,
    ) -> Result<Option<Self>, Refusal> {
        if is_grpc {
            return Ok(call_timeout(headers)?.map(Self::of_call));
        }
        if is_whole {
            return Ok(None);
        }
        let at = Instant::now() + settings.request_timeout;
        Ok(Some(Self { at, about: at, why: Why::RequestTimeout }))
    }

    fn of_call(timeout: Duration) -> Self {
        let now = Instant::now();
        Self { at: now + timeout, about: now + about(timeout), why: Why::DeadlineExceeded }
    }
}

/// So much of a time, after which another one on the way has come to its end of it by its own clock.
pub(super) fn about(timeout: Duration) -> Duration {
    timeout.saturating_sub(AHEAD.min(timeout / 10))
}

/// What a call says of how long it may take.
fn call_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Refusal> {
    let mut values = headers.get_all(TIMEOUT).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let timeout = read_timeout(value.as_bytes()).map_err(|_| Refusal::GrpcTimeout)?;
    if values.next().is_some() {
        return Err(Refusal::GrpcTimeout);
    }
    Ok(Some(timeout).filter(|timeout| *timeout < LONGEST))
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

    /// Whether more of a request must come by its deadline.
    pub(super) fn is_request_awaited(&self) -> bool {
        let bound = self.0.borrow();
        let request = bound.as_ref().filter(|bound| bound.limit.why == Why::RequestTimeout);
        request.is_some_and(|bound| !bound.upload.is_complete())
    }

    /// Whether a caller that goes now does so because its call took too long.
    pub(super) fn is_callers_deadline(&self) -> bool {
        let bound = self.0.borrow();
        let deadline = bound.as_ref().filter(|bound| bound.limit.why == Why::DeadlineExceeded);
        deadline.is_some_and(|bound| bound.limit.about <= Instant::now())
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
            Why::DeadlineExceeded | Why::NotPermitted | Why::IdleTimedOut => true,
        };
        if is_late {
            self.cut.end(self.limit.why);
        }
        is_late
    }
}
