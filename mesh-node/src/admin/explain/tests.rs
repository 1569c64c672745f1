use std::collections::BTreeMap;
use std::time::Duration;

use mesh_common::model::policy::{
    Action, AuthorizationPolicy, Condition, Match, Mode, MutualTls, Operation, Pattern, PeerAuthentication,
    Rule, Scope, Source,
};
use mesh_common::model::service::{
    InternalTrafficPolicy, Service, ServicePort, TargetPort, TrafficDistribution,
};
use mesh_common::model::workload::{Enrolment, PodDetails};
use mesh_common::model::{
    AuthorizerProtocol, Custom, ExternalAuthorizer, NamespacedName, SpiffeId, TrustDomain, Workload,
    WorkloadUid,
};
use mesh_common::snapshot::{Delta, Snapshot, Tables};

use super::documents::{Answer, Explanation, Question};
use super::*;

fn pod(name: &str, address: &str) -> Workload {
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let identity = SpiffeId::new(&domain, "shop", name).unwrap();
    Workload {
        uid: WorkloadUid(name.into()),
        addresses: [address.parse().unwrap()].into_iter().collect(),
        details: Arc::new(PodDetails {
            labels: BTreeMap::from([("app".into(), name.into())]),
            named_ports: [("http".into(), 8080)].into_iter().collect(),
            ..PodDetails::default()
        }),
        ..Workload::new(NamespacedName::new("shop", name), format!("node-of-{name}"), identity)
    }
}

fn service(protocol: Protocol) -> Service {
    let port = |name: &str, port, target, protocol| ServicePort {
        name: name.into(),
        port,
        target_port: TargetPort::Number(target),
        node_port: None,
        protocol,
    };
    Service {
        name: NamespacedName::new("shop", "web"),
        host: "web.shop.svc.cluster.local".into(),
        cluster_ips: ["10.96.0.10".parse().unwrap()].into_iter().collect(),
        external_addresses: Default::default(),
        selector: BTreeMap::from([("app".into(), "web".into())]),
        ports: vec![port("http", 80, 8080, protocol), port("tcp", 9000, 9000, Protocol::Tcp)],
        client_ip_affinity: None,
        internal_traffic_policy: InternalTrafficPolicy::Cluster,
        traffic_distribution: TrafficDistribution::Any,
        publish_not_ready: false,
    }
}

fn policy(name: &str, action: Action, rules: Vec<Rule>) -> Delta {
    Delta::UpsertAuthorizationPolicy(Arc::new(AuthorizationPolicy {
        name: NamespacedName::new("shop", name),
        scope: Scope::Namespace("shop".into()),
        action,
        mode: Mode::Enforce,
        rules,
        fault: None,
    }))
}

fn exact(texts: &[&str]) -> Match<Pattern> {
    let any_of = texts.iter().map(|text| match text.strip_suffix('*') {
        Some(prefix) => Pattern::Prefix(prefix.into()),
        None => Pattern::Exact((*text).into()),
    });
    Match { any_of: any_of.collect(), none_of: Vec::new() }
}

fn readers() -> Rule {
    let source = Source { service_accounts: exact(&["shop/client"]), ..Source::default() };
    let operation =
        Operation { methods: exact(&["GET"]), paths: exact(&["/public*"]), ..Operation::default() };
    Rule { from: vec![source], to: vec![operation], when: vec![] }
}

/// Pods `client`, `other` and `web`, a Service `web`, and these.
fn snapshot(deltas: Vec<Delta>) -> Snapshot {
    let mut tables = Tables::default();
    for (name, address) in [("client", "10.0.0.1"), ("other", "10.0.0.2"), ("web", "10.0.1.1")] {
        tables.apply(Delta::UpsertWorkload(Arc::new(pod(name, address))));
    }
    tables.apply(Delta::UpsertService(Arc::new(service(Protocol::Http1))));
    for delta in deltas {
        tables.apply(delta);
    }
    tables.snapshot()
}

fn question(from: &str, to: &str) -> Question {
    Question { from: Some(from.to_owned()), to: to.to_owned(), ..Question::default() }
}

fn get(from: &str, path: &str) -> Question {
    Question { path: Some(path.to_owned()), ..question(from, "shop/web:80") }
}

fn ask(snapshot: &Snapshot, question: &Question) -> Result<Explanation, String> {
    explain(Knowledge { snapshot, only_node: None, now: 0 }, question)
}

