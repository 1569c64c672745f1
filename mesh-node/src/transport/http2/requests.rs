//! What a caller of HTTP/1.1 asks, read by our own strict codec before hyper sees it.
//!
//! In: the bytes of the caller's connection. Out: each request written anew from what was understood. After a refusal, or a head
//! that does not come in time, nothing more is read: hyper ends what is under way, and whoever serves the connection answers.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use mesh_common::http1::{
    AskedFor, Authority, BodyFraming, BodyPart, BodyReader, BodyWriter, Field, HeadScan, Limits, Offer,
    ReadRules, Refusal, RequestHead, UnevenBody, Version, write_request,
};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::activity::Activity;
use super::settings::Settings;
use super::through::{Reading, Rebuilt};

/// Bytes that are read at a time.
const AT_ONCE: usize = 16 << 10;

/// Why nothing more is read of a caller.
pub(super) struct Stop {
    pub(super) refusal: Refusal,
    pub(super) asked: AskedFor,
    /// The caller is told; not who has gone, or spoke something else.
    pub(super) is_answered: bool,
}

/// Requests of one connection.
pub(super) struct Requests {
    dialled: Authority<'static>,
    limits: Limits,
    header_timeout: Duration,
    activity: Rc<Activity>,
    at: At,
    is_first: bool,
    /// Nothing follows the request that is read.
    is_last: bool,
    came: Vec<u8>,
    rebuilt: Rebuilt,
    /// Runs while a head is incomplete.
    deadline: Option<Pin<Box<Sleep>>>,
    has_ended: bool,
    /// In a body: its exchange is ended by it.
    broken: Option<Refusal>,
    stopped: Rc<RefCell<Option<Stop>>>,
}

enum At {
    Head(HeadScan),
    Body(BodyReader, BodyWriter),
}

impl Requests {
    /// `stopped` is told why nothing more is read, once that is so.
    pub(super) fn new(
        dialled: SocketAddr,
        settings: &Settings,
        activity: Rc<Activity>,
        stopped: Rc<RefCell<Option<Stop>>>,
    ) -> Self {
        Self {
            dialled: Authority::of(dialled),
            limits: settings.http1_request_limits(),
            header_timeout: settings.header_timeout,
            activity,
            at: At::Head(HeadScan::default()),
            is_first: true,
            is_last: false,
            came: Vec::new(),
            rebuilt: Rebuilt::default(),
            deadline: None,
            has_ended: false,
            broken: None,
            stopped,
        }
    }

    /// Takes what came, or its end if that is nothing.
    fn take(&mut self, bytes: &[u8]) {
        self.came.extend_from_slice(bytes);
        match self.understand() {
            Ok(()) => {
                self.has_ended |= bytes.is_empty();
                if bytes.is_empty() && matches!(self.at, At::Head(_)) && !self.came.is_empty() {
                    self.stop(Refusal::Truncated, false);
                }
            }
            Err(refusal) if matches!(self.at, At::Body(..)) => self.broken = Some(refusal),
            Err(refusal) => self.stop(refusal, !(self.is_first && refusal == Refusal::StartLine)),
        }
        if !matches!(self.at, At::Head(_)) || self.came.is_empty() {
            self.deadline = None;
        }
    }

    fn stop(&mut self, refusal: Refusal, is_answered: bool) {
        self.has_ended = true;
        let asked = AskedFor::of_head(&self.came);
        *self.stopped.borrow_mut() = Some(Stop { refusal, asked, is_answered });
    }

    /// Writes anew what is understood of what came.
    fn understand(&mut self) -> Result<(), Refusal> {
        while !self.came.is_empty() {
            if self.is_last && matches!(self.at, At::Head(_)) {
                self.came.clear();
                break;
            }
            let taken = match &mut self.at {
                At::Head(_) => self.understand_head()?,
                At::Body(..) => self.understand_body()?,
            };
            self.came.drain(..taken);
            if taken == 0 {
                break;
            }
        }
        self.has_ended |= self.is_last && matches!(self.at, At::Head(_));
        Ok(())
    }

    /// Returns how much was taken.
    fn understand_head(&mut self) -> Result<usize, Refusal> {
        let At::Head(scan) = &mut self.at else { return Ok(0) };
        let rules = ReadRules { limits: self.limits, ..ReadRules::default() };
        let Some(head) = RequestHead::read(&self.came, scan, &rules)? else { return Ok(0) };
        if head.offer == Offer::WebSocket {
            return Err(Refusal::Untranslated);
        }
        let persistence: Option<&[u8]> = match (head.version, head.keep_alive) {
            (Version::Http11, true) | (Version::Http10, false) => None,
            (Version::Http11, false) => Some(b"close"),
            (Version::Http10, true) => Some(b"keep-alive"),
        };
        let added = persistence.map(|value| Field { name: b"connection", value });
        let before = self.rebuilt.bytes.len();
        let writer = write_request(&head, &self.dialled, added.as_slice(), &mut self.rebuilt.bytes);
        if head.version == Version::Http10 {
            // hyper is to answer as such a caller understands it.
            let line = self.rebuilt.bytes[before..].iter().position(|byte| *byte == b'\r');
            let minor = before + line.expect("a request has a line") - 1;
            self.rebuilt.bytes[minor] = b'0';
        }
        let is_bodiless = matches!(head.framing, BodyFraming::None | BodyFraming::Length(0));
        let (taken, framing) = (head.length, head.framing);
        self.is_first = false;
        self.is_last = !head.keep_alive;
        self.at = match is_bodiless {
            true => At::Head(HeadScan::default()),
            false => At::Body(BodyReader::new(framing), writer),
        };
        Ok(taken)
    }

    /// Returns how much was taken.
    fn understand_body(&mut self) -> Result<usize, Refusal> {
        let At::Body(reader, writer) = &mut self.at else { return Ok(0) };
        let rules = ReadRules { limits: self.limits, ..ReadRules::default() };
        let mut taken = 0;
        loop {
            let step = reader.read(&self.came[taken..], &rules)?;
            taken += step.consumed;
            match step.part {
                BodyPart::Pending => return Ok(taken),
                BodyPart::Bytes(bytes) => writer
                    .write(bytes, &mut self.rebuilt.bytes)
                    .map_err(|UnevenBody| Refusal::ForbiddenBody)?,
                BodyPart::End(trailers) => {
                    writer
                        .finish(&trailers, &mut self.rebuilt.bytes)
                        .map_err(|UnevenBody| Refusal::Truncated)?;
                    self.at = At::Head(HeadScan::default());
                    return Ok(taken);
                }
            }
        }
    }

    /// The caller has nothing to give right now: whether it is too late for the head that has begun.
    fn is_late(&mut self, context: &mut Context<'_>) -> bool {
        if self.came.is_empty() || !matches!(self.at, At::Head(_)) {
            return false;
        }
        let next = Instant::now() + self.header_timeout;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep_until(next)));
        while deadline.as_mut().poll(context).is_ready() {
            if !self.activity.is_open() {
                return true;
            }
            // Its turn has not come.
            deadline.as_mut().reset(next);
        }
        false
    }
}

impl Reading for Requests {
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.rebuilt.give(room) || room.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if let Some(refusal) = self.broken {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refusal)));
            }
            if self.has_ended {
                return Poll::Ready(Ok(()));
            }
            let mut bytes = [MaybeUninit::uninit(); AT_ONCE];
            let mut read = ReadBuf::uninit(&mut bytes);
            match Pin::new(&mut *stream).poll_read(context, &mut read) {
                Poll::Ready(Ok(())) => self.take(read.filled()),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if self.is_late(context) => self.stop(Refusal::Slow, true),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
