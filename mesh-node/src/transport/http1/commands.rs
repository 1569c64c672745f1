//! Carries out what the relay asks for: upstreams found and let go, exchanges reported, clients closed.

use std::io;
use std::os::fd::OwnedFd;

use mesh_common::http1::LocalAnswer;
use mesh_common::http1::relay::{Close, Command, Commands, Release, Summary, Waiting};
use mesh_common::tunnel::{Open, ResetReason, StreamId, StreamToken};

use super::applications::Room;
use super::connection::{Client, Expected, Http, Plan, Planned, StreamEnd, Upstream};
use super::socket::Socket;
use super::{ExchangeOutcome, PoolScope, Unwaited, failure};
use crate::transport::connect;
use crate::transport::outcome::CloseReason;
use crate::transport::plain::Plain;
use crate::transport::tunnel::{Conductor, Connection, Course, Engine, Key, Kind, Timed, Token, TunnelKey};

/// What a client is told whose exchange is no longer permitted.
const DENIED: LocalAnswer<'static> =
    LocalAnswer { status: 403, text: "RBAC: access denied", reason: "no_longer_permitted", decision: None };

impl<C: Conductor> Engine<C> {
    /// Carries out commands in their order.
    pub(super) fn http_obey(&mut self, key: Key, commands: Commands<Plan<C::Exchange>>) {
        for command in commands {
            match command {
                Command::Acquire { fresh } => self.http_acquire(key, fresh),
                Command::Reroute(_) => self.http_reroute(key),
                Command::Release(how) => self.http_release(key, how),
                Command::Ask => self.http_ask(key),
                Command::Finished(planned, summary) => self.http_finished(key, *planned, summary),
                Command::Unanswered => self.http_unanswered(key),
                Command::Refused(refusal, asked) => {
                    // It is reported as what it is refused for.
                    self.http_not_asked(key, Unwaited::Refused);
                    let Some(Connection { record, kind, .. }) = self.connections.get_mut(key) else {
                        continue;
                    };
                    let decision = self.conductor.request_refused(record, refusal, asked);
                    if let Kind::Http(http) = kind {
                        http.relay.answer_refused(decision);
                    }
                }
                Command::FinishUpstream => self.http_note(key, |http| http.finish_upstream = true),
                Command::FinishClient => self.http_note(key, |http| http.finish_client = true),
                Command::CloseClient(close) => {
                    self.http_not_asked(key, Unwaited::ClientGone);
                    self.http_note(key, |http| http.closing = Some(close));
                }
            }
        }
    }

    fn http_note(&mut self, key: Key, note: impl FnOnce(&mut Http<C::Exchange>)) {
        if let Some(Connection { kind: Kind::Http(http), .. }) = self.connections.get_mut(key) {
            note(http);
        }
    }

    /// Finds an upstream for the exchange under way.
    fn http_acquire(&mut self, key: Key, fresh: bool) {
        let Some(Connection { record, kind, .. }) = self.connections.get_mut(key) else { return };
        let Kind::Http(http) = kind else { return };
        let Some(planned) = http.relay.plan() else { return };
        http.failure = None;
        http.finish_upstream = false;
        http.connects_since = None;
        http.since = self.core.now;
        match &planned.course.course {
            Course::Direct { dial, .. } => {
                let share = planned.course.share.clone();
                let pooled = share.as_ref().filter(|_| !fresh);
                if let Some(pooled) = pooled.and_then(|scope| self.applications.take(scope, key)) {
                    http.upstream = Upstream::Application(pooled);
                    return http.relay.acquired(true);
                }
                let dialled = self.conductor.dial(record, dial);
                self.http_connect(key, dialled, share);
            }
            Course::Tunnel { key: tunnel, open, .. } => {
                let (tunnel, open) = (tunnel.clone(), *open);
                self.http_join(key, &tunnel, open);
            }
            Course::Http(_) | Course::Look => {
                debug_assert!(false, "a request goes to a stream or to an application");
                self.http_upstream_lost(key, CloseReason::Internal);
            }
        }
    }

