use std::sync::Arc;

use mesh_common::model::TrustDomain;
use mesh_common::model::policy::{Action, Mode, MutualTls, Scope};
use mesh_common::snapshot::Delta;
use proptest::prelude::*;
use prost::Message;

use super::refusal::{Refusal, error_detail, refusals};
use super::*;

fn key(kind: ResourceType, name: &str) -> Key {
    Key { kind, name: name.into() }
}

fn read(key: &Key, value: &[u8], root_namespace: &str) -> Reading {
    super::read(key, value, root_namespace, &mut Shared::default())
}

fn policy_key() -> Key {
    key(ResourceType::AuthorizationPolicy, "shop/rules")
}

fn authorization(reading: &Reading) -> &mesh_common::model::AuthorizationPolicy {
    match reading {
        Reading::Understood(Update::Delta(Delta::UpsertAuthorizationPolicy(policy)))
        | Reading::Denies(Update::Delta(Delta::UpsertAuthorizationPolicy(policy)), _) => policy,
        other => panic!("no policy: {other:?}"),
    }
}

fn peer(reading: &Reading) -> &mesh_common::model::PeerAuthentication {
    match reading {
        Reading::Understood(Update::Delta(Delta::UpsertPeerAuthentication(policy)))
        | Reading::Denies(Update::Delta(Delta::UpsertPeerAuthentication(policy)), _) => policy,
        other => panic!("no policy: {other:?}"),
    }
}

/// A field that no version has yet.
fn with_unknown_field(mut value: Vec<u8>) -> Vec<u8> {
    prost::encoding::string::encode(4000, &"new".to_owned(), &mut value);
    value
}

