//! The conductor: the only module that knows the order of the stages.

pub mod limits;
