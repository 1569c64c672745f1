//! The strict codec beside readers that others wrote: what ours accepts they accept, and understand alike.

#[path = "../../../fuzz/bodies/differential.rs"]
mod differential;
mod mutation;
mod requests;
mod response_readings;
mod responses;
