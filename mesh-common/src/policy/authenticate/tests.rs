//! Tokens in requests: where they stand, whose they are, what is changed of the request.

use serde_json::{Value, json};

use super::*;
use crate::model::policy::{
    Action, AuthorizationPolicy, Condition, Match, Pattern, PolicyFault, Rule, Scope, Source,
};
use crate::model::request_authentication::ClaimHeader;
use crate::model::samples::{inbound, pod};
use crate::model::{NamespacedName, NormalPath, RequestTarget};
use crate::policy::{Requests, authorize_connection, authorize_request};
use crate::resolve;
use crate::snapshot::{Delta, Tables};
use crate::token::samples::{ISSUER, NOW, Signer, key_set, payload, with};
use crate::token::{Algorithm, KeySet};

fn rule() -> JwtRule {
    let keys = KeySet::parse(&key_set(&[Signer::of(Algorithm::EdDsa).jwk()])).unwrap();
    JwtRule {
        issuer: ISSUER.into(),
        audiences: vec![],
        keys: Some(Arc::new(keys)),
        keys_uri: None,
        locations: TokenLocation::usual(),
        forward_original: false,
        payload_header: None,
        claim_headers: vec![],
        space_delimited: ["scope".into(), "permission".into()].into(),
    }
}

fn object(rules: Vec<JwtRule>) -> RequestAuthentication {
    let scope =
        Scope::Selector { namespace: Some("shop".into()), labels: [("app".into(), "api".into())].into() };
    RequestAuthentication { name: NamespacedName::new("shop", "users"), scope, rules, fault: None }
}

fn token(payload: &Value) -> String {
    Signer::of(Algorithm::EdDsa).token(payload)
}

/// A mesh of two pods, `web` and `api`, with these objects.
struct World {
    snapshot: Snapshot,
    facts: ConnectionFacts,
}

impl World {
    fn new(object: RequestAuthentication, policies: Vec<AuthorizationPolicy>) -> Self {
        let (api, web) = (Arc::new(pod("api", "b", "10.0.1.1")), pod("web", "a", "10.0.0.1"));
        let mut tables = Tables::default();
        tables.apply(Delta::UpsertWorkload(Arc::clone(&api)));
        tables.apply(Delta::UpsertRequestAuthentication(Arc::new(object)));
        for policy in policies {
            tables.apply(Delta::UpsertAuthorizationPolicy(Arc::new(policy)));
        }
        Self { snapshot: tables.snapshot(), facts: inbound(&api, 8080, &web) }
    }

