//! Values of policy fields: text patterns, address ranges, and what each field takes.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use mesh_common::http1::spelled_literal;
use mesh_common::model::policy::Pattern;
use mesh_common::model::{RequestTarget, SpiffeId};

use super::{Field, FieldError};

/// The longest value that a policy may match with, in bytes.
const MAX_VALUE: usize = 1024;

/// How a principal is written.
const PRINCIPAL: &str =
    "a principal: TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT, as in cluster.local/ns/shop/sa/web";

/// Reads an address or a CIDR. Bits after the prefix are dropped; IPv4 never stays in the mapped form.
pub(super) fn ip_block(field: &Field<'_>, text: &str) -> Result<IpNet, FieldError> {
    let refuse = || FieldError::new(field, format!("{text:?} is not an IP address or CIDR"));
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address.to_canonical()));
    }
    let block: IpNet = text.parse().map_err(|_| refuse())?;
    match (block.addr().to_canonical(), block.addr()) {
        (IpAddr::V4(mapped), IpAddr::V6(_)) => {
            let prefix = block.prefix_len().checked_sub(96).ok_or_else(refuse)?;
            Ok(IpNet::new(mapped.into(), prefix).map_err(|_| refuse())?.trunc())
        }
        _ => Ok(block.trunc()),
    }
}

/// Reads Istio's string match: `*`, `abc*`, `*abc`, or the whole value.
pub(super) fn pattern(field: &Field<'_>, text: &str) -> Result<Pattern, FieldError> {
    let (pattern, literal) = split(text);
    if text.is_empty() {
        return Err(FieldError::new(field, "is empty"));
    }
    if text.len() > MAX_VALUE {
        return Err(FieldError::new(
            field,
            format!("has {} bytes, at most {MAX_VALUE} are read", text.len()),
        ));
    }
    if literal.contains('*') {
        return Err(FieldError::new(
            field,
            format!("{text:?}: '*' can only be the first or the last character"),
        ));
    }
    Ok(pattern)
}

