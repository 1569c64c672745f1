//! Laws that hold for all policies and callers.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::evaluate::{Allowed, evaluate};
use super::law_words::*;
use super::matching::{Answer, Breadth, Layer7, Subject};
use super::{AuditFinding, AuditVerdict, Denial, DenialReason, ExternalDenial, RuleMatch};
use crate::model::policy::{
    Action, Condition, Match, Mode, Operation, Pattern, PolicyFault, Rule, Scope, Source,
};
use crate::model::samples::{at, ip, pattern};
use crate::model::{
    AuthorizationPolicy, Custom, EndUser, NamespacedName, RequestFacts, RequestTarget, ServerName, SpiffeId,
    Text,
};
use crate::snapshot::{Delta, Effect, PolicySet, Snapshot, Tables};
use crate::token::Claims;

fn texts(values: &'static [&'static str]) -> impl Strategy<Value = Match<Pattern>> {
    let some = || subsequence(values, 0..=2).prop_map(|texts| texts.into_iter().map(pattern).collect());
    // Most fields of most rules are empty.
    prop_oneof![
        3 => Just(Match::default()),
        1 => (some(), some()).prop_map(|(any_of, none_of)| Match { any_of, none_of }),
        1 => some().prop_map(|any_of| Match { any_of, none_of: vec![] }),
    ]
}

fn blocks() -> impl Strategy<Value = Match<ipnet::IpNet>> {
    let some = || {
        subsequence(&BLOCKS[..], 0..=2)
            .prop_map(|texts| texts.iter().map(|text| text.parse().unwrap()).collect())
    };
    prop_oneof![
        3 => Just(Match::default()),
        1 => (some(), some()).prop_map(|(any_of, none_of)| Match { any_of, none_of })
    ]
}

fn ports() -> impl Strategy<Value = Match<u16>> {
    let some = || subsequence(&[80u16, 8080][..], 0..=1);
    prop_oneof![
        3 => Just(Match::default()),
        1 => (some(), some()).prop_map(|(any_of, none_of)| Match { any_of, none_of })
    ]
}

fn source() -> impl Strategy<Value = Source> {
    (texts(&PRINCIPALS), texts(&NAMESPACES), texts(&ACCOUNTS), blocks(), texts(&USERS)).prop_map(
        |(principals, namespaces, service_accounts, ip_blocks, request_principals)| Source {
            request_principals,
            principals,
            namespaces,
            service_accounts,
            ip_blocks,
        },
    )
}

fn operation() -> impl Strategy<Value = Operation> {
    (texts(&HOSTS), ports(), texts(&METHODS), texts(&PATHS))
        .prop_map(|(hosts, ports, methods, paths)| Operation { hosts, ports, methods, paths })
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        texts(&ROLES).prop_map(|values| Condition::RequestHeader { name: "x-role".into(), values }),
        texts(&["7", "*"]).prop_map(|values| Condition::RequestHeader { name: "x-other".into(), values }),
        texts(&GROUPS).prop_map(|values| Condition::RequestClaim { path: vec!["groups".into()], values }),
        texts(&GROUPS).prop_map(|values| Condition::RequestClaim {
            path: vec!["realm".into(), "groups".into()],
            values
        }),
        texts(&USERS).prop_map(Condition::RequestPrincipal),
        blocks().prop_map(Condition::SourceIp),
        texts(&NAMESPACES).prop_map(Condition::SourceNamespace),
        texts(&PRINCIPALS).prop_map(Condition::SourcePrincipal),
        texts(&ACCOUNTS).prop_map(Condition::SourceServiceAccount),
        blocks().prop_map(Condition::DestinationIp),
        ports().prop_map(Condition::DestinationPort),
        texts(&["*", "a.example", "*.example", "a.*"]).prop_map(Condition::ConnectionServerName),
    ]
}

pub(super) fn rule() -> impl Strategy<Value = Rule> {
    (vec(source(), 0..3), vec(operation(), 0..3), vec(condition(), 0..2)).prop_map(|(from, to, when)| Rule {
        from,
        to,
        when,
    })
}

fn custom(provider: &str) -> Action {
    Action::Custom(Arc::new(Custom { provider: provider.into(), authorizer: None }))
}

