//! Begins TCP connections, inside a pod's network namespace where asked, and says why one failed.
//!
//! In: a [`Dial`]. Out: a socket whose connect is under way, non-blocking. Never waits.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use super::outcome::ConnectFailure;
use crate::capture::Namespace;

/// After this long without an answer to data the kernel gives a connection between daemons up.
const UNANSWERED: Duration = Duration::from_secs(15);

/// A TCP connection to be made.
#[derive(Clone, Debug)]
pub struct Dial {
    /// Where to.
    pub destination: SocketAddr,
    /// The address to come from, where it matters; a port of 0 lets the kernel choose.
    pub source: Option<SocketAddr>,
    /// The network namespace to make the socket in; `None` is the daemon's own.
    pub netns: Option<Namespace>,
}

/// Makes the socket and begins the connect.
///
/// # Errors
/// What the kernel says at once; most failures come later, by [`finished`].
pub fn start(dial: &Dial) -> io::Result<OwnedFd> {
    let family = match dial.destination {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = match &dial.netns {
        Some(netns) => netns.socket(family)?,
        None => {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?
        }
    };
    sockopt::set_tcp_nodelay(&socket, true)?;
    if let Some(source) = dial.source {
        if source.port() == 0 {
            choose_port_late(&socket)?;
        }
        rustix::net::bind(&socket, &source)?;
    }
    match rustix::net::connect(&socket, &dial.destination) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// Whether the connect of a socket that became writable went well.
///
/// # Errors
/// Why it did not.
pub fn finished(socket: impl AsFd) -> Result<(), ConnectFailure> {
    match sockopt::socket_error(socket) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) | Err(error) => Err(failure(error)),
    }
}

/// What an error of [`start`] means.
pub fn failure_of(error: &io::Error) -> ConnectFailure {
    Errno::from_io_error(error).map_or(ConnectFailure::Local, failure)
}

/// What every connection between daemons has: a peer that no longer answers is noticed by the kernel too.
///
/// # Errors
/// What the kernel says.
pub fn watch_for_silence(socket: impl AsFd) -> io::Result<()> {
    let milliseconds = u32::try_from(UNANSWERED.as_millis()).expect("15 seconds fit");
    Ok(sockopt::set_tcp_user_timeout(socket, milliseconds)?)
}

/// Makes closing the socket a reset instead of an orderly end.
pub fn reset_on_close(socket: impl AsFd) {
    // Fails for a socket that is not connected; then there is nobody to tell.
    let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

/// Undoes [`reset_on_close`]: what waits in the socket reaches the other side, and then the end.
pub fn end_on_close(socket: impl AsFd) {
    // Fails for no connected socket; then nothing waits in it.
    let _ = sockopt::set_socket_linger(socket, None);
}

fn failure(error: Errno) -> ConnectFailure {
    match error {
        Errno::CONNREFUSED | Errno::CONNRESET => ConnectFailure::Refused,
        Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::NETDOWN | Errno::HOSTDOWN => {
            ConnectFailure::Unreachable
        }
        Errno::TIMEDOUT => ConnectFailure::TimedOut,
        _ => ConnectFailure::Local,
    }
}

/// Unsent bytes beyond which a socket says that it is full: what waits in the kernel cannot be overtaken by
/// small frames.
///
/// # Errors
/// What the kernel says.
pub fn limit_unsent(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes.cast_signed())
}

/// Has the port chosen by connect, not by bind: it then only has to be free towards this destination. Chosen by bind
/// it would be taken for all, and those of closed connections for a minute more.
fn choose_port_late(socket: impl AsFd) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// For what rustix has no call for.
fn set_option(socket: impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed for the call, and the value is an i32 of the length given.
    let result = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
