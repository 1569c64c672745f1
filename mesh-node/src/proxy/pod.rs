//! A captured pod, as the cores know it.

use std::sync::Arc;

use mesh_common::model::WorkloadUid;

use super::limits::PodPlaces;
use crate::capture::Namespace;

/// A captured pod; a clone is the same one. What may change while it is captured (labels, policy) is in the
/// snapshot, found by its uid.
#[derive(Clone, Debug)]
pub struct PodHandle(Arc<CapturedPod>);

#[derive(Debug)]
struct CapturedPod {
    uid: WorkloadUid,
    namespace: Namespace,
    places: Arc<PodPlaces>,
}

impl PodHandle {
    /// A pod whose sockets are in `namespace` and whose connections draw on `places`.
    pub fn new(uid: WorkloadUid, namespace: Namespace, places: Arc<PodPlaces>) -> Self {
        Self(Arc::new(CapturedPod { uid, namespace, places }))
    }

    /// Which pod.
    pub fn uid(&self) -> &WorkloadUid {
        &self.0.uid
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.0.namespace
    }

    /// What its connections draw on.
    pub(super) fn places(&self) -> &Arc<PodPlaces> {
        &self.0.places
    }
}
