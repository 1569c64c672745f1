//! Opens a connection the way a test asks for.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use socket2::{Domain, Protocol, Socket, Type};

/// Where to and how to connect.
#[derive(Args, Clone)]
pub(crate) struct Connect {
    /// Address and port to dial
    #[arg(long)]
    pub(crate) to: SocketAddr,
    /// Address and port to bind before
    #[arg(long)]
    bind: Option<SocketAddr>,
    /// Interface to bind to before (SO_BINDTODEVICE)
    #[arg(long)]
    device: Option<String>,
    /// Mark to set before (SO_MARK)
    #[arg(long)]
    mark: Option<u32>,
    /// Connect with O_NONBLOCK and poll, as event loops do
    #[arg(long)]
    nonblocking: bool,
    /// Dial an IPv4 address from an IPv6 socket, as ::ffff:a.b.c.d
    #[arg(long)]
    mapped: bool,
    /// Ask for Multipath TCP
    #[arg(long)]
    mptcp: bool,
    /// Ask for TCP Fast Open (TCP_FASTOPEN_CONNECT)
    #[arg(long)]
    fast_open: bool,
    /// Longest time for connecting and for each wait, in milliseconds
    #[arg(long, default_value = "10000")]
    pub(crate) timeout_ms: u64,
}

impl Connect {
    /// The longest time for each wait.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// Connects. The stream is in blocking mode, with the timeout on reads and writes.
    pub(crate) fn open(&self) -> io::Result<TcpStream> {
        let to = if self.mapped { mapped(self.to) } else { self.to };
        let protocol = if self.mptcp { Protocol::MPTCP } else { Protocol::TCP };
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(protocol))?;
        if let Some(device) = &self.device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        if let Some(address) = self.bind {
            socket.bind(&address.into())?;
        }
        if self.fast_open {
            set_fast_open(&socket)?;
        }
        if self.nonblocking {
            connect_nonblocking(&socket, to, self.timeout())?;
        } else {
            // SO_SNDTIMEO bounds a blocking connect without making it another system call.
            socket.set_write_timeout(Some(self.timeout()))?;
            socket.connect(&to.into()).map_err(in_progress_is_timeout)?;
        }
        let stream = TcpStream::from(socket);
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(self.timeout()))?;
        stream.set_write_timeout(Some(self.timeout()))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

fn set_fast_open(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is the socket's, and the value is read from a live integer of the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN_CONNECT,
            (&raw const on).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn connect_nonblocking(socket: &Socket, to: SocketAddr, limit: Duration) -> io::Result<()> {
    const IN_PROGRESS: i32 = rustix::io::Errno::INPROGRESS.raw_os_error();
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() == Some(IN_PROGRESS) => {}
        other => return other,
    }
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    let mut waited = [PollFd::new(socket, PollFlags::OUT)];
    if poll(&mut waited, Some(&limit))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    socket.take_error()?.map_or(Ok(()), Err)
}

/// A blocking connect that ran into SO_SNDTIMEO says EINPROGRESS.
fn in_progress_is_timeout(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) if number == rustix::io::Errno::INPROGRESS.raw_os_error() => {
            io::ErrorKind::TimedOut.into()
        }
        _ => error,
    }
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V6(ip.to_ipv6_mapped()), address.port()),
        IpAddr::V6(_) => address,
    }
}
