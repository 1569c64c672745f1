//! Streams: what frames mean to connections, and what connections say in frames.
//!
//! In: the plaintext of a read of a tunnel. Out: bytes delivered and [`StreamEvent`]s, in their order per stream.
//! DATA of one read is gathered per stream and delivered at once, so that an application gets one write, not one
//! per record.

use mesh_common::tunnel::{
    Event, Frame, GoAwayReason, Open, ResetReason, StreamId, StreamToken, Violation, frames,
};

use super::conductor::{Caller, Conductor, Identified, Refusal};
use super::connection::{Kind, StreamEvent, StreamKey};
use super::core::Core;
use super::engine::Engine;
use super::link::{Link, Phase};
use super::slots::Key;
use super::tls::Plaintext;
use crate::transport::outcome::{CloseReason, TunnelLoss};

/// DATA of one read, in the order in which it came.
#[derive(Default)]
pub(super) struct Deliveries {
    pieces: Vec<(Key, StreamId, std::ops::Range<usize>)>,
}

impl Deliveries {
    /// Bytes of a stream, at this place in the plaintext.
    fn add(&mut self, (connection, id): (Key, StreamId), bytes: std::ops::Range<usize>) {
        self.pieces.push((connection, id, bytes));
    }

    /// What came of a stream is wanted no more.
    fn forget(&mut self, stream: (Key, StreamId)) {
        self.pieces.retain(|(connection, id, _)| (*connection, *id) != stream);
    }
}

impl<P> Link<P> {
    /// Tells the peer that it broke a rule.
    fn object_to(&mut self, tunnel: Key, core: &mut Core, violation: &Violation) -> TunnelLoss {
        tracing::debug!(peer = %self.peer, %violation, "tunnel violation");
        self.frame(tunnel, core, &Frame::GoAway { last: 0, reason: GoAwayReason::Violation });
        TunnelLoss::Violation
    }
}

impl<C: Conductor> Engine<C> {
    /// Takes every frame of the records. The plaintext was lent by the core and is not touched meanwhile.
    pub(super) fn receive_records(&mut self, tunnel: Key, plaintext: &Plaintext) -> Result<(), TunnelLoss> {
        let mut deliveries = std::mem::take(&mut self.deliveries);
        let mut start = 0;
        let mut result = Ok(());
        for &end in &plaintext.ends {
            let record = &plaintext.bytes[start..end];
            result = self.receive_record(tunnel, record, start, plaintext, &mut deliveries);
            if result.is_err() {
                break;
            }
            start = end;
        }
        // What came before a violation was said by the same peer under the same certificate: it still counts.
        self.deliver(tunnel, &mut deliveries, plaintext);
        self.deliveries = deliveries;
        result
    }

    fn receive_record(
        &mut self,
        tunnel: Key,
        record: &[u8],
        offset: usize,
        plaintext: &Plaintext,
        deliveries: &mut Deliveries,
    ) -> Result<(), TunnelLoss> {
        for frame in frames(record) {
            let Some(link) = self.tunnels.get_mut(tunnel) else { return Ok(()) };
            let event = frame.map_err(Violation::Frame).and_then(|frame| link.session.receive(frame));
            match event.map_err(|violation| link.object_to(tunnel, &mut self.core, &violation))? {
                Event::None => {}
                Event::Data(id, connection, bytes) => {
                    let start = offset + (bytes.as_ptr() as usize - record.as_ptr() as usize);
                    deliveries.add((connection, id), start..start + bytes.len());
                }
                Event::AnswerPing(token) => link.frame(tunnel, &mut self.core, &Frame::Pong(token)),
                Event::Pong(_) => link.asked = None,
                Event::Refuse(id, reason, error) => {
                    tracing::debug!(peer = %link.peer, ?reason, ?error, "stream refused");
                    self.core.counters.refused_streams.add(1);
                    self.refuse_stream(tunnel, id, reason);
                }
                Event::Opened(id, open) => self.stream_opened(tunnel, id, &open),
                Event::Writable(id, connection) => {
                    self.stream_event(connection, (tunnel, id), StreamEvent::Writable);
                }
                Event::Finished(id, connection) => {
                    // Bytes first: what came before the end is written before the end is passed on.
                    self.deliver(tunnel, deliveries, plaintext);
                    self.stream_event(connection, (tunnel, id), StreamEvent::Finished);
                }
                Event::Reset(id, connection, reason) => {
                    deliveries.forget((connection, id));
                    let lost = StreamEvent::Lost(CloseReason::PeerReset(reason));
                    self.stream_event(connection, (tunnel, id), lost);
                    self.stream_ended(tunnel);
                }
                Event::GoAway { last, reason } => self.peer_goes_away(tunnel, last, reason)?,
            }
        }
        Ok(())
    }

