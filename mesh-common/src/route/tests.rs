use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::*;
use crate::model::samples::{at, inbound, ip, outbound, pod, service};
use crate::model::service::{InternalTrafficPolicy, TrafficDistribution};
use crate::model::{
    Endpoint, EndpointSlice, EndpointState, Enrolment, Node, Service, SlicePort, Workload, WorkloadUid,
};
use crate::policy::authorize_connection;
use crate::resolve;
use crate::snapshot::{Delta, Tables};

/// So many connections and requests to each endpoint.
#[derive(Default)]
struct Busy(HashMap<SocketAddr, u32>);

impl Load for Busy {
    fn connections(&self, endpoint: SocketAddr) -> u32 {
        self.0.get(&endpoint).copied().unwrap_or_default()
    }
    fn requests(&self, endpoint: SocketAddr) -> u32 {
        self.connections(endpoint)
    }
}

type Planner = for<'a> fn(&'a Snapshot, Permit<'a>, &Choice<'a>) -> Result<Plan, Unroutable>;

/// What is planned for a connection of pod `web`, on node a, to an address.
fn plan(
    tables: &mut Tables,
    address: &str,
    planner: Planner,
    random: u64,
    load: &Busy,
    tried: &[SocketAddr],
) -> Result<Plan, Unroutable> {
    let snapshot = tables.snapshot();
    let facts = outbound(&Arc::new(pod("web", "a", "10.0.0.1")), address);
    let destination = resolve::destination(&snapshot, &facts);
    let permit = authorize_connection(&snapshot, &facts, &destination).unwrap();
    planner(&snapshot, permit, &Choice { random, load, tried })
}

fn dial(tables: &mut Tables, address: &str) -> Result<Plan, Unroutable> {
    plan(tables, address, plan_connection, 7, &Busy::default(), &[])
}

/// Every address that chance can lead to.
fn reachable(tables: &mut Tables) -> Result<Vec<String>, Unroutable> {
    let mut addresses = HashSet::new();
    for step in 0..64u64 {
        let plan = plan(tables, "10.96.0.10:80", plan_connection, step << 58, &Busy::default(), &[])?;
        addresses.insert(plan.address().ip().to_string());
    }
    let mut addresses: Vec<_> = addresses.into_iter().collect();
    addresses.sort();
    Ok(addresses)
}

fn node(name: &str, zone: &str) -> Delta {
    let (addresses, pod_cidrs) = (smallvec::smallvec![], smallvec::smallvec![]);
    Delta::UpsertNode(Arc::new(Node { name: name.into(), zone: zone.into(), addresses, pod_cidrs }))
}

/// A replica of `api`.
fn api(uid: &str, node: &str, address: &str) -> Workload {
    Workload { uid: WorkloadUid(uid.into()), ..pod("api", node, address) }
}

/// Pod `web` on node a of zone 1; `api` on a, b (zone 1) and c (zone 2); Service `api` as changed.
fn tables(change: impl FnOnce(&mut Service)) -> Tables {
    let mut tables = Tables::default();
    let mut changed = service("api", "10.96.0.10");
    change(&mut changed);
    tables.apply(Delta::UpsertService(Arc::new(changed)));
    tables.apply(Delta::UpsertWorkload(Arc::new(pod("web", "a", "10.0.0.1"))));
    for (node_name, zone, address) in [("a", "1", "10.0.0.2"), ("b", "1", "10.0.1.1"), ("c", "2", "10.0.2.1")]
    {
        tables.apply(node(node_name, zone));
        tables.apply(Delta::UpsertWorkload(Arc::new(api(node_name, node_name, address))));
    }
    tables
}

fn set_state(tables: &mut Tables, uid: &str, ready: bool, terminating: bool) {
    let workload = tables.snapshot().workload(&WorkloadUid(uid.into())).unwrap().as_ref().clone();
    tables.apply(Delta::UpsertWorkload(Arc::new(Workload { ready, terminating, ..workload })));
}

#[test]
fn an_endpoint_of_another_node_is_reached_through_a_tunnel() {
    let Ok(Plan::Tunnel(tunnel)) = dial(&mut tables(|_| {}), "10.0.1.1:8080") else { panic!("no tunnel") };
    assert_eq!(tunnel.endpoint, at("10.0.1.1:8080"));
    assert_eq!(tunnel.expected().to_string(), "spiffe://cluster.local/ns/shop/sa/api");
    assert_eq!(tunnel.sni.as_deref(), Some("api.shop.svc.cluster.local"));
}

