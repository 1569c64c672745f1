//! Stage 6. Carries out what was decided. Never chooses.
//!
//! In: a captured socket or a stream, and the [`tunnel::Course`] that the conductor derived from a `Plan`. Out: an
//! [`Outcome`]. [`tunnel`] is the engine that moves the bytes, [`splice`] joins two sockets in the clear,
//! [`http1`] runs exchanges on the engine, [`http2`] serves HTTP/2 and gRPC beside it, [`connect`] makes TCP
//! connections in a pod's network namespace, [`handshakes`] bounds those of TLS, [`penalties`] knows who was cut off
//! for abuse.

pub mod connect;
pub mod handshakes;
pub mod http1;
pub mod http2;
pub mod outcome;
mod patience;
pub mod penalties;
mod plain;
mod planned;
pub mod splice;
pub mod tasks;
pub mod tunnel;

pub use outcome::{CloseReason, ConnectFailure, Outcome, TunnelLoss};
pub use plain::Plain;
pub use planned::Planned;
