//! Moves bytes between the client, the relay and the upstream, as far as each of them goes.

use mesh_common::http1::relay::{Commands, Waiting};

use super::connection::{Bench, Client, Http, Plan, Upstream};
use super::settings::ROUNDS;
use super::socket::{Received, Unsent};
use crate::transport::outcome::CloseReason;
use crate::transport::tunnel::{
    BUDGET, Conductor, Connection, Engine, Key, Kind, Ready, StreamEvent, StreamKey,
};

/// The commands of one step; `None` if nothing moved.
type Step<C> = Option<Commands<Plan<<C as Conductor>::Exchange>>>;

impl<C: Conductor> Engine<C> {
    /// Does what the client, the upstream and their room allow: one budget, then others have their turn.
    pub(in crate::transport) fn http_turn(&mut self, key: Key) {
        let before = self.core.moved;
        for _ in 0..ROUNDS {
            let mut moved = self.http_owed(key);
            moved |= self.http_from_client(key);
            moved |= self.http_to_upstream(key);
            moved |= self.http_from_upstream(key);
            moved |= self.http_to_client(key);
            if !moved {
                return self.http_settled(key);
            }
            if self.core.moved - before >= BUDGET {
                break;
            }
        }
        self.http_settled(key);
        if let Some(connection) = self.connections.get_mut(key) {
            connection.queue(key, &mut self.core);
        }
    }

    /// Bytes of one of its streams have arrived.
    pub(in crate::transport) fn http_deliver(&mut self, key: Key, stream: StreamKey, pieces: &[&[u8]]) {
        let _ = self.http_step(key, |http, _| {
            http.stream_end(stream)?;
            let from_client = http.is_client(stream);
            let out = if from_client { http.relay.to_upstream() } else { http.relay.to_client() };
            out.expect(pieces.iter().map(|piece| piece.len()).sum());
            None
        });
        let settings = self.core.settings.http;
        for piece in pieces {
            let commands = self.http_step(key, |http, bench| {
                let (from_client, now) = (http.is_client(stream), bench.now);
                http.stream_end(stream)?.unconsumed += piece.len();
                let commands = http.ask(bench, |relay, court| match from_client {
                    true => relay.client_bytes(piece, court),
                    false => relay.upstream_bytes(piece, court),
                });
                http.note_body(now, &settings);
                Some(commands)
            });
            match commands {
                Some(commands) => self.http_obey(key, commands),
                // Of an exchange that is over, or of a connection that is: nobody takes it.
                None => break,
            }
        }
        self.http_turn(key);
    }

    /// Something happened to one of its streams.
    pub(in crate::transport) fn http_event(&mut self, key: Key, stream: StreamKey, event: StreamEvent) {
        match event {
            StreamEvent::Writable => {}
            StreamEvent::Finished => {
                let commands = self.http_step(key, |http, bench| {
                    http.stream_end(stream)?.got_fin = true;
                    Some(match http.is_client(stream) {
                        true => http.relay.client_ended(),
                        false => http.ask(bench, |relay, court| relay.upstream_ended(court)),
                    })
                });
                self.http_obey(key, commands.unwrap_or_default());
            }
            StreamEvent::Lost(reason) => self.http_stream_lost(key, stream, reason),
        }
        self.http_turn(key);
    }

    fn http_stream_lost(&mut self, key: Key, stream: StreamKey, reason: CloseReason) {
        let mut of_upstream = false;
        let commands = self.http_step(key, |http, _| {
            http.stream_end(stream)?;
            if http.is_client(stream) {
                http.client_lost = Some(reason);
                return Some(http.relay.client_gone());
            }
            of_upstream = true;
            None
        });
        if of_upstream {
            return self.http_upstream_lost(key, reason);
        }
        self.http_obey(key, commands.unwrap_or_default());
    }

    /// A connection to an application became ready.
    pub(in crate::transport) fn application_ready(&mut self, key: Key, ready: Ready) {
        let Some(application) = self.applications.get_mut(key) else { return };
        application.socket.note(ready);
        match application.user {
            Some(user) => self.http_turn(user),
            // Nothing was asked of it: it is being closed, or out of step.
            None if ready.readable => drop(self.applications.remove(key)),
            None => {}
        }
    }

