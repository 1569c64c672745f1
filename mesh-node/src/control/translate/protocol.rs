//! What a port declares to speak: `appProtocol`, else the prefix of the port's name.
//!
//! The words are those of Kubernetes (KEP-2433), Istio and Linkerd.

use mesh_common::model::Protocol;

/// The protocol of a Service port. An unknown word declares nothing: the protocol is then detected.
pub fn declared(app_protocol: Option<&str>, port_name: Option<&str>) -> Protocol {
    match app_protocol {
        Some(word) => from_word(word).unwrap_or_default(),
        None => port_name.and_then(from_port_name).unwrap_or_default(),
    }
}

/// `PROTOCOL` or `PROTOCOL-SUFFIX`. `grpc-web` is one word.
fn from_port_name(name: &str) -> Option<Protocol> {
    if name == "grpc-web" || name.starts_with("grpc-web-") {
        return from_word("grpc-web");
    }
    from_word(name.split('-').next().unwrap_or(name))
}

fn from_word(word: &str) -> Option<Protocol> {
    Some(match word.to_ascii_lowercase().as_str() {
        // WebSocket and gRPC-Web are HTTP/1.1 until they upgrade, or all the way.
        "http" | "http1" | "grpc-web" | "ws" | "kubernetes.io/ws" => Protocol::Http1,
        "http2" | "h2c" | "kubernetes.io/h2c" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "https" | "tls" | "wss" | "kubernetes.io/wss" => Protocol::Tls,
        "tcp" | "mongo" | "mysql" | "redis" | "postgres" | "postgresql" | "linkerd.io/opaque"
        | "linkerd.io/tcp" => Protocol::Tcp,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(app_protocol: Option<&str>, port_name: Option<&str>, expected: Protocol) {
        assert_eq!(declared(app_protocol, port_name), expected, "{app_protocol:?}, {port_name:?}");
    }

    #[test]
    fn app_protocol_wins_over_the_name() {
        check(Some("grpc"), Some("http-api"), Protocol::Grpc);
        check(Some("kubernetes.io/h2c"), Some("tcp"), Protocol::Http2);
        check(Some("example.com/own"), Some("http"), Protocol::Undeclared);
    }

    #[test]
    fn the_name_counts_up_to_its_first_dash() {
        check(None, Some("http"), Protocol::Http1);
        check(None, Some("http-metrics"), Protocol::Http1);
        check(None, Some("http2-api"), Protocol::Http2);
        check(None, Some("grpc-web-ui"), Protocol::Http1);
        check(None, Some("grpc-api"), Protocol::Grpc);
        check(None, Some("https"), Protocol::Tls);
        check(None, Some("redis-0"), Protocol::Tcp);
    }

    #[test]
    fn a_name_that_only_begins_like_a_protocol_declares_nothing() {
        check(None, Some("httpd"), Protocol::Undeclared);
        check(None, Some("web"), Protocol::Undeclared);
        check(None, None, Protocol::Undeclared);
    }
}
