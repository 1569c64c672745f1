//! Proves by effect that connections are captured: a network namespace of our own is captured as if it were a pod, a
//! process in the pods' cgroup connects out of it, and the daemon into it.
//!
//! Nothing leaves the machine: addresses are of TEST-NET-1 (RFC 5737) and stand on loopback.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use mesh_common::model::workload::Exclusions;
use mesh_common::model::{Direction, PodDetails};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::accept::{Accepted, accept};
use super::known::sockets;
use super::listener::{Family, ListenError, Listener};
use super::namespace::{Namespace, NamespaceError};
use super::pods::Pods;
use super::ports::Ports;
use crate::kernel::{self, KernelError, OriginalDstReader, PodFacts};

/// The address of the trial's pod.
const POD: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 80);
/// Who calls it.
const CALLER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// What it calls.
const DIALLED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 3)), 80);
/// How long a connect may take that never leaves the machine.
const LIMIT: Duration = Duration::from_secs(1);
/// Below `--cgroup-root`; there only during a trial.
const CGROUP: &str = "nodemesh-trial";

/// A captured namespace that is no pod's.
#[derive(Debug)]
pub struct Trial {
    namespace: Namespace,
    listeners: Vec<Arc<Listener>>,
    original_dsts: OriginalDstReader,
    cgroup: PathBuf,
}

