//! A request's body on its way up: passed on frame by frame and counted. Its beginning is kept until the response shows
//! that somebody looked at the request: one that was refused unseen is sent once more, whole.
//!
//! Until the response begins a body must keep its pace: a drip would hold a stream, and at an application of HTTP/1.1 a
//! connection, for as long as its sender likes. Not so a call of gRPC, which may be quiet for long before its server says
//! anything. Between the response's head and its end both sides send as it suits them; after it, a body is held to its
//! pace whoever sends it: nobody owes it an answer.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use mesh_common::grpc::MessageCounter;
use mesh_common::http1::{Refusal, StripList};
use mesh_common::model::Text;
use tokio::time::{Instant, Sleep, sleep_until};

use super::activity::Activity;
use super::body::{Broken, sift};
use super::connect::refusal_in;
use super::cut::{Cut, Half};
use super::incoming::Incoming;
use super::pace::{Pace, Wanted};
use super::pipe::Passed;
use crate::transport::http1::AskedBody;

/// First bytes of a body that are kept for one more try, as many as of an opaque connection.
const REPLAY: usize = 16 * 1024;

/// A request's body, for one try.
pub(super) struct RequestBody {
    upload: Rc<Upload>,
    /// Which try it is for.
    attempt: u32,
    /// What an earlier try has read.
    again: Option<Bytes>,
    /// And the trailers after it.
    trailers: Option<HeaderMap>,
}

/// What all tries of a request share.
pub(super) struct Upload {
    /// `None` once nobody reads on: what the caller still sends is dropped then.
    incoming: RefCell<Option<(Incoming, Counted)>>,
    caller: Rc<Activity>,
    is_abandoned: Cell<bool>,
    /// What was read, for another try; `None` if there can be none. A copy: a frame of one byte would keep all that was
    /// read with it.
    kept: RefCell<Option<Vec<u8>>>,
    attempt: Cell<u32>,
    /// The body of the latest try is there.
    is_held: Cell<bool>,
    bytes: Cell<u64>,
    /// Of a call.
    messages: Cell<Option<MessageCounter>>,
    is_complete: Cell<bool>,
    wanted: Wanted,
    /// `None` while it may take its time.
    pace: Cell<Option<Pace>>,
    /// Runs while the caller is waited for.
    timer: RefCell<Option<Pin<Box<Sleep>>>>,
    is_slow: Cell<bool>,
    /// It cannot be read on, and why.
    malformed: Cell<Option<Refusal>>,
    /// Fields that the sender may not set, in trailers either.
    strip: StripList<'static>,
    /// Besides them, what rules about the request write.
    removed: RefCell<Vec<Text>>,
    cut: Cut,
}

/// A body that is held.
struct Counted(Rc<Cell<usize>>);

impl Upload {
    /// A body that is to keep the pace that is `wanted`; from the start, or once its response is over.
    pub(super) fn new(
        incoming: Incoming,
        strip: StripList<'static>,
        cut: Cut,
        (wanted, from_start): (Wanted, bool),
        (caller, held): (Rc<Activity>, Rc<Cell<usize>>),
    ) -> Rc<Self> {
        let is_complete = incoming.is_end_stream();
        let pace = (from_start && !is_complete).then(|| Pace::begins(Instant::now()));
        Rc::new(Self {
            is_complete: Cell::new(is_complete),
            wanted,
            pace: Cell::new(pace),
            timer: RefCell::default(),
            is_slow: Cell::new(false),
            malformed: Cell::default(),
            incoming: RefCell::new(Some((incoming, Counted::new(held)))),
            caller,
            is_abandoned: Cell::new(false),
            kept: RefCell::new(Some(Vec::new())),
            attempt: Cell::new(0),
            is_held: Cell::new(false),
            bytes: Cell::new(0),
            messages: Cell::default(),
            strip,
            removed: RefCell::default(),
            cut,
        })
    }

    /// Says which fields the request may not have in its trailers either.
    pub(super) fn remove(&self, names: &[Text]) {
        *self.removed.borrow_mut() = names.to_vec();
    }

