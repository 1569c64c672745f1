//! A stream as one end of an exchange.

use mesh_common::tunnel::ResetReason;

use super::connection::{Client, Http, StreamEnd, Upstream};
use crate::transport::tunnel::{Core, Key, Link, Slots, StreamKey};

impl StreamEnd {
    fn key(&self) -> StreamKey {
        (self.tunnel, self.stream)
    }

    /// Sends as much as there is credit for and the tunnel takes; returns how much. `user` is told when there is
    /// room again.
    pub(super) fn send<P>(
        &mut self,
        user: Key,
        bytes: &[u8],
        tunnels: &mut Slots<Link<P>>,
        core: &mut Core,
    ) -> usize {
        if bytes.is_empty() {
            return 0;
        }
        let Some(link) = tunnels.get_mut(self.tunnel) else { return 0 };
        let sent = link.send(self.tunnel, core, self.stream, bytes);
        if sent < bytes.len() && link.is_blocked() && !std::mem::replace(&mut self.waits, true) {
            link.wait(user);
        }
        sent
    }

    /// Completes our direction, once.
    pub(super) fn finish<P>(&mut self, tunnels: &mut Slots<Link<P>>, core: &mut Core) {
        if !std::mem::replace(&mut self.sent_fin, true)
            && let Some(link) = tunnels.get_mut(self.tunnel)
        {
            link.finish(self.tunnel, core, self.stream);
        }
    }

    /// Gives credit back for all that arrived.
    pub(super) fn give_credit<P>(&mut self, tunnels: &mut Slots<Link<P>>, core: &mut Core) {
        let bytes = std::mem::take(&mut self.unconsumed);
        if bytes > 0
            && let Some(link) = tunnels.get_mut(self.tunnel)
        {
            link.consumed(self.tunnel, core, self.stream, bytes);
        }
    }

    /// Gives the stream up in both directions, unless both are complete.
    pub(super) fn reset<P>(&mut self, reason: ResetReason, tunnels: &mut Slots<Link<P>>, core: &mut Core) {
        self.give_credit(tunnels, core);
        if let Some(link) = tunnels.get_mut(self.tunnel) {
            link.reset(self.tunnel, core, self.stream, reason);
        }
    }
}

impl<X> Http<X> {
    /// Whether requests come from this stream.
    pub(super) fn is_client(&self, stream: StreamKey) -> bool {
        matches!(&self.client, Client::Stream(end) if end.key() == stream)
    }

    /// What its streams waited for is there.
    pub(in crate::transport) fn room_again(&mut self) {
        self.stream_ends().for_each(|end| end.waits = false);
    }

    /// Every stream of the connection.
    fn stream_ends(&mut self) -> impl Iterator<Item = &mut StreamEnd> {
        let client = match &mut self.client {
            Client::Stream(end) => Some(end),
            Client::Socket(_) => None,
        };
        let upstream = match &mut self.upstream {
            Upstream::Stream(end) => Some(end),
            Upstream::None | Upstream::Expected(_) | Upstream::Application(_) => None,
        };
        client.into_iter().chain(upstream)
    }

    /// The end that this stream is, if it is one: of an exchange that is over the stream may still go on. A connection has streams only on one of its sides: at the source
    /// the client is a socket, at the destination the upstream is.
    pub(super) fn stream_end(&mut self, stream: StreamKey) -> Option<&mut StreamEnd> {
        match (&mut self.client, &mut self.upstream) {
            (Client::Stream(end), _) | (_, Upstream::Stream(end)) if end.key() == stream => Some(end),
            _ => None,
        }
    }
}