/// `hosts`: compared in lower case, without a dot at the end and an address in its one spelling, so kept that way.
pub(super) fn host(field: &Field<'_>, text: &str) -> Result<Pattern, FieldError> {
    let refuse = |reason: &str| Err(FieldError::new(field, format!("{text:?} {reason}")));
    if text.contains(['/', '@', '?', '#']) || text.contains(char::is_whitespace) {
        return refuse("is not a host: HOST or HOST:PORT");
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return refuse("matches no host: write an IPv6 address in brackets");
    }
    let lower = text.to_lowercase();
    let port = lower.rfind(':').filter(|colon| !lower[*colon..].contains(']'));
    let (host, port) = lower.split_at(port.unwrap_or(lower.len()));
    if matches!(host, "." | "*.") {
        return refuse("names no host");
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    if !(host.starts_with('[') && host.ends_with(']')) {
        return pattern(field, &format!("{host}{port}"));
    }
    match spelled_literal(host) {
        Some(host) => pattern(field, &format!("{host}{port}")),
        None => refuse("is not an IPv6 address in brackets"),
    }
}

/// `connection.sni`: compared in lower case, without a dot at the end. What no client can ask for would make a DENY
/// rule that never denies: it is refused.
pub(super) fn server_name(field: &Field<'_>, text: &str) -> Result<Pattern, FieldError> {
    let lower = text.to_ascii_lowercase();
    let name = lower.strip_suffix('.').unwrap_or(&lower);
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if lower == "." || lower.ends_with("*.") || !split(name).1.bytes().all(is_part) {
        let reason =
            format!("{text:?} is no name that a TLS client asks for: write HOST, as in api.example.com");
        return Err(FieldError::new(field, reason));
    }
    pattern(field, name)
}

/// `methods`: a token (RFC 9110 section 5.6.2).
pub(super) fn method(field: &Field<'_>, text: &str) -> Result<Pattern, FieldError> {
    let literal = split(text).1;
    if !literal.bytes().all(is_token_byte) {
        return Err(FieldError::new(field, format!("{text:?} is not an HTTP method")));
    }
    pattern(field, text)
}

/// `paths`. A pattern that no normalised path can match would make a DENY rule that never denies: it is refused.
pub(super) fn path(field: &Field<'_>, text: &str) -> Result<Pattern, FieldError> {
    let refuse = |reason: &str| Err(FieldError::new(field, format!("{text:?} {reason}")));
    if text.contains(['{', '}']) {
        return refuse("is a path template, which is not supported");
    }
    let pattern = pattern(field, text)?;
    if !text.starts_with(['/', '*']) {
        return refuse("matches no path: it must begin with '/' or '*'");
    }
    if text.contains(['?', '#']) {
        return refuse("matches no path: query and fragment are not part of it");
    }
    if text.contains(['\\', ' ']) || text.contains(char::is_control) {
        return refuse("matches no path: it has a character that none can have");
    }
    // A segment with the wildcard in it is part of a longer one, and never equal to these.
    let dots = |segment: &str| segment == "." || segment == "..";
    if text.contains("//") || text.split('/').any(dots) {
        return refuse("matches no path: paths are compared after '//', '/./' and '/../' are resolved");
    }
    if !occurs_in_a_normal_path(&pattern) {
        return refuse(
            "matches no path: paths are compared with letters, digits and '-._~' unescaped, other escapes in upper case",
        );
    }
    Ok(pattern)
}

fn occurs_in_a_normal_path(pattern: &Pattern) -> bool {
    let path = match pattern {
        Pattern::Exact(text) => text.to_string(),
        Pattern::Prefix(start) => format!("{start}x"),
        Pattern::Suffix(end) => format!("/x{end}"),
        Pattern::Present => return true,
    };
    RequestTarget::parse(path.as_bytes()).is_ok_and(|target| target.path.as_str() == path)
}

/// `principals`: a SPIFFE id without `spiffe://`. Only an exact one can be checked whole.
pub(super) fn principal(field: &Field<'_>, text: &str) -> Result<Pattern, FieldError> {
    let pattern = pattern(field, text)?;
    if text.starts_with("spiffe://") {
        return Err(FieldError::new(field, format!("{text:?}: write it without spiffe://")));
    }
    match &pattern {
        Pattern::Exact(id) => {
            format!("spiffe://{id}")
                .parse::<SpiffeId>()
                .map_err(|_| FieldError::new(field, format!("{text:?} is not {PRINCIPAL}")))?;
        }
        _ if split(text).1.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte)) => {}
        _ => return Err(FieldError::new(field, format!("{text:?} matches no SPIFFE id"))),
    }
    Ok(pattern)
}

/// The trust domain of a principal, as far as it is written, if it is not the mesh's own.
pub(super) fn foreign_trust_domain<'a>(text: &'a str, own: &str) -> Option<&'a str> {
    let (is_same, domain) = match (text.split_once('/'), text.strip_suffix('*')) {
        (Some((domain, _)), _) => (domain == own, domain),
        (None, Some(beginning)) => (own.starts_with(beginning), beginning),
        (None, None) => (false, text),
    };
    (!is_same && !domain.starts_with('*')).then_some(domain)
}

/// `namespaces`.
pub(super) fn namespace(field: &Field<'_>, text: &str) -> Result<Pattern, FieldError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !split(text).1.bytes().all(plain) {
        return Err(FieldError::new(field, format!("{text:?} matches no namespace")));
    }
    pattern(field, text)
}

/// `serviceAccounts`: `NAMESPACE/NAME`, or `NAME` in the policy's own namespace.
pub(super) fn service_account(
    field: &Field<'_>,
    text: &str,
    own_namespace: &str,
) -> Result<Pattern, FieldError> {
    let (namespace, account) = text.split_once('/').unwrap_or((own_namespace, text));
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    if [namespace, account].iter().any(|name| name.is_empty() || !name.bytes().all(plain)) {
        let reason = format!("{text:?} is not a service account: NAMESPACE/NAME or NAME, without wildcards");
        return Err(FieldError::new(field, reason));
    }
    Ok(Pattern::Exact(format!("{namespace}/{account}").into()))
}

