//! PURE. What the API server has, as far as its watches told.
//!
//! In: what the watches hear, and the answers to questions about single objects. Out: [`Change`]s, and objects to ask
//! for. An object is gone when the watch says so. A list that lacks one, read anew after an error, is no proof: it may
//! be empty for want of a whole store. The object stays until the API server, asked for it by name, does not have it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use mesh_common::model::{MeshSettings, NamespacedName};
use serde_json::Value;

use super::route_status::{self, Stated};
use super::seen::Resource;
use crate::control::enroller::Change;
use crate::control::object::{Kind, Meaning, ObjectKey};
use crate::control::served::{Served, name_of, served};
use crate::control::translate::route::RouteReferences;
use crate::control::translate::{Effect, FieldError};

/// What a watch hears.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Heard {
    /// A list begins: what is there follows.
    Begun,
    /// An object of the list.
    Listed(Value),
    /// The list is over.
    Ended,
    /// An object is new or changed.
    Applied(Value),
    /// An object is gone.
    Deleted(Value),
    /// The kind is there, in this version: what follows is of it.
    Served(Resource),
    /// The kind is not there, or no more, nor is any object of it.
    Withdrawn,
}

/// What the API server says of one object that it was asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    /// It has this.
    Found(Value),
    /// It has none of that name.
    Gone,
}

/// What is wrong with an object.
pub(super) type Faults = Arc<[(FieldError, Effect)]>;

/// A policy as the API server has it, for who writes its status.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Policy {
    /// `metadata.generation`.
    pub(super) generation: i64,
    /// `metadata.uid`.
    pub(super) uid: Option<String>,
    /// Its status, as it is.
    pub(super) status: Value,
    /// What is wrong with it.
    pub(super) faults: Faults,
}

/// A route that is about Services, or that says so in its status, as the API server has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Route {
    /// Where it is.
    pub(super) resource: Resource,
    /// `metadata.generation`.
    pub(super) generation: i64,
    /// What it names.
    pub(super) references: Arc<RouteReferences>,
    /// What its status says.
    pub(super) stated: Stated,
}

/// All objects.
#[derive(Debug)]
pub(super) struct Inventory {
    settings: Arc<MeshSettings>,
    in_force: HashMap<ObjectKey, Meaning>,
    faults: BTreeMap<ObjectKey, Faults>,
    policies: BTreeMap<ObjectKey, Arc<Policy>>,
    /// Whether a policy or its status changed since they were [taken](Self::take_policies).
    has_other_policies: bool,
    routes: BTreeMap<ObjectKey, Arc<Route>>,
    /// Whether a route or its status changed since they were [taken](Self::take_routes).
    has_other_routes: bool,
    /// Where optional kinds are, while they are.
    served: BTreeMap<Kind, Resource>,
    counts: BTreeMap<Kind, usize>,
    /// Kinds of which a whole list was read.
    complete: BTreeSet<Kind>,
    /// Kinds that are known not to be there: none of their objects can be missing.
    absent: BTreeSet<Kind>,
    /// What the list that is being read has so far.
    listing: HashMap<Kind, HashSet<NamespacedName>>,
    /// Objects that a list did not have, and that nobody has been asked for yet.
    unasked: Vec<ObjectKey>,
    /// Objects that a list did not have.
    doubtful: HashSet<ObjectKey>,
}

impl Inventory {
    pub(super) fn new(settings: Arc<MeshSettings>) -> Self {
        Self {
            settings,
            in_force: HashMap::new(),
            faults: BTreeMap::new(),
            policies: BTreeMap::new(),
            has_other_policies: false,
            routes: BTreeMap::new(),
            has_other_routes: false,
            served: BTreeMap::new(),
            counts: Kind::ALL.into_iter().map(|kind| (kind, 0)).collect(),
            complete: BTreeSet::new(),
            absent: BTreeSet::new(),
            listing: HashMap::new(),
            unasked: Vec::new(),
            doubtful: HashSet::new(),
        }
    }

    /// Whether a whole list was read of every kind that each cluster has: before that, a policy may be missing.
    pub(super) fn is_complete(&self) -> bool {
        self.missing().next().is_none()
    }

