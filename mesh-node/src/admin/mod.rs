//! Readiness, metrics and dumps, for the node and the command line.
