//! Kernel tests: real programs in real namespaces and cgroups, steered by the daemon's own `kernel` and `capture`.
//!
//! In place of the whole daemon stands `mesh-test-capture`, which captures pods as they are told on its standard
//! input and carries their connections in the clear. So a failure here is one of the kernel's side.

pub mod stand;
