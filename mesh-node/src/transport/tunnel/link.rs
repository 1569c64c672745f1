//! One tunnel: its socket, its TLS, its streams, and what it has to send.
//!
//! In: frames that the turn produced, sealed and written at its end. Out: whether the socket took them. What streams
//! mean to connections is not known here.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use mesh_common::http1::relay::forget_sent;
use mesh_common::tunnel::outbox::LIGHT;
use mesh_common::tunnel::{Credit, Frame, Open, Outbox, ResetReason, Session, StreamId};
use rustix::io::Errno;
use rustix::net::SendFlags;

use super::conductor::{Identified, TunnelKey};
use super::core::{Core, NEVER};
use super::settings::{BACKLOG, UNREAD};
use super::slots::Key;
use super::timers::Tick;
use super::tls::Tls;
use crate::transport::handshakes::Place;
use crate::transport::outcome::TunnelLoss;

/// How far a tunnel has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// TCP.
    Connecting,
    /// TLS.
    Handshaking,
    /// Streams.
    Up,
    /// Everything was said; it is closed when the socket has taken it.
    Closing,
}

pub(in crate::transport) struct Link<P> {
    pub(super) socket: OwnedFd,
    pub(super) tls: Tls,
    pub(super) session: Session<Key>,
    pub(super) phase: Phase,
    pub(super) pod: P,
    /// As client: what it is for.
    pub(super) key: Option<TunnelKey>,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    /// Among the handshakes; given back with [`Phase::Up`].
    pub(super) place: Option<Place>,
    /// Proved by the certificate; there from [`Phase::Up`] on.
    pub(super) identified: Option<Identified>,
    /// The beginning of a record whose end has not arrived.
    pub(super) leftover: Vec<u8>,
    /// Sealed and not yet taken by the socket.
    outgoing: Vec<u8>,
    written: usize,
    /// Lent while the turn has produced something.
    outbox: Option<Outbox>,
    dirty: bool,
    /// The socket does not take more.
    pub(super) blocked: bool,
    /// So much waits for the socket that it is given no more data, light data neither, until all of it is gone: what
    /// was told to wait would else wait behind everything that comes later.
    full: bool,
    /// Connections that wait until everything so far was taken.
    pub(super) waiting: Vec<Key>,
    /// Connections whose streams are opened when it is up.
    pub(super) expecting: Vec<(Key, Open)>,
    /// Streams that nobody here has to do with any more and that the peer has not ended, with the time that it has for it.
    /// Some of them ended meanwhile.
    pub(super) released: VecDeque<(Tick, StreamId)>,
    /// A read is queued.
    pub(super) queued: bool,
    pub(super) hung_up: bool,
    pub(super) scheduled: Tick,
    /// End of the current phase, if it does not go on.
    pub(super) deadline: Tick,
    pub(super) retire_at: Tick,
    pub(super) retired: bool,
    pub(super) idle_since: Tick,
    pub(super) heard: Tick,
    pub(super) asked: Option<Tick>,
}

impl<P> Link<P> {
    pub(super) fn new(
        socket: OwnedFd,
        tls: Tls,
        session: Session<Key>,
        pod: P,
        peer: SocketAddr,
        local: SocketAddr,
        place: Place,
    ) -> Self {
        Self {
            socket,
            tls,
            session,
            phase: Phase::Handshaking,
            pod,
            key: None,
            peer,
            local,
            place: Some(place),
            identified: None,
            leftover: Vec::new(),
            outgoing: Vec::new(),
            written: 0,
            outbox: None,
            dirty: false,
            blocked: false,
            full: false,
            waiting: Vec::new(),
            expecting: Vec::new(),
            released: VecDeque::new(),
            queued: false,
            hung_up: false,
            scheduled: NEVER,
            deadline: NEVER,
            retire_at: NEVER,
            retired: false,
            idle_since: NEVER,
            heard: Tick::default(),
            asked: None,
        }
    }

    /// What this turn has to say, to be added to.
    pub(super) fn outbox(&mut self, own: Key, core: &mut Core) -> &mut Outbox {
        self.touch(own, core);
        self.outbox.get_or_insert_with(|| core.lend_outbox())
    }

    /// Sees to it that the end of the turn writes.
    pub(super) fn touch(&mut self, own: Key, core: &mut Core) {
        if !self.dirty {
            self.dirty = true;
            core.dirty.push(own);
        }
    }

    pub(super) fn frame(&mut self, own: Key, core: &mut Core, frame: &Frame<'_>) {
        if self.phase == Phase::Up {
            self.outbox(own, core).push(frame);
        }
    }

    pub(in crate::transport) fn reset(
        &mut self,
        own: Key,
        core: &mut Core,
        stream: StreamId,
        reason: ResetReason,
    ) {
        if self.session.reset(stream) {
            self.frame(own, core, &Frame::Reset(stream, reason));
        }
    }

    /// Tells the peer what an application took, when it is time.
    pub(in crate::transport) fn consumed(
        &mut self,
        own: Key,
        core: &mut Core,
        stream: StreamId,
        bytes: usize,
    ) {
        if let Some(Credit { acknowledged, window }) = self.session.consumed(stream, bytes) {
            self.frame(own, core, &Frame::Credit { stream, acknowledged, window });
        }
    }

