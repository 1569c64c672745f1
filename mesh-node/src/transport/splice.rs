//! Two sockets joined: what one application writes the other reads, as it is.
//!
//! In: two connected sockets and what epoll says of them. Out: bytes moved, half-closes passed on. What one side
//! does not take waits here, at most one read of it. Never encrypts, decides or waits.

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::plain::Plain;
use super::tunnel::Watch;

/// The two sockets and both directions between them.
#[derive(Debug)]
pub struct Splice {
    /// The connecting application's side.
    pub client: Plain,
    /// The side that was connected to.
    pub server: Plain,
    /// From client to server.
    pub up: Pipe,
    /// From server to client.
    pub down: Pipe,
    /// Looks on while first bytes pass.
    pub(in crate::transport) watch: Watch,
}

/// One direction.
#[derive(Debug, Default)]
pub struct Pipe {
    /// Read and not yet written; empty nearly always.
    waiting: Vec<u8>,
    written: usize,
    /// The source may have bytes.
    pub readable: bool,
    /// The source has ended or failed: read until it says so.
    pub hung_up: bool,
    /// The sink may have room.
    pub writable: bool,
    ended: bool,
    shut: bool,
    /// Bytes passed on.
    pub moved: u64,
}

/// What a step of a pipe came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing more until epoll says so.
    Idle,
    /// The budget is used up and there may be more.
    More,
}

/// Which side failed, so that the other can be reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The socket that is read from.
    Source,
    /// The socket that is written to.
    Sink,
}

impl Splice {
    /// Joins two sockets, of which nothing is known yet but that they may be readable and writable.
    pub fn new(client: Plain, server: Plain) -> Self {
        let pipe = || Pipe { readable: true, writable: true, ..Pipe::default() };
        Self { client, server, up: pipe(), down: pipe(), watch: Watch::Off }
    }

    /// Whether both directions are complete.
    pub fn is_over(&self) -> bool {
        self.up.shut && self.down.shut
    }

    /// Moves what can be moved from client to server, through `scratch`, at most `budget` bytes.
    ///
    /// # Errors
    /// [`Broken`]: which socket failed.
    pub fn step_up(&mut self, scratch: &mut [u8], budget: usize) -> Result<Step, Broken> {
        let seen = |bytes: &[u8]| self.watch.client_said(std::iter::once(bytes));
        self.up.step(&self.client, &self.server, scratch, budget, seen)
    }

    /// The same from server to client.
    ///
    /// # Errors
    /// [`Broken`]: which socket failed.
    pub fn step_down(&mut self, scratch: &mut [u8], budget: usize) -> Result<Step, Broken> {
        self.down.step(&self.server, &self.client, scratch, budget, |_| self.watch.server_said())
    }
}

impl Pipe {
    /// Bytes that go before everything that is read.
    pub fn put_first(&mut self, bytes: Vec<u8>) {
        debug_assert!(self.waiting.is_empty(), "nothing was read yet");
        self.waiting = bytes;
    }

    /// What was put first or read and never written.
    pub fn into_waiting(self) -> Vec<u8> {
        debug_assert_eq!(self.written, 0, "the sink was never connected");
        self.waiting
    }

    fn step(
        &mut self,
        source: &Plain,
        sink: &Plain,
        scratch: &mut [u8],
        budget: usize,
        mut seen: impl FnMut(&[u8]),
    ) -> Result<Step, Broken> {
        self.write_waiting(sink)?;
        let mut moved = 0;
        while self.waiting.is_empty() && self.readable && !self.ended && self.writable {
            if moved >= budget {
                return Ok(Step::More);
            }
            let length = match rustix::net::recv(source, &mut *scratch, RecvFlags::empty()) {
                Ok((_, 0)) => {
                    self.ended = true;
                    break;
                }
                Ok((_, length)) => length,
                Err(Errno::AGAIN) => {
                    self.readable = false;
                    break;
                }
                Err(Errno::INTR) => continue,
                Err(_) => return Err(Broken::Source),
            };
            moved += length;
            seen(&scratch[..length]);
            // A short read means drained, which saves the read that would say so; an end shows as a hang-up.
            self.readable = length == scratch.len() || self.hung_up;
            let sent = self.write(sink, &scratch[..length])?;
            self.waiting.extend_from_slice(&scratch[sent..length]);
        }
        if self.ended && self.waiting.is_empty() && !self.shut {
            self.shut = true;
            // Half-close is passed on: some servers answer only after the end of the request.
            sink.finish().map_err(|_| Broken::Sink)?;
        }
        Ok(Step::Idle)
    }

    fn write_waiting(&mut self, sink: &Plain) -> Result<(), Broken> {
        if self.waiting.is_empty() || !self.writable {
            return Ok(());
        }
        let waiting = std::mem::take(&mut self.waiting);
        self.written += self.write(sink, &waiting[self.written..])?;
        if self.written < waiting.len() {
            self.waiting = waiting;
        } else {
            self.written = 0;
        }
        Ok(())
    }

    fn write(&mut self, sink: &Plain, bytes: &[u8]) -> Result<usize, Broken> {
        let mut sent = 0;
        while sent < bytes.len() {
            match rustix::net::send(sink, &bytes[sent..], SendFlags::NOSIGNAL) {
                Ok(length) => sent += length,
                Err(Errno::AGAIN) => {
                    self.writable = false;
                    break;
                }
                Err(Errno::INTR) => {}
                Err(_) => return Err(Broken::Sink),
            }
        }
        self.moved += sent as u64;
        Ok(sent)
    }
}