fn policy() -> impl Strategy<Value = AuthorizationPolicy> {
    let action = prop_oneof![
        6 => select(&[Action::Allow, Action::Deny, Action::Audit][..]),
        1 => select(&["opa", "opa", "other"][..]).prop_map(custom),
    ];
    let mode = prop_oneof![4 => Just(Mode::Enforce), 1 => Just(Mode::Audit)];
    let fault = prop_oneof![9 => Just(false), 1 => Just(true)];
    let scope = select(&["mesh", "namespace"][..]);
    (action, mode, vec(rule(), 0..4), fault, scope).prop_map(|(action, mode, rules, fault, scope)| {
        AuthorizationPolicy {
            name: NamespacedName::new("shop", "set below"),
            scope: if scope == "mesh" { Scope::Mesh } else { Scope::Namespace("shop".into()) },
            action,
            mode,
            rules,
            fault: fault.then(|| Arc::new(PolicyFault { field: "spec".into(), reason: "no".into() })),
        }
    })
}

/// Policies `p0`, `p1`, ...
pub(super) fn policies() -> impl Strategy<Value = Vec<AuthorizationPolicy>> {
    vec(policy(), 0..6).prop_map(|mut policies| {
        for (index, policy) in policies.iter_mut().enumerate() {
            policy.name = NamespacedName::new("shop", format!("p{index}"));
        }
        policies
    })
}

/// Who asks for what.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    identity: Option<SpiffeId>,
    source: &'static str,
    port: u16,
    pub(super) server_name: ServerName,
    layer7: &'static str,
    target: &'static str,
    host: &'static str,
    method: &'static str,
    roles: Vec<&'static str>,
    allowed_by: Option<Text>,
    end_user: Option<EndUser>,
}

pub(super) fn caller() -> impl Strategy<Value = Caller> {
    let identity = option::of(select(&["td/ns/a/sa/x", "td/ns/a/sa/y", "td/ns/b/sa/x", "td/ns/c/sa/z"][..]));
    let layer7 = select(&["opaque", "pending", "request", "request"][..]);
    let request = (select(&TARGETS[..]), select(&AUTHORITIES[..]), select(&["GET", "POST", "get"][..]));
    let server_name = option::of(select(&["a.example", "b.example", "c"][..]))
        .prop_map(|name| name.map_or(ServerName::Absent, |name| ServerName::Name(name.into())));
    (
        identity,
        select(&SOURCES[..]),
        (select(&[80u16, 8080][..]), server_name),
        layer7,
        request,
        vec(select(&FIELDS[..]), 0..3),
        option::of(select(&["opa", "other"][..]).prop_map(Text::from)),
        option::of(select(&TOKENS[..])),
    )
        .prop_map(|(identity, source, reached, layer7, request, roles, allowed_by, token)| {
            let ((port, server_name), (target, host, method)) = (reached, request);
            Caller {
                identity: identity.map(|principal| format!("spiffe://{principal}").parse().unwrap()),
                source,
                port,
                server_name,
                layer7,
                target,
                host,
                method,
                roles,
                allowed_by,
                end_user: token.map(|token| EndUser {
                    claims: Arc::new(Claims::unsigned(&serde_json::from_str(token).unwrap())),
                    space_delimited: Arc::new(["groups".into()]),
                }),
            }
        })
}

impl Caller {
    pub(super) fn ask<R>(&self, ask: impl FnOnce(&Subject<'_>) -> R) -> R {
        let path = RequestTarget::parse(self.target.as_bytes()).unwrap().path;
        let headers: Vec<_> = self.roles.iter().map(|role| (b"X-Role".as_slice(), role.as_bytes())).collect();
        let request = RequestFacts {
            method: self.method.as_bytes(),
            host: self.host.as_bytes(),
            path: &path,
            query: None,
            headers: &headers,
            allowed_by: self.allowed_by.as_ref(),
            end_user: self.end_user.as_ref(),
        };
        let mut destination = at("10.0.0.9:0");
        destination.set_port(self.port);
        ask(&Subject {
            identity: self.identity.as_ref(),
            source: ip(self.source),
            destination,
            server_name: &self.server_name,
            layer7: match self.layer7 {
                "opaque" => Layer7::Opaque,
                "pending" => Layer7::Pending,
                _ => Layer7::Request(&request),
            },
        })
    }
}

pub(super) fn snapshot(policies: &[AuthorizationPolicy]) -> Snapshot {
    let mut tables = Tables::default();
    tables.apply(Delta::UpsertWorkload(Arc::new(crate::model::samples::pod("api", "b", "10.0.0.9"))));
    for policy in policies {
        tables.apply(Delta::UpsertAuthorizationPolicy(Arc::new(policy.clone())));
    }
    tables.snapshot()
}

pub(super) fn sets(snapshot: &Snapshot) -> crate::snapshot::PolicySets<'_> {
    let uid = crate::model::WorkloadUid("api".into());
    snapshot.policy_sets(&uid, at("10.0.0.9:80")).unwrap()
}

