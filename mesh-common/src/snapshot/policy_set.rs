//! AuthorizationPolicies that have the same scope, ready to be asked.

use std::sync::Arc;

use super::rule_index::RuleIndex;
use crate::model::AuthorizationPolicy;
use crate::model::policy::{Action, Mode, Rule};

/// The policies of one scope, by name, with their rules indexed.
#[derive(Clone, Debug)]
pub struct PolicySet {
    policies: Vec<Arc<AuthorizationPolicy>>,
    by_effect: [EffectRules; Effect::ALL.len()],
    speaks_of_requests: bool,
    /// Rules that are in force and ask for the name that a connection's TLS names.
    of_server_names: Vec<RuleId>,
}

/// What a policy does, by its action and mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Refuses whoever matches, unless an authorization server let it pass.
    Custom,
    /// Refuses whoever matches.
    Deny,
    /// Permits whoever matches, and makes the rest refused.
    Allow,
    /// Reports whoever matches.
    Audit,
    /// Reports whom it would refuse.
    WouldDeny,
    /// Reports whom it would not permit.
    WouldAllow,
}

/// The policies of one effect within a set.
#[derive(Clone, Debug, Default)]
pub struct EffectRules {
    /// The first policy.
    pub first: Option<u32>,
    /// The first policy with a fault.
    pub fault: Option<u32>,
    /// Rules that may match without a request.
    pub of_connections: RuleIndex,
    /// Rules that cannot, by what is known of a connection.
    pub of_requests_by_connection: RuleIndex,
    /// The same rules, by what is known of a request too.
    pub of_requests: RuleIndex,
}

/// A rule of a set: which of its policies, and which rule of that. Ordered as the policies are by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleId {
    /// Which policy of the set.
    pub policy: u32,
    /// Which of its rules.
    pub rule: u32,
}

impl Effect {
    /// Every effect.
    pub const ALL: [Self; 6] =
        [Self::Custom, Self::Deny, Self::Allow, Self::Audit, Self::WouldDeny, Self::WouldAllow];

    /// The effect of a policy.
    pub fn of(policy: &AuthorizationPolicy) -> Self {
        match (&policy.action, policy.mode) {
            // One that is only to be reported is not understood: see `control::translate`.
            (Action::Custom(_), _) => Self::Custom,
            (Action::Deny, Mode::Enforce) => Self::Deny,
            (Action::Allow, Mode::Enforce) => Self::Allow,
            (Action::Audit, _) => Self::Audit,
            (Action::Deny, Mode::Audit) => Self::WouldDeny,
            (Action::Allow, Mode::Audit) => Self::WouldAllow,
        }
    }
}

impl PolicySet {
    /// Makes a set of policies in the order of their names; `None` of nothing.
    pub(super) fn new(policies: Vec<Arc<AuthorizationPolicy>>) -> Option<Arc<Self>> {
        if policies.is_empty() {
            return None;
        }
        let by_effect = Effect::ALL.map(|effect| EffectRules::new(&policies, effect));
        let speaks_of_requests = by_effect.iter().any(|rules| !rules.of_requests.is_empty());
        let of_server_names = of_server_names(&policies);
        Some(Arc::new(Self { policies, by_effect, speaks_of_requests, of_server_names }))
    }

    /// The policies, by name.
    pub fn policies(&self) -> &[Arc<AuthorizationPolicy>] {
        &self.policies
    }

    /// One of the policies.
    pub fn policy(&self, index: u32) -> &AuthorizationPolicy {
        &self.policies[index as usize]
    }

    /// One rule of one of the policies.
    pub fn rule(&self, id: RuleId) -> &Rule {
        &self.policy(id.policy).rules[id.rule as usize]
    }

    /// Whether any rule can only match a request.
    pub fn speaks_of_requests(&self) -> bool {
        self.speaks_of_requests
    }

    /// Rules that are in force and ask for the name that a connection's TLS names.
    pub fn of_server_names(&self) -> &[RuleId] {
        &self.of_server_names
    }

    /// The policies of one effect.
    pub fn rules(&self, effect: Effect) -> &EffectRules {
        &self.by_effect[effect as usize]
    }
}

/// A policy that only reports holds nothing up, and so waits for no name.
fn of_server_names(policies: &[Arc<AuthorizationPolicy>]) -> Vec<RuleId> {
    let in_force = |policy: &AuthorizationPolicy| {
        policy.fault.is_none() && matches!(Effect::of(policy), Effect::Custom | Effect::Deny | Effect::Allow)
    };
    let mut found = Vec::new();
    for (policy_index, policy) in (0..).zip(policies).filter(|(_, policy)| in_force(policy)) {
        let rules = (0..).zip(&policy.rules).filter(|(_, rule)| rule.speaks_of_server_names());
        found.extend(rules.map(|(rule, _)| RuleId { policy: policy_index, rule }));
    }
    found
}

/// The index follows from the policies.
impl PartialEq for PolicySet {
    fn eq(&self, other: &Self) -> bool {
        self.policies == other.policies
    }
}

impl EffectRules {
    fn new(policies: &[Arc<AuthorizationPolicy>], effect: Effect) -> Self {
        let mut rules = Self::default();
        let (mut of_connections, mut of_requests) = (Vec::new(), Vec::new());
        for (policy_index, policy) in (0..).zip(policies).filter(|(_, policy)| Effect::of(policy) == effect) {
            rules.first.get_or_insert(policy_index);
            if policy.fault.is_some() {
                rules.fault.get_or_insert(policy_index);
                continue;
            }
            for (rule_index, rule) in (0..).zip(&policy.rules) {
                let list = if rule.always_needs_a_request() { &mut of_requests } else { &mut of_connections };
                list.push((RuleId { policy: policy_index, rule: rule_index }, rule));
            }
        }
        rules.of_connections = RuleIndex::by_connection(&of_connections);
        rules.of_requests_by_connection = RuleIndex::by_connection(&of_requests);
        rules.of_requests = RuleIndex::by_request(&of_requests);
        rules
    }
}
