//! What the cores need of the kernel's maps: cheap, `Send`, one system call each, no lock.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use mesh_common::abi::addr::{IpKey, Port};
use mesh_common::abi::flow::{FlowKey, OriginalDst, SocketFacts};

use super::sys;

/// Tells what the applications of captured connections dialled.
#[derive(Clone, Debug)]
pub struct OriginalDstReader {
    map: Arc<OwnedFd>,
}

/// Tells applications who really calls them.
#[derive(Clone, Debug)]
pub struct CallerWriter {
    map: Arc<OwnedFd>,
}

#[cfg(test)]
fn nothing() -> Arc<OwnedFd> {
    Arc::new(std::fs::File::open("/dev/null").expect("it is always there").into())
}

impl OriginalDstReader {
    /// A map that cannot be read.
    #[cfg(test)]
    pub(crate) fn of_nothing() -> Self {
        Self { map: nothing() }
    }

    pub(super) fn new(map: OwnedFd) -> Self {
        Self { map: Arc::new(map) }
    }

    /// Takes what the application dialled: asked once per accepted connection, the answer is gone afterwards.
    ///
    /// `netns_cookie` and `listener_port` are the listener's, `client` is what `accept` gave. `None`: nobody was led
    /// here; the connection was dialled at the listener itself and must be closed.
    ///
    /// # Errors
    /// bpf(2) fails, which it has no reason for.
    pub fn take(
        &self,
        netns_cookie: u64,
        client: SocketAddr,
        listener_port: u16,
    ) -> io::Result<Option<SocketAddr>> {
        let key = FlowKey {
            netns_cookie,
            source: client.ip().into(),
            source_port: Port::new(client.port()),
            listener_port: Port::new(listener_port),
            reserved: [0; 4],
        };
        let mut dialled = OriginalDst { ip: IpKey::UNSPECIFIED, port: Port::NONE, reserved: [0; 2] };
        let found = sys::take(self.map.as_fd(), &key, &mut dialled)?;
        Ok(found.then(|| SocketAddr::new(dialled.ip.into(), dialled.port.number())))
    }
}

impl CallerWriter {
    /// A map that cannot be written.
    #[cfg(test)]
    pub(crate) fn of_nothing() -> Self {
        Self { map: nothing() }
    }

    pub(super) fn new(map: OwnedFd) -> Self {
        Self { map: Arc::new(map) }
    }

    /// Says on whose behalf `socket` will call an application of its namespace: `accept` and `getpeername` there
    /// give `caller`. Before connect; the pair is forgotten with the sockets, there is nothing to undo.
    ///
    /// # Errors
    /// bpf(2) fails, as without memory; the application would then see the daemon's address.
    pub fn announce(&self, socket: impl AsFd, caller: SocketAddr) -> io::Result<()> {
        let facts = SocketFacts {
            peer: IpKey::from(caller.ip()),
            peer_port: Port::new(caller.port()),
            kind: SocketFacts::KIND_ANNOUNCES,
            ..SocketFacts::NONE
        };
        sys::put(self.map.as_fd(), &socket.as_fd().as_raw_fd(), &facts)
    }
}
