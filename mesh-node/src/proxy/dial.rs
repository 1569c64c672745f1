//! From where the daemon dials: as the pod whose call it is, or as a stranger to whom an application answers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use super::Core;
use super::pod::PodHandle;
use crate::capture::dial_application;
use crate::transport::connect::{self, Dial};

impl Core {
    /// Begins a TCP connection; an application is told of `caller`.
    pub(super) fn connect(&self, caller: Option<SocketAddr>, dial: &Dial) -> io::Result<OwnedFd> {
        match (dial.source.map(|source| source.port()), caller) {
            // To an application, from its own address: it is told who calls.
            (Some(0), Some(caller)) if let Some(netns) = &dial.netns => {
                dial_application(netns, dial.destination, caller, &self.shared.callers)
            }
            // Out of the mesh, from the caller's own port; from another one if that is taken for this destination.
            (Some(_), _) => {
                connect::start(dial).or_else(|_| connect::start(&Dial { source: None, ..dial.clone() }))
            }
            (None, _) => connect::start(dial),
        }
    }
}

/// A connection that leaves a pod as its own do.
pub(super) fn dial_from(pod: &PodHandle, destination: SocketAddr) -> Dial {
    Dial { destination, source: None, netns: Some(pod.namespace().clone()) }
}

/// A connection to a pod's application, from its own address: that is how the hook of its namespace knows the daemon.
pub(super) fn dial_own(pod: &PodHandle, application: SocketAddr) -> Dial {
    let source = Some(SocketAddr::new(application.ip(), 0));
    Dial { destination: application, source, netns: Some(pod.namespace().clone()) }
}
