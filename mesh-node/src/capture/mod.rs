//! Stage 1. The pods of this node and their sockets.
//!
//! In: workloads, whenever they change. Out: captured pods with listeners inside their network namespaces, connections
//! accepted there, and sockets that are dialled from there. Never knows Services or policy; never waits.

mod accept;
mod arrivals;
mod cgroups;
mod connections;
mod controllers;
mod known;
#[cfg(test)]
mod layouts;
mod left;
mod listener;
mod metrics;
mod namespace;
mod pod_error;
mod pods;
mod ports;
mod processes;
mod socket;
mod trial;
mod untold;

pub use accept::{AcceptEnd, Accepted, accept};
pub use arrivals::Arrivals;
pub use controllers::ControllerLogs;
pub use listener::{Family, ListenError, Listener};
pub use metrics::{CaptureMetrics, CausedBy};
pub use namespace::{Namespace, NamespaceError};
pub use pod_error::PodError;
pub use pods::{CapturedPod, PodChanges, Pods};
pub use socket::dial_application;
pub use trial::{Trial, TrialError, trial_connect};
pub use untold::UntoldPod;
