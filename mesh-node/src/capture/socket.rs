//! Dialling the application of a pod, without waiting for the outcome.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{bind, connect, sockopt};

use super::listener::{Family, stay_in_node};
use super::namespace::Namespace;
use crate::kernel::CallerWriter;

/// Begins to connect to an application of a pod, from the pod's own address and on behalf of `caller`, whom the
/// application sees as its peer. From the first packet on; there is nothing to undo.
///
/// The socket does not block, has TCP_NODELAY, and is writable when the connect has ended; `SO_ERROR` then says how.
///
/// # Errors
/// It ended at once, as with `ECONNREFUSED` where nothing listens.
pub fn dial_application(
    namespace: &Namespace,
    application: SocketAddr,
    caller: SocketAddr,
    callers: &CallerWriter,
) -> io::Result<OwnedFd> {
    let socket = namespace.socket(Family::of(application.ip()).into())?;
    // Frames and requests are written whole: waiting for more would only add delay.
    sockopt::set_tcp_nodelay(&socket, true)?;
    stay_in_node(&socket);
    leave_port_to_connect(&socket)?;
    bind(&socket, &SocketAddr::new(application.ip(), 0))?;
    callers.announce(&socket, caller)?;
    match connect(&socket, &application) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
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