#[test]
fn a_pod_of_this_node_is_reached_in_process_also_by_itself() {
    assert!(matches!(dial(&mut tables(|_| {}), "10.0.0.2:8080"), Ok(Plan::Local(_))));
    let mut tables = tables(|service| service.selector = service_of("web").selector);
    let Ok(Plan::Local(local)) = dial(&mut tables, "10.96.0.10:80") else { panic!("not local") };
    assert_eq!(local.workload.uid, WorkloadUid("web".into()));
}

fn service_of(name: &str) -> Service {
    service(name, "10.96.0.99")
}

#[test]
fn what_is_not_in_the_mesh_is_reached_in_the_clear() {
    assert!(
        matches!(dial(&mut tables(|_| {}), "1.1.1.1:443"), Ok(Plan::Direct(direct)) if direct.workload.is_none())
    );
    let mut tables = tables(|_| {});
    let outside = Workload { enrolment: Enrolment::Disabled, ..api("b", "b", "10.0.1.1") };
    tables.apply(Delta::UpsertWorkload(Arc::new(outside)));
    assert!(
        matches!(dial(&mut tables, "10.0.1.1:8080"), Ok(Plan::Direct(direct)) if direct.workload.is_some())
    );
    let mut excluded = api("c", "c", "10.0.2.1");
    Arc::make_mut(&mut excluded.details).exclusions.inbound_ports = smallvec::smallvec![9090];
    tables.apply(Delta::UpsertWorkload(Arc::new(excluded)));
    assert!(matches!(dial(&mut tables, "10.0.2.1:9090"), Ok(Plan::Direct(_))));
    assert!(matches!(dial(&mut tables, "10.0.2.1:8080"), Ok(Plan::Tunnel(_))));
}

#[test]
fn inbound_goes_to_the_application() {
    let snapshot = tables(|_| {}).snapshot();
    let facts = inbound(&Arc::new(api("b", "b", "10.0.1.1")), 8080, &pod("web", "a", "10.0.0.1"));
    let destination = resolve::destination(&snapshot, &facts);
    let permit = authorize_connection(&snapshot, &facts, &destination).unwrap();
    let plan = plan_connection(&snapshot, permit, &Choice { random: 0, load: &Busy::default(), tried: &[] });
    assert!(matches!(plan, Ok(Plan::Application(application)) if application.address == at("10.0.1.1:8080")));
}

#[test]
fn every_ready_endpoint_has_its_turn() {
    assert_eq!(reachable(&mut tables(|_| {})).unwrap(), ["10.0.0.2", "10.0.1.1", "10.0.2.1"]);
}

#[test]
fn endpoints_that_terminate_serve_only_when_none_is_ready() {
    let mut tables = tables(|_| {});
    set_state(&mut tables, "a", true, true);
    set_state(&mut tables, "b", false, false);
    assert_eq!(reachable(&mut tables).unwrap(), ["10.0.2.1"]);
    set_state(&mut tables, "c", false, true);
    assert_eq!(reachable(&mut tables).unwrap(), ["10.0.0.2"]);
    set_state(&mut tables, "a", false, true);
    assert_eq!(reachable(&mut tables), Err(Unroutable::NoneReady));
}

#[test]
fn local_traffic_stays_on_the_node() {
    let mut tables = tables(|service| service.internal_traffic_policy = InternalTrafficPolicy::Local);
    assert_eq!(reachable(&mut tables).unwrap(), ["10.0.0.2"]);
    set_state(&mut tables, "a", true, true);
    assert_eq!(reachable(&mut tables).unwrap(), ["10.0.0.2"]);
    set_state(&mut tables, "a", false, false);
    assert_eq!(reachable(&mut tables), Err(Unroutable::NoneOnThisNode));
}

#[test]
fn the_nearest_ready_endpoints_are_preferred() {
    let mut zone = tables(|service| service.traffic_distribution = TrafficDistribution::PreferSameZone);
    assert_eq!(reachable(&mut zone).unwrap(), ["10.0.0.2", "10.0.1.1"]);
    let mut node = tables(|service| service.traffic_distribution = TrafficDistribution::PreferSameNode);
    assert_eq!(reachable(&mut node).unwrap(), ["10.0.0.2"]);
    set_state(&mut node, "a", false, false);
    assert_eq!(reachable(&mut node).unwrap(), ["10.0.1.1"]);
    set_state(&mut node, "b", false, false);
    assert_eq!(reachable(&mut node).unwrap(), ["10.0.2.1"]);
}

