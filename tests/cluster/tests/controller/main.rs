//! The controller on a real API server.

mod agents;
mod audit;
mod between;
mod caller;
mod certificates;
mod flood;
mod follower;
mod gateway;
mod in_force;
mod mutual_tls;
mod objects;
mod person;
mod refuser;
mod road;
mod roots;
mod rotation;
mod secrets;
mod signing_requests;
mod sleeper;
mod status;
mod trouble;
mod under_load;
