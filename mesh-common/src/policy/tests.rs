use std::sync::Arc;

use super::*;
use crate::model::AuthorizationPolicy;
use crate::model::policy::Action;
use crate::model::samples::{from_principals, inbound, pod, policy, service};
use crate::snapshot::{Delta, Tables};

fn snapshot(policies: Vec<AuthorizationPolicy>) -> Snapshot {
    let mut tables = Tables::default();
    tables.apply(Delta::UpsertWorkload(Arc::new(pod("web", "a", "10.0.0.1"))));
    tables.apply(Delta::UpsertWorkload(Arc::new(pod("api", "b", "10.0.1.1"))));
    tables.apply(Delta::UpsertService(Arc::new(service("api", "10.96.0.10"))));
    for policy in policies {
        tables.apply(Delta::UpsertAuthorizationPolicy(Arc::new(policy)));
    }
    tables.snapshot()
}

/// What `web` gets to hear when it connects to a port of `api`.
fn connect(policies: Vec<AuthorizationPolicy>, port: u16) -> Result<Requests, Denial> {
    let snapshot = snapshot(policies);
    let api = Arc::new(pod("api", "b", "10.0.1.1"));
    let facts = inbound(&api, port, &pod("web", "a", "10.0.0.1"));
    let destination = resolve::destination(&snapshot, &facts);
    authorize_connection(&snapshot, &facts, &destination).map(|permit| permit.requests())
}

fn reason(result: Result<Requests, Denial>) -> Result<Requests, DenialReason> {
    result.map_err(|denial| denial.reason)
}

const WEB: &str = "cluster.local/ns/shop/sa/web";

#[test]
fn without_a_policy_everything_is_permitted() {
    assert_eq!(connect(vec![], 8080), Ok(Requests::AreCovered));
}

#[test]
fn an_allow_makes_the_rest_denied() {
    let allow = policy(
        "only-admin",
        Action::Allow,
        "api",
        vec![from_principals(&["cluster.local/ns/shop/sa/admin"])],
    );
    let denial = connect(vec![allow], 8080).unwrap_err();
    assert_eq!(denial.to_string(), "no rule allows it (AuthorizationPolicy shop/only-admin)");
}

#[test]
fn deny_wins_over_allow() {
    let allow = policy("allow", Action::Allow, "api", vec![from_principals(&[WEB])]);
    let deny = policy("deny", Action::Deny, "", vec![from_principals(&["cluster.local/ns/shop/*"])]);
    assert_eq!(connect(vec![allow.clone()], 8080), Ok(Requests::AreCovered));
    assert_eq!(reason(connect(vec![allow, deny], 8080)), Err(DenialReason::RuleDenies));
}

#[test]
fn every_reason_has_a_code_of_its_own() {
    let codes: std::collections::BTreeSet<_> =
        DenialReason::ALL.into_iter().map(DenialReason::code).collect();
    assert_eq!(codes.len(), DenialReason::ALL.len());
}