    fn with<T>(
        &self,
        (target, headers): (&str, &[(&str, &str)]),
        judge: impl FnOnce(&RequestFacts<'_>, Result<Option<Authenticated>, Denial>) -> T,
    ) -> T {
        let target = RequestTarget::parse(target.as_bytes()).unwrap();
        let headers: Vec<(&[u8], &[u8])> =
            headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        let path: &NormalPath<'_> = &target.path;
        let request = RequestFacts {
            method: b"GET",
            host: b"api",
            path,
            query: target.query,
            headers: &headers,
            end_user: None,
            allowed_by: None,
        };
        let destination = resolve::destination(&self.snapshot, &self.facts);
        let mut cache = TokenCache::default();
        let asked = tokens_asked(&self.snapshot, &self.facts, &destination);
        let said = asked.map(|asked| asked.authenticate(&request, NOW, &mut cache)).transpose();
        judge(&request, said)
    }

    fn user(&self, target: &str, headers: &[(&str, &str)]) -> Result<Option<String>, DenialReason> {
        self.with((target, headers), |_, said| {
            let end_user = said.map_err(|denial| denial.reason)?.unwrap().end_user;
            Ok(end_user.map(|user| user.claims.subject().unwrap().to_string()))
        })
    }

    /// The request as it goes on: its query, and its fields one a line.
    fn sent(&self, target: &str, headers: &[(&str, &str)]) -> String {
        self.with((target, headers), |request, said| {
            said.unwrap().unwrap().show(request, |request| {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let fields = request.headers.iter().map(|(name, value)| text(name) + ": " + &text(value));
                let query = request.query.map_or("-".to_owned(), text);
                std::iter::once(query).chain(fields).collect::<Vec<_>>().join("\n")
            })
        })
    }

    fn allows(&self, headers: &[(&str, &str)]) -> bool {
        self.with(("/", headers), |request, said| {
            let destination = resolve::destination(&self.snapshot, &self.facts);
            said.unwrap().unwrap().show(request, |request| {
                authorize_request(&self.snapshot, &self.facts, &destination, request).is_ok()
            })
        })
    }
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[test]
fn no_token_is_nobody_and_a_bad_one_goes_nowhere() {
    let world = World::new(object(vec![rule()]), vec![]);
    let good = bearer(&token(&payload()));
    let expired = bearer(&token(&with("exp", json!(NOW - 100))));
    let foreign = bearer(&token(&with("iss", json!("https://other.example"))));
    assert_eq!(world.user("/", &[]), Ok(None));
    assert_eq!(world.user("/", &[("Authorization", &good)]), Ok(Some("alice".into())));
    assert_eq!(
        world.user("/", &[("authorization", &good.replace("Bearer", "bearer"))]),
        Ok(Some("alice".into()))
    );
    assert_eq!(world.user("/", &[("authorization", "Basic YTpi")]), Ok(None));
    let refused = |value: &str| world.user("/", &[("authorization", value)]).unwrap_err();
    assert_eq!(refused(&expired), DenialReason::InvalidToken(TokenFault::Expired));
    assert_eq!(refused(&foreign), DenialReason::InvalidToken(TokenFault::Issuer));
    assert_eq!(refused("Bearer x"), DenialReason::InvalidToken(TokenFault::NotCompact));
}

#[test]
fn tokens_in_several_places_must_be_one_and_the_same() {
    let world = World::new(object(vec![rule()]), vec![]);
    let (alice, bob) = (token(&payload()), token(&with("sub", json!("bob"))));
    let several = Err(DenialReason::InvalidToken(TokenFault::Several));
    let query = |token: &str| format!("/?a=1&access_token={token}");
    assert_eq!(world.user(&query(&alice), &[]), Ok(Some("alice".into())));
    assert_eq!(world.user(&format!("/?%61ccess_token={alice}"), &[]), Ok(Some("alice".into())));
    assert_eq!(world.user(&query(&alice), &[("authorization", &bearer(&alice))]), Ok(Some("alice".into())));
    assert_eq!(world.user(&query(&alice), &[("authorization", &bearer(&bob))]), several);
    let two = [("authorization", &*bearer(&alice)), ("authorization", &*bearer(&bob))];
    assert_eq!(world.user("/", &two), several);
    assert_eq!(world.user(&format!("/?access_token={alice}&access_token={bob}"), &[]), several);
}

#[test]
fn a_token_counts_where_its_issuer_s_rule_looks_for_it() {
    let header = TokenLocation::Header { name: "x-token".into(), prefix: "".into() };
    let cookie = TokenLocation::Cookie("session".into());
    let other = JwtRule { issuer: "https://other.example".into(), locations: vec![header, cookie], ..rule() };
    let world = World::new(object(vec![rule(), other]), vec![]);
    let own = token(&payload());
    let foreign = token(&with("iss", json!("https://other.example")));
    let issuer = Err(DenialReason::InvalidToken(TokenFault::Issuer));
    assert_eq!(world.user("/", &[("x-token", &foreign)]), Ok(Some("alice".into())));
    assert_eq!(world.user("/", &[("cookie", &format!("a=b; session={foreign}"))]), Ok(Some("alice".into())));
    assert_eq!(world.user("/", &[("authorization", &bearer(&foreign))]), issuer);
    assert_eq!(world.user("/", &[("x-token", &own)]), issuer);
}

#[test]
fn two_rules_of_one_issuer_both_count() {
    let asking = |audience: &str| JwtRule { audiences: vec![audience.into()], ..rule() };
    let world = World::new(object(vec![asking("store"), asking("shop")]), vec![]);
    assert_eq!(world.user("/", &[("authorization", &bearer(&token(&payload())))]), Ok(Some("alice".into())));
    let other = bearer(&token(&with("aud", json!("else"))));
    let refused = world.user("/", &[("authorization", &other)]);
    assert_eq!(refused, Err(DenialReason::InvalidToken(TokenFault::Audience)));
}

#[test]
fn an_issuer_without_keys_has_no_tokens() {
    let world = World::new(object(vec![JwtRule { keys: None, ..rule() }]), vec![]);
    let refused = world.user("/", &[("authorization", &bearer(&token(&payload())))]);
    assert_eq!(refused, Err(DenialReason::InvalidToken(TokenFault::KeysMissing)));
    assert_eq!(world.user("/", &[]), Ok(None));
}

#[test]
fn what_is_not_understood_refuses_every_request() {
    let fault = PolicyFault { field: "spec".into(), reason: "unknown".into() };
    let faulty = RequestAuthentication { fault: Some(Arc::new(fault)), ..object(vec![]) };
    let refused = World::new(faulty, vec![]).user("/", &[]);
    assert_eq!(refused, Err(DenialReason::PolicyFault));
}

#[test]
fn the_token_is_taken_out_unless_it_is_to_be_forwarded() {
    let alice = token(&payload());
    let places = vec![
        TokenLocation::Header { name: "authorization".into(), prefix: "Bearer ".into() },
        TokenLocation::Parameter("t".into()),
        TokenLocation::Cookie("c".into()),
    ];
    let taken = JwtRule { locations: places.clone(), ..rule() };
    let world = World::new(object(vec![taken]), vec![]);
    let header = bearer(&alice);
    let cookie = format!("a=1; c={alice}; b=2");
    assert_eq!(world.sent("/?x=1", &[("authorization", &header), ("a", "b")]), "x=1\na: b");
    assert_eq!(world.sent(&format!("/?t={alice}"), &[]), "-");
    assert_eq!(world.sent(&format!("/?a=1&t={alice}&b"), &[]), "a=1&b");
    assert_eq!(world.sent("/", &[("cookie", &cookie)]), "-\ncookie: a=1; b=2");
    assert_eq!(world.sent("/", &[("cookie", &format!("c={alice}"))]), "-");
    let kept = JwtRule { locations: places, forward_original: true, ..rule() };
    let world = World::new(object(vec![kept]), vec![]);
    assert_eq!(world.sent("/", &[("authorization", &header)]), format!("-\nauthorization: {header}"));
}

#[test]
fn fields_that_rules_write_are_nobody_else_s() {
    let claim = |header: &str, path: &[&str]| ClaimHeader {
        header: header.into(),
        claim: path.iter().map(|name| (*name).into()).collect(),
    };
    let writing = JwtRule {
        payload_header: Some("x-payload".into()),
        claim_headers: vec![
            claim("x-user", &["sub"]),
            claim("x-role", &["realm", "role"]),
            claim("x-level", &["level"]),
            claim("x-list", &["list"]),
            claim("x-line", &["line"]),
        ],
        ..rule()
    };
    let world = World::new(object(vec![writing]), vec![]);
    let forged =
        [("X-User", "admin"), ("x_user", "admin"), ("x-payload", "e30"), ("x-list", "1"), ("a", "b")];
    assert_eq!(world.sent("/", &forged), "-\na: b");
    let mut payload = with("realm", json!({"role": "clerk"}));
    payload["level"] = json!(7);
    payload["list"] = json!(["a"]);
    payload["line"] = json!("a\r\nx-user: admin");
    let header = bearer(&token(&payload));
    let encoded = crate::token::samples::encode(payload.to_string().as_bytes());
    assert_eq!(
        world.sent("/", &[&forged[..], &[("authorization", &header)]].concat()),
        format!("-\na: b\nx-payload: {encoded}\nx-user: alice\nx-role: clerk\nx-level: 7")
    );
}

#[test]
fn a_port_that_may_speak_http_is_read_as_such() {
    let world = World::new(object(vec![rule()]), vec![]);
    let destination = resolve::destination(&world.snapshot, &world.facts);
    let permit = authorize_connection(&world.snapshot, &world.facts, &destination).unwrap();
    assert_eq!(permit.requests(), Requests::NeedDecision);
}

#[test]
fn outbound_requests_and_other_pods_are_not_looked_at() {
    let scope = Scope::Namespace("other".into());
    let world = World::new(RequestAuthentication { scope, ..object(vec![rule()]) }, vec![]);
    world.with(("/", &[("authorization", "Bearer x")]), |_, said| assert_eq!(said, Ok(None)));
    let mut world = World::new(object(vec![rule()]), vec![]);
    world.facts.direction = Direction::Outbound;
    world.with(("/", &[("authorization", "Bearer x")]), |_, said| assert_eq!(said, Ok(None)));
}

fn values(any_of: &[&str], none_of: &[&str]) -> Match<Pattern> {
    let pattern = |text: &&str| match (text.strip_prefix('*'), text.strip_suffix('*')) {
        (Some(""), _) => Pattern::Present,
        (Some(end), _) => Pattern::Suffix(end.into()),
        (_, Some(start)) => Pattern::Prefix(start.into()),
        _ => Pattern::Exact((*text).into()),
    };
    Match { any_of: any_of.iter().map(pattern).collect(), none_of: none_of.iter().map(pattern).collect() }
}

/// Whether an ALLOW of one rule lets a request with this payload through, and whether a DENY of it does.
fn decided(rule_: Rule, payload: Option<&Value>) -> (bool, bool) {
    let header = payload.map(|payload| bearer(&token(payload)));
    let headers: Vec<(&str, &str)> = header.iter().map(|value| ("authorization", &**value)).collect();
    let of = |action: Action| {
        let policy = AuthorizationPolicy {
            name: NamespacedName::new("shop", "policy"),
            scope: Scope::Namespace("shop".into()),
            action,
            mode: crate::model::policy::Mode::Enforce,
            rules: vec![rule_.clone()],
            fault: None,
        };
        World::new(object(vec![rule()]), vec![policy]).allows(&headers)
    };
    (of(Action::Allow), of(Action::Deny))
}

#[track_caller]
fn check_condition(condition: Condition, payload: Option<&Value>, matches: bool) {
    let said = format!("{condition:?} {payload:?}");
    let rule = Rule { when: vec![condition], ..Rule::default() };
    assert_eq!(decided(rule, payload), (matches, !matches), "{said}");
}

#[test]
fn sources_name_the_principals_of_tokens() {
    let from = |any_of: &[&str], none_of: &[&str]| Rule {
        from: vec![Source { request_principals: values(any_of, none_of), ..Source::default() }],
        ..Rule::default()
    };
    let (alice, nameless) = (payload(), with("sub", Value::Null));
    for (any_of, none_of, matches) in [
        (&["https://issuer.example/alice"][..], &[][..], true),
        (&["https://issuer.example/*"], &[], true),
        (&["*/alice"], &[], true),
        (&["*"], &[], true),
        (&["https://issuer.example/bob"], &[], false),
        (&[], &["https://issuer.example/alice"], false),
        (&["*"], &["*/bob"], true),
    ] {
        assert_eq!(
            decided(from(any_of, none_of), Some(&alice)),
            (matches, !matches),
            "{any_of:?} {none_of:?}"
        );
    }
    for nobody in [None, Some(&nameless)] {
        assert_eq!(decided(from(&["*"], &[]), nobody), (false, true));
        assert_eq!(decided(from(&[], &["*"]), nobody), (true, false));
    }
}

#[test]
fn conditions_ask_for_claims() {
    let claim = |path: &[&str], any_of: &[&str], none_of: &[&str]| Condition::RequestClaim {
        path: path.iter().map(|name| (*name).into()).collect(),
        values: values(any_of, none_of),
    };
    let mut user = with("groups", json!(["staff", "admins"]));
    user["realm"] = json!({"roles": ["clerk"], "level": 3});
    user["scope"] = json!("read write");
    user["note"] = json!("read write");
    user["verified"] = json!(true);
    user["azp"] = json!("app-1");
    user["aud"] = json!(["shop", "store"]);
    for (condition, matches) in [
        (claim(&["groups"], &["admins"], &[]), true),
        (claim(&["groups"], &["adm*"], &[]), true),
        (claim(&["groups"], &["guests"], &[]), false),
        (claim(&["groups"], &[], &["admins"]), false),
        (claim(&["groups"], &[], &["guests"]), true),
        (claim(&["groups"], &["staff"], &["admins"]), false),
        (claim(&["realm", "roles"], &["clerk"], &[]), true),
        (claim(&["realm", "level"], &["3"], &[]), true),
        (claim(&["realm"], &["*"], &[]), false),
        (claim(&["scope"], &["write"], &[]), true),
        (claim(&["scope"], &["read write"], &[]), false),
        (claim(&["note"], &["write"], &[]), false),
        (claim(&["note"], &["read write"], &[]), true),
        (claim(&["verified"], &["true"], &[]), true),
        (claim(&["missing"], &["*"], &[]), false),
        (claim(&["missing"], &[], &["*"]), true),
        (Condition::RequestPrincipal(values(&["https://issuer.example/alice"], &[])), true),
        (Condition::RequestPrincipal(values(&[], &["*"])), false),
        (Condition::RequestAudiences(values(&["store"], &[])), true),
        (Condition::RequestAudiences(values(&["else"], &[])), false),
        (Condition::RequestAudiences(values(&[], &["shop"])), false),
        (Condition::RequestPresenter(values(&["app-1"], &[])), true),
        (Condition::RequestPresenter(values(&[], &["app-1"])), false),
    ] {
        check_condition(condition.clone(), Some(&user), matches);
        // Nobody has no claim: no value is matched, every negation is.
        let list = match &condition {
            Condition::RequestClaim { values, .. }
            | Condition::RequestPrincipal(values)
            | Condition::RequestAudiences(values)
            | Condition::RequestPresenter(values) => values,
            _ => unreachable!("only conditions about users stand here"),
        };
        check_condition(condition.clone(), None, list.any_of.is_empty());
    }
}
