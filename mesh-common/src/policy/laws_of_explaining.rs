//! Laws of explaining: it says what the data path does, and what it says of rules is so.

use std::sync::Arc;

use proptest::prelude::*;

use super::evaluate::evaluate;
use super::explain::{Explained, Miss, explain, misses};
use super::laws::{Caller, caller, policies, rule, sets, snapshot};
use super::matching::{Answer, Breadth, Layer7, Subject};
use super::{AuditVerdict, Basis, DenialReason};
use crate::model::policy::{Condition, Match, Operation, Pattern, Rule, Source};
use crate::model::samples::{at, from_principals, inbound, matching, pod, policy};
use crate::model::{
    AuthorizationPolicy, ConnectionFacts, PeerIdentity, Protocol, RequestFacts, RequestTarget, ServerName,
};
use crate::resolve;
use crate::snapshot::{Delta, Effect, Snapshot, Tables};

/// A field of a rule, by its path.
enum Field {
    From(usize, String),
    To(usize, String),
    When(usize),
}

fn field(miss: &Miss) -> Field {
    let (list, rest) = miss.field.split_once('[').unwrap();
    let (index, rest) = rest.split_once(']').unwrap();
    let index = index.parse().unwrap();
    let name = rest.rsplit('.').next().unwrap().to_owned();
    match list {
        "from" => Field::From(index, name),
        "to" => Field::To(index, name),
        "when" => Field::When(index),
        other => panic!("{other}"),
    }
}

/// The field alone, with its negation.
fn alone(rule: &Rule, field: &Field) -> Rule {
    match field {
        Field::When(index) => Rule { when: vec![rule.when[*index].clone()], ..Rule::default() },
        Field::From(index, name) => {
            let from = &rule.from[*index];
            let only = Source::default;
            let source = match name.as_str() {
                "principals" | "notPrincipals" => Source { principals: from.principals.clone(), ..only() },
                "namespaces" | "notNamespaces" => Source { namespaces: from.namespaces.clone(), ..only() },
                "serviceAccounts" | "notServiceAccounts" => {
                    Source { service_accounts: from.service_accounts.clone(), ..only() }
                }
                "ipBlocks" | "notIpBlocks" => Source { ip_blocks: from.ip_blocks.clone(), ..only() },
                "requestPrincipals" | "notRequestPrincipals" => {
                    Source { request_principals: from.request_principals.clone(), ..only() }
                }
                other => panic!("{other}"),
            };
            Rule { from: vec![source], ..Rule::default() }
        }
        Field::To(index, name) => {
            let to = &rule.to[*index];
            let only = Operation::default;
            let operation = match name.as_str() {
                "hosts" | "notHosts" => Operation { hosts: to.hosts.clone(), ..only() },
                "ports" | "notPorts" => Operation { ports: to.ports.clone(), ..only() },
                "methods" | "notMethods" => Operation { methods: to.methods.clone(), ..only() },
                "paths" | "notPaths" => Operation { paths: to.paths.clone(), ..only() },
                other => panic!("{other}"),
            };
            Rule { to: vec![operation], ..Rule::default() }
        }
    }
}

/// The rule without the field and its negation.
fn without(mut rule: Rule, field: &Field) -> Rule {
    match field {
        Field::When(index) => {
            // Fulfilled by everybody, so that the others keep their places.
            rule.when[*index] = Condition::DestinationPort(Match::default());
        }
        Field::From(index, name) => {
            let from = &mut rule.from[*index];
            match name.as_str() {
                "principals" | "notPrincipals" => from.principals = Match::default(),
                "namespaces" | "notNamespaces" => from.namespaces = Match::default(),
                "serviceAccounts" | "notServiceAccounts" => from.service_accounts = Match::default(),
                "ipBlocks" | "notIpBlocks" => from.ip_blocks = Match::default(),
                _ => from.request_principals = Match::default(),
            }
        }
        Field::To(index, name) => {
            let to = &mut rule.to[*index];
            match name.as_str() {
                "hosts" | "notHosts" => to.hosts = Match::default(),
                "ports" | "notPorts" => to.ports = Match::default(),
                "methods" | "notMethods" => to.methods = Match::default(),
                _ => to.paths = Match::default(),
            }
        }
    }
    rule
}

