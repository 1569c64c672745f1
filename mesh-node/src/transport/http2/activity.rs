//! Whether a caller's connection is in use.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::{Rc, Weak};
use std::time::Duration;

use slab::Slab;
use tokio::time::{Instant, sleep_until};

use super::taking::{Late, Taking, Waiting};
use super::upload::Upload;
use crate::transport::patience::Terms;
use crate::transport::tasks;

/// The exchanges of one connection.
pub(super) struct Activity {
    open: Cell<u32>,
    has_begun: Cell<bool>,
    last: Cell<Instant>,
    is_over: Cell<bool>,
    /// Requests' bodies that go on after their responses.
    left: RefCell<Vec<Weak<Upload>>>,
    is_gone: Cell<bool>,
    began: Instant,
    terms: Terms,
    /// How long nothing may move of an exchange.
    most_idle: Duration,
    /// Responses that are not over, or not taken.
    takings: RefCell<Slab<Weak<Taking>>>,
    /// Of the exchange that began last, until it has its task.
    newest: RefCell<Option<Rc<Taking>>>,
    /// Exchanges that have their task and were not looked at since.
    queued: Cell<u32>,
    /// What the caller does not read.
    unread: Rc<Waiting>,
    /// Interim answers that h2 has and has not sent.
    interims: Rc<Cell<u32>>,
}

/// So many exchanges of a connection begin before everybody else has a turn: one read may bring hundreds of requests, and each
/// costs more than to pass on what others send. Connections that ask for less at a time never wait.
const AT_ONCE: u32 = 32;
/// Of those beyond, so many begin in each turn.
const IN_A_TURN: u32 = 8;

/// An exchange that is not looked at yet.
pub(super) struct Queued {
    activity: Rc<Activity>,
    ahead: u32,
}

/// The caller, for as long as its connection is served: with it go the bodies that it was still sending.
pub(super) struct Presence(Rc<Activity>);

/// An exchange that is not over: held by its response's body.
pub(super) struct Open {
    activity: Rc<Activity>,
    taking: Rc<Taking>,
}

/// An exchange that goes on in another protocol: the connection stays in use.
pub(super) struct GoesOn(Rc<Activity>);

impl Activity {
    /// `terms`: on which what waits for the caller is kept. `most_idle`: how long nothing may move of an exchange.
    pub(super) fn new(terms: Terms, most_idle: Duration) -> Rc<Self> {
        let now = Instant::now();
        Rc::new(Self {
            open: Cell::new(0),
            has_begun: Cell::new(false),
            last: Cell::new(now),
            is_over: Cell::new(false),
            left: RefCell::default(),
            is_gone: Cell::new(false),
            began: now,
            terms,
            most_idle,
            takings: RefCell::default(),
            newest: RefCell::default(),
            queued: Cell::new(0),
            unread: Rc::new(Waiting::new(&terms)),
            interims: Rc::default(),
        })
    }

    /// What the caller does not read, to be told.
    pub(super) fn unread(&self) -> Rc<Waiting> {
        self.unread.clone()
    }

    /// How many interim answers h2 has and has not sent, to be told.
    pub(super) fn interims(&self) -> Rc<Cell<u32>> {
        self.interims.clone()
    }

    /// Ends what the caller takes too little of.
    pub(super) fn look(&self) -> Late {
        let now = self.began.elapsed();
        let takings = self.takings.borrow();
        let takings = takings.iter().filter_map(|(_, taking)| taking.upgrade());
        if self.unread.is_late(now, &self.terms) {
            for taking in takings {
                taking.end();
            }
            return Late::OfConnection;
        }
        takings.map(|taking| taking.look(now, &self.terms)).max().unwrap_or(Late::No)
    }

    /// How long nothing may move of an exchange.
    pub(super) fn most_idle(&self) -> Duration {
        self.most_idle
    }

    /// Ends exchanges of which nothing moves for too long, for as long as it is polled. One clock for all of them: what begins,
    /// or moves, after a look is not late before the next one.
    pub(super) async fn end_idle(&self) -> Infallible {
        let mut next = Instant::now() + self.most_idle;
        loop {
            sleep_until(next).await;
            next = self.look_for_idle();
        }
    }