    /// Kinds of those of which no whole list was read yet.
    pub(super) fn missing(&self) -> impl Iterator<Item = Kind> {
        needed().filter(|kind| !self.complete.contains(kind) && !self.absent.contains(kind))
    }

    /// How many objects of each kind are in force.
    pub(super) fn counts(&self) -> &BTreeMap<Kind, usize> {
        &self.counts
    }

    /// What is wrong with objects, by name.
    pub(super) fn faults(&self) -> &BTreeMap<ObjectKey, Faults> {
        &self.faults
    }

    /// All policies, if one or its status changed since this was asked last.
    pub(super) fn take_policies(&mut self) -> Option<BTreeMap<ObjectKey, Arc<Policy>>> {
        std::mem::take(&mut self.has_other_policies).then(|| self.policies.clone())
    }

    /// All routes, if one or its status changed since this was asked last.
    pub(super) fn take_routes(&mut self) -> Option<BTreeMap<ObjectKey, Arc<Route>>> {
        std::mem::take(&mut self.has_other_routes).then(|| self.routes.clone())
    }

    /// Objects to ask the API server for, and where, each until it is [answered](Self::answer).
    pub(super) fn take_unasked(&mut self) -> Vec<(ObjectKey, Resource)> {
        let unasked = std::mem::take(&mut self.unasked);
        unasked.into_iter().map(|key| (self.resource(key.kind), key)).map(|(at, key)| (key, at)).collect()
    }

    fn resource(&self, kind: Kind) -> Resource {
        self.served.get(&kind).copied().unwrap_or_else(|| kind.into())
    }

    /// Takes what the watch of a kind heard.
    pub(super) fn hear(&mut self, kind: Kind, heard: Heard) -> Vec<Change> {
        let change = match heard {
            Heard::Begun => {
                self.listing.insert(kind, HashSet::new());
                None
            }
            Heard::Listed(object) => {
                let key = name_of(kind, &object);
                if let (Some(key), Some(listed)) = (&key, self.listing.get_mut(&kind)) {
                    listed.insert(key.name.clone());
                }
                key.and_then(|key| self.put(key, &object))
            }
            Heard::Ended => {
                self.end_list(kind);
                None
            }
            Heard::Applied(object) => name_of(kind, &object).and_then(|key| self.put(key, &object)),
            Heard::Deleted(object) => name_of(kind, &object).and_then(|key| self.remove(key)),
            Heard::Served(resource) => {
                self.serve(resource);
                None
            }
            Heard::Withdrawn => return self.withdraw(kind),
        };
        change.into_iter().collect()
    }

    /// Takes in which version a kind is there. What was asked for in another one is asked for anew.
    fn serve(&mut self, resource: Resource) {
        self.served.insert(resource.kind, resource);
        self.absent.remove(&resource.kind);
        let again = self.doubtful.iter().filter(|key| key.kind == resource.kind).cloned();
        self.unasked.extend(again);
    }

    /// Takes that a kind is gone.
    fn withdraw(&mut self, kind: Kind) -> Vec<Change> {
        self.served.remove(&kind);
        self.listing.remove(&kind);
        self.complete.remove(&kind);
        self.absent.insert(kind);
        self.unasked.retain(|key| key.kind != kind);
        let faulty = self.faults.keys().filter(|key| key.kind == kind);
        let known = self.in_force.keys().filter(|key| key.kind == kind);
        let all: BTreeSet<ObjectKey> = known.chain(faulty).cloned().collect();
        all.into_iter().filter_map(|key| self.remove(key)).collect()
    }

    /// Takes the answer to a question. Whatever was heard of the object meanwhile is newer.
    pub(super) fn answer(&mut self, key: ObjectKey, answer: Answer) -> Option<Change> {
        if !self.doubtful.contains(&key) {
            return None;
        }
        match answer {
            Answer::Found(object) => self.put(key, &object),
            Answer::Gone => self.remove(key),
        }
    }

