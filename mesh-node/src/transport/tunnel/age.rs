//! What time does to a tunnel: deadlines, silence, idleness, age.
//!
//! In: the time entered for a tunnel has come. Out: PING, GOAWAY, RESET of what the peer should have ended, its end, and
//! the next look.

use mesh_common::tunnel::{Frame, GoAwayReason, ResetReason, StreamId};

use super::conductor::Conductor;
use super::core::NEVER;
use super::engine::Engine;
use super::link::Phase;
use super::slots::Key;
use super::timers::{Tick, Timed};
use crate::transport::outcome::{ConnectFailure, TunnelLoss};

impl<C: Conductor> Engine<C> {
    /// The time entered for it has come: does what is due and enters the next look.
    pub(super) fn tunnel_deadline(&mut self, tunnel: Key) {
        let now = self.core.now;
        let Some(link) = self.tunnels.get_mut(tunnel) else { return };
        if link.scheduled <= now {
            link.scheduled = NEVER;
        }
        let next = match link.phase {
            Phase::Connecting if now >= link.deadline => {
                let loss = TunnelLoss::Connect(ConnectFailure::TimedOut);
                return self.lose(tunnel, loss, None);
            }
            Phase::Handshaking if now >= link.deadline => {
                return self.lose(tunnel, TunnelLoss::HandshakeTimedOut, None);
            }
            Phase::Closing if now >= link.deadline => return self.close_tunnel(tunnel),
            Phase::Connecting | Phase::Handshaking | Phase::Closing => link.deadline,
            Phase::Up => match self.look_after(tunnel) {
                Some(next) => next,
                None => return,
            },
        };
        if let Some(link) = self.tunnels.get_mut(tunnel) {
            self.core.arm(&mut link.scheduled, next, Timed::Tunnel(tunnel));
        }
    }

    /// Age, idleness and silence of a tunnel that is up. Returns when to look again; `None` if it is gone.
    fn look_after(&mut self, tunnel: Key) -> Option<Tick> {
        let (now, settings) = (self.core.now, self.core.settings);
        let link = self.tunnels.get_mut(tunnel)?;
        if now >= link.retire_at && !link.retired {
            self.retire(tunnel);
        }
        let released = self.reset_released(tunnel);
        let link = self.tunnels.get_mut(tunnel)?;
        if link.session.is_empty() {
            link.asked = None;
            if now >= link.deadline {
                self.close_tunnel(tunnel);
                return None;
            }
            let end = link.idle_since.after(settings.tunnel_idle_timeout);
            let end = if link.key.is_some() { end } else { end.after(settings.silence) };
            if now >= end && link.deadline == NEVER {
                return self.end_idle(tunnel);
            }
            let retires = if link.retired { NEVER } else { link.retire_at };
            let ends = if link.deadline == NEVER { end } else { link.deadline };
            return Some(ends.min(now.after(settings.silence)).min(retires));
        }
        match link.asked {
            Some(asked) if now >= asked.after(settings.answer) => {
                self.lose(tunnel, TunnelLoss::Silent, None);
                return None;
            }
            None if now >= link.heard.after(settings.silence) => {
                link.asked = Some(now);
                link.frame(tunnel, &mut self.core, &Frame::Ping(now.0));
            }
            _ => {}
        }
        let link = self.tunnels.get_mut(tunnel)?;
        let silence = match link.asked {
            Some(asked) => asked.after(settings.answer),
            None => link.heard.after(settings.silence),
        };
        let next = silence.min(released);
        Some(if link.retired { next } else { next.min(link.retire_at) })
    }

    /// Nobody here has to do with a stream any more, whose own direction is complete. The peer's end came with its last
    /// bytes or comes soon: not at once, or every stream whose end is in a record of its own would be reset.
    pub(in crate::transport) fn stream_released(&mut self, tunnel: Key, stream: StreamId) {
        let until = self.core.now.after(self.core.settings.answer);
        let Some(link) = self.tunnels.get_mut(tunnel) else { return };
        if !link.session.has(stream) {
            return self.stream_ended(tunnel);
        }
        while link.released.front().is_some_and(|(_, ended)| !link.session.has(*ended)) {
            link.released.pop_front();
        }
        link.released.push_back((until, stream));
        self.core.arm(&mut link.scheduled, until, Timed::Tunnel(tunnel));
    }

    /// Resets streams that the peer should have ended by now: they would else count for as long as the tunnel lives.
    /// Returns when to look again.
    fn reset_released(&mut self, tunnel: Key) -> Tick {
        let now = self.core.now;
        while let Some(link) = self.tunnels.get_mut(tunnel)
            && let Some((until, stream)) = link.released.front().copied()
        {
            if until > now {
                return until;
            }
            link.released.pop_front();
            link.reset(tunnel, &mut self.core, stream, ResetReason::Cancelled);
            self.stream_ended(tunnel);
        }
        NEVER
    }

    /// Nothing used it for long. A client closes it; a server asks for that first.
    fn end_idle(&mut self, tunnel: Key) -> Option<Tick> {
        let link = self.tunnels.get_mut(tunnel)?;
        if link.key.is_some() {
            self.close_tunnel(tunnel);
            return None;
        }
        link.retired = true;
        let last = link.session.go_away();
        link.frame(tunnel, &mut self.core, &Frame::GoAway { last, reason: GoAwayReason::Idle });
        self.await_end(tunnel);
        self.tunnels.get(tunnel).map(|link| link.deadline)
    }

    /// Takes no new stream; closed when its last one ends.
    pub(super) fn retire(&mut self, tunnel: Key) {
        self.leave_pool(tunnel);
        let Some(link) = self.tunnels.get_mut(tunnel) else { return };
        link.retired = true;
        if link.key.is_none() && link.phase == Phase::Up && !link.session.is_going_away() {
            let last = link.session.go_away();
            link.frame(tunnel, &mut self.core, &Frame::GoAway { last, reason: GoAwayReason::Draining });
        }
        self.stream_ended(tunnel);
    }
}