    /// Hands out what was gathered: per stream in one call, in order.
    fn deliver(&mut self, tunnel: Key, deliveries: &mut Deliveries, plaintext: &Plaintext) {
        let mut pieces = std::mem::take(&mut deliveries.pieces);
        // Stable: within one stream the order stays. Most reads hold one stream or one piece of each.
        pieces.sort_by_key(|(connection, stream, _)| (*connection, *stream));
        for same in pieces.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let (connection, stream, _) = same[0];
            let slices: smallvec::SmallVec<[&[u8]; 16]> =
                same.iter().map(|(_, _, range)| &plaintext.bytes[range.clone()]).collect();
            self.stream_data(connection, (tunnel, stream), &slices);
        }
        pieces.clear();
        deliveries.pieces = pieces;
    }

    fn stream_data(&mut self, key: Key, stream: StreamKey, pieces: &[&[u8]]) {
        let Some(connection) = self.connections.get(key) else { return };
        match &connection.kind {
            Kind::Pump(_) => self.pump_deliver(key, pieces),
            Kind::Joined(_) => debug_assert!(false, "stream {stream:?} belongs to joined sockets"),
            Kind::Http(_) => self.http_deliver(key, stream, pieces),
            Kind::Look(_) => self.look_deliver(key, pieces),
        }
    }

    /// The peer opened a stream: the conductor decides.
    fn stream_opened(&mut self, tunnel: Key, id: StreamId, open: &Open) {
        let Some(link) = self.tunnels.get(tunnel) else { return };
        let Some(Identified { identity, certificate, .. }) = link.identified.clone() else { return };
        let pod = link.pod.clone();
        let caller = Caller { identity, certificate, peer: link.peer, local: link.local };
        let begun = match self.conductor.open_stream(&pod, &caller, open) {
            Ok((record, course)) => {
                self.core.counters.streams_accepted.add(1);
                self.begin_stream(tunnel, id, pod, record, course)
            }
            Err(Refusal(reason)) => {
                self.core.counters.refused_by_conductor.add(1);
                Err(reason)
            }
        };
        if let Err(reason) = begun {
            self.refuse_stream(tunnel, id, reason);
        }
    }

    fn refuse_stream(&mut self, tunnel: Key, id: StreamId, reason: ResetReason) {
        if let Some(link) = self.tunnels.get_mut(tunnel) {
            link.frame(tunnel, &mut self.core, &Frame::Reset(id, reason));
        }
    }

    /// The peer takes no more streams; those that it never looked at may go elsewhere.
    fn peer_goes_away(&mut self, tunnel: Key, last: u32, reason: GoAwayReason) -> Result<(), TunnelLoss> {
        if reason == GoAwayReason::Violation {
            return Err(TunnelLoss::Violation);
        }
        let Some(link) = self.tunnels.get_mut(tunnel) else { return Ok(()) };
        // A client's GOAWAY says nothing about streams: it opened them.
        let unseen = if link.key.is_some() { link.session.after(last) } else { Vec::new() };
        self.leave_pool(tunnel);
        for (id, connection) in unseen {
            if let Some(link) = self.tunnels.get_mut(tunnel) {
                let _ = link.session.reset(id);
            }
            let lost = StreamEvent::Lost(CloseReason::PeerReset(ResetReason::Draining));
            self.stream_event(connection, (tunnel, id), lost);
        }
        self.stream_ended(tunnel);
        Ok(())
    }

    /// Gives a connection its stream: now if the tunnel is up, else when it is.
    pub(in crate::transport) fn join_tunnel(&mut self, tunnel: Key, connection: Key, open: Open) {
        let Some(link) = self.tunnels.get_mut(tunnel) else { return };
        if link.phase != Phase::Up {
            link.expecting.push((connection, open));
            return;
        }
        match link.session.open(connection) {
            Ok(id) => {
                link.frame(tunnel, &mut self.core, &Frame::Open(id, open));
                self.core.counters.streams_opened.add(1);
                self.stream_joined(connection, tunnel, id, open.token);
            }
            Err(full) => {
                tracing::debug!(error = %full, "stream not opened");
                self.not_joined(connection, tunnel, TunnelLoss::Retired);
            }
        }
    }

    /// A connection gets no stream of a tunnel that it was to join.
    pub(super) fn not_joined(&mut self, connection: Key, tunnel: Key, loss: TunnelLoss) {
        let reason = CloseReason::TunnelLost(loss);
        match self.connections.get(connection).map(|connection| &connection.kind) {
            Some(Kind::Http(_)) => self.http_not_joined(connection, tunnel, reason),
            Some(Kind::Pump(_) | Kind::Joined(_) | Kind::Look(_)) => self.fail(connection, reason),
            None => {}
        }
    }

    /// The stream of a connection is open.
    fn stream_joined(&mut self, key: Key, tunnel: Key, id: StreamId, token: StreamToken) {
        let Some(connection) = self.connections.get_mut(key) else {
            // It ended while the tunnel was coming up.
            if let Some(link) = self.tunnels.get_mut(tunnel) {
                link.reset(tunnel, &mut self.core, id, ResetReason::Cancelled);
            }
            return;
        };
        let pump = match &mut connection.kind {
            Kind::Pump(pump) => pump,
            Kind::Joined(_) | Kind::Look(_) => return,
            Kind::Http(_) => {
                if !self.http_joined(key, tunnel, id, token)
                    && let Some(link) = self.tunnels.get_mut(tunnel)
                {
                    link.reset(tunnel, &mut self.core, id, ResetReason::Cancelled);
                }
                return;
            }
        };
        pump.opened(id);
        self.rearm(key);
        self.connection_turn(key);
    }
}
