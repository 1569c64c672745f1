//! `host[:port]`, read in its narrow form and written in one spelling.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::Refusal;

/// The longest host that is read, in bytes: a DNS name's limit.
pub const MAX_HOST: usize = 255;

/// The authority that a request names: host in lower case, no final dot, no default port; of an IPv6 literal the
/// address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority<'a>(Cow<'a, [u8]>);

impl<'a> Authority<'a> {
    /// Reads `host[:port]`. User information, an empty host, an empty or strange port, percent-encoding and
    /// everything else that two readers may read differently is refused.
    ///
    /// # Errors
    /// [`Refusal::HostInvalid`].
    pub fn parse(text: &'a [u8]) -> Result<Self, Refusal> {
        let (host, port) = split(text)?;
        if port.is_some_and(|port| !is_port(port)) {
            return Err(Refusal::HostInvalid);
        }
        let spelled = spelled(host).ok_or(Refusal::HostInvalid)?;
        Ok(Self(match port.filter(|port| *port != b"80") {
            None => spelled,
            Some(_) if *spelled == *host => Cow::Borrowed(text),
            Some(port) => Cow::Owned([&spelled, &b":"[..], port].concat()),
        }))
    }

    /// What a client names that dialled `address` and says no more.
    pub fn of(address: SocketAddr) -> Authority<'static> {
        let text = match address.port() {
            80 if address.is_ipv6() => format!("[{}]", address.ip()),
            80 => address.ip().to_string(),
            _ => address.to_string(),
        };
        Authority(Cow::Owned(text.into_bytes()))
    }

    /// The one spelling.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Splits at the colon of a port, which is not one inside brackets.
fn split(text: &[u8]) -> Result<(&[u8], Option<&[u8]>), Refusal> {
    let host_end = if text.first() == Some(&b'[') {
        text.iter().position(|byte| *byte == b']').ok_or(Refusal::HostInvalid)? + 1
    } else {
        text.iter().position(|byte| *byte == b':').unwrap_or(text.len())
    };
    match &text[host_end..] {
        [] => Ok((text, None)),
        [b':', port @ ..] => Ok((&text[..host_end], Some(port))),
        _ => Err(Refusal::HostInvalid),
    }
}

fn spelled(host: &[u8]) -> Option<Cow<'_, [u8]>> {
    if host.starts_with(b"[") {
        return spelled_literal(std::str::from_utf8(host).ok()?).map(|literal| match literal {
            Cow::Borrowed(literal) => Cow::Borrowed(literal.as_bytes()),
            Cow::Owned(literal) => Cow::Owned(literal.into_bytes()),
        });
    }
    if !is_name(host) {
        return None;
    }
    let host = host.strip_suffix(b".").unwrap_or(host);
    let lower = !host.iter().any(u8::is_ascii_uppercase);
    Some(if lower { Cow::Borrowed(host) } else { Cow::Owned(host.to_ascii_lowercase()) })
}

/// The one spelling of an IPv6 address in brackets (RFC 5952); an IPv4 address in it is written as one. `None` if it
/// is none.
pub fn spelled_literal(host: &str) -> Option<Cow<'_, str>> {
    let address: Ipv6Addr = host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()?;
    let spelled = match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    Some(if spelled == host { Cow::Borrowed(host) } else { Cow::Owned(spelled) })
}

fn is_name(host: &[u8]) -> bool {
    // Docker and Kubernetes names may hold `_`; RFC 3986 also has `~`.
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let labels = host.strip_suffix(b".").unwrap_or(host);
    !labels.is_empty() && host.len() <= MAX_HOST && host.iter().all(plain) && !labels.ends_with(b".")
}

fn is_port(port: &[u8]) -> bool {
    !port.is_empty()
        && port[0] != b'0'
        && port.len() <= 5
        && port.iter().all(u8::is_ascii_digit)
        && port.iter().fold(0_u32, |sum, digit| sum * 10 + u32::from(digit - b'0')) <= 65535
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let read = Authority::parse(text.as_bytes()).ok();
        assert_eq!(read.as_ref().map(Authority::as_bytes), expected.map(str::as_bytes), "authority {text:?}");
    }

    #[test]
    fn a_host_has_one_spelling() {
        check("web", Some("web"));
        check("WEB.Shop.svc:8080", Some("web.shop.svc:8080"));
        check("web:80", Some("web"));
        check("web.shop.svc.cluster.local.", Some("web.shop.svc.cluster.local"));
        check("web.:8080", Some("web:8080"));
        check("10.0.0.1:8080", Some("10.0.0.1:8080"));
        check("[FD00::1]:8080", Some("[fd00::1]:8080"));
        check("my_app", Some("my_app"));
        check("my_app.:80", Some("my_app"));
    }

    #[test]
    fn an_address_has_one_spelling() {
        for text in ["[fd00::1]", "[FD00:0::1]", "[fd00:0:0:0:0:0:0:1]", "[fd00::0.0.0.1]:80"] {
            check(text, Some("[fd00::1]"));
        }
        check("[fd00:0::1]:8080", Some("[fd00::1]:8080"));
        check("[::ffff:a00:1]", Some("10.0.0.1"));
        check("[::ffff:10.0.0.1]:8080", Some("10.0.0.1:8080"));
        check("[::a00:1]", Some("[::a00:1]"));
    }

    #[test]
    fn an_address_is_the_authority_that_it_reads_as() {
        for text in ["10.0.0.1:80", "10.0.0.1:8080", "[fd00::1]:80", "[fd00::1]:8080"] {
            let address = text.parse().unwrap();
            assert_eq!(Authority::of(address), Authority::parse(text.as_bytes()).unwrap());
        }
    }

    #[test]
    fn what_two_readers_may_read_differently_is_no_host() {
        for text in [
            "",
            ".",
            ":80",
            "a:",
            "a:0",
            "a:080",
            "a:65536",
            "a:123456",
            "a:+1",
            "a:b",
            "a@b",
            "u:p@b",
            "a b",
            "a/b",
            "a%41",
            "a,b",
            "a;b",
            "a\\b",
            "a?b",
            "a#b",
            "[::1",
            "::1",
            "[::1]x",
            "[fe80::1%25eth0]",
            "[v1.x]",
            "a..",
            "é",
        ] {
            check(text, None);
        }
        check(&"a".repeat(256), None);
        check(&"a".repeat(255), Some(&"a".repeat(255)));
    }
}
