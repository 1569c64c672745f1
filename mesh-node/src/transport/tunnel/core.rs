//! What every part of an engine works with: readiness, time, queues, counters and the buffers lent per turn.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use mesh_common::tunnel::Outbox;

use super::counters::Counters;
use super::reactor::{Reactor, Ready, Token};
use super::settings::{BUDGET, Settings};
use super::slots::Key;
use super::timers::{Tick, Timed, Timers};
use super::tls::Plaintext;
use crate::transport::handshakes::Handshakes;

/// Work that waits for its turn: what had more to do than its budget allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum Job {
    Listener(Key),
    Tunnel(Key),
    Connection(Key),
}

/// A record's longest form on the wire, twice: what one read of a tunnel can leave over, and then some.
const RECORD_ROOM: usize = 2 * (16 * 1024 + 256);

pub(in crate::transport) struct Core {
    pub(in crate::transport) reactor: Reactor,
    pub(in crate::transport) timers: Timers,
    pub(in crate::transport) settings: Settings,
    pub(in crate::transport) counters: Arc<Counters>,
    pub(super) handshakes: Handshakes,
    started: Instant,
    /// How far the clock of a test is ahead.
    #[cfg(test)]
    pub(in crate::transport) ahead: std::time::Duration,
    pub(in crate::transport) now: Tick,
    pub(super) ready: VecDeque<Job>,
    /// Tunnels with something to seal or to write at the end of the turn.
    pub(super) dirty: Vec<Key>,
    pub(super) events: Vec<(Token, Ready)>,
    /// Ciphertext as it comes, and whatever else is read and passed on at once.
    pub(super) input: Vec<u8>,
    /// What sockets of exchanges say: read also while `input` is lent to a tunnel whose records are delivered.
    pub(in crate::transport) spoken: Vec<u8>,
    pub(super) plaintext: Plaintext,
    pub(super) sealed: Vec<u8>,
    outboxes: Vec<Outbox>,
    /// Bytes moved by queued work in this turn.
    pub(in crate::transport) moved: usize,
}

impl Core {
    pub(super) fn new(settings: Settings, handshakes: Handshakes) -> io::Result<Self> {
        Ok(Self {
            reactor: Reactor::new()?,
            timers: Timers::default(),
            settings,
            counters: handshakes.counters(),
            handshakes,
            started: Instant::now(),
            #[cfg(test)]
            ahead: std::time::Duration::ZERO,
            now: Tick::default(),
            ready: VecDeque::new(),
            dirty: Vec::new(),
            events: Vec::new(),
            input: vec![0; BUDGET + RECORD_ROOM],
            spoken: Vec::new(),
            plaintext: Plaintext::default(),
            sealed: Vec::new(),
            outboxes: Vec::new(),
            moved: 0,
        })
    }

    /// Lends room for one read of a socket of an exchange; to be given back as [`spoken`](Self::spoken).
    pub(in crate::transport) fn lend_spoken(&mut self) -> Vec<u8> {
        let mut room = std::mem::take(&mut self.spoken);
        // Once per core, with its first exchange.
        room.resize(BUDGET, 0);
        room
    }

    /// Reads the clock, once per turn.
    pub(super) fn look_at_the_clock(&mut self) {
        self.now = self.tick_of(Instant::now());
        #[cfg(test)]
        {
            self.now = self.now.after(self.ahead);
        }
    }

    pub(super) fn tick_of(&self, instant: Instant) -> Tick {
        Tick::default().after(instant.saturating_duration_since(self.started))
    }

    pub(super) fn instant_of(&self, tick: Tick) -> Instant {
        self.started + Tick::default().until(tick)
    }

    /// Enters a deadline unless an earlier look is already due to come.
    pub(in crate::transport) fn arm(&mut self, scheduled: &mut Tick, at: Tick, timed: Timed) {
        if at < *scheduled {
            *scheduled = at;
            self.timers.at(at, timed);
        }
    }

    pub(super) fn lend_outbox(&mut self) -> Outbox {
        self.outboxes.pop().unwrap_or_default()
    }

    pub(super) fn take_back(&mut self, mut outbox: Outbox) {
        outbox.clear();
        // A turn rarely has output for more tunnels than this; what is beyond it goes back to the allocator.
        if self.outboxes.len() < 16 {
            self.outboxes.push(outbox);
        }
    }
}

/// No look is planned.
pub(in crate::transport) const NEVER: Tick = Tick(u64::MAX);
