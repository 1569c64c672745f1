//! Carries captured connections: one thread per listener, two per connection, in the clear.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result};
use mesh_common::model::Direction;
use mesh_node::capture::{AcceptEnd, Accepted, CapturedPod, Listener, accept, dial_application};
use mesh_node::kernel::{CallerWriter, OriginalDstReader};
use mesh_node::transport::connect::{self, Dial};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use serde_json::json;

use crate::say;

/// How often a listener looks whether it is to stop.
const STOP_CHECK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// Serves the listeners of one pod until it is dropped.
pub(crate) struct Relays {
    stopped: Arc<AtomicBool>,
}

struct Relay {
    pod: Arc<CapturedPod>,
    listener: Arc<Listener>,
    original_dsts: OriginalDstReader,
    callers: CallerWriter,
    stopped: Arc<AtomicBool>,
}

impl Relays {
    pub(crate) fn start(
        pod: &Arc<CapturedPod>,
        original_dsts: &OriginalDstReader,
        callers: &CallerWriter,
    ) -> Self {
        let stopped = Arc::<AtomicBool>::default();
        for listener in &pod.listeners {
            let relay = Relay {
                pod: Arc::clone(pod),
                listener: Arc::clone(listener),
                original_dsts: original_dsts.clone(),
                callers: callers.clone(),
                stopped: Arc::clone(&stopped),
            };
            thread::spawn(move || relay.run());
        }
        Self { stopped }
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

impl Relay {
    fn run(self) {
        let relay = Arc::new(self);
        while !relay.stopped.load(Ordering::Relaxed) {
            let mut waited = [PollFd::new(&relay.listener, PollFlags::IN)];
            // Interrupted or not: accept tells.
            let _ = poll(&mut waited, Some(&STOP_CHECK));
            match accept(&relay.listener) {
                Ok(accepted) => {
                    let relay = Arc::clone(&relay);
                    thread::spawn(move || {
                        if let Err(error) = relay.carry(accepted) {
                            say(&json!({ "event": "failed", "error": format!("{error:#}") }));
                        }
                    });
                }
                Err(AcceptEnd::Drained | AcceptEnd::Gone) => {}
                Err(end) => say(&json!({ "event": "failed", "error": format!("{end:?}") })),
            }
        }
    }

    fn carry(&self, accepted: Accepted) -> Result<()> {
        match self.listener.direction() {
            Direction::Outbound => self.outbound(accepted),
            Direction::Inbound => self.inbound(accepted),
        }
    }

    fn outbound(&self, accepted: Accepted) -> Result<()> {
        let (cookie, port) = (self.listener.netns_cookie(), self.listener.port());
        let Some(original_dst) = self.original_dsts.take(cookie, accepted.peer, port)? else {
            say(&json!({ "event": "stray", "client": accepted.peer.to_string() }));
            return Ok(());
        };
        // A socket that was bound to an address keeps it; one that was not has loopback here.
        let mut own = self.pod.workload.addresses.iter().copied();
        let own = own.find(|own| own.is_ipv4() == original_dst.is_ipv4());
        let ip = own.filter(|_| accepted.peer.ip().is_loopback()).unwrap_or(accepted.peer.ip());
        say(&event("outbound", SocketAddr::new(ip, accepted.peer.port()), original_dst));
        let netns = Some(self.pod.namespace.clone());
        let dialled = connect::start(&Dial { destination: original_dst, source: None, netns })?;
        pump(accepted.socket, connected(dialled)?)
    }

    fn inbound(&self, accepted: Accepted) -> Result<()> {
        let Accepted { socket, peer, local } = accepted;
        if local.ip().is_loopback() {
            say(&json!({ "event": "stray", "client": "inbound" }));
            return Ok(());
        }
        say(&event("inbound", peer, local));
        let dialled = dial_application(&self.pod.namespace, local, peer, &self.callers)?;
        pump(socket, connected(dialled)?)
    }
}

fn event(kind: &str, client: SocketAddr, original_dst: SocketAddr) -> serde_json::Value {
    json!({ "event": kind, "client": client.to_string(), "original_dst": original_dst.to_string() })
}

/// Waits until a connect has ended.
fn connected(socket: OwnedFd) -> Result<OwnedFd> {
    let mut waited = [PollFd::new(&socket, PollFlags::OUT)];
    poll(&mut waited, Some(&Timespec { tv_sec: 5, tv_nsec: 0 })).context("wait for connect")?;
    rustix::net::sockopt::socket_error(&socket)?.map_err(io::Error::from).context("connect")?;
    Ok(socket)
}

fn pump(one: OwnedFd, other: OwnedFd) -> Result<()> {
    let (one, other) = (blocking(one)?, blocking(other)?);
    let (one_reader, mut other_writer) = (one.try_clone()?, other.try_clone()?);
    let forth = thread::spawn(move || copy(one_reader, &mut other_writer));
    let mut one_writer = one;
    copy(other, &mut one_writer);
    // The thread ends when its reader does.
    let _ = forth.join();
    Ok(())
}

fn copy(mut from: TcpStream, to: &mut TcpStream) {
    // A reset ends both directions; the test sees it.
    if io::copy(&mut from, to).is_err() {
        let _ = to.shutdown(Shutdown::Both);
    }
    let _ = to.shutdown(Shutdown::Write);
}

fn blocking(socket: OwnedFd) -> Result<TcpStream> {
    rustix::io::ioctl_fionbio(socket.as_fd(), false).context("make a socket blocking")?;
    Ok(TcpStream::from(socket))
}