    fn end_list(&mut self, kind: Kind) {
        let Some(listed) = self.listing.remove(&kind) else { return };
        self.complete.insert(kind);
        let known = self.in_force.keys().filter(|key| key.kind == kind);
        let absent: Vec<ObjectKey> = known.filter(|key| !listed.contains(&key.name)).cloned().collect();
        for key in absent {
            if self.doubtful.insert(key.clone()) {
                self.unasked.push(key);
            }
        }
    }

    fn put(&mut self, key: ObjectKey, object: &Value) -> Option<Change> {
        if has_ended(key.kind, object) {
            return self.remove(key);
        }
        self.doubtful.remove(&key);
        let Served { meaning, mut errors } = served(&key, object, &self.settings);
        if let Some(Meaning::Route(references)) = &meaning {
            self.put_route(&key, references, object);
        }
        let before = self.in_force.get(&key);
        if meaning.is_none() && before.is_some() {
            errors.iter_mut().for_each(|(_, effect)| *effect = Effect::LastGoodKept);
        }
        let faults: Faults = errors.into();
        if key.kind.is_policy() {
            self.policies.insert(key.clone(), Arc::new(policy(object, Arc::clone(&faults))));
            self.has_other_policies = true;
        }
        if faults.is_empty() {
            self.faults.remove(&key);
        } else {
            self.faults.insert(key.clone(), faults);
        }
        let after = meaning?;
        if before == Some(&after) {
            return None;
        }
        let before = self.in_force.insert(key.clone(), after.clone());
        if before.is_none() {
            *self.counts.entry(key.kind).or_default() += 1;
        }
        Some(Change { key, before, after: Some(after) })
    }

    /// One that is about no Service, and says nothing of one, is nobody's to look at.
    fn put_route(&mut self, key: &ObjectKey, references: &Arc<RouteReferences>, object: &Value) {
        let stated = route_status::stated(object);
        let route = (!references.parents.is_empty() || stated.is_ours()).then(|| Route {
            resource: self.resource(key.kind),
            generation: object["metadata"]["generation"].as_i64().unwrap_or_default(),
            references: Arc::clone(references),
            stated,
        });
        let before = self.routes.remove(key);
        self.has_other_routes |= before.as_deref() != route.as_ref();
        if let Some(route) = route {
            self.routes.insert(key.clone(), Arc::new(route));
        }
    }

    fn remove(&mut self, key: ObjectKey) -> Option<Change> {
        self.doubtful.remove(&key);
        self.faults.remove(&key);
        self.has_other_policies |= self.policies.remove(&key).is_some();
        self.has_other_routes |= self.routes.remove(&key).is_some();
        let before = self.in_force.remove(&key)?;
        *self.counts.entry(key.kind).or_default() -= 1;
        Some(Change { key, before: Some(before), after: None })
    }
}

/// Kinds that each cluster with the mesh has.
pub(super) fn needed() -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(|kind| !kind.is_optional())
}

fn policy(object: &Value, faults: Faults) -> Policy {
    Policy {
        generation: object["metadata"]["generation"].as_i64().unwrap_or_default(),
        uid: object["metadata"]["uid"].as_str().map(str::to_owned),
        status: object["status"].clone(),
        faults,
    }
}