/// The Service's endpoints given by a slice, with these hints: address, zones, nodes.
fn slice(hints: &[(&str, &[&str], &[&str])]) -> Delta {
    let endpoint = |(address, zones, nodes): &(&str, &[&str], &[&str])| Endpoint {
        address: ip(address),
        port: 8080,
        workload: None,
        state: EndpointState::Ready,
        node: "".into(),
        zone: "".into(),
        hint_zones: zones.iter().map(|zone| (*zone).into()).collect(),
        hint_nodes: nodes.iter().map(|node| (*node).into()).collect(),
    };
    let ports = vec![SlicePort { name: "http".into(), endpoints: hints.iter().map(endpoint).collect() }];
    let name = crate::model::NamespacedName::new("shop", "api-1");
    let service = crate::model::NamespacedName::new("shop", "api");
    Delta::UpsertEndpointSlice(Arc::new(EndpointSlice { name, service, ports }))
}

#[test]
fn hints_are_followed_if_all_have_them_and_one_is_for_here() {
    let mut tables = tables(|_| {});
    for (hints, expected) in [
        (&[("10.0.0.2", &["1"][..], &[][..]), ("10.0.2.1", &["2"], &[])][..], &["10.0.0.2"][..]),
        (&[("10.0.0.2", &["1"], &[]), ("10.0.2.1", &[], &[])], &["10.0.0.2", "10.0.2.1"]),
        (&[("10.0.0.2", &["2"], &[]), ("10.0.2.1", &["2"], &[])], &["10.0.0.2", "10.0.2.1"]),
        (&[("10.0.0.2", &["1"], &["b"]), ("10.0.2.1", &["2"], &["a"])], &["10.0.2.1"]),
        (&[("10.0.0.2", &["1"], &["b"]), ("10.0.2.1", &["2"], &["c"])], &["10.0.0.2"]),
    ] {
        tables.apply(slice(hints));
        assert_eq!(reachable(&mut tables).unwrap(), expected, "{hints:?}");
    }
}

#[test]
fn a_connection_goes_where_the_fewest_are() {
    let mut tables = tables(|_| {});
    let busy =
        Busy(HashMap::from([(at("10.0.0.2:8080"), 5), (at("10.0.1.1:8080"), 3), (at("10.0.2.1:8080"), 4)]));
    for step in 0..64u64 {
        let plan = plan(&mut tables, "10.96.0.10:80", plan_connection, step << 58, &busy, &[]).unwrap();
        assert_eq!(plan.address(), at("10.0.1.1:8080"));
    }
}

#[test]
fn a_request_never_goes_to_the_busiest_of_three() {
    let mut tables = tables(|_| {});
    let busy =
        Busy(HashMap::from([(at("10.0.0.2:8080"), 5), (at("10.0.1.1:8080"), 3), (at("10.0.2.1:8080"), 4)]));
    let mut seen = HashSet::new();
    for step in 0..256u64 {
        let random = step.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        seen.insert(plan(&mut tables, "10.96.0.10:80", plan_request, random, &busy, &[]).unwrap().address());
    }
    assert_eq!(seen, HashSet::from([at("10.0.1.1:8080"), at("10.0.2.1:8080")]));
}

#[test]
fn a_second_choice_leaves_out_what_was_tried() {
    let mut tables = tables(|service| service.traffic_distribution = TrafficDistribution::PreferSameNode);
    let mut tried = vec![];
    for _ in 0..3 {
        let plan = plan(&mut tables, "10.96.0.10:80", plan_connection, 7, &Busy::default(), &tried).unwrap();
        assert!(!tried.contains(&plan.address()));
        tried.push(plan.address());
    }
    let last = plan(&mut tables, "10.96.0.10:80", plan_connection, 7, &Busy::default(), &tried);
    assert_eq!(last, Err(Unroutable::AllTried));
}

#[test]
fn a_client_keeps_its_endpoint_while_it_is_eligible() {
    let mut tables =
        tables(|service| service.client_ip_affinity = Some(std::time::Duration::from_secs(10_800)));
    let kept = reachable(&mut tables).unwrap();
    assert_eq!(kept.len(), 1);
    let other = if kept[0] == "10.0.0.2" { "b" } else { "a" };
    set_state(&mut tables, other, false, false);
    assert_eq!(reachable(&mut tables).unwrap(), kept);
}

