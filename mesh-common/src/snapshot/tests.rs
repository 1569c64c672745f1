use std::collections::HashMap;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::model::policy::{Action, MutualTls, Scope};
use crate::model::samples::{at, ip, pod, policy, service};
use crate::model::{
    AuthorizationPolicy, Endpoint, EndpointSlice, EndpointState, PodDetails, ServicePort, SlicePort,
    TargetPort,
};

const PODS: [&str; 4] = ["p", "q", "r", "s"];
const ADDRESSES: [&str; 4] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"];
const NODES: [&str; 2] = ["a", "b"];
const SERVICES: [&str; 3] = ["x", "y", "z"];
const CLUSTER_IPS: [&str; 3] = ["10.96.0.1", "10.96.0.2", "fd96::1"];
const NAMES: [&str; 4] = ["one", "two", "three", "four"];
const LABELS: [(&str, &str); 3] = [("app", "x"), ("app", "y"), ("tier", "back")];

fn labels() -> impl Strategy<Value = BTreeMap<Text, Text>> {
    let text = |(key, value): (&str, &str)| (key.into(), value.into());
    subsequence(&LABELS[..], 0..=3).prop_map(move |labels| labels.into_iter().map(text).collect())
}

fn name(name: &str) -> NamespacedName {
    NamespacedName::new("shop", name)
}

fn upsert_workload() -> impl Strategy<Value = Delta> {
    let conditions = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.2));
    let addresses = subsequence(&ADDRESSES[..], 0..=2);
    (select(&PODS[..]), select(&NODES[..]), addresses, labels(), conditions).prop_map(
        |(uid, node, addresses, labels, (ready, terminating, host_network))| {
            Delta::UpsertWorkload(Arc::new(Workload {
                addresses: addresses.into_iter().map(ip).collect(),
                details: Arc::new(PodDetails { labels, ..PodDetails::default() }),
                ready,
                terminating,
                host_network,
                ..pod(uid, node, "10.0.0.1")
            }))
        },
    )
}

fn upsert_service() -> impl Strategy<Value = Delta> {
    let ports = select(vec![vec![80u16], vec![80, 443]]);
    let target = select(vec![
        TargetPort::Number(8080),
        TargetPort::Named("http".into()),
        TargetPort::Named("none".into()),
    ]);
    let details = (option::of(30080u16..30082), any::<bool>());
    (select(&SERVICES[..]), select(&CLUSTER_IPS[..]), labels(), ports, target, details).prop_map(
        |(name, cluster_ip, selector, ports, target_port, (node_port, publish_not_ready))| {
            let port = |port: &u16| ServicePort {
                name: port.to_string().into(),
                port: *port,
                target_port: target_port.clone(),
                node_port,
                ..service(name, cluster_ip).ports.remove(0)
            };
            let ports = ports.iter().map(port).collect();
            Delta::UpsertService(Arc::new(Service {
                selector,
                ports,
                publish_not_ready,
                ..service(name, cluster_ip)
            }))
        },
    )
}

fn upsert_slice() -> impl Strategy<Value = Delta> {
    let state =
        select(&[EndpointState::Ready, EndpointState::ServingTerminating, EndpointState::NotReady][..]);
    let endpoint =
        (select(&ADDRESSES[..]), option::of(select(&PODS[..])), state).prop_map(|(address, pod, state)| {
            Endpoint {
                address: ip(address),
                port: 8080,
                workload: pod.map(|uid| WorkloadUid(uid.into())),
                state,
                node: "a".into(),
                zone: "".into(),
                hint_zones: Box::default(),
                hint_nodes: Box::default(),
            }
        });
    (select(&NAMES[..]), select(&SERVICES[..]), vec(endpoint, 0..3)).prop_map(
        |(slice, service, endpoints)| {
            Delta::UpsertEndpointSlice(Arc::new(EndpointSlice {
                name: name(slice),
                service: name(service),
                ports: vec![SlicePort { name: "80".into(), endpoints: endpoints.into() }],
            }))
        },
    )
}

fn scope() -> impl Strategy<Value = Scope> {
    let services = subsequence(&SERVICES[..], 1..=2);
    prop_oneof![
        Just(Scope::Mesh),
        Just(Scope::Namespace("shop".into())),
        (any::<bool>(), labels()).prop_map(|(all, labels)| Scope::Selector {
            namespace: if all { None } else { Some("shop".into()) },
            labels
        }),
        services.prop_map(|services| Scope::Services(services.into_iter().map(name).collect())),
    ]
}

fn upsert_policy() -> impl Strategy<Value = Delta> {
    (select(&NAMES[..]), select(&[Action::Allow, Action::Deny][..]), scope()).prop_map(
        |(name, action, scope)| {
            let policy = AuthorizationPolicy { scope, ..policy(name, action, "", vec![]) };
            Delta::UpsertAuthorizationPolicy(Arc::new(policy))
        },
    )
}

