//! Whether the authority of a request matches a host of a rule.
//!
//! A host of a rule without a port is about the host, whatever port the request adds; with a port it is about both.
//! Case and a dot at the end do not tell hosts apart (RFC 3986 section 3.2.2, RFC 1034 section 3.1).

use smallvec::SmallVec;

use super::matching::{Breadth, Case, pattern_matches};
use crate::model::policy::Pattern;

pub(super) fn host_matches(pattern: &Pattern, authority: &[u8], dialled_port: u16, breadth: Breadth) -> bool {
    let (host, port) = split(authority);
    if pattern_matches(pattern, host, Case::Insensitive) {
        return true;
    }
    if !names_a_port(pattern) {
        return false;
    }
    let with_port = |port: &[u8]| {
        let mut whole: SmallVec<[u8; 96]> = SmallVec::from_slice(host);
        whole.push(b':');
        whole.extend_from_slice(port);
        pattern_matches(pattern, &whole, Case::Insensitive)
    };
    match port {
        Some(port) => with_port(port),
        // The default port of the scheme, or, broadly, the one that was dialled.
        None => {
            with_port(b"80") || breadth == Breadth::Broad && with_port(dialled_port.to_string().as_bytes())
        }
    }
}

/// The host of an authority, without port or a dot at the end.
pub(super) fn host_of(authority: &[u8]) -> &[u8] {
    split(authority).0
}

/// Host without a dot at the end, and port without leading zeros. An IPv6 address keeps its brackets.
fn split(authority: &[u8]) -> (&[u8], Option<&[u8]>) {
    let after_brackets = authority.iter().rposition(|&byte| byte == b']').map_or(0, |bracket| bracket + 1);
    let colon = authority[after_brackets..].iter().position(|&byte| byte == b':');
    let (host, port) = match colon.map(|colon| after_brackets + colon) {
        Some(colon) => (&authority[..colon], Some(&authority[colon + 1..])),
        None => (authority, None),
    };
    let port = port.map(|port| {
        let zeros = port.iter().take_while(|&&byte| byte == b'0').count();
        &port[zeros..]
    });
    (host.strip_suffix(b".").unwrap_or(host), port.filter(|port| !port.is_empty()))
}

fn names_a_port(pattern: &Pattern) -> bool {
    let (Pattern::Exact(text) | Pattern::Prefix(text) | Pattern::Suffix(text)) = pattern else {
        return false;
    };
    text.bytes().rposition(|byte| byte == b':') > text.bytes().rposition(|byte| byte == b']')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, authority: &str, breadth: Breadth, expected: bool) {
        let pattern = match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
            (Some(suffix), _) => Pattern::Suffix(suffix.into()),
            (_, Some(prefix)) => Pattern::Prefix(prefix.into()),
            _ => Pattern::Exact(pattern.into()),
        };
        assert_eq!(
            host_matches(&pattern, authority.as_bytes(), 8080, breadth),
            expected,
            "{pattern:?} {authority}"
        );
    }

    #[test]
    fn a_port_hides_no_host() {
        for authority in
            ["a.example", "A.Example", "a.example.", "a.example:8443", "a.example.:8443", "a.example:"]
        {
            check("a.example", authority, Breadth::Broad, true);
            check("a.example", authority, Breadth::Narrow, true);
            check("*.example", authority, Breadth::Broad, true);
        }
        check("a.example", "b.example", Breadth::Broad, false);
        check("a.example", "xa.example", Breadth::Broad, false);
        check("[::1]", "[::1]:80", Breadth::Broad, true);
    }

    #[test]
    fn a_port_in_the_rule_is_compared() {
        check("a.example:8443", "a.example:8443", Breadth::Narrow, true);
        check("a.example:8443", "a.example:08443", Breadth::Broad, true);
        check("a.example:8443", "a.example:8444", Breadth::Broad, false);
        check("a.example:8443", "a.example", Breadth::Broad, false);
        check("a.example:80", "a.example", Breadth::Narrow, true);
        check("a.example:8080", "a.example", Breadth::Broad, true);
        check("a.example:8080", "a.example", Breadth::Narrow, false);
        check("a.example:*", "a.example:1", Breadth::Narrow, true);
        check("a.example:*", "a.example", Breadth::Narrow, true);
    }
}
