//! A pod: a network namespace, a cgroup, and the programs that are put inside.
//!
//! In: a specification and a place. Out: processes that have never been anywhere but in the pod.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;

use crate::binary;
use crate::objects::PodSpec;
use crate::process::{Ended, Place};
use crate::run::remove_cgroups;

/// A pod that exists, enrolled or not.
#[derive(Debug)]
pub struct Pod {
    spec: PodSpec,
    node: &'static str,
    place: Place,
    addresses: [IpAddr; 2],
}

impl Pod {
    pub(crate) fn new(spec: PodSpec, node: &'static str, place: Place, addresses: [IpAddr; 2]) -> Self {
        Self { spec, node, place, addresses }
    }

    /// The name; unique in the topology.
    pub fn name(&self) -> &str {
        self.spec.name()
    }

    /// What its object says.
    pub fn spec(&self) -> &PodSpec {
        &self.spec
    }

    pub(crate) fn spec_mut(&mut self) -> &mut PodSpec {
        &mut self.spec
    }

    /// The node that it runs on.
    pub fn node(&self) -> &'static str {
        self.node
    }

    /// Where its processes begin.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// IPv4, then IPv6.
    pub fn addresses(&self) -> [IpAddr; 2] {
        self.addresses
    }

    /// The IPv4 address.
    pub fn ip(&self) -> IpAddr {
        self.addresses[0]
    }

    /// The IPv4 address with a port.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.addresses[0], port)
    }

    /// The IPv6 address with a port.
    pub fn at_v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.addresses[1], port)
    }

    /// Runs a program inside and waits for it.
    ///
    /// # Errors
    /// It cannot be started, or does not end within `limit`.
    pub fn output(&self, program: &str, arguments: &[&str], limit: Duration) -> Result<Ended> {
        self.place.spawn(&format!("{}-{program}", self.name()), program, arguments)?.wait(limit)
    }

    /// Kills what runs inside and removes the cgroup and the namespace.
    ///
    /// # Errors
    /// A process does not die, or the interface is gone already.
    pub fn delete(self) -> Result<()> {
        remove_cgroups(self.place.cgroup())?;
        // As a CNI plugin does. Whoever holds the namespace open would keep the interface alive otherwise, and it
        // would go on answering for the address.
        self.place.netns().ip(&["link delete eth0".to_owned()])
    }

    /// The program of the harness that serves and dials inside pods.
    pub(crate) fn test_program() -> Result<&'static std::path::Path> {
        binary::test_pod()
    }
}