/// Why connections are not captured, as far as a trial shows.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// No namespace for it.
    #[error("make a network namespace for a trial")]
    Make(#[source] io::Error),
    /// The namespace cannot be entered.
    #[error("enter the network namespace of a trial")]
    Namespace(#[from] NamespaceError),
    /// No listener in it.
    #[error("listen in the network namespace of a trial")]
    Listen(#[from] ListenError),
    /// The kernel's side.
    #[error("tell the kernel about a trial")]
    Kernel(#[from] KernelError),
    /// No process of a pod.
    #[error("{operation} the cgroup {path}", path = path.display())]
    Cgroup {
        /// What was tried.
        operation: &'static str,
        /// On which cgroup.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The pod's connect failed.
    #[error("a connect in the pods' cgroup failed: {said}")]
    Refused {
        /// As the process was told.
        said: String,
    },
    /// A socket of the daemon's own.
    #[error("{operation} a socket for a trial")]
    Socket {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The connection went somewhere else.
    #[error("a connection did not come to the agent's listener within {LIMIT:?}")]
    NotCaptured,
    /// The listener was told something else.
    #[error("the agent was told {told}, and {expected} was dialled")]
    WrongDestination {
        /// What the agent was told.
        told: String,
        /// What was dialled.
        expected: SocketAddr,
    },
}

impl Pods {
    /// Captures a namespace of our own.
    ///
    /// # Errors
    /// It cannot be captured; nothing is left of it.
    pub fn begin_trial(&mut self, cgroup_root: &Path) -> Result<Trial, TrialError> {
        let trial = Trial {
            namespace: make_namespace()?,
            listeners: Vec::new(),
            original_dsts: self.kernel().original_dsts(),
            cgroup: cgroup_root.join(CGROUP),
        };
        match self.capture_trial(&trial.namespace) {
            Ok(listeners) => Ok(Trial { listeners, ..trial }),
            Err(error) => {
                self.end_trial(&trial)?;
                Err(error)
            }
        }
    }

    fn capture_trial(&mut self, namespace: &Namespace) -> Result<Vec<Arc<Listener>>, TrialError> {
        let facts = PodFacts {
            addresses: vec![POD.ip()],
            exclusions: Exclusions::default(),
            probe_ports: Vec::new(),
        };
        self.kernel().hold(namespace.cookie(), namespace.as_fd(), &facts)?;
        let ports = Ports::of(namespace, &PodDetails::default());
        let mut listeners = Vec::new();
        for direction in [Direction::Outbound, Direction::Inbound] {
            listeners.extend(Listener::open(namespace, &ports, direction, Family::V4)?.map(Arc::new));
        }
        self.kernel().capture(namespace.cookie(), &facts, &sockets(&listeners))?;
        Ok(listeners)
    }

    /// Takes back what a trial put into the kernel's maps.
    ///
    /// # Errors
    /// A map cannot be written.
    pub fn end_trial(&mut self, trial: &Trial) -> Result<(), TrialError> {
        Ok(self.kernel().release(trial.namespace.cookie())?)
    }
}

impl Trial {
    /// Connects out of the namespace. Blocks for a few milliseconds; for `LIMIT` and more if it fails.
    ///
    /// # Errors
    /// The connection does not come to the agent, or not with the address that was dialled.
    pub fn outbound(&self) -> Result<(), TrialError> {
        self.connect_as_pod()?;
        let (Accepted { peer, .. }, listener) = self.accepted(Direction::Outbound)?;
        let told = self.original_dsts.take(listener.netns_cookie(), peer, listener.port());
        match told {
            Ok(Some(DIALLED)) => Ok(()),
            Ok(told) => Err(wrong_destination(told.map(|told| told.to_string()), DIALLED)),
            Err(error) => Err(wrong_destination(Some(error.to_string()), DIALLED)),
        }
    }

    /// Connects into the namespace. Blocks as [`outbound`](Self::outbound).
    ///
    /// # Errors
    /// As [`outbound`](Self::outbound).
    pub fn inbound(&self) -> Result<(), TrialError> {
        let failed = |operation| move |source: io::Error| TrialError::Socket { operation, source };
        let caller = self.namespace.socket(AddressFamily::INET).map_err(failed("make"))?;
        bind(&caller, &SocketAddr::new(CALLER.into(), 0)).map_err(|error| failed("bind")(error.into()))?;
        match connect(&caller, &POD) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(failed("connect")(error.into())),
        }
        let (Accepted { local, .. }, _) = self.accepted(Direction::Inbound)?;
        if local != POD {
            return Err(wrong_destination(Some(local.to_string()), POD));
        }
        Ok(())
    }

    /// Runs this program once more, as a process of a pod would be, to connect.
    fn connect_as_pod(&self) -> Result<(), TrialError> {
        let failed =
            |operation| move |source| TrialError::Cgroup { operation, path: self.cgroup.clone(), source };
        match fs::create_dir(&self.cgroup) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("make")(error)),
            _ => {}
        }
        let outcome = self.run_in_cgroup().map_err(failed("start a process in"));
        // Left behind, it does no harm: the next trial takes it.
        let _ = fs::remove_dir(&self.cgroup);
        match outcome?.as_str() {
            "" => Ok(()),
            said => Err(TrialError::Refused { said: said.to_owned() }),
        }
    }

    /// What the process said went wrong; empty if nothing.
    fn run_in_cgroup(&self) -> io::Result<String> {
        let mut members = kernel::members(&self.cgroup)?;
        let namespace = self.namespace.clone();
        let mut command = Command::new("/proc/self/exe");
        command.args(["trial-connect", &DIALLED.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // SAFETY: between fork and exec there are two system calls on open descriptors: no lock, no allocation.
        unsafe {
            command.pre_exec(move || {
                // The process that writes is the one that is moved (cgroup v2: "0").
                members.write_all(b"0")?;
                Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
            });
        }
        let mut child = command.spawn()?;
        let mut said = String::new();
        if let Some(stderr) = &mut child.stderr {
            stderr.read_to_string(&mut said)?;
        }
        match child.wait()? {
            status if status.success() => Ok(String::new()),
            status if said.trim().is_empty() => Ok(status.to_string()),
            _ => Ok(said.trim().to_owned()),
        }
    }

    /// The connection that waits at a listener, or comes before the limit.
    fn accepted(&self, direction: Direction) -> Result<(Accepted, &Listener), TrialError> {
        let mut listeners = self.listeners.iter();
        let listener = listeners.find(|listener| listener.direction() == direction);
        let listener = listener.ok_or(TrialError::NotCaptured)?;
        let mut waited = [PollFd::new(listener, PollFlags::IN)];
        let limit = Timespec { tv_sec: LIMIT.as_secs().cast_signed(), tv_nsec: 0 };
        // Interrupted or not: accept tells.
        let _ = poll(&mut waited, Some(&limit));
        let accepted = accept(listener).map_err(|_| TrialError::NotCaptured)?;
        Ok((accepted, listener))
    }
}

/// What the process in the pods' cgroup does.
///
/// # Errors
/// The connect fails.
pub fn trial_connect(to: SocketAddr) -> io::Result<()> {
    TcpStream::connect_timeout(&to, LIMIT).map(drop)
}

fn wrong_destination(told: Option<String>, expected: SocketAddr) -> TrialError {
    TrialError::WrongDestination { told: told.unwrap_or_else(|| "nothing".to_owned()), expected }
}

/// A network namespace with nothing but loopback, on which the trial's addresses are. It lives as long as it is held.
fn make_namespace() -> Result<Namespace, TrialError> {
    let make = || {
        // SAFETY: only the network namespace is another one from here on, and only this thread's, which ends soon.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(|error| TrialError::Make(error.into()))?;
        set_loopback_up().map_err(TrialError::Make)?;
        Ok(Namespace::open(Path::new("/proc/thread-self/ns/net"))?)
    };
    let thread = thread::Builder::new().name("trial".to_owned()).spawn(make).map_err(TrialError::Make)?;
    thread.join().unwrap_or_else(|_| Err(TrialError::Make(io::Error::other("the thread panicked"))))
}

/// Sets loopback up in this thread's namespace, with the trial's network on it: all of its addresses are local then.
fn set_loopback_up() -> io::Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let request = |name: &[u8]| {
        // SAFETY: all zeros is a valid `ifreq`.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name) {
            *to = from.cast_signed();
        }
        request
    };
    let mut up = request(b"lo");
    up.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    let mut address = request(b"lo:1");
    let IpAddr::V4(pod) = POD.ip() else { unreachable!("the constant is an IPv4 address") };
    let ip = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(pod.octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: a `sockaddr_in` has the size of a `sockaddr`, and is what SIOCSIFADDR takes in its place.
    address.ifr_ifru.ifru_addr = unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(ip) };
    for (operation, request) in [(libc::SIOCSIFFLAGS, &up), (libc::SIOCSIFADDR, &address)] {
        // SAFETY: the descriptor is the socket's, and the request lives through the call.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), operation, &raw const *request) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
