//! The six calls, outbound: a connection of an application of this node.

use std::net::SocketAddr;

use mesh_common::model::{ConnectionFacts, Direction, Found, PeerIdentity, ServerName};
use mesh_common::policy;
use mesh_common::resolve::{self, Destination, Target};
use mesh_common::route::{self, Choice, Plan};
use mesh_common::snapshot::Snapshot;
use mesh_common::tunnel::{Open, ResetReason, StreamKind};

use super::asking::Held;
use super::inbound::{asks_about_requests, called_waits, told_nothing};
use super::load::Unit;
use super::pod::PodHandle;
use super::record::{Decided, Record, Side, Subject, Undecided, reject};
use super::response::Rejection;
use super::{Between, Core};
use crate::transport::connect::Dial;
use crate::transport::http1::HttpCourse;
use crate::transport::tunnel::{Accepted, Course, Outbound, Refusal, TunnelKey};
use crate::transport::{CloseReason, Planned};

impl Core {
    /// Decides a connection that an application of `pod` opened.
    pub(super) fn outbound(
        &self,
        pod: &PodHandle,
        accepted: &Accepted<'_>,
    ) -> Result<Outbound<Record, Held>, Refusal> {
        let snapshot = self.snapshot();
        let facts = self.local_facts(&snapshot, pod, accepted)?;
        self.leave(pod, &snapshot, facts, None)
    }

    /// Decides a connection of an application, now that it is known what for.
    pub(super) fn outbound_to(
        &self,
        pod: &PodHandle,
        snapshot: &Snapshot,
        facts: ConnectionFacts,
        destination: Destination,
    ) -> Result<(Record, Course), Refusal> {
        self.outbound_knowing(pod, snapshot, facts, destination, None)
    }

    /// Decides a connection between two pods of this agent whose first bytes were waited for. `found` is what they told;
    /// nothing, if they do not.
    pub(super) fn looked_at_outbound(
        &self,
        pod: &PodHandle,
        record: &mut Record,
        found: Option<&Found>,
    ) -> Result<Course, Refusal> {
        let Some((place, Undecided { mut facts, .. })) = record.take_undecided() else {
            return Err(Refusal(ResetReason::Internal));
        };
        drop(place);
        let snapshot = self.snapshot();
        let silence = told_nothing();
        let found = found.unwrap_or(&silence);
        facts.server_name = found.server_name.clone();
        let destination = resolve::destination(&snapshot, &facts);
        let course;
        (*record, course) = self.outbound_knowing(pod, &snapshot, facts, destination, Some(found))?;
        Ok(course)
    }

    fn outbound_knowing(
        &self,
        pod: &PodHandle,
        snapshot: &Snapshot,
        facts: ConnectionFacts,
        destination: Destination,
        found: Option<&Found>,
    ) -> Result<(Record, Course), Refusal> {
        let place = self.place(pod, Subject { facts: &facts, destination: &destination, caller: None })?;
        let http = HttpCourse {
            dialled: facts.original_dst,
            known_client: true,
            one_exchange: false,
            expects_http2: destination.protocol.is_http2(),
        };
        if destination.protocol.is_http() && !matches!(destination.target, Target::Unknown(_)) {
            return Ok(self.requests_of(place, snapshot, facts, destination, http));
        }
        let subject = Subject { facts: &facts, destination: &destination, caller: None };
        let decided = self.decide(snapshot, &facts, &destination, &[]);
        let (plan, decided) = self.or_reject(decided, subject)?;
        if let Plan::Local(local) = &plan {
            match found {
                None if called_waits(snapshot, &facts, local) => {
                    let undecided = Undecided { facts, destination, caller: None };
                    return Ok((Record::undecided(place, undecided), Course::Look));
                }
                Some(found)
                    if found.spoken.protocol().is_http() && asks_about_requests(snapshot, &facts, local) =>
                {
                    self.learn(destination.service.as_ref(), found);
                    return Ok(self.requests_of(place, snapshot, facts, destination, http));
                }
                None | Some(_) => {}
            }
        }
        let mut side = Side::open(self, subject, &decided, &plan);
        if let Some(found) = found {
            self.learn(destination.service.as_ref(), found);
            side.turned_out(found);
        }
        let busy = self.load.add(plan.address(), Unit::Connection);
        let mut record = Record::new(place, Some(busy), side);
        match self.course(snapshot, pod, &mut record, plan, found) {
            Ok(course) => Ok((record, course)),
            Err(refusal) => {
                record.refused_by_called(refusal);
                Err(refusal)
            }
        }
    }

    /// Another endpoint for a connection whose endpoint was not there.
    pub(super) fn elsewhere(&self, record: &mut Record, failure: CloseReason) -> Option<Course> {
        let endpoint = record.endpoint()?;
        record.give_up();
        let snapshot = self.snapshot();
        let facts = record.facts().clone();
        if facts.direction == Direction::Inbound {
            return None;
        }
        let pod = self.pod(&facts.local.uid)?;
        let destination = resolve::destination(&snapshot, &facts);
        let plan = around(endpoint, has_others(&destination), failure, |tried| {
            let (plan, _) = self.decide(&snapshot, &facts, &destination, tried).ok()?;
            Some(plan)
        })?;
        record.set_busy(self.load.add(plan.address(), Unit::Connection));
        self.course(&snapshot, &pod, record, plan, None).ok()
    }

