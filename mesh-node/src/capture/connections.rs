//! TCP connections that a pod had before it was captured. They go on outside the mesh, and are counted until they end.
//!
//! In: a pod's namespace. Out: how many of them are still open. The kernel is asked by sock_diag(7): once for all
//! sockets of the namespace, later for single ones, so that looking again costs nothing that grows with the machine.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};

use super::namespace::Namespace;
use crate::kernel::PodFacts;

/// One answer of the kernel: a dump comes in pieces of at most 32 KiB (`netlink_dump`).
const ANSWER: usize = 32 * 1024;
/// States in which bytes may still flow.
const OPEN: StateFlags = StateFlags::ESTABLISHED
    .union(StateFlags::SYN_SENT)
    .union(StateFlags::SYN_RECV)
    .union(StateFlags::FIN_WAIT1)
    .union(StateFlags::FIN_WAIT2)
    .union(StateFlags::CLOSE_WAIT);
/// States of a socket whose own side has sent its end.
const FINISHING: StateFlags = StateFlags::FIN_WAIT1.union(StateFlags::FIN_WAIT2);

/// Connections of one pod that go on outside the mesh.
#[derive(Debug, Default)]
pub(super) struct Outside {
    open: VecDeque<SocketId>,
}

impl Outside {
    /// Those that are open now and would be captured if they were made now.
    ///
    /// # Errors
    /// The kernel does not tell: it has no `tcp_diag`, or is out of memory.
    pub(super) fn find(namespace: &Namespace, pod: &PodFacts) -> io::Result<Self> {
        let mut diag = Diag::open(namespace)?;
        let mut open = VecDeque::new();
        for (family, all) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            diag.ask(family, all, NLM_F_DUMP, |found| {
                if is_open(found) && would_be_captured(&found.socket_id, pod) {
                    open.push_back(found.socket_id.clone());
                }
            })?;
        }
        Ok(Self { open })
    }

    /// How many were open when they were looked at last.
    pub(super) fn count(&self) -> usize {
        self.open.len()
    }

    /// Looks at up to `limit` of them again, those first that were not looked at for longest, and forgets what ended.
    ///
    /// # Errors
    /// The kernel does not tell; those that are left stay counted.
    pub(super) fn look_again(&mut self, namespace: &Namespace, limit: usize) -> io::Result<()> {
        let mut diag = Diag::open(namespace)?;
        for _ in 0..limit.min(self.open.len()) {
            let Some(id) = self.open.front() else { break };
            let family = if id.source_address.is_ipv4() { AF_INET } else { AF_INET6 };
            let mut lives = false;
            diag.ask(family, id.clone(), 0, |found| lives = is_open(found))?;
            self.open.rotate_left(1);
            if !lives {
                self.open.pop_back();
            }
        }
        Ok(())
    }
}

/// Whether bytes may still flow. A socket that its process closed waits for the other side only.
fn is_open(found: &InetResponseHeader) -> bool {
    let state = StateFlags::from_bits_truncate(1_u32.checked_shl(found.state.into()).unwrap_or(0));
    OPEN.contains(state.clone()) && !(FINISHING.contains(state) && found.inode == 0)
}

/// Connections inside the pod and what its annotations leave out are not meant to be in the mesh.
fn would_be_captured(id: &SocketId, pod: &PodFacts) -> bool {
    let remote = id.destination_address.to_canonical();
    let inside = |address: IpAddr| address.is_loopback() || pod.addresses.contains(&address);
    let excluded = &pod.exclusions;
    !inside(remote)
        && !excluded.outbound_cidrs.iter().any(|range| range.contains(&remote))
        && !excluded.outbound_ports.contains(&id.destination_port)
        && !excluded.inbound_ports.contains(&id.source_port)
}

/// A socket to ask about other sockets of a namespace.
struct Diag {
    socket: Socket,
    answer: Vec<u8>,
}

