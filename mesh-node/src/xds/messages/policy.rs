//! Policies. A receiver that does not know a field of one must not read on without it: see [`super::super::read`].

use std::collections::BTreeMap;

use prost::{Enumeration, Message, Oneof};

use super::external::Custom;

/// Nothing more to say.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Empty {}

/// An AuthorizationPolicy. Its name is `namespace/name`.
#[derive(Clone, PartialEq, Message)]
pub struct AuthorizationPolicy {
    /// Whom it is about.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<Scope>,
    /// `spec.action`.
    #[prost(enumeration = "Action", tag = "2")]
    pub action: i32,
    /// `spec.mode`.
    #[prost(enumeration = "Mode", tag = "3")]
    pub mode: i32,
    /// `spec.rules`.
    #[prost(message, repeated, tag = "4")]
    pub rules: Vec<Rule>,
    /// What the controller could not understand of it: it denies what it might have denied.
    #[prost(message, optional, tag = "5")]
    pub fault: Option<PolicyFault>,
    /// With CUSTOM, and only with it: whom it asks.
    #[prost(message, optional, tag = "6")]
    pub custom: Option<Custom>,
}

/// Whom a policy is about.
#[derive(Clone, PartialEq, Message)]
pub struct Scope {
    /// Exactly one.
    #[prost(oneof = "ScopeKind", tags = "1, 2, 3, 4")]
    pub kind: Option<ScopeKind>,
}

/// Forms of a scope.
#[derive(Clone, PartialEq, Oneof)]
pub enum ScopeKind {
    /// Every workload.
    #[prost(message, tag = "1")]
    Mesh(Empty),
    /// Every workload of this namespace.
    #[prost(string, tag = "2")]
    Namespace(String),
    /// Workloads that have all these labels.
    #[prost(message, tag = "3")]
    Selector(Selector),
    /// Endpoints of these Services.
    #[prost(message, tag = "4")]
    Services(Services),
}

/// `selector.matchLabels`.
#[derive(Clone, PartialEq, Message)]
pub struct Selector {
    /// Absent: every namespace.
    #[prost(string, optional, tag = "1")]
    pub namespace: Option<String>,
    /// All of them must be there.
    #[prost(btree_map = "string, string", tag = "2")]
    pub labels: BTreeMap<String, String>,
}

/// `targetRefs`.
#[derive(Clone, PartialEq, Message)]
pub struct Services {
    /// Their names.
    #[prost(message, repeated, tag = "1")]
    pub names: Vec<ServiceName>,
}

/// The name of a Service.
#[derive(Clone, PartialEq, Message)]
pub struct ServiceName {
    /// Its namespace.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// Its name.
    #[prost(string, tag = "2")]
    pub name: String,
}

/// `spec.action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum Action {
    /// Never sent.
    Unspecified = 0,
    /// ALLOW.
    Allow = 1,
    /// DENY.
    Deny = 2,
    /// AUDIT.
    Audit = 3,
    /// CUSTOM.
    Custom = 4,
}

/// `spec.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum Mode {
    /// Never sent.
    Unspecified = 0,
    /// In force.
    Enforce = 1,
    /// Reported only.
    Audit = 2,
}

