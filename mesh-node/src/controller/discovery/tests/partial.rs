//! Agents that ask: what they are told, and that it is enough to decide as those that are told everything.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_common::model::endpoint::{Endpoint, EndpointSlice, EndpointState, SlicePort};
use mesh_common::model::service::{ServicePort, TargetPort};
use mesh_common::model::workload::Workload;
use mesh_common::model::{
    ConnectionFacts, Direction, Node, PeerIdentity, Protocol, Question, ServerName, Service,
};
use mesh_common::resolve::{self, Target};
use mesh_common::snapshot::{Delta, Snapshot, Tables};
use proptest::prelude::*;
use tonic::Code;

use super::rig::{self, Agent, Rig, named, uid};
use crate::controller::discovery::cache::Cache;
use crate::controller::discovery::view::{Round, View};
use crate::xds::{Key, Reading, Resource, ResourceType, Shared, Update, read};

const NODES: [&str; 2] = ["a", "b"];
const NODE_ADDRESS: [u8; 4] = [192, 168, 0, 1];

fn address(number: u8) -> IpAddr {
    [10, 0, 0, number].into()
}

fn cluster_ip(number: u8) -> IpAddr {
    [10, 96, 0, number].into()
}

fn pod(name: &str, node: &str, number: u8, host_network: bool) -> Delta {
    let identity = format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap();
    Delta::UpsertWorkload(Arc::new(Workload {
        addresses: [address(number)].into_iter().collect(),
        host_network,
        ..Workload::new(named(name), node, identity)
    }))
}

fn service(name: &str, number: u8, node_port: Option<u16>) -> Delta {
    let Delta::UpsertService(service) = rig::service(name) else { unreachable!("it makes Services") };
    let port = ServicePort { node_port, target_port: TargetPort::Number(8080), ..service.ports[0].clone() };
    Delta::UpsertService(Arc::new(Service {
        cluster_ips: [cluster_ip(number)].into_iter().collect(),
        ports: vec![ServicePort { protocol: protocol_of(number), ..port }],
        ..Service::clone(&service)
    }))
}

fn protocol_of(number: u8) -> Protocol {
    if number.is_multiple_of(2) { Protocol::Http1 } else { Protocol::Tcp }
}

fn slice(name: &str, service: &str, endpoints: &[(u8, Option<&str>)]) -> Delta {
    let endpoint = |(number, workload): &(u8, Option<&str>)| Endpoint {
        address: address(*number),
        port: 8080,
        workload: workload.map(uid),
        state: EndpointState::Ready,
        node: "".into(),
        zone: "".into(),
        hint_zones: [].into_iter().collect(),
        hint_nodes: [].into_iter().collect(),
    };
    let endpoints = endpoints.iter().map(endpoint).collect();
    Delta::UpsertEndpointSlice(Arc::new(EndpointSlice {
        name: named(name),
        service: named(service),
        ports: vec![SlicePort { name: "http".into(), endpoints }],
    }))
}

fn node() -> Delta {
    Delta::UpsertNode(Arc::new(Node {
        name: "a".into(),
        zone: "".into(),
        addresses: [NODE_ADDRESS.into()].into_iter().collect(),
        pod_cidrs: [].into_iter().collect(),
    }))
}

#[derive(Clone, Debug)]
enum Step {
    Publish(Vec<Delta>),
    Tell(usize),
    Ask(usize, Question),
    TakeBack(usize, Question),
    Reconnect(usize),
}

fn delta() -> impl Strategy<Value = Delta> {
    let name = || prop::sample::select(vec!["web", "db", "cache"]);
    let node = prop::sample::select(NODES.to_vec());
    let endpoint = (1_u8..5, prop::option::of(name()));
    prop_oneof![
        3 => (name(), node, 1_u8..5, prop::bool::weighted(0.2))
            .prop_map(|(name, node, number, host)| pod(name, node, number, host)),
        1 => name().prop_map(|name| Delta::RemoveWorkload(uid(name))),
        3 => (name(), 1_u8..4, prop::option::of(30080_u16..30082))
            .prop_map(|(name, number, port)| service(name, number, port)),
        1 => name().prop_map(|name| Delta::RemoveService(named(name))),
        3 => (name(), name(), prop::collection::vec(endpoint, 0..3))
            .prop_map(|(name, of, endpoints)| slice(name, of, &endpoints)),
        1 => name().prop_map(|name| Delta::RemoveEndpointSlice(named(name))),
    ]
}