/// Whether it is a pod that has run to its end: no watch tells of those.
fn has_ended(kind: Kind, object: &Value) -> bool {
    kind == Kind::Pod && matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn inventory() -> Inventory {
        Inventory::new(Arc::new(MeshSettings::default()))
    }

    fn pod(name: &str, address: &str) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "shop", "uid": name},
            "spec": {"nodeName": "a"},
            "status": {"phase": "Running", "podIPs": [{"ip": address}]},
        })
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey { kind: Kind::Pod, name: NamespacedName::new("shop", name) }
    }

    fn list(inventory: &mut Inventory, objects: &[Value]) -> Vec<Change> {
        let listed = objects.iter().map(|object| Heard::Listed(object.clone()));
        let heard = [Heard::Begun].into_iter().chain(listed).chain([Heard::Ended]);
        heard.flat_map(|heard| inventory.hear(Kind::Pod, heard)).collect()
    }

    fn unasked(inventory: &mut Inventory) -> Vec<ObjectKey> {
        inventory.take_unasked().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn an_empty_list_after_an_error_deletes_nothing() {
        let mut inventory = inventory();
        assert_eq!(list(&mut inventory, &[pod("a", "10.0.0.1"), pod("b", "10.0.0.2")]).len(), 2);
        assert_eq!(list(&mut inventory, &[]), []);
        assert_eq!(inventory.counts()[&Kind::Pod], 2);
        let mut unasked = unasked(&mut inventory);
        unasked.sort();
        assert_eq!(unasked, [key("a"), key("b")]);
        // One list more does not ask again.
        list(&mut inventory, &[]);
        assert_eq!(inventory.take_unasked(), []);
    }

    #[test]
    fn what_a_list_lacks_goes_when_it_was_asked_for() {
        let mut inventory = inventory();
        list(&mut inventory, &[pod("a", "10.0.0.1"), pod("b", "10.0.0.2"), pod("c", "10.0.0.3")]);
        list(&mut inventory, &[pod("a", "10.0.0.1")]);
        let change = inventory.answer(key("b"), Answer::Gone).unwrap();
        assert_eq!((change.key, change.after), (key("b"), None));
        assert_eq!(inventory.answer(key("c"), Answer::Found(pod("c", "10.0.0.3"))), None);
        assert_eq!(inventory.counts()[&Kind::Pod], 2);
    }

    #[test]
    fn what_was_heard_meanwhile_is_newer_than_an_answer() {
        let mut inventory = inventory();
        list(&mut inventory, &[pod("a", "10.0.0.1")]);
        list(&mut inventory, &[]);
        assert_eq!(inventory.hear(Kind::Pod, Heard::Applied(pod("a", "10.0.0.9"))).len(), 1);
        assert_eq!(inventory.answer(key("a"), Answer::Gone), None);
        assert_eq!(inventory.answer(key("a"), Answer::Found(pod("a", "10.0.0.1"))), None);
        assert!(inventory.in_force.contains_key(&key("a")));
    }

    #[test]
    fn a_list_that_broke_off_counts_for_what_it_had() {
        let mut inventory = inventory();
        inventory.hear(Kind::Pod, Heard::Begun);
        assert_eq!(inventory.hear(Kind::Pod, Heard::Listed(pod("a", "10.0.0.1"))).len(), 1);
        assert!(!inventory.complete.contains(&Kind::Pod));
        list(&mut inventory, &[pod("b", "10.0.0.2")]);
        assert_eq!(unasked(&mut inventory), [key("a")]);
        assert!(inventory.in_force.contains_key(&key("a")) && inventory.complete.contains(&Kind::Pod));
    }

    #[test]
    fn what_cannot_be_read_leaves_what_was_and_hurts_no_other() {
        let mut inventory = inventory();
        list(&mut inventory, &[pod("a", "10.0.0.1"), pod("b", "nowhere"), pod("c", "10.0.0.3")]);
        assert_eq!(inventory.counts()[&Kind::Pod], 2);
        assert_eq!(inventory.faults()[&key("b")][0].1, Effect::NotInForce);
        assert_eq!(inventory.hear(Kind::Pod, Heard::Applied(pod("a", "nowhere"))), []);
        assert_eq!(inventory.faults()[&key("a")][0].1, Effect::LastGoodKept);
        assert!(inventory.in_force.contains_key(&key("a")));
        inventory.hear(Kind::Pod, Heard::Applied(pod("a", "10.0.0.1")));
        assert!(!inventory.faults().contains_key(&key("a")));
    }

    #[test]
    fn a_pod_that_has_ended_is_gone() {
        let mut inventory = inventory();
        list(&mut inventory, &[pod("a", "10.0.0.1")]);
        let mut ended = pod("a", "10.0.0.1");
        ended["status"]["phase"] = json!("Succeeded");
        let changes = inventory.hear(Kind::Pod, Heard::Applied(ended));
        assert_eq!((changes.len(), &changes[0].after), (1, &None));
    }

    #[test]
    fn it_is_complete_when_every_kind_was_listed() {
        let mut inventory = inventory();
        for kind in needed() {
            assert!(!inventory.is_complete());
            inventory.hear(kind, Heard::Begun);
            inventory.hear(kind, Heard::Ended);
        }
        assert!(inventory.is_complete());
        assert_eq!(inventory.missing().count(), 0);
    }

    #[test]
    fn a_kind_of_our_own_is_waited_for_until_it_is_known_not_to_be_there() {
        let mut inventory = inventory();
        for kind in needed().filter(|kind| !kind.may_be_missing()) {
            inventory.hear(kind, Heard::Begun);
            inventory.hear(kind, Heard::Ended);
        }
        let kind = Kind::RequestAuthentication;
        assert_eq!(inventory.missing().collect::<Vec<_>>(), [kind], "its objects may be what closes a door");
        inventory.hear(kind, Heard::Withdrawn);
        assert!(inventory.is_complete());
        inventory.hear(kind, Heard::Served(kind.into()));
        assert_eq!(inventory.missing().collect::<Vec<_>>(), [kind]);
        inventory.hear(kind, Heard::Begun);
        inventory.hear(kind, Heard::Ended);
        assert!(inventory.is_complete());
    }

    fn route(name: &str) -> Value {
        let parents = json!([{"group": "", "kind": "Service", "name": "web"}]);
        json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"parentRefs": parents}})
    }

    const ROUTES: Resource =
        Resource { kind: Kind::HttpRoute, api_version: "gateway.networking.k8s.io/v1beta1" };

    #[test]
    fn a_kind_that_is_gone_takes_its_objects_along_and_no_others() {
        let mut inventory = inventory();
        list(&mut inventory, &[pod("a", "10.0.0.1")]);
        let heard = [Heard::Served(ROUTES), Heard::Begun, Heard::Listed(route("web")), Heard::Ended];
        let changes: Vec<Change> =
            heard.into_iter().flat_map(|heard| inventory.hear(Kind::HttpRoute, heard)).collect();
        assert_eq!(changes.len(), 1);
        let routes = inventory.take_routes().unwrap();
        assert_eq!(routes.values().next().unwrap().resource, ROUTES);
        assert_eq!(inventory.faults().len(), 1, "that it is not applied is said");
        let changes = inventory.hear(Kind::HttpRoute, Heard::Withdrawn);
        assert_eq!((changes.len(), &changes[0].after), (1, &None));
        assert_eq!(inventory.take_routes(), Some(BTreeMap::new()));
        assert_eq!((inventory.counts()[&Kind::HttpRoute], inventory.counts()[&Kind::Pod]), (0, 1));
        assert!(inventory.faults().is_empty());
    }

    #[test]
    fn what_a_list_lacks_is_asked_for_in_the_version_that_there_is() {
        let mut inventory = inventory();
        let heard = [Heard::Served(ROUTES), Heard::Applied(route("web")), Heard::Begun, Heard::Ended];
        heard.into_iter().for_each(|heard| drop(inventory.hear(Kind::HttpRoute, heard)));
        let asked = inventory.take_unasked();
        assert_eq!((asked.len(), asked[0].1), (1, ROUTES));
        let newer = Resource { api_version: "gateway.networking.k8s.io/v1", ..ROUTES };
        inventory.hear(Kind::HttpRoute, Heard::Served(newer));
        assert_eq!(inventory.take_unasked(), [(asked[0].0.clone(), newer)]);
        inventory.hear(Kind::HttpRoute, Heard::Withdrawn);
        assert_eq!(inventory.answer(asked[0].0.clone(), Answer::Found(route("web"))), None);
    }

    #[test]
    fn a_route_about_no_service_is_counted_and_not_kept() {
        let mut inventory = inventory();
        let object =
            json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"parentRefs": [{"name": "c"}]}});
        inventory.hear(Kind::HttpRoute, Heard::Applied(object));
        assert_eq!((inventory.counts()[&Kind::HttpRoute], inventory.take_routes()), (1, None));
    }
}
