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

/// Linkerd's annotation for ports that are carried as bytes: numbers and ranges, as in `25,4000-4010`.
pub(super) const OPAQUE_PORTS: &str = "config.linkerd.io/opaque-ports";

/// Whether a list of ports has one, by its number or its name. What is no port is in no list.
pub(super) fn is_listed(ports: &str, number: u16, name: Option<&str>) -> bool {
    ports.split(',').map(str::trim).any(|entry| {
        let of_range =
            |(first, last): (&str, &str)| Some(first.trim().parse().ok()?..=last.trim().parse().ok()?);
        let range = entry.split_once('-').and_then(of_range);
        range.is_some_and(|range: std::ops::RangeInclusive<u16>| range.contains(&number))
            || entry.parse() == Ok(number)
            || !entry.is_empty() && name == Some(entry)
    })
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
    fn every_word_of_kubernetes_istio_and_linkerd_is_understood() {
        for (words, expected) in [
            (&["http", "HTTP", "http1", "grpc-web", "ws", "kubernetes.io/ws"][..], Protocol::Http1),
            (&["http2", "h2c", "kubernetes.io/h2c"], Protocol::Http2),
            (&["grpc"], Protocol::Grpc),
            (&["https", "tls", "wss", "kubernetes.io/wss"], Protocol::Tls),
            (&["tcp", "mongo", "mysql", "redis", "linkerd.io/opaque", "linkerd.io/tcp"], Protocol::Tcp),
            (&["udp", "smtp", "kubernetes.io/other", "", "http/1.1"], Protocol::Undeclared),
        ] {
            words.iter().for_each(|word| check(Some(word), None, expected));
        }
        for (prefix, expected) in [
            ("http", Protocol::Http1),
            ("http2", Protocol::Http2),
            ("grpc", Protocol::Grpc),
            ("grpc-web", Protocol::Http1),
            ("https", Protocol::Tls),
            ("tls", Protocol::Tls),
            ("tcp", Protocol::Tcp),
            ("mongo", Protocol::Tcp),
            ("mysql", Protocol::Tcp),
            ("redis", Protocol::Tcp),
            ("udp", Protocol::Undeclared),
        ] {
            check(None, Some(prefix), expected);
            check(None, Some(&format!("{prefix}-a")), expected);
            // What begins with `grpc-` is gRPC, whatever follows.
            let longer = if prefix == "grpc-web" { Protocol::Grpc } else { Protocol::Undeclared };
            check(None, Some(&format!("{prefix}a")), longer);
        }
    }

    #[test]
    fn a_list_of_opaque_ports_has_numbers_ranges_and_names() {
        for (ports, listed) in [
            ("25,587", true),
            (" 587 , 25", true),
            ("20-30", true),
            ("smtp", true),
            ("26-30,24,250,http", false),
            ("", false),
            ("30-20", false),
            ("25-", false),
        ] {
            assert_eq!(is_listed(ports, 25, Some("smtp")), listed, "{ports:?}");
        }
        assert!(!is_listed("", 25, Some("")), "a port without a name");
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
