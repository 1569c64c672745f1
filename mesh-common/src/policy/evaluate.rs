//! The order of AuthorizationPolicies: DENY, then ALLOW; an ALLOW makes the rest denied.

use smallvec::SmallVec;

use super::denial::{Denial, DenialReason, PolicyKind, PolicyName};
use super::matching::{Answer, Breadth, Subject};
use crate::model::AuthorizationPolicy;
use crate::model::policy::{Action, Mode};
use crate::snapshot::PolicySet;

/// A rule of a policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RuleMatch<'a> {
    /// The policy.
    pub policy: &'a AuthorizationPolicy,
    /// Which of its rules, counted from 0.
    pub rule: usize,
}

/// What a policy that refuses nothing found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AuditFinding<'a> {
    /// The policy.
    pub policy: &'a AuthorizationPolicy,
    /// Which of its rules, counted from 0; `None` if it would deny because no rule of it matches.
    pub rule: Option<usize>,
    /// What it found.
    pub verdict: AuditVerdict,
}

/// What a policy that refuses nothing would say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuditVerdict {
    /// A rule of an AUDIT policy matches.
    Audited,
    /// A policy of mode Audit would have refused, for this reason.
    WouldDeny(DenialReason),
}

/// What policies found, in the order of their names.
pub type AuditFindings<'a> = SmallVec<[AuditFinding<'a>; 1]>;

/// What the policies let through.
#[derive(Debug, PartialEq)]
pub(super) struct Allowed<'a> {
    pub(super) by: Option<RuleMatch<'a>>,
    pub(super) depends_on_request: bool,
    pub(super) findings: AuditFindings<'a>,
}

/// What a policy does, by action and mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Deny,
    Allow,
    Audit,
    WouldDeny,
    WouldAllow,
}

fn effect(policy: &AuthorizationPolicy) -> Effect {
    match (policy.action, policy.mode) {
        (Action::Deny, Mode::Enforce) => Effect::Deny,
        (Action::Allow, Mode::Enforce) => Effect::Allow,
        (Action::Audit, _) => Effect::Audit,
        (Action::Deny, Mode::Audit) => Effect::WouldDeny,
        (Action::Allow, Mode::Audit) => Effect::WouldAllow,
    }
}

/// What the policies of one effect say together.
struct Opinion<'a> {
    /// The first policy, by name.
    policy: Option<&'a AuthorizationPolicy>,
    /// The first with a fault.
    fault: Option<&'a AuthorizationPolicy>,
    /// The first rule that matches.
    matched: Option<RuleMatch<'a>>,
    depends_on_request: bool,
}

/// Decides by the policies that speak about a workload.
pub(super) fn evaluate<'a>(sets: &[&'a PolicySet], subject: &Subject<'_>) -> Result<Allowed<'a>, Denial> {
    let deny = opinion(sets, subject, Effect::Deny, Breadth::Broad);
    if let Some((policy, rule, reason)) = refusal(&deny) {
        return Err(denial(policy, rule, reason));
    }
    let allow = opinion(sets, subject, Effect::Allow, Breadth::Narrow);
    if let Some(policy) = allow.policy
        && allow.matched.is_none()
        && !allow.depends_on_request
    {
        return Err(match allow.fault {
            Some(policy) => denial(policy, None, DenialReason::PolicyFault),
            None => denial(policy, None, DenialReason::NoRuleAllows),
        });
    }
    Ok(Allowed {
        by: allow.matched,
        depends_on_request: deny.depends_on_request || allow.matched.is_none() && allow.depends_on_request,
        findings: findings(sets, subject, &allow),
    })
}

fn refusal<'a>(deny: &Opinion<'a>) -> Option<(&'a AuthorizationPolicy, Option<usize>, DenialReason)> {
    match (deny.fault, deny.matched) {
        (_, Some(RuleMatch { policy, rule })) => Some((policy, Some(rule), DenialReason::RuleDenies)),
        (Some(policy), None) => Some((policy, None, DenialReason::PolicyFault)),
        (None, None) => None,
    }
}

fn denial(policy: &AuthorizationPolicy, rule: Option<usize>, reason: DenialReason) -> Denial {
    let name = PolicyName { kind: PolicyKind::AuthorizationPolicy, name: policy.name.clone() };
    Denial { reason, policy: Some(name), rule }
}

fn opinion<'a>(sets: &[&'a PolicySet], subject: &Subject<'_>, of: Effect, breadth: Breadth) -> Opinion<'a> {
    let mut opinion = Opinion { policy: None, fault: None, matched: None, depends_on_request: false };
    for policy in sets.iter().flat_map(|set| set.policies()).filter(|policy| effect(policy) == of) {
        keep_first(&mut opinion.policy, policy);
        if policy.fault.is_some() {
            keep_first(&mut opinion.fault, policy);
            continue;
        }
        for (rule, answer) in policy.rules.iter().map(|rule| subject.matches(rule, breadth)).enumerate() {
            match answer {
                Answer::No => {}
                Answer::DependsOnRequest => opinion.depends_on_request = true,
                Answer::Yes => {
                    if opinion.matched.is_none_or(|first| policy.name < first.policy.name) {
                        opinion.matched = Some(RuleMatch { policy, rule });
                    }
                    break;
                }
            }
        }
    }
    opinion
}

/// Sets come each in the order of names, but not one after the other.
fn keep_first<'a>(first: &mut Option<&'a AuthorizationPolicy>, policy: &'a AuthorizationPolicy) {
    if first.is_none_or(|first| policy.name < first.name) {
        *first = Some(policy);
    }
}

fn findings<'a>(sets: &[&'a PolicySet], subject: &Subject<'_>, allow: &Opinion<'a>) -> AuditFindings<'a> {
    let mut findings = AuditFindings::new();
    for policy in sets.iter().flat_map(|set| set.policies()).filter(|policy| effect(policy) == Effect::Audit)
    {
        let matches = |rule| subject.matches(rule, Breadth::Broad) == Answer::Yes;
        if let Some(rule) = policy.rules.iter().position(matches) {
            findings.push(AuditFinding { policy, rule: Some(rule), verdict: AuditVerdict::Audited });
        }
    }
    let deny = opinion(sets, subject, Effect::WouldDeny, Breadth::Broad);
    if let Some((policy, rule, reason)) = refusal(&deny) {
        findings.push(AuditFinding { policy, rule, verdict: AuditVerdict::WouldDeny(reason) });
    }
    let would_allow = opinion(sets, subject, Effect::WouldAllow, Breadth::Narrow);
    let allowed = [allow, &would_allow].iter().any(|said| said.matched.is_some() || said.depends_on_request);
    if let Some(policy) = would_allow.policy
        && !allowed
    {
        let reason = DenialReason::NoRuleAllows;
        findings.push(AuditFinding { policy, rule: None, verdict: AuditVerdict::WouldDeny(reason) });
    }
    findings.sort_by(|left, right| left.policy.name.cmp(&right.policy.name));
    findings.dedup();
    findings
}
