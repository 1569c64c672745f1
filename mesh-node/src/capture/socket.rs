//! Dialling from a pod's namespace, without waiting for the outcome.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{bind, getsockname, sockopt};

use super::listener::Family;
use super::namespace::Namespace;
use crate::kernel::CallerWriter;

/// A socket whose connect has begun.
#[derive(Debug)]
pub struct Dialled {
    /// Not blocking, TCP_NODELAY. Writable when the connect has ended; `SO_ERROR` then says how.
    pub socket: OwnedFd,
    /// The connect has ended already, as on loopback.
    pub connected: bool,
}

/// Why a connect could not begin, or ended at once.
#[derive(Debug, thiserror::Error)]
#[error("{operation} for {to}")]
pub struct DialError {
    /// Which call failed.
    pub operation: &'static str,
    /// Where it was to lead.
    pub to: SocketAddr,
    /// How it failed.
    #[source]
    pub source: io::Error,
}

/// Makes a socket inside `namespace` and begins to connect it to `to`; the source address is the route's choice, or
/// `from`.
///
/// # Errors
/// A call fails at once, as with no route to the address.
pub fn dial(namespace: &Namespace, to: SocketAddr, from: Option<IpAddr>) -> Result<Dialled, DialError> {
    let failed = |operation| move |source: io::Error| DialError { operation, to, source };
    let socket = match from {
        Some(from) => bound_socket(namespace, from).map_err(failed("bind a socket"))?.0,
        None => plain_socket(namespace, to.ip()).map_err(failed("make a socket"))?,
    };
    let connected = connect(&socket, to).map_err(failed("connect"))?;
    Ok(Dialled { socket, connected })
}

/// Begins to connect to an application of a pod, from the pod's own address and on behalf of `caller`, whom the
/// application sees as its peer. From the first packet on; there is nothing to undo.
///
/// # Errors
/// A call fails at once, as with `ECONNREFUSED` where nothing listens.
pub fn dial_application(
    namespace: &Namespace,
    application: SocketAddr,
    caller: SocketAddr,
    callers: &CallerWriter,
) -> Result<Dialled, DialError> {
    let failed = |operation| move |source: io::Error| DialError { operation, to: application, source };
    let socket = plain_socket(namespace, application.ip()).map_err(failed("make a socket"))?;
    leave_port_to_connect(&socket).map_err(failed("configure a socket"))?;
    bind(&socket, &SocketAddr::new(application.ip(), 0))
        .map_err(|error| failed("bind a socket")(error.into()))?;
    callers.announce(&socket, caller).map_err(failed("announce the caller"))?;
    let connected = connect(&socket, application).map_err(failed("connect"))?;
    Ok(Dialled { socket, connected })
}

/// A port taken by bind(2) is taken from every destination; one taken by connect(2) only from its own
/// (`IP_BIND_ADDRESS_NO_PORT`, since Linux 4.2, for IPv6 too).
fn leave_port_to_connect(socket: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is the socket's, and the value is read from a live integer of the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes a socket inside `namespace`, bound to `from` and a port of the kernel's choice, which is told: so that
/// something can be written about the connection before it begins.
///
/// # Errors
/// As socket(2) and bind(2).
pub fn bound_socket(namespace: &Namespace, from: IpAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let socket = plain_socket(namespace, from)?;
    bind(&socket, &SocketAddr::new(from, 0))?;
    let local = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok((socket, local))
}

/// Begins to connect. `true`: it has ended already.
///
/// # Errors
/// It ended at once, as with `ECONNREFUSED` on loopback or `ENETUNREACH`.
pub fn connect(socket: impl AsFd, to: SocketAddr) -> io::Result<bool> {
    match rustix::net::connect(socket, &to) {
        Ok(()) => Ok(true),
        Err(Errno::INPROGRESS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn plain_socket(namespace: &Namespace, address: IpAddr) -> io::Result<OwnedFd> {
    let socket = namespace.socket(Family::of(address).into())?;
    // Frames and requests are written whole: waiting for more would only add delay.
    sockopt::set_tcp_nodelay(&socket, true)?;
    Ok(socket)
}
