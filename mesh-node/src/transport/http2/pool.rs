//! HTTP/2 connections of this core: few for each caller and endpoint, shared by their requests.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mesh_common::model::{SpiffeId, Text, WorkloadUid};
use smallvec::SmallVec;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::ask::Sender;
use super::connect::{Begun, ConnectFailure, TlsTo, Work, http2_in_the_clear, http2_over_tls};
use super::peers::Peers;
use super::settings::Settings;
use crate::identity::Identities;
use crate::transport::tasks;

/// How often a request asks for a connection again when new ones close at once.
const MOST_CLOSED: usize = 3;

/// Whose requests may share a connection, and where it leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) caller: Caller,
    pub(super) to: SocketAddr,
    /// The pod that has the address: one that has it later is reached by another connection.
    pub(super) called: Option<WorkloadUid>,
    /// The identity that the other side proved; `None` in the clear.
    pub(super) expected: Option<SpiffeId>,
    /// The name of the Service that was dialled, which the other agent is told once per connection.
    pub(super) service: Option<Text>,
}

/// Whose requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Caller {
    /// A pod of this node, out of whose namespace the connection goes.
    Pod(WorkloadUid),
    /// Whoever has this address, which the application sees, and who it proved to be.
    Client(IpAddr, Option<SpiffeId>),
}

/// A connect that the conductor began, and what comes after it.
pub(super) enum Connecting {
    Tls(OwnedFd, TlsTo),
    Clear(OwnedFd),
}

/// A place on a connection for one request.
pub(super) struct Lease {
    pub(super) sender: Sender,
    pub(super) place: Place,
}

/// A stream's place on its connection, held until its response is over.
#[derive(Debug)]
pub(super) struct Place(Rc<Load>);

/// A connection, for whoever was on it.
pub(super) struct Connection(Rc<Load>);

/// The connections that refused a request: it is not to be put on them again.
pub(super) type RefusedBy = SmallVec<[Connection; 2]>;

/// All HTTP/2 connections of this core that take requests.
pub(super) struct Pool {
    endpoints: RefCell<HashMap<Key, Rc<Endpoint>>>,
    settings: Rc<Settings>,
    identities: Arc<Identities>,
    peers: Rc<Peers>,
}

#[derive(Default)]
struct Endpoint {
    live: RefCell<Vec<Live>>,
    /// How the connect that is under way ends; requests that come meanwhile wait for the same one.
    connecting: RefCell<Option<Outcome>>,
}

type Outcome = watch::Receiver<Option<Result<(), ConnectFailure>>>;

struct Live {
    sender: Sender,
    load: Rc<Load>,
    /// The trust bundle under which the peer was verified; `None` in the clear.
    generation: Option<u64>,
}

/// How a connection is used.
#[derive(Debug)]
pub(super) struct Load {
    open: Cell<u32>,
    last_used: Cell<Instant>,
}

impl Pool {
    pub(super) fn new(settings: Rc<Settings>, identities: Arc<Identities>, peers: Rc<Peers>) -> Rc<Self> {
        Rc::new(Self { endpoints: RefCell::default(), settings, identities, peers })
    }

    /// A place for one request, on a connection that is open or that `begin` begins; on one that refused it only if there
    /// can be no other.
    pub(super) async fn lease(
        self: &Rc<Self>,
        key: &Key,
        begin: impl Fn() -> Result<Connecting, ConnectFailure>,
        refused: &RefusedBy,
    ) -> Result<Lease, ConnectFailure> {
        // A new connection may be full of others' requests when it is this one's turn; the last one is never full.
        for _ in 0..MOST_CLOSED + self.settings.connections_per_endpoint {
            let endpoint = self.endpoints.borrow_mut().entry(key.clone()).or_default().clone();
            if let Some(lease) = self.lease_on(&endpoint, refused) {
                return Ok(lease);
            }
            let under_way = endpoint.connecting.borrow().clone();
            let mut outcome = match under_way {
                Some(outcome) => outcome,
                None => match begin() {
                    Ok(connecting) => self.connect(key, &endpoint, connecting),
                    Err(failure) => {
                        self.prune(key);
                        return Err(failure);
                    }
                },
            };
            match outcome.wait_for(Option::is_some).await.as_deref() {
                Ok(Some(Err(failure))) => return Err(failure.clone()),
                Ok(_) => {}
                Err(_) => return Err(ConnectFailure::Closed),
            }
        }
        Err(ConnectFailure::Closed)
    }

    /// Connections that take requests now, for tests and dumps.
    pub(super) fn connections(&self) -> usize {
        self.endpoints.borrow().values().map(|endpoint| endpoint.live.borrow().len()).sum()
    }