fn decide(policies: &[AuthorizationPolicy], caller: &Caller) -> Result<(), DenialReason> {
    let snapshot = snapshot(policies);
    let result = caller.ask(|subject| evaluate(&sets(&snapshot), subject).map(drop));
    result.map_err(|denial| denial.reason)
}

/// What `evaluate` says, found without any index: every rule of every policy is asked, in the order of names.
fn evaluate_one_by_one<'a>(
    sets: &[&'a PolicySet],
    subject: &Subject<'_>,
) -> Result<Allowed<'a>, (DenialReason, String, Option<usize>)> {
    let mut all: Vec<&AuthorizationPolicy> =
        sets.iter().flat_map(|set| set.policies()).map(|policy| &**policy).collect();
    all.sort_by_key(|policy| &policy.name);
    let of = |effect: Effect| all.iter().copied().filter(move |policy| Effect::of(policy) == effect);
    let answers = |policy: &'a AuthorizationPolicy, breadth: Breadth| {
        let rules = if policy.fault.is_some() { &[] } else { &policy.rules[..] };
        rules.iter().map(|rule| subject.matches(rule, breadth)).collect::<Vec<_>>()
    };
    let yes = |policy, breadth| answers(policy, breadth).iter().position(|answer| *answer == Answer::Yes);
    let depends = |effect, breadth| {
        of(effect).any(|policy| answers(policy, breadth).contains(&Answer::DependsOnRequest))
    };
    let first = |effect, breadth| of(effect).find_map(|policy| Some((policy, yes(policy, breadth)?)));
    let fault = |effect| of(effect).find(|policy| policy.fault.is_some());
    let refused = |effect| match (first(effect, Breadth::Broad), fault(effect)) {
        (Some((policy, rule)), _) => Some((policy, Some(rule), DenialReason::RuleDenies)),
        (None, Some(policy)) => Some((policy, None, DenialReason::PolicyFault)),
        (None, None) => None,
    };
    let names: BTreeSet<&Text> = of(Effect::Custom).filter_map(provider_of).collect();
    let custom_depends = asked_one_by_one(
        (fault(Effect::Custom), first(Effect::Custom, Breadth::Broad)),
        depends(Effect::Custom, Breadth::Broad),
        &names,
        subject.layer7,
    )?;
    if let Some((policy, rule, reason)) = refused(Effect::Deny) {
        return Err((reason, policy.name.to_string(), rule));
    }
    let by = first(Effect::Allow, Breadth::Narrow);
    let allow_depends = depends(Effect::Allow, Breadth::Narrow);
    if let Some(allow) = of(Effect::Allow).next()
        && by.is_none()
        && !allow_depends
    {
        let (policy, reason) = match fault(Effect::Allow) {
            Some(policy) => (policy, DenialReason::PolicyFault),
            None => (allow, DenialReason::NoRuleAllows),
        };
        return Err((reason, policy.name.to_string(), None));
    }
    let mut findings: Vec<_> = of(Effect::Audit)
        .filter_map(|policy| {
            Some(AuditFinding {
                policy,
                rule: Some(yes(policy, Breadth::Broad)?),
                verdict: AuditVerdict::Audited,
            })
        })
        .collect();
    findings.extend(refused(Effect::WouldDeny).map(|(policy, rule, reason)| AuditFinding {
        policy,
        rule,
        verdict: AuditVerdict::WouldDeny(reason),
    }));
    let would_allow =
        first(Effect::WouldAllow, Breadth::Narrow).is_some() || depends(Effect::WouldAllow, Breadth::Narrow);
    if let Some(policy) = of(Effect::WouldAllow).next()
        && !would_allow
        && by.is_none()
        && !allow_depends
    {
        findings.push(AuditFinding {
            policy,
            rule: None,
            verdict: AuditVerdict::WouldDeny(DenialReason::NoRuleAllows),
        });
    }
    findings.sort_by_key(|finding| (&finding.policy.name, finding.rule));
    Ok(Allowed {
        by: by.map(|(policy, rule)| RuleMatch { policy, rule }),
        depends_on_request: custom_depends
            || depends(Effect::Deny, Breadth::Broad)
            || by.is_none() && allow_depends,
        findings: findings.into(),
    })
}