#[test]
fn a_request_that_a_rule_allows_names_it() {
    let snapshot = snapshot(vec![policy("readers", Action::Allow, vec![readers()])]);
    let said = ask(&snapshot, &get("shop/client", "/public/a")).unwrap();
    assert_eq!(said.answer, Answer::Allowed, "{said:?}");
    assert_eq!(said.decided_by.as_deref(), Some("AuthorizationPolicy shop/readers rules[0]"));
    assert_eq!(said.called.service.as_deref(), Some("shop/web:80"), "{said:?}");
    assert_eq!(said.called.address, "10.0.1.1:8080");
    assert_eq!(said.request.as_deref(), Some("GET web.shop.svc.cluster.local/public/a"));
}

#[test]
fn a_refusal_says_which_rule_comes_nearest_and_what_it_misses() {
    let far = Rule {
        from: vec![Source { namespaces: exact(&["ops"]), ..Source::default() }],
        to: vec![Operation { methods: exact(&["DELETE"]), ..Operation::default() }],
        when: vec![],
    };
    let snapshot = snapshot(vec![policy("readers", Action::Allow, vec![far, readers()])]);
    let said = ask(&snapshot, &get("shop/client", "/private")).unwrap();
    assert_eq!((said.answer, said.code.as_deref()), (Answer::Refused, Some("no_rule_allows")), "{said:?}");
    let nearest = said.nearest.unwrap();
    assert_eq!(nearest.rule, "AuthorizationPolicy shop/readers rules[1]");
    let misses: Vec<_> =
        nearest.misses.iter().map(|miss| format!("{}: {}", miss.field, miss.reason)).collect();
    assert_eq!(misses, ["to[0].operation.paths: /private is not one of /public*"]);
    let stranger = ask(&snapshot, &get("outside", "/public")).unwrap().nearest.unwrap();
    assert_eq!(
        stranger.misses[0].reason, "the caller proved no identity; must be one of shop/client",
        "{stranger:?}"
    );
}

#[test]
fn a_deny_is_told_with_what_would_allow() {
    let deny = Rule { to: readers().to, ..Rule::default() };
    let deltas =
        vec![policy("deny", Action::Deny, vec![deny]), policy("readers", Action::Allow, vec![readers()])];
    let said = ask(&snapshot(deltas), &get("shop/client", "/public")).unwrap();
    assert_eq!(said.decided_by.as_deref(), Some("AuthorizationPolicy shop/deny rules[0]"), "{said:?}");
    assert!(said.nearest.unwrap().misses.is_empty(), "the other allows it");
    let alone = snapshot(vec![policy("deny", Action::Deny, vec![Rule::default()])]);
    let said = ask(&alone, &get("shop/client", "/")).unwrap();
    assert!(said.nearest.is_none() && said.notes[0].contains("no ALLOW policy"), "{said:?}");
}

#[test]
fn a_connection_to_http_depends_on_its_requests_and_one_of_bytes_does_not() {
    let deltas = || vec![policy("readers", Action::Allow, vec![readers()])];
    let said = ask(&snapshot(deltas()), &question("shop/client", "shop/web:80")).unwrap();
    assert_eq!(said.answer, Answer::DependsOnRequest, "{said:?}");
    let said = ask(&snapshot(deltas()), &question("shop/client", "shop/web:9000")).unwrap();
    assert_eq!(said.answer, Answer::Refused, "{said:?}");
    assert!(said.nearest.unwrap().misses[0].reason.contains("not read as HTTP"));
    let bytes = Question { to: "shop/web:9000".to_owned(), ..get("shop/client", "/public") };
    let said = ask(&snapshot(deltas()), &bytes).unwrap();
    assert!(said.answer == Answer::Refused && said.notes[0].contains("declared tcp"), "{said:?}");
}

#[test]
fn plaintext_under_strict_is_refused_before_any_rule() {
    let strict = PeerAuthentication {
        name: NamespacedName::new("shop", "strict"),
        scope: Scope::Namespace("shop".into()),
        created: 0,
        mode: Some(MutualTls::Strict),
        ports: BTreeMap::new(),
    };
    let snapshot = snapshot(vec![Delta::UpsertPeerAuthentication(Arc::new(strict))]);
    let said = ask(&snapshot, &get("192.0.2.7", "/")).unwrap();
    assert_eq!(said.decided_by.as_deref(), Some("PeerAuthentication shop/strict"), "{said:?}");
    assert_eq!(said.mutual_tls.as_deref(), Some("STRICT, by PeerAuthentication shop/strict"));
    let said = ask(&snapshot, &get("10.0.0.1", "/")).unwrap();
    assert_eq!((said.answer, said.caller.pod.as_deref()), (Answer::Allowed, Some("shop/client")), "{said:?}");
}

