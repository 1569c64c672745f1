//! Values of flags: each is read once, and what is wrong with one is said with how it is written.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use mesh_common::model::TrustDomain;

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match duration_or_none(text)? {
        duration if duration.is_zero() => Err("must be more than zero".to_owned()),
        duration => Ok(duration),
    }
}

/// Zero says that there is none of what it is for.
pub(super) fn duration_or_none(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it as in 500ms, 10s, 5m or 24h"))
}

/// As the API server takes it: a domain, then a path.
pub(super) fn signer_name(text: &str) -> Result<String, String> {
    let is_domain = |text: &str| {
        let part = |part: &str| {
            let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            let bytes = part.as_bytes();
            bytes.iter().all(|byte| is_inner(*byte) || *byte == b'-')
                && [bytes.first(), bytes.last()].into_iter().all(|end| end.is_some_and(|end| is_inner(*end)))
        };
        text.contains('.') && text.split('.').all(part)
    };
    match text.split_once('/') {
        Some((domain, path)) if is_domain(domain) && !path.is_empty() && text.len() <= 571 => {
            Ok(text.to_owned())
        }
        _ => Err("must be a domain and a name, as in example.com/mesh".to_owned()),
    }
}

pub(super) fn at_least_one<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "must be a whole number, 1 or more".to_owned())
}

pub(super) fn cidr(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| "is no range of addresses: write it as in 10.0.0.0/8 or fd00::/16".to_owned())
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let reason = "is no address with a port: write it as in 127.0.0.1:15020, 0.0.0.0:15020 or [::1]:15020";
    let bare = || bare_ipv6(text).map(SocketAddr::from);
    text.parse().ok().or_else(bare).ok_or_else(|| reason.to_owned())
}

/// An IPv6 address and a port that somebody put behind it, as what Kubernetes puts into a container's environment has no
/// brackets.
fn bare_ipv6(text: &str) -> Option<(Ipv6Addr, u16)> {
    let (address, port) = text.rsplit_once(':')?;
    Some((address.parse().ok()?, port.parse().ok()?))
}

pub(super) fn namespace(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_good = (1..=63).contains(&text.len()) && text.bytes().all(plain);
    let is_good = is_good && !text.starts_with('-') && !text.ends_with('-');
    let reason = "is no namespace: 1 to 63 of a-z, 0-9 and '-', not '-' at its ends";
    if is_good { Ok(text.to_owned()) } else { Err(reason.to_owned()) }
}

pub(super) fn node_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 253 {
        return Err("must have 1 to 253 characters".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn host_and_port(text: &str) -> Result<String, String> {
    let is_good = text.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        !host.is_empty() && (bracketed || !host.contains(':')) && port.parse().is_ok_and(|port: u16| port > 0)
    });
    match bare_ipv6(text) {
        Some((address, port)) if port > 0 => Ok(format!("[{address}]:{port}")),
        _ if is_good => Ok(text.to_owned()),
        _ => Err("is not HOST:PORT".to_owned()),
    }
}

pub(super) fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_one_that_kubernetes_takes() {
        for good in ["nodemesh-system", "a", "0"] {
            assert_eq!(namespace(good).as_deref(), Ok(good));
        }
        for wrong in ["", "Shop", "a/b", "-a", "a-", "a.b", &"a".repeat(64)] {
            assert!(namespace(wrong).unwrap_err().starts_with("is no namespace: "), "{wrong}");
        }
    }

    #[test]
    fn an_address_has_a_port_and_no_name() {
        assert_eq!(address("[::1]:15020").unwrap().port(), 15020);
        for wrong in ["15020", ":15020", "localhost:15020", "127.0.0.1", "fd00::1", "1:2:3:4:5:6:7:8"] {
            assert!(address(wrong).unwrap_err().contains("127.0.0.1:15020"), "{wrong}");
        }
    }

    #[test]
    fn an_address_of_an_environment_needs_no_brackets() {
        assert_eq!(address("fd00::1:15020"), Ok("[fd00::1]:15020".parse().unwrap()));
        assert_eq!(host_and_port("fd00::1:15012").as_deref(), Ok("[fd00::1]:15012"));
        for good in ["nodemesh-controller:15012", "10.96.0.7:15012", "[fd00::1]:15012"] {
            assert_eq!(host_and_port(good).as_deref(), Ok(good));
        }
        for wrong in ["fd00::1", "fd00::1:0", "10.96.0.7", ":15012", "a:b:1"] {
            assert!(host_and_port(wrong).is_err(), "{wrong}");
        }
    }
}
