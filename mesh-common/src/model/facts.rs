//! What was found out about a connection or a request, before anything is decided.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::client_hello::ServerName;
use super::identity::SpiffeId;
use super::name::Text;
use super::path::NormalPath;
use super::request_authentication::EndUser;
use super::workload::Workload;

/// Which side of a connection this daemon stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From an enrolled pod of this node; reporter `source`.
    Outbound,
    /// To an enrolled pod of this node; reporter `destination`.
    Inbound,
}

/// What the peer proved to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerIdentity {
    /// From a verified certificate, or from a pod of this node in process.
    Verified(SpiffeId),
    /// Nothing was proved: no TLS of ours was offered.
    None,
}

/// SHA-256 of the certificate, DER, that a peer showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificateHash(pub [u8; 32]);

/// What is known of one connection when it is decided.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionFacts {
    /// Which side this daemon stands on.
    pub direction: Direction,
    /// The caller's address as its pod has it: the source IP is the tunnel's TCP peer, only the port is hearsay.
    pub client: SocketAddr,
    /// The address that the application dialled; for [`Direction::Inbound`] the pod's address and port.
    pub original_dst: SocketAddr,
    /// The pod of this node on whose behalf the daemon acts: the caller outbound, the called inbound.
    pub local: Arc<Workload>,
    /// Who calls. Outbound: the local pod's own identity.
    pub peer: PeerIdentity,
    /// Inbound: the certificate that proved it. None in process, where nothing is shown.
    pub certificate: Option<Arc<CertificateHash>>,
    /// Inbound, from OPEN: the Service address that the application dialled. A hint until the tables confirm it.
    pub claimed_dst: Option<SocketAddr>,
    /// Inbound: the name that the application's own TLS asks for, from the bytes that its client sent.
    pub server_name: ServerName,
}

/// What is known of one HTTP request when it is decided. Bytes are as they will be forwarded.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    /// The method, case-sensitive (RFC 9110 section 9.1).
    pub method: &'a [u8],
    /// The authority the request names, with its port if it has one; compared without regard to case.
    pub host: &'a [u8],
    /// The path as it will be forwarded, without the query.
    pub path: &'a NormalPath<'a>,
    /// The query as it will be forwarded.
    pub query: Option<&'a [u8]>,
    /// Header fields in their order; names are compared without regard to case.
    pub headers: &'a [(&'a [u8], &'a [u8])],
    /// Whom a token of the request proved to speak of.
    pub end_user: Option<&'a EndUser>,
    /// The authorization server that let it pass, by its name in the mesh's configuration.
    pub allowed_by: Option<&'a Text>,
}

/// What is changed of a request's head before it is decided and sent on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeadEdits {
    /// Names of the fields that are left out, in lower case, every field of the name.
    pub removed: Vec<Text>,
    /// Fields that are added.
    pub added: Vec<(Text, Box<[u8]>)>,
    /// The query instead of the one that came; the inner `None` for none.
    pub query: Option<Option<Box<[u8]>>>,
}

impl HeadEdits {
    /// These, and after them `later` ones.
    #[must_use]
    pub fn then(mut self, later: Self) -> Self {
        self.added.retain(|(name, _)| !later.removes(name.as_bytes()));
        self.removed.extend(later.removed);
        self.added.extend(later.added);
        self.query = later.query.or(self.query);
        self
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty() && self.query.is_none()
    }

    /// Whether a field of the request is left out. `_` is as `-`: there are applications that do not tell them apart.
    pub fn removes(&self, name: &[u8]) -> bool {
        let letter = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
        let is_same = |removed: &Text| name.iter().map(letter).eq(removed.as_bytes().iter().map(letter));
        self.removed.iter().any(is_same)
    }

    /// The query that goes on.
    pub fn query<'a>(&'a self, sent: Option<&'a [u8]>) -> Option<&'a [u8]> {
        self.query.as_ref().map_or(sent, Option::as_deref)
    }
}

/// A request's facts together with their bytes: for requests that may have to be decided again.
#[derive(Clone, Debug)]
pub struct RequestCopy {
    path: NormalPath<'static>,
    end_user: Option<EndUser>,
    allowed_by: Option<Text>,
    /// Method, host, then name and value of each field, one after the other.
    text: Box<[u8]>,
    /// Where each of them ends in `text`.
    ends: Box<[usize]>,
}

impl RequestCopy {
    /// Copies what is known of a request.
    pub fn of(request: &RequestFacts<'_>) -> Self {
        let fields = || request.headers.iter().flat_map(|(name, value)| [*name, *value]);
        let parts = || [request.method, request.host].into_iter().chain(fields());
        let mut text = Vec::with_capacity(parts().map(<[u8]>::len).sum());
        let mut ends = Vec::with_capacity(2 + 2 * request.headers.len());
        for part in parts() {
            text.extend_from_slice(part);
            ends.push(text.len());
        }
        let end_user = request.end_user.cloned();
        let (path, allowed_by) = (request.path.to_static(), request.allowed_by.cloned());
        Self { path, end_user, allowed_by, text: text.into(), ends: ends.into() }
    }

    /// Shows the facts to `judge`.
    pub fn show<T>(&self, judge: impl FnOnce(&RequestFacts<'_>) -> T) -> T {
        let mut start = 0;
        let mut parts = self.ends.iter().map(|end| {
            let part = &self.text[start..*end];
            start = *end;
            part
        });
        let method = parts.next().unwrap_or_default();
        let host = parts.next().unwrap_or_default();
        let mut headers: Vec<(&[u8], &[u8])> = Vec::with_capacity(self.ends.len() / 2);
        while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            headers.push((name, value));
        }
        // Policy does not look at the query.
        let (path, end_user, allowed_by) = (&self.path, self.end_user.as_ref(), self.allowed_by.as_ref());
        let headers = &headers;
        judge(&RequestFacts { method, host, path, query: None, headers, end_user, allowed_by })
    }
}

impl PeerIdentity {
    /// The verified identity, if there is one.
    pub fn verified(&self) -> Option<&SpiffeId> {
        match self {
            Self::Verified(identity) => Some(identity),
            Self::None => None,
        }
    }
}

impl ConnectionFacts {
    /// The caller's address without its port: what `ipBlocks` match.
    pub fn client_ip(&self) -> IpAddr {
        self.client.ip()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RequestTarget;

    #[test]
    fn a_copy_shows_what_it_was_made_of() {
        let target = RequestTarget::parse(b"/a/b;v=1").unwrap();
        let headers: [(&[u8], &[u8]); 3] = [(b"host", b"api"), (b"x-empty", b""), (b"x-last", b"\xff")];
        let (path, headers) = (&target.path, &headers);
        let (name, end_user) = (Text::from("opa"), None);
        let allowed_by = Some(&name);
        let facts =
            RequestFacts { method: b"GET", host: b"api", path, query: None, headers, end_user, allowed_by };
        let copy = RequestCopy::of(&facts);
        copy.show(|shown| {
            assert_eq!((shown.method, shown.host, shown.path), (facts.method, facts.host, facts.path));
            assert_eq!((shown.headers, shown.allowed_by), (facts.headers, allowed_by));
        });
    }
}