#[test]
fn an_identity_may_be_anybodys() {
    let snapshot = snapshot(vec![policy("readers", Action::Allow, vec![readers()])]);
    let with = |identity: &str| Question {
        from: None,
        from_identity: Some(identity.to_owned()),
        ..get("", "/public")
    };
    let said = ask(&snapshot, &with("spiffe://cluster.local/ns/shop/sa/client")).unwrap();
    assert_eq!((said.answer, &*said.caller.address), (Answer::Allowed, "10.0.0.1"), "{said:?}");
    let said = ask(&snapshot, &with("spiffe://cluster.local/ns/shop/sa/nobody")).unwrap();
    assert_eq!((said.answer, &*said.caller.address), (Answer::Refused, "203.0.113.1"), "{said:?}");
    assert!(ask(&snapshot, &with("shop/client")).unwrap_err().starts_with("--from-identity: "));
}

#[test]
fn findings_and_second_readings_are_told() {
    let paths = |texts: &[&str]| Rule {
        to: vec![Operation { paths: exact(texts), ..Operation::default() }],
        ..Rule::default()
    };
    let snapshot = snapshot(vec![policy("watch", Action::Audit, vec![paths(&["/a"])])]);
    let said = ask(&snapshot, &get("shop/client", "/a;x=1")).unwrap();
    assert_eq!(said.findings, ["AuthorizationPolicy shop/watch rules[0] matches, and only reports that"]);
    assert!(said.notes.iter().any(|note| note.contains("the path /a;x=1 can be read as /a too")), "{said:?}");
    assert!(said.notes.iter().any(|note| note.contains("in one reading")), "{said:?}");
}

#[test]
fn what_callers_may_not_say_is_taken_out_and_what_is_malformed_is_400() {
    let header = Condition::RequestHeader { name: "x-nodemesh-role".into(), values: exact(&["admin"]) };
    let rule = Rule { when: vec![header], ..Rule::default() };
    let snapshot = snapshot(vec![policy("role", Action::Allow, vec![rule])]);
    let mut asked = get("shop/client", "/");
    asked.headers.push(("X-Nodemesh-Role".to_owned(), "admin".to_owned()));
    let said = ask(&snapshot, &asked).unwrap();
    assert!(said.answer == Answer::Refused && said.notes[0].contains("taken out"), "{said:?}");
    let said = ask(&snapshot, &get("shop/client", "/%zz")).unwrap();
    assert_eq!((said.answer, said.code.as_deref()), (Answer::Refused, Some("path_bad_escape")), "{said:?}");
}

#[test]
fn a_pod_outside_the_mesh_asks_no_policy() {
    let mut web = pod("web", "10.0.1.1");
    web.enrolment = Enrolment::Disabled;
    let deltas = vec![policy("nothing", Action::Allow, vec![]), Delta::UpsertWorkload(Arc::new(web))];
    let said = ask(&snapshot(deltas), &question("shop/client", "shop/web:8080")).unwrap();
    assert!(said.answer == Answer::Allowed && said.reason.contains("is not enrolled"), "{said:?}");
    assert_eq!(said.decided_at, None);
}

#[test]
fn what_is_not_known_is_said_with_what_is() {
    let snapshot = snapshot(vec![]);
    let error = |from: &str, to: &str| ask(&snapshot, &question(from, to)).unwrap_err();
    assert_eq!(
        error("shop/clinet", "shop/web:80"),
        "--from: no pod shop/clinet is known; is shop/client meant?"
    );
    assert_eq!(
        error("shop/x", "shop/web:80"),
        "--from: no pod shop/x is known; known in shop: shop/client, shop/other, shop/web"
    );
    assert!(error("client", "shop/web:80").starts_with("--from: \"client\" is no name"));
    assert!(error("shop/client", "shop/web").starts_with("--to: \"shop/web\" names no port"));
    assert_eq!(
        error("shop/client", "service/shop/web:81"),
        "--to: \"81\" is no port of Service shop/web; it has 80 http, 9000 tcp"
    );
    assert_eq!(
        error("shop/client", "pod/shop/web:https"),
        "--to: \"https\" is no port of shop/web; it has http (8080)"
    );
    assert!(error("shop/client", "svc/shop/client:80").starts_with("--to: no pod or Service shop/client"));
}

