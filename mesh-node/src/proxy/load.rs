//! How busy endpoints are, as this core sees it.
//!
//! One table per core, shared by the connections and requests of that core alone: no lock, no atomic. With many
//! cores each balances by itself, which comes out even.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::rc::Rc;

use mesh_common::route::Load;

/// Open connections and requests by endpoint. A clone is the same table.
#[derive(Clone, Debug, Default)]
pub(super) struct LoadTable(Rc<RefCell<HashMap<SocketAddr, Busy, foldhash::fast::RandomState>>>);

#[derive(Clone, Copy, Debug, Default)]
struct Busy {
    connections: u32,
    requests: u32,
}

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unit {
    Connection,
    Request,
}

/// One connection or request that an endpoint is busy with; counted until it is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct BusyGuard {
    table: LoadTable,
    endpoint: SocketAddr,
    unit: Unit,
}

impl LoadTable {
    /// Counts one more.
    pub(super) fn add(&self, endpoint: SocketAddr, unit: Unit) -> BusyGuard {
        *self.0.borrow_mut().entry(endpoint).or_default().of(unit) += 1;
        BusyGuard { table: self.clone(), endpoint, unit }
    }

    fn busy(&self, endpoint: SocketAddr) -> Busy {
        self.0.borrow().get(&endpoint).copied().unwrap_or_default()
    }
}

impl Load for LoadTable {
    fn connections(&self, endpoint: SocketAddr) -> u32 {
        self.busy(endpoint).connections
    }

    fn requests(&self, endpoint: SocketAddr) -> u32 {
        self.busy(endpoint).requests
    }
}

impl BusyGuard {
    /// The endpoint.
    pub(super) fn endpoint(&self) -> SocketAddr {
        self.endpoint
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.table.0.borrow_mut().entry(self.endpoint) {
            let count = entry.get_mut().of(self.unit);
            *count = count.saturating_sub(1);
            if entry.get().is_idle() {
                entry.remove();
            }
        }
    }
}

impl Busy {
    fn of(&mut self, unit: Unit) -> &mut u32 {
        match unit {
            Unit::Connection => &mut self.connections,
            Unit::Request => &mut self.requests,
        }
    }

    fn is_idle(self) -> bool {
        self.connections == 0 && self.requests == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_busy_as_long_as_its_guards_live() {
        let table = LoadTable::default();
        let endpoint = SocketAddr::from(([10, 0, 0, 1], 80));
        let connection = table.add(endpoint, Unit::Connection);
        let request = table.add(endpoint, Unit::Request);
        assert_eq!((table.connections(endpoint), table.requests(endpoint)), (1, 1));
        drop(connection);
        assert_eq!((table.connections(endpoint), table.requests(endpoint)), (0, 1));
        drop(request);
        assert!(table.0.borrow().is_empty(), "idle endpoints are forgotten");
    }
}
