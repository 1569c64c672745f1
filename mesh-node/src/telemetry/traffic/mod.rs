//! Traffic metrics under Istio's standard names, for both reporters.
//!
//! In: who talked to whom over what, and how it ended. Out: Prometheus text. Counting takes no lock and looks
//! nothing up by text: each core has cells of its own, found by the addresses of the workloads' and services'
//! records, and a scrape adds the cores up. Only what a core meets for the first time takes a lock and text. The
//! number of series is bounded: idle ones make room, and what finds none is counted under `other`.

mod cells;
mod exposition;
mod names;
mod table;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use mesh_common::model::{Service, SpiffeId, Workload};

use self::cells::{Cells, ConnectionCells, MessageCells, RequestCells};
use self::names::{Kept, Key, Names};
use self::table::{Series, Table};
use super::labels::{Reporter, RequestProtocol, ResponseFlags, SecurityPolicy};

pub use self::exposition::{DESCRIPTIONS, write_build};

/// A core forgets what it resolved once it holds this many pairs of pods per series allowed.
const RESOLVED_PER_SERIES: usize = 4;

/// Who talks to whom, as one daemon knows it.
#[derive(Clone, Copy, Debug)]
pub struct Parties<'a> {
    /// Which side counts.
    pub reporter: Reporter,
    /// Whether both proved who they are.
    pub security: SecurityPolicy,
    /// The caller's pod, if it is known.
    pub source: Option<&'a Arc<Workload>>,
    /// The identity that the caller proved. Without one, the pod's own counts where security is mutual TLS.
    pub source_identity: Option<&'a SpiffeId>,
    /// The called pod, if it is known.
    pub destination: Option<&'a Arc<Workload>>,
    /// The Service that was dialled, if one was.
    pub service: Option<&'a Arc<Service>>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestOutcome {
    /// `http` or `grpc`.
    pub protocol: RequestProtocol,
    /// The response's status code; 0 if there was no response.
    pub code: u16,
    /// `grpc-status` of the response, where there is one.
    pub grpc_status: Option<u8>,
    /// What else is to say.
    pub flags: ResponseFlags,
}

/// All traffic of this agent, counted. A clone counts into the same series.
#[derive(Clone)]
pub struct TrafficMetrics {
    shared: Arc<Shared>,
}

struct Shared {
    tables: Mutex<Tables>,
    /// Changes with each eviction; tells cores to look through what they hold.
    evictions: AtomicU64,
    /// Series that found no room and were counted under `other`.
    overflows: AtomicU64,
    cores: usize,
    limit: usize,
}

struct Tables {
    connections: Table<{ cells::CONNECTION }>,
    requests: Table<{ cells::REQUEST }>,
    messages: Table<{ cells::MESSAGES }>,
}

/// One core's part: not to be shared with another thread. A clone is the same part.
#[derive(Clone)]
pub struct CoreTraffic {
    core: Rc<Core>,
}

struct Core {
    shared: Arc<Shared>,
    number: usize,
    resolved: RefCell<HashMap<Key, Rc<Resolved>, RandomState>>,
    seen_evictions: Cell<u64>,
}

/// The series of one pair of parties on one core.
struct Resolved {
    names: Names,
    /// Keeps the addresses in the key from being used again.
    _kept: Kept,
    connections: RefCell<HashMap<ResponseFlags, Arc<ConnectionCells>, RandomState>>,
    requests: RefCell<HashMap<RequestOutcome, Arc<RequestCells>, RandomState>>,
    messages: RefCell<Option<Arc<MessageCells>>>,
}

/// A connection that was counted as opened, and will be as closed when this is dropped.
pub struct OpenConnection {
    core: CoreTraffic,
    resolved: Rc<Resolved>,
    cells: Arc<ConnectionCells>,
    flags: ResponseFlags,
}

/// The requests of one pair of parties.
#[derive(Clone)]
pub struct Requests {
    core: CoreTraffic,
    resolved: Rc<Resolved>,
}

impl TrafficMetrics {
    /// Makes the counters of `cores` cores, with at most `limit` series (sets of labels).
    pub fn new(cores: usize, limit: usize) -> Self {
        let tables = Tables {
            connections: Table::new(cores),
            requests: Table::new(cores),
            messages: Table::new(cores),
        };
        Self {
            shared: Arc::new(Shared {
                tables: Mutex::new(tables),
                evictions: AtomicU64::new(0),
                overflows: AtomicU64::new(0),
                cores,
                limit,
            }),
        }
    }