#[test]
fn a_client_changes_its_endpoint_only_for_one_that_came_or_went() {
    let endpoint = |last: u8| Endpoint {
        address: [10, 0, 1, last].into(),
        port: 8080,
        workload: None,
        state: EndpointState::Ready,
        node: "".into(),
        zone: "".into(),
        hint_zones: Default::default(),
        hint_nodes: Default::default(),
    };
    let few: Vec<Endpoint> = (1..=4).map(endpoint).collect();
    let more: Vec<Endpoint> = (1..=5).rev().map(endpoint).collect();
    let mut moved = 0;
    for client in 0..=255_u8 {
        let chosen = |among: &[Endpoint]| {
            balance::by_client(among.iter(), [10, 0, 0, client].into()).map(|endpoint| endpoint.address)
        };
        let (before, after) = (chosen(&few), chosen(&more));
        assert!(after == before || after == Some(more[0].address), "{before:?} became {after:?}");
        moved += u32::from(after != before);
    }
    assert!((26..=76).contains(&moved), "{moved} of 256 clients moved to one of five endpoints");
}

#[test]
fn only_endpoints_of_the_dialled_family_are_offered() {
    let mut tables = tables(|service| service.cluster_ips.push(ip("fd96::10")));
    assert_eq!(dial(&mut tables, "[fd96::10]:80"), Err(Unroutable::NoEndpoints));
    let mut dual = api("b", "b", "10.0.1.1");
    dual.addresses.push(ip("fd00::b"));
    tables.apply(Delta::UpsertWorkload(Arc::new(dual)));
    assert_eq!(dial(&mut tables, "[fd96::10]:80").unwrap().address(), at("[fd00::b]:8080"));
    assert_eq!(reachable(&mut tables).unwrap(), ["10.0.0.2", "10.0.1.1", "10.0.2.1"]);
}

#[test]
fn an_endpoint_whose_address_another_pod_has_is_passed_over() {
    let mut tables = tables(|_| {});
    let mut hints = Vec::new();
    for address in ["10.0.1.1", "10.0.2.1"] {
        hints.push((address, &[][..], &[][..]));
    }
    let Delta::UpsertEndpointSlice(given) = slice(&hints) else { panic!("no slice") };
    let mut given = given.as_ref().clone();
    let endpoints = Arc::make_mut(&mut given.ports[0].endpoints);
    endpoints[0].workload = Some(WorkloadUid("one-before".into()));
    endpoints[1].workload = Some(WorkloadUid("c".into()));
    tables.apply(Delta::UpsertEndpointSlice(Arc::new(given)));
    assert_eq!(reachable(&mut tables).unwrap(), ["10.0.2.1"]);
    tables.apply(Delta::RemoveWorkload(WorkloadUid("c".into())));
    assert_eq!(reachable(&mut tables), Err(Unroutable::EndpointsNotKnown));
}

#[test]
fn an_endpoint_in_the_host_network_is_reached_in_the_clear() {
    let mut tables = tables(|_| {});
    let host =
        Workload { host_network: true, enrolment: Enrolment::Disabled, ..api("h", "b", "192.168.0.2") };
    tables.apply(Delta::UpsertWorkload(Arc::new(host)));
    for uid in ["a", "b", "c"] {
        tables.apply(Delta::RemoveWorkload(WorkloadUid(uid.into())));
    }
    assert!(
        matches!(dial(&mut tables, "10.96.0.10:80"), Ok(Plan::Direct(direct)) if direct.workload.is_some())
    );
}

#[test]
fn what_every_connection_carries_is_small() {
    assert!(size_of::<crate::model::SpiffeId>() == size_of::<usize>());
    for (name, size, limit) in [
        ("ConnectionFacts", size_of::<crate::model::ConnectionFacts>(), 152),
        ("Destination", size_of::<resolve::Destination>(), 80),
        ("Permit", size_of::<Permit<'_>>(), 112),
        ("Denial", size_of::<crate::policy::Denial>(), 64),
        ("Plan", size_of::<Plan>(), 72),
    ] {
        assert!(size <= limit, "{name} has {size} bytes, at most {limit} were meant");
    }
}
