//! A Kubernetes of this machine's own, for tests and for people.
//!
//! ```text
//! programs      Kubernetes, built from pinned Go modules: once per content of `kubernetes/`
//! certificates  authority, server and client certificates, kubeconfigs
//! api_server    etcd and the API server on loopback
//! standing      one that stands until it is told to go: up, status, down
//! ```
//!
//! Everything that runs belongs to a `Run` of the harness, whose reaper removes it after a signal and `kill -9` too.

pub mod api_server;
pub mod certificates;
pub mod programs;
pub mod standing;
