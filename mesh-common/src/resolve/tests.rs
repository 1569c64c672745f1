use std::sync::Arc;

use super::*;
use crate::model::samples::{at, inbound, outbound, pod, service};
use crate::model::{Node, Question, ServicePort, TargetPort};
use crate::snapshot::{Delta, Tables};

/// Pods `web` on node a and `api` on node b, a Service of `api`, and node b with its addresses.
fn tables() -> Tables {
    let mut tables = Tables::default();
    tables.apply(Delta::UpsertWorkload(Arc::new(pod("web", "a", "10.0.0.1"))));
    tables.apply(Delta::UpsertWorkload(Arc::new(pod("api", "b", "10.0.1.1"))));
    let mut api = service("api", "10.96.0.10");
    api.ports[0].node_port = Some(30080);
    tables.apply(Delta::UpsertService(Arc::new(api)));
    tables.apply(Delta::UpsertNode(Arc::new(Node {
        name: "b".into(),
        zone: "".into(),
        addresses: smallvec::smallvec![at("192.168.0.2:0").ip()],
        pod_cidrs: smallvec::smallvec!["10.0.1.0/24".parse().unwrap()],
    })));
    tables
}

fn dial(tables: &mut Tables, address: &str) -> Destination {
    let snapshot = tables.snapshot();
    let web = Arc::new(pod("web", "a", "10.0.0.1"));
    destination(&snapshot, &outbound(&web, address))
}

fn arrive(tables: &mut Tables, port: u16, claimed: Option<&str>) -> Destination {
    let snapshot = tables.snapshot();
    let api = Arc::new(pod("api", "b", "10.0.1.1"));
    let facts = inbound(&api, port, &pod("web", "a", "10.0.0.1"));
    destination(&snapshot, &ConnectionFacts { claimed_dst: claimed.map(at), ..facts })
}

fn called(destination: &Destination) -> Option<&str> {
    destination.service.as_ref().map(|called| &*called.service.name.name)
}

#[test]
fn a_cluster_ip_is_its_service() {
    let found = dial(&mut tables(), "10.96.0.10:80");
    assert!(matches!(&found.target, Target::Service(port) if port.endpoints().len() == 1), "{found:?}");
    assert_eq!((found.protocol, called(&found)), (Protocol::Http1, Some("api")));
}

#[test]
fn a_node_port_is_its_service() {
    assert!(matches!(dial(&mut tables(), "192.168.0.2:30080").target, Target::Service(_)));
    assert_eq!(dial(&mut tables(), "192.168.0.2:30081").target, Target::External);
    assert_eq!(dial(&mut tables(), "192.168.0.3:30080").target, Target::External);
}

#[test]
fn a_port_that_the_service_lacks_leads_nowhere() {
    assert_eq!(
        dial(&mut tables(), "10.96.0.10:81").target,
        Target::Unknown(UnknownTarget::NoSuchServicePort)
    );
}

#[test]
fn a_pod_address_is_the_pod_with_the_protocol_of_its_services() {
    let found = dial(&mut tables(), "10.0.1.1:8080");
    assert_eq!(found.workload().map(|pod| &*pod.name.name), Some("api"));
    assert_eq!((found.protocol, called(&found)), (Protocol::Http1, Some("api")));
    let other_port = dial(&mut tables(), "10.0.1.1:9090");
    assert_eq!((other_port.protocol, called(&other_port)), (Protocol::Undeclared, None));
}

#[test]
fn services_that_contradict_each_other_declare_nothing() {
    let mut tables = tables();
    let mut opaque = service("raw", "10.96.0.11");
    opaque.selector = service("api", "10.96.0.10").selector;
    opaque.ports[0].protocol = Protocol::Tcp;
    tables.apply(Delta::UpsertService(Arc::new(opaque)));
    assert_eq!(dial(&mut tables, "10.0.1.1:8080").protocol, Protocol::Undeclared);
    assert_eq!(dial(&mut tables, "10.96.0.11:80").protocol, Protocol::Tcp);
}

#[test]
fn an_unknown_address_is_outside_only_if_it_is_in_no_range_of_the_mesh() {
    assert_eq!(dial(&mut tables(), "1.1.1.1:443").target, Target::External);
    assert_eq!(dial(&mut tables(), "10.0.1.9:443").target, Target::Unknown(UnknownTarget::NotYetKnown));
}

#[test]
fn an_address_that_two_pods_claim_is_nobodys() {
    let mut tables = tables();
    tables.apply(Delta::UpsertWorkload(Arc::new(pod("new", "b", "10.0.1.1"))));
    assert_eq!(dial(&mut tables, "10.0.1.1:8080").target, Target::Unknown(UnknownTarget::Contested));
    assert_eq!(tables.snapshot().contested_addresses(), 1);
    tables.apply(Delta::RemoveWorkload(pod("api", "b", "10.0.1.1").uid));
    let found = dial(&mut tables, "10.0.1.1:8080");
    assert_eq!(found.workload().map(|pod| &*pod.name.name), Some("new"));
    assert_eq!(called(&found), None, "the endpoint was the old pod's");
}

