//! gRPC over HTTP/2, as far as whoever carries it needs to know: how long a call may take, and how many
//! messages it has.
//!
//! In: fields and bytes of a call. Out: what they say. Never holds a message, waits or reads a clock.

mod messages;
mod timeout;

pub use messages::MessageCounter;
pub use timeout::{MalformedTimeout, TIMEOUT, read_timeout};
