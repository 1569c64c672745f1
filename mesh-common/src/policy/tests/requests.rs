//! Rules about requests: methods, paths, hosts, headers, and where there are none.

use super::*;

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
}

#[test]
fn a_connection_of_bytes_does_not_outlive_a_new_rule_about_its_requests() {
    let deny = policy("deny", Action::Deny, "api", vec![paths(&["/admin"])]);
    let allow = policy("allow", Action::Allow, "api", vec![paths(&["/open"])]);
    for declared in [Protocol::Undeclared, Protocol::Http1, Protocol::Http2, Protocol::Grpc, Protocol::Tcp] {
        for (rule, reason) in [(&deny, DenialReason::RuleDenies), (&allow, DenialReason::NoRuleAllows)] {
            let snapshot = snapshot(declared, vec![rule.clone()]);
            let denial = recheck(&snapshot, &facts(8080), CarriedAs::Bytes).unwrap_err();
            assert_eq!(
                (denial.reason, denial.policy.unwrap().name),
                (reason, rule.name.clone()),
                "{declared:?}"
            );
        }
        assert_eq!(recheck(&snapshot(declared, vec![]), &facts(8080), CarriedAs::Bytes), Ok(()));
    }
}

#[test]
fn a_connection_of_requests_outlives_a_new_rule_about_them() {
    let deny = policy("deny", Action::Deny, "api", vec![paths(&["/admin"])]);
    for declared in [Protocol::Undeclared, Protocol::Http1] {
        let snapshot = snapshot(declared, vec![deny.clone()]);
        assert_eq!(recheck(&snapshot, &facts(8080), CarriedAs::Requests(Protocol::Http1)), Ok(()));
    }
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
    for spelling in include_str!("../../../testdata/spellings_of_admin.txt").lines() {
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
