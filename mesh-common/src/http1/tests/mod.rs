//! What is refused, what is understood, and the laws of the codec.

mod answers;
mod bench;
mod bodies;
mod laws;
mod relays;
mod requests;
mod response_laws;
mod responses;
