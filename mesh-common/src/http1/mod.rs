//! Strict HTTP/1.1: heads in, heads out rebuilt, body framing, connection state (RFC 9110, RFC 9112).
