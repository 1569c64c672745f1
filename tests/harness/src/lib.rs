//! Nodes, pods, servers and clients for tests: real namespaces, real daemons.
//!
//! A [`topology::Topology`] is two nodes on one machine. Each node is a network namespace with a bridge; each pod is
//! a network namespace behind it and a cgroup below the node's own `pods` cgroup. The nodes are joined by one veth
//! pair, the wire, on which [`capture`] listens. Addresses are the same in every topology, because nothing of one is
//! seen by another. A [`mesh::Mesh`] adds the objects and a real `mesh-node agent` per node.
//!
//! Everything that a topology makes carries the name of its [`run::Run`], whose reaper removes it all when the test
//! ends: by return, panic or signal alike. Needs root.

pub mod eventually;

pub mod binary;

pub mod netns;

pub mod run;

pub mod process;

pub mod topology;

pub mod objects;

pub mod pod;

pub mod servers;

pub mod clients;

pub mod attacks;

pub mod capture;

pub mod scrape;

pub mod node;

pub mod controller;

pub mod mesh;

/// Bytes that every payload of a test carries and that no wire between enrolled pods may show.
pub const PLAINTEXT_MARKER: &str = "NODEMESH-PLAINTEXT-MARKER";

/// Shows a figure that a test measured, also when the test passes: the test runner would swallow what `println!` says.
pub fn figure(text: &str) {
    // A closed standard output is no reason to fail.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), format!("figure: {text}\n").as_bytes());
}
