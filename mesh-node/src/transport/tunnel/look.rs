//! A connection of which nothing can be decided before its client's first bytes are seen.
//!
//! In: a socket of an application, whose bytes are peeked and stay in it, or a stream, whose bytes wait here and for
//! which no credit is given back, so that they are bounded by its window. Out: the course that the conductor gives once
//! the bytes tell, or the deadline for them has passed. No application was dialled before, and nothing has passed.

use mesh_common::model::Found;
use mesh_common::model::client_hello::MAX_HELLO;
use mesh_common::tunnel::StreamId;

use super::begin::Near;
use super::conductor::{Conductor, Course, Refusal};
use super::connection::{Connection, Kind, StreamEvent};
use super::core::Job;
use super::engine::Engine;
use super::pump::Pump;
use super::reactor::Ready;
use super::slots::Key;
use crate::transport::connect;
use crate::transport::http1::Http;
use crate::transport::outcome::{CloseReason, Outcome};
use crate::transport::plain::Plain;

pub(in crate::transport) struct Look {
    client: Client,
    /// The client says no more.
    ended: bool,
    /// Bytes that were looked at, over and over.
    work: usize,
}

/// Bytes that are looked at in all: a client that sends a ClientHello byte by byte is given up.
const MAX_WORK: usize = 1 << 20;

enum Client {
    Socket(Plain),
    Stream {
        tunnel: Key,
        stream: StreamId,
        /// What came.
        said: Vec<u8>,
    },
}

impl Look {
    pub(super) fn at_socket(socket: Plain) -> Self {
        Self { client: Client::Socket(socket), ended: false, work: 0 }
    }

    pub(super) fn at_stream(tunnel: Key, stream: StreamId) -> Self {
        Self { client: Client::Stream { tunnel, stream, said: Vec::new() }, ended: false, work: 0 }
    }

    pub(super) fn note(&mut self, ready: Ready) {
        self.ended |= ready.hung_up;
    }

    pub(super) fn socket(&self) -> Option<&Plain> {
        match &self.client {
            Client::Socket(socket) => Some(socket),
            Client::Stream { .. } => None,
        }
    }

    pub(super) fn stream(&self) -> Option<(Key, StreamId)> {
        match &self.client {
            Client::Socket(_) => None,
            Client::Stream { tunnel, stream, .. } => Some((*tunnel, *stream)),
        }
    }

    pub(super) fn end(self, reason: CloseReason) {
        if let Client::Socket(socket) = self.client {
            socket.end(reason);
        }
    }
}

impl<C: Conductor> Engine<C> {
    /// Looks at what has arrived.
    pub(super) fn look_turn(&mut self, key: Key) {
        let Some(Connection { kind: Kind::Look(look), .. }) = self.connections.get_mut(key) else { return };
        let said = match &look.client {
            Client::Stream { said, .. } => Ok(&said[..]),
            Client::Socket(socket) => super::accept::peek(socket, &mut self.core.input[..MAX_HELLO])
                .map(|length| &self.core.input[..length]),
        };
        let Ok(said) = said else { return self.end(key, CloseReason::ClientReset) };
        look.work += said.len();
        match Found::in_bytes(said) {
            Some(found) => self.looked(key, Some(&found)),
            None if look.ended || look.work > MAX_WORK => self.look_over(key),
            None => {}
        }
    }

    /// More of a stream has come.
    pub(super) fn look_deliver(&mut self, key: Key, pieces: &[&[u8]]) {
        let Some(Connection { kind: Kind::Look(look), .. }) = self.connections.get_mut(key) else { return };
        let Client::Stream { said, .. } = &mut look.client else { return };
        pieces.iter().for_each(|piece| said.extend_from_slice(piece));
        self.look_turn(key);
    }

    /// Something happened to its stream.
    pub(super) fn look_event(&mut self, key: Key, event: StreamEvent) {
        let Some(Connection { kind: Kind::Look(look), .. }) = self.connections.get_mut(key) else { return };
        match event {
            StreamEvent::Writable => {}
            StreamEvent::Finished => {
                look.ended = true;
                self.look_turn(key);
            }
            StreamEvent::Lost(reason) => self.end(key, reason),
        }
    }

    /// No more will come that could tell, or not in time.
    pub(super) fn look_over(&mut self, key: Key) {
        self.looked(key, None);
    }