/// Whether it depends on requests that what CUSTOM policies match passes.
fn asked_one_by_one(
    (fault, matched): (Option<&AuthorizationPolicy>, Option<(&AuthorizationPolicy, usize)>),
    depends: bool,
    names: &BTreeSet<&Text>,
    layer7: Layer7<'_>,
) -> Result<bool, (DenialReason, String, Option<usize>)> {
    if let Some(policy) = fault {
        return Err((DenialReason::PolicyFault, policy.name.to_string(), None));
    }
    let Some((policy, rule)) = matched else { return Ok(depends) };
    let refuse = |reason| Err((DenialReason::External(reason), policy.name.to_string(), Some(rule)));
    match layer7 {
        Layer7::Pending => Ok(true),
        _ if names.len() > 1 => refuse(ExternalDenial::SeveralProviders),
        Layer7::Opaque => refuse(ExternalDenial::NotHttp),
        Layer7::Request(request) if request.allowed_by == names.first().copied() => Ok(false),
        Layer7::Request(_) => refuse(ExternalDenial::NotAsked),
    }
}

fn provider_of(policy: &AuthorizationPolicy) -> Option<&Text> {
    match &policy.action {
        Action::Custom(custom) => Some(&custom.provider),
        _ => None,
    }
}

fn named(denial: Denial) -> (DenialReason, String, Option<usize>) {
    (denial.reason, denial.policy.map(|policy| policy.name.to_string()).unwrap_or_default(), denial.rule)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn the_index_leaves_out_only_what_cannot_match(policies in policies(), caller in caller()) {
        let snapshot = snapshot(&policies);
        let sets = sets(&snapshot);
        caller.ask(|subject| {
            prop_assert_eq!(evaluate(&sets, subject).map_err(named), evaluate_one_by_one(&sets, subject));
            Ok(())
        })?;
    }

    #[test]
    fn deny_wins(policies in policies(), caller in caller(), rule in rule()) {
        let deny = AuthorizationPolicy {
            name: NamespacedName::new("shop", "deny"),
            scope: Scope::Mesh,
            action: Action::Deny,
            mode: Mode::Enforce,
            rules: vec![rule.clone()],
            fault: None,
        };
        if caller.ask(|subject| subject.matches(&rule, Breadth::Broad)) == Answer::Yes {
            let with_deny = [policies, vec![deny]].concat();
            prop_assert!(decide(&with_deny, &caller).is_err());
        }
    }

    #[test]
    fn custom_speaks_before_deny_and_allow(policies in policies(), caller in caller(), rule in rule()) {
        let custom = AuthorizationPolicy {
            name: NamespacedName::new("shop", "custom"),
            scope: Scope::Mesh,
            action: custom("opa"),
            mode: Mode::Enforce,
            rules: vec![rule.clone()],
            fault: None,
        };
        let matches = caller.ask(|subject| subject.matches(&rule, Breadth::Broad)) == Answer::Yes;
        let is_first = |policies: &[AuthorizationPolicy]| !policies.iter().any(|policy| provider_of(policy).is_some());
        let with_custom = [policies.clone(), vec![custom]].concat();
        if matches && is_first(&policies) && caller.layer7 != "pending" {
            let passes = caller.layer7 == "request" && caller.allowed_by.as_deref() == Some("opa");
            let reason = match caller.layer7 {
                "opaque" => ExternalDenial::NotHttp,
                _ => ExternalDenial::NotAsked,
            };
            // Whatever DENY and ALLOW would say, CUSTOM has spoken before; what it lets pass is up to them.
            let expected = if passes { decide(&policies, &caller) } else { Err(DenialReason::External(reason)) };
            prop_assert_eq!(decide(&with_custom, &caller), expected);
        }
        prop_assert!(decide(&policies, &caller).is_ok() || decide(&with_custom, &caller).is_err());
    }

    #[test]
    fn the_order_of_policies_and_rules_does_not_matter(policies in policies(), caller in caller(), seed in any::<u64>()) {
        let mut shuffled = policies.clone();
        for (index, policy) in shuffled.iter_mut().enumerate() {
            let length = policy.rules.len();
            policy.rules.rotate_left(if length == 0 { 0 } else { seed as usize % length });
            policy.name = NamespacedName::new("shop", format!("p{}", (index as u64 ^ seed) % 1_000_000));
        }
        prop_assert_eq!(decide(&policies, &caller).is_ok(), decide(&shuffled, &caller).is_ok());
    }

    #[test]
    fn one_more_deny_never_permits_more(policies in policies(), caller in caller(), mut deny in policy()) {
        deny.action = Action::Deny;
        let with_deny = [policies.clone(), vec![deny]].concat();
        prop_assert!(decide(&policies, &caller).is_ok() || decide(&with_deny, &caller).is_err());
    }

    #[test]
    fn audit_changes_nothing(policies in policies(), caller in caller(), mut audit in policy()) {
        audit.mode = Mode::Audit;
        if provider_of(&audit).is_some() {
            audit.action = Action::Deny;
        }
        let with_audit = [policies.clone(), vec![audit]].concat();
        prop_assert_eq!(decide(&policies, &caller), decide(&with_audit, &caller));
    }

    #[test]
    fn where_a_request_needs_a_decision_bytes_are_refused(policies in policies(), caller in caller()) {
        let snapshot = snapshot(&policies);
        let as_bytes = Caller { layer7: "opaque", ..caller.clone() };
        let passes = as_bytes.ask(|subject| evaluate(&sets(&snapshot), subject).is_ok());
        let pending = Caller { layer7: "pending", ..caller };
        let found = pending.ask(|subject| evaluate(&sets(&snapshot), subject).map(|allowed| allowed.depends_on_request));
        prop_assert!(!passes || found.is_ok_and(|depends| !depends));
    }

    #[test]
    fn a_fault_never_permits_more(policies in policies(), caller in caller(), at in any::<usize>()) {
        let mut faulty = policies.clone();
        if let Some(policy) = faulty.get_mut(at % policies.len().max(1)) {
            policy.fault = Some(Arc::new(PolicyFault { field: "spec".into(), reason: "no".into() }));
        }
        prop_assert!(decide(&policies, &caller).is_ok() || decide(&faulty, &caller).is_err());
    }

    #[test]
    fn of_a_list_and_its_negation_one_matches_where_there_is_one_reading(
        principals in subsequence(&PRINCIPALS[..], 1..=3),
        caller in caller(),
    ) {
        let patterns: Vec<_> = principals.into_iter().map(pattern).collect();
        let source = |principals| Rule { from: vec![Source { principals, ..Source::default() }], ..Rule::default() };
        let is = source(Match { any_of: patterns.clone(), none_of: vec![] });
        let is_not = source(Match { any_of: vec![], none_of: patterns });
        caller.ask(|subject| {
            let (is, is_not) = (subject.matches(&is, Breadth::Narrow), subject.matches(&is_not, Breadth::Narrow));
            prop_assert_ne!(is, is_not);
            Ok(())
        })?;
    }

    #[test]
    fn what_permits_a_path_is_never_wider_than_what_refuses_it(
        paths in subsequence(&PATHS[..], 1..=3),
        caller in caller(),
    ) {
        let patterns: Vec<_> = paths.into_iter().map(pattern).collect();
        let operation = |paths| Rule { to: vec![Operation { paths, ..Operation::default() }], ..Rule::default() };
        let is = operation(Match { any_of: patterns.clone(), none_of: vec![] });
        let is_not = operation(Match { any_of: vec![], none_of: patterns });
        caller.ask(|subject| {
            for rule in [&is, &is_not] {
                prop_assert!(subject.matches(rule, Breadth::Narrow) <= subject.matches(rule, Breadth::Broad));
            }
            if matches!(subject.layer7, Layer7::Request(_)) {
                // DENY paths or ALLOW notPaths: one of the two always speaks.
                prop_assert_ne!(subject.matches(&is, Breadth::Broad), subject.matches(&is_not, Breadth::Narrow));
            }
            Ok(())
        })?;
    }
}