    /// Gives the exchange a connection to the application that is under way.
    fn http_connect(&mut self, key: Key, dialled: io::Result<OwnedFd>, share: Option<PoolScope>) {
        let registered = dialled.and_then(|socket| {
            let socket = Socket::connecting(Plain::framed(socket));
            let application = self.applications.insert(socket, key, share);
            let socket = self.applications.get_mut(application).map(|made| &made.socket.descriptor);
            let socket = socket.expect("it was inserted above");
            self.core.reactor.add_socket(socket, Token::Application(application))?;
            Ok(application)
        });
        match registered {
            Ok(application) => {
                let now = self.core.now;
                self.http_note(key, |http| {
                    http.upstream = Upstream::Application(application);
                    http.connects_since = Some(now);
                    http.relay.acquired(false);
                });
                self.rearm(key);
            }
            Err(error) => self.http_upstream_lost(key, CloseReason::Connect(connect::failure_of(&error))),
        }
    }

    /// Asks for a stream of a tunnel for the exchange.
    fn http_join(&mut self, key: Key, tunnel: &TunnelKey, open: Open) {
        match self.tunnel_for_connection(key, tunnel) {
            Ok(tunnel) => {
                let expected = Expected { token: open.token, tunnel };
                self.http_note(key, |http| http.upstream = Upstream::Expected(expected));
                self.join_tunnel(tunnel, key, open);
                self.rearm(key);
            }
            Err(loss) => self.http_upstream_lost(key, CloseReason::TunnelLost(loss)),
        }
    }

    /// Its tunnel has a stream for it. Returns whether it still wants one.
    pub(in crate::transport) fn http_joined(
        &mut self,
        key: Key,
        tunnel: Key,
        stream: StreamId,
        token: StreamToken,
    ) -> bool {
        let Some(Connection { kind: Kind::Http(http), .. }) = self.connections.get_mut(key) else {
            return false;
        };
        match &http.upstream {
            Upstream::Expected(expected) if expected.token == token => {}
            _ => return false,
        }
        http.upstream = Upstream::Stream(StreamEnd::new(tunnel, stream));
        http.relay.acquired(false);
        true
    }

    /// The tunnel that was to carry its stream did not come up, or takes no more.
    pub(in crate::transport) fn http_not_joined(&mut self, key: Key, tunnel: Key, reason: CloseReason) {
        let Some(Connection { kind: Kind::Http(http), .. }) = self.connections.get(key) else { return };
        if matches!(&http.upstream, Upstream::Expected(expected) if expected.tunnel == tunnel) {
            self.http_upstream_lost(key, reason);
            self.http_turn(key);
        }
    }

    /// The upstream of the exchange under way is gone, or could not be had.
    pub(super) fn http_upstream_lost(&mut self, key: Key, reason: CloseReason) {
        let Some(Connection { kind: Kind::Http(http), .. }) = self.connections.get_mut(key) else { return };
        if let Upstream::Application(application) = std::mem::replace(&mut http.upstream, Upstream::None) {
            self.applications.remove(application);
        }
        http.failure = Some(reason);
        let commands = http.relay.upstream_failed(failure::of(reason));
        self.http_obey(key, commands);
    }

    /// Nobody looked at the request: another endpoint, or the end of the exchange. The source's daemon is told by a
    /// reset, so that it can try another node.
    fn http_reroute(&mut self, key: Key) {
        let Some(Connection { pod, record, kind, .. }) = self.connections.get_mut(key) else { return };
        let Kind::Http(http) = kind else { return };
        let Some(reason) = http.failure else { return };
        let Some(planned) = http.relay.plan_mut() else { return };
        let commands =
            match self.conductor.next_endpoint_of_request(pod, record, &mut planned.exchange, reason) {
                Some(course) => {
                    planned.course = course;
                    self.core.counters.retries.add(1);
                    http.relay.retry()
                }
                None if matches!(http.client, Client::Stream(_)) && http.relay.is_one_exchange() => {
                    http.client_lost = Some(reason);
                    http.relay.client_gone()
                }
                None => http.relay.answer(failure::answer(reason)),
            };
        self.http_obey(key, commands);
    }