    fn looked(&mut self, key: Key, found: Option<&Found>) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        match self.conductor.looked(&connection.pod, &mut connection.record, found) {
            Ok(course) => self.look_goes_on(key, course),
            Err(refusal) => self.look_refused(key, refusal),
        }
    }

    /// The conductor has reported it.
    fn look_refused(&mut self, key: Key, Refusal(reason): Refusal) {
        let Some(Connection { kind: Kind::Look(look), .. }) = self.connections.remove(key) else { return };
        self.core.counters.connections.subtract(1);
        self.core.counters.refused_by_conductor.add(1);
        match look.client {
            Client::Socket(socket) => {
                self.core.reactor.remove(&socket);
                socket.reset();
            }
            Client::Stream { tunnel, stream, .. } => {
                if let Some(link) = self.tunnels.get_mut(tunnel) {
                    link.reset(tunnel, &mut self.core, stream, reason);
                }
                self.stream_ended(tunnel);
            }
        }
    }

    fn look_goes_on(&mut self, key: Key, course: Course) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Kind::Look(look) = &mut connection.kind else { return };
        let ended = look.ended;
        let Client::Stream { tunnel, stream, said } = &mut look.client else {
            return self.look_at_socket_goes_on(key, course);
        };
        let (tunnel, stream, said) = (*tunnel, *stream, std::mem::take(said));
        // Under the same key: frames of this very turn are on their way to it.
        match course {
            Course::Http(http) => {
                let http = Http::of_stream(tunnel, stream, http, self.core.now);
                connection.kind = Kind::Http(Box::new(http));
                connection.active = self.core.now;
                self.rearm(key);
                if !said.is_empty() {
                    self.http_deliver(key, (tunnel, stream), &[&said]);
                }
                if ended {
                    self.http_event(key, (tunnel, stream), StreamEvent::Finished);
                }
            }
            Course::Direct { dial, .. } => match self.conductor.dial(&connection.record, &dial) {
                Ok(socket) => {
                    let wanted = self.conductor.watches(&connection.record);
                    let pump = Pump::of_server(Plain::new(socket), tunnel, stream).watched(wanted);
                    connection.kind = Kind::Pump(pump);
                    connection.active = self.core.now;
                    self.rearm(key);
                    if self.register(key) {
                        if !said.is_empty() {
                            self.pump_deliver(key, &[&said]);
                        }
                        if ended {
                            self.pump_event(key, StreamEvent::Finished);
                        }
                    }
                }
                Err(error) => self.end(key, CloseReason::Connect(connect::failure_of(&error))),
            },
            Course::Tunnel { .. } | Course::Look => {
                debug_assert!(false, "a stream that was looked at ends at an application");
                self.end(key, CloseReason::Internal);
            }
        }
    }

    /// A socket begins as if it had just been accepted: its bytes are still in it.
    fn look_at_socket_goes_on(&mut self, key: Key, course: Course) {
        let Some(connection) = self.connections.remove(key) else { return };
        self.core.counters.connections.subtract(1);
        let Connection { pod, record, kind: Kind::Look(look), started, .. } = connection else { return };
        let Client::Socket(socket) = look.client else { return };
        if matches!(course, Course::Look) {
            debug_assert!(false, "it was looked at");
            let duration = started.until(self.core.now);
            let reason = CloseReason::Internal;
            socket.end(reason);
            return self.conductor.closed(record, &Outcome { to_server: 0, to_client: 0, duration, reason });
        }
        self.core.reactor.remove(&socket);
        let near = Near { socket, said: Vec::new(), started, retried: false };
        self.begin(pod, record, near, course);
    }

    /// Begins to look at a stream that was just opened.
    pub(super) fn begin_look(&mut self, tunnel: Key, stream: StreamId, pod: C::Pod, record: C::Record) {
        let look = Kind::Look(Box::new(Look::at_stream(tunnel, stream)));
        let connection = self.enter(Connection::new(pod, record, look, self.core.now));
        if let Some(link) = self.tunnels.get_mut(tunnel) {
            link.session.accept(stream, connection);
        }
    }

    /// Begins to look at a socket that was just accepted.
    pub(super) fn begin_look_at_socket(&mut self, pod: C::Pod, record: C::Record, near: Near) {
        let Near { socket, started, .. } = near;
        let look = Kind::Look(Box::new(Look::at_socket(socket)));
        let connection = self.enter(Connection::new(pod, record, look, started));
        if self.register(connection) {
            self.core.ready.push_back(Job::Connection(connection));
        }
    }
}
