//! What ports of Services turned out to speak that declare nothing: kept for people, to be told in `status`.
//!
//! In: what the engine found in the first bytes of connections. Out: counts per Service port. Nothing is decided by it:
//! what earlier connections spoke says nothing of the next one. Bounded by [`MAX_PORTS`] a core; what is known of a port
//! is forgotten when its Service changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use mesh_common::model::{Found, NamespacedName, Protocol, ServerName, Service, ServicePort, Spoken};
use mesh_common::resolve::{self, CalledService};
use mesh_common::snapshot::Snapshot;

use super::Core;
use super::record::Record;
use crate::telemetry::labels::AskedName;

/// Ports that a core keeps something of.
const MAX_PORTS: usize = 4096;

type Table = HashMap<(NamespacedName, u16), Spoke>;

/// What all cores found.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    cores: Arc<Mutex<Vec<Arc<Mutex<Table>>>>>,
}

/// What one core found.
#[derive(Clone, Debug, Default)]
pub(super) struct CoreLearned(Arc<Mutex<Table>>);

/// What connections to a port spoke.
#[derive(Clone, Debug)]
struct Spoke {
    service: Arc<Service>,
    port: ServicePort,
    /// Connections, by [`Spoken::ALL`].
    connections: [u64; Spoken::ALL.len()],
}

/// A port that declares nothing, and what connections to it spoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearnedPort {
    /// The Service.
    pub service: NamespacedName,
    /// Its port.
    pub port: u16,
    /// Connections, by what they spoke; only what was seen.
    pub connections: Vec<(Spoken, u64)>,
}

impl Learned {
    pub(super) fn core(&self) -> CoreLearned {
        let core = CoreLearned::default();
        self.cores.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&core.0));
        core
    }

    /// What is known of ports that are still as they were, by name and number.
    pub fn ports(&self, snapshot: &Snapshot) -> Vec<LearnedPort> {
        let mut all: BTreeMap<(NamespacedName, u16), [u64; Spoken::ALL.len()]> = BTreeMap::new();
        for core in &*self.cores.lock().unwrap_or_else(PoisonError::into_inner) {
            let mut table = core.lock().unwrap_or_else(PoisonError::into_inner);
            table.retain(|(name, number), spoke| {
                snapshot.service(name).is_some_and(|record| spoke.is_about(&record.service, *number))
            });
            for (key, spoke) in &*table {
                let sums = all.entry(key.clone()).or_default();
                sums.iter_mut().zip(spoke.connections).for_each(|(sum, count)| *sum += count);
            }
        }
        let seen = |counts: [u64; Spoken::ALL.len()]| {
            Spoken::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect()
        };
        let ports = all.into_iter();
        ports
            .map(|((service, port), counts)| LearnedPort { service, port, connections: seen(counts) })
            .collect()
    }
}

impl CoreLearned {
    /// A connection to a Service's port spoke this.
    fn note(&self, called: &CalledService, spoken: Spoken) {
        let port = called.port();
        if port.protocol != Protocol::Undeclared {
            return;
        }
        // Of this core alone, but for `status`.
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (called.service.name.clone(), port.port);
        if table.len() >= MAX_PORTS && !table.contains_key(&key) {
            return;
        }
        let fresh = || Spoke {
            service: Arc::clone(&called.service),
            port: port.clone(),
            connections: Default::default(),
        };
        let spoke = table.entry(key).or_insert_with(fresh);
        if !spoke.is_about(&called.service, port.port) {
            *spoke = fresh();
        }
        spoke.connections[spoken as usize] += 1;
    }
}

impl Spoke {
    /// Whether the port is as it was.
    fn is_about(&self, service: &Arc<Service>, number: u16) -> bool {
        Arc::ptr_eq(&self.service, service)
            || self.service.selector == service.selector
                && service.ports.iter().any(|port| port.port == number && *port == self.port)
    }
}

impl Core {
    /// An opaque connection turned out to speak this.
    pub(super) fn connection_found(&self, record: &mut Record, found: &Found) {
        let snapshot = self.snapshot();
        let destination = resolve::destination(&snapshot, record.facts());
        self.learn(destination.service.as_ref(), found);
        record.turned_out(found);
    }

    /// Counts what was found.
    pub(super) fn learn(&self, called: Option<&CalledService>, found: &Found) {
        if let Some(called) = called {
            if !matches!(called.port().protocol, Protocol::Undeclared | Protocol::Tls) {
                return;
            }
            self.learned.note(called, found.spoken);
        }
        let host = called.map(|called| &*called.service.host);
        self.shared.metrics.detected(found.spoken, asked(&found.server_name, host));
    }
}

/// A name as a label: names that clients choose would make series without bound.
fn asked(name: &ServerName, host: Option<&str>) -> AskedName {
    match name {
        ServerName::Unknown => AskedName::Unknown,
        ServerName::Absent => AskedName::None,
        ServerName::Name(name) if host.is_some_and(|host| is_name_of(name, host)) => AskedName::Service,
        ServerName::Name(_) => AskedName::Other,
    }
}

/// Whether a name is a Service's, in full or as far as pods' search lists complete it: `NAME.NAMESPACE`, `NAME`.
fn is_name_of(name: &str, host: &str) -> bool {
    host.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_as_the_services_if_a_resolver_would_complete_it_to_that() {
        let host = Some("db.shop.svc.cluster.local");
        for (name, expected) in [
            ("db.shop.svc.cluster.local", AskedName::Service),
            ("db.shop", AskedName::Service),
            ("db", AskedName::Service),
            ("d", AskedName::Other),
            ("db.shop.svc.cluster.local.evil", AskedName::Other),
        ] {
            assert_eq!(asked(&ServerName::Name(name.into()), host), expected, "{name}");
        }
        assert_eq!(asked(&ServerName::Name("db".into()), None), AskedName::Other);
        assert_eq!(asked(&ServerName::Absent, host), AskedName::None);
    }
}
