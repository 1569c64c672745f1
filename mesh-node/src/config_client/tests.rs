use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource as WireResource};
use envoy_types::pb::google::protobuf::Any;
use mesh_common::model::policy::{Action, AuthorizationPolicy, Mode, Scope};
use mesh_common::model::request_authentication::{JwtRule, TokenLocation};
use mesh_common::model::service::{InternalTrafficPolicy, TrafficDistribution};
use mesh_common::model::{
    Endpoint, EndpointSlice, EndpointState, MeshSettings, NamespacedName, Node, Question,
    RequestAuthentication, Service, SlicePort, TrustDomain, Workload, WorkloadUid,
};
use mesh_common::snapshot::{Delta, Snapshot};
use mesh_common::token::KeySet;

use super::asks::Batch;
use super::world::{Kept, World};
use crate::xds::refusal::refusals;
use crate::xds::{
    EVERYTHING, Key, MESH, Outgoing, Resource, ResourceType, Trust, encode, encode_answer, encode_trust,
};

const BAD: &[u8] = &[0xff; 5];

fn world() -> World {
    let mut world = World::new("a".into(), MeshSettings::default(), false);
    assert_eq!(world.begin(&[]).len(), ResourceType::OF_EVERYBODY.len());
    world
}

fn resource(delta: &Delta) -> Resource {
    match encode(delta) {
        Outgoing::Upsert(resource) => resource,
        Outgoing::Remove(key) => panic!("{key} is removed"),
    }
}

fn node(name: &str) -> Delta {
    Delta::UpsertNode(Arc::new(Node {
        name: name.into(),
        zone: "".into(),
        addresses: [].into_iter().collect(),
        pod_cidrs: [].into_iter().collect(),
    }))
}

fn policy(name: &str) -> Delta {
    Delta::UpsertAuthorizationPolicy(Arc::new(AuthorizationPolicy {
        name: NamespacedName::new("shop", name),
        scope: Scope::Mesh,
        action: Action::Allow,
        mode: Mode::Enforce,
        rules: Vec::new(),
        fault: None,
    }))
}

fn response(
    kind: ResourceType,
    version: &str,
    resources: &[Resource],
    removed: &[&str],
) -> DeltaDiscoveryResponse {
    let wire = |resource: &Resource| WireResource {
        name: resource.key.name.to_string(),
        version: resource.version.to_string(),
        resource: Some(Any { type_url: kind.type_url(), value: resource.value.to_vec() }),
        ..WireResource::default()
    };
    DeltaDiscoveryResponse {
        system_version_info: version.to_owned(),
        resources: resources.iter().map(wire).collect(),
        type_url: kind.type_url(),
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        nonce: "1".to_owned(),
        ..DeltaDiscoveryResponse::default()
    }
}

/// Takes an empty response for every type but these.
fn complete(world: &mut World, but: &[ResourceType]) -> bool {
    let mut is_whole = false;
    for kind in ResourceType::OF_EVERYBODY.into_iter().filter(|kind| !but.contains(kind)) {
        is_whole = world.take(response(kind, "1", &[], &[])).unwrap().is_whole;
    }
    is_whole
}

fn policies(world: &mut World) -> BTreeSet<String> {
    world.commit().snapshot.authorization_policies().map(|policy| policy.name.to_string()).collect()
}

#[test]
fn nothing_is_in_force_before_every_type_was_answered() {
    let mut world = world();
    let nodes = [resource(&node("a")), resource(&node("b"))];
    let taken = world.take(response(ResourceType::Node, "1", &nodes, &[])).unwrap();
    assert!(!taken.is_whole && taken.answer.error_detail.is_none());
    assert_eq!(
        (taken.answer.response_nonce.as_str(), taken.answer.type_url),
        ("1", ResourceType::Node.type_url())
    );
    assert!(world.saved().is_none(), "half a round was saved");
    assert!(complete(&mut world, &[ResourceType::Node]));
    assert_eq!(world.commit().snapshot.nodes().count(), 2);
    assert_eq!(world.saved().unwrap().len(), 2);
}

