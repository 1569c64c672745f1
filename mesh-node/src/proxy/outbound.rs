//! The six calls, outbound: a connection of an application of this node.

use std::net::SocketAddr;

use mesh_common::model::{ConnectionFacts, Direction, PeerIdentity};
use mesh_common::policy;
use mesh_common::resolve::{self, Destination, Target};
use mesh_common::route::{self, Choice, Plan};
use mesh_common::snapshot::Snapshot;
use mesh_common::tunnel::{Open, StreamKind};

use super::inbound::asks_about_requests;
use super::load::Unit;
use super::pod::PodHandle;
use super::record::{Decided, Record, Side, Subject, reject};
use super::response::Rejection;
use super::{Between, Core};
use crate::transport::Planned;
use crate::transport::connect::Dial;
use crate::transport::http1::HttpCourse;
use crate::transport::tunnel::{Accepted, Course, Refusal, TunnelKey};

impl Core {
    /// Decides a connection that an application of `pod` opened.
    pub(super) fn outbound(
        &self,
        pod: &PodHandle,
        accepted: &Accepted<'_>,
    ) -> Result<(Record, Course), Refusal> {
        let snapshot = self.snapshot();
        let facts = self.local_facts(&snapshot, pod, accepted)?;
        let destination = resolve::destination(&snapshot, &facts);
        let place = self.place(pod, Subject { facts: &facts, destination: &destination, caller: None })?;
        let http = HttpCourse { dialled: facts.original_dst, known_client: true, one_exchange: false };
        if destination.protocol.is_http() && !matches!(destination.target, Target::Unknown(_)) {
            return Ok(self.requests_of(place, &snapshot, facts, destination, http));
        }
        let subject = Subject { facts: &facts, destination: &destination, caller: None };
        let decided = self.decide(&snapshot, &facts, &destination, &[]);
        let (plan, decided) = self.or_reject(decided, subject)?;
        if matches!(&plan, Plan::Local(local) if asks_about_requests(&snapshot, &facts, local)) {
            return Ok(self.requests_of(place, &snapshot, facts, destination, http));
        }
        let side = Side::open(self, subject, &decided, &plan);
        let busy = self.load.add(plan.address(), Unit::Connection);
        let mut record = Record::new(place, Some(busy), side);
        match self.course(&snapshot, pod, &mut record, plan) {
            Ok(course) => Ok((record, course)),
            Err(refusal) => {
                record.refused_by_called(refusal);
                Err(refusal)
            }
        }
    }

    /// Another endpoint for a connection whose endpoint was not there.
    pub(super) fn elsewhere(&self, record: &mut Record) -> Option<Course> {
        let endpoint = record.endpoint()?;
        record.give_up(endpoint);
        let snapshot = self.snapshot();
        let facts = record.facts().clone();
        if facts.direction == Direction::Inbound {
            return None;
        }
        let pod = self.pod(&facts.local.uid)?;
        let destination = resolve::destination(&snapshot, &facts);
        if !matches!(destination.target, Target::Service(_)) {
            return None;
        }
        let tried = record.tried().to_vec();
        let (plan, _) = self.decide(&snapshot, &facts, &destination, &tried).ok()?;
        record.set_busy(self.load.add(plan.address(), Unit::Connection));
        self.course(&snapshot, &pod, record, plan).ok()
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
            claimed_dst: None,
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
                dial: Dial { source: Some(facts.client), ..super::dial_from(pod, direct.address) },
                planned,
            }),
            Plan::Local(local) => {
                let (called, course) = self.called_here(snapshot, facts, &local)?;
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
            reject(&self.traffic, &self.shared.access_log, subject, &rejection);
            self.refuse(&rejection)
        })
    }
}