/// Explains what a caller asks of the one pod, by way of the functions that everybody calls.
fn explained<T>(
    snapshot: &Snapshot,
    caller: &Caller,
    judge: impl FnOnce(&Explained<'_>, &Subject<'_>) -> T,
) -> T {
    caller.ask(|subject| {
        let local = Arc::new(pod("api", "b", "10.0.0.9"));
        let stranger = pod("caller", "a", "10.9.9.9");
        let facts = ConnectionFacts {
            client: std::net::SocketAddr::new(subject.source, 40000),
            peer: subject.identity.cloned().map_or(PeerIdentity::None, PeerIdentity::Verified),
            server_name: subject.server_name.clone(),
            ..inbound(&local, subject.destination.port(), &stranger)
        };
        let (protocol, request) = match subject.layer7 {
            Layer7::Opaque => (Protocol::Tcp, None),
            Layer7::Pending => (Protocol::Http1, None),
            Layer7::Request(request) => (Protocol::Http1, Some(request)),
        };
        let destination = resolve::destination(snapshot, &facts).with_detected(protocol);
        judge(&explain(snapshot, &facts, &destination, request), subject)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_rule_misses_nothing_just_where_it_matches(rule in rule(), caller in caller()) {
        caller.ask(|subject| {
            for breadth in [Breadth::Broad, Breadth::Narrow] {
                let matches = subject.matches(&rule, breadth) == Answer::Yes;
                let misses = misses(subject, &rule, breadth);
                prop_assert_eq!(misses.is_empty(), matches, "{:?}", misses);
            }
            Ok(())
        })?;
    }

    #[test]
    fn what_a_rule_is_said_to_miss_does_not_match_alone_and_is_all(rule in rule(), caller in caller()) {
        caller.ask(|subject| {
            for breadth in [Breadth::Broad, Breadth::Narrow] {
                let misses = misses(subject, &rule, breadth);
                if misses.iter().any(|miss| miss.field == "this rule") {
                    continue;
                }
                let mut rest = rule.clone();
                for miss in &misses {
                    let field = field(miss);
                    prop_assert_ne!(subject.matches(&alone(&rule, &field), breadth), Answer::Yes, "{:?}", miss);
                    rest = without(rest, &field);
                }
                prop_assert_eq!(subject.matches(&rest, breadth), Answer::Yes, "{:?}", misses);
            }
            Ok(())
        })?;
    }

    #[test]
    fn it_says_what_the_data_path_does_and_why(policies in policies(), caller in caller()) {
        let snapshot = snapshot(&policies);
        explained(&snapshot, &caller, |explained, subject| {
            // What is read as HTTP begins with no ClientHello.
            let server_name = match subject.layer7 {
                Layer7::Opaque => subject.server_name,
                Layer7::Pending | Layer7::Request(_) => &ServerName::Absent,
            };
            let live = evaluate(&sets(&snapshot), &Subject { server_name, ..*subject });
            let matched = |effect: Effect| {
                let all = explained.heard.iter().filter(move |heard| heard.effect == effect);
                all.filter(|heard| heard.nearest.as_ref().is_some_and(|nearest| nearest.misses.is_empty()))
            };
            match (&explained.verdict, live) {
                (Ok(permit), Ok(allowed)) => {
                    prop_assert_eq!(permit.findings(), &allowed.findings[..]);
                    let by = match permit.basis() { Basis::Rule(by) => Some(by), _ => None };
                    prop_assert_eq!(by, allowed.by);
                    let said = matched(Effect::Allow).next();
                    let said = said.map(|heard| (&heard.policy.name, heard.nearest.as_ref().unwrap().rule));
                    prop_assert_eq!(said, by.map(|by| (&by.policy.name, by.rule)));
                    prop_assert_eq!(matched(Effect::Deny).count(), 0);
                    let audited = |finding: &&super::AuditFinding<'_>| finding.verdict == AuditVerdict::Audited;
                    let audited = permit.findings().iter().filter(audited).map(|finding| &finding.policy.name);
                    prop_assert!(audited.eq(matched(Effect::Audit).map(|heard| &heard.policy.name)));
                }
                (Err(denial), Err(live)) => {
                    prop_assert_eq!(denial, &live);
                    let by = denial.policy.as_ref().map(|policy| &policy.name);
                    match denial.reason {
                        DenialReason::RuleDenies => {
                            let first = matched(Effect::Deny).next().unwrap();
                            prop_assert_eq!(Some(&first.policy.name), by);
                            prop_assert_eq!(first.nearest.as_ref().map(|nearest| nearest.rule), denial.rule);
                        }
                        DenialReason::NoRuleAllows => {
                            prop_assert_eq!(matched(Effect::Allow).count(), 0);
                            let least = explained.nearest_allow().map(|(_, nearest)| nearest.misses.len());
                            let all = explained.heard.iter().filter(|heard| heard.effect == Effect::Allow);
                            let all = all.filter_map(|heard| Some(heard.nearest.as_ref()?.misses.len()));
                            prop_assert_eq!(least, all.min());
                        }
                        _ => {}
                    }
                }
                (said, live) => prop_assert!(false, "{said:?} and {live:?}"),
            }
            Ok(())
        })?;
    }
}

/// What the policies about `api` miss for a request of `web`, as `NAME rules[0]: FIELD: REASON`.
fn said(policies: Vec<AuthorizationPolicy>, target: &str, headers: &[(&str, &str)]) -> Vec<String> {
    let mut tables = Tables::default();
    tables.apply(Delta::UpsertWorkload(Arc::new(pod("api", "b", "10.0.1.1"))));
    for policy in policies {
        tables.apply(Delta::UpsertAuthorizationPolicy(Arc::new(policy)));
    }
    let snapshot = tables.snapshot();
    let facts = inbound(&Arc::new(pod("api", "b", "10.0.1.1")), 8080, &pod("web", "a", "10.0.0.1"));
    let destination = resolve::destination(&snapshot, &facts).with_detected(Protocol::Http1);
    let path = RequestTarget::parse(target.as_bytes()).unwrap().path;
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    let request = RequestFacts {
        method: b"GET",
        host: b"api",
        path: &path,
        query: None,
        headers: &headers,
        end_user: None,
        allowed_by: None,
    };
    let explained = explain(&snapshot, &facts, &destination, Some(&request));
    let of_policy = |heard: &super::Heard<'_>| {
        let nearest = heard.nearest.as_ref()?;
        let misses = nearest.misses.iter().map(|miss| {
            let doubtful = if miss.is_doubtful { " (in one reading)" } else { "" };
            format!("{}: {}{doubtful}", miss.field, miss.reason)
        });
        let misses: Vec<String> = misses.collect();
        Some(format!("{} rules[{}]: {}", heard.policy.name.name, nearest.rule, misses.join("; ")))
    };
    explained.heard.iter().filter_map(of_policy).collect()
}

fn paths(texts: &[&str]) -> Rule {
    Rule { to: vec![Operation { paths: matching(texts), ..Operation::default() }], ..Rule::default() }
}

fn allow(rules: Vec<Rule>) -> Vec<AuthorizationPolicy> {
    vec![policy("allow", crate::model::policy::Action::Allow, "api", rules)]
}

#[test]
fn the_nearest_rule_is_the_one_that_misses_least_and_says_what() {
    let far = Rule { from: from_principals(&["td/ns/shop/sa/other"]).from, ..paths(&["/b*"]) };
    assert_eq!(
        said(allow(vec![far, paths(&["/b*", "/c"])]), "/a", &[]),
        ["allow rules[1]: to[0].operation.paths: /a is not one of /b*, /c"]
    );
    let own = || from_principals(&["!cluster.local/ns/shop/*"]);
    assert_eq!(
        said(allow(vec![own()]), "/a", &[]),
        [
            "allow rules[0]: from[0].source.notPrincipals: cluster.local/ns/shop/sa/web is one of cluster.local/ns/shop/*"
        ]
    );
    assert_eq!(said(allow(vec![paths(&["/a"])]), "/a", &[]), ["allow rules[0]: "]);
    assert!(said(allow(vec![]), "/a", &[]).is_empty(), "a policy without rules has no nearest");
}

#[test]
fn a_second_reading_is_told() {
    assert_eq!(
        said(allow(vec![paths(&["/a/b*"])]), "/a/b;x/../c", &[]),
        ["allow rules[0]: to[0].operation.paths: /a/c is not one of /a/b*"]
    );
    assert_eq!(
        said(allow(vec![paths(&["!/admin"])]), "/admin;x", &[]),
        ["allow rules[0]: to[0].operation.notPaths: /admin;x is one of /admin (in one reading)"]
    );
    assert_eq!(
        said(allow(vec![paths(&["/Admin"])]), "/admin", &[]),
        ["allow rules[0]: to[0].operation.paths: /admin is not one of /Admin (in one reading)"]
    );
}

#[test]
fn fields_say_what_was_there_but_no_credential() {
    let header = |name: &str, texts: &[&str]| Rule {
        when: vec![Condition::RequestHeader { name: name.into(), values: matching(texts) }],
        ..Rule::default()
    };
    let roles = [("X-Role", "user"), ("x-role", "guest\u{7}")];
    for (rule, headers, wanted) in [
        (header("x-role", &["admin"]), &roles[..], "values: user, guest\\u{7} is not one of admin"),
        (header("x-role", &["!user"]), &roles[..1], "notValues: user is one of user"),
        (header("x-role", &["admin"]), &[], "values: the request has no such field; must be one of admin"),
        (
            header("authorization", &["Basic x"]),
            &[("authorization", "Bearer secret")][..],
            "values: its value, which is not shown, is not one of Basic x",
        ),
    ] {
        let said = said(allow(vec![rule]), "/", headers);
        assert!(said[0].ends_with(wanted), "{said:?}");
    }
    let claim = Condition::RequestClaim {
        path: vec!["groups".into()],
        values: Match { any_of: vec![Pattern::Exact("staff".into())], none_of: vec![] },
    };
    let rule = Rule { when: vec![claim], ..Rule::default() };
    assert_eq!(
        said(allow(vec![rule]), "/", &[]),
        [
            "allow rules[0]: when[0] request.auth.claims[groups].values: the request has no token that was looked at; \
          must be one of staff"
        ]
    );
    let long = "x".repeat(1000);
    let said = said(allow(vec![paths(&["/b"])]), &format!("/{long}"), &[]);
    assert!(said[0].len() < 300, "{said:?}");
}

#[test]
fn elsewhere_than_at_the_pod_no_rule_is_asked() {
    let mut tables = Tables::default();
    tables.apply(Delta::UpsertWorkload(Arc::new(pod("api", "b", "10.0.1.1"))));
    tables.apply(Delta::UpsertAuthorizationPolicy(Arc::new(allow(vec![]).remove(0))));
    let snapshot = tables.snapshot();
    let facts = ConnectionFacts {
        original_dst: at("10.0.1.2:8080"),
        ..inbound(&Arc::new(pod("api", "b", "10.0.1.1")), 8080, &pod("web", "a", "10.0.0.1"))
    };
    let destination = resolve::destination(&snapshot, &facts);
    let explained = explain(&snapshot, &facts, &destination, None);
    assert!(explained.verdict.is_err() && explained.heard.is_empty(), "{explained:?}");
}
