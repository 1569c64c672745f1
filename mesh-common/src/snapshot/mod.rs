//! What is known now: an immutable [`Snapshot`], made by [`Tables`] from [`Delta`]s.
//!
//! One task owns the tables and publishes snapshots; everybody else reads. Any order of the same deltas gives
//! the same snapshot.
