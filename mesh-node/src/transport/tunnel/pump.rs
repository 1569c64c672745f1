//! An opaque connection: the bytes between an application's socket and one stream.
//!
//! In: readiness of the socket, frames of the stream. Out: the same bytes on the other side, half-closes, resets.
//! Bytes are read straight into the outbox and written straight from the record; only what the application does
//! not take waits here, and that is at most the stream's window.

use std::io::{IoSlice, IoSliceMut};

use mesh_common::http1::relay::forget_sent;
use mesh_common::tunnel::outbox::LIGHT;
use mesh_common::tunnel::{MAX_PAYLOAD, StreamId};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use smallvec::SmallVec;

use super::conductor::Conductor;
use super::connection::{Kind, StreamEvent};
use super::core::Core;
use super::engine::Engine;
use super::link::{Link, Phase};
use super::reactor::Ready;
use super::settings::{BUDGET, BULK, REPLAY};
use super::slots::Key;
use super::watch::Watch;
use crate::transport::connect;
use crate::transport::outcome::{CloseReason, ConnectFailure, TunnelLoss};
use crate::transport::plain::Plain;

/// Whole records' worth of one read: 64 KiB.
const READ: usize = BUDGET / (MAX_PAYLOAD + 8) * MAX_PAYLOAD;

pub(in crate::transport) struct Pump {
    pub(super) socket: Plain,
    /// Whose socket it is: the client's at the source, the server's at the destination.
    of_client: bool,
    tunnel: Key,
    /// `None` until the tunnel is up.
    stream: Option<StreamId>,
    connected: bool,
    readable: bool,
    writable: bool,
    hung_up: bool,
    bulk: bool,
    /// It is in its tunnel's list of those that wait.
    waits: bool,
    sent_fin: bool,
    got_fin: bool,
    shut: bool,
    /// What the application has not taken.
    pending: Vec<u8>,
    written: usize,
    /// At the source: what was sent, until the peer shows that it took the stream or there is too much of it.
    replay: Option<Vec<u8>>,
    /// What an earlier try has read: sent before anything else, as there is room for it.
    said: Vec<u8>,
    /// Looks on while first bytes pass.
    watch: Watch,
}

impl Pump {
    /// The source's end: the socket of the application that connects, which has `said` something if this is its second
    /// and last try.
    pub(super) fn of_client(socket: Plain, tunnel: Key, said: Vec<u8>) -> Self {
        let replay = said.is_empty().then(Vec::new);
        Self { of_client: true, replay, said, connected: true, ..Self::new(socket, tunnel, None) }
    }

    /// The destination's end: the socket to the application, whose connect is under way.
    pub(super) fn of_server(socket: Plain, tunnel: Key, stream: StreamId) -> Self {
        Self::new(socket, tunnel, Some(stream))
    }

    fn new(socket: Plain, tunnel: Key, stream: Option<StreamId>) -> Self {
        Self {
            socket,
            of_client: false,
            tunnel,
            stream,
            connected: false,
            readable: false,
            writable: false,
            hung_up: false,
            bulk: false,
            waits: false,
            sent_fin: false,
            got_fin: false,
            shut: false,
            pending: Vec::new(),
            written: 0,
            replay: None,
            said: Vec::new(),
            watch: Watch::Off,
        }
    }

    /// The same; if `wanted`, its first bytes are looked at.
    pub(super) fn watched(self, wanted: bool) -> Self {
        Self { watch: Watch::begin(wanted), ..self }
    }

    pub(super) fn watch(&mut self) -> &mut Watch {
        &mut self.watch
    }

    pub(super) fn note(&mut self, ready: Ready) {
        self.readable |= ready.readable;
        self.writable |= ready.writable;
        self.hung_up |= ready.hung_up;
    }

    /// It is no longer in its tunnel's list of those that wait.
    pub(super) fn room_again(&mut self) {
        self.waits = false;
    }

    pub(super) fn is_bulk(&self) -> bool {
        self.bulk
    }

    pub(super) fn stream(&self) -> Option<(Key, StreamId)> {
        Some((self.tunnel, self.stream?))
    }

