//! CUSTOM policies: when an authorization server is to be asked, and what its word is worth.

use std::time::Duration;

use super::*;
use crate::model::{AuthorizerProtocol, Custom, ExternalAuthorizer, Text};
use crate::policy::{ExternalDenial, authorizer};

fn asking(provider: &str, rules: Vec<Rule>) -> AuthorizationPolicy {
    let authorizer = ExternalAuthorizer {
        name: provider.into(),
        protocol: AuthorizerProtocol::Grpc,
        service: NamespacedName::new("auth", provider),
        port: 9000,
        timeout: Duration::from_secs(1),
        fail_open: false,
        status_on_error: 403,
        body: None,
    };
    let custom = Custom { provider: provider.into(), authorizer: Some(Arc::new(authorizer)) };
    policy(&format!("ask-{provider}"), Action::Custom(Arc::new(custom)), "api", rules)
}

fn external(reason: ExternalDenial) -> Result<(), DenialReason> {
    Err(DenialReason::External(reason))
}

/// What `web` hears when it asks for `/admin/x`, which the authorization server `allowed_by` let pass.
fn asked(policies: Vec<AuthorizationPolicy>, allowed_by: Option<&str>) -> Result<(), DenialReason> {
    let snapshot = snapshot(Protocol::Http1, policies);
    let facts = facts(8080);
    let destination = resolve::destination(&snapshot, &facts);
    let path = RequestTarget::parse(b"/admin/x").unwrap().path;
    let name = allowed_by.map(Text::from);
    let request = RequestFacts {
        method: b"GET",
        host: b"api:80",
        path: &path,
        query: None,
        headers: &[],
        end_user: None,
        allowed_by: name.as_ref(),
    };
    let permit = authorize_request(&snapshot, &facts, &destination, &request);
    permit.map(drop).map_err(|denial| denial.reason)
}

#[test]
fn a_request_that_a_custom_policy_matches_waits_for_the_word_of_its_server() {
    let policies = || vec![asking("opa", vec![paths(&["/admin*"])])];
    assert_eq!(asked(policies(), None), external(ExternalDenial::NotAsked));
    assert_eq!(asked(policies(), Some("opa")), Ok(()));
    assert_eq!(asked(policies(), Some("another")), external(ExternalDenial::NotAsked));
    let elsewhere = vec![asking("opa", vec![paths(&["/public*"])])];
    assert_eq!(asked(elsewhere, None), Ok(()), "what no rule matches is asked of nobody");
    assert_eq!(asked(vec![asking("opa", vec![])], None), Ok(()), "without a rule it never matches");
}

#[test]
fn custom_comes_before_deny_and_deny_before_allow() {
    let deny = || policy("deny", Action::Deny, "api", vec![paths(&["/admin*"])]);
    let allow = |texts: &[&str]| policy("allow", Action::Allow, "api", vec![paths(texts)]);
    let ask = || asking("opa", vec![Rule::default()]);
    let not_asked = external(ExternalDenial::NotAsked);
    for (policies, before, after) in [
        (vec![ask(), deny(), allow(&["/admin*"])], not_asked, Err(DenialReason::RuleDenies)),
        (vec![ask(), allow(&["/public"])], not_asked, Err(DenialReason::NoRuleAllows)),
        (vec![ask(), allow(&["/admin*"])], not_asked, Ok(())),
        (vec![deny(), allow(&["/admin*"])], Err(DenialReason::RuleDenies), Err(DenialReason::RuleDenies)),
    ] {
        assert_eq!((asked(policies.clone(), None), asked(policies, Some("opa"))), (before, after));
    }
}

#[test]
fn servers_that_contradict_each_other_refuse_what_is_to_be_asked() {
    let policies = vec![asking("opa", vec![Rule::default()]), asking("other", vec![Rule::default()])];
    for name in [None, Some("opa"), Some("other")] {
        assert_eq!(asked(policies.clone(), name), external(ExternalDenial::SeveralProviders));
    }
}

#[test]
fn a_custom_policy_that_is_not_understood_refuses_everything() {
    let faulty = AuthorizationPolicy { fault: fault(), ..asking("opa", vec![]) };
    assert_eq!(asked(vec![faulty.clone()], Some("opa")), Err(DenialReason::PolicyFault));
    check(Protocol::Tcp, vec![faulty], Err(DenialReason::PolicyFault));
}

#[test]
fn nobody_is_asked_about_a_connection_of_bytes() {
    let port = || vec![asking("opa", vec![ports(&[8080])])];
    check(Protocol::Tcp, port(), Err(DenialReason::External(ExternalDenial::NotHttp)));
    check(Protocol::Undeclared, port(), Ok(Requests::NeedDecision));
    check(Protocol::Http1, port(), Ok(Requests::NeedDecision));
    check(Protocol::Tcp, vec![asking("opa", vec![ports(&[1])])], Ok(Requests::AreCovered));
    // A rule about requests refuses without that part, as one of DENY does.
    let path = vec![asking("opa", vec![paths(&["/admin*"])])];
    check(Protocol::Tcp, path, Err(DenialReason::External(ExternalDenial::NotHttp)));
}

#[test]
fn only_a_denial_for_want_of_asking_has_somebody_to_ask() {
    let unknown = Custom { provider: "nobody".into(), authorizer: None };
    let unknown = policy("unknown", Action::Custom(Arc::new(unknown)), "api", vec![Rule::default()]);
    let snapshot = snapshot(Protocol::Http1, vec![asking("opa", vec![Rule::default()]), unknown]);
    let denial = |name: &str, reason| Denial {
        reason,
        policy: Some(PolicyName {
            kind: PolicyKind::AuthorizationPolicy,
            name: NamespacedName::new("shop", name),
        }),
        rule: Some(0),
    };
    let not_asked = DenialReason::External(ExternalDenial::NotAsked);
    assert_eq!(&*authorizer(&snapshot, denial("ask-opa", not_asked)).unwrap().name, "opa");
    let stands = |denial| authorizer(&snapshot, denial).unwrap_err().reason;
    let nobody = DenialReason::External(ExternalDenial::UnknownProvider);
    assert_eq!(stands(denial("unknown", not_asked)), nobody);
    assert_eq!(stands(denial("gone by now", not_asked)), nobody);
    assert_eq!(stands(denial("ask-opa", DenialReason::RuleDenies)), DenialReason::RuleDenies);
}
