//! Readiness, metrics and dumps, for the node and the command line.
//!
//! In: what the agent knows, through [`Agent`]. Out: HTTP on the node's addresses ([`serve_metrics`],
//! [`serve_readiness`]) and JSON on a Unix socket that only its owner may connect to ([`AdminSocket`]). Runs on the
//! control runtime. Never touches a core's state: what cores know is asked of them by message, behind the trait.

mod agent;
mod checks;
pub mod documents;
mod dump;
pub mod explain;
mod policies;
mod routes;
mod server;
mod socket;

pub use agent::{Agent, Overview, capabilities};
pub use checks::counted;
pub use routes::{Answer, metrics_answer, not_found, probe_answer};
pub use server::{accept, serve, serve_metrics, serve_readiness};
pub use socket::{AdminSocket, SocketError, serve_socket};

#[cfg(test)]
pub(crate) mod tests;
