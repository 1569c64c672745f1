//! The controller of a mesh: what runs once for all nodes, beside the API server.
//!
//! In: the objects of a Kubernetes API server, and the calls of agents. Out: what each agent is to know, certificates
//! for the pods of its node, and what a person should know, in the objects' status. Never: a look at traffic.

pub mod agents;
pub mod discovery;
