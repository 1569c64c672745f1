//! What a caller hears, policy by policy.

mod external;
mod peers;
mod requests;
mod server_names;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::model::policy::{Action, Condition, Match, Mode, Operation, PolicyFault, Rule, Scope, Source};
use crate::model::samples::{from_principals, inbound, matching, pod, policy, service};
use crate::model::{
    AuthorizationPolicy, NamespacedName, PeerAuthentication, PeerIdentity, RequestTarget, WorkloadUid,
};
use crate::snapshot::{Delta, Tables};

const WEB: &str = "cluster.local/ns/shop/sa/web";

/// Pods `web` and `api`; Service `api` with port 80 to 8080 of this protocol.
fn tables(protocol: Protocol) -> Tables {
    let mut tables = Tables::default();
    tables.apply(Delta::UpsertWorkload(Arc::new(pod("web", "a", "10.0.0.1"))));
    tables.apply(Delta::UpsertWorkload(Arc::new(pod("api", "b", "10.0.1.1"))));
    let mut api = service("api", "10.96.0.10");
    api.ports[0].protocol = protocol;
    tables.apply(Delta::UpsertService(Arc::new(api)));
    tables
}

fn snapshot(protocol: Protocol, policies: Vec<AuthorizationPolicy>) -> Snapshot {
    let mut tables = tables(protocol);
    for policy in policies {
        tables.apply(Delta::UpsertAuthorizationPolicy(Arc::new(policy)));
    }
    tables.snapshot()
}

/// A connection of `web` to a port of `api`.
fn facts(port: u16) -> ConnectionFacts {
    inbound(&Arc::new(pod("api", "b", "10.0.1.1")), port, &pod("web", "a", "10.0.0.1"))
}

fn without_identity(port: u16) -> ConnectionFacts {
    ConnectionFacts { peer: PeerIdentity::None, ..facts(port) }
}

fn connect(snapshot: &Snapshot, facts: &ConnectionFacts) -> Result<Requests, DenialReason> {
    let destination = resolve::destination(snapshot, facts);
    let permit = authorize_connection(snapshot, facts, &destination);
    permit.map(|permit| permit.requests()).map_err(|denial| denial.reason)
}

/// What `web` hears when it connects to port 8080 of `api`.
fn check(protocol: Protocol, policies: Vec<AuthorizationPolicy>, expected: Result<Requests, DenialReason>) {
    assert_eq!(connect(&snapshot(protocol, policies), &facts(8080)), expected);
}

/// What `web` hears when it asks for `GET target` at port 8080 of `api`.
fn request(
    policies: Vec<AuthorizationPolicy>,
    target: &str,
    headers: &[(&str, &str)],
) -> Result<(), DenialReason> {
    let snapshot = snapshot(Protocol::Http1, policies);
    let facts = facts(8080);
    let destination = resolve::destination(&snapshot, &facts);
    let path = RequestTarget::parse(target.as_bytes()).unwrap().path;
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    let request = RequestFacts {
        method: b"GET",
        host: b"api:80",
        path: &path,
        query: None,
        headers: &headers,
        end_user: None,
        allowed_by: None,
    };
    let permit = authorize_request(&snapshot, &facts, &destination, &request);
    permit.map(drop).map_err(|denial| denial.reason)
}

fn to(operation: Operation) -> Rule {
    Rule { to: vec![operation], ..Rule::default() }
}

fn paths(texts: &[&str]) -> Rule {
    to(Operation { paths: matching(texts), ..Operation::default() })
}

fn ports(ports: &[u16]) -> Rule {
    to(Operation { ports: Match { any_of: ports.to_vec(), none_of: vec![] }, ..Operation::default() })
}

fn fault() -> Option<Arc<PolicyFault>> {
    Some(Arc::new(PolicyFault { field: "spec.rules[0]".into(), reason: "is not understood".into() }))
}