    fn http_release(&mut self, key: Key, how: Release) {
        let Some(Connection { kind: Kind::Http(http), .. }) = self.connections.get_mut(key) else { return };
        http.finish_upstream = false;
        let upstream = std::mem::replace(&mut http.upstream, Upstream::None);
        self.let_go(upstream, how);
    }

    fn let_go(&mut self, upstream: Upstream, how: Release) {
        match (upstream, how) {
            (Upstream::None | Upstream::Expected(_), _) => {}
            (Upstream::Stream(mut end), Release::Abort) => {
                end.reset(ResetReason::Cancelled, &mut self.tunnels, &mut self.core);
                self.stream_ended(end.tunnel);
            }
            (Upstream::Stream(mut end), Release::Reuse | Release::Close) => {
                end.give_credit(&mut self.tunnels, &mut self.core);
                end.finish(&mut self.tunnels, &mut self.core);
                self.stream_released(end.tunnel, end.stream);
            }
            (Upstream::Application(application), Release::Reuse) => {
                let settings = &self.core.settings.http;
                let room = Room { per_scope: settings.pooled_per_scope, in_all: settings.pooled };
                self.applications.put_back(application, room, self.core.now);
                let look = self.core.now.after(settings.pool_idle_timeout);
                self.core.arm(&mut self.applications.scheduled, look, Timed::Applications);
            }
            (Upstream::Application(application), Release::Close) => {
                if let Some(socket) = self.applications.remove(application) {
                    socket.descriptor.let_go();
                }
            }
            (Upstream::Application(application), Release::Abort) => {
                if let Some(socket) = self.applications.remove(application) {
                    socket.descriptor.reset();
                }
            }
        }
    }

    /// Closes pooled connections to applications that nobody needed for a while.
    pub(in crate::transport) fn expire_applications(&mut self) {
        let wait = self.core.settings.http.pool_idle_timeout;
        let next = self.applications.expire(self.core.now, wait);
        if let Some(next) = next {
            self.core.arm(&mut self.applications.scheduled, next, Timed::Applications);
        }
    }

    fn http_finished(&mut self, key: Key, planned: Planned<C::Exchange>, summary: Summary) {
        let Some(Connection { record, kind, .. }) = self.connections.get_mut(key) else { return };
        let Kind::Http(http) = kind else { return };
        let Summary { status, bytes, ending } = summary;
        let duration = planned.started.until(self.core.now);
        // Kept until the next one begins: should the client be cut off with it, it hears why.
        let outcome = ExchangeOutcome { status, bytes, duration, ending, failure: http.failure };
        let decision = self.conductor.exchange_ended(record, planned.exchange, &outcome);
        http.relay.answer_refused(decision);
    }

    /// Everything for the client was sent: does what was to be done then.
    pub(super) fn http_close(&mut self, key: Key) {
        let Some(Connection { kind: Kind::Http(http), .. }) = self.connections.get_mut(key) else { return };
        let ended = match &mut http.client {
            Client::Socket(_) => http.client_ended,
            Client::Stream(end) => end.got_fin,
        };
        match http.closing.take() {
            None if http.lingers && ended => self.end(key, CloseReason::Completed),
            None => {}
            Some(Close::Abort) => {
                let reason = http.client_lost.or(http.failure).unwrap_or(CloseReason::ServerReset);
                self.end(key, reason);
            }
            Some(Close::Done) if !http.client_may_send() => self.end(key, CloseReason::Completed),
            Some(Close::Done | Close::Finish | Close::Linger) => {
                match &mut http.client {
                    Client::Stream(end) => end.finish(&mut self.tunnels, &mut self.core),
                    Client::Socket(socket) if !ended => socket.finish(),
                    Client::Socket(_) => {}
                }
                http.lingers = true;
                if ended {
                    return self.end(key, CloseReason::Completed);
                }
                self.rearm(key);
            }
        }
    }