    /// What it is when the deadline of the connect comes; `None` if it is connected, here and at the stream.
    pub(super) fn connecting(&self) -> Option<CloseReason> {
        if self.stream.is_none() {
            return Some(CloseReason::TunnelLost(TunnelLoss::Connect(ConnectFailure::TimedOut)));
        }
        (!self.connected).then_some(CloseReason::Connect(ConnectFailure::TimedOut))
    }

    /// The stream is open.
    pub(super) fn opened(&mut self, stream: StreamId) {
        self.stream = Some(stream);
        self.readable = true;
    }

    /// The socket and what it has said, if no byte can have reached an application.
    pub(super) fn into_untouched(self) -> Option<(Plain, Vec<u8>)> {
        Some((self.socket, self.replay?))
    }

    pub(super) fn is_untouched(&self) -> bool {
        self.replay.is_some()
    }

    fn own_reset(&self) -> CloseReason {
        if self.of_client { CloseReason::ClientReset } else { CloseReason::ServerReset }
    }

    fn is_over(&self) -> bool {
        self.sent_fin && self.shut
    }

    /// Writes what waits. Returns how much of it went.
    fn write_pending(&mut self) -> Result<usize, CloseReason> {
        let mut sent = 0;
        while self.writable && self.written < self.pending.len() {
            match rustix::net::send(&self.socket, &self.pending[self.written..], SendFlags::NOSIGNAL) {
                Ok(length) => {
                    self.written += length;
                    sent += length;
                }
                Err(Errno::AGAIN) => self.writable = false,
                Err(Errno::INTR) => {}
                Err(_) => return Err(self.own_reset()),
            }
        }
        if self.written == self.pending.len() && self.written > 0 {
            // Given back whole: an idle connection keeps no buffer.
            self.pending = Vec::new();
            self.written = 0;
        } else {
            forget_sent(&mut self.pending, &mut self.written);
        }
        Ok(sent)
    }

    /// Passes the end of the stream on, once everything before it went.
    fn pass_end_on(&mut self) {
        if self.got_fin && !self.shut && self.connected && self.pending.is_empty() {
            self.shut = true;
            // Fails if the application is gone, which its socket tells next.
            let _ = self.socket.finish();
        }
    }

    /// Writes pieces of one stream, straight from the records. Returns how much went; the rest waits.
    fn deliver(&mut self, pieces: &[&[u8]]) -> Result<usize, CloseReason> {
        self.replay = None;
        match self.of_client {
            true => self.watch.server_said(),
            false => self.watch.client_said(pieces.iter().copied()),
        }
        let mut sent = 0;
        // Tried also while the connect is under way: over loopback it is done by now, and nothing waits.
        if self.pending.is_empty() && (self.writable || !self.connected) {
            match send(&self.socket, pieces) {
                Ok(length) => {
                    sent = length;
                    self.connected = true;
                }
                Err(Errno::AGAIN) => self.writable = false,
                Err(Errno::INTR) => {}
                Err(_) if !self.connected => {
                    let failure = connect::finished(&self.socket).err().unwrap_or(ConnectFailure::Refused);
                    return Err(CloseReason::Connect(failure));
                }
                Err(_) => return Err(self.own_reset()),
            }
        }
        let mut skip = sent;
        for piece in pieces {
            let rest = &piece[skip.min(piece.len())..];
            skip -= piece.len() - rest.len();
            self.pending.extend_from_slice(rest);
        }
        Ok(sent)
    }
}

impl<C: Conductor> Engine<C> {
    /// Does what the socket and the stream allow.
    pub(super) fn pump_turn(&mut self, key: Key) {
        if let Err(reason) = self.pump_try(key) {
            self.fail(key, reason);
        }
    }

