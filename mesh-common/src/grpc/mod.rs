//! gRPC over HTTP/2, as far as whoever carries it needs to know: how long a call may take.
//!
//! In: fields and bytes of a call. Out: what they say. Never holds a message, waits or reads a clock.

mod timeout;

pub use timeout::{MalformedTimeout, TIMEOUT, read_timeout};