    /// The body for one more try; `None` if too much of it was read. An earlier one gives nothing any more.
    pub(super) fn body(self: &Rc<Self>) -> Option<RequestBody> {
        let again = Some(Bytes::from(self.kept.borrow().clone()?)).filter(|again| !again.is_empty());
        self.attempt.set(self.attempt.get() + 1);
        self.is_held.set(true);
        Some(RequestBody { upload: self.clone(), attempt: self.attempt.get(), again, trailers: None })
    }

    /// The request was looked at: there is no other try.
    pub(super) fn seen(&self) {
        self.kept.take();
        if !self.is_held.get() {
            self.incoming.take();
        }
    }

    /// The response has begun: what is still to come may take its time.
    pub(super) fn answered(&self) {
        self.pace.set(None);
        self.timer.take();
    }

    /// The response is over: what is still to come must come.
    pub(super) fn response_ended(self: &Rc<Self>) {
        if !self.is_complete() {
            self.pace.set(Some(Pace::begins(Instant::now())));
            self.cut.look_again(Half::Request);
            self.caller.leave_over(self);
        }
    }

    /// The caller has gone: what it sent is not kept for an application that takes nothing.
    pub(super) fn abandon(&self) {
        self.is_abandoned.set(true);
        self.incoming.take();
        self.timer.take();
        self.cut.look_again(Half::Request);
    }

    /// After a change of protocol the caller has sent so many.
    pub(super) fn count(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
    }

    /// Whether it came too slowly, and was broken off.
    pub(super) fn is_slow(&self) -> bool {
        self.is_slow.get()
    }

    /// Why it could not be read to its end, if what came of it is malformed.
    pub(super) fn malformed(&self) -> Option<Refusal> {
        self.malformed.get()
    }

    /// What is sent are messages of a call, to be counted.
    pub(super) fn count_messages(&self) {
        self.messages.set(Some(MessageCounter::default()));
    }

    /// Whole messages that the caller has sent; `None` where it is no call.
    pub(super) fn messages(&self) -> Option<u64> {
        self.messages.get().map(|messages| messages.whole())
    }

    /// Bytes that the caller has sent.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Whether nothing of it was read so far, and there is something to come.
    pub(super) fn is_untouched(&self) -> bool {
        let is_open = self.incoming.borrow().as_ref().is_some_and(|(incoming, _)| !incoming.is_end_stream());
        is_open && self.bytes() == 0 && !self.is_complete()
    }