impl Diag {
    fn open(namespace: &Namespace) -> io::Result<Self> {
        let socket = namespace.run(|| Socket::new(NETLINK_SOCK_DIAG))?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, answer: vec![0; ANSWER] })
    }

    /// Asks about one socket, or with [`NLM_F_DUMP`] about all of a family. One that is not there is no error. The
    /// kernel answers within the call: there is nothing to wait for.
    fn ask(
        &mut self,
        family: u8,
        socket_id: SocketId,
        flags: u16,
        mut each: impl FnMut(&InetResponseHeader),
    ) -> io::Result<()> {
        self.send(family, socket_id, flags)?;
        loop {
            let length = self.socket.recv(&mut &mut self.answer[..], 0)?;
            let mut rest = &self.answer[..length];
            while !rest.is_empty() {
                let message =
                    NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
                // Messages are aligned to four bytes (`NLMSG_ALIGN`).
                let taken = (message.header.length as usize).next_multiple_of(4).clamp(4, rest.len().max(4));
                rest = rest.get(taken..).unwrap_or_default();
                match message.payload {
                    NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found)) => each(&found.header),
                    NetlinkPayload::Error(error) => return unless_absent(error.to_io()),
                    NetlinkPayload::Done(_) => return Ok(()),
                    _ => {}
                }
            }
            if flags & NLM_F_DUMP == 0 {
                return Ok(());
            }
        }
    }

    fn send(&self, family: u8, socket_id: SocketId, flags: u16) -> io::Result<()> {
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: OPEN,
            socket_id,
        };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }
}

/// `ENOENT`: no such socket; `ESTALE`: another one has its addresses.
fn unless_absent(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ESTALE) => Ok(()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_common::model::workload::Exclusions;

    fn pod() -> PodFacts {
        let exclusions = Exclusions {
            outbound_ports: [9000].into_iter().collect(),
            outbound_cidrs: vec!["10.2.0.0/16".parse().unwrap()],
            inbound_ports: [9100].into_iter().collect(),
        };
        PodFacts {
            addresses: vec!["10.1.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            exclusions,
            probe_ports: Vec::new(),
        }
    }

    fn is_counted(local_port: u16, remote: &str) -> bool {
        let remote: std::net::SocketAddr = remote.parse().unwrap();
        let id = SocketId {
            source_port: local_port,
            destination_port: remote.port(),
            destination_address: remote.ip(),
            ..SocketId::new_v4()
        };
        would_be_captured(&id, &pod())
    }

    #[test]
    fn connections_inside_the_pod_are_not_counted() {
        assert!(is_counted(40_000, "10.1.0.2:80"));
        assert!(is_counted(40_000, "[::ffff:10.1.0.2]:80"));
        for inside in ["127.0.0.1:80", "[::1]:80", "[::ffff:127.0.0.1]:80", "10.1.0.1:80", "[fd00::1]:80"] {
            assert!(!is_counted(40_000, inside), "{inside}");
        }
    }

    #[test]
    fn what_annotations_leave_out_is_not_counted() {
        assert!(!is_counted(40_000, "10.1.0.2:9000"));
        assert!(!is_counted(40_000, "[::ffff:10.2.0.2]:80"));
        assert!(!is_counted(9100, "10.1.0.2:40000"));
    }

    fn is_open_in(state: u8, inode: u32) -> bool {
        is_open(&InetResponseHeader {
            family: AF_INET,
            state,
            timer: None,
            socket_id: SocketId::new_v4(),
            recv_queue: 0,
            send_queue: 0,
            uid: 0,
            inode,
        })
    }

    #[test]
    fn a_connection_is_open_while_bytes_may_flow() {
        use netlink_packet_sock_diag::constants::*;
        // A connection that waits for accept has no process yet.
        assert!(is_open_in(TCP_ESTABLISHED, 0));
        assert!(is_open_in(TCP_CLOSE_WAIT, 1));
        assert!(is_open_in(TCP_FIN_WAIT2, 1), "half closed");
        assert!(!is_open_in(TCP_FIN_WAIT2, 0), "closed, and the other side is not");
        assert!(!is_open_in(TCP_TIME_WAIT, 0));
        assert!(!is_open_in(TCP_LISTEN, 1));
    }
}
