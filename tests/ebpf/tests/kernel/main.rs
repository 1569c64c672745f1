//! The kernel tests, one module per program and one for what all of them promise together.

mod bypass;
mod capture;
mod create;
mod deliver;
mod doubt;
mod lifecycle;
mod names;
mod pods;
mod probe;
mod verifier;

use std::path::Path;

use anyhow::Result;
use mesh_test_ebpf::stand::Stand;
use mesh_test_harness::objects::PodSpec;
use mesh_test_harness::topology::{NODES, Topology};

/// The stand-in for the daemon.
fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_mesh-test-capture"))
}

/// A client on node A and a server on node B.
fn two_pods() -> Result<Topology> {
    Topology::two_nodes(vec![PodSpec::new("client")], vec![PodSpec::new("web")])
}

/// Starts a stand on a node.
fn stand(topology: &Topology, node: usize, flags: &[&str]) -> Result<Stand> {
    Stand::start(program(), topology, topology.site(NODES[node]), flags)
}
