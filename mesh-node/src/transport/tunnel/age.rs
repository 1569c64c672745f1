//! What time does to a tunnel: deadlines, silence, idleness, age.
//!
//! In: the time entered for a tunnel has come. Out: PING, GOAWAY, RESET of what the peer should have ended, its end, and
//! the next look.

use mesh_common::tunnel::{Frame, GoAwayReason};

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
        let link = self.tunnels.get_mut(tunnel)?;
        if link.session.is_empty() {
            let end = link.idle_since.after(settings.tunnel_idle_timeout);
            if now >= end && link.key.is_some() {
                self.close_tunnel(tunnel);
                return None;
            }
            link.asked = None;
            // A server leaves the end to its client, and only looks now and then.
            let end = if link.key.is_some() { end } else { NEVER };
            return Some(
                end.min(now.after(settings.silence)).min(link.retire_at.max(now.after(settings.silence))),
            );
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
        Some(if link.retired { silence } else { silence.min(link.retire_at) })
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
