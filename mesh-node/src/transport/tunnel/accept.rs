//! Accepts connections: outbound from applications, inbound from anybody, whose first bytes may be a ClientHello.
//!
//! In: listeners inside pods' network namespaces. Out: connections on their course, tunnels, and sockets handed to
//! whoever speaks HTTP/2. First bytes are peeked, never taken, before any TLS state exists.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use mesh_common::model::Direction;
use mesh_common::model::client_hello::MAX_HELLO;
use mesh_common::tunnel::{Hello, hello};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::begin::Near;
use super::conductor::{Accepted, Conductor, FirstBytes, Inbound, Outbound, Refusal};
use super::core::{Job, NEVER};
use super::engine::Engine;
use super::neighbours::{self, Neighbour};
use super::reactor::Token;
use super::settings::ACCEPTS;
use super::slots::Key;
use super::timers::{Tick, Timed};
use crate::capture::{self, AcceptEnd};
use crate::transport::connect;
use crate::transport::handshakes::{Place, Source};
use crate::transport::outcome::CloseReason;
use crate::transport::plain::Plain;

/// Names a listener; chosen by whoever adds it, once per pod, direction and family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u64);

/// A listening socket inside a pod's network namespace. Each core of the daemon gets one of the same socket.
pub struct NewListener<P> {
    /// Its name.
    pub id: ListenerId,
    /// Non-blocking, listening: a [`capture::Listener`]. Shared by the cores; closed when the last one lets go.
    pub socket: Arc<dyn AsFd + Send + Sync>,
    /// The pod.
    pub pod: P,
    /// Whose connections come here.
    pub direction: Direction,
}

/// A listener, as the engine has it.
pub(super) struct Listening<P> {
    listener: NewListener<P>,
    /// Nothing is accepted for now: it is not in the epoll, and what comes waits in the kernel.
    pub(super) is_held_back: bool,
}

/// An inbound connection whose first bytes are not complete.
pub(super) struct Detecting<P> {
    socket: OwnedFd,
    pod: P,
    peer: SocketAddr,
    local: SocketAddr,
    deadline: Tick,
    accepted: Tick,
    /// Among the handshakes: it may become one.
    place: Place,
}

impl<C: Conductor> Engine<C> {
    /// Begins to accept from a listener. One with the same name is replaced.
    ///
    /// # Errors
    /// What the kernel says; nothing is added then.
    pub fn listen(&mut self, listener: NewListener<C::Pod>) -> std::io::Result<()> {
        self.unlisten(listener.id);
        let socket = listener.socket.clone();
        let id = listener.id;
        let key = self.listeners.insert(Listening { listener, is_held_back: false });
        let added = self.core.reactor.add_listener(socket.as_fd(), Token::Listener(key));
        match added {
            Ok(()) => {
                self.listener_names.insert(id, key);
            }
            Err(_) => {
                self.listeners.remove(key);
            }
        }
        added
    }

    /// Accepts no more from a listener. Connections that it gave go on.
    pub fn unlisten(&mut self, id: ListenerId) {
        let key = self.listener_names.remove(&id);
        if let Some(Listening { listener, .. }) = key.and_then(|key| self.listeners.remove(key)) {
            // Other cores may hold the socket: closing alone would leave it in this epoll.
            self.core.reactor.remove(listener.socket.as_fd());
        }
    }

    /// Takes what waits at a listener, up to a budget.
    pub(super) fn accept(&mut self, key: Key) {
        for _ in 0..ACCEPTS {
            if self.is_held_back(key) {
                return;
            }
            let Some(Listening { listener, .. }) = self.listeners.get(key) else { return };
            let came = match capture::accept(listener.socket.as_fd()) {
                Ok(came) => came,
                Err(AcceptEnd::Drained) => return,
                Err(AcceptEnd::Gone) => continue,
                Err(AcceptEnd::Exhausted(_)) => return self.shed_one(key),
                Err(AcceptEnd::Broken(error)) => return self.broken(key, &error),
            };
            self.core.counters.accepted.add(1);
            let (pod, direction) = (listener.pod.clone(), listener.direction);
            match neighbours::choose(&self.load, &self.neighbours, direction) {
                None => self.accepted(pod, direction, came),
                Some(neighbour) => {
                    self.core.counters.given.add(1);
                    let giver = self.neighbour();
                    neighbour.give(move |engine| engine.take_over(giver, pod, direction, came));
                }
            }
        }
        self.core.ready.push_back(Job::Listener(key));
    }

    /// Takes a connection that another core accepted; gives it back where it would not have accepted it: nobody gets around
    /// being held back on one core by coming through the other.
    fn take_over(&mut self, giver: Neighbour<C>, pod: C::Pod, direction: Direction, came: capture::Accepted) {
        let is_held_back = direction == Direction::Outbound && self.conductor.holds_back(&pod).is_some();
        if self.draining || is_held_back {
            self.load.taken();
            return giver.give(move |engine| engine.take(pod, direction, came));
        }
        self.take(pod, direction, came);
    }

