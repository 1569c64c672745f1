//! Why a connection or a request was refused: closed reasons, their codes and their words.

use std::fmt;

use crate::model::NamespacedName;
use crate::resolve::UnknownTarget;
use crate::token::TokenFault;

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}{by}", by = By(self))]
#[must_use]
pub struct Denial {
    /// Why.
    pub reason: DenialReason,
    /// The policy that made it, where one did.
    pub policy: Option<PolicyName>,
    /// Which of `spec.rules` it was, counted from 0.
    pub rule: Option<usize>,
}

/// The name of a policy of any kind. Printed as `Kind namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PolicyName {
    /// Its kind.
    pub kind: PolicyKind,
    /// Its namespace and name.
    pub name: NamespacedName,
}

/// The kinds of policy that can refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PolicyKind {
    /// An AuthorizationPolicy.
    AuthorizationPolicy,
    /// A PeerAuthentication.
    PeerAuthentication,
    /// A RequestAuthentication.
    RequestAuthentication,
}

/// Why something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenialReason {
    /// A rule of a DENY policy matches.
    RuleDenies,
    /// ALLOW policies speak about the workload, and none of their rules matches.
    NoRuleAllows,
    /// A policy that could not be understood denies what it might have denied.
    PolicyFault,
    /// Mutual TLS is required, and the caller offered none.
    PlaintextUnderStrict,
    /// A token of the request does not hold.
    InvalidToken(TokenFault),
    /// A CUSTOM policy matches, and no authorization server let it pass.
    External(ExternalDenial),
    /// Nothing is known that could be let through.
    UnknownDestination(UnknownTarget),
}

/// Why external authorization let something not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExternalDenial {
    /// The server said no.
    Refused,
    /// Nobody has asked so far.
    NotAsked,
    /// It is no request, and only those are asked about.
    NotHttp,
    /// The mesh's configuration has no server of the name.
    UnknownProvider,
    /// Policies about the workload name different servers.
    SeveralProviders,
    /// The server could not be reached.
    Unreachable,
    /// The server did not answer in time.
    TimedOut,
    /// What the server said is not understood.
    BadAnswer,
    /// Too many other requests wait for the server.
    Overloaded,
    /// The request's body is longer than what the server is shown.
    BodyTooLarge,
}

impl ExternalDenial {
    /// Every one.
    pub const ALL: [Self; 10] = [
        Self::Refused,
        Self::NotAsked,
        Self::NotHttp,
        Self::UnknownProvider,
        Self::SeveralProviders,
        Self::Unreachable,
        Self::TimedOut,
        Self::BadAnswer,
        Self::Overloaded,
        Self::BodyTooLarge,
    ];

    /// The stable code for logs, metrics and responses; Envoy's two words begin them.
    pub fn code(self) -> &'static str {
        match self {
            Self::Refused => "ext_authz_denied",
            Self::NotAsked => "ext_authz_not_asked",
            Self::NotHttp => "ext_authz_needs_http",
            Self::UnknownProvider => "ext_authz_unknown_provider",
            Self::SeveralProviders => "ext_authz_several_providers",
            Self::Unreachable => "ext_authz_error_unreachable",
            Self::TimedOut => "ext_authz_error_timeout",
            Self::BadAnswer => "ext_authz_error_bad_answer",
            Self::Overloaded => "ext_authz_error_overloaded",
            Self::BodyTooLarge => "ext_authz_body_too_large",
        }
    }

    /// The same for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "the authorization server refused it",
            Self::NotAsked => "an authorization server was to be asked, and was not",
            Self::NotHttp => {
                "an authorization server is to be asked, and only requests of HTTP can be asked about"
            }
            Self::UnknownProvider => "the mesh's configuration has no authorization server of that name",
            Self::SeveralProviders => {
                "CUSTOM policies about the workload name different authorization servers"
            }
            Self::Unreachable => "the authorization server could not be reached",
            Self::TimedOut => "the authorization server did not answer in time",
            Self::BadAnswer => "what the authorization server said is not understood",
            Self::Overloaded => "too many other requests wait for the authorization server",
            Self::BodyTooLarge => "its body is longer than what the authorization server is shown",
        }
    }

    /// Whether the server said nothing that counts: what `failOpen` and `statusOnError` are about.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Unreachable | Self::TimedOut | Self::BadAnswer | Self::Overloaded)
    }
}

