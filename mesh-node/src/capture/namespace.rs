//! A pod's network namespace, and making sockets inside it.
//!
//! A socket belongs for life to the namespace that its maker stood in. So only the making of a socket happens
//! inside; binding, connecting and all the rest happen wherever the thread is.

use std::cell::OnceCell;
use std::fs::{File, Metadata};
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The agent's own user namespace, which is the host's: no other may load programs.
const HOST_USERS: &str = "/proc/thread-self/ns/user";
/// How deep user namespaces may lie in each other, with one to spare (kernel/user_namespace.c, `create_user_ns`).
const MAX_USER_DEPTH: u32 = 34;

/// An open network namespace. Held while its pod is captured: an open namespace outlives its pod.
#[derive(Clone, Debug)]
pub struct Namespace {
    file: Arc<File>,
    id: NamespaceId,
    cookie: u64,
}

/// What tells a namespace from all others that are there (stat(2) on its file). It may be used again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NamespaceId {
    device: u64,
    inode: u64,
}

/// Why a namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The path, of the pod's annotation or of one of its processes, cannot be opened.
    #[error("open the network namespace {path}", path = path.display())]
    Open {
        /// What was opened.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The path is a file, but no network namespace, or the agent may not enter it.
    #[error("enter the network namespace {path}; it takes CAP_SYS_ADMIN", path = path.display())]
    Enter {
        /// What was entered.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Namespace {
    /// Opens a namespace by its path, as in `/run/netns/NAME` or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// The path cannot be opened, or is no network namespace.
    pub fn open(path: &Path) -> Result<Self, NamespaceError> {
        let failed = |source| NamespaceError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let id = NamespaceId::new(&file.metadata().map_err(failed)?);
        let namespace = Self { file: Arc::new(file), id, cookie: 0 };
        let cookie = namespace
            .socket(AddressFamily::INET)
            .and_then(|probe| netns_cookie(&probe))
            .map_err(|source| NamespaceError::Enter { path: path.to_owned(), source })?;
        Ok(Self { cookie, ..namespace })
    }

    /// The kernel's number for this namespace, never used again while the machine runs (`SO_NETNS_COOKIE`, since
    /// Linux 5.14).
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Whether a path still leads to this namespace, and not to a later one of the same name.
    pub fn is_at(&self, path: &Path) -> bool {
        NamespaceId::at(path) == Some(self.id)
    }

    pub(super) fn id(&self) -> NamespaceId {
        self.id
    }

    /// How far below the host's the user namespace lies that owns this one; the largest number where that cannot be told.
    ///
    /// A runtime makes a pod's network in the user namespace that it gives the pod, or above; what the pod makes itself is
    /// owned by that one, or by one below (user_namespaces(7), ioctl_nsfs(2)).
    pub(super) fn owner_depth(&self) -> u32 {
        let host = NamespaceId::at(Path::new(HOST_USERS));
        let mut owner = related(self.file.as_fd(), libc::NS_GET_USERNS);
        for depth in 0..MAX_USER_DEPTH {
            match owner {
                Ok(users) if users.metadata().ok().map(|about| NamespaceId::new(&about)) == host => {
                    return depth;
                }
                Ok(users) => owner = related(users.as_fd(), libc::NS_GET_PARENT),
                // It is not below the agent's.
                Err(_) => break,
            }
        }
        u32::MAX
    }

    /// Whether an address is one of the namespace's own: then it is also the source of what goes there. (A socket can be
    /// bound to any address where no interface is up.)
    pub(super) fn has(&self, address: IpAddr) -> bool {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = self.run(|| Ok(socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?));
        let Ok(socket) = socket.map(UdpSocket::from) else { return false };
        // Of UDP, this sends nothing. Port 9 is nobody's (RFC 863).
        let source = socket.connect((address, 9)).and_then(|()| socket.local_addr());
        source.is_ok_and(|source| source.ip() == address)
    }

    /// Makes a TCP socket inside: not blocking, closed on exec.
    ///
    /// # Errors
    /// As socket(2); `EAFNOSUPPORT` for IPv6 where the kernel has none.
    pub fn socket(&self, family: AddressFamily) -> io::Result<OwnedFd> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        self.run(|| Ok(socket_with(family, SocketType::STREAM, flags, None)?))
    }

    /// Runs `work` on this thread inside the namespace and comes back. `work` must not block.
    ///
    /// # Errors
    /// The namespace cannot be entered, or what `work` returns.
    ///
    /// # Panics
    /// The way back fails, which the kernel has no reason for: the thread would go on in a pod's namespace.
    pub fn run<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        thread_local! {
            /// The namespace this thread belongs to.
            static HOME: OnceCell<File> = const { OnceCell::new() };
        }
        HOME.with(|home| {
            if home.get().is_none() {
                // Nobody else sets it: the cell is this thread's.
                let _ = home.set(File::open("/proc/thread-self/ns/net")?);
            }
            let home = home.get().expect("set above");
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
            let outcome = work();
            move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("a thread may return to the namespace that it came from");
            outcome
        })
    }
}

impl NamespaceId {
    /// The one that a path leads to now.
    pub(super) fn at(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|about| Self::new(&about))
    }

    fn new(about: &Metadata) -> Self {
        Self { device: about.dev(), inode: about.ino() }
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The user namespace that a namespace has to do with, as `which` says.
fn related(namespace: BorrowedFd<'_>, which: libc::Ioctl) -> io::Result<File> {
    // SAFETY: these requests of ioctl(2) take no argument, and touch nothing but the descriptor that they are about.
    let result = unsafe { libc::ioctl(namespace.as_raw_fd(), which) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for this call; nobody else has it.
    Ok(unsafe { File::from_raw_fd(result) })
}

fn netns_cookie(socket: &OwnedFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` and `length` live through the call, and `length` is the size of `cookie`, which the kernel
    // fills with one u64.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
