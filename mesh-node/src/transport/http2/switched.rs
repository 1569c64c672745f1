//! What follows a WebSocket's handshake: bytes both ways, as they come, until both sides have ended.
//!
//! An end in good order is passed on as one, and the other direction goes on. Anything else ends both. No deadline of a
//! request holds any more: what is quiet for as long as any connection may be (`--tcp-idle-timeout`) is ended. Once one
//! side has ended, the other has a minute at a time: over HTTP/2 a stream that its peer gave up shows as one that has
//! ended ([`Way`]).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use super::activity::GoesOn;
use super::body::Record;
use super::conductor::{Ending, Exchange};
use super::cut::{Cut, Half};
use super::settings::Settings;
use super::strict::Strict;
use super::way::Way;
use crate::transport::connect;
use crate::transport::tasks;

/// What is read at a time.
const ROOM: usize = 16 << 10;
/// Reads of one direction before others have their turn.
const ROUNDS: usize = 8;

/// One side.
enum Side {
    /// A stream of HTTP/2.
    Stream(Box<Way>),
    /// A connection to an application, and what came with its 101.
    Connection(TcpStream, bytes::Bytes),
}

/// The application's side, once it has agreed.
pub(super) enum Application {
    Stream(Box<Way>),
    Connection(OnUpgrade),
}

/// Where bytes go in one direction.
#[derive(Default)]
struct Direction {
    /// Read, and not written yet.
    held: Vec<u8>,
    written: usize,
    bytes: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// Its source has ended.
    Ended,
    /// And its destination knows.
    Over,
}

/// Carries bytes between the caller and the application, once both have switched, and reports the end.
pub(super) fn carry<E: Exchange>(
    (caller, application): (oneshot::Receiver<Way>, Application),
    (mut record, cut, open): (Record<E>, Cut, GoesOn),
    settings: &Settings,
) {
    let Settings { handshake_timeout: patience, stream_idle_timeout: idle, body_timeout: half_over, .. } =
        *settings;
    tasks::spawn(Box::pin(async move {
        // Both are there as soon as the head is on its way, or never.
        let both = timeout(patience, async { (caller.await, application.side().await) });
        let ending = match both.await {
            Ok((Ok(caller), Some(application))) => {
                let sides = [Side::Stream(Box::new(caller)), application];
                let (ending, bytes) = Tunnel::new(sides, idle, half_over).run(&cut).await;
                record.passed(bytes);
                ending
            }
            Ok((Ok(_), None)) => Ending::UpstreamBroke,
            Ok((Err(_), _)) | Err(_) => Ending::CallerGone,
        };
        record.end_as(ending);
        drop((record, open));
    }));
}

struct Tunnel {
    /// The caller, the application.
    sides: [Side; 2],
    /// From each.
    directions: [Direction; 2],
    idle: Duration,
    /// Instead of it, once one side has ended.
    half_over: Duration,
    moved: Instant,
}

impl Tunnel {
    fn new(sides: [Side; 2], idle: Duration, half_over: Duration) -> Self {
        Self { sides, directions: Default::default(), idle, half_over, moved: Instant::now() }
    }

    /// Runs to the end: how it came, and the bytes from each side.
    async fn run(mut self, cut: &Cut) -> (Ending, [u64; 2]) {
        let ending = loop {
            let late = self.moved + self.patience();
            tokio::select! {
                biased;
                () = poll_fn(|context| cut.poll(Half::Response, context)) => break Ending::Cut,
                ended = poll_fn(|context| self.poll(context)) => match ended {
                    Some(ending) => break ending,
                    // There is less time from now on.
                    None => continue,
                },
                () = sleep_until(late) => {}
            }
            // It may have moved since.
            if self.moved + self.patience() <= Instant::now() {
                break Ending::IdleTimedOut;
            }
        };
        let bytes = [self.directions[0].bytes, self.directions[1].bytes];
        self.sides.iter().for_each(|side| side.close(ending == Ending::Complete));
        (ending, bytes)
    }

    /// How long nothing may move.
    fn patience(&self) -> Duration {
        if self.is_half_over() { self.idle.min(self.half_over) } else { self.idle }
    }

    fn is_half_over(&self) -> bool {
        self.directions.iter().any(|direction| direction.state != State::Open)
    }

