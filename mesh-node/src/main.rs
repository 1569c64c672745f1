//! The `mesh-node` binary.

use clap::{Parser, Subcommand};
use mesh_node::args::AgentArgs;

/// A service mesh for Kubernetes without sidecars: the daemon of a node, and its command line.
#[derive(Parser)]
#[command(name = "mesh-node", version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Carry the traffic of this node's enrolled pods
    Agent(AgentArgs),
}

fn main() {
    match CommandLine::parse().command {
        Command::Agent(args) => drop(mesh_node::config::Config::from(args)),
    }
}
