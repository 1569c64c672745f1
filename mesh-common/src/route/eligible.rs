//! Which endpoints of a Service may be chosen: what kube-proxy would offer a pod of this node.
//!
//! Kubernetes 1.35, `pkg/proxy/topology.go`: ready endpoints, else those that are terminating and still serve;
//! `internalTrafficPolicy: Local` keeps to the node; else hints, for nodes before zones, if every ready endpoint
//! has them and one is for here. Where no endpoint has hints, as with derived ones, `trafficDistribution` itself
//! is followed.

use std::net::{IpAddr, SocketAddr};

use super::Unroutable;
use crate::model::service::{InternalTrafficPolicy, TrafficDistribution};
use crate::model::{Endpoint, EndpointState};
use crate::snapshot::{ServicePortRecord, Snapshot};

/// The endpoints among which one is chosen; never empty.
pub(super) struct Eligible<'a> {
    offer: Offer<'a>,
    state: EndpointState,
    reach: Reach,
    count: usize,
}

/// All endpoints of the dialled family that were not tried, and from where.
struct Offer<'a> {
    snapshot: &'a Snapshot,
    endpoints: &'a [Endpoint],
    is_ipv4: bool,
    tried: &'a [SocketAddr],
    node: &'a str,
    zone: &'a str,
}

/// How far away endpoints may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Everywhere,
    SameNode,
    SameZone,
    HintedNode,
    HintedZone,
}

impl<'a> Eligible<'a> {
    pub(super) fn new(
        snapshot: &'a Snapshot,
        port: &'a ServicePortRecord,
        node: &'a str,
        family: IpAddr,
        tried: &'a [SocketAddr],
    ) -> Result<Self, Unroutable> {
        let zone = snapshot.node(node).map_or("", |node| &node.zone);
        let endpoints = port.endpoints();
        let offer = Offer { snapshot, endpoints, is_ipv4: family.is_ipv4(), tried, node, zone };
        let (state, reach) = match port.service().internal_traffic_policy {
            InternalTrafficPolicy::Cluster => {
                offer.across_the_cluster(port.service().traffic_distribution)?
            }
            InternalTrafficPolicy::Local => offer.on_this_node()?,
        };
        let count = offer.iter(state, reach).count();
        Ok(Self { offer, state, reach, count })
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &'a Endpoint> {
        self.offer.iter(self.state, self.reach)
    }

    pub(super) fn nth(&self, index: usize) -> Option<&'a Endpoint> {
        self.iter().nth(index)
    }
}

impl<'a> Offer<'a> {
    fn across_the_cluster(
        &self,
        distribution: TrafficDistribution,
    ) -> Result<(EndpointState, Reach), Unroutable> {
        if self.has(EndpointState::Ready, Reach::Everywhere) {
            return Ok((EndpointState::Ready, self.preferred(distribution)));
        }
        if self.has(EndpointState::ServingTerminating, Reach::Everywhere) {
            return Ok((EndpointState::ServingTerminating, Reach::Everywhere));
        }
        Err(self.nothing_left(Unroutable::NoneReady))
    }

    fn on_this_node(&self) -> Result<(EndpointState, Reach), Unroutable> {
        [EndpointState::Ready, EndpointState::ServingTerminating]
            .into_iter()
            .map(|state| (state, Reach::SameNode))
            .find(|&(state, reach)| self.has(state, reach))
            .ok_or_else(|| self.nothing_left(Unroutable::NoneOnThisNode))
    }

    fn nothing_left(&self, otherwise: Unroutable) -> Unroutable {
        let of_family =
            || self.endpoints.iter().filter(|endpoint| endpoint.address.is_ipv4() == self.is_ipv4);
        if of_family().next().is_none() {
            Unroutable::NoEndpoints
        } else if of_family().any(|endpoint| self.was_tried(endpoint)) {
            Unroutable::AllTried
        } else {
            otherwise
        }
    }

    fn preferred(&self, distribution: TrafficDistribution) -> Reach {
        let ready = || self.iter(EndpointState::Ready, Reach::Everywhere);
        let hinted = |reach: Reach| self.has(EndpointState::Ready, reach);
        if ready().all(|endpoint| !endpoint.hint_nodes.is_empty()) && hinted(Reach::HintedNode) {
            return Reach::HintedNode;
        }
        if ready().all(|endpoint| !endpoint.hint_zones.is_empty()) && hinted(Reach::HintedZone) {
            return Reach::HintedZone;
        }
        if ready().any(|endpoint| !(endpoint.hint_nodes.is_empty() && endpoint.hint_zones.is_empty())) {
            return Reach::Everywhere;
        }
        let preferences: &[Reach] = match distribution {
            TrafficDistribution::Any => &[],
            TrafficDistribution::PreferSameZone => &[Reach::SameZone],
            TrafficDistribution::PreferSameNode => &[Reach::SameNode, Reach::SameZone],
        };
        let offered = |reach: &Reach| self.has(EndpointState::Ready, *reach);
        preferences.iter().copied().find(offered).unwrap_or(Reach::Everywhere)
    }

    fn has(&self, state: EndpointState, reach: Reach) -> bool {
        self.iter(state, reach).next().is_some()
    }

    fn iter(&self, state: EndpointState, reach: Reach) -> impl Iterator<Item = &'a Endpoint> {
        self.endpoints.iter().filter(move |endpoint| {
            endpoint.state == state
                && endpoint.address.is_ipv4() == self.is_ipv4
                && self.reaches(reach, endpoint)
                && !self.was_tried(endpoint)
        })
    }

    fn was_tried(&self, endpoint: &Endpoint) -> bool {
        self.tried.contains(&SocketAddr::new(endpoint.address, endpoint.port))
    }

    fn reaches(&self, reach: Reach, endpoint: &Endpoint) -> bool {
        match reach {
            Reach::Everywhere => true,
            Reach::SameNode => !self.node.is_empty() && *endpoint.node == *self.node,
            Reach::SameZone => !self.zone.is_empty() && self.zone_of(endpoint) == self.zone,
            Reach::HintedNode => endpoint.hint_nodes.iter().any(|node| **node == *self.node),
            Reach::HintedZone => endpoint.hint_zones.iter().any(|zone| **zone == *self.zone),
        }
    }

    fn zone_of(&self, endpoint: &'a Endpoint) -> &'a str {
        match self.snapshot.node(&endpoint.node) {
            Some(node) if endpoint.zone.is_empty() => &node.zone,
            _ => &endpoint.zone,
        }
    }
}
