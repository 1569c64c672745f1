//! The `mesh-node` binary.

fn main() {}