    /// Something happened to its stream.
    pub(super) fn pump_event(&mut self, key: Key, event: StreamEvent) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Kind::Pump(pump) = &mut connection.kind else { return };
        match event {
            StreamEvent::Writable => connection.queue(key, &mut self.core),
            StreamEvent::Finished => {
                pump.got_fin = true;
                pump.replay = None;
                self.pump_turn(key);
            }
            StreamEvent::Lost(reason) => {
                pump.stream = None;
                self.fail(key, reason);
            }
        }
    }

    /// Writes pieces of its stream that arrived in this read of the tunnel.
    pub(super) fn pump_deliver(&mut self, key: Key, pieces: &[&[u8]]) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Kind::Pump(pump) = &mut connection.kind else { return };
        connection.active = self.core.now;
        let delivered = pump.deliver(pieces);
        if pump.watch.has_found() {
            self.tell_found(key);
        }
        match delivered {
            Ok(written) => self.pump_wrote(key, written),
            Err(reason) => self.fail(key, reason),
        }
    }

    fn pump_try(&mut self, key: Key) -> Result<(), CloseReason> {
        let Some((_, pump)) = self.pump(key) else { return Ok(()) };
        if !pump.connected {
            if !pump.writable {
                return Ok(());
            }
            connect::finished(&pump.socket).map_err(CloseReason::Connect)?;
            pump.connected = true;
        }
        let written = pump.write_pending()?;
        pump.pass_end_on();
        if written > 0 {
            self.pump_wrote(key, written);
        }
        self.pump_read(key)?;
        let Some((_, pump)) = self.pump(key) else { return Ok(()) };
        let (over, has_found) = (pump.is_over(), pump.watch.has_found());
        if has_found {
            self.tell_found(key);
        }
        if over {
            self.end(key, CloseReason::Completed);
        }
        Ok(())
    }

    fn pump(&mut self, key: Key) -> Option<(Key, &mut Pump)> {
        match &mut self.connections.get_mut(key)?.kind {
            Kind::Pump(pump) => Some((pump.tunnel, pump)),
            Kind::Joined(_) | Kind::Http(_) | Kind::Look(_) => None,
        }
    }

    fn pump_wrote(&mut self, key: Key, written: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Kind::Pump(pump) = &mut connection.kind else { return };
        let total = if pump.of_client { &mut connection.to_client } else { &mut connection.to_server };
        *total += written as u64;
        let Some((tunnel, stream)) = pump.stream() else { return };
        if written > 0
            && let Some(link) = self.tunnels.get_mut(tunnel)
        {
            link.consumed(tunnel, &mut self.core, stream, written);
        }
    }

    /// Reads from the application into the tunnel's outbox: one budget, then others have their turn.
    fn pump_read(&mut self, key: Key) -> Result<(), CloseReason> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        let Kind::Pump(pump) = &mut connection.kind else { return Ok(()) };
        let Some((tunnel, stream)) = pump.stream() else { return Ok(()) };
        let Some(link) = self.tunnels.get_mut(tunnel) else { return Ok(()) };
        if !pump.said.is_empty() {
            let sent = link.send(tunnel, &mut self.core, stream, &pump.said);
            connection.to_server += sent as u64;
            pump.said.drain(..sent);
            if !pump.said.is_empty() {
                if link.is_blocked() {
                    pump.wait(key, link);
                }
                return Ok(());
            }
            pump.said = Vec::new();
        }
        let mut read = 0;
        let left = loop {
            match pump.room(link, stream, read) {
                Room::Bytes(most) if read < READ => match pump.read(link, &mut self.core, stream, most)? {
                    Some(length) => read += length,
                    None => break Room::None,
                },
                left => break left,
            }
        };
        if read > 0 {
            pump.bulk = read > BULK;
            let total = if pump.of_client { &mut connection.to_server } else { &mut connection.to_client };
            *total += read as u64;
            connection.active = self.core.now;
            self.core.moved += read;
        }
        match left {
            Room::None => {}
            Room::Blocked => pump.wait(key, link),
            Room::Bytes(_) => connection.queue(key, &mut self.core),
        }
        Ok(())
    }
}

/// What may be read from an application now.
enum Room {
    /// Nothing, until something happens to the socket or the stream.
    None,
    /// Nothing, until the tunnel's socket takes more.
    Blocked,
    /// So much.
    Bytes(usize),
}

