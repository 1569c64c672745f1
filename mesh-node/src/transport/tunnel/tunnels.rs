//! The life of tunnels: made when a connection needs one, warm for the next, retired by age, lost by accident.

use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use mesh_common::tunnel::{ALPN, Open, Role, Session};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::conductor::{Conductor, LostTunnel, TunnelKey, TunnelPlan};
use super::connection::{Connection, StreamEvent};
use super::core::{Job, NEVER};
use super::engine::Engine;
use super::link::{Link, Phase};
use super::reactor::{Ready, Token};
use super::settings::{BUDGET, UNSENT};
use super::slots::Key;
use super::timers::Timed;
use super::tls::Tls;
use crate::transport::connect;
use crate::transport::handshakes::{Place, Source};
use crate::transport::outcome::{CloseReason, ConnectFailure, TunnelLoss};

impl<C: Conductor> Engine<C> {
    /// A tunnel for `key` that takes one more stream: a warm one, or a new one on its way.
    pub(super) fn tunnel_for(
        &mut self,
        pod: &C::Pod,
        key: &TunnelKey,
        record: &C::Record,
    ) -> Result<Key, TunnelLoss> {
        match self.warm_tunnel(key) {
            Some(tunnel) => Ok(tunnel),
            None => {
                let plan = self.conductor.plan_tunnel(pod, key, record)?;
                self.dial_tunnel(pod, key, plan)
            }
        }
    }

    /// The same for a connection that has begun already.
    pub(in crate::transport) fn tunnel_for_connection(
        &mut self,
        connection: Key,
        key: &TunnelKey,
    ) -> Result<Key, TunnelLoss> {
        if let Some(tunnel) = self.warm_tunnel(key) {
            return Ok(tunnel);
        }
        let Connection { pod, record, .. } = self.connections.get(connection).ok_or(TunnelLoss::Retired)?;
        let plan = self.conductor.plan_tunnel(pod, key, record)?;
        let pod = pod.clone();
        self.dial_tunnel(&pod, key, plan)
    }

    fn warm_tunnel(&self, key: &TunnelKey) -> Option<Key> {
        let room = self.core.settings.tunnel.streams;
        let of = |tunnel: &Key| {
            let link = self.tunnels.get(*tunnel)?;
            let streams = link.session.len() + link.expecting.len();
            let takes_more =
                streams < room && self.core.now < link.retire_at && !link.session.is_going_away();
            takes_more.then_some((streams, *tunnel))
        };
        let known = self.pool.get(key).map(|tunnels| tunnels.as_slice()).unwrap_or_default();
        let least = known.iter().filter_map(of).min();
        let (streams, tunnel) = least?;
        (streams == 0 || known.len() >= self.core.settings.tunnels_per_destination).then_some(tunnel)
    }

    fn dial_tunnel(&mut self, pod: &C::Pod, key: &TunnelKey, plan: TunnelPlan) -> Result<Key, TunnelLoss> {
        let place = self.core.handshakes.take(Source::Pod(key.source.clone()));
        let place = place.ok_or(TunnelLoss::Connect(ConnectFailure::Local))?;
        let socket = connect::start(&plan.dial);
        let socket = socket.map_err(|error| TunnelLoss::Connect(connect::failure_of(&error)))?;
        let tls = Tls::client(plan.tls, plan.name).map_err(|_| TunnelLoss::NoCertificate)?;
        let settings = &self.core.settings;
        let session = Session::new(Role::Client, settings.tunnel);
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let destination = plan.dial.destination;
        let mut link = Link::new(socket, tls, session, pod.clone(), destination, unknown, place);
        link.phase = Phase::Connecting;
        link.key = Some(key.clone());
        link.deadline = self.core.now.after(settings.connect_timeout);
        let expiry = plan.retire_at.map_or(NEVER, |at| self.core.tick_of(at));
        link.retire_at = expiry.min(self.core.now.after(settings.tunnel_max_age));
        let tunnel = self.enter_tunnel(link).map_err(|_| TunnelLoss::Connect(ConnectFailure::Local))?;
        self.pool.entry(key.clone()).or_default().push(tunnel);
        Ok(tunnel)
    }

