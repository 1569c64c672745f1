//! What a caller was given and has not taken: its windows are shut, or it does not read.
//!
//! In: bytes as they are handed to h2, and as they leave it. Out: whether the caller takes so little that it is served no
//! longer. Looked at now and then: a request that is answered and taken costs no clock. Its window alone would not tell: the
//! last piece of a response waits in h2 when whoever gave it is gone.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::activity::{Activity, Queued};
use super::calm::{Calm, OpenHead};
use super::cut::{Cut, Why};
use super::interims::Interims;
use super::limit::{Bounds, about};
use crate::transport::patience::{Patience, Terms};

/// Bytes that wait for a caller, or do not.
pub(super) struct Waiting {
    waits: Cell<bool>,
    taken: Cell<u64>,
    /// Since the last look: nothing waited for a moment.
    has_caught_up: Cell<bool>,
    /// What was taken until the last look.
    seen: Cell<u64>,
    patience: Cell<Patience>,
}

/// One response on its way to its caller.
pub(super) struct Taking {
    waiting: Waiting,
    given: Cell<u64>,
    is_late: Cell<bool>,
    /// Of the task that gives it to h2, while it runs.
    task: RefCell<Option<Waker>>,
    bounds: Bounds,
    /// Of its exchange, once that has begun.
    cut: OnceCell<Cut>,
    interims: Interims,
    activity: Rc<Activity>,
    /// Its place among the connection's responses.
    key: usize,
}

/// A piece of a body, in the hands of h2.
#[derive(Default)]
pub(super) struct Data {
    bytes: Bytes,
    /// Of a response.
    taking: Option<Rc<Taking>>,
}

/// A caller's connection, with what it does not read, and with what it sends that asks for nothing.
pub(super) struct Socket<S> {
    stream: S,
    unread: Rc<Waiting>,
    calm: Calm,
    /// Whether that is why it ended: h2 keeps no error of ours.
    is_restless: Rc<Cell<bool>>,
}

/// What is to be done about a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Late {
    /// Nothing; or streams of it were told to end.
    No,
    /// The rest of a response waits that nobody but the connection can end.
    OfStream,
    /// It does not read.
    OfConnection,
}

impl Waiting {
    pub(super) fn new(terms: &Terms) -> Self {
        Self {
            waits: Cell::new(false),
            taken: Cell::new(0),
            has_caught_up: Cell::new(false),
            seen: Cell::new(0),
            patience: Cell::new(Patience::new(terms)),
        }
    }

    fn took(&self, bytes: usize, waits: bool) {
        self.taken.set(self.taken.get() + bytes as u64);
        self.waits.set(waits);
        if !waits {
            self.has_caught_up.set(true);
        }
    }

    /// Whether so little was taken that it is over.
    pub(super) fn is_late(&self, now: Duration, terms: &Terms) -> bool {
        let (mut patience, taken) = (self.patience.get(), self.taken.get());
        if self.has_caught_up.replace(false) {
            patience.took_all(terms);
        }
        patience.took(taken - self.seen.replace(taken), self.waits.get(), now, terms);
        self.patience.set(patience);
        patience.deadline().is_some_and(|deadline| deadline <= now)
    }
}

impl Taking {
    pub(super) fn new(activity: Rc<Activity>, key: usize, terms: &Terms) -> Rc<Self> {
        Rc::new(Self {
            waiting: Waiting::new(terms),
            given: Cell::new(0),
            is_late: Cell::new(false),
            task: RefCell::default(),
            bounds: Bounds::default(),
            cut: OnceCell::new(),
            interims: Interims::default(),
            activity,
            key,
        })
    }

    /// It is part of the exchange that `cut` ends, which begins now.
    pub(super) fn is_of(&self, cut: &Cut) {
        cut.moves();
        let _ = self.cut.set(cut.clone());
    }

    /// Hands bytes on.
    pub(super) fn give(self: &Rc<Self>, bytes: Bytes) -> Data {
        self.moves();
        self.given.set(self.given.get() + bytes.len() as u64);
        self.waiting.waits.set(self.waiting.waits.get() || !bytes.is_empty());
        Data { bytes, taking: Some(self.clone()) }
    }

    /// Whether its caller took too little of it.
    pub(super) fn is_late(&self) -> bool {
        self.is_late.get()
    }

    /// What its caller is told before it begins.
    pub(super) fn interims(&self) -> &Interims {
        &self.interims
    }

    /// How long its exchange may take.
    pub(super) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Runs the task of its exchange, which gives it to h2, until it is over or late: what is dropped then resets the stream,
    /// whatever h2 holds of it.
    pub(super) async fn carry<T: Future>(self: Rc<Self>, queued: Queued, mut task: Pin<Box<T>>) {
        queued.turn().await;
        let mut timer = pin!(None::<Sleep>);
        poll_fn(|context| {
            loop {
                if self.is_late.get() {
                    return Poll::Ready(());
                }
                self.remember(context);
                if task.as_mut().poll(context).is_ready() {
                    return Poll::Ready(());
                }
                ready!(self.bounds.poll(timer.as_mut(), context));
            }
        })
        .await;
        // Whoever reports how it ended asks for its limit.
        drop(task);
        self.task.take();
        self.bounds.lift();
    }

