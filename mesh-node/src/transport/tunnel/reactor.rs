//! Readiness: the one epoll of a core.
//!
//! In: descriptors with a [`Token`] each. Out: which of them may be read or written. Sockets are registered once,
//! edge-triggered, for both directions; listeners are level-triggered and shared between cores by EPOLLEXCLUSIVE.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use super::slots::Key;

/// What a descriptor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum Token {
    Listener(Key),
    Detecting(Key),
    Tunnel(Key),
    /// The socket of a connection; of two, the client's.
    Client(Key),
    /// The server's socket of a connection that has two.
    Server(Key),
    /// A connection to an application that serves exchanges.
    Application(Key),
    /// Messages from other threads.
    Mailbox,
}

/// What a descriptor is ready for.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport) struct Ready {
    pub(in crate::transport) readable: bool,
    pub(in crate::transport) writable: bool,
    /// The peer finished or failed: reading goes on until the socket says which.
    pub(in crate::transport) hung_up: bool,
}

#[derive(Debug)]
pub(in crate::transport) struct Reactor {
    epoll: OwnedFd,
}

/// Events taken per turn: the rest is taken by the next one.
const BATCH: usize = 256;

impl Reactor {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    pub(in crate::transport) fn add_socket(&self, socket: impl AsFd, token: Token) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(token.to_bits()), flags)?)
    }

    pub(super) fn add_listener(&self, socket: impl AsFd, token: Token) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::EXCLUSIVE;
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(token.to_bits()), flags)?)
    }

    pub(super) fn add_mailbox(&self, mailbox: impl AsFd) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::ET;
        Ok(epoll::add(&self.epoll, mailbox, EventData::new_u64(Token::Mailbox.to_bits()), flags)?)
    }

    /// Takes a descriptor out that goes on living elsewhere. Closing one needs no call.
    pub(in crate::transport) fn remove(&self, descriptor: impl AsFd) {
        // Not registered is as good as removed.
        let _ = epoll::delete(&self.epoll, descriptor);
    }

    /// Fills `ready`; returns whether there may be more than fitted.
    pub(super) fn poll(&self, ready: &mut Vec<(Token, Ready)>, wait: Option<Timespec>) -> io::Result<bool> {
        let mut events = [MaybeUninit::<Event>::uninit(); BATCH];
        let events = match epoll::wait(&self.epoll, &mut events, wait.as_ref()) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let full = events.len() == BATCH;
        ready.extend(events.iter().filter_map(|event| {
            let (flags, bits) = (event.flags, event.data.u64());
            let hung_up = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
            let readable = hung_up || flags.contains(EventFlags::IN);
            let writable = flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
            Some((Token::from_bits(bits)?, Ready { readable, writable, hung_up }))
        }));
        Ok(full)
    }
}

impl Token {
    fn to_bits(self) -> u64 {
        let (kind, key) = match self {
            Self::Listener(key) => (1, key.to_bits()),
            Self::Detecting(key) => (2, key.to_bits()),
            Self::Tunnel(key) => (3, key.to_bits()),
            Self::Client(key) => (4, key.to_bits()),
            Self::Server(key) => (5, key.to_bits()),
            Self::Mailbox => (6, 0),
            Self::Application(key) => (7, key.to_bits()),
        };
        kind << 60 | key
    }

    fn from_bits(bits: u64) -> Option<Self> {
        let key = Key::from_bits(bits);
        Some(match bits >> 60 {
            1 => Self::Listener(key),
            2 => Self::Detecting(key),
            3 => Self::Tunnel(key),
            4 => Self::Client(key),
            5 => Self::Server(key),
            6 => Self::Mailbox,
            7 => Self::Application(key),
            _ => return None,
        })
    }
}
