mod laws;
mod partial;
mod rig;

use std::time::Duration;

use mesh_common::model::policy::Action;
use mesh_common::snapshot::Delta;
use tonic::Code;

use self::rig::{Agent, Rig, full, pod, policy, service, slice};
use super::*;
use crate::xds::ResourceType;
use crate::xds::refusal::{Refusal, error_detail};
use crate::xds::{FieldError, messages};

fn key(kind: ResourceType, name: &str) -> Key {
    Key { kind, name: name.into() }
}

#[tokio::test]
async fn an_agent_is_told_all_that_there_is() {
    let rig = Rig::new();
    rig.publish(&[pod("web", "a"), service("web"), slice("web")]);
    let mut agent = rig.agent("a").await;
    let round = agent.round().await;
    assert_eq!(round.names(), ["EndpointSlice shop/web-1", "Service shop/web", "Workload web"]);
    rig.until(|discovery| discovery.agents().iter().all(|agent| agent.generation == 1)).await;
    assert_eq!(&*rig.discovery.agents()[0].node, "a");
}

#[tokio::test]
async fn nobody_is_told_anything_without_a_token() {
    let rig = Rig::new();
    rig.publish(&[service("web")]);
    for token in [None, Some("stolen")] {
        let status = Agent::open(&rig, token, "a", &[]).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    }
    assert!(rig.discovery.agents().is_empty());
}

#[tokio::test]
async fn who_names_another_node_is_refused() {
    let rig = Rig::new();
    rig.publish(&[service("web")]);
    let mut agent = Agent::open(&rig, Some("token-a"), "b", &[]).await.unwrap();
    let status = agent.end().await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("--node-name"), "{status}");
}

