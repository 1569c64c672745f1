//! Two sockets joined by the engine: plaintext out of the mesh, and between two pods of this agent.

use super::conductor::Conductor;
use super::connection::{Kind, Side};
use super::engine::Engine;
use super::reactor::Ready;
use super::settings::{BUDGET, BULK};
use super::slots::Key;
use super::watch::Watch;
use crate::transport::connect;
use crate::transport::outcome::{CloseReason, ConnectFailure};
use crate::transport::plain::Plain;
use crate::transport::splice::{Broken, Splice, Step};

pub(in crate::transport) struct Joined {
    splice: Splice,
    connected: bool,
    /// It moves more than it should at one go: it waits its turn.
    pub(super) bulk: bool,
}

impl Joined {
    /// The client's socket, the server's whose connect is under way, what the client has said already, and whether it is
    /// wanted to know what they speak.
    pub(super) fn new(client: Plain, server: Plain, first: Vec<u8>, wanted: bool) -> Self {
        let mut splice = Splice::new(client, server);
        splice.up.writable = false;
        splice.down.readable = false;
        splice.up.put_first(first);
        splice.watch = Watch::begin(wanted);
        Self { splice, connected: false, bulk: false }
    }

    /// What it is when the deadline of the connect comes; `None` if it is connected.
    pub(super) fn connecting(&self) -> Option<CloseReason> {
        (!self.connected).then_some(CloseReason::Connect(ConnectFailure::TimedOut))
    }

    pub(super) fn note(&mut self, side: Side, ready: Ready) {
        let (from, to) = match side {
            Side::Client => (&mut self.splice.up, &mut self.splice.down),
            Side::Server => (&mut self.splice.down, &mut self.splice.up),
        };
        from.readable |= ready.readable;
        from.hung_up |= ready.hung_up;
        to.writable |= ready.writable;
    }

    pub(super) fn moved(&self) -> (u64, u64) {
        (self.splice.up.moved, self.splice.down.moved)
    }

    pub(super) fn sockets(self) -> impl Iterator<Item = Plain> {
        [self.splice.client, self.splice.server].into_iter()
    }

    /// Gives the client's socket back and what it has said, for another endpoint: the connect failed.
    pub(super) fn into_client(self) -> (Plain, Vec<u8>) {
        let Splice { client, up, .. } = self.splice;
        (client, up.into_waiting())
    }

    pub(super) fn watch(&mut self) -> &mut Watch {
        &mut self.splice.watch
    }

    pub(super) fn client(&self) -> &Plain {
        &self.splice.client
    }

    pub(super) fn server(&self) -> &Plain {
        &self.splice.server
    }

    fn step(&mut self, scratch: &mut [u8]) -> Result<Step, CloseReason> {
        let up = self.splice.step_up(scratch, BUDGET).map_err(|broken| match broken {
            Broken::Source => CloseReason::ClientReset,
            Broken::Sink => CloseReason::ServerReset,
        })?;
        let down = self.splice.step_down(scratch, BUDGET).map_err(|broken| match broken {
            Broken::Source => CloseReason::ServerReset,
            Broken::Sink => CloseReason::ClientReset,
        })?;
        Ok(if up == Step::More || down == Step::More { Step::More } else { Step::Idle })
    }
}

impl<C: Conductor> Engine<C> {
    pub(super) fn joined_turn(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Kind::Joined(joined) = &mut connection.kind else { return };
        if !joined.connected {
            if !joined.splice.up.writable {
                return;
            }
            if let Err(failure) = connect::finished(&joined.splice.server) {
                return self.fail(key, CloseReason::Connect(failure));
            }
            joined.connected = true;
        }
        let before = joined.splice.up.moved + joined.splice.down.moved;
        let step = joined.step(&mut self.core.input[..BUDGET]);
        let moved = (joined.splice.up.moved + joined.splice.down.moved - before) as usize;
        joined.bulk = moved > BULK;
        self.core.moved += moved;
        if moved > 0 {
            connection.active = self.core.now;
        }
        let is_over = joined.splice.is_over();
        if joined.splice.watch.has_found() {
            self.tell_found(key);
        }
        let Some(connection) = self.connections.get_mut(key) else { return };
        match step {
            Err(reason) => self.end(key, reason),
            Ok(_) if is_over => self.end(key, CloseReason::Completed),
            Ok(Step::More) => connection.queue(key, &mut self.core),
            Ok(Step::Idle) => {}
        }
    }
}
