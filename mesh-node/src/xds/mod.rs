//! What controller and agents agree on: the resources of the delta xDS stream, and the certificate service.
//!
//! In: deltas of the model. Out: resources with name, version and bytes, and back: nothing is lost between. What is
//! not understood of a policy denies what it might have denied; what is not understood of anything else is refused
//! with the field's path. `docs/xds.md` is the text of it. Never: I/O, or a decision about traffic.

pub mod certificates;
mod decode;
mod decode_external;
mod decode_policy;
mod decode_request_authentication;
mod encode;
mod encode_external;
mod encode_policy;
mod encode_request_authentication;
pub mod messages;
pub mod refusal;
mod resource;
pub mod saved;
mod shared;

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;

pub use decode::{Reading, read, removal};
pub use decode_request_authentication::keep_keys;
pub use encode::{encode, encode_answer, encode_trust};
pub use resource::{FieldError, Key, Outgoing, Resource, ResourceType, Trust, Update, Version};
pub use shared::Shared;

/// Name of the one resource of type Mesh.
pub const MESH: &str = "mesh";

/// Subscribed to and unsubscribed from at once: that nothing of a type is told unasked.
pub const EVERYTHING: &str = "*";

/// Most bytes of one response or request of the stream, above what any object of Kubernetes can become: etcd takes
/// 1.5 MiB of one.
pub const MAX_MESSAGE: usize = 8 << 20;