#[test]
fn without_a_policy_everything_is_permitted() {
    check(Protocol::Tcp, vec![], Ok(Requests::AreCovered));
    check(Protocol::Http1, vec![], Ok(Requests::AreCovered));
}

#[test]
fn an_allow_makes_the_rest_denied_and_names_itself() {
    let allow = policy(
        "only-admin",
        Action::Allow,
        "api",
        vec![from_principals(&["cluster.local/ns/shop/sa/admin"])],
    );
    let snapshot = snapshot(Protocol::Tcp, vec![allow]);
    let facts = facts(8080);
    let destination = resolve::destination(&snapshot, &facts);
    let denial = authorize_connection(&snapshot, &facts, &destination).unwrap_err();
    assert_eq!(denial.to_string(), "no rule allows it (AuthorizationPolicy shop/only-admin)");
}

#[test]
fn deny_wins_over_allow_and_names_its_rule() {
    let allow = policy("allow", Action::Allow, "api", vec![from_principals(&[WEB])]);
    let deny =
        policy("deny", Action::Deny, "", vec![ports(&[9]), from_principals(&["cluster.local/ns/shop/*"])]);
    check(Protocol::Tcp, vec![allow.clone()], Ok(Requests::AreCovered));
    let snapshot = snapshot(Protocol::Tcp, vec![allow, deny]);
    let facts = facts(8080);
    let destination = resolve::destination(&snapshot, &facts);
    let denial = authorize_connection(&snapshot, &facts, &destination).unwrap_err();
    assert_eq!(denial.to_string(), "a rule denies it (AuthorizationPolicy shop/deny, rules[1])");
}

#[test]
fn an_allow_without_rules_permits_nothing() {
    check(
        Protocol::Tcp,
        vec![policy("allow-nothing", Action::Allow, "", vec![])],
        Err(DenialReason::NoRuleAllows),
    );
}

#[test]
fn a_deny_without_rules_denies_nothing() {
    check(Protocol::Tcp, vec![policy("deny", Action::Deny, "", vec![])], Ok(Requests::AreCovered));
}

#[test]
fn a_policy_of_another_namespace_or_label_says_nothing() {
    let nothing = || policy("allow-nothing", Action::Allow, "other", vec![]);
    let elsewhere = AuthorizationPolicy { scope: Scope::Namespace("bank".into()), ..nothing() };
    check(Protocol::Tcp, vec![nothing()], Ok(Requests::AreCovered));
    check(Protocol::Tcp, vec![elsewhere], Ok(Requests::AreCovered));
}

#[test]
fn a_root_policy_holds_everywhere() {
    let name = NamespacedName::new("nodemesh-system", "deny-all");
    let everyone = || AuthorizationPolicy {
        name: name.clone(),
        ..policy("deny-all", Action::Deny, "", vec![Rule::default()])
    };
    let labels = BTreeMap::from([("app".into(), "api".into())]);
    let mesh = AuthorizationPolicy { scope: Scope::Mesh, ..everyone() };
    let selected = AuthorizationPolicy { scope: Scope::Selector { namespace: None, labels }, ..everyone() };
    check(Protocol::Tcp, vec![mesh], Err(DenialReason::RuleDenies));
    check(Protocol::Tcp, vec![selected], Err(DenialReason::RuleDenies));
}

#[test]
fn a_policy_on_a_service_holds_for_its_endpoints_however_dialled_and_for_no_other_port() {
    let scope = Scope::Services(vec![NamespacedName::new("shop", "api")]);
    let deny = AuthorizationPolicy { scope, ..policy("deny", Action::Deny, "", vec![Rule::default()]) };
    let snapshot = snapshot(Protocol::Tcp, vec![deny]);
    assert_eq!(connect(&snapshot, &facts(8080)), Err(DenialReason::RuleDenies));
    assert_eq!(connect(&snapshot, &facts(9090)), Ok(Requests::AreCovered));
    let claims_another =
        ConnectionFacts { claimed_dst: Some("10.99.0.1:80".parse().unwrap()), ..facts(8080) };
    assert_eq!(connect(&snapshot, &claims_another), Err(DenialReason::RuleDenies));
}

