//! How connections begin: from an accepted socket or an OPEN, along the course that the conductor gave.

use std::os::fd::OwnedFd;

use mesh_common::tunnel::{Open, ResetReason, StreamId};

use super::conductor::{Conductor, Course, TunnelKey};
use super::connection::{Connection, Kind};
use super::engine::Engine;
use super::joined::Joined;
use super::pump::Pump;
use super::reactor::Token;
use super::slots::Key;
use super::timers::Tick;
use crate::transport::connect;
use crate::transport::http1::{Http, HttpCourse};
use crate::transport::outcome::{CloseReason, ConnectFailure, Outcome, TunnelLoss};
use crate::transport::plain::Plain;

/// The connecting application's side of a connection that is about to begin, or to begin again.
pub(in crate::transport) struct Near {
    pub(in crate::transport) socket: Plain,
    /// What it has said already.
    pub(in crate::transport) said: Vec<u8>,
    pub(in crate::transport) started: Tick,
    pub(in crate::transport) retried: bool,
}

impl<C: Conductor> Engine<C> {
    /// Sets a connection on its course.
    pub(in crate::transport) fn begin(&mut self, pod: C::Pod, record: C::Record, near: Near, course: Course) {
        match course {
            Course::Tunnel { key, open, .. } => self.begin_tunnel(pod, record, near, key, open),
            Course::Direct { dial, .. } => match self.conductor.dial(&record, &dial) {
                Ok(server) => self.begin_joined(pod, record, near, server),
                Err(error) => {
                    let reason = CloseReason::Connect(connect::failure_of(&error));
                    self.begin_elsewhere(pod, record, near, reason);
                }
            },
            Course::Http(http) => self.begin_http(pod, record, near, http),
            Course::Look => self.begin_look_at_socket(pod, record, near),
        }
    }

    fn begin_tunnel(&mut self, pod: C::Pod, record: C::Record, near: Near, key: TunnelKey, open: Open) {
        let tunnel = match self.tunnel_for(&pod, &key, &record) {
            Ok(tunnel) => tunnel,
            Err(TunnelLoss::Connect(ConnectFailure::Local)) => {
                return self.never_began(record, near, CloseReason::Overloaded);
            }
            Err(loss) => return self.begin_elsewhere(pod, record, near, CloseReason::TunnelLost(loss)),
        };
        let Near { socket, started, retried, said, .. } = near;
        let pump = {
            // What was said before a second try was looked at then.
            let wanted = said.is_empty() && self.conductor.watches(&record);
            Pump::of_client(socket, tunnel, said).watched(wanted)
        };
        let connection = Connection::new(pod, record, Kind::Pump(pump), started);
        let connection = self.enter(Connection { retried, active: self.core.now, ..connection });
        if self.register(connection) {
            self.join_tunnel(tunnel, connection, open);
        }
    }

    fn begin_joined(&mut self, pod: C::Pod, record: C::Record, near: Near, server: OwnedFd) {
        let Near { socket, started, retried, said, .. } = near;
        let wanted = said.is_empty() && self.conductor.watches(&record);
        let joined = Box::new(Joined::new(socket, Plain::new(server), said, wanted));
        let connection = Connection::new(pod, record, Kind::Joined(joined), started);
        let connection = self.enter(Connection { retried, active: self.core.now, ..connection });
        self.register(connection);
    }

    fn begin_http(&mut self, pod: C::Pod, record: C::Record, near: Near, course: HttpCourse) {
        let Near { socket, started, said, .. } = near;
        debug_assert!(said.is_empty(), "nothing is read before a connection begins for the first time");
        let http = Box::new(Http::of_socket(socket, course, self.core.now));
        let connection = Connection::new(pod, record, Kind::Http(http), started);
        let connection = self.enter(Connection { active: self.core.now, ..connection });
        self.register(connection);
    }

    fn begin_http_stream(
        &mut self,
        tunnel: Key,
        stream: StreamId,
        (pod, record): (C::Pod, C::Record),
        course: HttpCourse,
    ) {
        let http = Box::new(Http::of_stream(tunnel, stream, course, self.core.now));
        let connection = self.enter(Connection::new(pod, record, Kind::Http(http), self.core.now));
        if let Some(link) = self.tunnels.get_mut(tunnel) {
            link.session.accept(stream, connection);
        }
    }

