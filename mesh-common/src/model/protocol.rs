//! What is spoken on a port: as declared, or as found in the first bytes.

/// The application protocol of a Service port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Declared opaque (`tcp`, `redis`, `mysql`, ...): carried as bytes, never looked at.
    Tcp,
    /// `http`: HTTP/1.1.
    Http1,
    /// `http2`, `h2c`, `kubernetes.io/h2c`: HTTP/2 without TLS.
    Http2,
    /// `grpc`: HTTP/2 that carries gRPC.
    Grpc,
    /// `https`, `tls`: the application's own TLS, carried as bytes.
    Tls,
    /// Nothing declared: detected from the first bytes, without delaying the connection.
    #[default]
    Undeclared,
}

/// The protocols that istio_requests_total and policy on requests speak of.
impl Protocol {
    /// Whether requests can be told apart, so that L7 rules can be applied.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http1 | Self::Http2 | Self::Grpc)
    }
}