#[tokio::test]
async fn a_type_that_there_is_not_is_refused() {
    let rig = Rig::new();
    let mut agent = rig.agent("a").await;
    agent.send_type("type.googleapis.com/envoy.config.cluster.v3.Cluster").await;
    assert_eq!(agent.end().await.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn who_asks_without_being_asked_is_let_go() {
    let rig = Rig::new();
    let mut agent = rig.agent("a").await;
    agent.round().await;
    agent.send_type(&ResourceType::Service.type_url()).await;
    let status = agent.end().await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("neither the first"), "{status}");
}

#[tokio::test]
async fn nothing_is_told_before_all_is_known() {
    let rig = Rig::unbegun();
    let mut agent = rig.agent("a").await;
    rig.publish(&[service("web")]);
    // The agent is in, and its requests are taken: it has no answer.
    rig.until(|discovery| discovery.agents().len() == 1).await;
    agent.hears_nothing().await;
    rig.publish(&[slice("web")]);
    rig.discovery.begin();
    assert_eq!(agent.round().await.names(), ["EndpointSlice shop/web-1", "Service shop/web"]);
}

#[tokio::test]
async fn each_agent_sees_its_own_view() {
    let rig = Rig::new();
    rig.publish(&[
        pod("web", "a"),
        pod("db", "b"),
        policy("web-only", Action::Allow, "web"),
        policy("db-only", Action::Deny, "db"),
        policy("all-of-shop", Action::Audit, ""),
    ]);
    let (mut a, mut b, mut c) = (rig.agent("a").await, rig.agent("b").await, rig.agent("c").await);
    let (a, b, c) = (a.round().await, b.round().await, c.round().await);
    assert_eq!(a.names_of(ResourceType::AuthorizationPolicy), ["shop/all-of-shop", "shop/web-only"]);
    assert_eq!(b.names_of(ResourceType::AuthorizationPolicy), ["shop/all-of-shop", "shop/db-only"]);
    assert!(c.names_of(ResourceType::AuthorizationPolicy).is_empty());
    assert_eq!(a.workload("web"), full("web", "a"));
    for other in [b.workload("web"), c.workload("web")] {
        assert_eq!(other.addresses, full("web", "a").addresses);
        assert_eq!(other.identity, full("web", "a").identity);
        assert!(other.labels.is_empty() && other.named_ports.is_empty() && other.netns.is_none());
    }
}

#[tokio::test]
async fn labels_that_change_are_told_the_own_node_alone() {
    let rig = Rig::new();
    rig.publish(&[pod("web", "a")]);
    let (mut a, mut b) = (rig.agent("a").await, rig.agent("b").await);
    a.round().await;
    b.round().await;
    rig.publish(&[rig::labelled("web", "a", "blue")]);
    assert_eq!(a.round().await.names(), ["Workload web"]);
    rig.publish(&[service("web")]);
    assert_eq!(b.round().await.names(), ["Service shop/web"]);
}

#[tokio::test]
async fn who_comes_back_is_told_only_what_changed() {
    let rig = Rig::new();
    rig.publish(&[pod("web", "a"), service("web"), service("db"), policy("web-only", Action::Allow, "web")]);
    let mut agent = rig.agent("a").await;
    let had = agent.round().await;
    drop(agent);
    rig.publish(&[
        Delta::RemoveService(rig::named("db")),
        slice("web"),
        policy("web-only", Action::Deny, "web"),
    ]);
    let mut agent = Agent::open(&rig, Some("token-a"), "a", &had.versions()).await.unwrap();
    let round = agent.round().await;
    assert_eq!(round.names(), ["AuthorizationPolicy shop/web-only", "EndpointSlice shop/web-1"]);
    assert_eq!(round.removed, ["Service shop/db"]);
}

#[tokio::test]
async fn another_controller_has_the_same_versions() {
    let world = [pod("web", "a"), service("web"), policy("web-only", Action::Allow, "web")];
    let (one, other) = (Rig::new(), Rig::new());
    one.publish(&world);
    let had = one.agent("a").await.round().await;
    other.publish(&world[..1]);
    other.publish(&world[1..]);
    let round = Agent::open(&other, Some("token-a"), "a", &had.versions()).await.unwrap().round().await;
    assert!(round.names().is_empty() && round.removed.is_empty(), "{:?}", round.names());
}

#[tokio::test]
async fn a_policy_comes_and_goes_with_the_pod_that_it_is_about() {
    let rig = Rig::new();
    rig.publish(&[policy("web-only", Action::Allow, "web")]);
    let mut agent = rig.agent("a").await;
    assert!(agent.round().await.names().is_empty());
    rig.publish(&[pod("web", "a")]);
    assert_eq!(agent.round().await.names(), ["AuthorizationPolicy shop/web-only", "Workload web"]);
    rig.publish(&[Delta::RemoveWorkload(rig::uid("web"))]);
    assert_eq!(agent.round().await.removed, ["AuthorizationPolicy shop/web-only", "Workload web"]);
}

#[tokio::test]
async fn what_is_refused_is_kept_until_it_is_understood() {
    let rig = Rig::new();
    rig.publish(&[pod("web", "a"), policy("web-only", Action::Allow, "web")]);
    let mut agent = rig.agent("a").await;
    let error = FieldError::new("rules[0]", "is not known");
    let refusal = Refusal::new("shop/web-only", error, true);
    agent.refuse_next(ResourceType::AuthorizationPolicy, vec![refusal]);
    agent.round().await;
    let name = key(ResourceType::AuthorizationPolicy, "shop/web-only");
    rig.until(|discovery| !discovery.progress().refused.is_empty()).await;
    let progress = rig.discovery.progress();
    assert_eq!(progress.refused[&name], [("a".into(), "rules[0]: is not known".to_owned())].into());
    assert!(!progress.is_cut && progress.behind.is_empty());
    // Others go on, and it is not sent again by itself.
    rig.publish(&[service("web")]);
    assert_eq!(agent.round().await.names(), ["Service shop/web"]);
    rig.publish(&[policy("web-only", Action::Deny, "web")]);
    assert_eq!(agent.round().await.names(), ["AuthorizationPolicy shop/web-only"]);
    rig.until(|discovery| discovery.progress().refused.is_empty()).await;
    rig.until(|discovery| discovery.progress().behind.is_empty()).await;
}

#[tokio::test]
async fn who_has_not_answered_is_behind_and_who_never_did_is_not_counted() {
    let rig = Rig::new();
    rig.publish(&[
        pod("web", "a"),
        pod("db", "b"),
        policy("web-only", Action::Allow, "web"),
        policy("of-all", Action::Allow, ""),
    ]);
    let (mut a, mut b) = (rig.agent("a").await, rig.agent("b").await);
    a.acknowledges = false;
    let first = a.next().await;
    b.round().await;
    rig.until(|discovery| discovery.progress().nodes == ["b".into()].into()).await;
    assert_eq!(rig.discovery.agents().len(), 2, "the other one is connected");
    a.acknowledge(&first).await;
    a.round().await;
    let both = ["a".into(), "b".into()];
    rig.until(|discovery| discovery.progress().nodes == both.clone().into()).await;
    assert_eq!(rig.discovery.progress(), Progress { nodes: both.into(), ..Progress::default() });

    // One that nobody needs is nobody's to answer; of one that both need, who does not answer is behind.
    rig.publish(&[
        policy("of-all", Action::Deny, ""),
        policy("nobodys", Action::Deny, "cache"),
        policy("web-only", Action::Deny, "web"),
    ]);
    b.round().await;
    let only_a = |names: [&str; 2]| {
        let policies = names.map(|name| (key(ResourceType::AuthorizationPolicy, name), ["a".into()].into()));
        policies.into_iter().collect()
    };
    let expected = only_a(["shop/of-all", "shop/web-only"]);
    rig.until(|discovery| discovery.progress().behind == expected).await;
    a.round().await;
    rig.until(|discovery| discovery.progress().behind.is_empty()).await;

    drop(a);
    rig.until(|discovery| discovery.progress().nodes == ["b".into()].into()).await;
}

#[tokio::test]
async fn what_is_behind_is_bounded_however_much_it_is() {
    let rig = Rig::new();
    rig.publish(&[pod("web", "a")]);
    let mut agent = rig.agent("a").await;
    agent.round().await;
    rig.until(|discovery| discovery.progress().nodes.len() == 1).await;
    let policies: Vec<Delta> =
        (0..4_100).map(|number| policy(&format!("policy-{number}"), Action::Deny, "web")).collect();
    rig.publish(&policies);
    // The agent does not answer.
    let progress = rig.discovery.progress();
    assert!(progress.is_cut);
    assert_eq!(progress.behind.len(), 4_000);
    agent.round().await;
    rig.until(|discovery| discovery.progress().behind.is_empty()).await;
    assert!(!rig.discovery.progress().is_cut);
}

#[tokio::test]
async fn an_agent_cannot_refuse_what_it_was_not_sent() {
    let rig = Rig::new();
    rig.publish(&[pod("web", "a")]);
    let mut agent = rig.agent("a").await;
    let refusal = Refusal::new("other", FieldError::whole("no"), false);
    agent.refuse_next(ResourceType::Workload, vec![refusal]);
    agent.round().await;
    rig.until(|discovery| discovery.agents()[0].generation == 1).await;
    assert!(rig.discovery.agents()[0].refused.is_empty());
    agent.detail = error_detail(ResourceType::Workload, vec![Refusal::default()]).map(|mut detail| {
        detail.details.clear();
        (ResourceType::Workload, detail)
    });
    rig.publish(&[pod("db", "b")]);
    agent.round().await;
    rig.until(|discovery| discovery.agents()[0].refused.len() == 1).await;
}

#[tokio::test]
async fn a_slow_agent_is_told_the_last_state_and_delays_nobody() {
    let rig = Rig::new();
    rig.publish(&[service("web")]);
    let (mut slow, mut fast) = (rig.agent("a").await, rig.agent("b").await);
    slow.acknowledges = false;
    let first = slow.next().await;
    assert_eq!(fast.round().await.names(), ["Service shop/web"]);
    for port in 1000..1100 {
        rig.publish(&[rig::service_on("web", port)]);
    }
    rig.publish(&[service("db")]);
    while fast.round().await.service_port("web") != Some(1099) {}
    slow.acknowledges = true;
    // Seven of eight types were empty, and of one round.
    slow.acknowledge(&first).await;
    let mut last = slow.round().await;
    while last.service_port("web") != Some(1099) {
        assert!(last.names().len() <= 1, "changes were not gathered: {:?}", last.names());
        last = slow.round().await;
    }
    assert_eq!(last.names(), ["Service shop/db", "Service shop/web"]);
}

#[tokio::test]
async fn a_newer_stream_of_an_agent_ends_the_one_before() {
    let rig = Rig::new();
    rig.publish(&[service("web")]);
    let mut old = rig.agent("a").await;
    old.round().await;
    let mut new = rig.agent("a").await;
    assert_eq!(old.end().await.code(), Code::Aborted);
    new.round().await;
    assert_eq!(rig.discovery.agents().len(), 1);
}

#[tokio::test]
async fn who_does_not_answer_is_let_go() {
    let settings = DiscoverySettings { answer_timeout: Duration::from_millis(50), ..rig::settings() };
    let rig = Rig::with(settings);
    rig.publish(&[service("web")]);
    let mut agent = rig.agent("a").await;
    agent.acknowledges = false;
    assert_eq!(agent.end().await.code(), Code::DeadlineExceeded);
    rig.until(|discovery| discovery.agents().is_empty()).await;
}

#[tokio::test]
async fn an_old_stream_ends() {
    let settings = DiscoverySettings { max_stream_age: Duration::from_millis(50), ..rig::settings() };
    let rig = Rig::with(settings);
    assert_eq!(rig.agent("a").await.end().await.code(), Code::Unavailable);
}

#[tokio::test]
async fn no_more_agents_come_in_than_may() {
    let rig = Rig::with(DiscoverySettings { max_agents: 1, ..rig::settings() });
    rig.publish(&[service("web")]);
    let mut first = rig.agent("a").await;
    first.round().await;
    assert_eq!(rig.agent("b").await.end().await.code(), Code::ResourceExhausted);
    rig.publish(&[service("db")]);
    assert_eq!(first.round().await.names(), ["Service shop/db"]);
}

#[tokio::test]
async fn who_begins_waits_for_those_that_began_before_it() {
    let rig = Rig::with(DiscoverySettings { max_beginning: 1, ..rig::settings() });
    rig.publish(&[service("web")]);
    let mut first = rig.agent("a").await;
    let begun = first.next().await;
    let mut second = rig.agent("b").await;
    second.hears_nothing().await;
    first.acknowledge(&begun).await;
    first.round().await;
    assert_eq!(second.round().await.names(), ["Service shop/web"]);
}

#[tokio::test]
async fn who_reads_nothing_and_comes_again_has_one_turn() {
    let long = Duration::from_secs(120);
    let settings = DiscoverySettings { max_beginning: 1, longest_turn: long, ..rig::settings() };
    let rig = Rig::with(DiscoverySettings { answer_timeout: long, ..settings });
    rig.publish(&[service("web")]);
    let mut unread = Agent::deaf(&rig, "a").await.unwrap();
    // One response of each other type comes now, and goes nowhere.
    let first = unread.next().await;
    unread.acknowledge(&first).await;
    let mut other = rig.agent("b").await;
    other.hears_nothing().await;
    let _again = rig.agent("a").await;
    assert_eq!(other.round().await.names(), ["Service shop/web"]);
}

#[tokio::test]
async fn a_large_world_comes_in_responses_of_bounded_size() {
    let rig = Rig::new();
    let deltas: Vec<Delta> = (0..3000).map(|number| slice(&format!("service-{number}"))).collect();
    rig.publish(&deltas);
    let mut agent = rig.agent("a").await;
    let round = agent.round().await;
    assert_eq!(round.names().len(), 3000);
    assert!(round.responses > 8, "one response beside those of empty types");
    assert!(round.largest < 80 << 10, "{} bytes", round.largest);
}

#[test]
fn messages_speak_of_endpoints_alone_where_services_are_sent() {
    let mut cache = cache::Cache::default();
    cache.apply(&[service("web")]);
    let resource = cache.all(ResourceType::Service, "a").next().unwrap();
    let sent: messages::Service = rig::message(&resource.value);
    assert!(sent.selector.is_empty());
}