    /// Begins a stream of a tunnel at its destination.
    pub(super) fn begin_stream(
        &mut self,
        tunnel: Key,
        stream: StreamId,
        pod: C::Pod,
        record: C::Record,
        course: Course,
    ) -> Result<(), ResetReason> {
        let dial = match course {
            Course::Direct { dial, .. } => dial,
            Course::Http(http) => {
                self.begin_http_stream(tunnel, stream, (pod, record), http);
                return Ok(());
            }
            Course::Look => {
                self.begin_look(tunnel, stream, pod, record);
                return Ok(());
            }
            Course::Tunnel { .. } => {
                debug_assert!(false, "a stream ends at an application");
                self.refuse(record, CloseReason::Internal);
                return Err(ResetReason::Internal);
            }
        };
        let socket = match self.conductor.dial(&record, &dial) {
            Ok(socket) => socket,
            Err(error) => {
                let reason = CloseReason::Connect(connect::failure_of(&error));
                self.refuse(record, reason);
                return Err(reason.as_reset());
            }
        };
        let wanted = self.conductor.watches(&record);
        let pump = Pump::of_server(Plain::new(socket), tunnel, stream).watched(wanted);
        let connection = self.enter(Connection::new(pod, record, Kind::Pump(pump), self.core.now));
        if let Some(link) = self.tunnels.get_mut(tunnel) {
            link.session.accept(stream, connection);
        }
        self.register(connection);
        Ok(())
    }

    /// Another endpoint for a connection that failed before anything reached an application. Asked once.
    pub(super) fn retry(&mut self, key: Key, reason: CloseReason) -> bool {
        if !reason.spares_the_application() {
            return false;
        }
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let untouched = match &connection.kind {
            Kind::Pump(pump) => pump.is_untouched(),
            Kind::Joined(joined) => joined.connecting().is_some(),
            // Tries elsewhere request by request.
            Kind::Http(_) => false,
            // Nothing was tried so far.
            Kind::Look(_) => false,
        };
        if connection.retried || !untouched {
            return false;
        }
        let Some(course) = self.conductor.next_endpoint(&mut connection.record, reason) else { return false };
        let Some(Connection { pod, record, kind, started, .. }) = self.connections.remove(key) else {
            return false;
        };
        self.core.counters.connections.subtract(1);
        self.core.counters.retries.add(1);
        let (socket, said) = match kind {
            Kind::Pump(pump) => pump.into_untouched().expect("it was asked above"),
            Kind::Joined(joined) => joined.into_client(),
            Kind::Http(_) | Kind::Look(_) => return false,
        };
        // Registered anew under its new key: the edges so far were for the old one.
        self.core.reactor.remove(&socket);
        self.begin(pod, record, Near { socket, said, started, retried: true }, course);
        true
    }

    /// A course that failed at once: the other endpoint, or the end.
    fn begin_elsewhere(&mut self, pod: C::Pod, mut record: C::Record, near: Near, reason: CloseReason) {
        if !near.retried
            && reason.spares_the_application()
            && let Some(course) = self.conductor.next_endpoint(&mut record, reason)
        {
            self.core.counters.retries.add(1);
            return self.begin(pod, record, Near { retried: true, ..near }, course);
        }
        self.never_began(record, near, reason);
    }

    fn never_began(&mut self, record: C::Record, near: Near, reason: CloseReason) {
        near.socket.reset();
        self.refuse(record, reason);
    }

    /// Tells the conductor that a connection ended before it was one.
    fn refuse(&mut self, record: C::Record, reason: CloseReason) {
        let outcome = Outcome { to_server: 0, to_client: 0, duration: std::time::Duration::ZERO, reason };
        self.conductor.closed(record, &outcome);
    }

    /// Puts the sockets of a connection into epoll. Ends it if the kernel has no room.
    pub(super) fn register(&mut self, key: Key) -> bool {
        let Some(connection) = self.connections.get(key) else { return false };
        let reactor = &self.core.reactor;
        let result = match &connection.kind {
            Kind::Pump(pump) => reactor.add_socket(&pump.socket, Token::Client(key)),
            Kind::Joined(joined) => reactor
                .add_socket(joined.client(), Token::Client(key))
                .and_then(|()| reactor.add_socket(joined.server(), Token::Server(key))),
            Kind::Http(http) => match http.socket() {
                Some(socket) => reactor.add_socket(socket, Token::Client(key)),
                None => Ok(()),
            },
            Kind::Look(look) => match look.socket() {
                Some(socket) => reactor.add_socket(socket, Token::Client(key)),
                None => Ok(()),
            },
        };
        if result.is_err() {
            self.end(key, CloseReason::Overloaded);
        }
        result.is_ok()
    }
}