/// What could not be understood.
#[derive(Clone, PartialEq, Message)]
pub struct PolicyFault {
    /// Path of the field in the object.
    #[prost(string, tag = "1")]
    pub field: String,
    /// What is wrong with it.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// One entry of `spec.rules`.
#[derive(Clone, PartialEq, Message)]
pub struct Rule {
    /// Joined by OR.
    #[prost(message, repeated, tag = "1")]
    pub from: Vec<Source>,
    /// Joined by OR.
    #[prost(message, repeated, tag = "2")]
    pub to: Vec<Operation>,
    /// Joined by AND.
    #[prost(message, repeated, tag = "3")]
    pub when: Vec<Condition>,
}

/// `from[].source`; an absent field matches everything.
#[derive(Clone, PartialEq, Message)]
pub struct Source {
    /// `principals`, `notPrincipals`.
    #[prost(message, optional, tag = "1")]
    pub principals: Option<StringMatch>,
    /// `namespaces`, `notNamespaces`.
    #[prost(message, optional, tag = "2")]
    pub namespaces: Option<StringMatch>,
    /// `serviceAccounts`, `notServiceAccounts`.
    #[prost(message, optional, tag = "3")]
    pub service_accounts: Option<StringMatch>,
    /// `ipBlocks`, `notIpBlocks`.
    #[prost(message, optional, tag = "4")]
    pub ip_blocks: Option<CidrMatch>,
    /// `requestPrincipals`, `notRequestPrincipals`.
    #[prost(message, optional, tag = "5")]
    pub request_principals: Option<StringMatch>,
}

/// `to[].operation`; an absent field matches everything.
#[derive(Clone, PartialEq, Message)]
pub struct Operation {
    /// `hosts`, `notHosts`.
    #[prost(message, optional, tag = "1")]
    pub hosts: Option<StringMatch>,
    /// `ports`, `notPorts`.
    #[prost(message, optional, tag = "2")]
    pub ports: Option<PortMatch>,
    /// `methods`, `notMethods`.
    #[prost(message, optional, tag = "3")]
    pub methods: Option<StringMatch>,
    /// `paths`, `notPaths`.
    #[prost(message, optional, tag = "4")]
    pub paths: Option<StringMatch>,
}

/// One entry of `when[]`.
#[derive(Clone, PartialEq, Message)]
pub struct Condition {
    /// Exactly one.
    #[prost(oneof = "Test", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12")]
    pub test: Option<Test>,
}

/// Forms of a condition.
#[derive(Clone, PartialEq, Oneof)]
pub enum Test {
    /// `request.headers[NAME]`.
    #[prost(message, tag = "1")]
    RequestHeader(HeaderCondition),
    /// `source.ip`.
    #[prost(message, tag = "2")]
    SourceIp(CidrMatch),
    /// `source.namespace`.
    #[prost(message, tag = "3")]
    SourceNamespace(StringMatch),
    /// `source.principal`.
    #[prost(message, tag = "4")]
    SourcePrincipal(StringMatch),
    /// `source.serviceAccount`.
    #[prost(message, tag = "5")]
    SourceServiceAccount(StringMatch),
    /// `destination.ip`.
    #[prost(message, tag = "6")]
    DestinationIp(CidrMatch),
    /// `destination.port`.
    #[prost(message, tag = "7")]
    DestinationPort(PortMatch),
    /// `request.auth.principal`.
    #[prost(message, tag = "8")]
    RequestPrincipal(StringMatch),
    /// `request.auth.audiences`.
    #[prost(message, tag = "9")]
    RequestAudiences(StringMatch),
    /// `request.auth.presenter`.
    #[prost(message, tag = "10")]
    RequestPresenter(StringMatch),
    /// `request.auth.claims[...]`.
    #[prost(message, tag = "11")]
    RequestClaim(ClaimCondition),
    /// `connection.sni`.
    #[prost(message, tag = "12")]
    ConnectionServerName(StringMatch),
}

/// A claim and what its values are compared with.
#[derive(Clone, PartialEq, Message)]
pub struct ClaimCondition {
    /// The names that lead to it; at least one.
    #[prost(string, repeated, tag = "1")]
    pub path: Vec<String>,
    /// What its values are compared with.
    #[prost(message, optional, tag = "2")]
    pub values: Option<StringMatch>,
}

/// A header field and what its values are compared with.
#[derive(Clone, PartialEq, Message)]
pub struct HeaderCondition {
    /// In lower case.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What its values are compared with.
    #[prost(message, optional, tag = "2")]
    pub values: Option<StringMatch>,
}

/// A list and its negation.
#[derive(Clone, PartialEq, Message)]
pub struct StringMatch {
    /// One of these must match, if there are any.
    #[prost(message, repeated, tag = "1")]
    pub any_of: Vec<Pattern>,
    /// None of these may match.
    #[prost(message, repeated, tag = "2")]
    pub none_of: Vec<Pattern>,
}

/// A list of ranges and its negation.
#[derive(Clone, PartialEq, Message)]
pub struct CidrMatch {
    /// One of these must match, if there are any.
    #[prost(message, repeated, tag = "1")]
    pub any_of: Vec<super::Cidr>,
    /// None of these may match.
    #[prost(message, repeated, tag = "2")]
    pub none_of: Vec<super::Cidr>,
}

/// A list of ports and its negation.
#[derive(Clone, PartialEq, Message)]
pub struct PortMatch {
    /// One of these must match, if there are any.
    #[prost(uint32, repeated, tag = "1")]
    pub any_of: Vec<u32>,
    /// None of these may match.
    #[prost(uint32, repeated, tag = "2")]
    pub none_of: Vec<u32>,
}

/// One value of a list of strings.
#[derive(Clone, PartialEq, Message)]
pub struct Pattern {
    /// Exactly one.
    #[prost(oneof = "PatternKind", tags = "1, 2, 3, 4")]
    pub kind: Option<PatternKind>,
}

/// Forms of a pattern.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum PatternKind {
    /// The whole value.
    #[prost(string, tag = "1")]
    Exact(String),
    /// `abc*`.
    #[prost(string, tag = "2")]
    Prefix(String),
    /// `*abc`.
    #[prost(string, tag = "3")]
    Suffix(String),
    /// `*`.
    #[prost(message, tag = "4")]
    Present(Empty),
}

/// A PeerAuthentication. Its name is `namespace/name`.
#[derive(Clone, PartialEq, Message)]
pub struct PeerAuthentication {
    /// Whom it is about; never Services.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<Scope>,
    /// `metadata.creationTimestamp`, seconds since the epoch; 0 where there is none.
    #[prost(uint64, tag = "2")]
    pub created: u64,
    /// `mtls.mode`.
    #[prost(enumeration = "MutualTls", tag = "3")]
    pub mode: i32,
    /// `portLevelMtls`.
    #[prost(btree_map = "uint32, enumeration(MutualTls)", tag = "4")]
    pub ports: BTreeMap<u32, i32>,
}

/// `mtls.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum MutualTls {
    /// Never sent.
    Unspecified = 0,
    /// `UNSET`.
    Inherit = 1,
    /// Plaintext and mutual TLS.
    Permissive = 2,
    /// Mutual TLS only.
    Strict = 3,
}
