//! Stage 3. What was asked for: an address becomes a destination.
//!
//! In: a snapshot and the facts of a connection. Out: a [`Destination`]. Never waits, logs or fails; what is not
//! known is a value, and never the outside of the mesh.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::model::{ConnectionFacts, Direction, Protocol, Service, ServicePort, Workload};
use crate::snapshot::{Known, KnownService, Membership, ServicePortRecord, Snapshot};

#[cfg(test)]
mod tests;

/// What a connection is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    /// The address that it names: outbound as the application dialled it, inbound the pod's.
    pub address: SocketAddr,
    /// What the address stands for.
    pub target: Target,
    /// The Service by which it is called, where one can be told: the dialled one; for a pod's address the one that
    /// OPEN claims if it has this endpoint, else the first that has it.
    pub service: Option<CalledService>,
    /// What is spoken there, as declared.
    pub protocol: Protocol,
}

/// What an address stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// A Service port: one of its endpoints is to be chosen.
    Service(ServicePortRecord),
    /// A pod, by its own address. It may be the caller itself.
    Workload(Arc<Workload>),
    /// Inbound: the pod of this node that is called.
    Local(Arc<Workload>),
    /// An address outside the mesh.
    External,
    /// It cannot be said what it is; nothing may go there.
    Unknown(UnknownTarget),
}

/// Why it cannot be said what an address stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnknownTarget {
    /// A Service has the address, and no such port.
    NoSuchServicePort,
    /// Several pods or Services claim the address.
    Contested,
    /// The address is in a range of pods or Services, and nothing is known of it yet.
    NotYetKnown,
    /// Nothing was asked about the address: to be asked, and then resolved again.
    NotAsked,
    /// The local pod is not known any more.
    LocalGone,
    /// Inbound: the address is not one of the local pod's.
    NotLocalAddress,
}

/// The Service by which a workload is called.
#[derive(Clone, Debug, PartialEq)]
pub struct CalledService {
    /// The Service.
    pub service: Arc<Service>,
    /// Which of its ports.
    index: usize,
}

impl CalledService {
    /// The port of the Service.
    pub fn port(&self) -> &ServicePort {
        &self.service.ports[self.index]
    }
}

impl Destination {
    /// The same destination, now that its first bytes showed what is spoken. A declared protocol stays.
    #[must_use]
    pub fn with_detected(self, protocol: Protocol) -> Self {
        match self.protocol {
            Protocol::Undeclared => Self { protocol, ..self },
            _ => self,
        }
    }

    /// The pod that is called, if it is known already: not for a Service, whose endpoint is still to be chosen.
    pub fn workload(&self) -> Option<&Arc<Workload>> {
        match &self.target {
            Target::Workload(workload) | Target::Local(workload) => Some(workload),
            Target::Service(_) | Target::External | Target::Unknown(_) => None,
        }
    }

    /// Whether it is to be asked what it is.
    pub fn is_to_be_asked(&self) -> bool {
        self.target == Target::Unknown(UnknownTarget::NotAsked)
    }

    fn outside(address: SocketAddr) -> Self {
        Self { address, target: Target::External, service: None, protocol: Protocol::Undeclared }
    }

    fn nowhere(address: SocketAddr, reason: UnknownTarget) -> Self {
        Self { address, target: Target::Unknown(reason), service: None, protocol: Protocol::Undeclared }
    }
}

/// Returns what a connection is for.
pub fn destination(snapshot: &Snapshot, facts: &ConnectionFacts) -> Destination {
    let Some(local) = snapshot.workload(&facts.local.uid) else {
        return Destination::nowhere(facts.original_dst, UnknownTarget::LocalGone);
    };
    match facts.direction {
        Direction::Outbound => outbound(snapshot, facts.original_dst),
        Direction::Inbound => inbound(snapshot, facts, local),
    }
}

/// What a destination is about which was asked and nothing was heard in time: outside, where that can be said.
pub fn unanswered(snapshot: &Snapshot, destination: Destination) -> Destination {
    match destination.target {
        Target::Unknown(UnknownTarget::NotAsked) if snapshot.is_outside(destination.address) => {
            Destination::outside(destination.address)
        }
        _ => destination,
    }
}

fn outbound(snapshot: &Snapshot, address: SocketAddr) -> Destination {
    if !snapshot.unasked(address).is_empty() {
        return Destination::nowhere(address, UnknownTarget::NotAsked);
    }
    match snapshot.service_at(address) {
        KnownService::Port(port) => return of_service(address, port),
        KnownService::NoSuchPort => return Destination::nowhere(address, UnknownTarget::NoSuchServicePort),
        KnownService::Contested => return Destination::nowhere(address, UnknownTarget::Contested),
        KnownService::Nobody => {}
    }
    match snapshot.workload_claim(address.ip()) {
        Known::Sole(workload) => of_workload(snapshot, address, workload),
        Known::Contested => Destination::nowhere(address, UnknownTarget::Contested),
        Known::Nobody if snapshot.is_inside(address.ip()) => {
            Destination::nowhere(address, UnknownTarget::NotYetKnown)
        }
        Known::Nobody => Destination::outside(address),
    }
}

fn of_service(address: SocketAddr, port: ServicePortRecord) -> Destination {
    let protocol = port.port().protocol;
    let service = CalledService { service: Arc::clone(port.service()), index: port.index() };
    Destination { address, target: Target::Service(port), service: Some(service), protocol }
}

fn of_workload(snapshot: &Snapshot, address: SocketAddr, workload: &Arc<Workload>) -> Destination {
    let memberships = || memberships(snapshot, address, workload);
    Destination {
        address,
        target: Target::Workload(Arc::clone(workload)),
        service: memberships().next().map(called),
        protocol: declared(memberships()),
    }
}

fn inbound(snapshot: &Snapshot, facts: &ConnectionFacts, local: &Arc<Workload>) -> Destination {
    let address = facts.original_dst;
    if !local.addresses.contains(&address.ip()) {
        return Destination::nowhere(address, UnknownTarget::NotLocalAddress);
    }
    let memberships = || memberships(snapshot, address, local);
    // What OPEN says is a hint: it chooses among the Services that have this endpoint, and adds none.
    let claimed = match facts.claimed_dst.map(|claimed| snapshot.service_at(claimed)) {
        Some(KnownService::Port(port)) => memberships().find(|membership| membership.is_of(&port)),
        _ => None,
    };
    Destination {
        address,
        target: Target::Local(Arc::clone(local)),
        service: claimed.or_else(|| memberships().next()).map(called),
        protocol: claimed.map_or_else(|| declared(memberships()), |membership| membership.port().protocol),
    }
}

/// The Service ports that have this endpoint of this pod, not of one that had the address before.
fn memberships<'a>(
    snapshot: &'a Snapshot,
    address: SocketAddr,
    workload: &'a Workload,
) -> impl Iterator<Item = &'a Membership> {
    snapshot.memberships(address).iter().filter(|membership| membership.is_about(workload))
}

fn called(membership: &Membership) -> CalledService {
    CalledService { service: Arc::clone(&membership.service), index: membership.index() }
}

/// What the Services that have an endpoint declare; where they contradict each other, nothing is declared.
fn declared<'a>(memberships: impl Iterator<Item = &'a Membership>) -> Protocol {
    let mut protocols =
        memberships.map(|member| member.port().protocol).filter(|protocol| *protocol != Protocol::Undeclared);
    let Some(first) = protocols.next() else { return Protocol::Undeclared };
    if protocols.all(|other| other == first) { first } else { Protocol::Undeclared }
}
