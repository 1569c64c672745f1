//! The order of AuthorizationPolicies: CUSTOM, DENY, then ALLOW; an ALLOW makes the rest denied.

use smallvec::SmallVec;

use super::denial::{Denial, DenialReason, ExternalDenial, PolicyKind, PolicyName};
use super::matching::{Answer, Breadth, Layer7, Subject};
use crate::model::policy::Action;
use crate::model::{AuthorizationPolicy, ServerName, Text};
use crate::snapshot::{Effect, EffectRules, PolicySet, Query, RuleId};

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

/// What is asked of whom.
struct Question<'q, 'a> {
    sets: &'q [&'a PolicySet],
    subject: &'q Subject<'q>,
    query: &'q Query<'q>,
}

/// Decides by the policies that speak about a workload.
pub(super) fn evaluate<'a>(sets: &[&'a PolicySet], subject: &Subject<'_>) -> Result<Allowed<'a>, Denial> {
    let about_request = sets.iter().any(|set| set.speaks_of_requests());
    subject.query(about_request, |query| Question { sets, subject, query }.answer())
}

/// Whether the decision waits for the name that the connection's TLS names: some rule that is in force may match, if
/// only the name does.
pub(super) fn depends_on_server_name(sets: &[&PolicySet], subject: &Subject<'_>) -> bool {
    let any_name = &Subject { server_name: &ServerName::Unknown, ..*subject };
    let may_match =
        |set: &PolicySet, id: &RuleId| any_name.matches(set.rule(*id), Breadth::Broad) != Answer::No;
    sets.iter().any(|set| set.of_server_names().iter().any(|id| may_match(set, id)))
}