    fn local_facts(
        &self,
        snapshot: &Snapshot,
        pod: &PodHandle,
        accepted: &Accepted<'_>,
    ) -> Result<ConnectionFacts, Refusal> {
        let refuse = |rejection| {
            let between = Between::accepted(Direction::Outbound, accepted);
            self.refuse_unresolved(pod, between, &rejection)
        };
        // Taken whatever becomes of the connection: what is left in the kernel's map takes another's place.
        let original_dst = self.original_dst(pod, accepted);
        let original_dst = original_dst.ok_or_else(|| refuse(Rejection::NotCaptured))?;
        let local = snapshot.workload(pod.uid()).ok_or_else(|| refuse(Rejection::PodGone))?;
        let peer = accepted.peer;
        // A socket that was bound to an address keeps it; one that was not has loopback here.
        let own = super::of_family(&local.addresses, original_dst).filter(|_| peer.ip().is_loopback());
        let ip = own.unwrap_or(peer.ip());
        Ok(ConnectionFacts {
            direction: Direction::Outbound,
            client: SocketAddr::new(ip, peer.port()),
            original_dst,
            local: local.clone(),
            peer: PeerIdentity::Verified(local.identity.clone()),
            certificate: None,
            claimed_dst: None,
            server_name: ServerName::Unknown,
        })
    }

    fn decide(
        &self,
        snapshot: &Snapshot,
        facts: &ConnectionFacts,
        destination: &Destination,
        tried: &[SocketAddr],
    ) -> Result<(Plan, Decided), Rejection> {
        let permit = policy::authorize_connection(snapshot, facts, destination).map_err(Rejection::Denied)?;
        let decided = Decided::by(&permit);
        let choice = Choice { random: fastrand::u64(..), load: &self.load, tried };
        let plan = route::plan_connection(snapshot, permit, &choice).map_err(Rejection::Unroutable)?;
        Ok((plan, decided))
    }

    /// How a plan is carried out.
    fn course(
        &self,
        snapshot: &Snapshot,
        pod: &PodHandle,
        record: &mut Record,
        plan: Plan,
        found: Option<&Found>,
    ) -> Result<Course, Refusal> {
        let facts = record.facts();
        let planned = Planned::from(&plan);
        match plan {
            Plan::Tunnel(tunnel) => Ok(Course::Tunnel {
                key: TunnelKey {
                    source: pod.uid().clone(),
                    destination: tunnel.endpoint,
                    called: tunnel.workload.uid.clone(),
                    identity: tunnel.expected().clone(),
                },
                open: Open {
                    token: super::stream_token(),
                    kind: StreamKind::Opaque,
                    dialled: facts.original_dst,
                    source_port: facts.client.port(),
                },
                planned,
            }),
            Plan::Direct(direct) => Ok(Course::Direct {
                dial: Dial { source: Some(facts.client), ..super::dial::dial_from(pod, direct.address) },
                planned,
            }),
            Plan::Local(local) => {
                let (called, course) = self.called_here(snapshot, facts, &local, found)?;
                record.add_called(called);
                Ok(course)
            }
            Plan::Application(_) => Err(self.refuse(&Rejection::WrongDestination)),
        }
    }

    pub(super) fn or_reject<T>(
        &self,
        decided: Result<T, Rejection>,
        subject: Subject<'_>,
    ) -> Result<T, Refusal> {
        decided.map_err(|rejection| {
            reject(self, subject, &rejection);
            self.refuse(&rejection)
        })
    }
}

/// Whether what was dialled may be found elsewhere.
pub(super) fn has_others(destination: &Destination) -> bool {
    matches!(destination.target, Target::Service(_))
}

/// A plan around an endpoint that was not there: another one, where a Service `has_others`; or the same one, if only
/// the way to it was closed.
pub(super) fn around<P>(
    endpoint: SocketAddr,
    has_others: bool,
    failure: CloseReason,
    plan: impl Fn(&[SocketAddr]) -> Option<P>,
) -> Option<P> {
    let elsewhere = if has_others { plan(&[endpoint]) } else { None };
    elsewhere.or_else(|| failure.spares_the_endpoint().then(|| plan(&[]))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::ConnectFailure;

    const FIRST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);
    const OTHER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 2);
    const REFUSED: CloseReason = CloseReason::Connect(ConnectFailure::Refused);
    const DRAINING: CloseReason = CloseReason::PeerReset(ResetReason::Draining);

    /// What is chosen of `endpoints` around the first one.
    fn chosen(endpoints: &[SocketAddr], failure: CloseReason) -> Option<SocketAddr> {
        around(FIRST, true, failure, |tried| endpoints.iter().find(|one| !tried.contains(one)).copied())
    }

    #[test]
    fn an_endpoint_whose_tunnel_goes_away_is_tried_again_only_if_there_is_no_other() {
        assert_eq!(chosen(&[FIRST, OTHER], DRAINING), Some(OTHER));
        assert_eq!(chosen(&[FIRST], DRAINING), Some(FIRST));
        assert_eq!(chosen(&[FIRST, OTHER], REFUSED), Some(OTHER));
        assert_eq!(chosen(&[FIRST], REFUSED), None);
    }

    #[test]
    fn a_pod_that_was_dialled_itself_has_no_other_endpoint() {
        let itself = |failure| around(FIRST, false, failure, |tried| tried.is_empty().then_some(FIRST));
        assert_eq!(itself(DRAINING), Some(FIRST));
        assert_eq!(itself(REFUSED), None);
    }
}