    /// Ends those that are idle now. Returns when to look again.
    pub(super) fn look_for_idle(&self) -> Instant {
        let now = Instant::now();
        let takings = self.takings.borrow();
        let takings = takings.iter().filter_map(|(_, taking)| taking.upgrade());
        let late = takings.filter_map(|taking| taking.end_idle(now, self.most_idle));
        late.fold(now + self.most_idle, Instant::min)
    }

    /// A response is over, and taken.
    pub(super) fn forget(&self, key: usize) {
        self.takings.borrow_mut().remove(key);
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
        let mut takings = self.takings.borrow_mut();
        let entry = takings.vacant_entry();
        let taking = Taking::new(self.clone(), entry.key(), &self.terms);
        entry.insert(Rc::downgrade(&taking));
        drop(takings);
        *self.newest.borrow_mut() = Some(taking.clone());
        Open { activity: self.clone(), taking }
    }

    /// Runs the task of the exchange that began last, in its turn.
    pub(super) fn run(self: &Rc<Self>, task: impl Future + 'static) {
        let taking = self.take_newest().expect("an exchange has just begun");
        tasks::spawn(taking.carry(self.queue(), Box::pin(task)));
    }

    /// The exchange that began last, for whoever runs it. Nobody else may keep it: it keeps this.
    pub(super) fn take_newest(&self) -> Option<Rc<Taking>> {
        self.newest.take()
    }

    /// The caller's certificate has ended: what is open goes on, nothing new begins. A caller that does not heed
    /// GOAWAY could go on asking otherwise.
    pub(super) fn end(&self) {
        self.is_over.set(true);
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.get()
    }

    fn queue(self: &Rc<Self>) -> Queued {
        let ahead = self.queued.get();
        self.queued.set(ahead + 1);
        Queued { activity: self.clone(), ahead }
    }

    fn close_one(&self) {
        self.open.set(self.open.get() - 1);
        self.last.set(Instant::now());
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

impl Queued {
    /// Ends when it is its turn.
    pub(super) async fn turn(self) {
        let turns = (self.ahead + IN_A_TURN).saturating_sub(AT_ONCE) / IN_A_TURN;
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.activity.queued.set(self.activity.queued.get() - 1);
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
        self.activity.clone()
    }

    /// Its response on the way to the caller.
    pub(super) fn taking(&self) -> &Rc<Taking> {
        &self.taking
    }

    /// The exchange goes on after its response's head, in another protocol.
    pub(super) fn goes_on(&self) -> GoesOn {
        self.activity.open.set(self.activity.open.get() + 1);
        GoesOn(self.activity.clone())
    }

    /// Whether it began too late to be served.
    pub(super) fn is_late(&self) -> bool {
        self.activity.is_over()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.activity.close_one();
    }
}

impl Drop for GoesOn {
    fn drop(&mut self) {
        self.0.close_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::http2::Settings;

    /// Begins so many exchanges, each of which says its name when it is looked at.
    fn begin(count: usize, name: &'static str, order: &Rc<RefCell<Vec<&'static str>>>) -> Vec<Open> {
        let settings = Settings::default();
        let activity = Activity::new(settings.terms(), settings.stream_idle_timeout);
        let begin = |_| {
            let (open, order) = (activity.begin(), order.clone());
            activity.run(async move { order.borrow_mut().push(name) });
            open
        };
        (0..count).map(begin).collect()
    }

    #[test]
    fn many_exchanges_of_one_connection_do_not_all_begin_before_those_of_another() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let order = Rc::<RefCell<Vec<_>>>::default();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let _open = (begin(200, "of many", &order), begin(1, "alone", &order), begin(32, "few", &order));
            while order.borrow().len() < 233 {
                tokio::task::yield_now().await;
            }
        });
        let order = order.borrow();
        let place = |name| order.iter().position(|begun| *begun == name).unwrap();
        assert_eq!((place("alone"), place("few")), (AT_ONCE as usize, AT_ONCE as usize + 1));
        let few = &order[place("few")..];
        assert!(
            few.iter().take(32).all(|begun| *begun == "few"),
            "who asks for few does not wait: {order:?}"
        );
    }
}
