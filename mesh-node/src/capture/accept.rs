//! Accepting on a pod's listener: whose connection it is and what the application asked for.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use mesh_common::model::Direction;
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with, getsockname, sockopt};

/// A connection as it came out of `accept`.
#[derive(Debug)]
pub struct Accepted {
    /// Not blocking, closed on exec, TCP_NODELAY.
    pub socket: OwnedFd,
    /// The other end as this socket sees it; IPv4 never in the mapped form.
    pub peer: SocketAddr,
    /// This end; on an inbound listener the address that the caller dialled.
    pub local: SocketAddr,
}

/// A connection and what it was meant to be.
#[derive(Debug)]
pub struct Captured {
    /// Not blocking, closed on exec, TCP_NODELAY.
    pub socket: OwnedFd,
    /// Whose connection it is: of the pod, or to the pod.
    pub direction: Direction,
    /// The caller as the called would see it without a mesh.
    pub client: SocketAddr,
    /// What the application dialled.
    pub original_dst: SocketAddr,
}

/// Why `accept` gave nothing.
#[derive(Debug)]
pub enum AcceptEnd {
    /// Nothing waits: wait for readiness.
    Drained,
    /// The connection was gone before it was accepted: accept again.
    Gone,
    /// No descriptor or no memory: pause, then accept again. What waits stays in the backlog.
    Exhausted(io::Error),
    /// The listener is unusable.
    Broken(io::Error),
}

/// Takes one waiting connection of a [`Listener`](super::Listener).
///
/// # Errors
/// Why there is none; only [`AcceptEnd::Broken`] ends the loop.
pub fn accept(listener: impl AsFd) -> Result<Accepted, AcceptEnd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, peer) = acceptfrom_with(listener, flags).map_err(AcceptEnd::of)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).ok_or(AcceptEnd::Gone)?;
    // ENOTCONN and EINVAL: reset while it waited.
    let local = getsockname(&socket).map_err(|_| AcceptEnd::Gone)?;
    let local = SocketAddr::try_from(local).map_err(|_| AcceptEnd::Gone)?;
    sockopt::set_tcp_nodelay(&socket, true).map_err(|_| AcceptEnd::Gone)?;
    Ok(Accepted { socket, peer: canonical(peer), local: canonical(local) })
}

impl Accepted {
    /// What an outbound connection was meant to be, once the kernel's map has told the destination. `own` is the
    /// pod's address of the destination's family, which the connection would have come from.
    pub fn outbound(self, original_dst: SocketAddr, own: Option<IpAddr>) -> Captured {
        // A socket that was bound to an address keeps it; one that was not has loopback here.
        let ip = if self.peer.ip().is_loopback() { own.unwrap_or(self.peer.ip()) } else { self.peer.ip() };
        let client = SocketAddr::new(ip, self.peer.port());
        Captured { socket: self.socket, direction: Direction::Outbound, client, original_dst }
    }

    /// What an inbound connection was meant to be. `None`: it was dialled at the listener itself, not led there.
    pub fn inbound(self) -> Option<Captured> {
        if self.local.ip().is_loopback() {
            return None;
        }
        let Self { socket, peer, local } = self;
        Some(Captured { socket, direction: Direction::Inbound, client: peer, original_dst: local })
    }
}

impl AcceptEnd {
    /// What an error of accept(2) means for the loop.
    fn of(error: Errno) -> Self {
        match error {
            Errno::AGAIN => Self::Drained,
            Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => Self::Exhausted(error.into()),
            Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP | Errno::FAULT => {
                Self::Broken(error.into())
            }
            // accept(2): errors of the new connection's network are reported here and mean only that connection.
            _ => Self::Gone,
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
