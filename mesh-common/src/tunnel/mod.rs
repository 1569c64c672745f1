//! The wire between daemons: frames, records, streams and their credit. `docs/wire.md` is its text, byte by byte.
//!
//! In: the plaintext of one TLS record at a time, and what the local side wants to send. Out: [`Event`]s for the
//! local side, and records to seal. Never does I/O, reads a clock or keeps application data: bytes stay with the
//! caller, this module counts them and says how many there may be.
//!
//! | file | what |
//! |---|---|
//! | [`frame`] | the 8-byte header, the eight frames, reading the frames of a record |
//! | [`mod@hello`] | whether a connection begins with a ClientHello of ours |
//! | [`open`] | what OPEN says, as type, length and value |
//! | [`reason`] | why a stream was reset, why a tunnel goes away |
//! | [`credit`] | how much may be sent: cumulative, from the stream's start |
//! | [`session`] | the streams of one tunnel and what each frame does to them |
//! | [`outbox`] | what one turn produced, packed into records, small frames first |

pub mod credit;
pub mod frame;
pub mod hello;
pub mod open;
pub mod outbox;
pub mod reason;
pub mod session;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

pub use credit::{Credit, INITIAL_WINDOW, MAX_WINDOW};
pub use frame::{Frame, FrameError, HEADER, MAX_PAYLOAD, MAX_RECORD, StreamId, frames};
pub use hello::{Hello, hello};
pub use open::{Open, OpenError, StreamKind, StreamToken};
pub use outbox::Outbox;
pub use reason::{GoAwayReason, ResetReason};
pub use session::{Event, Limits, NoStream, Role, Session, Violation};

/// ALPN of a tunnel. The digit is the version of everything in this module.
pub const ALPN: &[u8] = b"nodemesh/mux1";