#[test]
fn a_round_is_whole_with_the_response_that_says_so() {
    let mut world = world();
    complete(&mut world, &[]);
    world.commit();
    let more = world.take(response(ResourceType::Node, "2+", &[resource(&node("a"))], &[])).unwrap();
    assert!(!more.is_whole);
    let last = world.take(response(ResourceType::AuthorizationPolicy, "2", &[resource(&policy("p"))], &[]));
    assert!(last.unwrap().is_whole);
    let in_force = world.commit();
    assert_eq!(
        (in_force.snapshot.nodes().count(), in_force.snapshot.authorization_policies().count()),
        (1, 1)
    );
}

#[test]
fn who_begins_again_says_what_it_understood() {
    let mut world = world();
    let good = resource(&policy("good"));
    let bad =
        Resource::new(Key { kind: ResourceType::AuthorizationPolicy, name: "shop/bad".into() }, BAD.into());
    let broken = Resource::new(Key { kind: ResourceType::Node, name: "b".into() }, BAD.into());
    let taken =
        world.take(response(ResourceType::AuthorizationPolicy, "1", &[good.clone(), bad], &[])).unwrap();
    let (named, _) = refusals(taken.answer.error_detail.unwrap());
    assert_eq!((named.len(), named[0].name.as_str(), named[0].denies), (1, "shop/bad", true));
    let taken = world.take(response(ResourceType::Node, "1", &[broken, resource(&node("a"))], &[])).unwrap();
    assert!(!refusals(taken.answer.error_detail.unwrap()).0[0].denies);
    // What is not understood denies; the rest is in force.
    complete(&mut world, &[ResourceType::AuthorizationPolicy, ResourceType::Node]);
    assert_eq!(policies(&mut world), ["shop/bad".to_owned(), "shop/good".to_owned()].into());
    assert_eq!(world.refused().len(), 2);
    let requests = world.begin(&[]);
    let said = &requests[ResourceType::AuthorizationPolicy.index()].initial_resource_versions;
    assert_eq!(said.get("shop/good"), Some(&good.version.to_string()));
    assert_eq!(said.len(), 1);
    assert_eq!(requests[ResourceType::Node.index()].initial_resource_versions.len(), 1);
    assert_eq!(requests[0].node.as_ref().unwrap().id, "a");
}

#[test]
fn an_earlier_controller_is_asked_once_without_what_it_does_not_know() {
    let mut world = world();
    let newest = ResourceType::RequestAuthentication;
    let asks =
        |world: &mut World| world.begin(&[]).iter().any(|request| request.type_url == newest.type_url());
    assert!(asks(&mut world));
    world.leave_out_newest();
    assert!(!asks(&mut world));
    assert!(complete(&mut world, &[newest]), "the round is whole without it");
    assert!(asks(&mut world), "the controller may be another one by now");
}

#[test]
fn a_round_that_broke_off_is_in_force_with_the_next_one() {
    let mut world = world();
    complete(&mut world, &[]);
    world.take(response(ResourceType::Node, "2+", &[resource(&node("a"))], &[])).unwrap();
    let requests = world.begin(&[]);
    assert_eq!(requests[ResourceType::Node.index()].initial_resource_versions.len(), 1);
    assert!(complete(&mut world, &[]));
    assert_eq!(world.commit().snapshot.nodes().count(), 1);
}

#[test]
fn what_is_removed_is_gone_but_for_settings_and_roots() {
    let mut world = world();
    let settings = MeshSettings { root_namespace: "mesh".into(), ..MeshSettings::default() };
    let settings = resource(&Delta::Settings(settings.into()));
    complete(&mut world, &[]);
    world.take(response(ResourceType::Mesh, "2+", &[settings], &[])).unwrap();
    world.take(response(ResourceType::AuthorizationPolicy, "2", &[resource(&policy("p"))], &[])).unwrap();
    assert_eq!(policies(&mut world).len(), 1);
    world.take(response(ResourceType::Mesh, "3+", &[], &[MESH])).unwrap();
    world.take(response(ResourceType::AuthorizationPolicy, "3", &[], &["shop/p", "shop/unknown"])).unwrap();
    let in_force = world.commit();
    assert_eq!(in_force.snapshot.authorization_policies().count(), 0);
    assert_eq!(&*in_force.snapshot.settings().root_namespace, "mesh");
    assert_eq!(world.saved().unwrap().len(), 1);
}

