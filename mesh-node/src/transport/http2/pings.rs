//! Whether the other side of a connection is still there: what was silent for too long is asked with a PING.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep_until};

use super::settings::Settings;

/// When something of a connection was read last.
pub(super) type Heard = Rc<Cell<Instant>>;

/// The PINGs of a connection.
pub(super) struct Pings {
    ping_pong: PingPong,
    heard: Heard,
    interval: Duration,
    timeout: Duration,
    /// For the next look, or for the answer.
    timer: Pin<Box<Sleep>>,
    is_asked: bool,
}

impl Pings {
    pub(super) fn new(ping_pong: PingPong, heard: Heard, settings: &Settings) -> Self {
        let Settings { ping_interval: interval, ping_timeout: timeout, .. } = *settings;
        let timer = Box::pin(sleep_until(heard.get() + interval));
        Self { ping_pong, heard, interval, timeout, timer, is_asked: false }
    }

    /// Ready when the other side is gone. One that is not in use is not asked.
    pub(super) fn poll_lost(&mut self, context: &mut Context<'_>, is_used: bool) -> Poll<()> {
        if self.is_asked {
            match self.ping_pong.poll_pong(context) {
                Poll::Ready(Ok(_)) => {
                    self.is_asked = false;
                    self.timer.as_mut().reset(Instant::now() + self.interval);
                }
                // The connection itself tells how it ended.
                Poll::Ready(Err(_)) => return Poll::Pending,
                Poll::Pending => return self.timer.as_mut().poll(context),
            }
        }
        loop {
            ready!(self.timer.as_mut().poll(context));
            let (now, due) = (Instant::now(), self.heard.get() + self.interval);
            if due > now || !is_used {
                self.timer.as_mut().reset(if due > now { due } else { now + self.interval });
                continue;
            }
            if self.ping_pong.send_ping(Ping::opaque()).is_err() {
                return Poll::Pending;
            }
            self.is_asked = true;
            self.timer.as_mut().reset(now + self.timeout);
            if self.ping_pong.poll_pong(context).is_pending() {
                return self.timer.as_mut().poll(context);
            }
            self.is_asked = false;
        }
    }
}
