//! Strict HTTP/1.1: heads in, heads out rebuilt, body framing, connection state (RFC 9110, RFC 9112).
//!
//! In: bytes of a peer. Out: what they mean, or a [`Refusal`]; and the bytes of a message built anew from what
//! was understood. Nothing is ever copied from one connection to the other: a field, a framing or a target that
//! this module does not hold in its hands is not sent. Where the RFC lets a recipient be lenient, this one is
//! not, because it stands in front of every parser of a node.
//!
//! `httparse` cuts the head into tokens; every rule on top is here. Names keep the spelling of their sender when
//! they are sent on, because some applications read them with regard to case.
//!
//! Never waits, reads a clock, logs or opens a socket.

mod asked_for;
mod authority;
mod body;
mod exchange;
mod field;
mod framing;
mod offer;
mod refusal;
pub mod relay;
mod request;
mod response;
mod scan;
mod target;
mod write;

#[cfg(test)]
mod tests;

pub use asked_for::AskedFor;
pub use authority::{Authority, MAX_HOST, spelled_literal};
pub use body::{BodyPart, BodyReader, BodyStep, BodyWriter, UnevenBody};
pub use exchange::{BodyBytes, Exchange, MAX_INTERIM};
pub use field::{
    CLIENT_CERTIFICATE, FORWARDING_FIELDS, FRAMING_FIELDS, Field, Fields, IDENTITY_FIELDS, StripList,
    Trailers, is_framing, is_own, is_trailer_allowed,
};
pub use framing::{BodyFraming, Version};
pub use offer::{Offer, WEBSOCKET, WEBSOCKET_KEY_FIELD, WEBSOCKET_VERSION, WEBSOCKET_VERSION_FIELD};
pub use refusal::Refusal;
pub use request::RequestHead;
pub use response::{ResponseHead, ResponseTo};
pub use scan::HeadScan;
pub use target::Target;
pub use write::{
    CHALLENGE, DECISION, GivenAnswer, LocalAnswer, ResponseFor, write_given_answer, write_local_answer,
    write_request, write_response,
};

/// How much of a message is held before it is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the request line or status line.
    pub start_line: usize,
    /// Bytes of the whole head, its start line included.
    pub head: usize,
    /// Fields of a head, and of a trailer section. At most [`MAX_FIELDS`].
    pub fields: usize,
    /// Bytes of a trailer section.
    pub trailers: usize,
    /// Bytes of chunk extensions in one message. They are dropped, so all that they can do is cost.
    pub chunk_extensions: usize,
}

/// The most fields that a head may have, whatever [`Limits`] say.
pub const MAX_FIELDS: usize = 1000;

impl Default for Limits {
    fn default() -> Self {
        Self {
            start_line: 8 << 10,
            head: 32 << 10,
            fields: 100,
            trailers: 8 << 10,
            chunk_extensions: 4 << 10,
        }
    }
}

/// What a reader of heads is told once.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadRules<'r> {
    /// How much is held.
    pub limits: Limits,
    /// Fields that the sender may not set; they are left out as if they had not been sent.
    pub strip: StripList<'r>,
}
