//! Accepting on a pod's listener.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with, getsockname};

/// A connection as it came out of `accept`.
#[derive(Debug)]
pub struct Accepted {
    /// Not blocking, closed on exec; TCP_NODELAY by its listener.
    pub socket: OwnedFd,
    /// The other end as this socket sees it; IPv4 never in the mapped form.
    pub peer: SocketAddr,
    /// This end; on an inbound listener the address that the caller dialled.
    pub local: SocketAddr,
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
    Ok(Accepted { socket, peer: canonical(peer), local: canonical(local) })
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
