//! Connections of which nothing can be decided yet: kept as they were accepted, and shown to the conductor again.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use mesh_common::model::Direction;

use super::conductor::{Accepted, Conductor, Outbound};
use super::core::NEVER;
use super::engine::Engine;
use super::slots::Key;
use super::timers::{Tick, Timed};
use crate::transport::connect;
use crate::transport::outcome::CloseReason;

/// A connection of an application that is held. Its bytes stay in the socket.
pub(super) struct HeldConnection<C: Conductor> {
    socket: OwnedFd,
    pod: C::Pod,
    peer: SocketAddr,
    local: SocketAddr,
    accepted: Tick,
    /// From then on it is not held any longer.
    over: Tick,
    held: C::Held,
}

impl<C: Conductor> Engine<C> {
    /// Holds a connection that was just accepted.
    pub(super) fn hold(
        &mut self,
        pod: C::Pod,
        socket: OwnedFd,
        (peer, local): (SocketAddr, SocketAddr),
        held: C::Held,
    ) {
        let accepted = self.core.now;
        let over = accepted.after(self.core.settings.hold_timeout);
        self.keep(HeldConnection { socket, pod, peer, local, accepted, over, held });
    }

    /// Looks again at all that are held, and at those that came in and whose first bytes are waited for. For when the
    /// tables have changed.
    pub fn look_at_held(&mut self) {
        for key in self.held.keys() {
            self.look(key, false);
        }
        for key in self.detecting.keys() {
            self.detecting_again(key);
        }
        self.flush();
    }

    /// The time for which it may be held is over.
    pub(super) fn held_deadline(&mut self, key: Key) {
        self.look(key, true);
    }

    /// Resets all that are held.
    pub(super) fn let_go_of_held(&mut self) {
        for key in self.held.keys() {
            let Some(HeldConnection { socket, pod, peer, local, .. }) = self.held.remove(key) else {
                continue;
            };
            let accepted = Accepted { socket: socket.as_fd(), peer, local };
            self.conductor.not_begun(&pod, Direction::Outbound, &accepted, CloseReason::Draining);
            connect::reset_on_close(&socket);
        }
    }

    fn keep(&mut self, held: HeldConnection<C>) {
        let over = held.over;
        let key = self.held.insert(held);
        self.core.arm(&mut NEVER.clone(), over, Timed::Held(key));
    }

    fn look(&mut self, key: Key, is_over: bool) {
        let Some(connection) = self.held.remove(key) else { return };
        let HeldConnection { socket, pod, peer, local, accepted, over, held } = connection;
        match self.conductor.begin_outbound(&pod, held, is_over) {
            Ok(Outbound::Begin(record, course)) => {
                let near = self.near(socket, accepted);
                self.begin(pod, record, near, course);
            }
            Ok(Outbound::Hold(held)) => {
                self.keep(HeldConnection { socket, pod, peer, local, accepted, over, held });
            }
            Err(refusal) => self.turn_away(&socket, refusal),
        }
    }
}