    /// Accepts a tunnel from a socket whose ClientHello was peeked.
    pub(super) fn serve_tunnel(
        &mut self,
        pod: C::Pod,
        socket: OwnedFd,
        peer: SocketAddr,
        local: SocketAddr,
        place: Place,
    ) {
        let room =
            self.accepted.get(&peer.ip()).is_none_or(|open| *open < self.core.settings.tunnels_per_source);
        let config = if room { self.conductor.serve_tunnel(&pod) } else { Err(TunnelLoss::TooMany) };
        let tls = config.and_then(|config| Tls::server(config).map_err(|_| TunnelLoss::NoCertificate));
        let tls = match tls {
            Ok(tls) => tls,
            Err(loss) => {
                connect::reset_on_close(&socket);
                let (peer, never_up_at) = (Some(peer), Some(local));
                let lost = LostTunnel { peer, key: None, loss, error: None, streams: 0, never_up_at };
                return self.conductor.tunnel_lost(&pod, lost);
            }
        };
        let session = Session::new(Role::Server, self.core.settings.tunnel);
        let mut link = Link::new(socket, tls, session, pod, peer, local, place);
        link.deadline = self.core.now.after(self.core.settings.handshake_timeout);
        if let Ok(tunnel) = self.enter_tunnel(link) {
            *self.accepted.entry(peer.ip()).or_default() += 1;
            // The ClientHello has been there for a while: no edge will tell.
            self.tunnel_read(tunnel);
        }
    }

    fn enter_tunnel(&mut self, link: Link<C::Pod>) -> std::io::Result<Key> {
        let deadline = link.deadline;
        let tunnel = self.tunnels.insert(link);
        let Some(link) = self.tunnels.get_mut(tunnel) else { return Ok(tunnel) };
        let prepared = connect::limit_unsent(&link.socket, UNSENT)
            .and_then(|()| connect::watch_for_silence(&link.socket))
            .and_then(|()| self.core.reactor.add_socket(&link.socket, Token::Tunnel(tunnel)));
        if let Err(error) = prepared {
            self.tunnels.remove(tunnel);
            return Err(error);
        }
        self.core.counters.tunnels.add(1);
        self.core.arm(&mut link.scheduled, deadline, Timed::Tunnel(tunnel));
        Ok(tunnel)
    }

    /// Its socket became ready.
    pub(super) fn tunnel_ready(&mut self, tunnel: Key, ready: Ready) {
        let Some(link) = self.tunnels.get_mut(tunnel) else { return };
        link.hung_up |= ready.hung_up;
        if link.phase == Phase::Connecting {
            if !ready.writable {
                return;
            }
            if let Err(failure) = connect::finished(&link.socket) {
                return self.lose(tunnel, TunnelLoss::Connect(failure), None);
            }
            link.phase = Phase::Handshaking;
            link.local = own_address(&link.socket, link.local);
            link.deadline = self.core.now.after(self.core.settings.handshake_timeout);
            // It may be earlier than that of the connect.
            self.core.arm(&mut link.scheduled, link.deadline, Timed::Tunnel(tunnel));
            return self.tunnel_read(tunnel);
        }
        if ready.writable && link.blocked {
            link.blocked = false;
            // What waits goes before anything that the rest of this turn produces.
            self.flush_tunnel(tunnel);
        }
        if ready.readable {
            self.tunnel_read(tunnel);
        }
    }

    /// One read: at most one budget of ciphertext, and all that follows from it.
    pub(super) fn tunnel_read(&mut self, tunnel: Key) {
        let Some(link) = self.tunnels.get_mut(tunnel) else { return };
        link.queued = false;
        let kept = link.leftover.len();
        if kept + BUDGET > self.core.input.len() {
            // A handshake message over many records: longer than any certificate chain of ours.
            return self.lose(tunnel, TunnelLoss::Handshake, None);
        }
        let mut input = std::mem::take(&mut self.core.input);
        input[..kept].copy_from_slice(&link.leftover);
        link.leftover.clear();
        let result = loop {
            // A client that is just connected has nothing to read and everything to say.
            match rustix::net::recv(&link.socket, &mut input[kept..kept + BUDGET], RecvFlags::empty()) {
                Ok((_, 0)) => break Err(TunnelLoss::Closed),
                Ok((_, length)) => break Ok(length),
                Err(Errno::AGAIN) => break Ok(0),
                Err(Errno::INTR) => {}
                Err(_) => break Err(TunnelLoss::Closed),
            }
        };
        match result {
            Ok(length) => {
                if length == BUDGET || (link.hung_up && length > 0) {
                    link.queued = true;
                    self.core.ready.push_back(Job::Tunnel(tunnel));
                }
                if length > 0 {
                    link.heard = self.core.now;
                    link.asked = None;
                }
                self.core.moved += length;
                self.tunnel_received(tunnel, &mut input[..kept + length]);
            }
            // An end without close_notify is a loss unless nothing could be lost.
            Err(loss) => self.lose(tunnel, loss, None),
        }
        self.core.input = input;
    }

