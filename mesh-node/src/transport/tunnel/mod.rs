//! The engine: one event loop per core, tunnels over TLS, streams.