fn question() -> impl Strategy<Value = Question> {
    prop_oneof![
        (1_u8..5).prop_map(|number| Question::Address(address(number))),
        (1_u8..4).prop_map(|number| Question::Address(cluster_ip(number))),
        (30080_u16..30082).prop_map(Question::NodePort),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let agent = 0..NODES.len();
    prop_oneof![
        4 => prop::collection::vec(delta(), 1..4).prop_map(Step::Publish),
        3 => agent.clone().prop_map(Step::Tell),
        3 => (agent.clone(), question()).prop_map(|(agent, question)| Step::Ask(agent, question)),
        1 => (agent.clone(), question()).prop_map(|(agent, question)| Step::TakeBack(agent, question)),
        1 => agent.prop_map(Step::Reconnect),
    ]
}

/// An agent: the controller's view of it, what it has, and what it asked.
struct Peer {
    node: &'static str,
    view: View,
    has: BTreeMap<Key, Arc<Resource>>,
    asked: Vec<Question>,
}

impl Peer {
    fn new(node: &'static str, is_partial: bool) -> Self {
        let mut peer = Self { node, view: View::new(node.into()), has: BTreeMap::new(), asked: Vec::new() };
        peer.connect(is_partial);
        peer
    }

    fn connect(&mut self, is_partial: bool) {
        self.view = View::new(self.node.into());
        self.has.retain(|key, _| key.kind != ResourceType::Address);
        for kind in ResourceType::OF_EVERYBODY {
            let of_kind = self.has.iter().filter(|(key, _)| key.kind == kind);
            let versions = of_kind.map(|(key, resource)| (key.name.clone(), resource.version)).collect();
            match is_partial && kind.is_on_demand() {
                true => self.view.ask_for_part(kind, versions),
                false => self.view.ask(kind, versions),
            }
        }
        if is_partial {
            self.view.ask_about(Vec::new(), self.asked.clone());
        }
    }

    fn tell(&mut self, cache: &Cache) {
        let Round { parts, .. } = self.view.round(cache).unwrap();
        for part in parts {
            for resource in part.upserts {
                self.has.insert(resource.key.clone(), resource);
            }
            for name in part.removals {
                self.has.remove(&Key { kind: part.kind, name });
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        let (mut tables, mut shared) = (Tables::default(), Shared::default());
        for (key, resource) in &self.has {
            if let Reading::Understood(Update::Delta(delta)) = read(key, &resource.value, "root", &mut shared)
            {
                tables.apply(delta);
            }
        }
        tables.snapshot()
    }

    fn knows(&self, question: Question) -> bool {
        let name = question.to_string().into();
        self.has.contains_key(&Key { kind: ResourceType::Address, name })
    }
}

fn dials(question: Question) -> [SocketAddr; 2] {
    match question {
        Question::Address(address) => [(address, 80).into(), (address, 8080).into()],
        Question::NodePort(port) => [(NODE_ADDRESS, port).into(), (NODE_ADDRESS, port).into()],
    }
}

fn decide(full: &Snapshot, partial: &Snapshot, facts: &ConnectionFacts) -> Result<(), TestCaseError> {
    let destination = resolve::destination(full, facts);
    prop_assert_eq!(&destination, &resolve::destination(partial, facts), "{:?}", facts);
    if let Target::Service(service) = &destination.target {
        for endpoint in service.endpoints() {
            let claim = full.workload_claim(endpoint.address);
            prop_assert_eq!(claim, partial.workload_claim(endpoint.address));
            let meant = |snapshot: &Snapshot| {
                let pod = endpoint.workload.as_ref().and_then(|uid| snapshot.workload(uid).cloned());
                pod.filter(|pod| pod.addresses.contains(&endpoint.address))
            };
            prop_assert_eq!(meant(full), meant(partial));
        }
    }
    Ok(())
}

/// What the agent asked, and what comes to its own pods, is decided as by one that was told everything.
fn decides_alike(cache: &Cache, peer: &Peer) -> Result<(), TestCaseError> {
    let mut told_all = Peer::new(peer.node, false);
    told_all.tell(cache);
    let (full, partial) = (told_all.snapshot(), peer.snapshot());
    let Some(local) = full.workloads_on(peer.node).next() else { return Ok(()) };
    for question in &peer.asked {
        prop_assert!(peer.knows(*question), "{question} is not answered");
        for dialled in dials(*question) {
            let facts = ConnectionFacts {
                direction: Direction::Outbound,
                client: (address(1), 40000).into(),
                original_dst: dialled,
                local: Arc::clone(local),
                peer: PeerIdentity::None,
                certificate: None,
                claimed_dst: None,
                server_name: ServerName::Unknown,
            };
            decide(&full, &partial, &facts)?;
        }
    }
    for local in full.workloads_on(peer.node) {
        prop_assert_eq!(partial.workload(&local.uid), Some(local));
        for own in &local.addresses {
            let called = SocketAddr::new(*own, 8080);
            prop_assert_eq!(full.memberships(called), partial.memberships(called));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn who_asks_decides_as_who_is_told_everything(steps in prop::collection::vec(step(), 1..40)) {
        let mut cache = Cache::default();
        cache.apply(&[node()]);
        let mut agents = NODES.map(|node| Peer::new(node, true));
        let all = (0..NODES.len()).map(Step::Tell);
        for step in steps.into_iter().chain(all) {
            match step {
                Step::Publish(deltas) => drop(cache.apply(&deltas)),
                Step::Tell(agent) => {
                    agents[agent].tell(&cache);
                    decides_alike(&cache, &agents[agent])?;
                }
                Step::Ask(agent, question) => {
                    let agent = &mut agents[agent];
                    if !agent.asked.contains(&question) {
                        agent.asked.push(question);
                        agent.view.ask_about(Vec::new(), vec![question]);
                    }
                }
                Step::TakeBack(agent, question) => {
                    let agent = &mut agents[agent];
                    agent.asked.retain(|other| *other != question);
                    agent.view.ask_about(vec![question], Vec::new());
                    agent.tell(&cache);
                    prop_assert!(!agent.knows(question));
                }
                Step::Reconnect(agent) => agents[agent].connect(true),
            }
        }
    }
}

/// Services `web` of a pod on node a, `db` of a pod on node b.
fn shop() -> Vec<Delta> {
    vec![
        pod("web", "a", 1, false),
        pod("db", "b", 2, false),
        service("web", 1, None),
        service("db", 2, None),
        slice("web", "web", &[(1, Some("web"))]),
        slice("db", "db", &[(2, Some("db"))]),
    ]
}

#[tokio::test]
async fn who_asks_nothing_is_told_its_own() {
    let rig = Rig::new();
    rig.publish(&shop());
    let mut agent = Agent::asking(&rig, "a", &[], &[]).await;
    assert_eq!(agent.round().await.names(), ["EndpointSlice shop/web", "Service shop/web", "Workload web"]);
    rig.publish(&[service("db", 3, None)]);
    agent.hears_nothing().await;
}

#[tokio::test]
async fn what_is_asked_is_answered_with_all_about_it_and_followed() {
    let rig = Rig::new();
    rig.publish(&shop());
    let mut agent = Agent::asking(&rig, "c", &[], &[]).await;
    assert!(agent.round().await.names().is_empty());
    agent.ask(&[], &["10.96.0.2", "1.1.1.1"]).await;
    let round = agent.round().await;
    let answers = ["Address 1.1.1.1", "Address 10.96.0.2"];
    assert_eq!(
        round.names(),
        [answers[0], answers[1], "EndpointSlice shop/db", "Service shop/db", "Workload db"]
    );
    rig.publish(&[slice("db", "db", &[])]);
    let round = agent.round().await;
    assert_eq!(
        (round.names(), round.removed),
        (vec!["EndpointSlice shop/db".to_owned()], vec!["Workload db".to_owned()])
    );
    // What nobody had comes to be somebody's.
    rig.publish(&[Delta::UpsertService(Arc::new(Service {
        cluster_ips: [[1, 1, 1, 1].into()].into_iter().collect(),
        ..match service("new", 3, None) {
            Delta::UpsertService(service) => Service::clone(&service),
            other => panic!("{other:?}"),
        }
    }))]);
    assert_eq!(agent.round().await.names(), ["Service shop/new"]);
    agent.ask(&["10.96.0.2"], &[]).await;
    let removed = agent.round().await.removed;
    assert_eq!(removed, ["Address 10.96.0.2", "EndpointSlice shop/db", "Service shop/db"]);
}

#[tokio::test]
async fn who_comes_back_asks_again_and_is_told_what_changed() {
    let rig = Rig::new();
    rig.publish(&shop());
    let mut agent = Agent::asking(&rig, "c", &[], &["10.96.0.2"]).await;
    let had = agent.round().await.versions();
    drop(agent);
    rig.publish(&[Delta::RemoveWorkload(uid("db")), pod("web", "b", 3, false)]);
    let mut agent = Agent::asking(&rig, "c", &had, &["10.96.0.2"]).await;
    let round = agent.round().await;
    assert_eq!(
        (round.names(), round.removed),
        (vec!["Address 10.96.0.2".to_owned()], vec!["Workload db".to_owned()])
    );
}

#[tokio::test]
async fn who_asks_before_it_was_answered_or_about_nothing_is_let_go() {
    let rig = Rig::new();
    rig.publish(&shop());
    for (name, reason) in [("web", "is no address"), ("10.96.0.2", "neither the first")] {
        let mut agent = Agent::asking(&rig, "c", &[], &[]).await;
        agent.round().await;
        agent.acknowledges = false;
        agent.ask(&[], &[name]).await;
        agent.ask(&[], &["10.96.0.1"]).await;
        let status = agent.end().await;
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(reason), "{status}");
    }
}

#[tokio::test]
async fn there_is_an_end_to_what_one_agent_may_ask() {
    let rig = Rig::new();
    rig.publish(&shop());
    let names: Vec<String> =
        (0..20_000_u32).map(|number| IpAddr::from(number.to_be_bytes()).to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut agent = Agent::asking(&rig, "c", &[], &names).await;
    assert_eq!(agent.end().await.code(), Code::ResourceExhausted);
}