    fn tunnel_received(&mut self, tunnel: Key, input: &mut [u8]) {
        let Some(link) = self.tunnels.get_mut(tunnel) else { return };
        let mut plaintext = std::mem::take(&mut self.core.plaintext);
        let (tls, outgoing) = link.outgoing();
        let received = tls.receive(input, &mut plaintext, outgoing);
        if link.has_outgoing() {
            link.touch(tunnel, &mut self.core);
        }
        match received {
            Ok(progress) => {
                link.leftover.extend_from_slice(&input[progress.taken..]);
                // Who speaks is known before one byte of what is said is looked at.
                let result = if progress.ready { self.establish(tunnel) } else { Ok(()) };
                let result = result.and_then(|()| self.receive_records(tunnel, &plaintext));
                match result {
                    Err(loss) => self.lose(tunnel, loss, None),
                    Ok(()) if progress.closed => self.peer_closed(tunnel),
                    Ok(()) => {}
                }
            }
            Err(error) => {
                self.lose(tunnel, TunnelLoss::Handshake, Some(&error));
            }
        }
        plaintext.clear();
        self.core.plaintext = plaintext;
    }

    /// The handshake is complete: checks the peer and lets the streams in.
    fn establish(&mut self, tunnel: Key) -> Result<(), TunnelLoss> {
        let Some(link) = self.tunnels.get_mut(tunnel) else { return Ok(()) };
        if link.phase != Phase::Handshaking {
            return Ok(());
        }
        if link.tls.alpn() != Some(ALPN) {
            return Err(TunnelLoss::Handshake);
        }
        let certificates = link.tls.peer_certificates().unwrap_or_default();
        let identified = self.conductor.identify(certificates).map_err(|_| TunnelLoss::Handshake)?;
        if let Some(until) = identified.until {
            link.retire_at = link.retire_at.min(self.core.tick_of(until));
        }
        if link.key.as_ref().is_some_and(|key| key.identity != identified.identity) {
            return Err(TunnelLoss::Handshake);
        }
        link.identified = Some(identified);
        link.phase = Phase::Up;
        link.idle_since = self.core.now;
        link.heard = self.core.now;
        let role = if link.key.is_some() {
            &self.core.counters.tunnels_opened
        } else {
            &self.core.counters.tunnels_accepted
        };
        role.add(1);
        link.place = None;
        link.deadline = NEVER;
        let expecting = std::mem::take(&mut link.expecting);
        self.let_in(tunnel, expecting);
        if self.tunnels.get(tunnel).is_some_and(|link| link.retired) {
            self.retire(tunnel);
        }
        self.tunnel_deadline(tunnel);
        Ok(())
    }

    /// Opens the streams that waited for a tunnel.
    fn let_in(&mut self, tunnel: Key, expecting: Vec<(Key, Open)>) {
        for (key, open) in expecting {
            // Some may have ended meanwhile: their streams are not opened.
            if self.connections.get(key).is_some() {
                self.join_tunnel(tunnel, key, open);
                if let Some(connection) = self.connections.get_mut(key) {
                    connection.queue(key, &mut self.core);
                }
            }
        }
    }

    fn peer_closed(&mut self, tunnel: Key) {
        let Some(link) = self.tunnels.get_mut(tunnel) else { return };
        if link.phase == Phase::Up && link.session.is_empty() {
            return self.close_tunnel(tunnel);
        }
        self.lose(tunnel, TunnelLoss::Closed, None);
    }

