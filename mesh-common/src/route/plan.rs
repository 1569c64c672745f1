//! What transport is to do.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::model::{Endpoint, Protocol, SpiffeId, Text, Workload};
use crate::resolve::Destination;
use crate::snapshot::{Known, Snapshot};

/// What transport is to do with a connection or a request. Only this stage makes one.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub enum Plan {
    /// Through a tunnel to a workload of another node.
    Tunnel(Tunnel),
    /// In the clear, to what is not in the mesh.
    Direct(Direct),
    /// To a workload of this node: in process, by the inbound stages, on the caller's identity.
    Local(Local),
    /// Inbound: to the application.
    Application(Application),
}

/// Through a tunnel to a workload of another node.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Tunnel {
    /// The pod's address and original port.
    pub endpoint: SocketAddr,
    /// Whose certificate the other side must show.
    pub workload: Arc<Workload>,
    /// The dialled Service's DNS name; `None` for a pod that no Service has.
    pub sni: Option<Text>,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// In the clear, to what is not in the mesh.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Direct {
    /// Where to.
    pub address: SocketAddr,
    /// The pod that is not enrolled, if it is one.
    pub workload: Option<Arc<Workload>>,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// To a workload of this node.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Local {
    /// The pod's address and port: the inbound stages' `original_dst`.
    pub endpoint: SocketAddr,
    /// The pod.
    pub workload: Arc<Workload>,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// To the application of a pod of this node.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Application {
    /// The pod's address and port.
    pub address: SocketAddr,
    /// The pod.
    pub workload: Arc<Workload>,
    /// What is spoken there.
    pub protocol: Protocol,
}

impl Tunnel {
    /// The identity that the other side must prove.
    pub fn expected(&self) -> &SpiffeId {
        &self.workload.identity
    }
}

impl Plan {
    /// The address at the end: of the endpoint, the application, or what is outside the mesh.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Tunnel(tunnel) => tunnel.endpoint,
            Self::Direct(direct) => direct.address,
            Self::Local(local) => local.endpoint,
            Self::Application(application) => application.address,
        }
    }

    /// The pod at the end, where it is known.
    pub fn workload(&self) -> Option<&Arc<Workload>> {
        match self {
            Self::Tunnel(Tunnel { workload, .. })
            | Self::Local(Local { workload, .. })
            | Self::Application(Application { workload, .. }) => Some(workload),
            Self::Direct(direct) => direct.workload.as_ref(),
        }
    }
}

/// A plan in the making.
#[derive(Clone, Copy)]
pub(super) enum Way<'a> {
    Tunnel(SocketAddr, &'a Arc<Workload>),
    Direct(SocketAddr, Option<&'a Arc<Workload>>),
    Local(SocketAddr, &'a Arc<Workload>),
    Application(SocketAddr, &'a Arc<Workload>),
}

impl Way<'_> {
    pub(super) fn with(self, destination: &Destination) -> Plan {
        let protocol = destination.protocol;
        match self {
            Self::Tunnel(endpoint, workload) => {
                let sni = destination.service.as_ref().map(|called| Arc::clone(&called.service.host));
                Plan::Tunnel(Tunnel { endpoint, workload: Arc::clone(workload), sni, protocol })
            }
            Self::Direct(address, workload) => {
                Plan::Direct(Direct { address, workload: workload.cloned(), protocol })
            }
            Self::Local(endpoint, workload) => {
                Plan::Local(Local { endpoint, workload: Arc::clone(workload), protocol })
            }
            Self::Application(address, workload) => {
                Plan::Application(Application { address, workload: Arc::clone(workload), protocol })
            }
        }
    }
}

/// How to reach a pod. Between enrolled pods never in the clear.
pub(super) fn to_workload<'a>(
    caller: &Workload,
    address: SocketAddr,
    workload: &'a Arc<Workload>,
) -> Way<'a> {
    if !workload.takes_mesh_traffic_on(address.port()) {
        Way::Direct(address, Some(workload))
    } else if workload.node == caller.node {
        Way::Local(address, workload)
    } else {
        Way::Tunnel(address, workload)
    }
}

/// How to reach an endpoint; `None` if it cannot be said whose address it has, or if it is not the pod's any more
/// that the endpoint is about.
pub(super) fn to_endpoint<'a>(
    snapshot: &'a Snapshot,
    caller: &Workload,
    endpoint: &Endpoint,
) -> Option<Way<'a>> {
    let address = SocketAddr::new(endpoint.address, endpoint.port);
    let is_its = |workload: &Workload| endpoint.workload.as_ref().is_none_or(|uid| *uid == workload.uid);
    match snapshot.workload_claim(endpoint.address) {
        Known::Sole(workload) => is_its(workload).then(|| to_workload(caller, address, workload)),
        Known::Contested => None,
        Known::Nobody => match &endpoint.workload {
            Some(uid) => {
                let workload = snapshot.workload(uid)?;
                let is_there = workload.host_network && workload.addresses.contains(&endpoint.address);
                is_there.then_some(Way::Direct(address, Some(workload)))
            }
            // An address given by hand, outside the cluster. Inside it would be a pod that is not known yet.
            None => (!snapshot.is_inside(endpoint.address)).then_some(Way::Direct(address, None)),
        },
    }
}
