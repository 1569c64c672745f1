//! Objects of the model together with what the tables found out about them.

use std::sync::Arc;

use smallvec::SmallVec;

use super::policy_set::PolicySet;
use crate::model::{
    Endpoint, NamespacedName, PeerAuthentication, Service, ServicePort, Workload, WorkloadUid,
};

/// A workload with the policies that select it by labels.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WorkloadRecord {
    pub(super) workload: Arc<Workload>,
    pub(super) policies: Option<Arc<PolicySet>>,
    pub(super) peer_authentication: Option<Arc<PeerAuthentication>>,
}

/// A Service with the endpoints of each of its ports.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceRecord {
    /// The Service.
    pub service: Arc<Service>,
    /// For each of its ports, in their order: the endpoints, sorted, each once.
    pub(super) endpoints: SmallVec<[Arc<[Endpoint]>; 1]>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServicePortRecord {
    /// The Service and its endpoints.
    pub record: Arc<ServiceRecord>,
    /// Which of `record.service.ports`.
    pub(super) index: usize,
}

/// That an address and port is an endpoint of a Service port.
#[derive(Clone, Debug, PartialEq)]
pub struct Membership {
    /// The Service.
    pub service: Arc<Service>,
    /// Which of `service.ports`.
    pub(super) index: usize,
    /// The pod that the endpoint was about; `None` if it names none.
    pub workload: Option<WorkloadUid>,
}

impl ServiceRecord {
    /// The endpoints of one of its ports, sorted; none if there is no such port.
    pub fn endpoints_of(&self, port: usize) -> &[Endpoint] {
        self.endpoints.get(port).map_or(&[], |endpoints| endpoints)
    }
}

impl ServicePortRecord {
    /// The Service.
    pub fn service(&self) -> &Arc<Service> {
        &self.record.service
    }

    /// The port.
    pub fn port(&self) -> &ServicePort {
        &self.record.service.ports[self.index]
    }

    /// Which of the Service's ports it is.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Its endpoints of every state, sorted.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.record.endpoints[self.index]
    }
}

impl Membership {
    /// The port.
    pub fn port(&self) -> &ServicePort {
        &self.service.ports[self.index]
    }

    /// Which of the Service's ports it is.
    pub fn index(&self) -> usize {
        self.index
    }

    /// What memberships of one endpoint are told apart and ordered by.
    pub(super) fn order(&self) -> (&NamespacedName, usize, Option<&WorkloadUid>) {
        (&self.service.name, self.index, self.workload.as_ref())
    }

    /// Whether it is in this port of this Service.
    pub fn is_of(&self, port: &ServicePortRecord) -> bool {
        self.index == port.index && self.service.name == port.record.service.name
    }

    /// Whether it is about this pod, and not about one that had the address before.
    pub fn is_about(&self, workload: &Workload) -> bool {
        self.workload.as_ref().is_none_or(|uid| *uid == workload.uid)
    }
}
