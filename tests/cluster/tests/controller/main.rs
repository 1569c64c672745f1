//! The controller on a real API server.

mod agents;
mod certificates;
mod objects;
mod status;