#[test]
fn the_root_namespace_of_the_same_round_counts() {
    let mut world = world();
    let settings = MeshSettings { root_namespace: "shop".into(), ..MeshSettings::default() };
    complete(&mut world, &[]);
    let settings = resource(&Delta::Settings(settings.into()));
    world.take(response(ResourceType::Mesh, "2+", &[settings], &[])).unwrap();
    let bad =
        Resource::new(Key { kind: ResourceType::AuthorizationPolicy, name: "shop/bad".into() }, BAD.into());
    world.take(response(ResourceType::AuthorizationPolicy, "2", &[bad], &[])).unwrap();
    let snapshot = world.commit().snapshot;
    assert_eq!(snapshot.authorization_policies().next().unwrap().scope, Scope::Mesh);
}

#[test]
fn roots_are_told_once() {
    let trust = Trust {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        roots: vec![vec![1]],
        revocation_lists: Vec::new(),
        retired: Vec::new(),
    };
    let mut world = world();
    world.take(response(ResourceType::TrustBundle, "1", &[encode_trust(&trust)], &[])).unwrap();
    assert_eq!(world.commit().trust, Some(Arc::new(trust)));
    assert_eq!(world.commit().trust, None);
}

#[test]
fn what_was_saved_is_in_force_at_once_and_known_to_the_next_stream() {
    let mut world = world();
    world.take(response(ResourceType::Node, "1", &[resource(&node("a"))], &[])).unwrap();
    world.take(response(ResourceType::AuthorizationPolicy, "1", &[resource(&policy("p"))], &[])).unwrap();
    world.commit();
    let saved = world.saved().unwrap();
    let mut again = World::new("a".into(), MeshSettings::default(), false);
    let in_force = again.restore(saved.into_iter().map(Kept::resource).collect());
    assert_eq!(
        (in_force.snapshot.nodes().count(), in_force.snapshot.authorization_policies().count()),
        (1, 1)
    );
    assert_eq!(again.begin(&[])[ResourceType::Node.index()].initial_resource_versions.len(), 1);
}

fn service(name: &str) -> Resource {
    resource(&Delta::UpsertService(Arc::new(Service {
        name: NamespacedName::new("shop", name),
        host: format!("{name}.shop.svc.cluster.local").into(),
        cluster_ips: [[10, 96, 0, 1].into()].into_iter().collect(),
        external_addresses: [].into_iter().collect(),
        selector: [].into(),
        ports: Vec::new(),
        client_ip_affinity: None,
        internal_traffic_policy: InternalTrafficPolicy::Cluster,
        traffic_distribution: TrafficDistribution::Any,
        publish_not_ready: false,
    })))
}

fn slice(name: &str) -> Resource {
    let endpoint = Endpoint {
        address: [10, 0, 0, 7].into(),
        port: 80,
        workload: Some(WorkloadUid("3f0c1f6e".into())),
        state: EndpointState::Ready,
        node: "a".into(),
        zone: "".into(),
        hint_zones: Box::default(),
        hint_nodes: ["a".into()].into(),
    };
    let [name, service] = [name, "web"].map(|name| NamespacedName::new("shop", name));
    let ports = vec![SlicePort { name: "http".into(), endpoints: Arc::new([endpoint]) }];
    resource(&Delta::UpsertEndpointSlice(Arc::new(EndpointSlice { name, service, ports })))
}

fn pod(uid: &str) -> Resource {
    let identity = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
    let pod = Workload::new(NamespacedName::new("shop", "web-0"), "b", identity);
    resource(&Delta::UpsertWorkload(Arc::new(Workload { uid: WorkloadUid(uid.into()), ..pod })))
}

#[test]
fn pods_services_and_endpoints_are_saved_as_they_came() {
    let came = [service("web"), slice("web-1"), pod("3f0c1f6e")];
    let mut world = world();
    complete(&mut world, &[]);
    for resource in &came {
        world.take(response(resource.key.kind, "1", std::slice::from_ref(resource), &[])).unwrap();
    }
    assert!(world.saved().is_none(), "half a round was saved");
    world.commit();
    let mut saved: Vec<_> = world.saved().unwrap().into_iter().map(Kept::resource).collect();
    saved.sort();
    let mut bytes: Vec<_> = came.iter().map(|came| (came.key.clone(), came.value.clone())).collect();
    bytes.sort();
    assert_eq!(saved, bytes);
    for resource in came {
        world.take(response(resource.key.kind, "2", &[], &[&resource.key.name])).unwrap();
    }
    world.commit();
    assert!(world.saved().unwrap().is_empty(), "what is gone was saved");
}

