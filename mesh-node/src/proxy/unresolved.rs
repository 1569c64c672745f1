//! Connections that ended before it was known what for: refused, or gone.

use std::net::SocketAddr;

use mesh_common::model::{ConnectionFacts, DecisionId, Direction, PeerIdentity, ServerName};
use mesh_common::resolve;

use super::Core;
use super::decisions::Cause;
use super::inbound::caller_pod;
use super::pod::PodHandle;
use super::record::Subject;
use super::response::Rejection;
use crate::transport::tunnel::{Accepted, Refusal};

/// The ends of a connection of which nothing else is known.
#[derive(Clone, Copy)]
pub(super) struct Between {
    pub(super) direction: Direction,
    pub(super) client: SocketAddr,
    pub(super) address: SocketAddr,
}

impl Between {
    pub(super) fn accepted(direction: Direction, accepted: &Accepted<'_>) -> Self {
        Self { direction, client: accepted.peer, address: accepted.local }
    }

    pub(super) fn inbound(client: SocketAddr, address: SocketAddr) -> Self {
        Self { direction: Direction::Inbound, client, address }
    }
}

impl Core {
    /// Refuses what came before it was known what for.
    pub(super) fn refuse_unresolved(
        &self,
        pod: &PodHandle,
        between: Between,
        rejection: &Rejection,
    ) -> Refusal {
        self.report_unresolved(pod, between, (Some(rejection.cause()), rejection.reason()));
        self.refuse(rejection)
    }

    /// Reports a connection that ended before it was known what for; with its cause if it was refused.
    pub(super) fn report_unresolved(
        &self,
        pod: &PodHandle,
        between: Between,
        (cause, reason): (Option<Cause>, &'static str),
    ) {
        let Between { direction, client, address } = between;
        let mut open = self.shared.access_log.begin(direction, client, address);
        open.record.reason = reason;
        open.record.decision = cause.and_then(|cause| self.name_unresolved(pod, between, (cause, reason)));
        let local = self.snapshot().workload(pod.uid()).cloned();
        match direction {
            Direction::Outbound => open.record.source = local,
            Direction::Inbound => open.record.destination = local,
        }
    }

    /// Names its refusal. Of a pod that is gone nothing can be said.
    fn name_unresolved(
        &self,
        pod: &PodHandle,
        Between { direction, client, address }: Between,
        why: (Cause, &'static str),
    ) -> Option<DecisionId> {
        let snapshot = self.snapshot();
        let facts = ConnectionFacts {
            direction,
            client,
            original_dst: address,
            local: snapshot.workload(pod.uid())?.clone(),
            peer: PeerIdentity::None,
            certificate: None,
            claimed_dst: None,
            server_name: ServerName::Unknown,
        };
        let destination = resolve::destination(&snapshot, &facts);
        let caller = caller_pod(&snapshot, &facts).filter(|_| direction == Direction::Inbound);
        Some(self.name(Subject { facts: &facts, destination: &destination, caller }, why, None))
    }
}
