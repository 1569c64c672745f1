//! PURE. What to ask, and whom: a URI taken apart, and where it leads on.

use http::Uri;
use http::uri::PathAndQuery;

use super::error::FetchError;

/// A place where keys are published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) is_tls: bool,
    /// As a name or an address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// As it stands in `Host`.
    pub(super) authority: String,
    pub(super) path: String,
}

impl Target {
    pub(super) fn parse(text: &str) -> Result<Self, FetchError> {
        let bad = || FetchError::Uri;
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad()),
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
        let authority = authority.ok_or_else(bad)?;
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str() == host => {
                if is_tls {
                    443
                } else {
                    80
                }
            }
            None => return Err(bad()),
        };
        if bare.is_empty() || port == 0 {
            return Err(bad());
        }
        Ok(Self {
            is_tls,
            host: bare.to_owned(),
            port,
            authority: authority.as_str().to_owned(),
            path: uri.path_and_query().map_or("/", PathAndQuery::as_str).to_owned(),
        })
    }

    /// Where a redirection leads (RFC 9110 section 10.2.2): anywhere that TLS is not left on the way to.
    pub(super) fn moved(&self, location: &str) -> Result<Self, FetchError> {
        let moved = match location.strip_prefix('/') {
            Some(rest) if !rest.starts_with('/') => {
                let scheme = if self.is_tls { "https" } else { "http" };
                Self::parse(&format!("{scheme}://{}{location}", self.authority))
            }
            _ => Self::parse(location),
        };
        match moved {
            Ok(target) if target.is_tls || !self.is_tls => Ok(target),
            Ok(_) => Err(FetchError::LeavesTls),
            Err(_) => Err(FetchError::Location),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Target {
        Target::parse(text).unwrap()
    }

    #[test]
    fn uris_are_taken_apart() {
        let plain = target("http://keys.shop.svc:8080/a?b=c");
        assert_eq!((plain.is_tls, &*plain.host, plain.port), (false, "keys.shop.svc", 8080));
        assert_eq!((&*plain.authority, &*plain.path), ("keys.shop.svc:8080", "/a?b=c"));
        let six = target("https://[fd00::1]");
        assert_eq!((six.is_tls, &*six.host, six.port, &*six.path), (true, "fd00::1", 443, "/"));
        for bad in [
            "ftp://a/",
            "/keys",
            "http://",
            "http://a:0/",
            "http://a:99999/",
            "http://me:it@a/",
            "http://a b/",
        ] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_redirection_never_leaves_tls() {
        let from = target("https://a.example/keys");
        assert_eq!(from.moved("/other?x=1").unwrap(), target("https://a.example/other?x=1"));
        assert_eq!(from.moved("https://b.example/").unwrap(), target("https://b.example/"));
        assert!(matches!(from.moved("http://a.example/"), Err(FetchError::LeavesTls)));
        for bad in ["//b.example/", "file:///etc/passwd", "keys", ""] {
            assert!(matches!(from.moved(bad), Err(FetchError::Location)), "{bad}");
        }
        assert!(target("http://a/").moved("https://a/").is_ok());
    }
}
