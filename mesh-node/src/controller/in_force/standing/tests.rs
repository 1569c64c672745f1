use std::sync::Arc;

use mesh_common::model::policy::{Action, AuthorizationPolicy, Mode, Scope};
use mesh_common::model::{NamespacedName, PodDetails, SpiffeId, Workload};
use mesh_common::snapshot::{Delta, Snapshot, Tables};

use super::*;
use crate::control::object::Kind;
use crate::controller::discovery::Progress;
use crate::controller::in_force::entry::tag;
use crate::controller::in_force::record::Recent;
use crate::controller::inventory::Policy;
use crate::xds::{Key, ResourceType};

const AGENT: &str = "spiffe://cluster.local/ns/nodemesh-system/sa/nodemesh-agent";

fn pod(namespace: &str, name: &str, node: &str, account: &str) -> Delta {
    let identity: SpiffeId = format!("spiffe://cluster.local/ns/{namespace}/sa/{account}").parse().unwrap();
    let labels = [("app".into(), name.split('-').next().unwrap().into())].into();
    let details = Arc::new(PodDetails { labels, ..PodDetails::default() });
    let workload = Workload::new(NamespacedName::new(namespace, name), node, identity);
    Delta::UpsertWorkload(Arc::new(Workload { details, ..workload }))
}

fn policy(namespace: &str, name: &str, scope: Scope) -> Delta {
    Delta::UpsertAuthorizationPolicy(Arc::new(AuthorizationPolicy {
        name: NamespacedName::new(namespace, name),
        scope,
        action: Action::Allow,
        mode: Mode::Enforce,
        rules: Vec::new(),
        fault: None,
    }))
}

fn selector(namespace: Option<&str>, app: &str) -> Scope {
    Scope::Selector { namespace: namespace.map(Text::from), labels: [("app".into(), app.into())].into() }
}

/// Agents on a, b and c, none on d; pods of shop on a, b and d, one of another namespace on c.
fn snapshot() -> Snapshot {
    let mut tables = Tables::default();
    let agents =
        ["a", "b", "c"].map(|node| pod("nodemesh-system", &format!("agent-{node}"), node, "nodemesh-agent"));
    let pods = [
        pod("shop", "web-1", "a", "web"),
        pod("shop", "web-2", "b", "web"),
        pod("shop", "db-1", "b", "db"),
        pod("shop", "web-3", "d", "web"),
        pod("bank", "web-4", "c", "web"),
    ];
    let policies = [
        policy("nodemesh-system", "mesh", Scope::Mesh),
        policy("shop", "namespace", Scope::Namespace("shop".into())),
        policy("shop", "db", selector(Some("shop"), "db")),
        policy("shop", "nobodys", selector(Some("shop"), "cache")),
        policy("nodemesh-system", "web", selector(None, "web")),
        policy("shop", "services", Scope::Services(vec![NamespacedName::new("shop", "web")])),
    ];
    for delta in agents.into_iter().chain(pods).chain(policies) {
        tables.apply(delta);
    }
    tables.snapshot()
}

fn key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey { kind: Kind::AuthorizationPolicy, name: NamespacedName::new(namespace, name) }
}

fn resource_of(name: &str) -> Key {
    Key { kind: ResourceType::AuthorizationPolicy, name: name.into() }
}

fn seen(generation: i64) -> Fingerprints {
    let policy = Arc::new(Policy { generation, ..Policy::default() });
    Fingerprints::of(&[(key("shop", "namespace"), policy)].into())
}

fn following(nodes: &[&str]) -> Progress {
    Progress { nodes: nodes.iter().map(|node| Text::from(*node)).collect(), ..Progress::default() }
}

fn picture(entries: &[(i64, Progress)]) -> Picture {
    let entry = |(generation, progress): &(i64, Progress)| Arc::new(Entry::new(seen(*generation), progress));
    Picture { entries: entries.iter().map(entry).collect(), mine: seen(1), recent: Recent::default() }
}

fn standing(picture: &Picture, policy: &ObjectKey) -> Option<Standing> {
    let (snapshot, agent) = (snapshot(), AGENT.parse().unwrap());
    let audience = Audience::of(&snapshot, &agent);
    Said::of(picture, &audience).standing(policy)
}

fn named(nodes: &[&str]) -> Named {
    Named { count: nodes.len(), first: nodes.iter().map(|node| Text::from(*node)).collect() }
}