    /// Has the relay of a connection do something.
    pub(super) fn http_step(
        &mut self,
        key: Key,
        act: impl FnOnce(&mut Http<C::Exchange>, Bench<'_, C>) -> Step<C>,
    ) -> Step<C> {
        let Connection { pod, record, kind, active, .. } = self.connections.get_mut(key)?;
        let Kind::Http(http) = kind else { return None };
        let (limits, now) = (self.core.settings.http.limits, self.core.now);
        let commands = act(http, Bench { conductor: &mut self.conductor, pod, record, limits, now });
        if commands.is_some() {
            *active = now;
        }
        commands
    }

    /// Requests behind one that failed have their turn.
    fn http_owed(&mut self, key: Key) -> bool {
        let commands = self.http_step(key, |http, bench| {
            http.relay.is_owed().then(|| http.ask(bench, |relay, court| relay.client_bytes(&[], court)))
        });
        let Some(commands) = commands else { return false };
        self.http_obey(key, commands);
        true
    }

    fn http_from_client(&mut self, key: Key) -> bool {
        if !self.http_may_read(key) {
            return false;
        }
        let settings = self.core.settings.http;
        let mut input = self.core.lend_spoken();
        let mut moved = 0;
        let commands = self.http_step(key, |http, bench| {
            let wanted = http.relay.wants_client();
            let Client::Socket(socket) = &mut http.client else { return None };
            let received = match wanted {
                true => socket.receive(&mut input),
                false => socket.look_for_failure(),
            };
            match received {
                Received::Nothing => None,
                Received::Bytes(length) => {
                    moved = length;
                    let now = bench.now;
                    let commands =
                        http.ask(bench, |relay, court| relay.client_bytes(&input[..length], court));
                    http.note_body(now, &settings);
                    Some(commands)
                }
                Received::Ended => {
                    http.client_ended = true;
                    Some(http.relay.client_ended())
                }
                Received::Broken => {
                    http.client_lost = Some(CloseReason::ClientReset);
                    Some(http.relay.client_gone())
                }
            }
        });
        self.core.spoken = input;
        self.core.moved += moved;
        let Some(commands) = commands else { return false };
        self.http_obey(key, commands);
        true
    }

    fn http_to_upstream(&mut self, key: Key) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let Kind::Http(http) = &mut connection.kind else { return false };
        let Http { upstream, relay, finish_upstream, .. } = &mut **http;
        let opaque = relay.waiting() == Waiting::Opaque;
        let out = relay.to_upstream();
        let sent = match upstream {
            Upstream::None | Upstream::Expected(_) => return false,
            Upstream::Stream(end) => Ok(end.send(key, out.pending(), &mut self.tunnels, &mut self.core)),
            Upstream::Application(application) => match self.applications.get_mut(*application) {
                Some(application) => application.socket.send(out.pending()),
                None => Ok(0),
            },
        };
        let sent = match sent {
            Ok(sent) => sent,
            Err(Unsent::Connect(failure)) => {
                self.http_upstream_lost(key, CloseReason::Connect(failure));
                return true;
            }
            // Reading says what there is of an answer, and that it ended.
            Err(Unsent::Broken) => out.len(),
        };
        out.sent(sent);
        if out.is_empty() && std::mem::take(finish_upstream) {
            match upstream {
                Upstream::Stream(end) => end.finish(&mut self.tunnels, &mut self.core),
                Upstream::Application(application) if opaque => {
                    if let Some(application) = self.applications.get_mut(*application) {
                        application.socket.finish();
                    }
                }
                Upstream::Application(_) | Upstream::None | Upstream::Expected(_) => {}
            }
        }
        connection.to_server += sent as u64;
        sent > 0
    }

    /// Reads from an application; what streams bring is delivered.
    fn http_from_upstream(&mut self, key: Key) -> bool {
        let Some(connection) = self.connections.get(key) else { return false };
        let Kind::Http(http) = &connection.kind else { return false };
        let Upstream::Application(application) = http.upstream else { return false };
        if !http.relay.wants_upstream() {
            return false;
        }
        let Some(application) = self.applications.get_mut(application) else { return false };
        let was_connected = application.socket.is_connected();
        if let Err(failure) = application.socket.finish_connect() {
            self.http_upstream_lost(key, CloseReason::Connect(failure));
            return true;
        }
        let connects = !was_connected && application.socket.is_connected();
        let mut input = self.core.lend_spoken();
        let received = application.socket.receive(&mut input);
        let commands = self.http_step(key, |http, bench| match received {
            Received::Nothing => None,
            Received::Bytes(length) => {
                Some(http.ask(bench, |relay, court| relay.upstream_bytes(&input[..length], court)))
            }
            Received::Ended => Some(http.ask(bench, |relay, court| relay.upstream_ended(court))),
            Received::Broken => Some(http.relay.upstream_broke()),
        });
        self.core.spoken = input;
        if let Received::Bytes(length) = received {
            self.core.moved += length;
        }
        let Some(commands) = commands else { return connects };
        self.http_obey(key, commands);
        true
    }

    fn http_to_client(&mut self, key: Key) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let Kind::Http(http) = &mut connection.kind else { return false };
        let Http { client, relay, finish_client, .. } = &mut **http;
        let out = relay.to_client();
        let sent = match client {
            Client::Socket(socket) => socket.send(out.pending()),
            Client::Stream(end) => Ok(end.send(key, out.pending(), &mut self.tunnels, &mut self.core)),
        };
        let Ok(sent) = sent else {
            http.client_lost = Some(CloseReason::ClientReset);
            let commands = http.relay.client_gone();
            self.http_obey(key, commands);
            self.http_close(key);
            return true;
        };
        out.sent(sent);
        let empty = out.is_empty();
        if empty && std::mem::take(finish_client) {
            match client {
                Client::Socket(socket) => socket.finish(),
                Client::Stream(end) => end.finish(&mut self.tunnels, &mut self.core),
            }
        }
        connection.to_client += sent as u64;
        if sent > 0 {
            connection.active = self.core.now;
        }
        http.note_taken(connection.to_client, !empty, self.core.now, &self.core.settings.http);
        if empty {
            self.http_close(key);
        }
        sent > 0
    }

    /// After a turn: gives credit back for what was taken, and sees to the deadline.
    fn http_settled(&mut self, key: Key) {
        let now = self.core.now;
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Kind::Http(http) = &mut connection.kind else { return };
        if let Client::Stream(end) = &mut http.client
            && http.relay.wants_client()
        {
            end.give_credit(&mut self.tunnels, &mut self.core);
        }
        if let Upstream::Stream(end) = &mut http.upstream
            && http.relay.wants_upstream()
        {
            end.give_credit(&mut self.tunnels, &mut self.core);
        }
        let was_opaque = http.is_opaque();
        let is_due = http.note_waiting(now) || http.untaken().is_some();
        if http.is_opaque()
            && !was_opaque
            && let Upstream::Application(application) = http.upstream
            && let Some(application) = self.applications.get_mut(application)
        {
            application.socket.descriptor.guard();
        }
        if is_due {
            self.rearm(key);
        }
    }
}