#[test]
fn a_type_that_was_not_asked_for_ends_the_stream() {
    let response = DeltaDiscoveryResponse { type_url: "x".to_owned(), ..DeltaDiscoveryResponse::default() };
    assert!(world().take(response).unwrap_err().to_string().contains("not asked for"));
}

#[test]
fn a_resource_of_another_type_is_refused() {
    let mut sent = response(ResourceType::Node, "1", &[resource(&node("a")), resource(&node("b"))], &[]);
    sent.resources[0].resource = None;
    sent.resources[1].resource.as_mut().unwrap().type_url = ResourceType::Service.type_url();
    let taken = world().take(sent).unwrap();
    assert_eq!(refusals(taken.answer.error_detail.unwrap()).0.len(), 2);
}

const WEB: Question = Question::Address(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1)));

/// An agent that asks, on a stream that has begun.
fn asking(questions: &[Question]) -> World {
    let mut world = World::new("a".into(), MeshSettings::default(), true);
    world.begin(questions);
    world
}

fn knows_web(world: &mut World) -> bool {
    let Question::Address(address) = WEB else { unreachable!("it is an address") };
    let snapshot = world.commit().snapshot;
    assert!(snapshot.is_partial());
    !snapshot.is_unasked(address)
}

fn answer(world: &mut World, version: &str, removed: &[&str]) {
    let answers: &[_] = if removed.is_empty() { &[encode_answer(WEB)] } else { &[] };
    world.take(response(ResourceType::Address, version, answers, removed)).unwrap();
}

#[test]
fn who_asks_wants_nothing_as_a_matter_of_course() {
    let mut world = World::new("a".into(), MeshSettings::default(), true);
    let requests = world.begin(&[WEB]);
    for (kind, request) in ResourceType::ALL.into_iter().zip(&requests) {
        let names = [&request.resource_names_subscribe, &request.resource_names_unsubscribe];
        let is_nothing = names.iter().all(|names| names.iter().any(|name| name == EVERYTHING));
        assert_eq!(is_nothing, kind.is_on_demand() || kind == ResourceType::Address, "{kind}");
    }
    assert_eq!(requests[ResourceType::Address.index()].resource_names_subscribe, ["10.96.0.1", EVERYTHING]);
    assert!(!complete(&mut world, &[]), "the answers are missing");
    let last = world.take(response(ResourceType::Address, "1", &[], &[])).unwrap();
    assert!(last.is_whole);
}

#[test]
fn what_is_answered_is_known_until_it_is_taken_back() {
    let mut world = asking(&[]);
    complete(&mut world, &[]);
    assert!(!knows_web(&mut world));
    world.ask(&Batch { asked: vec![WEB], ..Batch::default() });
    answer(&mut world, "2", &[]);
    assert_eq!(world.questions(), [WEB]);
    assert!(knows_web(&mut world));
    let (request, snapshot) = world.ask(&Batch { taken_back: vec![WEB], ..Batch::default() });
    assert_eq!(request.resource_names_unsubscribe, ["10.96.0.1"]);
    assert!(snapshot.is_unasked([10, 96, 0, 1].into()), "it is not known from the moment on");
    answer(&mut world, "3", &[]);
    assert!(!knows_web(&mut world), "the answer to the question of before counted");
    answer(&mut world, "4", &["10.96.0.1"]);
    assert_eq!(world.commit().settled, [WEB]);
    world.ask(&Batch { asked: vec![WEB], ..Batch::default() });
    answer(&mut world, "5", &[]);
    assert!(knows_web(&mut world));
}

#[test]
fn what_was_asked_is_all_that_is_known_of_a_state_on_disk() {
    let mut world = asking(&[WEB]);
    complete(&mut world, &[]);
    world.take(response(ResourceType::Service, "1", &[service("web")], &[])).unwrap();
    answer(&mut world, "1", &[]);
    world.commit();
    let saved: Vec<_> = world.saved().unwrap().into_iter().map(Kept::resource).collect();
    for asks in [true, false] {
        let mut again = World::new("a".into(), MeshSettings::default(), asks);
        let restored = again.restore(saved.clone()).snapshot;
        assert!(restored.is_partial() && !restored.is_unasked([10, 96, 0, 1].into()));
        assert!(restored.is_unasked([10, 96, 0, 2].into()), "nothing is known of it");
        assert_eq!(again.questions(), [WEB]);
        again.begin(&[]);
        complete(&mut again, &[]);
        assert_eq!(again.commit().snapshot.is_partial(), asks, "a stream that told everything");
        assert_eq!(again.questions().is_empty(), !asks);
    }
}