fn behind(nodes: &[&str], late: &[&str]) -> Progress {
    let late = late.iter().map(|node| Text::from(*node)).collect();
    Progress { behind: [(resource_of("shop/namespace"), late)].into(), ..following(nodes) }
}

fn refusing(nodes: &[&str], name: &str, reasons: &[(&str, &str)]) -> Progress {
    let reasons = reasons.iter().map(|(node, reason)| (Text::from(*node), (*reason).to_owned())).collect();
    Progress { refused: [(resource_of(name), reasons)].into(), ..following(nodes) }
}

/// Of the policy of the namespace, which a and b need.
fn check(entries: &[(i64, Progress)], expected: Standing) {
    let found = standing(&picture(entries), &key("shop", "namespace")).unwrap();
    assert_eq!(found, Standing { needed: 2, ..expected }, "{entries:?}");
}

#[test]
fn a_policy_is_needed_where_there_is_an_agent_and_a_pod_that_it_may_be_about() {
    let picture = picture(&[(1, following(&["a", "b", "c"]))]);
    for (namespace, name, needed) in [
        ("nodemesh-system", "mesh", 3),
        ("shop", "namespace", 2),
        ("shop", "db", 1),
        ("shop", "nobodys", 0),
        ("nodemesh-system", "web", 3),
        ("shop", "services", 2),
    ] {
        let found = standing(&picture, &key(namespace, name)).unwrap();
        assert_eq!(found, Standing { needed, in_force: needed, ..Standing::default() }, "{name}");
    }
    assert_eq!(standing(&picture, &key("shop", "away")), None);
}

#[test]
fn agents_of_all_replicas_count_once() {
    let both = Standing { in_force: 2, ..Standing::default() };
    check(&[(1, following(&["a"])), (1, following(&["b"]))], both.clone());
    check(&[(1, following(&["a", "b"])), (1, following(&["b"]))], both);
}

#[test]
fn who_follows_nobody_is_away_and_who_did_a_moment_ago_may_come_again() {
    let away = Standing { in_force: 1, away: named(&["b"]), ..Standing::default() };
    check(&[(1, following(&["a"]))], away.clone());
    let recent = Recent::Only([tag("b")].into());
    let picture = Picture { recent, ..picture(&[(1, following(&["a"]))]) };
    let found = standing(&picture, &key("shop", "namespace")).unwrap();
    assert_eq!(found, Standing { needed: 2, is_open: true, ..away });
}

#[test]
fn what_a_replica_says_of_a_policy_as_it_was_is_not_said_of_it_as_it_is() {
    let open = Standing { in_force: 1, behind: named(&["b"]), is_open: true, ..Standing::default() };
    check(&[(1, following(&["a"])), (2, following(&["b"]))], open);
    // Other heaps are known.
    let picture = picture(&[(1, following(&["a"])), (2, following(&["b"]))]);
    assert_eq!(standing(&picture, &key("shop", "db")).unwrap().in_force, 1);
    // Who has gone over to another replica counts there, whatever the one before has not heard.
    check(
        &[(1, following(&["a", "b"])), (2, following(&["b"]))],
        Standing { in_force: 2, ..Standing::default() },
    );
}

#[test]
fn who_is_behind_or_refuses_is_named_with_what_it_says() {
    let late = Standing { in_force: 1, behind: named(&["b"]), ..Standing::default() };
    check(&[(1, behind(&["a", "b"], &["b"]))], late);
    let refused = |nodes: &[&str]| Standing {
        in_force: 2 - nodes.len(),
        refused: [("rules[0]: no".to_owned(), named(nodes))].into(),
        ..Standing::default()
    };
    let no = "rules[0]: no";
    check(&[(1, following(&["a"])), (1, refusing(&["b"], "shop/namespace", &[("b", no)]))], refused(&["b"]));
    check(&[(1, refusing(&["a", "b"], "shop/namespace", &[("a", no), ("b", no)]))], refused(&["a", "b"]));
    // One that refuses a whole answer has none of its policies.
    check(&[(1, refusing(&["a", "b"], "*", &[("a", no)]))], refused(&["a"]));
    // Of another policy.
    check(
        &[(1, refusing(&["a", "b"], "shop/db", &[("a", no)]))],
        Standing { in_force: 2, ..Standing::default() },
    );
}

#[test]
fn where_not_all_exceptions_are_named_nothing_is_known_of_the_rest() {
    let cut = Progress { is_cut: true, ..behind(&["a", "b"], &["a"]) };
    let open = Standing { behind: named(&["a", "b"]), is_open: true, ..Standing::default() };
    check(&[(1, cut)], open);
}
