//! One core's engine: what it owns, one turn of it, and what may be asked of it.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use smallvec::SmallVec;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::accept::{Detecting, ListenerId, Listening};
use super::conductor::{Conductor, TunnelKey};
use super::connection::{Connection, ConnectionId, Kind};
use super::core::{Core, Job};
use super::counters::Counters;
use super::held::HeldConnection;
use super::link::{Link, Phase};
use super::mailbox::{Handle, Mailbox};
use super::neighbours::{Load, Neighbour};
use super::reactor::{Ready, Token};
use super::settings::{Settings, TURN};
use super::slots::{Key, Slots};
use super::streams::Deliveries;
use super::timers::Timed;
use crate::transport::handshakes::Handshakes;
use crate::transport::http1::Applications;
use crate::transport::outcome::{CloseReason, TunnelLoss};
use crate::transport::tasks;

/// When to take the next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// At once: work is left.
    Again,
    /// When the epoll descriptor is readable, at the latest then.
    Wait(Option<Instant>),
}

/// Moves the bytes of one core. Lives on one thread and never blocks it, except where [`run`](Self::run) waits.
pub struct Engine<C: Conductor> {
    pub(in crate::transport) conductor: C,
    pub(in crate::transport) core: Core,
    pub(super) listeners: Slots<Listening<C::Pod>>,
    pub(super) listener_names: HashMap<ListenerId, Key>,
    pub(super) detecting: Slots<Detecting<C::Pod>>,
    pub(super) held: Slots<HeldConnection<C>>,
    pub(in crate::transport) tunnels: Slots<Link<C::Pod>>,
    pub(in crate::transport) connections: Slots<Connection<C>>,
    pub(in crate::transport) applications: Applications,
    /// Tunnels of this side that take new streams.
    pub(super) pool: HashMap<TunnelKey, SmallVec<[Key; 2]>, foldhash::fast::RandomState>,
    /// How many tunnels of each address are open here; only addresses that have one.
    pub(super) accepted: HashMap<IpAddr, usize>,
    pub(super) deliveries: Deliveries,
    mailbox: Mailbox<C>,
    pub(super) load: Arc<Load>,
    pub(super) neighbours: Vec<Neighbour<C>>,
    /// Held to be let go when descriptors are used up.
    pub(super) spare: Option<OwnedFd>,
    pub(super) draining: bool,
    stopped: bool,
}

/// What a dump says of a connection.
#[derive(Debug)]
pub struct LiveConnection<'a, C: Conductor> {
    /// Its name on this core.
    pub id: ConnectionId,
    /// What the conductor keeps with it.
    pub record: &'a C::Record,
    /// Since accept or OPEN.
    pub age: Duration,
    /// Bytes so far.
    pub to_server: u64,
    /// Bytes so far.
    pub to_client: u64,
}

impl<C: Conductor> Engine<C> {
    /// An engine without listeners, which takes places for its handshakes from those of its core.
    ///
    /// # Errors
    /// If the kernel has no descriptor for it.
    pub fn new(conductor: C, settings: Settings, handshakes: Handshakes) -> io::Result<Self> {
        let core = Core::new(settings, handshakes)?;
        let mailbox = Mailbox::new()?;
        core.reactor.add_mailbox(&*mailbox.bell)?;
        let load = Load::new(core.counters.clone(), tasks::counter());
        Ok(Self {
            conductor,
            core,
            listeners: Slots::new(),
            listener_names: HashMap::new(),
            detecting: Slots::new(),
            held: Slots::new(),
            tunnels: Slots::new(),
            connections: Slots::new(),
            applications: Applications::default(),
            pool: HashMap::default(),
            accepted: HashMap::new(),
            deliveries: Deliveries::default(),
            mailbox,
            load,
            neighbours: Vec::new(),
            spare: spare(),
            draining: false,
            stopped: false,
        })
    }

    /// Sends messages to this engine from other threads.
    pub fn handle(&self) -> Handle<C> {
        self.mailbox.handle()
    }

    /// This engine, for those of other threads to give connections to.
    pub fn neighbour(&self) -> Neighbour<C> {
        Neighbour::new(self.handle(), Arc::clone(&self.load))
    }

    /// Gives new connections to these when it has more to carry than they. Each must know the pods of the listeners that
    /// this one accepts from.
    pub fn share_with(&mut self, neighbours: Vec<Neighbour<C>>) {
        self.neighbours = neighbours;
    }

    /// What it counts; read from any thread.
    pub fn counters(&self) -> Arc<Counters> {
        self.core.counters.clone()
    }

    /// Who decides.
    pub fn conductor(&mut self) -> &mut C {
        &mut self.conductor
    }

    /// Everything that is ready, then queued work up to a budget, then all output at once.
    ///
    /// # Errors
    /// Only if epoll itself fails: the engine cannot go on.
    pub fn turn(&mut self) -> io::Result<Next> {
        self.turn_waiting(Some(Timespec { tv_sec: 0, tv_nsec: 0 }))
    }