#[test]
fn a_fault_denies_what_the_policy_might_have_denied() {
    let faulty = |action| AuthorizationPolicy {
        fault: fault(),
        ..policy("faulty", action, "api", vec![from_principals(&[WEB])])
    };
    check(Protocol::Tcp, vec![faulty(Action::Deny)], Err(DenialReason::PolicyFault));
    check(Protocol::Tcp, vec![faulty(Action::Allow)], Err(DenialReason::PolicyFault));
    check(Protocol::Tcp, vec![faulty(Action::Audit)], Ok(Requests::AreCovered));
    let allow = policy("allow", Action::Allow, "api", vec![from_principals(&[WEB])]);
    check(Protocol::Tcp, vec![faulty(Action::Allow), allow], Ok(Requests::AreCovered));
    let elsewhere = AuthorizationPolicy { fault: fault(), ..policy("faulty", Action::Deny, "other", vec![]) };
    check(Protocol::Tcp, vec![elsewhere], Ok(Requests::AreCovered));
}

#[test]
fn every_part_of_a_rule_must_match() {
    let whole = |path, port, role| Rule {
        from: vec![Source {
            namespaces: matching(&["shop"]),
            ip_blocks: Match { any_of: vec!["10.0.0.0/24".parse().unwrap()], none_of: vec![] },
            ..Source::default()
        }],
        to: vec![Operation {
            methods: matching(&["GET"]),
            ..Operation { paths: matching(&[path]), ..ports(&[port]).to.remove(0) }
        }],
        when: vec![Condition::RequestHeader { name: "x-role".into(), values: matching(&[role]) }],
    };
    let headers = [("x-role", "admin")];
    for (rule, expected) in [
        (whole("/a", 8080, "admin"), Ok(())),
        (whole("/b", 8080, "admin"), Err(DenialReason::NoRuleAllows)),
        (whole("/a", 80, "admin"), Err(DenialReason::NoRuleAllows)),
        (whole("/a", 8080, "user"), Err(DenialReason::NoRuleAllows)),
    ] {
        assert_eq!(
            request(vec![policy("allow", Action::Allow, "api", vec![rule])], "/a", &headers),
            expected
        );
    }
}

#[test]
fn audit_reports_and_lets_through() {
    let deny = AuthorizationPolicy {
        mode: Mode::Audit,
        ..policy("a-deny", Action::Deny, "api", vec![from_principals(&[WEB])])
    };
    let allow = AuthorizationPolicy { mode: Mode::Audit, ..policy("b-allow", Action::Allow, "api", vec![]) };
    let audit = policy("c-audit", Action::Audit, "api", vec![Rule::default()]);
    let snapshot = snapshot(Protocol::Tcp, vec![deny, allow, audit]);
    let facts = facts(8080);
    let destination = resolve::destination(&snapshot, &facts);
    let permit = authorize_connection(&snapshot, &facts, &destination).unwrap();
    let findings: Vec<_> =
        permit.findings().iter().map(|found| (&*found.policy.name.name, found.rule, found.verdict)).collect();
    assert_eq!(
        findings,
        [
            ("a-deny", Some(0), AuditVerdict::WouldDeny(DenialReason::RuleDenies)),
            ("b-allow", None, AuditVerdict::WouldDeny(DenialReason::NoRuleAllows)),
            ("c-audit", Some(0), AuditVerdict::Audited),
        ]
    );
}

#[test]
fn without_an_identity_no_principal_matches_and_every_negation_does() {
    let plain = without_identity(8080);
    let any = policy("allow", Action::Allow, "api", vec![from_principals(&["*"])]);
    assert_eq!(connect(&snapshot(Protocol::Tcp, vec![any]), &plain), Err(DenialReason::NoRuleAllows));
    let not =
        policy("deny", Action::Deny, "api", vec![from_principals(&["!cluster.local/ns/shop/sa/admin"])]);
    assert_eq!(connect(&snapshot(Protocol::Tcp, vec![not]), &plain), Err(DenialReason::RuleDenies));
}