impl<'a> Question<'_, 'a> {
    fn answer(&self) -> Result<Allowed<'a>, Denial> {
        let custom_depends_on_request = self.asked()?;
        let deny = self.opinion(Effect::Deny, Breadth::Broad);
        if let Some((policy, rule, reason)) = refusal(&deny) {
            return Err(denial(policy, rule, reason));
        }
        let allow = self.opinion(Effect::Allow, Breadth::Narrow);
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
            depends_on_request: custom_depends_on_request
                || deny.depends_on_request
                || allow.matched.is_none() && allow.depends_on_request,
            findings: self.findings(&allow),
        })
    }

    /// Whether it depends on requests that external authorization lets pass what CUSTOM policies match.
    fn asked(&self) -> Result<bool, Denial> {
        let custom = self.opinion(Effect::Custom, Breadth::Broad);
        if let Some(policy) = custom.fault {
            return Err(denial(policy, None, DenialReason::PolicyFault));
        }
        let Some(RuleMatch { policy, rule }) = custom.matched else { return Ok(custom.depends_on_request) };
        let provider = self.provider();
        let reason = match self.subject.layer7 {
            Layer7::Pending => return Ok(true),
            Layer7::Request(request) if provider.is_some() && request.allowed_by == provider => {
                return Ok(false);
            }
            _ if provider.is_none() => ExternalDenial::SeveralProviders,
            Layer7::Request(_) => ExternalDenial::NotAsked,
            Layer7::Opaque => ExternalDenial::NotHttp,
        };
        Err(denial(policy, Some(rule), DenialReason::External(reason)))
    }

    /// The one authorization server that the CUSTOM policies name; `None` if they name several.
    fn provider(&self) -> Option<&'a Text> {
        let policies = self.sets.iter().flat_map(|set| set.policies());
        let mut names = policies.filter_map(|policy| match &policy.action {
            Action::Custom(custom) => Some(&custom.provider),
            Action::Allow | Action::Deny | Action::Audit => None,
        });
        let first = names.next()?;
        names.all(|name| name == first).then_some(first)
    }

    fn opinion(&self, of: Effect, breadth: Breadth) -> Opinion<'a> {
        let mut opinion = Opinion { policy: None, fault: None, matched: None, depends_on_request: false };
        for set in self.sets {
            let rules = set.rules(of);
            let Some(first) = rules.first else { continue };
            keep_first(&mut opinion.policy, set.policy(first));
            if let Some(fault) = rules.fault {
                keep_first(&mut opinion.fault, set.policy(fault));
            }
            let found = self.first_match(set, rules, breadth, &mut opinion.depends_on_request);
            if let Some(RuleId { policy, rule }) = found {
                let (policy, rule) = (set.policy(policy), rule as usize);
                if opinion.matched.is_none_or(|first| policy.name < first.policy.name) {
                    opinion.matched = Some(RuleMatch { policy, rule });
                }
            }
        }
        opinion
    }

    fn first_match(
        &self,
        set: &PolicySet,
        rules: &EffectRules,
        breadth: Breadth,
        depends_on_request: &mut bool,
    ) -> Option<RuleId> {
        let mut found: Option<RuleId> = None;
        self.candidates(rules, breadth, |ids| {
            for id in ids {
                if found.is_some_and(|found| found <= *id) {
                    break;
                }
                match self.subject.matches(set.rule(*id), breadth) {
                    Answer::No => {}
                    Answer::DependsOnRequest => *depends_on_request = true,
                    Answer::Yes => found = Some(*id),
                }
            }
        });
        *depends_on_request |= self.some_request_may_match(set, rules, breadth);
        found
    }

    /// Whether requests will come, and a rule about requests may match one of them.
    fn some_request_may_match(&self, set: &PolicySet, rules: &EffectRules, breadth: Breadth) -> bool {
        let mut may = false;
        if matches!(self.subject.layer7, Layer7::Pending) {
            let matches = |id: &RuleId| self.subject.matches(set.rule(*id), breadth) != Answer::No;
            rules
                .of_requests_by_connection
                .candidates(self.query, |ids| may = may || ids.iter().any(matches));
        }
        may
    }

    /// The rules of one effect that may match now, as far as what is known of the connection or request tells.
    fn candidates(&self, rules: &EffectRules, breadth: Breadth, mut visit: impl FnMut(&[RuleId])) {
        rules.of_connections.candidates(self.query, &mut visit);
        match self.subject.layer7 {
            Layer7::Request(_) => rules.of_requests.candidates(self.query, visit),
            Layer7::Opaque if breadth == Breadth::Broad => {
                rules.of_requests_by_connection.candidates(self.query, visit);
            }
            Layer7::Opaque | Layer7::Pending => {}
        }
    }

    /// What policies found that refuse nothing. No connection waits for them: a name that is not known is none.
    fn findings(&self, allow: &Opinion<'a>) -> AuditFindings<'a> {
        match self.subject.server_name {
            ServerName::Unknown => {
                let subject = &Subject { server_name: &ServerName::Absent, ..*self.subject };
                Question { subject, ..*self }.findings_by_now(allow)
            }
            ServerName::Absent | ServerName::Name(_) => self.findings_by_now(allow),
        }
    }

    fn findings_by_now(&self, allow: &Opinion<'a>) -> AuditFindings<'a> {
        let mut findings = AuditFindings::new();
        for set in self.sets {
            self.audited(set, &mut findings);
        }
        if let Some((policy, rule, reason)) = refusal(&self.opinion(Effect::WouldDeny, Breadth::Broad)) {
            findings.push(AuditFinding { policy, rule, verdict: AuditVerdict::WouldDeny(reason) });
        }
        let would_allow = self.opinion(Effect::WouldAllow, Breadth::Narrow);
        let allowed =
            [allow, &would_allow].iter().any(|said| said.matched.is_some() || said.depends_on_request);
        if let Some(policy) = would_allow.policy
            && !allowed
        {
            let reason = DenialReason::NoRuleAllows;
            findings.push(AuditFinding { policy, rule: None, verdict: AuditVerdict::WouldDeny(reason) });
        }
        if findings.len() > 1 {
            findings.sort_by_key(|finding| (&finding.policy.name, finding.rule));
            findings.dedup();
        }
        findings
    }

    /// Adds the first rule that matches of every AUDIT policy.
    fn audited(&self, set: &'a PolicySet, findings: &mut AuditFindings<'a>) {
        let rules = set.rules(Effect::Audit);
        if rules.first.is_none() {
            return;
        }
        let mut matched: SmallVec<[RuleId; 8]> = SmallVec::new();
        self.candidates(rules, Breadth::Broad, |ids| {
            let matches = |id: &RuleId| self.subject.matches(set.rule(*id), Breadth::Broad) == Answer::Yes;
            matched.extend(ids.iter().copied().filter(matches));
        });
        matched.sort_unstable();
        matched.dedup_by_key(|id| id.policy);
        findings.extend(matched.into_iter().map(|id| AuditFinding {
            policy: set.policy(id.policy),
            rule: Some(id.rule as usize),
            verdict: AuditVerdict::Audited,
        }));
    }
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

/// Sets come each in the order of names, but not one after the other.
fn keep_first<'a>(first: &mut Option<&'a AuthorizationPolicy>, policy: &'a AuthorizationPolicy) {
    if first.is_none_or(|first| policy.name < first.name) {
        *first = Some(policy);
    }
}