    /// Returns the part of one core, counted from 0.
    ///
    /// # Panics
    /// If there are not that many cores.
    pub fn core(&self, number: usize) -> CoreTraffic {
        assert!(number < self.shared.cores, "core {number} of {}", self.shared.cores);
        CoreTraffic {
            core: Rc::new(Core {
                shared: Arc::clone(&self.shared),
                number,
                resolved: RefCell::default(),
                seen_evictions: Cell::new(0),
            }),
        }
    }

    /// Appends every series in Prometheus' text format.
    pub fn render(&self, text: &mut String) {
        let (connections, requests, messages) = {
            let mut tables = self.shared.lock();
            (tables.connections.sums(), tables.requests.sums(), tables.messages.sums())
        };
        exposition::write(text, &connections, &requests, &messages);
        exposition::write_own(
            text,
            connections.len() + requests.len() + messages.len(),
            self.shared.evictions.load(Ordering::Relaxed),
            self.shared.overflows.load(Ordering::Relaxed),
        );
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Tables> {
        // What a panicking scrape leaves behind is still a table: sums are only read.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cells of one core for a series of the table that `which` says.
    fn cells<const N: usize>(
        &self,
        which: impl FnOnce(&mut Tables) -> &mut Table<N>,
        core: usize,
        series: &Series,
    ) -> Arc<Cells<N>> {
        let tables = &mut *self.lock();
        let taken = tables.connections.len() + tables.requests.len() + tables.messages.len();
        let table = which(tables);
        let evicted = table.make_room(series, taken, self.limit, Instant::now());
        self.evictions.fetch_add(evicted, Ordering::Relaxed);
        let (cells, fits) = table.cells(series, core, taken - count(evicted) < self.limit);
        self.overflows.fetch_add(u64::from(!fits), Ordering::Relaxed);
        cells
    }
}

fn count(evicted: u64) -> usize {
    usize::try_from(evicted).expect("no more are evicted than a table holds")
}

impl CoreTraffic {
    /// Counts a connection as opened; the guard counts its bytes and its end.
    pub fn connection_opened(&self, parties: &Parties<'_>) -> OpenConnection {
        let resolved = self.resolve(parties);
        let cells = self.connection_cells(&resolved, ResponseFlags::None);
        cells.add(cells::OPENED, 1);
        OpenConnection { core: self.clone(), resolved, cells, flags: ResponseFlags::None }
    }

    /// Counts a connection that was refused or could not be made.
    pub fn connection_failed(&self, parties: &Parties<'_>, flags: ResponseFlags) {
        let resolved = self.resolve(parties);
        self.connection_cells(&resolved, flags).add(cells::FAILED, 1);
    }

    /// Returns what counts the requests between two parties; resolved once per connection.
    pub fn requests(&self, parties: &Parties<'_>) -> Requests {
        Requests { core: self.clone(), resolved: self.resolve(parties) }
    }

    fn resolve(&self, parties: &Parties<'_>) -> Rc<Resolved> {
        let Some(key) = Key::of(parties) else {
            return Rc::new(Resolved::new(parties));
        };
        if let Some(resolved) = self.core.resolved.borrow().get(&key) {
            return Rc::clone(resolved);
        }
        let fresh = Rc::new(Resolved::new(parties));
        let mut resolved = self.core.resolved.borrow_mut();
        if resolved.len() >= self.core.shared.limit.saturating_mul(RESOLVED_PER_SERIES) {
            resolved.clear();
        }
        resolved.insert(key, Rc::clone(&fresh));
        fresh
    }

    fn connection_cells(&self, resolved: &Resolved, flags: ResponseFlags) -> Arc<ConnectionCells> {
        if let Some(cells) = resolved.connections.borrow().get(&flags)
            && !cells.is_retired()
        {
            return Arc::clone(cells);
        }
        let outcome = RequestOutcome { protocol: RequestProtocol::Tcp, code: 0, grpc_status: None, flags };
        let series = Series { names: resolved.names.clone(), outcome };
        let cells = self.core.shared.cells(|tables| &mut tables.connections, self.core.number, &series);
        resolved.connections.borrow_mut().insert(flags, Arc::clone(&cells));
        self.let_go_of_retired();
        cells
    }

    fn request_ended(&self, resolved: &Resolved, outcome: RequestOutcome, took: Duration) {
        if let Some(cells) = resolved.requests.borrow().get(&outcome)
            && !cells.is_retired()
        {
            cells.request(took);
            return;
        }
        let series = Series { names: resolved.names.clone(), outcome };
        let cells = self.core.shared.cells(|tables| &mut tables.requests, self.core.number, &series);
        cells.request(took);
        resolved.requests.borrow_mut().insert(outcome, cells);
        self.let_go_of_retired();
    }

    fn messages_passed(&self, resolved: &Resolved, passed: [u64; 2]) {
        if let Some(cells) = &*resolved.messages.borrow()
            && !cells.is_retired()
        {
            cells.messages(passed);
            return;
        }
        // How the call ends is not known while they pass.
        let (protocol, flags) = (RequestProtocol::Grpc, ResponseFlags::None);
        let outcome = RequestOutcome { protocol, code: 0, grpc_status: None, flags };
        let series = Series { names: resolved.names.clone(), outcome };
        let cells = self.core.shared.cells(|tables| &mut tables.messages, self.core.number, &series);
        cells.messages(passed);
        *resolved.messages.borrow_mut() = Some(cells);
        self.let_go_of_retired();
    }

    /// After an eviction, drops retired cells, so that the table can forget them too, and those of `other`, so that
    /// what found no room looks for it again.
    fn let_go_of_retired(&self) {
        let evictions = self.core.shared.evictions.load(Ordering::Relaxed);
        if self.core.seen_evictions.replace(evictions) == evictions {
            return;
        }
        self.core.resolved.borrow_mut().retain(|_, resolved| {
            let mut connections = resolved.connections.borrow_mut();
            let mut requests = resolved.requests.borrow_mut();
            connections.retain(|_, cells| cells.is_settled());
            requests.retain(|_, cells| cells.is_settled());
            let mut messages = resolved.messages.borrow_mut();
            messages.take_if(|cells| !cells.is_settled());
            let is_used = !connections.is_empty() || !requests.is_empty() || messages.is_some();
            is_used || Rc::strong_count(resolved) > 1
        });
    }
}

impl Resolved {
    fn new(parties: &Parties<'_>) -> Self {
        Self {
            names: Names::of(parties),
            _kept: Kept::of(parties),
            connections: RefCell::default(),
            requests: RefCell::default(),
            messages: RefCell::default(),
        }
    }
}

impl OpenConnection {
    /// Counts bytes from the caller to the called side: `istio_tcp_received_bytes_total` for both reporters,
    /// as Istio has it (istio#32399: boards depend on it).
    pub fn carried_to_destination(&self, bytes: u64) {
        self.cells.add(cells::RECEIVED, bytes);
    }

    /// Counts bytes from the called side to the caller: `istio_tcp_sent_bytes_total` for both reporters.
    pub fn carried_to_source(&self, bytes: u64) {
        self.cells.add(cells::SENT, bytes);
    }

    /// Says how it ended, if not as usual.
    pub fn ended_with(&mut self, flags: ResponseFlags) {
        self.flags = flags;
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        if self.flags == ResponseFlags::None {
            self.cells.add(cells::CLOSED, 1);
        } else {
            self.core.connection_cells(&self.resolved, self.flags).add(cells::CLOSED, 1);
            // Open are opened less closed less this: a series with open connections is never evicted.
            self.cells.add(cells::CLOSED_ELSEWHERE, 1);
        }
    }
}

impl Requests {
    /// Counts messages of a call as they pass: the caller's, the application's.
    pub fn messages(&self, passed: [u64; 2]) {
        self.core.messages_passed(&self.resolved, passed);
    }

    /// Counts a request that has ended, with its duration from the head's first byte to the response's last.
    pub fn ended(&self, outcome: RequestOutcome, took: Duration) {
        self.core.request_ended(&self.resolved, outcome, took);
    }
}

impl fmt::Debug for TrafficMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TrafficMetrics").field("limit", &self.shared.limit).finish_non_exhaustive()
    }
}

impl fmt::Debug for CoreTraffic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("CoreTraffic").field("number", &self.core.number).finish_non_exhaustive()
    }
}

impl fmt::Debug for OpenConnection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("OpenConnection").field("flags", &self.flags).finish_non_exhaustive()
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Requests").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
