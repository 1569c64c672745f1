//! What is dialled is not known here: a connection is held until it is. Who calls is asked, too, and nothing is held.
//!
//! In: a snapshot that says what was not asked. Out: a question to the controller, and a [`Held`] connection that is
//! decided again on each later snapshot, for a bounded time and bounded in number. Never: a decision without an answer that
//! lets out what may be of the mesh.

use std::net::{IpAddr, SocketAddr};

use mesh_common::model::{ConnectionFacts, Direction, Question};
use mesh_common::resolve;
use mesh_common::snapshot::Snapshot;

use super::limits::HeldPlace;
use super::pod::PodHandle;
use super::record::Record;
use super::response::Rejection;
use super::{Between, Core};
use crate::config_client::InUse;
use crate::transport::tunnel::{Outbound, Refusal};

/// A connection of an application of which nothing can be decided yet.
#[derive(Debug)]
pub struct Held {
    place: HeldPlace,
    facts: ConnectionFacts,
}

/// Whether it pays to wait.
enum Wait {
    For(HeldPlace),
    /// No controller is there to answer.
    NotAnswered,
    /// There is none for this one: too many wait already, or it came too late.
    Refused,
}

impl Core {
    /// Decides a held connection of an application, if it can be now.
    pub(super) fn outbound_again(
        &self,
        pod: &PodHandle,
        held: Held,
        is_over: bool,
    ) -> Result<Outbound<Record, Held>, Refusal> {
        let snapshot = self.snapshot();
        let Held { place, mut facts } = held;
        let between =
            Between { direction: Direction::Outbound, client: facts.client, address: facts.original_dst };
        let gone = || self.refuse_unresolved(pod, between, &Rejection::PodGone);
        facts.local = snapshot.workload(pod.uid()).cloned().ok_or_else(gone)?;
        self.leave(pod, &snapshot, facts, Some((place, is_over)))
    }

    /// Decides a connection of an application, or holds it.
    pub(super) fn leave(
        &self,
        pod: &PodHandle,
        snapshot: &Snapshot,
        facts: ConnectionFacts,
        held: Option<(HeldPlace, bool)>,
    ) -> Result<Outbound<Record, Held>, Refusal> {
        let mut destination = resolve::destination(snapshot, &facts);
        if destination.is_to_be_asked() {
            match self.wait(pod, snapshot, facts.original_dst, held) {
                Wait::For(place) => return Ok(Outbound::Hold(Held { place, facts })),
                Wait::NotAnswered => destination = resolve::unanswered(snapshot, destination),
                // Refused, whatever it is.
                Wait::Refused => {}
            }
        }
        let (record, course) = self.outbound_to(pod, snapshot, facts, destination)?;
        Ok(Outbound::Begin(record, course))
    }

    /// Whether a caller whom policy lets in, whoever it is, is to speak first all the same: until it is known who it is,
    /// it may be of the mesh.
    pub(super) fn may_be_of_the_mesh(&self, pod: &PodHandle, snapshot: &Snapshot, caller: IpAddr) -> bool {
        let Some(asker) = self.shared.asker.as_ref().filter(|_| snapshot.is_unasked(caller)) else {
            return false;
        };
        let is_stranger = snapshot.is_outside(SocketAddr::new(caller, 0)) && !asker.is_answered();
        if !is_stranger {
            asker.ask(pod.uid(), &[Question::Address(caller)]);
        }
        !is_stranger
    }

    /// Asks who calls, for the records of what comes of it. Not of strangers from outside, who may be many.
    pub(super) fn ask_who_calls(
        &self,
        pod: &PodHandle,
        snapshot: &Snapshot,
        caller: IpAddr,
        is_proved: bool,
    ) {
        if let Some(asker) = &self.shared.asker
            && snapshot.is_unasked(caller)
            && snapshot.workload_at(caller).is_none()
            && (is_proved || !snapshot.is_outside(SocketAddr::new(caller, 0)))
        {
            asker.ask(pod.uid(), &[Question::Address(caller)]);
        }
    }

    /// Keeps known what a connection depends on.
    pub(super) fn in_use(&self, facts: &ConnectionFacts) -> Option<InUse> {
        let asker = self.shared.asker.as_ref()?;
        let address = match facts.direction {
            Direction::Outbound => facts.original_dst,
            Direction::Inbound => SocketAddr::new(facts.client_ip(), 0),
        };
        Some(asker.using(&self.snapshot(), address))
    }

    fn wait(
        &self,
        pod: &PodHandle,
        snapshot: &Snapshot,
        address: SocketAddr,
        held: Option<(HeldPlace, bool)>,
    ) -> Wait {
        let is_over = held.is_some();
        if let Some((place, false)) = held {
            return Wait::For(place);
        }
        let Some(asker) = &self.shared.asker else { return Wait::NotAnswered };
        if !asker.is_answered() && (is_over || snapshot.is_outside(address)) {
            return Wait::NotAnswered;
        }
        if is_over {
            // Of a controller that answers others it cannot be said what it would have said.
            return Wait::Refused;
        }
        let Some(place) = pod.places().hold() else { return Wait::Refused };
        let is_asked = asker.ask(pod.uid(), &snapshot.unasked(address));
        if is_asked { Wait::For(place) } else { Wait::Refused }
    }
}
