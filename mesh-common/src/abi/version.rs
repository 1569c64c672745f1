//! The version of the shared bytes.
//!
//! Pinned maps of one version are taken over by a new daemon. A new daemon of another version makes its own maps
//! beside the pinned ones, points the links at its own programs and then removes the old maps: nothing is ever
//! read with another layout than it was written with. Adding a [`Verdict`](super::verdict::Verdict) needs no new version;
//! a changed key, value, capacity or meaning does.

/// The version of the shared bytes.
pub const ABI_VERSION: u32 = 1;
