//! Plumbing for logs, metrics and access records; knows no stage.