#[test]
fn an_agent_that_is_not_told_of_others_policies_says_so() {
    let snapshot = snapshot(vec![]);
    let asked = question("shop/client", "shop/web:80");
    let knowledge = |node| Knowledge { snapshot: &snapshot, only_node: Some(node), now: 0 };
    let error = explain(knowledge("node-of-client"), &asked).unwrap_err();
    assert!(error.ends_with("ask the agent of node-of-web"), "{error}");
    assert!(explain(knowledge("node-of-web"), &asked).is_ok());
}

/// What is asked of server `opa` for `/staff*`; `None`: the mesh's configuration has no such server.
fn custom(fail_open: Option<bool>) -> Delta {
    let authorizer = fail_open.map(|fail_open| {
        Arc::new(ExternalAuthorizer {
            name: "opa".into(),
            protocol: AuthorizerProtocol::Grpc,
            service: NamespacedName::new("shop", "opa"),
            port: 9191,
            timeout: Duration::from_secs(1),
            fail_open,
            status_on_error: 403,
            body: None,
        })
    });
    policy(
        "ask",
        Action::Custom(Arc::new(Custom { provider: "opa".into(), authorizer })),
        vec![to("/staff*")],
    )
}

fn to(path: &str) -> Rule {
    Rule { to: vec![Operation { paths: exact(&[path]), ..Operation::default() }], ..Rule::default() }
}

#[test]
fn an_authorization_server_has_the_word_before_the_rules_and_after_it_they_have() {
    let asked = |deltas: Vec<Delta>, path: &str| ask(&snapshot(deltas), &get("shop/client", path)).unwrap();
    for (fail_open, silent) in [(false, "refused"), (true, "as if it allowed")] {
        let allow = policy("all", Action::Allow, vec![Rule::default()]);
        let said = asked(vec![custom(Some(fail_open)), allow], "/staff");
        assert_eq!(said.answer, Answer::DependsOnProvider, "{said:?}");
        let then = "the authorization server opa is asked; if it allows: AuthorizationPolicy shop/all rules[0] allows it";
        assert_eq!(said.reason, then);
        let note = "AuthorizationPolicy shop/ask rules[0] asks the authorization server opa (shop/opa:9191) first: if it \
                    denies, the request is refused; if it says nothing in time, ";
        assert_eq!(said.notes, [format!("{note}{silent}")]);
    }
    let deny = policy("deny", Action::Deny, vec![to("/staff*")]);
    let said = asked(vec![custom(Some(true)), deny], "/staff");
    assert_eq!(
        said.decided_by.as_deref(),
        Some("AuthorizationPolicy shop/deny rules[0]"),
        "whatever it says"
    );
    assert!(said.answer == Answer::Refused && said.notes.iter().any(|note| note.contains("opa")), "{said:?}");
    let said = asked(vec![custom(Some(false))], "/open");
    assert!(said.answer == Answer::Allowed && said.notes.is_empty(), "nobody is asked: {said:?}");
    let said = asked(vec![custom(None)], "/staff");
    assert_eq!(said.code.as_deref(), Some("ext_authz_unknown_provider"), "{said:?}");
    assert_eq!(said.decided_by.as_deref(), Some("AuthorizationPolicy shop/ask rules[0]"), "{said:?}");
    let connection =
        ask(&snapshot(vec![custom(Some(false))]), &question("shop/client", "shop/web:80")).unwrap();
    assert_eq!(connection.answer, Answer::DependsOnRequest, "{connection:?}");
}

#[test]
fn the_name_that_tls_asks_for_counts() {
    let rule = Rule { when: vec![Condition::ConnectionServerName(exact(&["db.shop"]))], ..Rule::default() };
    let snapshot = snapshot(vec![policy("names", Action::Allow, vec![rule])]);
    let named = |name: Option<&str>| Question {
        server_name: name.map(ToOwned::to_owned),
        ..question("shop/client", "shop/web:9000")
    };
    let said = |name| ask(&snapshot, &named(name)).unwrap();
    assert_eq!(said(Some("DB.shop.")).answer, Answer::Allowed);
    for name in [None, Some("other.shop")] {
        let said = said(name);
        assert_eq!(said.answer, Answer::Refused, "{said:?}");
        assert_eq!(said.nearest.unwrap().misses[0].field, "when[0] connection.sni.values", "{name:?}");
    }
    let both = Question { path: Some("/".to_owned()), ..named(Some("db.shop")) };
    assert!(ask(&snapshot, &both).unwrap_err().starts_with("--sni: "));
}
