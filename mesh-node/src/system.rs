//! What the system is asked for and may refuse: at start addresses, threads, files, word of a stop; later a connection.
//!
//! Never: a socket of the data path.

use std::fmt;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Short for who waits to be accepted, long for a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Writes text on standard output, as it is. Whoever reads it may have enough of it and go (`| head -1`): the rest is for
/// nobody then, and what the command does is done all the same. What cannot be written for another reason ends the program.
pub fn print(text: impl fmt::Display) {
    let mut out = io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("error: write on standard output: {error}");
            std::process::exit(1);
        }
        Ok(()) | Err(_) => {}
    }
}

/// Writes a line on standard output, as [`print()`] does.
pub fn print_line(line: impl fmt::Display) {
    print(format_args!("{line}\n"));
}

/// A thread, a runtime or a signal handler that is not to be had.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct SystemError {
    /// What was done.
    operation: &'static str,
    /// Why it failed.
    source: io::Error,
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address}, told by {flag}{}", hint(source))]
pub struct ListenError {
    /// The flag.
    flag: &'static str,
    /// Its value.
    address: SocketAddr,
    /// Why not.
    source: io::Error,
}

/// What to do about it, where that is known.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            ", where another program listens, perhaps another agent: stop that one, or give each an address of its own"
        }
        io::ErrorKind::AddrNotAvailable => ", which is no address of this machine",
        _ => "",
    }
}

/// A file or folder that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {path}", path = path.display())]
pub struct AccessError {
    /// What was tried.
    operation: &'static str,
    /// On what.
    path: PathBuf,
    /// Why it failed.
    source: io::Error,
}

impl AccessError {
    /// Whether nothing is there.
    pub fn is_of_nothing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Says what was tried on a file or folder when the system refused it.
pub fn access(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AccessError {
    let path = path.to_owned();
    move |source| AccessError { operation, path, source }
}

/// Says what was done when the system refused it.
pub fn system(operation: &'static str) -> impl FnOnce(io::Error) -> SystemError {
    move |source| SystemError { operation, source }
}

/// Listens on the address that a flag tells.
///
/// # Errors
/// [`ListenError`].
pub async fn listen(flag: &'static str, address: SocketAddr) -> Result<TcpListener, ListenError> {
    let mut bound = TcpListener::bind(address).await;
    // A kernel without IPv6 has no [::], which is the default of some flags.
    if bound.is_err() && address.ip() == Ipv6Addr::UNSPECIFIED {
        bound = TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await;
    }
    bound.map_err(|source| ListenError { flag, address, source })
}

/// Waits after a connection could not be accepted, so that who accepts does not spin: descriptors or memory come back by
/// themselves, and the kernel tells nobody when.
pub async fn pause_accepting() {
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// Gives memory that is free back to the system. For after something large that is not soon done again; the allocator by
/// itself keeps what is not at the end of its heap.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called at any time from any thread; it touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Hears when the process is told to stop, by SIGTERM or SIGINT.
#[derive(Debug)]
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    /// From now on neither signal ends the process.
    ///
    /// # Errors
    /// [`SystemError`] if they cannot be handled.
    pub fn new() -> Result<Self, SystemError> {
        let handled = |kind| signal(kind).map_err(system("handle SIGTERM and SIGINT"));
        Ok(Self {
            terminate: handled(SignalKind::terminate())?,
            interrupt: handled(SignalKind::interrupt())?,
        })
    }

    /// Returns when the process is told to stop. Cancel safe.
    pub async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_taken_says_who_may_have_it() {
        let taken = listen("--metrics-address", "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = listen("--metrics-address", taken.local_addr().unwrap()).await.unwrap_err();
        assert!(
            error.to_string().contains("told by --metrics-address, where another program listens"),
            "{error}"
        );
    }
}