    /// Takes turns until [`stop`](Self::stop), waiting in between. For an engine with a thread of its own.
    ///
    /// # Errors
    /// As [`turn`](Self::turn).
    pub fn run(&mut self) -> io::Result<()> {
        let mut next = Next::Again;
        while !self.stopped {
            next = self.turn_after(next)?;
        }
        Ok(())
    }

    /// Takes turns on a tokio runtime of this thread until [`stop`](Self::stop).
    ///
    /// As long as nobody else works on the thread it waits by itself: a wake-up through the runtime costs another
    /// epoll, each time.
    ///
    /// Not cancel safe in the middle of nothing: a turn is never split, so dropping it is.
    ///
    /// # Errors
    /// As [`turn`](Self::turn).
    pub async fn drive(&mut self) -> io::Result<()> {
        let epoll = self.core.reactor.as_fd().try_clone_to_owned()?;
        // SAFETY: the descriptor is owned by what tokio gets, which keeps it open and never changes it.
        let epoll = unsafe { AsyncFd::register_with_interest(epoll, Interest::READABLE) }?;
        let mut next = Next::Again;
        while !self.stopped {
            if !tasks::are_any() {
                next = self.turn_after(next)?;
                continue;
            }
            match next {
                // Others on this thread have their turn too.
                Next::Again => tokio::task::yield_now().await,
                Next::Wait(until) => {
                    let until = until.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
                    // Until something is readable, or the next deadline of a connection.
                    tokio::select! {
                        readable = epoll.readable() => readable?.clear_ready(),
                        () = tokio::time::sleep_until(until.into()) => {}
                    }
                }
            }
            next = self.turn()?;
        }
        Ok(())
    }

    /// Waits for the next turn on this thread, and takes it.
    fn turn_after(&mut self, before: Next) -> io::Result<Next> {
        let wait = match before {
            Next::Again => Some(Duration::ZERO),
            Next::Wait(until) => until.map(|at| at.saturating_duration_since(Instant::now())),
        };
        self.turn_waiting(wait.map(|wait| Timespec {
            tv_sec: wait.as_secs().cast_signed(),
            tv_nsec: wait.subsec_nanos().into(),
        }))
    }

    fn turn_waiting(&mut self, wait: Option<Timespec>) -> io::Result<Next> {
        let mut events = std::mem::take(&mut self.core.events);
        let full = self.core.reactor.poll(&mut events, wait)?;
        self.core.look_at_the_clock();
        self.core.counters.turns.add(1);
        self.core.moved = 0;
        for (token, ready) in events.drain(..) {
            self.dispatch(token, ready);
        }
        self.core.events = events;
        while let Some(timed) = self.core.timers.due(self.core.now) {
            match timed {
                Timed::Listener(key) => self.accept_again(key),
                Timed::Detecting(key) => self.detecting_deadline(key),
                Timed::Held(key) => self.held_deadline(key),
                Timed::Tunnel(key) => self.tunnel_deadline(key),
                Timed::Connection(key) => self.connection_deadline(key),
                Timed::Applications => self.expire_applications(),
            }
        }
        self.do_queued_work();
        self.flush();
        if self.core.timers.is_crowded() {
            let Self { listeners, detecting, held, tunnels, connections, core, .. } = self;
            core.timers.forget(|timed| match timed {
                Timed::Listener(key) => listeners.get(key).is_some(),
                Timed::Detecting(key) => detecting.get(key).is_some(),
                Timed::Held(key) => held.get(key).is_some(),
                Timed::Tunnel(key) => tunnels.get(key).is_some(),
                Timed::Connection(key) => connections.get(key).is_some(),
                Timed::Applications => true,
            });
        }
        if full || !self.core.ready.is_empty() {
            return Ok(Next::Again);
        }
        Ok(Next::Wait(self.core.timers.next().map(|at| self.core.instant_of(at))))
    }

    fn dispatch(&mut self, token: Token, ready: Ready) {
        match token {
            Token::Listener(key) => self.accept(key),
            Token::Detecting(key) => self.detecting_ready(key, ready.hung_up),
            Token::Tunnel(key) => self.tunnel_ready(key, ready),
            Token::Client(key) => self.connection_ready(key, super::connection::Side::Client, ready),
            Token::Server(key) => self.connection_ready(key, super::connection::Side::Server, ready),
            Token::Application(key) => self.application_ready(key, ready),
            Token::Mailbox => self.mailbox.take().into_iter().for_each(|message| message(self)),
        }
    }

    /// What had more to do than its budget: one after the other until the turn has moved enough.
    fn do_queued_work(&mut self) {
        let mut left = self.core.ready.len();
        while left > 0 && self.core.moved < TURN {
            left -= 1;
            match self.core.ready.pop_front() {
                Some(Job::Listener(key)) => self.accept(key),
                Some(Job::Tunnel(key)) => self.tunnel_read(key),
                Some(Job::Connection(key)) => self.connection_turn(key),
                None => break,
            }
        }
    }

