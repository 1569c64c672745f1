//! Whoever is cut off for abuse again and again begins only now and then: a pod of this node waits, an address that connects
//! to one is turned away.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mesh_common::model::{ConnectionFacts, Direction};
use tracing::info;

use super::Core;
use super::decisions::Cause;
use super::pod::PodHandle;
use super::response::{PENALTY, Rejection};
use super::unresolved::Between;
use crate::transport::handshakes::Source;
use crate::transport::tunnel::Refusal;

impl Core {
    /// How long a pod's connections are left where they are. Its listener is its own: nobody else waits there.
    pub(super) fn waits_for_penalty(&self, pod: &PodHandle) -> Option<Duration> {
        if self.penalties.is_empty() {
            return None;
        }
        self.penalties.wait(&Source::Pod(pod.uid().clone()), Instant::now())
    }

    /// A connection of a pod was accepted.
    pub(super) fn begins_in_penalty(&self, pod: &PodHandle) {
        if !self.penalties.is_empty() {
            self.penalties.begins(&Source::Pod(pod.uid().clone()), Instant::now());
        }
    }

    /// Whether an address may begin a connection. The listener is the called pod's, where others come too: what may not
    /// begin is reset, before anything of it is read.
    pub(super) fn admit_address(&self, peer: IpAddr) -> Result<(), Refusal> {
        if self.penalties.is_empty() {
            return Ok(());
        }
        let (source, now) = (Source::Address(peer), Instant::now());
        if self.penalties.wait(&source, now).is_some() {
            // Counted, not recorded: there may be very many.
            return Err(self.refuse(&Rejection::Penalty));
        }
        self.penalties.begins(&source, now);
        Ok(())
    }

    /// A connection in the clear was ended for what its client sent.
    pub(super) fn client_cut_off(&self, pod: &PodHandle, facts: &ConnectionFacts) {
        let between =
            Between { direction: facts.direction, client: facts.client, address: facts.original_dst };
        let source = match facts.direction {
            Direction::Outbound => Source::Pod(pod.uid().clone()),
            Direction::Inbound => Source::Address(facts.client_ip()),
        };
        self.cut_off(pod, source, between);
    }

    /// A tunnel, or HTTP/2 of another agent, was ended for what its peer sent: the address is that of the pod for which it
    /// called.
    pub(super) fn peer_cut_off(&self, pod: &PodHandle, peer: SocketAddr, local: Option<SocketAddr>) {
        let own = || self.snapshot().workload(pod.uid()).and_then(|own| own.addresses.first().copied());
        let Some(address) = local.or_else(|| Some(SocketAddr::new(own()?, 0))) else { return };
        self.cut_off(pod, Source::Address(peer.ip()), Between::inbound(peer, address));
    }

    fn cut_off(&self, pod: &PodHandle, source: Source, between: Between) {
        let word = match &source {
            Source::Pod(_) => "pod",
            Source::Address(_) => "address",
        };
        if !self.penalties.cut_off(source, Instant::now()) {
            return;
        }
        self.shared.metrics.penalty(word);
        let cause = Cause::Carrying("cut off for abuse again and again (--abuse-penalty)");
        self.report_unresolved(pod, between, (Some(cause), PENALTY));
        info!(pod = %pod.uid().0, client = %between.client, source = word, "cut off for abuse again and again: begins only now and then");
    }
}