    /// Takes what was given.
    fn take(&mut self, pod: C::Pod, direction: Direction, came: capture::Accepted) {
        self.load.taken();
        self.accepted(pod, direction, came);
        if self.draining {
            // It has to hear of it as the others did; in the next turn, after what it has said already.
            self.handle().send(Self::drain);
        }
    }

    fn accepted(&mut self, pod: C::Pod, direction: Direction, came: capture::Accepted) {
        let capture::Accepted { socket, peer, local } = came;
        match direction {
            Direction::Outbound => self.accepted_outbound(pod, socket, peer, local),
            Direction::Inbound => self.accepted_inbound(pod, socket, peer, local),
        }
    }

    fn broken(&mut self, key: Key, error: &std::io::Error) {
        tracing::error!(%error, "a capture listener cannot be used any more");
        if let Some(id) = self.listeners.get(key).map(|listening| listening.listener.id) {
            self.unlisten(id);
        }
    }

    /// Whether nothing is accepted for now, because the conductor holds the pod back: its connections then cost nothing but
    /// their places in the kernel, and nobody else waits.
    fn is_held_back(&mut self, key: Key) -> bool {
        let Some(Listening { listener, is_held_back }) = self.listeners.get_mut(key) else { return false };
        if *is_held_back || listener.direction != Direction::Outbound {
            return *is_held_back;
        }
        let Some(wait) = self.conductor.holds_back(&listener.pod) else { return false };
        *is_held_back = true;
        self.core.reactor.remove(listener.socket.as_fd());
        // A tick is a millisecond: not before the wait is over.
        let again = self.core.now.after(wait + Duration::from_millis(1));
        self.core.arm(&mut NEVER.clone(), again, Timed::Listener(key));
        true
    }

    /// A pod is not held back any longer. What waits is told at once.
    pub(super) fn accept_again(&mut self, key: Key) {
        let Some(listening) = self.listeners.get_mut(key) else { return };
        listening.is_held_back = false;
        let socket = listening.listener.socket.as_fd();
        if let Err(error) = self.core.reactor.add_listener(socket, Token::Listener(key)) {
            self.broken(key, &error);
        }
    }

    fn accepted_outbound(&mut self, pod: C::Pod, socket: OwnedFd, peer: SocketAddr, local: SocketAddr) {
        let accepted = Accepted { socket: socket.as_fd(), peer, local };
        match self.conductor.accept_outbound(&pod, &accepted) {
            Ok(Outbound::Begin(record, course)) => {
                let near = self.near(socket, self.core.now);
                self.begin(pod, record, near, course);
            }
            Ok(Outbound::Hold(held)) => self.hold(pod, socket, (peer, local), held),
            Err(refusal) => self.turn_away(&socket, refusal),
        }
    }

    fn accepted_inbound(&mut self, pod: C::Pod, socket: OwnedFd, peer: SocketAddr, local: SocketAddr) {
        if let Err(refusal) = self.conductor.admit_inbound(&pod, peer.ip()) {
            return self.turn_away(&socket, refusal);
        }
        let accepted = Accepted { socket: socket.as_fd(), peer, local };
        match self.conductor.accept_inbound(&pod, &accepted) {
            Ok(Inbound::Plaintext(record, course)) => {
                let near = self.near(socket, self.core.now);
                self.begin(pod, record, near, course);
            }
            Ok(Inbound::Peek) => self.peek_at(pod, socket, peer, local),
            Err(refusal) => self.turn_away(&socket, refusal),
        }
    }

    fn peek_at(&mut self, pod: C::Pod, socket: OwnedFd, peer: SocketAddr, local: SocketAddr) {
        let Some(place) = self.core.handshakes.take(Source::Address(peer.ip())) else {
            let accepted = Accepted { socket: socket.as_fd(), peer, local };
            self.conductor.not_begun(&pod, Direction::Inbound, &accepted, CloseReason::Overloaded);
            return connect::reset_on_close(&socket);
        };
        let deadline = self.core.now.after(self.core.settings.detect_timeout);
        let accepted = self.core.now;
        self.detect(Detecting { socket, pod, peer, local, deadline, accepted, place }, false);
    }

    fn not_begun(&mut self, detecting: &Detecting<C::Pod>, reason: CloseReason) {
        let Detecting { socket, pod, peer, local, .. } = detecting;
        let accepted = Accepted { socket: socket.as_fd(), peer: *peer, local: *local };
        self.conductor.not_begun(pod, Direction::Inbound, &accepted, reason);
    }

    pub(super) fn near(&self, socket: OwnedFd, started: Tick) -> Near {
        Near { socket: Plain::new(socket), said: Vec::new(), started, retried: false }
    }

    pub(super) fn turn_away(&mut self, socket: &OwnedFd, refusal: Refusal) {
        let Refusal(_) = refusal;
        self.core.counters.refused_by_conductor.add(1);
        connect::reset_on_close(socket);
    }