    fn remember(&self, context: &Context<'_>) {
        let mut waker = self.task.borrow_mut();
        if waker.as_ref().is_none_or(|waker| !waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
    }

    /// Ends it if its caller took too little.
    pub(super) fn look(&self, now: Duration, terms: &Terms) -> Late {
        if !self.waiting.is_late(now, terms) {
            return Late::No;
        }
        self.end()
    }

    /// Ends it as one of which too little was taken.
    pub(super) fn end(&self) -> Late {
        self.is_late.set(true);
        match self.task.take() {
            Some(task) => {
                task.wake();
                Late::No
            }
            None => Late::OfStream,
        }
    }

    /// Ends its exchange if nothing of it has moved for `patience`: not while more of its request must come, which has deadlines
    /// of its own. Returns when to look again, where that is known.
    pub(super) fn end_idle(&self, now: Instant, patience: Duration) -> Option<Instant> {
        // What goes on without its task is a WebSocket, which looks after itself, or the rest of a body that must keep its pace.
        self.task.borrow().as_ref()?;
        let cut = self.cut.get().filter(|cut| !cut.is_cut())?;
        let late = cut.moved()? + patience;
        if late > now {
            return Some(late);
        }
        if self.bounds.is_request_awaited() {
            return None;
        }
        cut.end(Why::IdleTimedOut);
        None
    }

    /// Whether nothing of its exchange has moved for about as long as that may be so.
    pub(super) fn is_idle(&self) -> bool {
        let moved = self.cut.get().and_then(Cut::moved);
        moved.is_some_and(|moved| moved.elapsed() >= about(self.activity.most_idle()))
    }

    fn moves(&self) {
        if let Some(cut) = self.cut.get() {
            cut.moves();
        }
    }

    fn took(&self, bytes: usize) {
        self.moves();
        let is_rest = self.waiting.taken.get() + (bytes as u64) < self.given.get();
        self.waiting.took(bytes, is_rest);
    }
}

/// Runs a connection that carries one exchange after the other, as [`Taking::carry`] runs the task of one, until `poll` says
/// that it is over. `None`: its caller took too little of a response.
pub(super) async fn carry_each<T>(
    activity: &Activity,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Option<T> {
    let mut timer = pin!(None::<Sleep>);
    let mut current: Option<Rc<Taking>> = None;
    poll_fn(|context| {
        loop {
            if let Some(taking) = &current {
                if taking.is_late.get() {
                    return Poll::Ready(None);
                }
                taking.remember(context);
            }
            if let Poll::Ready(over) = poll(context) {
                return Poll::Ready(Some(over));
            }
            if let Some(newest) = activity.take_newest() {
                timer.set(None);
                if let Some(before) = current.replace(newest) {
                    before.task.take();
                    before.bounds.lift();
                }
            }
            let Some(taking) = &current else { return Poll::Pending };
            taking.remember(context);
            ready!(taking.bounds.poll(timer.as_mut(), context));
        }
    })
    .await
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.activity.forget(self.key);
    }
}

impl From<Bytes> for Data {
    /// Of what is no response's body.
    fn from(bytes: Bytes) -> Self {
        Self { bytes, taking: None }
    }
}

impl Buf for Data {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if let Some(taking) = &self.taking {
            taking.took(count);
        }
    }
}

impl<S> Socket<S> {
    /// That of `activity`. `max_fields`: that a request may have.
    pub(super) fn new(stream: S, activity: &Activity, max_fields: usize) -> Self {
        let calm = Calm::new(max_fields, activity.interims(), Instant::now());
        Self { stream, unread: activity.unread(), calm, is_restless: Rc::default() }
    }

    /// Set when the caller's connection ends for what it sends.
    pub(super) fn is_restless(&self) -> Rc<Cell<bool>> {
        self.is_restless.clone()
    }

    /// Since when a head comes that is not whole, whenever it is asked.
    pub(super) fn open_head(&self) -> OpenHead {
        self.calm.open_head()
    }

    fn note<T>(&self, written: Poll<io::Result<T>>, bytes: impl FnOnce(&T) -> usize) -> Poll<io::Result<T>> {
        match &written {
            Poll::Pending => self.unread.waits.set(true),
            Poll::Ready(Ok(written)) => self.unread.took(bytes(written), false),
            Poll::Ready(Err(_)) => {}
        }
        written
    }
}

impl<S: AsyncWrite + Unpin> Socket<S> {
    /// Tells the caller why its connection ends, if there is room for it at once: it is not waited for.
    fn bid_farewell(&mut self, context: &mut Context<'_>) {
        if let Some(frame) = self.calm.farewell()
            && Pin::new(&mut self.stream).poll_write(context, frame).is_ready()
        {
            let _ = Pin::new(&mut self.stream).poll_flush(context);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = room.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, room))?;
        let was_over = this.calm.is_over();
        if let Err(restless) = this.calm.came(&room.filled()[before..], Instant::now) {
            if !was_over {
                this.bid_farewell(context);
                this.is_restless.set(true);
            }
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, restless)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = written {
            self.calm.went(&bytes[..count]);
        }
        self.note(written, |bytes| *bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        if let Poll::Ready(Ok(mut left)) = written {
            for piece in pieces {
                let count = left.min(piece.len());
                self.calm.went(&piece[..count]);
                left -= count;
            }
        }
        self.note(written, |bytes| *bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.note(flushed, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
