//! HTTP/1.1 on the engine: exchanges as streams, pooled keep-alive connections to applications.