fn upsert_peer_authentication() -> impl Strategy<Value = Delta> {
    let mode = option::of(select(&[MutualTls::Strict, MutualTls::Permissive][..]));
    (select(&NAMES[..]), scope(), 0..3u64, mode).prop_map(|(policy, scope, created, mode)| {
        let ports = BTreeMap::new();
        Delta::UpsertPeerAuthentication(Arc::new(PeerAuthentication {
            name: name(policy),
            scope,
            created,
            mode,
            ports,
        }))
    })
}

fn upsert_node() -> impl Strategy<Value = Delta> {
    (select(&NODES[..]), select(&["192.168.0.1", "192.168.0.2"][..]), option::of(Just("10.0.0.0/24")))
        .prop_map(|(name, address, range)| {
            Delta::UpsertNode(Arc::new(Node {
                name: name.into(),
                zone: "".into(),
                addresses: smallvec::smallvec![ip(address)],
                pod_cidrs: range.into_iter().map(|range| range.parse().unwrap()).collect(),
            }))
        })
}

fn upsert_request_authentication() -> impl Strategy<Value = Delta> {
    (select(&NAMES[..]), scope()).prop_map(|(policy, scope)| {
        Delta::UpsertRequestAuthentication(Arc::new(RequestAuthentication {
            name: name(policy),
            scope,
            rules: vec![],
            fault: None,
        }))
    })
}

fn removal() -> impl Strategy<Value = Delta> {
    prop_oneof![
        select(&PODS[..]).prop_map(|uid| Delta::RemoveWorkload(WorkloadUid(uid.into()))),
        select(&SERVICES[..]).prop_map(|service| Delta::RemoveService(name(service))),
        select(&NAMES[..]).prop_map(|slice| Delta::RemoveEndpointSlice(name(slice))),
        select(&NAMES[..]).prop_map(|policy| Delta::RemoveAuthorizationPolicy(name(policy))),
        select(&NAMES[..]).prop_map(|policy| Delta::RemovePeerAuthentication(name(policy))),
        select(&NAMES[..]).prop_map(|policy| Delta::RemoveRequestAuthentication(name(policy))),
        select(&NODES[..]).prop_map(|node| Delta::RemoveNode(node.into())),
    ]
}

fn delta() -> impl Strategy<Value = Delta> {
    prop_oneof![
        4 => upsert_workload(),
        3 => upsert_service(),
        2 => upsert_slice(),
        2 => upsert_policy(),
        1 => upsert_peer_authentication(),
        1 => upsert_request_authentication(),
        1 => upsert_node(),
        3 => removal(),
    ]
}

