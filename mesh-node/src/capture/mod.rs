//! Stage 1. Accepted sockets become [`Captured`]: whose they are and what the application asked for.
//!
//! In: a pod's network namespace. Out: listeners inside it, accepted connections with their original destinations,
//! and sockets that are dialled from there. Never knows Services or policy; never waits.

mod accept;
mod connections;
mod listener;
mod namespace;
mod pods;
mod socket;

pub use accept::{AcceptEnd, Accepted, Captured, accept};
pub use listener::{Family, ListenError, Listener};
pub use namespace::{Namespace, NamespaceError};
pub use pods::{CapturedPod, PodChanges, PodError, Pods};
pub use socket::{DialError, Dialled, bound_socket, connect, dial, dial_application};