    /// Seals and writes everything that this turn produced.
    pub(super) fn flush(&mut self) {
        // Losing a tunnel may begin streams on another: its output belongs to this turn too.
        while let Some(tunnel) = self.core.dirty.pop() {
            self.flush_tunnel(tunnel);
        }
    }

    /// Every connection of this core.
    pub fn live(&self) -> impl Iterator<Item = LiveConnection<'_, C>> {
        self.connections.iter().map(|(key, connection)| {
            let (to_server, to_client) = connection.moved();
            LiveConnection {
                id: ConnectionId(key.to_bits()),
                record: &connection.record,
                age: connection.started.until(self.core.now),
                to_server,
                to_client,
            }
        })
    }

    /// Tells the conductor what every open connection has carried so far. For when somebody reads the counts.
    pub fn report(&mut self) {
        for connection in self.connections.values_mut() {
            let (to_server, to_client) = connection.moved();
            self.conductor.carried(&mut connection.record, to_server, to_client);
        }
    }

    /// Resets one connection. Returns whether it lived.
    pub fn close(&mut self, id: ConnectionId, reason: CloseReason) -> bool {
        let key = Key::from_bits(id.0);
        let lived = self.connections.get(key).is_some();
        self.end(key, reason);
        lived
    }

    /// Asks the conductor about every connection and tunnel, and ends those that may not go on. For when the
    /// tables have changed.
    pub fn recheck(&mut self) {
        for key in self.connections.keys() {
            let Some(connection) = self.connections.get_mut(key) else { continue };
            // Who was told to go is on its way; a request that it still makes is decided when it comes.
            let is_told = matches!(&connection.kind, Kind::Http(http) if http.is_told_to_go());
            let permitted = !is_told && self.conductor.still_permitted(&mut connection.record);
            match &mut connection.kind {
                Kind::Pump(_) | Kind::Joined(_) | Kind::Look(_) if !permitted => {
                    self.end(key, CloseReason::NoLongerPermitted)
                }
                Kind::Pump(_) | Kind::Joined(_) | Kind::Look(_) => {}
                Kind::Http(http) => {
                    let exchange = http.exchange_mut();
                    let goes_on = exchange.is_none_or(|exchange| {
                        self.conductor.request_still_permitted(&connection.record, exchange)
                    });
                    if !goes_on || !(permitted || is_told) {
                        self.http_cut(key, permitted);
                    }
                }
            }
        }
        for key in self.tunnels.keys() {
            let Some(link) = self.tunnels.get(key) else { continue };
            let Some(identified) = &link.identified else { continue };
            if !self.conductor.tunnel_still_wanted(&link.pod, &identified.identity) {
                self.lose(key, TunnelLoss::Retired, None);
            }
        }
        self.flush();
    }

    /// Asks the conductor about the peer of every tunnel, and ends the tunnels of those that it trusts no more. For
    /// when the trust bundle has changed.
    pub fn recheck_peers(&mut self) {
        for key in self.tunnels.keys() {
            let Some(link) = self.tunnels.get(key).filter(|link| link.identified.is_some()) else { continue };
            let certificates = link.tls.peer_certificates().unwrap_or_default();
            if !self.conductor.peer_still_trusted(certificates) {
                self.lose(key, TunnelLoss::NotTrusted, None);
            }
        }
        self.flush();
    }

    /// Accepts nothing more: listeners are let go, tunnels say GOAWAY. What is open goes on. It is over when there is
    /// neither a connection nor a tunnel: every client has heard of it.
    pub fn drain(&mut self) {
        self.draining = true;
        for id in self.listener_names.keys().copied().collect::<Vec<_>>() {
            self.unlisten(id);
        }
        for key in self.connections.keys() {
            self.http_drain(key);
        }
        for key in self.tunnels.keys() {
            self.retire(key);
        }
        self.flush();
    }

    /// Resets what is still open and ends [`run`](Self::run) and [`drive`](Self::drive).
    pub fn stop(&mut self) {
        for key in self.connections.keys() {
            self.end(key, CloseReason::Draining);
        }
        self.let_go_of_held();
        self.flush();
        for key in self.tunnels.keys() {
            match self.tunnels.get(key).map(|link| link.phase) {
                Some(Phase::Up | Phase::Closing) => self.close_tunnel(key),
                _ => self.lose(key, TunnelLoss::Retired, None),
            }
        }
        self.stopped = true;
    }
}

impl<C: Conductor> AsFd for Engine<C> {
    /// The epoll descriptor: readable when a turn is wanted.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.core.reactor.as_fd()
    }
}

/// A descriptor to be let go in need.
pub(super) fn spare() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}
