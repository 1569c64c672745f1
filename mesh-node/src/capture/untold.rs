//! PURE. Pods that nobody has told of: who they are only the API server can say, so that the kernel refuses their connections
//! until a controller does.
//!
//! In: the pods of whom that holds at a look. Out: those that it holds of for longer than is usual, and since when.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mesh_common::model::WorkloadUid;

/// How long it holds of most pods: a controller tells of a pod before its containers start, or milliseconds later.
const USUAL: Duration = Duration::from_secs(2);

/// A pod that nobody has told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UntoldPod {
    /// As its cgroup has it.
    pub uid: WorkloadUid,
    /// Namespace and name, as the kubelet's folder of logs has them. For people: nobody vouches for it.
    pub name: Option<String>,
    /// When this agent first saw it.
    pub since: Instant,
}

/// What the looks so far have found.
#[derive(Debug, Default)]
pub(super) struct Untold(BTreeMap<WorkloadUid, Instant>);

impl Untold {
    /// Takes what a look found: who has been found for a while, those who wait longest first.
    pub(super) fn take(&mut self, found: Vec<WorkloadUid>, now: Instant) -> Vec<UntoldPod> {
        let before = std::mem::take(&mut self.0);
        let since = |uid: WorkloadUid| (before.get(&uid).copied().unwrap_or(now), uid);
        let mut found: Vec<(Instant, WorkloadUid)> = found.into_iter().map(since).collect();
        found.sort();
        self.0 = found.iter().map(|(since, uid)| (uid.clone(), *since)).collect();
        let late = found.into_iter().filter(|(since, _)| now.duration_since(*since) >= USUAL);
        late.map(|(since, uid)| UntoldPod { uid, name: None, since }).collect()
    }

    /// Whether the last look found any.
    pub(super) fn is_any(&self) -> bool {
        !self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_waits_for_long_is_said_and_since_when() {
        let (begun, mut untold) = (Instant::now(), Untold::default());
        let uids = |names: &[&str]| names.iter().map(|name| WorkloadUid((*name).into())).collect::<Vec<_>>();
        let said = |found: Vec<UntoldPod>| -> Vec<(String, Duration)> {
            found.into_iter().map(|pod| (pod.uid.0.to_string(), pod.since.duration_since(begun))).collect()
        };
        let later = |seconds| Duration::from_secs(seconds);
        assert!(untold.take(uids(&["b"]), begun).is_empty() && untold.is_any());
        assert!(untold.take(uids(&["a", "b"]), begun + later(1)).is_empty());
        assert_eq!(said(untold.take(uids(&["a", "b"]), begun + later(2))), [("b".to_owned(), later(0))]);
        let both = [("b".to_owned(), later(0)), ("a".to_owned(), later(1))];
        assert_eq!(said(untold.take(uids(&["a", "b"]), begun + later(9))), both);
        assert!(untold.take(Vec::new(), begun + later(10)).is_empty() && !untold.is_any());
        assert!(untold.take(uids(&["b"]), begun + later(11)).is_empty(), "another time, another wait");
    }
}
