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
    /// Nothing is known that could be let through.
    UnknownDestination(UnknownTarget),
}

impl Denial {
    pub(super) fn unknown(target: UnknownTarget) -> Self {
        Self { reason: DenialReason::UnknownDestination(target), policy: None, rule: None }
    }
}

impl DenialReason {
    /// Every reason, besides those of [`TokenFault::ALL`].
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

    /// The stable code for logs, metrics and responses.
    pub fn code(self) -> &'static str {
        match self {
            Self::RuleDenies => "rule_denies",
            Self::NoRuleAllows => "no_rule_allows",
            Self::PolicyFault => "policy_fault",
            Self::PlaintextUnderStrict => "plaintext_under_strict",
            Self::InvalidToken(fault) => fault.code(),
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