fn allow() -> messages::AuthorizationPolicy {
    messages::AuthorizationPolicy {
        scope: Some(messages::Scope { kind: Some(messages::ScopeKind::Namespace("shop".to_owned())) }),
        action: messages::Action::Allow.into(),
        mode: messages::Mode::Enforce.into(),
        rules: vec![messages::Rule::default()],
        fault: None,
        custom: None,
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_read_again(delta in samples::delta()) {
        match encode(&delta) {
            Outgoing::Upsert(resource) => prop_assert_eq!(
                read(&resource.key, &resource.value, "root"),
                Reading::Understood(Update::Delta(delta))
            ),
            Outgoing::Remove(key) => prop_assert_eq!(removal(&key), Some(delta)),
        }
    }

    #[test]
    fn the_same_value_has_the_same_bytes(delta in samples::delta()) {
        prop_assert_eq!(encode(&delta), encode(&delta.clone()));
    }

    #[test]
    fn no_bytes_bring_a_reader_down(kind in prop::sample::select(ResourceType::ALL.to_vec()),
        name in "\\PC{0,12}", value in proptest::collection::vec(any::<u8>(), 0..200)) {
        let reading = read(&key(kind, &name), &value, "root");
        prop_assert!(!kind.is_policy() || !matches!(reading, Reading::Refused(_)), "a policy was skipped");
    }

    #[test]
    fn a_changed_byte_never_makes_another_policy_of_the_same_version(
        policy in samples::authorization_policy(), place in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let Outgoing::Upsert(resource) = encode(&Delta::UpsertAuthorizationPolicy(policy.into())) else {
            unreachable!()
        };
        let mut value = resource.value.to_vec();
        let place = place.index(value.len());
        prop_assume!(value[place] != byte);
        value[place] = byte;
        prop_assert_ne!(Version::of(&value), resource.version);
        read(&resource.key, &value, "root");
    }

    #[test]
    fn an_unknown_field_makes_a_policy_that_denies(policy in samples::authorization_policy()) {
        let Outgoing::Upsert(resource) = encode(&Delta::UpsertAuthorizationPolicy(policy.clone().into())) else {
            unreachable!()
        };
        let reading = read(&resource.key, &with_unknown_field(resource.value.to_vec()), "root");
        prop_assert!(matches!(reading, Reading::Denies(..)));
        let read = authorization(&reading);
        prop_assert!(read.fault.is_some() && read.rules.is_empty());
        prop_assert_eq!((&read.name, &read.scope), (&policy.name, &policy.scope));
    }
}

#[test]
fn versions_are_written_and_read() {
    let version = Version::of(b"something");
    assert_eq!(Version::parse(&version.to_string()), Some(version));
    for text in
        ["", "zz", "0123456789abcdef0123456", "0123456789ABCDEF01234567", "0123456789abcdef0123456789"]
    {
        assert_eq!(Version::parse(text), None, "{text}");
    }
}

#[test]
fn type_urls_name_their_types() {
    for kind in ResourceType::ALL {
        assert_eq!(ResourceType::of_url(&kind.type_url()), Some(kind));
        assert_eq!(ResourceType::ALL[kind.index()], kind);
    }
    assert_eq!(ResourceType::of_url("type.googleapis.com/envoy.config.cluster.v3.Cluster"), None);
}

#[test]
fn roots_are_read_again() {
    let trust = Trust {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        roots: vec![vec![1, 2, 3], vec![4]],
        revocation_lists: vec![vec![5]],
        retired: vec![vec![6], vec![7, 8]],
    };
    let resource = encode_trust(&trust);
    let reading = read(&resource.key, &resource.value, "root");
    assert_eq!(reading, Reading::Understood(Update::Trust(Arc::new(trust))));
    assert_eq!(removal(&resource.key), None);
}

#[test]
fn a_bundle_without_roots_is_refused() {
    let Reading::Refused(error) = read(&key(ResourceType::TrustBundle, "cluster.local"), &[], "root") else {
        panic!("read")
    };
    assert_eq!(error.to_string(), "roots: is empty: nobody could be verified");
}

#[test]
fn an_unknown_field_of_a_workload_is_skipped() {
    let workload = messages::Workload {
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        identity: "spiffe://cluster.local/ns/shop/sa/web".to_owned(),
        enrolment: messages::Enrolment::Enabled.into(),
        canonical_names: Some(messages::CanonicalNames::default()),
        ..messages::Workload::default()
    };
    let value = with_unknown_field(workload.encode_to_vec());
    assert!(matches!(read(&key(ResourceType::Workload, "u"), &value, "root"), Reading::Understood(_)));
}

#[test]
fn an_error_names_the_field() {
    let range = messages::Cidr { address: vec![10, 0, 0, 0], prefix: 33 };
    let node = messages::Node { pod_cidrs: vec![range], ..messages::Node::default() };
    let Reading::Refused(error) = read(&key(ResourceType::Node, "a"), &node.encode_to_vec(), "root") else {
        panic!("read")
    };
    assert_eq!(error.to_string(), "pod_cidrs[0].prefix: 33 is longer than the address");
}

#[test]
fn an_unknown_action_denies_all_of_the_scope() {
    let policy = messages::AuthorizationPolicy { action: 9, ..allow() };
    let reading = read(&policy_key(), &policy.encode_to_vec(), "root");
    let Reading::Denies(_, error) = &reading else { panic!("understood") };
    assert_eq!(error.to_string(), "action: this version does not know its value 9");
    let policy = authorization(&reading);
    assert_eq!((policy.action.clone(), policy.mode), (Action::Deny, Mode::Enforce));
    assert_eq!(policy.scope, Scope::Namespace("shop".into()));
    assert!(policy.fault.is_some() && policy.rules.is_empty());
}

#[test]
fn an_unknown_condition_is_named_with_its_place() {
    let mut policy = allow();
    policy.rules[0].when.push(messages::Condition { test: None });
    let Reading::Denies(_, error) = read(&policy_key(), &policy.encode_to_vec(), "root") else {
        panic!("understood")
    };
    assert_eq!(error.field, "rules[0].when[0].test");
}

#[test]
fn an_unknown_scope_is_the_whole_namespace_or_for_the_root_namespace_the_mesh() {
    let policy = messages::AuthorizationPolicy { scope: None, ..allow() };
    let value = policy.encode_to_vec();
    for (root, scope) in [("root", Scope::Namespace("shop".into())), ("shop", Scope::Mesh)] {
        assert_eq!(authorization(&read(&policy_key(), &value, root)).scope, scope);
    }
}

#[test]
fn bytes_that_are_no_message_deny_all() {
    let reading = read(&policy_key(), &[0xff; 7], "root");
    let policy = authorization(&reading);
    assert_eq!((policy.action.clone(), &policy.scope), (Action::Deny, &Scope::Namespace("shop".into())));
    let reading = read(&key(ResourceType::PeerAuthentication, "shop/tls"), &[0xff; 7], "root");
    let policy = peer(&reading);
    assert_eq!((policy.mode, &policy.scope), (Some(MutualTls::Strict), &Scope::Namespace("shop".into())));
}

#[test]
fn a_policy_whose_name_has_no_namespace_is_about_all() {
    let reading = read(&key(ResourceType::AuthorizationPolicy, "rules"), &[0xff], "root");
    assert_eq!(authorization(&reading).scope, Scope::Mesh);
}

#[test]
fn an_unknown_mode_is_strict_on_every_port() {
    let message = messages::PeerAuthentication {
        scope: Some(messages::Scope { kind: Some(messages::ScopeKind::Mesh(messages::Empty {})) }),
        created: 7,
        mode: messages::MutualTls::Permissive.into(),
        ports: [(80, messages::MutualTls::Permissive.into()), (90, 17), (70_000, 2)].into(),
    };
    let reading = read(&key(ResourceType::PeerAuthentication, "root/tls"), &message.encode_to_vec(), "root");
    let Reading::Denies(_, error) = &reading else { panic!("understood") };
    assert_eq!(error.field, "ports[90]");
    let policy = peer(&reading);
    assert_eq!((policy.mode, policy.created), (Some(MutualTls::Strict), 7));
    assert!(policy.ports.values().all(|mode| *mode == Some(MutualTls::Strict)));
}

#[test]
fn refusals_are_written_and_read() {
    let refusal = Refusal::new("shop/rules", FieldError::new("action", "unknown".repeat(1000)), true);
    assert_eq!(refusal.reason.len(), 1024);
    let detail = error_detail(ResourceType::AuthorizationPolicy, vec![refusal.clone()]).unwrap();
    assert_eq!(refusals(detail).0, vec![refusal]);
    assert!(error_detail(ResourceType::Node, Vec::new()).is_none());
}

#[test]
fn refusals_of_the_other_side_are_bounded() {
    let long = Refusal { name: "é".repeat(5000), ..Refusal::default() };
    let list = refusal::Refusals { refusals: vec![long; 500] };
    let mut detail = error_detail(ResourceType::Node, vec![Refusal::default()]).unwrap();
    detail.details[0].value = list.encode_to_vec();
    detail.message = "x".repeat(1 << 20);
    let (named, message) = refusals(detail);
    assert_eq!((named.len(), named[0].name.len(), message.len()), (100, 1024, 1024));
}
