//! RequestAuthentications by whom they are about.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::tables::{Applied, Tables};
use crate::model::policy::Scope;
use crate::model::{NamespacedName, RequestAuthentication, Text, Workload};

/// Where a RequestAuthentication is filed. A namespace of `None` is every one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    Everyone(Option<Text>),
    Selected(Option<Text>),
    Service(NamespacedName),
}

/// RequestAuthentications, filed; a selector is compared when it is asked.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ByScope(HashMap<Place, Vec<Arc<RequestAuthentication>>>);

impl ByScope {
    fn of<'a>(policies: impl Iterator<Item = &'a Arc<RequestAuthentication>>) -> Self {
        let mut policies: Vec<_> = policies.collect();
        policies.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let mut filed = Self::default();
        for policy in policies {
            let mut file = |place| filed.0.entry(place).or_default().push(Arc::clone(policy));
            match &policy.scope {
                Scope::Mesh => file(Place::Everyone(None)),
                Scope::Namespace(namespace) => file(Place::Everyone(Some(Arc::clone(namespace)))),
                Scope::Selector { namespace, .. } => file(Place::Selected(namespace.clone())),
                Scope::Services(services) => {
                    services.iter().cloned().map(Place::Service).for_each(file);
                }
            }
        }
        filed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those about a pod that is an endpoint of these Services, by name, each once.
    pub(super) fn about<'a>(
        &self,
        workload: &Workload,
        services: impl Iterator<Item = &'a NamespacedName>,
    ) -> SmallVec<[&Arc<RequestAuthentication>; 4]> {
        let own = || Some(Arc::clone(&workload.name.namespace));
        let places =
            [Place::Everyone(None), Place::Everyone(own()), Place::Selected(None), Place::Selected(own())];
        let places = places.into_iter().chain(services.cloned().map(Place::Service));
        let filed = places.filter_map(|place| self.0.get(&place)).flatten();
        let selects = |policy: &&Arc<RequestAuthentication>| match policy.scope {
            Scope::Selector { .. } => policy.scope.selects(workload),
            Scope::Mesh | Scope::Namespace(_) | Scope::Services(_) => true,
        };
        let mut about: SmallVec<[&Arc<RequestAuthentication>; 4]> = filed.filter(selects).collect();
        about.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        about.dedup_by(|one, other| one.name == other.name);
        about
    }
}

impl Tables {
    pub(super) fn put_request_authentication(&mut self, policy: Arc<RequestAuthentication>) -> Applied {
        if self.state.request_authentications.get(&policy.name) == Some(&policy) {
            return Applied::Same;
        }
        self.state.request_authentications.insert(policy.name.clone(), policy);
        self.stale.request_authentications = true;
        Applied::Changed
    }

    pub(super) fn remove_request_authentication(&mut self, name: &NamespacedName) -> Applied {
        if self.state.request_authentications.remove(name).is_none() {
            return Applied::Same;
        }
        self.stale.request_authentications = true;
        Applied::Changed
    }

    pub(super) fn refresh_request_authentications(&mut self) {
        if std::mem::take(&mut self.stale.request_authentications) {
            let policies = self.state.request_authentications.iter().map(|(_, policy)| policy);
            self.state.request_authentications_by_scope = Arc::new(ByScope::of(policies));
        }
    }
}
