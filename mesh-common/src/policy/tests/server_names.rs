//! What the name does that an application's TLS asks for.

use proptest::prelude::*;

use super::*;
use crate::model::Protocol::{Http1, Tcp, Tls, Undeclared};
use crate::model::ServerName;
use crate::policy::evaluate::{depends_on_server_name, evaluate};
use crate::policy::laws::{self, Caller};

fn named(name: &str) -> ServerName {
    ServerName::Name(name.into())
}

fn asks_for(names: &[&str]) -> Rule {
    Rule { when: vec![Condition::ConnectionServerName(matching(names))], ..Rule::default() }
}

/// What `web` hears at port 8080 of `api` when it asks for a name.
fn hears(
    policies: Vec<AuthorizationPolicy>,
    protocol: Protocol,
    server_name: ServerName,
) -> Result<(), DenialReason> {
    let facts = ConnectionFacts { server_name, ..facts(8080) };
    connect(&snapshot(protocol, policies), &facts).map(drop)
}

fn waits(policies: Vec<AuthorizationPolicy>, protocol: Protocol, facts: &ConnectionFacts) -> bool {
    let snapshot = snapshot(protocol, policies);
    waits_for_first_bytes(&snapshot, facts, &resolve::destination(&snapshot, facts))
}

#[test]
fn a_name_is_matched_whole_by_its_beginning_its_end_or_its_presence() {
    for (pattern, right, wrong) in [
        ("api.shop", "api.shop", "api.shop.evil"),
        ("api.*", "api.shop", "apishop"),
        ("*.shop", "api.shop", "shop"),
    ] {
        let allow = || vec![policy("allow", Action::Allow, "api", vec![asks_for(&[pattern])])];
        assert_eq!(hears(allow(), Tls, named(right)), Ok(()), "{pattern}");
        assert_eq!(hears(allow(), Tls, named(wrong)), Err(DenialReason::NoRuleAllows), "{pattern}");
        let deny = || vec![policy("deny", Action::Deny, "api", vec![asks_for(&[pattern])])];
        assert_eq!(hears(deny(), Tcp, named(right)), Err(DenialReason::RuleDenies), "{pattern}");
        assert_eq!(hears(deny(), Tcp, named(wrong)), Ok(()), "{pattern}");
    }
}

#[test]
fn who_asks_for_no_name_has_none() {
    let one = |action, names: &[&str]| vec![policy("one", action, "api", vec![asks_for(names)])];
    for names in [&["*"][..], &["api.shop"], &["api.shop", "!b"]] {
        assert_eq!(
            hears(one(Action::Allow, names), Tls, ServerName::Absent),
            Err(DenialReason::NoRuleAllows)
        );
        assert_eq!(hears(one(Action::Deny, names), Tls, ServerName::Absent), Ok(()));
    }
    assert_eq!(hears(one(Action::Allow, &["!api.shop"]), Tls, ServerName::Absent), Ok(()));
    assert_eq!(
        hears(one(Action::Deny, &["!api.shop"]), Tls, ServerName::Absent),
        Err(DenialReason::RuleDenies)
    );
}

#[test]
fn a_name_that_cannot_be_told_is_refused_by_every_rule_about_names() {
    for names in [&["api.shop"][..], &["!api.shop"], &["*"]] {
        let allow = vec![policy("allow", Action::Allow, "api", vec![asks_for(names)])];
        assert_eq!(hears(allow, Tls, ServerName::Unknown), Err(DenialReason::NoRuleAllows));
        let deny = vec![policy("deny", Action::Deny, "api", vec![asks_for(names)])];
        assert_eq!(hears(deny, Tls, ServerName::Unknown), Err(DenialReason::RuleDenies));
    }
}

#[test]
fn http_in_the_clear_asks_for_no_name() {
    let allow = vec![policy("allow", Action::Allow, "api", vec![asks_for(&["api.shop"])])];
    assert_eq!(hears(allow, Http1, named("api.shop")), Err(DenialReason::NoRuleAllows));
}

#[test]
fn only_who_may_match_but_for_the_name_waits_for_it() {
    let rule = |port: u16, principal: &str| Rule { to: ports(&[port]).to, ..from_principals(&[principal]) };
    let about = |rule: Rule| {
        let rule = Rule { when: asks_for(&["api.shop"]).when, ..rule };
        vec![policy("deny", Action::Deny, "api", vec![rule])]
    };
    for protocol in [Tcp, Tls, Undeclared] {
        assert!(waits(about(rule(8080, WEB)), protocol, &facts(8080)));
        assert!(!waits(about(rule(9090, WEB)), protocol, &facts(8080)), "another port");
        assert!(
            !waits(about(rule(8080, "cluster.local/ns/shop/sa/ops")), protocol, &facts(8080)),
            "another caller"
        );
        for known in [ServerName::Absent, named("api.shop")] {
            let facts = ConnectionFacts { server_name: known, ..facts(8080) };
            assert!(!waits(about(rule(8080, WEB)), protocol, &facts), "it is known");
        }
    }
    assert!(!waits(about(rule(8080, WEB)), Http1, &facts(8080)), "no TLS begins like HTTP");
}

#[test]
fn where_nothing_is_declared_rules_about_requests_wait_for_first_bytes() {
    let allow = || vec![policy("allow", Action::Allow, "api", vec![paths(&["/a"])])];
    assert!(waits(allow(), Undeclared, &facts(8080)));
    assert!(!waits(allow(), Tcp, &facts(8080)), "there will be no requests");
    assert!(!waits(vec![], Undeclared, &facts(8080)));
}

#[test]
fn a_policy_that_only_reports_waits_for_nothing_and_takes_an_unknown_name_for_none() {
    let mut audit = policy("audit", Action::Deny, "api", vec![asks_for(&["api.shop"])]);
    audit.mode = Mode::Audit;
    assert!(!waits(vec![audit.clone()], Tls, &facts(8080)));
    let found = |server_name| {
        let snapshot = snapshot(Tls, vec![audit.clone()]);
        let facts = ConnectionFacts { server_name, ..facts(8080) };
        let destination = resolve::destination(&snapshot, &facts);
        authorize_connection(&snapshot, &facts, &destination).unwrap().findings().len()
    };
    assert_eq!((found(ServerName::Unknown), found(named("api.shop"))), (0, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// What is decided before a name is known would be decided with any; and where nothing waits for it, it changes
    /// nothing.
    #[test]
    fn a_name_that_is_not_known_never_widens(policies in laws::policies(), caller in laws::caller()) {
        let snapshot = laws::snapshot(&policies);
        let sets = laws::sets(&snapshot);
        let mut unknown = caller.clone();
        unknown.server_name = ServerName::Unknown;
        let decide = |caller: &Caller| caller.ask(|subject| evaluate(&sets, subject).map(drop).is_ok());
        if decide(&unknown) {
            prop_assert!(decide(&caller));
        }
        if !unknown.ask(|subject| depends_on_server_name(&sets, subject)) {
            prop_assert_eq!(decide(&unknown), decide(&caller));
        }
    }
}
