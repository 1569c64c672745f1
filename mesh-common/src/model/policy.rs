//! Policy objects, translated: every pattern is parsed, nothing can be invalid.
//!
//! Field names are Istio's (`security.istio.io/v1`), the meaning too: the values of one field are joined by OR,
//! the fields of one source, operation or condition list by AND, the sources of one rule by OR, rules by OR.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::external::Custom;
use super::name::{NamespacedName, Text};
use super::workload::Workload;

/// Whom a policy is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every workload: a policy of the root namespace without selector or targets.
    Mesh,
    /// Every workload of a namespace.
    Namespace(Text),
    /// Workloads of a namespace that have all these labels; of every namespace if it is a root policy.
    Selector {
        /// `None`: every namespace (the policy stands in the root namespace).
        namespace: Option<Text>,
        /// `selector.matchLabels`.
        labels: BTreeMap<Text, Text>,
    },
    /// `targetRefs` to Services of the policy's namespace: their endpoints, however dialled.
    Services(Vec<NamespacedName>),
}

/// `spec.action`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Whoever matches may; whoever matches no ALLOW that is about the workload may not.
    #[default]
    Allow,
    /// Whoever matches may not.
    Deny,
    /// Reported, never refused.
    Audit,
    /// An authorization server is asked about whoever matches, before any other policy.
    Custom(Arc<Custom>),
}

/// `spec.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// In force.
    #[default]
    Enforce,
    /// Evaluated and reported, refuses nothing.
    Audit,
}

/// An AuthorizationPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// Namespace and name.
    pub name: NamespacedName,
    /// Whom it is about.
    pub scope: Scope,
    /// What matching means.
    pub action: Action,
    /// Whether it is in force.
    pub mode: Mode,
    /// Any rule that matches makes the policy match. None at all never matches (`allow-nothing`).
    pub rules: Vec<Rule>,
    /// What of it could not be understood. A policy with a fault denies what it might have denied: an ALLOW
    /// permits nothing, a DENY or CUSTOM refuses everything, on every workload that it is about. Where `action` is not
    /// understood it is [`Action::Deny`], where `mode` is not it is [`Mode::Enforce`], where the selector or the
    /// targets are not the scope is the whole namespace (the mesh, for the root namespace).
    pub fault: Option<Arc<PolicyFault>>,
}

/// What could not be understood of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFault {
    /// The path of the field, as in `spec.rules[0].from[1].source.ipBlocks[0]`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

/// One entry of `spec.rules`. An empty list of a kind matches everything of that kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// `from[].source`, joined by OR.
    pub from: Vec<Source>,
    /// `to[].operation`, joined by OR.
    pub to: Vec<Operation>,
    /// `when[]`, joined by AND.
    pub when: Vec<Condition>,
}

/// `from[].source`: every field that is not empty must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// `principals`, `notPrincipals`: SPIFFE ids without `spiffe://`.
    pub principals: Match<Pattern>,
    /// `namespaces`, `notNamespaces`.
    pub namespaces: Match<Pattern>,
    /// `serviceAccounts`, `notServiceAccounts`: `NAMESPACE/NAME`.
    pub service_accounts: Match<Pattern>,
    /// `ipBlocks`, `notIpBlocks`.
    pub ip_blocks: Match<IpNet>,
    /// `requestPrincipals`, `notRequestPrincipals`: `ISSUER/SUBJECT` of the end user's token.
    pub request_principals: Match<Pattern>,
}

/// `to[].operation`: every field that is not empty must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// `hosts`, `notHosts`; without regard to case.
    pub hosts: Match<Pattern>,
    /// `ports`, `notPorts`.
    pub ports: Match<u16>,
    /// `methods`, `notMethods`.
    pub methods: Match<Pattern>,
    /// `paths`, `notPaths`; against the normalised path.
    pub paths: Match<Pattern>,
}

/// One entry of `when[]`: `key` with its `values` and `notValues`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// `request.headers[NAME]`. Each value of a repeated field is matched by itself.
    RequestHeader {
        /// The field's name, in lower case.
        name: Text,
        /// What its values are compared with.
        values: Match<Pattern>,
    },
    /// `source.ip`.
    SourceIp(Match<IpNet>),
    /// `source.namespace`.
    SourceNamespace(Match<Pattern>),
    /// `source.principal`.
    SourcePrincipal(Match<Pattern>),
    /// `source.serviceAccount`.
    SourceServiceAccount(Match<Pattern>),
    /// `destination.ip`.
    DestinationIp(Match<IpNet>),
    /// `destination.port`.
    DestinationPort(Match<u16>),
    /// `connection.sni`: the name that the application's own TLS asks for; without regard to case.
    ConnectionServerName(Match<Pattern>),
    /// `request.auth.principal`.
    RequestPrincipal(Match<Pattern>),
    /// `request.auth.audiences`; each by itself.
    RequestAudiences(Match<Pattern>),
    /// `request.auth.presenter`.
    RequestPresenter(Match<Pattern>),
    /// `request.auth.claims[NAME][NAME]`. Each value of a list is matched by itself.
    RequestClaim {
        /// The names that lead to the claim.
        path: Vec<Text>,
        /// What its values are compared with.
        values: Match<Pattern>,
    },
}

/// A field and its negation, as in `paths` and `notPaths`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match<T> {
    /// One of these must match; empty means that everything does.
    pub any_of: Vec<T>,
    /// None of these may match.
    pub none_of: Vec<T>,
}

/// One value of a list of strings in a rule: exact, prefix (`abc*`), suffix (`*abc`) or presence (`*`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// The whole value.
    Exact(Text),
    /// `abc*`.
    Prefix(Text),
    /// `*abc`.
    Suffix(Text),
    /// `*`: any value that is not empty.
    Present,
}

