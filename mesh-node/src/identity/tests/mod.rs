//! Tests of the identity stage: what RELIABILITY 2.7 lists, with real handshakes in memory, and the authority.

mod authority;
mod controller;
mod handshake;
mod renewal;
mod revocation;
mod rig;
mod svid;
mod taken;
