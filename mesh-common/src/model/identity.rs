//! SPIFFE identities: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
//!
//! The grammar is SPIFFE-ID.md's (sections 2.1 to 2.3), with the path that Kubernetes meshes share.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use super::name::Text;

/// The longest SPIFFE id that is read, in bytes (SPIFFE-ID.md section 2.3).
pub const MAX_SPIFFE_ID: usize = 2048;

/// A SPIFFE trust domain: lower-case letters, digits, `.`, `-` and `_`; 1 to 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Text);

/// The identity of a workload, as its certificate's only URI SAN states it.
///
/// Compared and ordered by its text. A clone counts one reference; the forms that policies are written in are kept,
/// so that matching them allocates nothing.
#[derive(Clone)]
pub struct SpiffeId(Arc<Parts>);

struct Parts {
    trust_domain: TrustDomain,
    namespace: Text,
    service_account: Text,
    /// `TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
    principal: Text,
    /// `NAMESPACE/SERVICE-ACCOUNT`.
    qualified_account: Text,
}

/// Why text is not a SPIFFE id that a workload of a mesh can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// Over [`MAX_SPIFFE_ID`] bytes.
    #[error("SPIFFE id has {length} bytes, at most {MAX_SPIFFE_ID} are read")]
    TooLong {
        /// Bytes found.
        length: usize,
    },
    /// Does not begin with `spiffe://`, in lower case.
    #[error("SPIFFE id does not begin with spiffe://")]
    Scheme,
    /// The trust domain is empty, over 255 bytes, or has a character outside `[a-z0-9._-]`.
    #[error("trust domain {domain:?} must be 1 to 255 of a-z, 0-9, '.', '-' and '_'")]
    TrustDomain {
        /// What stands in its place.
        domain: String,
    },
    /// The path is not `/ns/NAMESPACE/sa/SERVICE-ACCOUNT` with plain segments.
    #[error("SPIFFE path {path:?} is not /ns/NAMESPACE/sa/SERVICE-ACCOUNT")]
    Path {
        /// What stands in its place.
        path: String,
    },
}

impl TrustDomain {
    /// Reads a trust domain.
    ///
    /// # Errors
    /// [`SpiffeIdError::TrustDomain`] if it is empty, over 255 bytes, or has another character.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        if text.is_empty() || text.len() > 255 || !text.bytes().all(plain) {
            return Err(SpiffeIdError::TrustDomain { domain: text.to_owned() });
        }
        Ok(Self(text.into()))
    }

    /// The trust domain as text, without the scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SpiffeId {
    /// Makes the id of a service account.
    ///
    /// # Errors
    /// [`SpiffeIdError::Path`] if a name is empty or holds a character that a segment may not have.
    pub fn new(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeIdError> {
        if !is_segment(namespace) || !is_segment(service_account) {
            return Err(SpiffeIdError::Path { path: format!("/ns/{namespace}/sa/{service_account}") });
        }
        Ok(Self(Arc::new(Parts {
            trust_domain: trust_domain.clone(),
            namespace: namespace.into(),
            service_account: service_account.into(),
            principal: format!("{trust_domain}/ns/{namespace}/sa/{service_account}").into(),
            qualified_account: format!("{namespace}/{service_account}").into(),
        })))
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &Text {
        &self.0.namespace
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &Text {
        &self.0.service_account
    }

    /// `TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`: what `principals` match.
    pub fn principal(&self) -> &Text {
        &self.0.principal
    }

    /// `NAMESPACE/SERVICE-ACCOUNT`: what `serviceAccounts` match.
    pub fn qualified_account(&self) -> &Text {
        &self.0.qualified_account
    }
}

// The principal determines every other field: a segment holds no slash.
impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.0.principal == other.0.principal
    }
}

impl Eq for SpiffeId {}

impl Hash for SpiffeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.principal.hash(state);
    }
}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.principal.cmp(&other.0.principal)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_SPIFFE_ID {
            return Err(SpiffeIdError::TooLong { length: text.len() });
        }
        let rest = text.strip_prefix("spiffe://").ok_or(SpiffeIdError::Scheme)?;
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let trust_domain = TrustDomain::parse(domain)?;
        let mut segments = path.split('/');
        match (
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
        ) {
            (Some(""), Some("ns"), Some(namespace), Some("sa"), Some(account), None) => {
                Self::new(&trust_domain, namespace, account)
            }
            _ => Err(SpiffeIdError::Path { path: path.to_owned() }),
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "spiffe://{}", self.0.principal)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { trust_domain, namespace, service_account, principal, qualified_account } = &*self.0;
        formatter
            .debug_struct("SpiffeId")
            .field("trust_domain", trust_domain)
            .field("namespace", namespace)
            .field("service_account", service_account)
            .field("principal", principal)
            .field("qualified_account", qualified_account)
            .finish()
    }
}

/// SPIFFE-ID.md section 2.2: letters, digits, `.`, `-` and `_`; neither empty nor `.` nor `..`.
fn is_segment(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !text.is_empty() && text != "." && text != ".." && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_id_round_trips() {
        let text = "spiffe://cluster.local/ns/shop/sa/web.v1";
        assert_eq!(text.parse::<SpiffeId>().unwrap().to_string(), text);
    }

    #[test]
    fn every_other_spelling_is_refused() {
        for text in [
            "SPIFFE://cluster.local/ns/shop/sa/web",
            "spiffe://Cluster.local/ns/shop/sa/web",
            "spiffe://cluster.local:443/ns/shop/sa/web",
            "spiffe://user@cluster.local/ns/shop/sa/web",
            "spiffe:///ns/shop/sa/web",
            "spiffe://cluster.local",
            "spiffe://cluster.local/ns/shop/sa/web/",
            "spiffe://cluster.local/ns//sa/web",
            "spiffe://cluster.local/ns/../sa/web",
            "spiffe://cluster.local/ns/shop/sa/%77eb",
            "spiffe://cluster.local/ns/shop/sa/web?x",
            "spiffe://cluster.local/ns/shop/sa/web#x",
            "spiffe://cluster.local/ns/shop/sa/we\0b",
            "spiffe://cluster.local/ns/shop/pod/web",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text:?} was read");
        }
    }
}
