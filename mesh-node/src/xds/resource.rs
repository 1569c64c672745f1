//! Resources of the stream: their types, names and versions.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use mesh_common::model::{Question, Text, TrustDomain};
use mesh_common::snapshot::Delta;

/// What begins the type URL of every resource.
const PREFIX: &str = "type.googleapis.com/nodemesh.v1alpha1.";

/// A type of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    /// Settings of the mesh; one resource.
    Mesh,
    /// Roots and revocation lists of a trust domain, by its name.
    TrustBundle,
    /// A node, by its name.
    Node,
    /// An AuthorizationPolicy, by `namespace/name`.
    AuthorizationPolicy,
    /// A PeerAuthentication, by `namespace/name`.
    PeerAuthentication,
    /// A RequestAuthentication, by `namespace/name`.
    RequestAuthentication,
    /// A Service, by `namespace/name`.
    Service,
    /// An EndpointSlice, by `namespace/name`.
    EndpointSlice,
    /// A pod, by its uid.
    Workload,
    /// That an agent which asks was told all about an address or node port, by how that is written.
    Address,
}

impl ResourceType {
    /// All of them, in the order in which one round sends them.
    pub const ALL: [Self; 10] = [
        Self::Mesh,
        Self::TrustBundle,
        Self::Node,
        Self::AuthorizationPolicy,
        Self::PeerAuthentication,
        Self::RequestAuthentication,
        Self::Service,
        Self::EndpointSlice,
        Self::Workload,
        Self::Address,
    ];

    /// Those that every agent asks for.
    pub const OF_EVERYBODY: [Self; 9] = [
        Self::Mesh,
        Self::TrustBundle,
        Self::Node,
        Self::AuthorizationPolicy,
        Self::PeerAuthentication,
        Self::RequestAuthentication,
        Self::Service,
        Self::EndpointSlice,
        Self::Workload,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mesh => "Mesh",
            Self::TrustBundle => "TrustBundle",
            Self::Node => "Node",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::RequestAuthentication => "RequestAuthentication",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Workload => "Workload",
            Self::Address => "Address",
        }
    }

    /// Its place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// `type.googleapis.com/nodemesh.v1alpha1.NAME`.
    pub fn type_url(self) -> String {
        format!("{PREFIX}{}", self.name())
    }

    /// The type of a URL; `None` if it is none of ours.
    pub fn of_url(url: &str) -> Option<Self> {
        let name = url.strip_prefix(PREFIX)?;
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether an agent may be told only those of it that it needs for what it asks.
    pub const fn is_on_demand(self) -> bool {
        matches!(self, Self::Service | Self::EndpointSlice | Self::Workload)
    }

    /// Whether it says who may do what: never skipped, whatever is wrong with it.
    pub const fn is_policy(self) -> bool {
        matches!(self, Self::AuthorizationPolicy | Self::PeerAuthentication | Self::RequestAuthentication)
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Tells one resource from every other.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its type.
    pub kind: ResourceType,
    /// Its name among those of the type.
    pub name: Text,
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.kind, self.name)
    }
}

/// 96 bits of the SHA-256 of a resource's bytes: the same from every controller, also after a restart, so that an
/// agent that comes back is sent only what differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version([u8; 12]);

impl Version {
    /// The version of these bytes.
    pub fn of(value: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, value);
        let mut version = [0; 12];
        version.copy_from_slice(&digest.as_ref()[..12]);
        Self(version)
    }

    /// Reads what [`Display`](fmt::Display) writes: 24 hexadecimal digits in lower case.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: &[u8; 24] = text.as_bytes().try_into().ok()?;
        let mut version = [0; 12];
        for (byte, pair) in version.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = (digit(pair[0])? << 4) | digit(pair[1])?;
        }
        Some(Self(version))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

fn digit(letter: u8) -> Option<u8> {
    match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    }
}

/// A resource, ready to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Which one.
    pub key: Key,
    /// Of `value`.
    pub version: Version,
    /// Its message.
    pub value: Bytes,
}

impl Resource {
    /// A resource of these bytes.
    pub fn new(key: Key, value: Bytes) -> Self {
        Self { version: Version::of(&value), key, value }
    }
}

/// What a delta is on the stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Outgoing {
    /// New or changed.
    Upsert(Resource),
    /// Gone.
    Remove(Key),
}

/// The roots of a trust domain, and what they have revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// For whom they vouch.
    pub trust_domain: TrustDomain,
    /// Root certificates, DER.
    pub roots: Vec<Vec<u8>>,
    /// Revocation lists, DER.
    pub revocation_lists: Vec<Vec<u8>>,
    /// Root certificates, DER, that vouch for connections that are open, and for nobody new.
    pub retired: Vec<Vec<u8>>,
}

/// What a resource means.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// To the tables.
    Delta(Delta),
    /// To whoever verifies peers.
    Trust(Arc<Trust>),
    /// All was told about what was asked.
    Answered(Question),
}

/// What could not be understood of a resource. Printed as `field: reason`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FieldError {
    /// The path of the field, as in `rules[0].from[1].principals.any_of[0]`; empty for the resource as a whole.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl FieldError {
    /// About a resource as a whole.
    pub fn whole(reason: impl Into<String>) -> Self {
        Self { field: String::new(), reason: reason.into() }
    }

    /// About one field.
    pub fn new(field: &str, reason: impl Into<String>) -> Self {
        Self { field: field.to_owned(), reason: reason.into() }
    }

    /// The same, seen from the message that has the field.
    pub(super) fn within(self, field: &str) -> Self {
        let Self { field: inner, reason } = self;
        Self { field: if inner.is_empty() { field.to_owned() } else { format!("{field}.{inner}") }, reason }
    }

    /// The same, seen from the message that has the list.
    pub(super) fn at(self, field: &str, index: usize) -> Self {
        self.within(&format!("{field}[{index}]"))
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            return formatter.write_str(&self.reason);
        }
        write!(formatter, "{}: {}", self.field, self.reason)
    }
}
