//! A connection: what the engine keeps from accept, or from OPEN, to the end.
//!
//! # Kinds
//! | kind | file | near side | far side |
//! |---|---|---|---|
//! | [`Kind::Pump`] | `pump.rs` | a socket of an application | a stream of a tunnel |
//! | [`Kind::Joined`] | `joined.rs` | a socket of an application | another socket |
//! | [`Kind::Look`] | `look.rs` | a socket or a stream | none so far |
//! | [`Kind::Http`] | `transport::http1` | a socket or a stream | for each request a stream or an application |

use mesh_common::tunnel::{ResetReason, StreamId};

use super::conductor::Conductor;
use super::core::{Core, Job, NEVER};
use super::engine::Engine;
use super::joined::Joined;
use super::look::Look;
use super::pump::Pump;
use super::reactor::Ready;
use super::slots::Key;
use super::timers::{Tick, Timed};
use crate::transport::http1::Http;
use crate::transport::outcome::{CloseReason, Outcome};

/// Names a connection of one core for as long as it lives: in dumps and to close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

pub(in crate::transport) struct Connection<C: Conductor> {
    pub(in crate::transport) pod: C::Pod,
    pub(in crate::transport) record: C::Record,
    pub(in crate::transport) kind: Kind<C::Exchange>,
    pub(in crate::transport) started: Tick,
    /// When something last moved.
    pub(in crate::transport) active: Tick,
    pub(super) scheduled: Tick,
    pub(in crate::transport) to_server: u64,
    pub(in crate::transport) to_client: u64,
    /// It waits in the queue.
    pub(super) queued: bool,
    /// It was tried at another endpoint.
    pub(super) retried: bool,
}

pub(in crate::transport) enum Kind<X> {
    Pump(Pump),
    Joined(Box<Joined>),
    Http(Box<Http<X>>),
    Look(Box<Look>),
}

/// Something happened to a stream of a connection.
#[derive(Debug)]
pub(in crate::transport) enum StreamEvent {
    /// There is credit again.
    Writable,
    /// The other direction is complete.
    Finished,
    /// It is over, and no longer known to its session.
    Lost(CloseReason),
}

/// A stream by its tunnel: the numbers of each begin anew, and one connection may have streams of several.
pub(in crate::transport) type StreamKey = (Key, StreamId);

/// Which socket of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum Side {
    Client,
    Server,
}

impl<C: Conductor> Connection<C> {
    pub(in crate::transport) fn new(
        pod: C::Pod,
        record: C::Record,
        kind: Kind<C::Exchange>,
        now: Tick,
    ) -> Self {
        Self {
            pod,
            record,
            kind,
            started: now,
            active: now,
            scheduled: NEVER,
            to_server: 0,
            to_client: 0,
            queued: false,
            retried: false,
        }
    }

    /// Bytes of the application that connected, and of the other one, as far as they were passed on.
    pub(super) fn moved(&self) -> (u64, u64) {
        match &self.kind {
            Kind::Joined(joined) => joined.moved(),
            Kind::Pump(_) | Kind::Http(_) | Kind::Look(_) => (self.to_server, self.to_client),
        }
    }

    /// Puts it into the queue, once.
    pub(in crate::transport) fn queue(&mut self, own: Key, core: &mut Core) {
        if !self.queued {
            self.queued = true;
            core.ready.push_back(Job::Connection(own));
        }
    }

    fn deadline(&self, core: &Core) -> (Tick, CloseReason) {
        let connecting = match &self.kind {
            Kind::Pump(pump) => pump.connecting(),
            Kind::Joined(joined) => joined.connecting(),
            Kind::Look(_) => {
                return (self.started.after(core.settings.detect_timeout), CloseReason::IdleTimedOut);
            }
            Kind::Http(http) => {
                return (http.deadline(self.active, &core.settings), CloseReason::IdleTimedOut);
            }
        };
        match connecting {
            Some(timed_out) => (self.active.after(core.settings.connect_timeout), timed_out),
            None => (self.active.after(core.settings.idle_timeout), CloseReason::IdleTimedOut),
        }
    }
}