    /// Sends as much of a stream's bytes as there is credit for; returns how much. A tunnel whose socket takes no more
    /// still takes what is light, until it is full.
    pub(in crate::transport) fn send(
        &mut self,
        own: Key,
        core: &mut Core,
        stream: StreamId,
        bytes: &[u8],
    ) -> usize {
        if self.phase != Phase::Up || self.full || (self.blocked && bytes.len() > LIGHT) {
            return 0;
        }
        let credit = usize::try_from(self.session.sendable(stream)).unwrap_or(usize::MAX);
        let length = bytes.len().min(credit);
        if length > 0 {
            self.outbox(own, core).push_data(stream, &bytes[..length]);
            self.count(stream, length);
        }
        length
    }

    /// Counts bytes of a stream that were put into the [outbox](Self::outbox).
    pub(super) fn count(&mut self, stream: StreamId, length: usize) {
        self.session.sent(stream, length);
        self.full |= self.backlog() >= BACKLOG;
    }

    /// Bytes that the socket has not taken, sealed or not.
    pub(super) fn backlog(&self) -> usize {
        self.outbox.as_ref().map_or(0, Outbox::len) + self.outgoing.len() - self.written
    }

    /// Says that a stream's own direction is complete.
    pub(in crate::transport) fn finish(&mut self, own: Key, core: &mut Core, stream: StreamId) {
        if self.session.finish(stream) {
            self.frame(own, core, &Frame::Fin(stream));
        }
    }

    /// Whether the socket does not take more, or this turn has produced enough for it.
    pub(in crate::transport) fn is_blocked(&self) -> bool {
        self.blocked || self.full
    }

    /// Whether nothing can be sent, however light.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// Has a connection told when it takes more. For one that was refused while it [is blocked](Self::is_blocked): the
    /// end of a turn or the socket's next edge flushes it then.
    pub(in crate::transport) fn wait(&mut self, connection: Key) {
        self.waiting.push(connection);
    }

    /// Those that waited, if everything is gone that they waited for.
    pub(super) fn take_waiting(&mut self) -> Vec<Key> {
        if self.is_blocked() { Vec::new() } else { std::mem::take(&mut self.waiting) }
    }

    /// Where TLS itself puts what it has to say.
    pub(super) fn outgoing(&mut self) -> (&mut Tls, &mut Vec<u8>) {
        (&mut self.tls, &mut self.outgoing)
    }

    pub(super) fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Seals what the turn produced and writes as much as the socket takes.
    pub(super) fn flush(&mut self, core: &mut Core) -> Result<(), TunnelLoss> {
        self.dirty = false;
        if let Some(outbox) = self.outbox.take() {
            let sealed = if self.outgoing.is_empty() { &mut core.sealed } else { &mut self.outgoing };
            let result = outbox.records().try_for_each(|record| self.tls.seal(record, sealed));
            core.take_back(outbox);
            result.map_err(|_| TunnelLoss::Violation)?;
        }
        if self.outgoing.is_empty() && !core.sealed.is_empty() {
            let written = self.write(&core.sealed);
            if let Ok(written) = written {
                self.outgoing.extend_from_slice(&core.sealed[written..]);
            }
            core.sealed.clear();
            written?;
        } else if !self.blocked && !self.outgoing.is_empty() {
            let outgoing = std::mem::take(&mut self.outgoing);
            self.written += self.write(&outgoing[self.written..])?;
            if self.written < outgoing.len() {
                self.outgoing = outgoing;
                forget_sent(&mut self.outgoing, &mut self.written);
            } else {
                self.written = 0;
            }
        }
        self.full &= self.blocked;
        if self.outgoing.len() - self.written > UNREAD { Err(TunnelLoss::NotRead) } else { Ok(()) }
    }

    /// Seals close_notify. Errors do not matter: the socket is about to be closed.
    pub(super) fn say_goodbye(&mut self, core: &mut Core) {
        let _ = self.flush(core);
        let _ = self.tls.close(&mut self.outgoing);
        let _ = self.flush(core);
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, TunnelLoss> {
        let mut sent = 0;
        while sent < bytes.len() && !self.blocked {
            match rustix::net::send(&self.socket, &bytes[sent..], SendFlags::NOSIGNAL) {
                Ok(length) => sent += length,
                Err(Errno::AGAIN) => self.blocked = true,
                Err(Errno::INTR) => {}
                Err(_) => return Err(TunnelLoss::Closed),
            }
        }
        Ok(sent)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use mesh_common::tunnel::{Limits, Role};

    use super::*;
    use crate::identity::{Alpn, server_name};
    use crate::transport::handshakes::{Handshakes, Source};
    use crate::transport::tunnel::Settings;
    use crate::transport::tunnel::tests::world::World;

    #[test]
    fn a_socket_that_never_takes_all_is_kept_little_more_than_what_waits_for_it() {
        let (world, address) = (World::new(), SocketAddr::from(([127, 0, 0, 1], 80)));
        let mut core = Core::new(Settings::default(), Handshakes::default()).unwrap();
        let config = world.identities.client(&world.client, &world.server, Alpn::Mux1).unwrap();
        let tls = Tls::client(config, server_name(None, address.ip())).unwrap();
        let (near, mut far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let place = core.handshakes.take(Source::Address(address.ip())).unwrap();
        let session = Session::new(Role::Client, Limits::default());
        let mut link = Link::new(near.into(), tls, session, (), address, address, place);
        link.outgoing = vec![0; BACKLOG];
        let mut taken = [0; 16 * 1024];
        for _ in 0..1000 {
            link.blocked = false;
            link.flush(&mut core).unwrap();
            let missing = BACKLOG - link.backlog();
            link.outgoing.resize(link.outgoing.len() + missing, 0);
            far.read_exact(&mut taken).unwrap();
        }
        assert!(link.outgoing.capacity() <= 4 * BACKLOG, "{} bytes of room", link.outgoing.capacity());
    }
}