    /// The deadline of what it waits for has passed.
    pub(in crate::transport) fn http_deadline(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Kind::Http(http) = &mut connection.kind else { return };
        if http.is_not_taken(self.core.now) {
            return self.end(key, CloseReason::NotTaken);
        }
        if http.closing.is_some() || http.lingers || http.relay.waiting() == Waiting::Nothing {
            return self.end(key, CloseReason::Completed);
        }
        if http.connects_since.take().is_some() && !self.http_is_connecting(key) {
            // It was there in time: what else is waited for has a deadline of its own.
            return self.rearm(key);
        }
        let Some(Connection { active, kind: Kind::Http(http), .. }) = self.connections.get_mut(key) else {
            return;
        };
        *active = self.core.now;
        // Too late also for a preface: what still comes is read and dropped.
        http.is_new = false;
        if let Upstream::Expected(Expected { .. }) = http.upstream {
            self.http_upstream_lost(key, failure::TUNNEL_LATE);
        } else if self.http_is_connecting(key) {
            self.http_upstream_lost(key, failure::APPLICATION_LATE);
        } else {
            let http = self.http_mut(key);
            let commands = http.map(|http| {
                http.failure = Some(CloseReason::IdleTimedOut);
                http.relay.timed_out()
            });
            self.http_obey(key, commands.unwrap_or_default());
        }
        self.http_turn(key);
        self.rearm(key);
    }

    /// The exchange under way is no longer permitted; its client is told if it was not answered yet. `goes_on` says
    /// whether the connection still is.
    pub(in crate::transport) fn http_cut(&mut self, key: Key, goes_on: bool) {
        if !goes_on {
            self.http_drain(key);
        }
        let Some(Connection { kind: Kind::Http(http), .. }) = self.connections.get_mut(key) else { return };
        http.told_to_go |= !goes_on;
        http.failure = Some(CloseReason::NoLongerPermitted);
        let decision = http.exchange_mut().and_then(|exchange| self.conductor.decision_of(exchange));
        let commands = http.relay.cut(LocalAnswer { decision, ..DENIED });
        self.http_obey(key, commands);
        self.http_turn(key);
    }

    /// Takes no request after the present one.
    pub(in crate::transport) fn http_drain(&mut self, key: Key) {
        let Some(http) = self.http_mut(key) else { return };
        let commands = http.relay.drain();
        self.http_obey(key, commands);
        self.http_turn(key);
    }

    /// The connection is being ended from outside: its exchange is reported, its ends are let go.
    pub(in crate::transport) fn http_end(
        &mut self,
        mut http: Http<C::Exchange>,
        record: &mut C::Record,
        reason: CloseReason,
    ) {
        http.failure.get_or_insert(reason);
        if let Some(question) = http.question.take() {
            self.conductor.not_asked(question, Unwaited::ClientGone);
        }
        for command in http.relay.client_gone() {
            match command {
                Command::Release(how) => {
                    self.let_go(std::mem::replace(&mut http.upstream, Upstream::None), how);
                }
                Command::Finished(planned, Summary { status, bytes, ending }) => {
                    let duration = planned.started.until(self.core.now);
                    let outcome = ExchangeOutcome { status, bytes, duration, ending, failure: http.failure };
                    self.conductor.exchange_ended(record, planned.exchange, &outcome);
                }
                _ => {}
            }
        }
        match http.client {
            Client::Socket(socket) => socket.descriptor.end(reason),
            Client::Stream(mut end) => {
                let complete = end.sent_fin && end.got_fin;
                end.give_credit(&mut self.tunnels, &mut self.core);
                if !complete {
                    end.reset(reason.as_reset(), &mut self.tunnels, &mut self.core);
                }
                self.stream_ended(end.tunnel);
            }
        }
    }

    pub(super) fn http_is_connecting(&mut self, key: Key) -> bool {
        let Some(Connection { kind: Kind::Http(http), .. }) = self.connections.get(key) else { return false };
        let Upstream::Application(application) = http.upstream else { return false };
        self.applications.get_mut(application).is_some_and(|made| !made.socket.is_connected())
    }

    fn http_mut(&mut self, key: Key) -> Option<&mut Http<C::Exchange>> {
        match self.connections.get_mut(key) {
            Some(Connection { kind: Kind::Http(http), .. }) => Some(http),
            _ => None,
        }
    }
}