impl<C: Conductor> Engine<C> {
    /// A socket of a connection became ready.
    pub(super) fn connection_ready(&mut self, key: Key, side: Side, ready: Ready) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        match &mut connection.kind {
            Kind::Pump(pump) => {
                pump.note(ready);
                if pump.is_bulk() {
                    connection.queue(key, &mut self.core);
                } else {
                    self.pump_turn(key);
                }
            }
            Kind::Joined(joined) => {
                joined.note(side, ready);
                if joined.bulk {
                    connection.queue(key, &mut self.core);
                } else {
                    self.joined_turn(key);
                }
            }
            Kind::Http(http) => {
                http.note(ready);
                self.http_turn(key);
            }
            Kind::Look(look) => {
                look.note(ready);
                self.look_turn(key);
            }
        }
    }

    /// Its turn in the queue has come.
    pub(super) fn connection_turn(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.queued = false;
        match &connection.kind {
            Kind::Pump(_) => self.pump_turn(key),
            Kind::Joined(_) => self.joined_turn(key),
            Kind::Http(_) => self.http_turn(key),
            Kind::Look(_) => self.look_turn(key),
        }
    }

    /// The tunnel that one of its streams waited for takes more. It gets its turn in the queue: whoever flushes a tunnel
    /// produces nothing more for it.
    pub(super) fn room_again(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        match &mut connection.kind {
            Kind::Pump(pump) => pump.room_again(),
            Kind::Joined(_) | Kind::Look(_) => return,
            Kind::Http(http) => http.room_again(),
        }
        connection.queue(key, &mut self.core);
    }

    /// Something happened to one of its streams.
    pub(super) fn stream_event(&mut self, key: Key, stream: StreamKey, event: StreamEvent) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        match &connection.kind {
            Kind::Pump(_) => self.pump_event(key, event),
            Kind::Joined(_) => debug_assert!(false, "stream {stream:?} belongs to joined sockets"),
            Kind::Http(_) => self.http_event(key, stream, event),
            Kind::Look(_) => self.look_event(key, event),
        }
    }

    /// The time entered for it has come: ends it if that is its deadline, looks again later if not.
    pub(super) fn connection_deadline(&mut self, key: Key) {
        let now = self.core.now;
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.scheduled = NEVER;
        let (deadline, reason) = connection.deadline(&self.core);
        if now >= deadline {
            return match connection.kind {
                Kind::Http(_) => self.http_deadline(key),
                Kind::Look(_) => self.look_over(key),
                Kind::Pump(_) | Kind::Joined(_) => self.fail(key, reason),
            };
        }
        self.core.arm(&mut connection.scheduled, deadline, Timed::Connection(key));
    }

    /// Enters a new connection and its first deadline.
    pub(in crate::transport) fn enter(&mut self, connection: Connection<C>) -> Key {
        let key = self.connections.insert(connection);
        self.core.counters.connections.add(1);
        self.rearm(key);
        key
    }

    /// After a change of phase, whose deadline may be earlier.
    pub(in crate::transport) fn rearm(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let (deadline, _) = connection.deadline(&self.core);
        self.core.arm(&mut connection.scheduled, deadline, Timed::Connection(key));
    }

    /// Ends a connection, or gives it another endpoint if it failed before anything reached an application.
    pub(in crate::transport) fn fail(&mut self, key: Key, reason: CloseReason) {
        if !self.retry(key, reason) {
            self.end(key, reason);
        }
    }

    /// Ends a connection: its sockets, its stream, its record.
    pub(in crate::transport) fn end(&mut self, key: Key, reason: CloseReason) {
        let Some(connection) = self.connections.remove(key) else { return };
        let (to_server, to_client) = connection.moved();
        let Connection { mut record, kind, started, .. } = connection;
        match kind {
            Kind::Pump(pump) => {
                if let Some((tunnel, stream)) = pump.stream() {
                    self.give_stream_up(tunnel, stream, reason.as_reset());
                }
                pump.socket.end(reason);
            }
            Kind::Joined(joined) => joined.sockets().for_each(|socket| socket.end(reason)),
            Kind::Http(http) => self.http_end(*http, &mut record, reason),
            Kind::Look(look) => {
                if let Some((tunnel, stream)) = look.stream() {
                    self.give_stream_up(tunnel, stream, reason.as_reset());
                }
                look.end(reason);
            }
        }
        self.core.counters.connections.subtract(1);
        let duration = started.until(self.core.now);
        self.conductor.closed(record, &Outcome { to_server, to_client, duration, reason });
    }

    /// Resets a stream whose connection is over; nothing happens if it is complete.
    fn give_stream_up(&mut self, tunnel: Key, stream: StreamId, reason: ResetReason) {
        if let Some(link) = self.tunnels.get_mut(tunnel) {
            link.reset(tunnel, &mut self.core, stream, reason);
        }
        self.stream_ended(tunnel);
    }
}