#[test]
fn an_established_connection_is_closed_when_it_is_permitted_no_more() {
    let mut tables = tables(Protocol::Tcp);
    assert_eq!(recheck(&tables.snapshot(), &facts(8080), CarriedAs::Bytes), Ok(()));
    tables.apply(Delta::UpsertAuthorizationPolicy(Arc::new(policy("nothing", Action::Allow, "", vec![]))));
    assert_eq!(
        recheck(&tables.snapshot(), &facts(8080), CarriedAs::Bytes).unwrap_err().reason,
        DenialReason::NoRuleAllows
    );
}

#[test]
fn a_connection_does_not_outlive_its_local_pod() {
    let mut tables = tables(Protocol::Tcp);
    let out = crate::model::samples::outbound(&Arc::new(pod("web", "a", "10.0.0.1")), "10.96.0.10:80");
    tables.apply(Delta::RemoveService(NamespacedName::new("shop", "api")));
    assert_eq!(recheck(&tables.snapshot(), &out, CarriedAs::Bytes), Ok(()));
    tables.apply(Delta::RemoveWorkload(WorkloadUid("web".into())));
    tables.apply(Delta::RemoveWorkload(WorkloadUid("api".into())));
    let gone = DenialReason::UnknownDestination(resolve::UnknownTarget::LocalGone);
    assert_eq!(recheck(&tables.snapshot(), &out, CarriedAs::Bytes).unwrap_err().reason, gone);
    assert_eq!(recheck(&tables.snapshot(), &facts(8080), CarriedAs::Bytes).unwrap_err().reason, gone);
}

#[test]
fn a_reused_address_carries_neither_policy_nor_service_of_the_old_pod() {
    let scope = Scope::Services(vec![NamespacedName::new("shop", "api")]);
    let on_service =
        AuthorizationPolicy { scope, ..policy("service", Action::Deny, "", vec![Rule::default()]) };
    let mut tables = tables(Protocol::Tcp);
    tables.apply(Delta::UpsertAuthorizationPolicy(Arc::new(on_service)));
    tables.apply(Delta::UpsertAuthorizationPolicy(Arc::new(policy(
        "label",
        Action::Deny,
        "api",
        vec![Rule::default()],
    ))));
    // The new pod comes before the old one is gone.
    let new = Arc::new(pod("new", "b", "10.0.1.1"));
    tables.apply(Delta::UpsertWorkload(Arc::clone(&new)));
    let to_new = inbound(&new, 8080, &pod("web", "a", "10.0.0.1"));
    assert_eq!(connect(&tables.snapshot(), &to_new), Ok(Requests::AreCovered));
    assert_eq!(connect(&tables.snapshot(), &facts(8080)), Err(DenialReason::RuleDenies));
    tables.apply(Delta::RemoveWorkload(WorkloadUid("api".into())));
    assert_eq!(connect(&tables.snapshot(), &to_new), Ok(Requests::AreCovered));
}

#[test]
fn every_reason_has_a_code_and_words_of_its_own() {
    let codes: std::collections::BTreeSet<_> =
        DenialReason::ALL.into_iter().map(DenialReason::code).collect();
    let words: std::collections::BTreeSet<_> =
        DenialReason::ALL.into_iter().map(|reason| reason.to_string()).collect();
    assert_eq!((codes.len(), words.len()), (DenialReason::ALL.len(), DenialReason::ALL.len()));
    let all = ExternalDenial::ALL;
    let codes: std::collections::BTreeSet<_> = all.into_iter().map(ExternalDenial::code).collect();
    let words: std::collections::BTreeSet<_> = all.into_iter().map(ExternalDenial::as_str).collect();
    assert_eq!((codes.len(), words.len()), (all.len(), all.len()));
}
