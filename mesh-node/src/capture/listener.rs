//! Listeners inside a pod's namespace: one per direction and address family.
//!
//! They stand on loopback, on ports chosen at run time, so there is no fixed port to collide with or to abuse. The
//! kernel programs lead connections there: the connect hook those of the pod, sk_lookup those to the pod.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use mesh_common::model::Direction;
use rustix::io::Errno;
use rustix::net::{AddressFamily, bind, listen, sockopt};

use super::namespace::Namespace;
use super::ports::Ports;

/// Connections that wait for `accept`, per listener. The kernel lowers it to net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// How many ports are tried before giving up: each is taken with a small probability only.
const ATTEMPTS: usize = 64;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6, without IPv4-mapped.
    V6,
}

/// A listening socket inside a pod's namespace.
#[derive(Debug)]
pub struct Listener {
    /// Never given to another listener of this process.
    id: u64,
    socket: OwnedFd,
    direction: Direction,
    family: Family,
    port: u16,
    netns_cookie: u64,
}

/// Why a listener cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A call of the kernel failed.
    #[error("{operation} a capture listener for {family:?}")]
    Kernel {
        /// Which call.
        operation: &'static str,
        /// The family that it was for.
        family: Family,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Every port that was tried is taken.
    #[error("no free loopback port for {family:?} after {ATTEMPTS} attempts in {range:?}")]
    NoPort {
        /// The family that it was for.
        family: Family,
        /// From the lowest that may be taken to the highest.
        range: RangeInclusive<u16>,
    },
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    fn loopback(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }
}

impl From<Family> for AddressFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Self::INET,
            Family::V6 => Self::INET6,
        }
    }
}

impl Listener {
    /// Listens inside `namespace` on one of `ports`. `None`: the namespace has no IPv6, which is no error.
    ///
    /// # Errors
    /// A call fails, or no port is free.
    pub fn open(
        namespace: &Namespace,
        ports: &Ports,
        direction: Direction,
        family: Family,
    ) -> Result<Option<Self>, ListenError> {
        for _ in 0..ATTEMPTS {
            let failed =
                |operation| move |source: io::Error| ListenError::Kernel { operation, family, source };
            let port = ports.draw().map_err(failed("choose a port for"))?;
            let socket = match namespace.socket(family.into()) {
                Err(error) if is_without_family(&error) => return Ok(None),
                made => made.map_err(failed("make"))?,
            };
            configure(&socket, direction, family).map_err(|error| failed("configure")(error.into()))?;
            match bind(&socket, &SocketAddr::new(family.loopback(), port)) {
                Err(Errno::ADDRINUSE | Errno::ACCESS) => continue,
                Err(error) if is_without_family(&error.into()) => return Ok(None),
                bound => bound.map_err(|error| failed("bind")(error.into()))?,
            }
            listen(&socket, BACKLOG).map_err(|error| failed("listen on")(error.into()))?;
            let netns_cookie = namespace.cookie();
            return Ok(Some(Self { id: next_id(), socket, direction, family, port, netns_cookie }));
        }
        Err(ListenError::NoPort { family, range: ports.range() })
    }

    /// Its name in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whose connections arrive here: the pod's own, or those to the pod.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// The family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The loopback port that the kernel programs lead to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The namespace's cookie.
    pub fn netns_cookie(&self) -> u64 {
        self.netns_cookie
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What the listener has, and by inheritance every connection that it accepts.
fn configure(socket: &OwnedFd, direction: Direction, family: Family) -> rustix::io::Result<()> {
    if family == Family::V6 {
        sockopt::set_ipv6_v6only(socket, true)?;
    }
    // Inbound ones have the application's own port, and without it an application that starts again could not bind
    // that port while a tunnel to it is open.
    sockopt::set_socket_reuseaddr(socket, true)?;
    // Frames and requests are written whole: waiting for more would only add delay.
    sockopt::set_tcp_nodelay(socket, true)?;
    if direction == Direction::Outbound {
        stay_in_node(socket);
    }
    Ok(())
}

/// Tells the kernel that a connection does not leave the node: there is no congestion on loopback, and no pace to keep
/// to, as the system's own congestion control may (BBR does). Reno is in every kernel, for everyone to use.
pub(super) fn stay_in_node(socket: &OwnedFd) {
    // Without it the connection is slower, and works.
    let _ = sockopt::set_tcp_congestion(socket, "reno");
}

fn next_id() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

/// `EAFNOSUPPORT`: no IPv6 in the kernel; `EADDRNOTAVAIL`: switched off in the namespace.
fn is_without_family(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code == Some(Errno::AFNOSUPPORT.raw_os_error()) || code == Some(Errno::ADDRNOTAVAIL.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_has_what_its_listener_has() {
        for (direction, congestion_control) in
            [(Direction::Outbound, Some("reno")), (Direction::Inbound, None)]
        {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let socket = OwnedFd::from(listener);
            let system = sockopt::tcp_congestion(&socket).unwrap();
            configure(&socket, direction, Family::V4).unwrap();
            let _client = std::net::TcpStream::connect(address).unwrap();
            let accepted = rustix::net::accept(&socket).unwrap();
            assert!(sockopt::tcp_nodelay(&accepted).unwrap());
            assert_eq!(sockopt::tcp_congestion(&accepted).unwrap(), congestion_control.unwrap_or(&system));
        }
    }
}
