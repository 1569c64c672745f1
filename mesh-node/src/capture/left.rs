//! PURE. Network namespaces in which enrolled pods were, and in which no process of theirs is seen any more.
//!
//! They stay held until they end, the pod's object goes, or the agent ends: a pod can keep its processes from being seen, and what is not
//! seen must not come free.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::model::WorkloadUid;

/// Most of one pod. Those stay that it left first: a runtime gives a pod a new one where the last has ended.
const MAX_LEFT: usize = 16;

/// By pod, the cookies of their namespaces.
#[derive(Debug, Default)]
pub(super) struct Left(BTreeMap<WorkloadUid, BTreeSet<u64>>);

impl Left {
    /// Notes that a pod left a namespace; `false` if it has left too many.
    pub(super) fn insert(&mut self, uid: &WorkloadUid, cookie: u64) -> bool {
        let left = self.0.entry(uid.clone()).or_default();
        left.contains(&cookie) || (left.len() < MAX_LEFT && left.insert(cookie))
    }

    /// Forgets all but the pods and namespaces that count still.
    pub(super) fn retain(
        &mut self,
        is_there: impl Fn(&WorkloadUid) -> bool,
        has_ended: impl Fn(u64) -> bool,
    ) {
        self.0.retain(|uid, left| {
            left.retain(|cookie| !has_ended(*cookie));
            is_there(uid) && !left.is_empty()
        });
    }

    pub(super) fn cookies(&self) -> impl Iterator<Item = u64> {
        self.0.values().flatten().copied()
    }

    pub(super) fn has(&self, cookie: u64) -> bool {
        self.0.values().any(|left| left.contains(&cookie))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_as_many_as_it_left_first_until_they_end_or_it_goes() {
        let (pod, other) = (WorkloadUid("pod".into()), WorkloadUid("other".into()));
        let mut left = Left::default();
        let kept: Vec<u64> = (0..20).filter(|cookie| left.insert(&pod, *cookie)).collect();
        assert_eq!(kept, Vec::from_iter(0..16));
        assert!(left.insert(&pod, 3) && left.insert(&other, 99), "again, and each pod has its own");
        left.retain(|_| true, |cookie| cookie != 3 && cookie != 99);
        assert_eq!(Vec::from_iter(left.cookies()), [99, 3]);
        left.retain(|uid| *uid == other, |_| false);
        assert!(left.has(99) && !left.has(3));
    }
}