/// A PeerAuthentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// Namespace and name.
    pub name: NamespacedName,
    /// Whom it is about; never [`Scope::Services`].
    pub scope: Scope,
    /// `metadata.creationTimestamp`, seconds since the epoch; 0 where there is none. Of two about the same
    /// workload at the same level the older is in force; where that cannot be said, the stricter mode of each port.
    pub created: u64,
    /// `mtls.mode`; `None` inherits (`UNSET`). What is not understood is [`MutualTls::Strict`].
    pub mode: Option<MutualTls>,
    /// `portLevelMtls`: by the workload's port. `None` inherits.
    pub ports: BTreeMap<u16, Option<MutualTls>>,
}

/// `mtls.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MutualTls {
    /// Plaintext and mutual TLS.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

impl Scope {
    /// Whether it has a selector, and that selects a workload.
    pub fn selects(&self, workload: &Workload) -> bool {
        let Self::Selector { namespace, labels } = self else { return false };
        namespace.as_ref().is_none_or(|namespace| *namespace == workload.name.namespace)
            && workload.has_labels(labels)
    }
}

impl PeerAuthentication {
    /// What is in force of two that nothing ranks: the stricter mode, of each port too. It has the name of the one with
    /// the stricter mode, of two as strict of the first.
    #[must_use]
    pub fn or_stricter(&self, other: &Self) -> Self {
        let mode_at = |policy: &Self, port: &u16| policy.ports.get(port).copied().flatten().or(policy.mode);
        let ports = self.ports.keys().chain(other.ports.keys());
        let ports = ports.map(|port| (*port, stricter(mode_at(self, port), mode_at(other, port)))).collect();
        let mode = stricter(self.mode, other.mode);
        let named = if mode == self.mode { self } else { other };
        Self { mode, ports, ..named.clone() }
    }
}

/// What is inherited may be strict, so it is stricter than what is permissive.
fn stricter(one: Option<MutualTls>, other: Option<MutualTls>) -> Option<MutualTls> {
    let strictness = |mode: &Option<MutualTls>| match mode {
        Some(MutualTls::Permissive) => 0,
        None => 1,
        Some(MutualTls::Strict) => 2,
    };
    std::cmp::max_by_key(one, other, strictness)
}

impl<T> Default for Match<T> {
    fn default() -> Self {
        Self { any_of: Vec::new(), none_of: Vec::new() }
    }
}

impl<T> Match<T> {
    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.any_of.is_empty() && self.none_of.is_empty()
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(text) => formatter.write_str(text),
            Self::Prefix(text) => write!(formatter, "{text}*"),
            Self::Suffix(text) => write!(formatter, "*{text}"),
            Self::Present => formatter.write_str("*"),
        }
    }
}

impl Rule {
    /// Whether it asks for anything that only a request has.
    pub fn speaks_of_requests(&self) -> bool {
        self.from.iter().any(Source::speaks_of_requests)
            || self.to.iter().any(Operation::speaks_of_requests)
            || self.when.iter().any(Condition::speaks_of_requests)
    }

    /// Whether it asks for the name that a connection's TLS names.
    pub fn speaks_of_server_names(&self) -> bool {
        self.when.iter().any(|condition| matches!(condition, Condition::ConnectionServerName(_)))
    }

    /// Whether it asks for something that only a request has in each of its alternatives.
    pub fn always_needs_a_request(&self) -> bool {
        let every_source = !self.from.is_empty() && self.from.iter().all(Source::speaks_of_requests);
        let every_operation = !self.to.is_empty() && self.to.iter().all(Operation::speaks_of_requests);
        every_source || every_operation || self.when.iter().any(Condition::speaks_of_requests)
    }
}

impl Source {
    /// Whether it asks for anything that only a request has.
    pub fn speaks_of_requests(&self) -> bool {
        !self.request_principals.is_empty()
    }
}

impl Operation {
    /// Whether it asks for anything that only a request has.
    pub fn speaks_of_requests(&self) -> bool {
        !(self.hosts.is_empty() && self.methods.is_empty() && self.paths.is_empty())
    }
}

impl Condition {
    /// `key`, as it is written.
    pub fn key(&self) -> String {
        match self {
            Self::RequestHeader { name, .. } => return format!("request.headers[{name}]"),
            Self::RequestClaim { path, .. } => return format!("request.auth.claims[{}]", path.join("][")),
            Self::SourceIp(_) => "source.ip",
            Self::SourceNamespace(_) => "source.namespace",
            Self::SourcePrincipal(_) => "source.principal",
            Self::SourceServiceAccount(_) => "source.serviceAccount",
            Self::DestinationIp(_) => "destination.ip",
            Self::DestinationPort(_) => "destination.port",
            Self::ConnectionServerName(_) => "connection.sni",
            Self::RequestPrincipal(_) => "request.auth.principal",
            Self::RequestAudiences(_) => "request.auth.audiences",
            Self::RequestPresenter(_) => "request.auth.presenter",
        }
        .to_owned()
    }

    /// Whether it is about something that only a request has.
    pub fn speaks_of_requests(&self) -> bool {
        match self {
            Self::RequestHeader { .. }
            | Self::RequestPrincipal(_)
            | Self::RequestAudiences(_)
            | Self::RequestPresenter(_)
            | Self::RequestClaim { .. } => true,
            Self::SourceIp(_)
            | Self::SourceNamespace(_)
            | Self::SourcePrincipal(_)
            | Self::SourceServiceAccount(_)
            | Self::DestinationIp(_)
            | Self::DestinationPort(_)
            | Self::ConnectionServerName(_) => false,
        }
    }
}