    /// Moves on; ready with how it ended, or with nothing when one side has.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Ending>> {
        let was_half_over = self.is_half_over();
        match self.pump(context) {
            Poll::Pending if self.is_half_over() && !was_half_over => Poll::Ready(None),
            polled => polled.map(Some),
        }
    }

    fn pump(&mut self, context: &mut Context<'_>) -> Poll<Ending> {
        let Self { sides: [caller, application], directions: [up, down], moved, .. } = self;
        let before = up.bytes + down.bytes;
        let states = (up.state, down.state);
        let polled = [up.poll(caller, application, context), down.poll(application, caller, context)];
        if up.bytes + down.bytes != before || (up.state, down.state) != states {
            *moved = Instant::now();
        }
        match polled {
            [Poll::Ready(Err(At::Source)), _] | [_, Poll::Ready(Err(At::Destination))] => {
                Poll::Ready(Ending::CallerGone)
            }
            [_, Poll::Ready(Err(_))] | [Poll::Ready(Err(_)), _] => Poll::Ready(Ending::UpstreamBroke),
            [Poll::Ready(Ok(())), Poll::Ready(Ok(()))] => Poll::Ready(Ending::Complete),
            _ => Poll::Pending,
        }
    }
}

/// Which end of a direction failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Source,
    Destination,
}

impl Direction {
    /// Moves on as far as both ends go; ready when the destination knows of the end.
    fn poll(&mut self, from: &mut Side, to: &mut Side, context: &mut Context<'_>) -> Poll<Result<(), At>> {
        for _ in 0..ROUNDS {
            ready!(self.write(to, context)).map_err(|_| At::Destination)?;
            match self.state {
                State::Over => return Poll::Ready(Ok(())),
                State::Ended => {
                    ready!(to.poll_finish(context)).map_err(|_| At::Destination)?;
                    self.state = State::Over;
                }
                State::Open => {
                    let mut room = [0; ROOM];
                    let mut room = ReadBuf::new(&mut room);
                    ready!(from.poll_read(context, &mut room)).map_err(|_| At::Source)?;
                    if room.filled().is_empty() {
                        self.state = State::Ended;
                    }
                    self.bytes += room.filled().len() as u64;
                    self.take(room.filled(), to, context).map_err(|_| At::Destination)?;
                }
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what was read; what does not go is held: nothing is kept for a side that takes all.
    fn take(&mut self, bytes: &[u8], to: &mut Side, context: &mut Context<'_>) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match to.poll_write(context, rest)? {
                Poll::Ready(written) => rest = &rest[written..],
                Poll::Pending => {
                    self.held = rest.to_vec();
                    break;
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, to: &mut Side, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.held.len() {
            self.written += ready!(to.poll_write(context, &self.held[self.written..]))?;
        }
        (self.held, self.written) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }
}

impl Application {
    /// `None`: it has gone.
    async fn side(self) -> Option<Side> {
        match self {
            Self::Stream(way) => Some(Side::Stream(way)),
            Self::Connection(upgrade) => upgrade.await.ok().and_then(Side::of),
        }
    }
}

impl Side {
    fn of(upgraded: Upgraded) -> Option<Self> {
        let parts = upgraded.downcast::<TokioIo<Strict<TcpStream>>>().ok()?;
        let (stream, unread) = parts.io.into_inner().into_parts();
        // From here on only its end says whether what came is whole.
        connect::reset_on_close(&stream);
        Some(Self::Connection(stream, [&parts.read_buf[..], &unread].concat().into()))
    }

    /// Says how it ends when it is dropped: in good order, which what it has not taken yet comes before, or by a reset.
    fn close(&self, in_order: bool) {
        match self {
            Self::Connection(stream, _) if in_order => connect::end_on_close(stream),
            Self::Connection(stream, _) => connect::reset_on_close(stream),
            Self::Stream(_) => {}
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Stream(stream) => Pin::new(&mut **stream).poll_read(context, room),
            Self::Connection(stream, before) if before.is_empty() => {
                Pin::new(stream).poll_read(context, room)
            }
            Self::Connection(_, before) => {
                let first = before.split_to(before.len().min(room.remaining()));
                room.put_slice(&first);
                Poll::Ready(Ok(()))
            }
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match self {
            Self::Stream(stream) => Pin::new(&mut **stream).poll_write(context, bytes),
            Self::Connection(stream, _) => Pin::new(stream).poll_write(context, bytes),
        };
        match written {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => written,
        }
    }

    /// Says that nothing more comes.
    fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            // Ready once h2 has taken the end, and everything before it.
            Self::Stream(stream) => Pin::new(&mut **stream).poll_shutdown(context),
            Self::Connection(stream, _) => {
                connect::end_on_close(&*stream);
                Pin::new(stream).poll_shutdown(context)
            }
        }
    }
}
