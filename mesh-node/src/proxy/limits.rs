//! How many connections a node, a namespace and a pod may hold at a time.
//!
//! A [`Place`] is held by each connection and gives its place back when dropped. Counting is three relaxed
//! atomic additions; no lock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use mesh_common::model::Text;

use crate::config::LimitConfig;
use crate::config_client::InUse;

/// The places of the node and, by name, of each namespace. Made once.
#[derive(Debug)]
pub struct Places {
    node: Arc<Budget>,
    /// Namespaces that have a captured pod; looked up when a pod comes, never on the data path.
    namespaces: Mutex<HashMap<Text, Weak<Budget>>>,
    per_namespace: u32,
    per_pod: u32,
    /// Of those that are held.
    held: Arc<Budget>,
}

/// The places that connections of one pod draw on.
#[derive(Debug)]
pub struct PodPlaces {
    node: Arc<Budget>,
    namespace: Arc<Budget>,
    pod: Budget,
    held_of_node: Arc<Budget>,
    held: Budget,
}

/// A connection's place; dropping it gives it back.
#[derive(Debug)]
#[must_use]
pub struct Place {
    places: Arc<PodPlaces>,
    /// What it depends on, where the agent asks for that.
    in_use: Option<InUse>,
}

/// The place of a connection that is held because nothing can be decided yet; dropping it gives it back.
#[derive(Debug)]
#[must_use]
pub struct HeldPlace(Arc<PodPlaces>);

/// Most connections that are held at a time, of a pod: what one of its cores accepts in a moment.
const HELD_PER_POD: u32 = 64;
/// And of the node: they wait for seconds where no controller answers.
const HELD: u32 = 1024;

/// Which limit a connection met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitReached {
    /// `--max-connections`.
    Node,
    /// `--max-connections-per-namespace`.
    Namespace,
    /// `--max-connections-per-pod`.
    Pod,
}

#[derive(Debug)]
struct Budget {
    used: AtomicU32,
    limit: u32,
}

impl Places {
    /// Places as configured.
    pub fn new(config: &LimitConfig) -> Self {
        Self {
            node: Arc::new(Budget::new(config.connections)),
            namespaces: Mutex::default(),
            per_namespace: config.connections_per_namespace,
            per_pod: config.connections_per_pod,
            held: Arc::new(Budget::new(HELD)),
        }
    }

    /// The places of a pod of `namespace`. Pods of one namespace share that namespace's.
    pub fn pod(&self, namespace: &Text) -> Arc<PodPlaces> {
        let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        namespaces.retain(|_, budget| budget.strong_count() > 0);
        let shared = namespaces.get(namespace).and_then(Weak::upgrade).unwrap_or_else(|| {
            let budget = Arc::new(Budget::new(self.per_namespace));
            namespaces.insert(namespace.clone(), Arc::downgrade(&budget));
            budget
        });
        Arc::new(PodPlaces {
            node: self.node.clone(),
            namespace: shared,
            pod: Budget::new(self.per_pod),
            held_of_node: Arc::clone(&self.held),
            held: Budget::new(HELD_PER_POD),
        })
    }

    /// Connections of the node now.
    pub fn used(&self) -> u32 {
        self.node.used.load(Ordering::Relaxed)
    }
}

impl PodPlaces {
    /// Takes a place for one connection.
    ///
    /// # Errors
    /// The limit that is reached; nothing is taken then.
    pub fn take(self: &Arc<Self>) -> Result<Place, LimitReached> {
        let budgets = [
            (&*self.node, LimitReached::Node),
            (&*self.namespace, LimitReached::Namespace),
            (&self.pod, LimitReached::Pod),
        ];
        for (taken, (budget, limit)) in budgets.iter().enumerate() {
            if !budget.take() {
                budgets[..taken].iter().for_each(|(budget, _)| budget.give_back());
                return Err(*limit);
            }
        }
        Ok(Place { places: self.clone(), in_use: None })
    }

    /// Takes a place for a connection that is held; `None` if too many are.
    pub fn hold(self: &Arc<Self>) -> Option<HeldPlace> {
        if !self.held.take() {
            return None;
        }
        if !self.held_of_node.take() {
            self.held.give_back();
            return None;
        }
        Some(HeldPlace(self.clone()))
    }
}

impl Place {
    /// Its connection needs what is known by this use.
    pub fn using(mut self, in_use: Option<InUse>) -> Self {
        self.in_use = in_use;
        self
    }
}

impl Drop for HeldPlace {
    fn drop(&mut self) {
        self.0.held.give_back();
        self.0.held_of_node.give_back();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.node.give_back();
        self.places.namespace.give_back();
        self.places.pod.give_back();
    }
}

impl Budget {
    fn new(limit: u32) -> Self {
        Self { used: AtomicU32::new(0), limit }
    }

    fn take(&self) -> bool {
        // Relaxed: the number alone matters, it orders no other memory.
        if self.used.fetch_add(1, Ordering::Relaxed) < self.limit {
            return true;
        }
        self.give_back();
        false
    }

    fn give_back(&self) {
        self.used.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn places(node: u32, namespace: u32, pod: u32) -> Places {
        Places::new(&LimitConfig {
            connections: node,
            connections_per_namespace: namespace,
            connections_per_pod: pod,
            abuse_penalty: Duration::ZERO,
            drain_timeout: Duration::ZERO,
        })
    }

    #[test]
    fn each_limit_is_told_apart() {
        for (limits, reached) in [
            ((1, 9, 9), LimitReached::Node),
            ((9, 1, 9), LimitReached::Namespace),
            ((9, 9, 1), LimitReached::Pod),
        ] {
            let pod = places(limits.0, limits.1, limits.2).pod(&"shop".into());
            let _held = pod.take().unwrap();
            assert_eq!(pod.take().unwrap_err(), reached);
        }
    }

    #[test]
    fn a_dropped_place_can_be_taken_again() {
        let places = places(1, 1, 1);
        let pod = places.pod(&"shop".into());
        drop(pod.take().unwrap());
        assert!(pod.take().is_ok_and(|_place| places.used() == 1));
    }

    #[test]
    fn a_refused_connection_takes_nothing() {
        let places = places(9, 1, 9);
        let pod = places.pod(&"shop".into());
        let held = pod.take().unwrap();
        assert!(pod.take().is_err());
        assert_eq!(places.used(), 1);
        drop(held);
        assert_eq!(places.used(), 0);
    }

    #[test]
    fn one_pod_holds_so_many_and_no_other_holds_fewer() {
        let places = places(9, 9, 9);
        let (one, other) = (places.pod(&"shop".into()), places.pod(&"shop".into()));
        let held: Vec<_> = std::iter::from_fn(|| one.hold()).collect();
        assert_eq!(held.len() as u32, HELD_PER_POD);
        assert!(other.hold().is_some());
        drop(held);
        assert!(one.hold().is_some());
    }

    #[test]
    fn pods_of_one_namespace_share_its_limit() {
        let places = places(9, 1, 9);
        let (one, other) = (places.pod(&"shop".into()), places.pod(&"shop".into()));
        let _held = one.take().unwrap();
        assert_eq!(other.take().unwrap_err(), LimitReached::Namespace);
        assert!(places.pod(&"bank".into()).take().is_ok());
    }
}