/// Which object a delta is about.
fn object(delta: &Delta) -> String {
    match delta {
        Delta::Settings(_) => "settings".into(),
        Delta::UpsertWorkload(workload) => format!("workload {:?}", workload.uid),
        Delta::RemoveWorkload(uid) => format!("workload {uid:?}"),
        Delta::UpsertService(service) => format!("service {}", service.name),
        Delta::RemoveService(name) => format!("service {name}"),
        Delta::UpsertEndpointSlice(slice) => format!("slice {}", slice.name),
        Delta::RemoveEndpointSlice(name) => format!("slice {name}"),
        Delta::UpsertAuthorizationPolicy(policy) => format!("policy {}", policy.name),
        Delta::RemoveAuthorizationPolicy(name) => format!("policy {name}"),
        Delta::UpsertPeerAuthentication(policy) => format!("peer {}", policy.name),
        Delta::RemovePeerAuthentication(name) => format!("peer {name}"),
        Delta::UpsertRequestAuthentication(policy) => format!("request {}", policy.name),
        Delta::RemoveRequestAuthentication(name) => format!("request {name}"),
        Delta::UpsertNode(node) => format!("node {}", node.name),
        Delta::RemoveNode(name) => format!("node {name}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_order_and_any_history_give_the_same_snapshot(
        history in vec((delta(), any::<bool>()), 0..60),
        order in any::<u64>(),
    ) {
        let mut lived = Tables::default();
        let mut last: HashMap<String, Delta> = HashMap::new();
        for (delta, look) in history {
            last.insert(object(&delta), delta.clone());
            lived.apply(delta);
            if look {
                let _ = lived.snapshot();
            }
        }
        let mut last: Vec<_> = last.into_iter().collect();
        last.sort_by_key(|(object, _)| (object.len() as u64).wrapping_mul(order) ^ u64::from(object.as_bytes()[object.len() - 1]) ^ order);
        let mut fresh = Tables::default();
        for (_, delta) in last {
            fresh.apply(delta);
        }
        let (lived, fresh) = (lived.snapshot(), fresh.snapshot());
        prop_assert!(lived.says_the_same_as(&fresh), "lived: {lived:#?}\nfresh: {fresh:#?}");
    }

    #[test]
    fn an_address_is_never_given_to_a_pod_that_does_not_claim_it_alone(history in vec(delta(), 0..60)) {
        let mut tables = Tables::default();
        history.into_iter().for_each(|delta| _ = tables.apply(delta));
        let snapshot = tables.snapshot();
        for address in ADDRESSES.map(ip) {
            let claims = |pod: &&Arc<Workload>| !pod.host_network && pod.addresses.contains(&address);
            let claimants: Vec<_> = snapshot.workloads().filter(claims).collect();
            let expected = if claimants.len() == 1 { Some(claimants[0]) } else { None };
            prop_assert_eq!(snapshot.workload_at(address), expected);
        }
    }
}

fn apply(deltas: impl IntoIterator<Item = Delta>) -> Snapshot {
    let mut tables = Tables::default();
    deltas.into_iter().for_each(|delta| _ = tables.apply(delta));
    tables.snapshot()
}

fn endpoints(snapshot: &Snapshot) -> Vec<(String, EndpointState)> {
    let KnownService::Port(port) = snapshot.service_at(at("10.96.0.1:80")) else { panic!("no Service port") };
    port.endpoints().iter().map(|endpoint| (endpoint.address.to_string(), endpoint.state)).collect()
}

#[test]
fn endpoints_are_derived_as_kubernetes_would() {
    let x = Delta::UpsertService(Arc::new(service("x", "10.96.0.1")));
    let with = |uid: &str, address: &str, ready, terminating, app: &str| {
        let labels = BTreeMap::from([("app".into(), app.into())]);
        let details = Arc::new(PodDetails { labels, ..PodDetails::default() });
        Delta::UpsertWorkload(Arc::new(Workload { ready, terminating, details, ..pod(uid, "a", address) }))
    };
    let snapshot = apply([
        with("ready", "10.0.0.1", true, false, "x"),
        with("starting", "10.0.0.2", false, false, "x"),
        x,
        with("leaving", "10.0.0.3", true, true, "x"),
        with("other", "10.0.0.4", true, false, "y"),
    ]);
    assert_eq!(
        endpoints(&snapshot),
        [
            ("10.0.0.1".into(), EndpointState::Ready),
            ("10.0.0.2".into(), EndpointState::NotReady),
            ("10.0.0.3".into(), EndpointState::ServingTerminating),
        ]
    );
}

#[test]
fn a_slice_takes_the_place_of_what_would_be_derived() {
    let slice = EndpointSlice {
        name: name("x-1"),
        service: name("x"),
        ports: vec![SlicePort {
            name: "http".into(),
            endpoints: Arc::new([Endpoint {
                address: ip("1.2.3.4"),
                port: 80,
                workload: None,
                state: EndpointState::Ready,
                node: "".into(),
                zone: "".into(),
                hint_zones: Box::default(),
                hint_nodes: Box::default(),
            }]),
        }],
    };
    let mut tables = Tables::default();
    tables.apply(Delta::UpsertService(Arc::new(service("x", "10.96.0.1"))));
    tables.apply(Delta::UpsertWorkload(Arc::new(pod("x", "a", "10.0.0.1"))));
    assert_eq!(endpoints(&tables.snapshot()), [("10.0.0.1".into(), EndpointState::Ready)]);
    tables.apply(Delta::UpsertEndpointSlice(Arc::new(slice)));
    assert_eq!(endpoints(&tables.snapshot()), [("1.2.3.4".into(), EndpointState::Ready)]);
    tables.apply(Delta::RemoveEndpointSlice(name("x-1")));
    assert_eq!(endpoints(&tables.snapshot()), [("10.0.0.1".into(), EndpointState::Ready)]);
}

#[test]
fn a_named_port_is_what_each_pod_says() {
    let mut named = service("x", "10.96.0.1");
    named.ports[0].target_port = TargetPort::Named("http".into());
    let mut other = pod("x", "a", "10.0.0.1");
    Arc::make_mut(&mut other.details).named_ports = smallvec::smallvec![("http".into(), 9090)];
    let snapshot = apply([Delta::UpsertWorkload(Arc::new(other)), Delta::UpsertService(Arc::new(named))]);
    let KnownService::Port(port) = snapshot.service_at(at("10.96.0.1:80")) else { panic!("no Service port") };
    assert_eq!(port.endpoints()[0].port, 9090);
}

#[test]
fn two_services_may_share_an_address_but_not_a_port() {
    let mut second = service("y", "10.96.0.1");
    second.ports[0].port = 81;
    let with = |second: &Service| {
        apply([
            Delta::UpsertService(Arc::new(service("x", "10.96.0.1"))),
            Delta::UpsertService(Arc::new(second.clone())),
        ])
    };
    assert!(matches!(with(&second).service_at(at("10.96.0.1:81")), KnownService::Port(_)));
    second.ports[0].port = 80;
    assert_eq!(with(&second).service_at(at("10.96.0.1:80")), KnownService::Contested);
}

#[test]
fn a_generation_passes_only_when_something_changed() {
    let mut tables = Tables::default();
    let web = Arc::new(pod("web", "a", "10.0.0.1"));
    assert_eq!(tables.apply(Delta::UpsertWorkload(Arc::clone(&web))), Applied::Changed);
    let first = tables.snapshot().generation();
    assert_eq!(tables.apply(Delta::UpsertWorkload(web)), Applied::Same);
    assert_eq!(tables.snapshot().generation(), first);
    assert_eq!(tables.apply(Delta::RemoveWorkload(WorkloadUid("web".into()))), Applied::Changed);
    assert_eq!(tables.snapshot().generation(), first + 1);
}
