//! Whatever happens in whatever order, an agent that was told every round has what it needs and nothing else.

use std::collections::BTreeMap;

use mesh_common::model::policy::Action;
use mesh_common::snapshot::Delta;
use proptest::prelude::*;

use super::rig::{labelled, named, policy, service_on, uid};
use crate::controller::discovery::cache::Cache;
use crate::controller::discovery::view::{Round, View};
use crate::xds::{Key, ResourceType, Version};

const NODES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Step {
    Publish(Vec<Delta>),
    /// Tells the agent of one node.
    Tell(usize),
    /// The agent of one node comes back.
    Reconnect(usize),
}

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["web", "db", "cache"])
}

fn delta() -> impl Strategy<Value = Delta> {
    let node = prop::sample::select(NODES.to_vec());
    let colour = prop::sample::select(vec!["red", "blue"]);
    let action = prop::sample::select(vec![Action::Allow, Action::Deny]);
    let about = prop::sample::select(vec!["", "web", "db"]);
    prop_oneof![
        (name(), node, colour).prop_map(|(name, node, colour)| labelled(name, node, colour)),
        name().prop_map(|name| Delta::RemoveWorkload(uid(name))),
        (name(), 1_u16..4).prop_map(|(name, port)| service_on(name, port)),
        name().prop_map(|name| Delta::RemoveService(named(name))),
        (name(), action, about).prop_map(|(name, action, about)| policy(name, action, about)),
        name().prop_map(|name| Delta::RemoveAuthorizationPolicy(named(name))),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop::collection::vec(delta(), 1..4).prop_map(Step::Publish),
        2 => (0..NODES.len()).prop_map(Step::Tell),
        1 => (0..NODES.len()).prop_map(Step::Reconnect),
    ]
}

type Has = BTreeMap<Key, Version>;

fn asking(node: &str, has: &Has) -> View {
    let mut view = View::new(node.into());
    for kind in ResourceType::OF_EVERYBODY {
        let of_kind = has.iter().filter(|(key, _)| key.kind == kind);
        view.ask(kind, of_kind.map(|(key, version)| (key.name.clone(), *version)).collect());
    }
    view
}

fn take(has: &mut Has, round: Round) {
    for part in round.parts {
        for resource in part.upserts {
            has.insert(resource.key.clone(), resource.version);
        }
        for name in part.removals {
            has.remove(&Key { kind: part.kind, name });
        }
    }
}

/// What an agent that knows nothing is told.
fn needed(cache: &Cache, node: &str) -> Has {
    let mut has = Has::new();
    take(&mut has, asking(node, &Has::new()).round(cache).unwrap());
    has
}

proptest! {
    #[test]
    fn every_agent_ends_with_what_it_needs(steps in prop::collection::vec(step(), 1..40)) {
        let mut cache = Cache::default();
        let mut agents: Vec<(View, Has)> =
            NODES.iter().map(|node| (asking(node, &Has::new()), Has::new())).collect();
        for step in steps {
            match step {
                Step::Publish(deltas) => drop(cache.apply(&deltas)),
                Step::Tell(agent) => {
                    let (view, has) = &mut agents[agent];
                    take(has, view.round(&cache).unwrap());
                    prop_assert_eq!(&*has, &needed(&cache, NODES[agent]));
                }
                Step::Reconnect(agent) => {
                    let (view, has) = &mut agents[agent];
                    *view = asking(NODES[agent], has);
                }
            }
        }
        for ((view, has), node) in agents.iter_mut().zip(NODES) {
            take(has, view.round(&cache).unwrap());
            prop_assert_eq!(&*has, &needed(&cache, node));
            prop_assert!(!view.is_behind(&cache));
        }
    }
}