/// A byte of a token (RFC 9110 section 5.6.2), or of a header's name.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The pattern, and what of the text is not its wildcard.
fn split(text: &str) -> (Pattern, &str) {
    if text == "*" {
        (Pattern::Present, "")
    } else if let Some(prefix) = text.strip_suffix('*') {
        (Pattern::Prefix(prefix.into()), prefix)
    } else if let Some(suffix) = text.strip_prefix('*') {
        (Pattern::Suffix(suffix.into()), suffix)
    } else {
        (Pattern::Exact(text.into()), text)
    }
}

#[cfg(test)]
mod server_names {
    use super::*;
    use crate::control::translate::SPEC;

    #[test]
    fn a_name_is_compared_as_it_is_found() {
        let read = |text| server_name(&SPEC, text);
        assert_eq!(read("API.Example.com."), Ok(Pattern::Exact("api.example.com".into())));
        assert_eq!(read("*.Example.com"), Ok(Pattern::Suffix(".example.com".into())));
        assert_eq!(read("api.*"), Ok(Pattern::Prefix("api.".into())));
        assert_eq!(read("*"), Ok(Pattern::Present));
        for wrong in ["", ".", "*.", "a*.", "a:443", "https://a", "[::1]", "b\u{fc}cher", "a b", "a*b"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_kept_as_it_is_compared() {
        let field = Field::Root("hosts");
        for (text, kept) in [
            ("A.Example", "a.example"),
            ("a.example.", "a.example"),
            ("a.example.:8080", "a.example:8080"),
            ("a.example:80", "a.example:80"),
            ("[FD00:0::1]", "[fd00::1]"),
            ("[fd00:0::1]:8080", "[fd00::1]:8080"),
            ("[::ffff:a00:1]", "10.0.0.1"),
        ] {
            assert_eq!(host(&field, text).unwrap(), Pattern::Exact(kept.into()), "{text}");
        }
        assert_eq!(host(&field, "*.example.").unwrap(), Pattern::Suffix(".example".into()));
        assert_eq!(host(&field, "a.*").unwrap(), Pattern::Prefix("a.".into()));
        assert_eq!(host(&field, "[fd00::1]:*").unwrap(), Pattern::Prefix("[fd00::1]:".into()));
        for text in ["", ".", "*.", "fd00::1", "[10.0.0.1]", "a/b", "a b"] {
            assert!(host(&field, text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_principal_that_is_none_says_how_it_is_written() {
        let said = |text: &str| principal(&Field::Root("principals"), text).unwrap_err().reason;
        for text in ["frontend", "cluster.local/ns/shop", "Cluster/ns/a/sa/b"] {
            assert!(said(text).starts_with(&format!("{text:?} is not a principal: TRUST-DOMAIN/")), "{text}");
        }
    }

    #[test]
    fn a_path_that_no_normal_path_has_is_refused() {
        let field = Field::Root("paths");
        for text in ["/a%2Fb", "/caf%C3%A9*", "*%20x", "/a;b", "/", "*", "*.html", "/.w*"] {
            assert!(path(&field, text).is_ok(), "{text}");
        }
        for text in ["/%61dmin", "/a%2fb", "/a%2*", "/%252e", "/é", "/a%5Cb", "/..;/a", "*%6Bit"] {
            assert!(path(&field, text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_principal_of_another_trust_domain_is_told_from_the_meshs_own() {
        let foreign = |text| foreign_trust_domain(text, "mesh.local");
        for own in ["mesh.local/ns/a/sa/b", "mesh.local/*", "mesh*", "*", "*/sa/b"] {
            assert_eq!(foreign(own), None, "{own}");
        }
        assert_eq!(foreign("cluster.local/ns/a/sa/b"), Some("cluster.local"));
        assert_eq!(foreign("cluster.local/*"), Some("cluster.local"));
        assert_eq!(foreign("cluster*"), Some("cluster"));
    }
}