    /// A connection of this tunnel is over: it may be the last one.
    pub(in crate::transport) fn stream_ended(&mut self, tunnel: Key) {
        let Some(link) = self.tunnels.get_mut(tunnel) else { return };
        if link.phase != Phase::Up || !link.session.is_empty() {
            return;
        }
        link.idle_since = self.core.now;
        if !(link.retired || link.session.is_going_away()) {
            return;
        }
        if link.key.is_some() {
            link.phase = Phase::Closing;
            link.touch(tunnel, &mut self.core);
        }
        self.await_end(tunnel);
    }

    /// What is left of a tunnel without streams has so long to end. A server's client ends it: a stream that is on its
    /// way meanwhile is refused as one that may go elsewhere, not lost.
    pub(super) fn await_end(&mut self, tunnel: Key) {
        let Some(link) = self.tunnels.get_mut(tunnel) else { return };
        if link.deadline == NEVER {
            link.deadline = self.core.now.after(self.core.settings.answer);
        }
        self.core.arm(&mut link.scheduled, link.deadline, Timed::Tunnel(tunnel));
    }

    pub(super) fn leave_pool(&mut self, tunnel: Key) {
        let Some(key) = self.tunnels.get(tunnel).and_then(|link| link.key.as_ref()) else { return };
        if let Some(tunnels) = self.pool.get_mut(key) {
            tunnels.retain(|other| *other != tunnel);
            if tunnels.is_empty() {
                self.pool.remove(key);
            }
        }
    }

    /// Seals and writes what the turn produced for a tunnel.
    pub(super) fn flush_tunnel(&mut self, tunnel: Key) {
        let Some(link) = self.tunnels.get_mut(tunnel) else { return };
        match link.flush(&mut self.core) {
            Err(loss) => self.lose(tunnel, loss, None),
            Ok(()) if link.phase == Phase::Closing && !link.has_outgoing() => self.close_tunnel(tunnel),
            Ok(()) => {
                for connection in link.take_waiting() {
                    self.room_again(connection);
                }
            }
        }
    }

    /// The orderly end of a tunnel without streams.
    pub(super) fn close_tunnel(&mut self, tunnel: Key) {
        let Some(mut link) = self.forget_tunnel(tunnel) else { return };
        link.say_goodbye(&mut self.core);
    }

    /// It is no longer among the tunnels, and its place among those of its source is free.
    fn forget_tunnel(&mut self, tunnel: Key) -> Option<Link<C::Pod>> {
        self.leave_pool(tunnel);
        let link = self.tunnels.remove(tunnel)?;
        self.core.counters.tunnels.subtract(1);
        if link.key.is_none()
            && let Entry::Occupied(mut open) = self.accepted.entry(link.peer.ip())
        {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
        Some(link)
    }

    /// The end of a tunnel by accident: its streams are told, and may begin elsewhere.
    pub(super) fn lose(&mut self, tunnel: Key, loss: TunnelLoss, error: Option<&rustls::Error>) {
        let Some(mut link) = self.forget_tunnel(tunnel) else { return };
        // An alert or a GOAWAY may be waiting to be said.
        let _ = link.flush(&mut self.core);
        // Given back first: what begins elsewhere may need it.
        link.place = None;
        let streams = link.session.after(0);
        let connected = link.phase != Phase::Connecting;
        let was_up = matches!(link.phase, Phase::Up | Phase::Closing);
        let count = streams.len() + link.expecting.len();
        // A peer that ends an unused tunnel without close_notify has harmed nobody.
        if count > 0 || !was_up || loss != TunnelLoss::Closed {
            self.core.counters.tunnels_lost.add(1);
            let peer = connected.then_some(link.peer);
            let never_up_at = (link.key.is_none() && !was_up).then_some(link.local);
            let lost = LostTunnel { peer, key: link.key.as_ref(), loss, error, streams: count, never_up_at };
            self.conductor.tunnel_lost(&link.pod, lost);
        }
        let reason = CloseReason::TunnelLost(loss);
        for (stream, connection) in streams {
            self.stream_event(connection, (tunnel, stream), StreamEvent::Lost(reason));
        }
        for (connection, _) in link.expecting {
            self.not_joined(connection, tunnel, loss);
        }
    }
}

fn own_address(socket: &OwnedFd, otherwise: SocketAddr) -> SocketAddr {
    let own = rustix::net::getsockname(socket).ok();
    own.and_then(|own| SocketAddr::try_from(own).ok()).unwrap_or(otherwise)
}
