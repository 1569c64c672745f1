//! The names of a pair of parties: as text for the scrape, as addresses for the core.

use std::sync::{Arc, LazyLock, Weak};

use mesh_common::model::{Service, Text, Workload};

use super::Parties;
use crate::telemetry::labels::{Reporter, SecurityPolicy};

/// What a label says when nothing is known.
static UNKNOWN: LazyLock<Text> = LazyLock::new(|| "unknown".into());
/// What a label says of series that found no room.
static OTHER: LazyLock<Text> = LazyLock::new(|| "other".into());

/// Finds a pair of parties again, by the addresses of their records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    reporter: Reporter,
    security: SecurityPolicy,
    source: usize,
    destination: usize,
    service: usize,
}

/// Keeps the records' memory from being used for other records; their contents may go.
pub struct Kept {
    _workloads: [Option<Weak<Workload>>; 2],
    _service: Option<Weak<Service>>,
}

/// Every label of a pair of parties.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Names {
    pub reporter: Reporter,
    pub security: SecurityPolicy,
    pub source: Party,
    pub destination: Party,
    pub service: DialledService,
}

/// The labels of one party.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Party {
    pub workload: Text,
    pub namespace: Text,
    pub canonical_service: Text,
    pub canonical_revision: Text,
    /// Without `spiffe://`; none if nothing was proved.
    pub principal: Option<Text>,
    pub app: Text,
    pub version: Text,
}

/// The labels of the dialled Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DialledService {
    pub host: Text,
    pub name: Text,
    pub namespace: Text,
}

impl Key {
    /// Returns the key of two parties; none if the caller proved an identity that is not its pod's, which only
    /// text can tell.
    pub fn of(parties: &Parties<'_>) -> Option<Self> {
        let is_own = match (parties.source_identity, parties.source) {
            (None, _) => true,
            (Some(identity), Some(source)) => *identity == source.identity,
            (Some(_), None) => false,
        };
        is_own.then(|| Self {
            reporter: parties.reporter,
            security: parties.security,
            source: address(parties.source),
            destination: address(parties.destination),
            service: address(parties.service),
        })
    }
}

fn address<T>(record: Option<&Arc<T>>) -> usize {
    record.map_or(0, |record| Arc::as_ptr(record).addr())
}

impl Kept {
    /// Keeps the records of two parties.
    pub fn of(parties: &Parties<'_>) -> Self {
        Self {
            _workloads: [parties.source.map(Arc::downgrade), parties.destination.map(Arc::downgrade)],
            _service: parties.service.map(Arc::downgrade),
        }
    }
}

impl Names {
    /// Returns the labels of two parties.
    pub fn of(parties: &Parties<'_>) -> Self {
        let is_mutual = parties.security == SecurityPolicy::MutualTls;
        let own = |workload: Option<&Arc<Workload>>| workload.map(|pod| pod.identity.principal().clone());
        let proved = parties.source_identity.map(|identity| identity.principal().clone());
        let source_principal = proved.or_else(|| own(parties.source)).filter(|_| is_mutual);
        let destination_principal = own(parties.destination).filter(|_| is_mutual);
        Self {
            reporter: parties.reporter,
            security: parties.security,
            source: Party::of(parties.source, source_principal),
            destination: Party::of(parties.destination, destination_principal),
            service: DialledService::of(parties.service),
        }
    }

    /// Returns the labels under which these are counted when there is no room.
    pub fn other(&self) -> Self {
        Self {
            source: Party::other(),
            destination: Party::other(),
            service: DialledService::other(),
            ..*self
        }
    }
}

impl Party {
    fn of(workload: Option<&Arc<Workload>>, principal: Option<Text>) -> Self {
        let Some(workload) = workload else {
            return Self { principal, ..Self::all(&UNKNOWN) };
        };
        let names = &workload.labels_for_metrics;
        Self {
            workload: names.workload.clone(),
            namespace: workload.name.namespace.clone(),
            canonical_service: names.service.clone(),
            canonical_revision: names.revision.clone(),
            principal,
            app: names.app.clone(),
            version: names.version.clone(),
        }
    }

    fn other() -> Self {
        Self::all(&OTHER)
    }

    fn all(word: &Text) -> Self {
        Self {
            workload: word.clone(),
            namespace: word.clone(),
            canonical_service: word.clone(),
            canonical_revision: word.clone(),
            principal: None,
            app: word.clone(),
            version: word.clone(),
        }
    }
}

impl DialledService {
    fn of(service: Option<&Arc<Service>>) -> Self {
        service.map_or_else(
            || Self::all(&UNKNOWN),
            |service| Self {
                host: service.host.clone(),
                name: service.name.name.clone(),
                namespace: service.name.namespace.clone(),
            },
        )
    }

    fn other() -> Self {
        Self::all(&OTHER)
    }

    fn all(word: &Text) -> Self {
        Self { host: word.clone(), name: word.clone(), namespace: word.clone() }
    }
}
