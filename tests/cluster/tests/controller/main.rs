//! The controller on a real API server.

mod agents;
mod between;
mod certificates;
mod follower;
mod objects;
mod rotation;
mod sleeper;
mod status;
mod trouble;