    /// More first bytes have arrived, or the peer is gone.
    pub(super) fn detecting_ready(&mut self, key: Key, hung_up: bool) {
        if let Some(detecting) = self.detecting.remove(key) {
            // Registered anew if it still waits: a new edge is wanted for what arrives from now on.
            self.core.reactor.remove(&detecting.socket);
            self.detect(detecting, hung_up);
        }
    }

    /// More is known than when it came: its first bytes may not matter any more.
    pub(super) fn detecting_again(&mut self, key: Key) {
        let Some(Detecting { socket, pod, peer, local, .. }) = self.detecting.get(key) else { return };
        let accepted = Accepted { socket: socket.as_fd(), peer: *peer, local: *local };
        let decided = self.conductor.accept_inbound(pod, &accepted);
        if let Ok(Inbound::Peek) = decided {
            return;
        }
        let Some(Detecting { socket, pod, accepted, place, .. }) = self.detecting.remove(key) else { return };
        drop(place);
        self.core.reactor.remove(&socket);
        match decided {
            Ok(Inbound::Plaintext(record, course)) => {
                let near = self.near(socket, accepted);
                self.begin(pod, record, near, course);
            }
            Ok(Inbound::Peek) => {}
            Err(refusal) => self.turn_away(&socket, refusal),
        }
    }

    /// The time for first bytes is over.
    pub(super) fn detecting_deadline(&mut self, key: Key) {
        if let Some(detecting) = self.detecting.remove(key) {
            self.core.reactor.remove(&detecting.socket);
            self.detect(detecting, true);
        }
    }

    /// Looks at what has arrived. `over`: nothing more will.
    fn detect(&mut self, detecting: Detecting<C::Pod>, over: bool) {
        let mut input = std::mem::take(&mut self.core.input);
        match peek(&detecting.socket, &mut input[..MAX_HELLO]) {
            // One that was reset by its peer is let go: there is nobody to answer.
            Err(_) => self.not_begun(&detecting, CloseReason::ClientReset),
            Ok(length) => match hello(&input[..length]) {
                Hello::Incomplete if !over => self.wait_for_more(detecting),
                Hello::Tunnel => {
                    let Detecting { socket, pod, peer, local, place, .. } = detecting;
                    self.core.input = std::mem::take(&mut input);
                    self.serve_tunnel(pod, socket, peer, local, place);
                }
                Hello::Http2 => {
                    let Detecting { socket, pod, peer, local, place, .. } = detecting;
                    self.conductor.accept_h2(&pod, socket, peer, local, place);
                }
                Hello::Foreign | Hello::Incomplete => {
                    let first = match length {
                        0 => FirstBytes::Silence,
                        _ => FirstBytes::Foreign(&input[..length]),
                    };
                    self.detected_plaintext(detecting, first);
                }
            },
        }
        if self.core.input.is_empty() {
            self.core.input = input;
        }
    }

    fn wait_for_more(&mut self, detecting: Detecting<C::Pod>) {
        let deadline = detecting.deadline;
        let key = self.detecting.insert(detecting);
        let Some(detecting) = self.detecting.get(key) else { return };
        if self.core.reactor.add_socket(&detecting.socket, Token::Detecting(key)).is_err() {
            if let Some(detecting) = self.detecting.remove(key) {
                self.not_begun(&detecting, CloseReason::Internal);
            }
            return;
        }
        self.core.arm(&mut NEVER.clone(), deadline, Timed::Detecting(key));
    }

    fn detected_plaintext(&mut self, detecting: Detecting<C::Pod>, first: FirstBytes<'_>) {
        let Detecting { socket, pod, peer, local, accepted: since, place, .. } = detecting;
        drop(place);
        let accepted = Accepted { socket: socket.as_fd(), peer, local };
        match self.conductor.accept_plaintext(&pod, &accepted, first) {
            Ok((record, course)) => {
                let near = self.near(socket, since);
                self.begin(pod, record, near, course);
            }
            Err(refusal) => self.turn_away(&socket, refusal),
        }
    }

    /// Descriptors are used up: takes one connection with the spare one and resets it, so that its client learns
    /// at once and the listener does not stay ready for ever.
    fn shed_one(&mut self, key: Key) {
        self.core.counters.refused_descriptors.add(1);
        self.spare = None;
        if let Some(Listening { listener, .. }) = self.listeners.get(key)
            && let Ok(accepted) = capture::accept(listener.socket.as_fd())
        {
            let capture::Accepted { socket, peer, local } = accepted;
            connect::reset_on_close(&socket);
            let (pod, direction) = (listener.pod.clone(), listener.direction);
            let accepted = Accepted { socket: socket.as_fd(), peer, local };
            self.conductor.not_begun(&pod, direction, &accepted, CloseReason::NoDescriptors);
        }
        self.spare = super::engine::spare();
        self.core.ready.push_back(Job::Listener(key));
    }
}

pub(super) fn peek(socket: impl AsFd, room: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match rustix::net::recv(&socket, &mut *room, RecvFlags::PEEK) {
            Ok((_, length)) => return Ok(length),
            Err(Errno::AGAIN) => return Ok(0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}