    fn lease_on(&self, endpoint: &Endpoint, refused: &RefusedBy) -> Option<Lease> {
        let mut live = endpoint.live.borrow_mut();
        let generation = self.identities.generation();
        live.retain_mut(|connection| {
            !connection.sender.is_closed() && connection.generation.is_none_or(|made| made == generation)
        });
        let has_refused = |connection: &&Live| refused.iter().any(|by| Rc::ptr_eq(&by.0, &connection.load));
        let others = live.iter().filter(|connection| !has_refused(connection));
        let may_open = live.len() < self.settings.connections_per_endpoint;
        let least = match others.min_by_key(|connection| connection.load.open.get()) {
            Some(least) => least,
            None if may_open => return None,
            None => live.iter().min_by_key(|connection| connection.load.open.get())?,
        };
        let is_full = least.load.open.get() >= self.settings.streams_per_connection;
        if is_full && may_open {
            return None;
        }
        let place = Place::take(&least.load);
        Some(Lease { sender: least.sender.clone(), place })
    }

    fn connect(self: &Rc<Self>, key: &Key, endpoint: &Rc<Endpoint>, connecting: Connecting) -> Outcome {
        let (tell, outcome) = watch::channel(None);
        *endpoint.connecting.borrow_mut() = Some(outcome.clone());
        let (pool, key, endpoint) = (self.clone(), key.clone(), endpoint.clone());
        // A task of its own: the request that began it may be cancelled, others wait for it too.
        tasks::spawn(async move {
            let generation = pool.identities.generation();
            let load = Load::new();
            let begun = connecting.run(&pool, load.clone()).await;
            endpoint.connecting.take();
            match begun {
                Err(failure) => {
                    pool.prune(&key);
                    tell.send_replace(Some(Err(failure)));
                }
                Ok(begun) => {
                    load.last_used.set(Instant::now());
                    let retire = begun.until.map(|until| pool.retire_in(until));
                    endpoint.live.borrow_mut().push(Live {
                        sender: begun.sender,
                        load: load.clone(),
                        generation: retire.map(|_| generation),
                    });
                    tell.send_replace(Some(Ok(())));
                    pool.carry(&endpoint, &load, begun.work, retire).await;
                    endpoint.remove(&load);
                    pool.prune(&key);
                }
            }
        });
        outcome
    }

    /// Runs a connection to its end; takes it out of the pool when it is old or was idle for long.
    async fn carry(&self, endpoint: &Endpoint, load: &Rc<Load>, mut work: Work, retire: Option<Duration>) {
        let retire = retire.map(|after| Instant::now() + after);
        loop {
            let idle_until = load.last_used.get() + self.settings.idle_timeout;
            let look = retire.map_or(idle_until, |retire| retire.min(idle_until));
            tokio::select! {
                () = &mut work => return,
                () = sleep_until(look) => {}
            }
            let now = Instant::now();
            let is_idle = load.open.get() == 0 && load.last_used.get() + self.settings.idle_timeout <= now;
            if is_idle || retire.is_some_and(|retire| retire <= now) {
                // Without a sender h2 ends the connection once its streams are over.
                endpoint.remove(load);
                return self.finish(work, load).await;
            }
            if load.open.get() > 0 {
                load.last_used.set(now);
            }
        }
    }

    /// Runs a connection to its end that gets no request any more. One whose responses are all over ends soon, whatever the
    /// application has still not taken of the requests.
    async fn finish(&self, mut work: Work, load: &Load) {
        while timeout(self.settings.body_timeout, &mut work).await.is_err() {
            if load.open.get() == 0 {
                return;
            }
        }
    }

    /// A connection takes requests until it is old, or half of what is left of both ends' certificates is over.
    fn retire_in(&self, until: u64) -> Duration {
        self.settings.max_age.min(self.identities.time_left(until) / 2)
    }

    /// Forgets an endpoint to which nothing leads.
    fn prune(&self, key: &Key) {
        let mut endpoints = self.endpoints.borrow_mut();
        let is_unused = |endpoint: &Rc<Endpoint>| {
            endpoint.live.borrow().is_empty() && endpoint.connecting.borrow().is_none()
        };
        if endpoints.get(key).is_some_and(is_unused) {
            endpoints.remove(key);
        }
    }
}

impl Connecting {
    async fn run(self, pool: &Pool, load: Rc<Load>) -> Result<Begun<Sender, Work>, ConnectFailure> {
        match self {
            Self::Tls(dialled, tls) => {
                http2_over_tls(dialled, tls, (&pool.identities, &pool.peers), load, &pool.settings).await
            }
            Self::Clear(dialled) => http2_in_the_clear(dialled, load, &pool.settings).await,
        }
    }
}

impl Load {
    fn new() -> Rc<Self> {
        Rc::new(Self { open: Cell::new(0), last_used: Cell::new(Instant::now()) })
    }

    /// Whether a request is under way on it.
    pub(super) fn is_used(&self) -> bool {
        self.open.get() > 0
    }
}

impl Endpoint {
    fn remove(&self, load: &Rc<Load>) {
        self.live.borrow_mut().retain(|connection| !Rc::ptr_eq(&connection.load, load));
    }
}

impl Place {
    /// The connection that it is on.
    pub(super) fn connection(&self) -> Connection {
        Connection(self.0.clone())
    }

    fn take(load: &Rc<Load>) -> Self {
        load.open.set(load.open.get() + 1);
        load.last_used.set(Instant::now());
        Self(load.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}