impl Denial {
    pub(super) fn unknown(target: UnknownTarget) -> Self {
        Self { reason: DenialReason::UnknownDestination(target), policy: None, rule: None }
    }
}

impl DenialReason {
    /// Every reason, besides those of [`TokenFault::ALL`] and [`ExternalDenial::ALL`].
    pub const ALL: [Self; 10] = [
        Self::RuleDenies,
        Self::NoRuleAllows,
        Self::PolicyFault,
        Self::PlaintextUnderStrict,
        Self::UnknownDestination(UnknownTarget::NoSuchServicePort),
        Self::UnknownDestination(UnknownTarget::Contested),
        Self::UnknownDestination(UnknownTarget::NotYetKnown),
        Self::UnknownDestination(UnknownTarget::NotAsked),
        Self::UnknownDestination(UnknownTarget::LocalGone),
        Self::UnknownDestination(UnknownTarget::NotLocalAddress),
    ];

    /// Whether no request is read for it: in the clear where mutual TLS is required, or to nobody.
    pub fn is_of_connection(self) -> bool {
        matches!(self, Self::PlaintextUnderStrict | Self::UnknownDestination(_))
    }

    /// The stable code for logs, metrics and responses.
    pub fn code(self) -> &'static str {
        match self {
            Self::RuleDenies => "rule_denies",
            Self::NoRuleAllows => "no_rule_allows",
            Self::PolicyFault => "policy_fault",
            Self::PlaintextUnderStrict => "plaintext_under_strict",
            Self::InvalidToken(fault) => fault.code(),
            Self::External(denial) => denial.code(),
            Self::UnknownDestination(UnknownTarget::NoSuchServicePort) => "no_such_service_port",
            Self::UnknownDestination(UnknownTarget::Contested) => "contested_address",
            Self::UnknownDestination(UnknownTarget::NotYetKnown) => "address_not_yet_known",
            Self::UnknownDestination(UnknownTarget::NotAsked) => "address_not_asked",
            Self::UnknownDestination(UnknownTarget::LocalGone) => "local_workload_gone",
            Self::UnknownDestination(UnknownTarget::NotLocalAddress) => "not_local_address",
        }
    }
}

impl fmt::Display for DenialReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::RuleDenies => "a rule denies it",
            Self::NoRuleAllows => "no rule allows it",
            Self::PolicyFault => "a policy could not be understood, and denies what it might have denied",
            Self::PlaintextUnderStrict => "mutual TLS is required and was not offered",
            Self::InvalidToken(fault) => fault.as_str(),
            Self::External(denial) => denial.as_str(),
            Self::UnknownDestination(UnknownTarget::NoSuchServicePort) => "the Service has no such port",
            Self::UnknownDestination(UnknownTarget::Contested) => "several claim the address",
            Self::UnknownDestination(UnknownTarget::NotYetKnown) => {
                "the address is inside the mesh, and nothing is known of it yet"
            }
            Self::UnknownDestination(UnknownTarget::NotAsked) => {
                "the controller did not say in time what the address is, or could not be asked"
            }
            Self::UnknownDestination(UnknownTarget::LocalGone) => "the local workload is gone",
            Self::UnknownDestination(UnknownTarget::NotLocalAddress) => {
                "the address is not one of the local workload's"
            }
        })
    }
}

impl PolicyKind {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::RequestAuthentication => "RequestAuthentication",
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.kind, self.name)
    }
}

/// Prints by whom, after the reason.
struct By<'a>(&'a Denial);

impl fmt::Display for By<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(policy) = &self.0.policy {
            write!(formatter, " ({policy}")?;
            if let Some(rule) = self.0.rule {
                write!(formatter, ", rules[{rule}]")?;
            }
            formatter.write_str(")")?;
        }
        Ok(())
    }
}