#[test]
fn of_a_state_of_who_asked_nothing_nothing_is_known_whole() {
    let mut world = asking(&[]);
    complete(&mut world, &[]);
    world.take(response(ResourceType::Address, "1", &[], &[])).unwrap();
    world.commit();
    let saved = world.saved().unwrap().into_iter().map(Kept::resource).collect();
    let mut again = World::new("a".into(), MeshSettings::default(), false);
    assert!(again.restore(saved).snapshot.is_partial());
}

#[test]
fn who_does_not_ask_takes_no_answer() {
    let sent = response(ResourceType::Address, "1", &[encode_answer(WEB)], &[]);
    assert!(world().take(sent).is_err());
}

const URI: &str = "https://issuer.example/keys";

fn users(keys: Option<&str>, uri: Option<&str>, audience: &str) -> Delta {
    let rule = JwtRule {
        issuer: "https://issuer.example".into(),
        audiences: vec![audience.into()],
        keys: keys.map(|text| Arc::new(KeySet::parse(text).unwrap())),
        keys_uri: uri.map(Into::into),
        locations: TokenLocation::usual(),
        forward_original: false,
        payload_header: None,
        claim_headers: Vec::new(),
        space_delimited: Arc::new([]),
    };
    Delta::UpsertRequestAuthentication(Arc::new(RequestAuthentication {
        name: NamespacedName::new("shop", "users"),
        scope: Scope::Mesh,
        rules: vec![rule],
        fault: None,
    }))
}

/// What is in force after it came: the keys, and the audience.
fn told(world: &mut World, users: &Delta) -> (Option<String>, String) {
    let came = [resource(users)];
    world.take(response(ResourceType::RequestAuthentication, "1", &came, &[])).unwrap();
    rule(&world.commit().snapshot)
}

fn rule(snapshot: &Snapshot) -> (Option<String>, String) {
    let policy = snapshot.all_request_authentications().next().unwrap();
    let rule = &policy.rules[0];
    (rule.keys.as_ref().map(|keys| keys.text().to_string()), rule.audiences[0].to_string())
}

#[test]
fn a_controller_that_has_not_fetched_keys_yet_takes_none_away() {
    const KEYS: &str = r#"{"keys":[]}"#;
    let mut world = world();
    complete(&mut world, &[ResourceType::RequestAuthentication]);
    assert_eq!(told(&mut world, &users(None, Some(URI), "a")), (None, "a".to_owned()), "there are none");
    let has = Some(KEYS.to_owned());
    assert_eq!(told(&mut world, &users(Some(KEYS), Some(URI), "a")), (has.clone(), "a".to_owned()));
    let unfetched = users(None, Some(URI), "b");
    assert_eq!(told(&mut world, &unfetched), (has.clone(), "b".to_owned()), "all else counts at once");
    // The version is that of what came: the controller is not told that we have something else.
    let begun = world.begin(&[]);
    let of_kind = begun.iter().find(|request| request.type_url.contains("RequestAuthentication")).unwrap();
    let version = resource(&unfetched).version.to_string();
    assert_eq!(of_kind.initial_resource_versions["shop/users"], version);
    complete(&mut world, &[ResourceType::RequestAuthentication]);
    world.commit();
    let saved = world.saved().unwrap().into_iter().map(Kept::resource).collect();
    let mut again = self::world();
    assert_eq!(rule(&again.restore(saved).snapshot), (has, "b".to_owned()), "also after a restart");
    complete(&mut again, &[ResourceType::RequestAuthentication]);
    let other = users(None, Some("https://other.example/keys"), "b");
    assert_eq!(told(&mut again, &other).0, None, "keys of another URI are others");
}

#[test]
fn keys_that_are_too_old_are_taken_away() {
    let mut world = world();
    complete(&mut world, &[ResourceType::RequestAuthentication]);
    told(&mut world, &users(Some(r#"{"keys":[]}"#), Some(URI), "a"));
    assert_eq!(told(&mut world, &users(None, None, "a")).0, None);
}