impl Pump {
    /// How much may be read, after `read` bytes of this turn.
    fn room<P>(&self, link: &Link<P>, stream: StreamId, read: usize) -> Room {
        if !self.readable || !self.connected || self.sent_fin || link.phase != Phase::Up {
            return Room::None;
        }
        // Light connections still get a frame in; what is bulk waits until the socket has taken all.
        if link.is_full() || link.blocked && (self.bulk || self.waits || read > 0) {
            return Room::Blocked;
        }
        let most = READ.min(usize::try_from(link.session.sendable(stream)).unwrap_or(READ));
        // One record's worth is one slice to read into: all that a connection needs that is not bulk.
        let most = if self.bulk { most } else { most.min(MAX_PAYLOAD) };
        let most = if link.blocked { most.min(LIGHT) } else { most };
        let most = if self.replay.is_some() { most.min(REPLAY) } else { most };
        if most == 0 { Room::None } else { Room::Bytes(most) }
    }

    /// Reads once. `None`: there is nothing more for now, or that was the end.
    fn read<P>(
        &mut self,
        link: &mut Link<P>,
        core: &mut Core,
        stream: StreamId,
        most: usize,
    ) -> Result<Option<usize>, CloseReason> {
        let outbox = link.outbox(self.tunnel, core);
        match receive(&self.socket, outbox, most) {
            Ok(0) => {
                self.sent_fin = true;
                link.finish(self.tunnel, core, stream);
                Ok(None)
            }
            Ok(length) => {
                self.keep_for_replay(outbox.uncommitted(length));
                match self.of_client {
                    true => self.watch.client_said(outbox.uncommitted(length)),
                    false => self.watch.server_said(),
                }
                outbox.commit(stream, length);
                link.count(stream, length);
                // A short read means drained, which saves the read that would say so; an end shows as a hang-up.
                self.readable = length == most || self.hung_up;
                Ok(Some(length))
            }
            Err(Errno::AGAIN) => {
                self.readable = false;
                Ok(None)
            }
            Err(Errno::INTR) => Ok(Some(0)),
            Err(_) => Err(self.own_reset()),
        }
    }

    /// Has itself told when the tunnel's socket takes more.
    fn wait<P>(&mut self, key: Key, link: &mut Link<P>) {
        if !std::mem::replace(&mut self.waits, true) {
            link.wait(key);
        }
    }

    fn keep_for_replay<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>) {
        let Some(replay) = &mut self.replay else { return };
        pieces.for_each(|piece| replay.extend_from_slice(piece));
        if replay.len() > REPLAY {
            self.replay = None;
        }
    }
}

/// Most messages are one piece, and for that send(2) is the shorter way through the kernel.
fn send(socket: &Plain, pieces: &[&[u8]]) -> rustix::io::Result<usize> {
    if let [piece] = pieces {
        return rustix::net::send(socket, piece, SendFlags::NOSIGNAL);
    }
    let slices: SmallVec<[IoSlice<'_>; 16]> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    rustix::io::writev(socket, &slices)
}

fn receive(
    socket: &Plain,
    outbox: &mut mesh_common::tunnel::Outbox,
    most: usize,
) -> rustix::io::Result<usize> {
    let mut room: SmallVec<[&mut [u8]; 4]> = outbox.room(most).collect();
    if let [room] = &mut room[..] {
        return rustix::net::recv(socket, &mut **room, RecvFlags::empty()).map(|(_, length)| length);
    }
    let mut slices: SmallVec<[IoSliceMut<'_>; 4]> = room.into_iter().map(IoSliceMut::new).collect();
    rustix::io::readv(socket, &mut slices)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::transport::tunnel::slots::Slots;

    #[test]
    fn a_reader_that_never_takes_all_is_kept_little_more_than_what_waits_for_it() {
        let (near, mut far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let tunnel = Slots::new().insert(());
        let mut pump = Pump::of_server(Plain::new(near.into()), tunnel, StreamId(1));
        let piece = [0; 16 * 1024];
        while pump.pending.len() < 32 * piece.len() {
            pump.deliver(&[&piece]).unwrap();
        }
        let mut taken = piece;
        for _ in 0..1000 {
            far.read_exact(&mut taken).unwrap();
            pump.writable = true;
            pump.write_pending().unwrap();
            pump.deliver(&[&piece]).unwrap();
        }
        assert!(pump.pending.len() > pump.written, "nothing waited");
        assert!(pump.pending.capacity() < 4 << 20, "{} bytes of room", pump.pending.capacity());
    }
}