#[test]
fn the_local_pod_is_called_by_the_service_that_has_it() {
    let found = arrive(&mut tables(), 8080, None);
    assert!(matches!(found.target, Target::Local(_)));
    assert_eq!((found.protocol, called(&found)), (Protocol::Http1, Some("api")));
}

#[test]
fn a_claimed_service_counts_only_if_it_has_the_endpoint() {
    let mut tables = tables();
    let mut second = service("second", "10.96.0.11");
    second.selector = service("api", "10.96.0.10").selector;
    second.ports.push(ServicePort {
        name: "raw".into(),
        port: 81,
        target_port: TargetPort::Named("http".into()),
        node_port: None,
        protocol: Protocol::Tcp,
    });
    tables.apply(Delta::UpsertService(Arc::new(second)));
    tables.apply(Delta::UpsertService(Arc::new(service("other", "10.96.0.12"))));
    assert_eq!(called(&arrive(&mut tables, 8080, Some("10.96.0.11:80"))), Some("second"));
    assert_eq!(arrive(&mut tables, 8080, Some("10.96.0.11:81")).protocol, Protocol::Tcp);
    assert_eq!(called(&arrive(&mut tables, 8080, Some("10.96.0.12:80"))), Some("api"));
    assert_eq!(called(&arrive(&mut tables, 8080, Some("10.99.0.1:80"))), Some("api"));
    assert_eq!(called(&arrive(&mut tables, 9090, Some("10.96.0.11:80"))), None);
}

#[test]
fn a_second_address_of_the_local_pod_that_nobody_told_of_is_refused() {
    let mut tables = tables();
    let snapshot = tables.snapshot();
    let api = Arc::new(pod("api", "b", "10.0.1.1"));
    let mut facts = inbound(&api, 8080, &pod("web", "a", "10.0.0.1"));
    facts.original_dst = at("[fe80::1]:8080");
    assert_eq!(destination(&snapshot, &facts).target, Target::Unknown(UnknownTarget::NotLocalAddress));
}

#[test]
fn a_local_pod_that_is_gone_goes_nowhere() {
    let mut tables = tables();
    tables.apply(Delta::RemoveWorkload(pod("api", "b", "10.0.1.1").uid));
    assert_eq!(arrive(&mut tables, 8080, None).target, Target::Unknown(UnknownTarget::LocalGone));
}

#[test]
fn what_was_not_asked_is_to_be_asked_whatever_is_known_of_it() {
    let mut tables = tables();
    tables.know_what_was_asked();
    for address in ["10.96.0.10:80", "10.0.1.1:8080", "10.0.1.9:443", "1.1.1.1:443", "192.168.0.2:30080"] {
        assert!(dial(&mut tables, address).is_to_be_asked(), "{address}");
    }
    tables.learn(Question::Address(at("10.96.0.10:0").ip()));
    assert!(matches!(dial(&mut tables, "10.96.0.10:80").target, Target::Service(_)));
    tables.learn(Question::Address(at("192.168.0.2:0").ip()));
    assert!(dial(&mut tables, "192.168.0.2:30080").is_to_be_asked(), "of a node the port counts too");
    tables.learn(Question::NodePort(30080));
    assert!(matches!(dial(&mut tables, "192.168.0.2:30080").target, Target::Service(_)));
    tables.learn(Question::Address(at("1.1.1.1:0").ip()));
    assert_eq!(dial(&mut tables, "1.1.1.1:443").target, Target::External);
    tables.forget(Question::Address(at("10.96.0.10:0").ip()));
    assert!(dial(&mut tables, "10.96.0.10:80").is_to_be_asked());
    tables.know_everything();
    assert!(matches!(dial(&mut tables, "10.96.0.10:80").target, Target::Service(_)));
}

#[test]
fn without_an_answer_only_what_is_in_no_range_and_nobodys_is_outside() {
    let mut tables = tables();
    tables.know_what_was_asked();
    let mut unanswered = |address: &str| {
        let destination = dial(&mut tables, address);
        super::unanswered(&tables.snapshot(), destination).target
    };
    assert_eq!(unanswered("1.1.1.1:443"), Target::External);
    for address in ["10.96.0.10:80", "10.0.1.1:8080", "10.0.1.9:443"] {
        assert_eq!(unanswered(address), Target::Unknown(UnknownTarget::NotAsked), "{address}");
    }
    let mut nowhere = Tables::default();
    nowhere.apply(Delta::UpsertWorkload(Arc::new(pod("web", "a", "10.0.0.1"))));
    nowhere.know_what_was_asked();
    let destination = dial(&mut nowhere, "1.1.1.1:443");
    let unanswered = super::unanswered(&nowhere.snapshot(), destination);
    assert!(unanswered.is_to_be_asked(), "where no range is known, nothing is outside");
}
