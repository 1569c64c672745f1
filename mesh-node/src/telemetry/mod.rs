//! Plumbing for logs, metrics and access records; knows no stage.

pub mod access_log;
pub mod chain;
pub mod labels;
pub mod logging;
pub mod readout;
pub mod registry;
pub mod seldom;
pub mod traffic;
