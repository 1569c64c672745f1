//! Who says that an address is theirs. Events come late and out of order, so two may; then it is nobody's.

use std::sync::Arc;

use smallvec::SmallVec;

use super::record::ServiceRecord;
use super::table::Left;
use crate::model::{Node, Workload};

/// Something that addresses belong to, told apart by a name.
pub(super) trait Claimant {
    type Name: Ord + ?Sized;
    fn name(&self) -> &Self::Name;
}

impl Claimant for Workload {
    type Name = crate::model::WorkloadUid;
    fn name(&self) -> &Self::Name {
        &self.uid
    }
}

impl Claimant for ServiceRecord {
    type Name = crate::model::NamespacedName;
    fn name(&self) -> &Self::Name {
        &self.service.name
    }
}

impl Claimant for Node {
    type Name = str;
    fn name(&self) -> &Self::Name {
        &self.name
    }
}

/// Everyone who claims one address, in the order of their names.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Claims<T>(SmallVec<[Arc<T>; 1]>);

impl<T> Default for Claims<T> {
    fn default() -> Self {
        Self(SmallVec::new())
    }
}

impl<T: Claimant> Claims<T> {
    /// Adds a claim, or renews the one of the same name.
    pub(super) fn insert(&mut self, claimant: Arc<T>) -> Left {
        match self.0.binary_search_by(|other| other.name().cmp(claimant.name())) {
            Ok(index) => self.0[index] = claimant,
            Err(index) => self.0.insert(index, claimant),
        }
        Left::Something
    }

    pub(super) fn remove(&mut self, name: &T::Name) -> Left {
        if let Ok(index) = self.0.binary_search_by(|other| other.name().cmp(name)) {
            self.0.remove(index);
        }
        Left::unless(self.0.is_empty())
    }

    pub(super) fn all(&self) -> &[Arc<T>] {
        &self.0
    }
}
