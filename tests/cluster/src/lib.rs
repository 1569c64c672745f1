//! A Kubernetes of this machine's own, for tests and for people.
//!
//! ```text
//! go             programs that the Go tool builds: once per content of their module
//! programs       Kubernetes and its name server
//! oci, images    images of what is on this machine
//! certificates   authority, server and client certificates, kubeconfigs
//! part           a program that runs
//! network        who has which address, and what joins them
//! control_plane  the store, the API server, controllers, scheduler
//! api_server     the light form: the store and the API server on loopback
//! hierarchies    cgroups of a node
//! node           a node from outside; node_files: what its programs are told; node_inside: its first process
//! cluster        the full form: control plane and nodes
//! mesh           the mesh on it, as a person has it; load: requests through it; remains: what it has on nodes
//! first_answers  how long pods wait for the first answer that they ask for
//! conformance    the Gateway API's official suite
//! standing       one that stands until it is told to go: up, status, load, down
//! ```
//!
//! Everything that runs belongs to a `Run` of the harness, whose reaper removes it after a signal and `kill -9` too.

pub mod api_server;
pub mod certificates;
pub mod cluster;
pub mod conformance;
pub mod control_plane;
pub mod first_answers;
pub mod go;
pub mod hierarchies;
pub mod images;
pub mod load;
pub mod mesh;
pub mod network;
pub mod node;
pub mod node_files;
pub mod node_inside;
pub mod oci;
pub mod part;
pub mod programs;
pub mod remains;
pub mod standing;
