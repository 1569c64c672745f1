use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::model::policy::{Action, Condition, Match, Mode, Operation, PolicyFault, Rule, Scope, Source};
use crate::model::samples::{from_principals, inbound, matching, pod, policy, service};
use crate::model::{AuthorizationPolicy, NamespacedName, PeerAuthentication, RequestTarget, WorkloadUid};
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

fn without_identity(port: u16, why: NoIdentity) -> ConnectionFacts {
    ConnectionFacts { peer: PeerIdentity::None(why), ..facts(port) }
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
    let request = RequestFacts { method: b"GET", host: b"api:80", path: &path, headers: &headers };
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
fn rules_about_requests_fail_closed_where_there_are_none() {
    let get = || to(Operation { methods: matching(&["GET"]), ..Operation::default() });
    let deny = || policy("deny", Action::Deny, "api", vec![get()]);
    let allow = || policy("allow", Action::Allow, "api", vec![get()]);
    for opaque in [Protocol::Tcp, Protocol::Tls] {
        check(opaque, vec![deny()], Err(DenialReason::RuleDenies));
        check(opaque, vec![allow()], Err(DenialReason::NoRuleAllows));
    }
    for speaks in [Protocol::Http1, Protocol::Http2, Protocol::Grpc, Protocol::Undeclared] {
        check(speaks, vec![deny()], Ok(Requests::NeedDecision));
        check(speaks, vec![allow()], Ok(Requests::NeedDecision));
    }
}

#[test]
fn an_undeclared_port_that_turns_out_opaque_fails_closed() {
    let deny = policy("deny", Action::Deny, "api", vec![paths(&["/admin"])]);
    let snapshot = snapshot(Protocol::Undeclared, vec![deny]);
    let facts = facts(8080);
    let found = resolve::destination(&snapshot, &facts).with_detected(Protocol::Tcp);
    let denial = authorize_connection(&snapshot, &facts, &found).unwrap_err();
    assert_eq!(denial.reason, DenialReason::RuleDenies);
    assert_eq!(recheck(&snapshot, &facts, Protocol::Tcp).unwrap_err().reason, DenialReason::RuleDenies);
    assert_eq!(recheck(&snapshot, &facts, Protocol::Http1), Ok(()));
}

#[test]
fn only_requests_that_a_rule_can_be_about_need_a_decision() {
    let other_caller =
        Rule { to: paths(&["/admin"]).to, ..from_principals(&["cluster.local/ns/shop/sa/other"]) };
    check(
        Protocol::Http1,
        vec![policy("deny", Action::Deny, "api", vec![other_caller])],
        Ok(Requests::AreCovered),
    );
    let other_port = to(Operation { methods: matching(&["GET"]), ..ports(&[9090]).to.remove(0) });
    check(
        Protocol::Http1,
        vec![policy("deny", Action::Deny, "api", vec![other_port])],
        Ok(Requests::AreCovered),
    );
    let mixed = vec![from_principals(&[WEB]), paths(&["/x"])];
    check(Protocol::Http1, vec![policy("allow", Action::Allow, "api", mixed)], Ok(Requests::AreCovered));
}

#[test]
fn a_caller_that_no_rule_can_allow_is_refused_before_its_requests() {
    let other = Rule { to: paths(&["/x"]).to, ..from_principals(&["cluster.local/ns/shop/sa/other"]) };
    check(
        Protocol::Http1,
        vec![policy("allow", Action::Allow, "api", vec![other])],
        Err(DenialReason::NoRuleAllows),
    );
}

#[test]
fn every_spelling_of_admin_is_denied_or_not_a_path() {
    let spellings = [
        "//admin",
        "/./admin",
        "/x/../admin",
        "/%61dmin",
        "/admin%2f",
        "/app%2f..%2fadmin",
        "/app\\..\\admin",
        "/%5cadmin",
        "/app//../admin",
        "/admin%00",
        "/%252e%252e/admin",
        "/%c0%ae%c0%ae/admin",
        "/..;/admin",
        "/;/admin",
        "/admin;a=b",
        "/Admin",
        "/admin?x",
        "/admin#x",
        "/admin/",
        "http://h/admin",
        "/admin",
        "/ADMIN/",
        "/%41dmin",
        "/admin%3bx",
    ];
    for spelling in spellings {
        if RequestTarget::parse(spelling.as_bytes()).is_ok() {
            let deny = policy("deny", Action::Deny, "api", vec![paths(&["/admin"])]);
            assert_eq!(request(vec![deny], spelling, &[]), Err(DenialReason::RuleDenies), "{spelling}");
            let all_but = policy("allow", Action::Allow, "api", vec![paths(&["!/admin"])]);
            assert_eq!(request(vec![all_but], spelling, &[]), Err(DenialReason::NoRuleAllows), "{spelling}");
        }
    }
    let deny = policy("deny", Action::Deny, "api", vec![paths(&["/admin"])]);
    assert_eq!(request(vec![deny], "/administrator", &[]), Ok(()));
}

#[test]
fn an_allowed_prefix_lets_nothing_through_that_may_be_read_as_another_path() {
    let allow = || policy("allow", Action::Allow, "api", vec![paths(&["/public/*"])]);
    for (target, expected) in [
        ("/public/a", Ok(())),
        ("/public/a;v=1", Ok(())),
        ("/public/a%2Fb", Ok(())),
        ("/Public/a", Err(DenialReason::NoRuleAllows)),
        ("/public", Err(DenialReason::NoRuleAllows)),
        ("/public;x/../admin", Err(DenialReason::NoRuleAllows)),
        ("/x/../public/a", Ok(())),
        ("/public/../admin", Err(DenialReason::NoRuleAllows)),
    ] {
        assert_eq!(request(vec![allow()], target, &[]), expected, "{target}");
    }
}

#[test]
fn a_host_matches_without_regard_to_case_and_port() {
    for host in ["api", "API", "api:80", "api:*"] {
        let rule = to(Operation { hosts: matching(&[host]), ..Operation::default() });
        assert_eq!(
            request(vec![policy("deny", Action::Deny, "api", vec![rule])], "/", &[]),
            Err(DenialReason::RuleDenies),
            "{host}"
        );
    }
}

#[test]
fn each_value_of_a_repeated_field_counts() {
    let role = |values: &[&str]| Rule {
        when: vec![Condition::RequestHeader { name: "x-role".into(), values: matching(values) }],
        ..Rule::default()
    };
    let deny = policy("deny", Action::Deny, "api", vec![role(&["admin"])]);
    let allow = policy("allow", Action::Allow, "api", vec![role(&["admin"])]);
    for headers in [&[("x-role", "user"), ("X-Role", "admin")][..], &[("x-role", "user,admin")]] {
        assert_eq!(request(vec![deny.clone()], "/", headers), Err(DenialReason::RuleDenies));
        assert_eq!(request(vec![allow.clone()], "/", headers), Err(DenialReason::NoRuleAllows));
    }
    assert_eq!(request(vec![allow.clone()], "/", &[("x-role", "admin")]), Ok(()));
    assert_eq!(request(vec![allow], "/", &[]), Err(DenialReason::NoRuleAllows));
    assert_eq!(request(vec![deny], "/", &[]), Ok(()));
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
    let plain = without_identity(8080, NoIdentity::Plaintext);
    let any = policy("allow", Action::Allow, "api", vec![from_principals(&["*"])]);
    assert_eq!(connect(&snapshot(Protocol::Tcp, vec![any]), &plain), Err(DenialReason::NoRuleAllows));
    let not =
        policy("deny", Action::Deny, "api", vec![from_principals(&["!cluster.local/ns/shop/sa/admin"])]);
    assert_eq!(connect(&snapshot(Protocol::Tcp, vec![not]), &plain), Err(DenialReason::RuleDenies));
}

fn peer_authentication(name: &str, scope: Scope, mode: Option<MutualTls>) -> PeerAuthentication {
    PeerAuthentication {
        name: NamespacedName::new("shop", name),
        scope,
        created: 0,
        mode,
        ports: BTreeMap::new(),
    }
}

fn selecting_api() -> Scope {
    let labels = BTreeMap::from([("app".into(), "api".into())]);
    Scope::Selector { namespace: Some("shop".into()), labels }
}

fn plaintext(policies: Vec<PeerAuthentication>, port: u16) -> Result<Requests, DenialReason> {
    let mut tables = tables(Protocol::Tcp);
    for policy in policies {
        tables.apply(Delta::UpsertPeerAuthentication(Arc::new(policy)));
    }
    connect(&tables.snapshot(), &without_identity(port, NoIdentity::Plaintext))
}

#[test]
fn the_most_specific_mode_that_is_set_holds() {
    let strict = Some(MutualTls::Strict);
    let permissive = Some(MutualTls::Permissive);
    let mesh = |mode| peer_authentication("mesh", Scope::Mesh, mode);
    let namespace = |mode| peer_authentication("namespace", Scope::Namespace("shop".into()), mode);
    let workload = |mode, port| PeerAuthentication {
        ports: BTreeMap::from([(8080, port)]),
        ..peer_authentication("workload", selecting_api(), mode)
    };
    let refused = Err(DenialReason::PlaintextUnderStrict);
    let passed = Ok(Requests::AreCovered);
    assert_eq!(plaintext(vec![], 8080), passed);
    assert_eq!(plaintext(vec![mesh(strict)], 8080), refused);
    assert_eq!(plaintext(vec![mesh(strict), namespace(permissive)], 8080), passed);
    assert_eq!(plaintext(vec![mesh(strict), namespace(None)], 8080), refused);
    assert_eq!(plaintext(vec![namespace(permissive), workload(strict, None)], 8080), refused);
    assert_eq!(plaintext(vec![workload(strict, permissive)], 8080), passed);
    assert_eq!(plaintext(vec![workload(strict, permissive)], 9090), refused);
    assert_eq!(plaintext(vec![mesh(strict), workload(None, None)], 8080), refused);
    assert_eq!(plaintext(vec![mesh(permissive), workload(None, strict)], 8080), refused);
}

#[test]
fn of_two_of_one_level_the_older_holds_and_then_the_first_by_name() {
    let namespace = |name: &str, created, mode| PeerAuthentication {
        created,
        ..peer_authentication(name, Scope::Namespace("shop".into()), Some(mode))
    };
    let (a, b) = (
        |created| namespace("a", created, MutualTls::Strict),
        |created| namespace("b", created, MutualTls::Permissive),
    );
    let refused = Err(DenialReason::PlaintextUnderStrict);
    assert_eq!(plaintext(vec![a(2), b(1)], 8080), Ok(Requests::AreCovered));
    assert_eq!(plaintext(vec![a(1), b(1)], 8080), refused);
}

#[test]
fn a_probe_passes_everything_but_only_to_a_port_that_a_probe_names() {
    let mut tables = tables(Protocol::Tcp);
    tables.apply(Delta::UpsertPeerAuthentication(Arc::new(peer_authentication(
        "mesh",
        Scope::Mesh,
        Some(MutualTls::Strict),
    ))));
    tables.apply(Delta::UpsertAuthorizationPolicy(Arc::new(policy("nothing", Action::Allow, "", vec![]))));
    let probed =
        crate::model::Workload { probe_ports: smallvec::smallvec![8080], ..pod("api", "b", "10.0.1.1") };
    tables.apply(Delta::UpsertWorkload(Arc::new(probed)));
    let snapshot = tables.snapshot();
    assert_eq!(connect(&snapshot, &without_identity(8080, NoIdentity::Probe)), Ok(Requests::AreCovered));
    assert_eq!(
        connect(&snapshot, &without_identity(9090, NoIdentity::Probe)),
        Err(DenialReason::PlaintextUnderStrict)
    );
    assert_eq!(
        connect(&snapshot, &without_identity(8080, NoIdentity::Plaintext)),
        Err(DenialReason::PlaintextUnderStrict)
    );
}

#[test]
fn an_established_connection_is_closed_when_it_is_permitted_no_more() {
    let mut tables = tables(Protocol::Tcp);
    assert_eq!(recheck(&tables.snapshot(), &facts(8080), Protocol::Tcp), Ok(()));
    tables.apply(Delta::UpsertAuthorizationPolicy(Arc::new(policy("nothing", Action::Allow, "", vec![]))));
    assert_eq!(
        recheck(&tables.snapshot(), &facts(8080), Protocol::Tcp).unwrap_err().reason,
        DenialReason::NoRuleAllows
    );
}

#[test]
fn a_connection_does_not_outlive_its_local_pod() {
    let mut tables = tables(Protocol::Tcp);
    let out = crate::model::samples::outbound(&Arc::new(pod("web", "a", "10.0.0.1")), "10.96.0.10:80");
    tables.apply(Delta::RemoveService(NamespacedName::new("shop", "api")));
    assert_eq!(recheck(&tables.snapshot(), &out, Protocol::Tcp), Ok(()));
    tables.apply(Delta::RemoveWorkload(WorkloadUid("web".into())));
    tables.apply(Delta::RemoveWorkload(WorkloadUid("api".into())));
    let gone = DenialReason::UnknownDestination(resolve::UnknownTarget::LocalGone);
    assert_eq!(recheck(&tables.snapshot(), &out, Protocol::Tcp).unwrap_err().reason, gone);
    assert_eq!(recheck(&tables.snapshot(), &facts(8080), Protocol::Tcp).unwrap_err().reason, gone);
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
}