    /// Whether the caller has sent all of it.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete.get()
    }

    fn keep(&self, data: &Bytes) {
        let mut kept = self.kept.borrow_mut();
        if self.bytes.get() > REPLAY as u64 {
            *kept = None;
        }
        if let Some(kept) = &mut *kept {
            kept.extend_from_slice(data);
        }
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let mut incoming = self.incoming.borrow_mut();
        let Some((incoming, _)) = &mut *incoming else { return Poll::Ready(None) };
        self.note(|pace, now| pace.asked(now));
        let Poll::Ready(frame) = Pin::new(&mut *incoming).poll_frame(context) else {
            return self.wait(context);
        };
        let frame = frame.transpose().inspect_err(|error| self.malformed.set(refusal_in(error)))?;
        let Some(frame) = frame else {
            self.cut.moves();
            self.is_complete.set(true);
            return Poll::Ready(None);
        };
        self.cut.moves();
        let frame = sift(frame, StripList { also: &self.removed.borrow(), ..self.strip });
        match frame.data_ref() {
            Some(data) => {
                self.bytes.set(self.bytes.get() + data.len() as u64);
                if let Some(mut messages) = self.messages.get() {
                    let before = messages.whole();
                    messages.passed(data);
                    self.messages.set(Some(messages));
                    // Counted as they pass, also while nothing is answered. The last ones of a call are counted with its end.
                    if messages.whole() > before && !incoming.is_end_stream() {
                        self.cut.look_again(Half::Response);
                    }
                }
                self.note(|pace, now| pace.came(data.len(), now, self.wanted));
                self.keep(data);
            }
            None => {
                self.is_complete.set(true);
                // Trailers are not kept.
                self.kept.take();
            }
        }
        if incoming.is_end_stream() {
            self.is_complete.set(true);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn note(&self, note: impl FnOnce(&mut Pace, Instant)) {
        if let Some(mut pace) = self.pace.get() {
            note(&mut pace, Instant::now());
            self.pace.set(Some(pace));
        }
    }

    /// The caller has nothing to give right now: breaks off if that is so for too long.
    fn wait(&self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(pace) = self.pace.get() else { return Poll::Pending };
        let deadline = pace.deadline(self.wanted);
        let mut timer = self.timer.borrow_mut();
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        loop {
            ready!(timer.as_mut().poll(context));
            if timer.deadline() >= deadline {
                self.is_slow.set(true);
                return Poll::Ready(Some(Err(Broken::Slow)));
            }
            // It was set for an earlier one: most bodies are over before it would have to be moved.
            timer.as_mut().reset(deadline);
        }
    }
}

impl Counted {
    fn new(held: Rc<Cell<usize>>) -> Self {
        held.set(held.get() + 1);
        Self(held)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl RequestBody {
    /// Reads its first bytes, at most so many or its end; they come again.
    pub(super) async fn gather(&mut self, most: usize) -> Result<AskedBody, Broken> {
        let mut read: Vec<u8> = Vec::new();
        let mut is_whole = self.is_end_stream();
        while !is_whole && read.len() <= most {
            let frame = poll_fn(|context| Pin::new(&mut *self).poll_frame(context)).await;
            let Some(frame) = frame.transpose()? else { break };
            match frame.into_data() {
                Ok(data) => read.extend_from_slice(&data),
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            }
            is_whole = self.trailers.is_some() || self.is_end_stream();
        }
        let shown = read[..read.len().min(most)].to_vec();
        let is_whole =
            shown.len() == read.len() && (is_whole || self.is_end_stream() || self.upload.is_complete());
        self.again = Some(Bytes::from(read)).filter(|read| !read.is_empty());
        Ok(AskedBody { bytes: shown, is_whole })
    }

    /// What it shares with other tries.
    pub(super) fn upload(&self) -> Rc<Upload> {
        self.upload.clone()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if self.attempt != self.upload.attempt.get() {
            return;
        }
        self.upload.is_held.set(false);
        // Where the request may be tried again, the rest of its body is wanted.
        if self.upload.kept.borrow().is_none() {
            self.upload.incoming.take();
        }
    }
}

impl Passed for RequestBody {
    fn poll_given_up(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.upload.is_abandoned.get() {
            return Poll::Ready(());
        }
        self.upload.cut.poll(Half::Request, context)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.upload.cut.poll(Half::Request, context).is_ready() {
            return Poll::Ready(Some(Err(Broken::Cut)));
        }
        if self.attempt != self.upload.attempt.get() {
            return Poll::Ready(Some(Err(Broken::Again)));
        }
        if self.upload.is_abandoned.get() {
            return Poll::Ready(Some(Err(Broken::CallerGone)));
        }
        match self.again.take() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None => match self.trailers.take() {
                Some(trailers) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                None => self.upload.poll(context),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        let incoming = self.upload.incoming.borrow();
        let is_over = incoming.as_ref().is_none_or(|(incoming, _)| incoming.is_end_stream());
        self.again.is_none() && self.trailers.is_none() && is_over && !self.upload.is_abandoned.get()
    }

    fn size_hint(&self) -> SizeHint {
        let again = self.again.as_ref().map_or(0, Bytes::len);
        let incoming = self.upload.incoming.borrow();
        let rest = incoming.as_ref().map(|(incoming, _)| incoming.size_hint()).unwrap_or_default();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + again as u64);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + again as u64);
        }
        hint
    }
}
