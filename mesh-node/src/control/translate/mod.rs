//! One Kubernetes object becomes what the mesh makes of it, one file a kind.
//!
//! In: a typed object (k8s-openapi's, or `control::resources`), and the mesh's settings. Out: values of
//! `mesh_common::model`, with a [`Finding`] for each field that was not taken as written, or a [`FieldError`] where
//! nothing can be made of the object. A policy always becomes one: what is not understood of it denies. The same
//! functions serve the folder of a standalone agent and the watches of a controller. Never: I/O, a clock, a log,
//! or a look at another object.

pub mod authorization_policy;
pub mod endpoint_slice;
pub mod key_address;
pub mod mesh_config;
pub mod namespace;
pub mod node;
pub mod peer_authentication;
pub mod pod;
pub mod protocol;
pub mod request_authentication;
pub mod route;
pub mod service;

mod advise;
mod condition_key;
mod enrolment;
mod own_keys;
mod pattern;
mod policy_scope;

use std::fmt;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_common::model::NamespacedName;

/// A field that cannot be taken as it is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct FieldError {
    /// The path of the field, as in `spec.rules[0].from[1].source.ipBlocks[0]`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What something wrong with an object means for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// The object is in force as it is written, which is probably not what was meant.
    Warning,
    /// The object is in force, without this field.
    FieldIgnored,
    /// The policy denies what it might have denied.
    Denies,
    /// Nothing at all is in force: what the file says has never been known, and may be a policy.
    NothingInForce,
    /// Nothing of the file is in force but denials: what it says has never been known, and may be a policy.
    Unread,
    /// What the object said before is in force.
    LastGoodKept,
    /// Nothing of the object is in force.
    NotInForce,
    /// The object is of a kind that the mesh has no use for.
    NotRead,
}

impl Effect {
    /// Every effect.
    pub const ALL: [Self; 8] = [
        Self::Warning,
        Self::FieldIgnored,
        Self::Denies,
        Self::NothingInForce,
        Self::Unread,
        Self::LastGoodKept,
        Self::NotInForce,
        Self::NotRead,
    ];

    /// The stable code for logs, metrics and dumps.
    pub fn code(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::FieldIgnored => "field_ignored",
            Self::Denies => "denies",
            Self::NothingInForce => "nothing_in_force",
            Self::Unread => "unread",
            Self::LastGoodKept => "last_good_kept",
            Self::NotInForce => "not_in_force",
            Self::NotRead => "not_read",
        }
    }
}

/// Something that a person should know of an object that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The field, and what is wrong with it.
    pub error: FieldError,
    /// What it means.
    pub effect: Effect,
}

/// A translated object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translated<T> {
    /// What the mesh makes of it.
    pub value: T,
    /// What was not taken as written.
    pub findings: Vec<Finding>,
}

impl FieldError {
    fn new(field: &Field<'_>, reason: impl Into<String>) -> Self {
        Self { field: field.to_string(), reason: reason.into() }
    }
}

impl Finding {
    fn new(effect: Effect, field: &Field<'_>, reason: impl Into<String>) -> Self {
        Self { error: FieldError::new(field, reason), effect }
    }
}

impl<T> From<T> for Translated<T> {
    fn from(value: T) -> Self {
        Self { value, findings: Vec::new() }
    }
}

/// Where in an object a value stands. Borrowed from the caller's, so that it costs nothing until it is printed.
#[derive(Clone, Copy, Debug)]
enum Field<'a> {
    /// The first step, as in `spec`.
    Root(&'a str),
    /// `.name`.
    Name(&'a Field<'a>, &'a str),
    /// `[0]`.
    Index(&'a Field<'a>, usize),
    /// `[some/key]`, of a map.
    Key(&'a Field<'a>, &'a str),
}

impl<'a> Field<'a> {
    fn name(&'a self, name: &'a str) -> Field<'a> {
        Field::Name(self, name)
    }

    fn index(&'a self, index: usize) -> Field<'a> {
        Field::Index(self, index)
    }

    fn key(&'a self, key: &'a str) -> Field<'a> {
        Field::Key(self, key)
    }
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(name) => formatter.write_str(name),
            Self::Name(parent, name) => write!(formatter, "{parent}.{name}"),
            Self::Index(parent, index) => write!(formatter, "{parent}[{index}]"),
            Self::Key(parent, key) => write!(formatter, "{parent}[{key}]"),
        }
    }
}

const METADATA: Field<'static> = Field::Root("metadata");
const SPEC: Field<'static> = Field::Root("spec");
const STATUS: Field<'static> = Field::Root("status");

/// Whether a word is another one, but for case or a slip of the pen: one letter in four, three at most.
pub(super) fn resembles(word: &str, meant: &str) -> bool {
    let (word, meant) = (word.to_ascii_lowercase(), meant.to_ascii_lowercase());
    word.len() <= 2 * meant.len() && strsim::osa_distance(&word, &meant) <= (meant.len() / 4).min(3)
}

/// The one of some words that a word is most likely meant to be, if it resembles any.
pub(super) fn nearest<'a>(word: &str, meant: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let alike = meant.into_iter().filter(|meant| resembles(word, meant));
    alike.min_by_key(|meant| strsim::osa_distance(word, meant))
}

/// The namespace of an object that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Namespace and name of a namespaced object. Without a namespace it is in [`DEFAULT_NAMESPACE`].
fn namespaced_name(metadata: &ObjectMeta) -> Result<NamespacedName, FieldError> {
    let name = object_name(metadata)?;
    let namespace = metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    Ok(NamespacedName::new(namespace.unwrap_or(DEFAULT_NAMESPACE), name))
}

/// The name of an object.
fn object_name(metadata: &ObjectMeta) -> Result<&str, FieldError> {
    match metadata.name.as_deref() {
        Some(name) if !name.is_empty() => Ok(name),
        _ => Err(FieldError::new(&METADATA.name("name"), "is missing")),
    }
}

/// Reads an address; IPv4 never stays in the mapped form.
fn ip_address(field: &Field<'_>, text: &str) -> Result<IpAddr, FieldError> {
    text.parse::<IpAddr>()
        .map(|address| address.to_canonical())
        .map_err(|_| FieldError::new(field, format!("{text:?} is not an IP address")))
}

/// A port as Kubernetes writes it, a 32-bit integer.
fn port_number(field: &Field<'_>, port: i32) -> Result<u16, FieldError> {
    u16::try_from(port)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| FieldError::new(field, format!("{port} is not a port: 1 to 65535")))
}

/// A port written as text.
fn port_text(field: &Field<'_>, text: &str) -> Result<u16, FieldError> {
    // `parse` alone would also read "+80" and "080".
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse::<u16>()
        .ok()
        .filter(|_| plain)
        .ok_or_else(|| FieldError::new(field, format!("{text:?} is not a port: 1 to 65535")))
}

#[cfg(test)]
pub(crate) mod tests;
