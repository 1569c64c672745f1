//! The mesh's own controllers among the node's pods, known before a controller tells of any pod.
//!
//! In: the folder in which the kubelet keeps pods' logs. Out: UIDs. Without them a mesh whose controllers are all gone would never
//! have one again: a pod that nobody told of is refused its connections, and controllers are who tells.
//!
//! The kubelet makes `NAMESPACE_NAME_UID` before it has the pod's sandbox made. The folder is root's on the host: who can write
//! there is trusted with the node already.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use mesh_common::model::WorkloadUid;

const ROOT: u32 = 0;

/// Where controllers are found.
#[derive(Clone, Debug)]
pub struct ControllerLogs {
    /// The folder of all pods' logs.
    pub folder: PathBuf,
    /// The controllers' namespace.
    pub namespace: String,
    /// Their workload: the first part of each one's name.
    pub workload: String,
}

impl ControllerLogs {
    /// The controllers that the kubelet runs or is about to run; those of before until it has tidied up after them.
    pub(super) fn uids(&self) -> Vec<WorkloadUid> {
        self.uids_by(ROOT)
    }

    /// What the kubelet calls a pod, by its UID: namespace and name. For people; whoever may create pods chooses names.
    pub(super) fn names(&self) -> BTreeMap<WorkloadUid, String> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().map_while(Result::ok);
        let named = entries.filter_map(|entry| {
            let folder = entry.file_name();
            let mut parts = folder.to_str()?.split('_');
            let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
            Some((WorkloadUid(uid.into()), format!("{namespace}/{name}")))
        });
        named.collect()
    }

    fn uids_by(&self, owner: u32) -> Vec<WorkloadUid> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().map_while(Result::ok);
        // Not followed: a link could lead to another pod's.
        let is_the_kubelets =
            |entry: &fs::DirEntry| entry.metadata().is_ok_and(|about| about.is_dir() && about.uid() == owner);
        let named = entries.filter_map(|entry| {
            let name = entry.file_name();
            let uid = self.uid_of(name.to_str()?)?.to_owned();
            is_the_kubelets(&entry).then(|| WorkloadUid(uid.into()))
        });
        named.collect()
    }

    /// The UID in the name of a controller's folder. Neither part of a name has a `_` in it (RFC 1123).
    fn uid_of<'a>(&self, folder: &'a str) -> Option<&'a str> {
        let mut parts = folder.split('_');
        let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
        let replica = name.strip_prefix(&self.workload)?;
        let is_uid = !uid.is_empty() && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        (namespace == self.namespace && replica.starts_with('-') && is_uid && parts.next().is_none())
            .then_some(uid)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const UID: &str = "0f4a2a6e-9d6c-4b1b-8f6e-2b0c7c1f5f11";

    fn logs(folder: PathBuf) -> ControllerLogs {
        let (namespace, workload) = ("nodemesh-system".to_owned(), "nodemesh-controller".to_owned());
        ControllerLogs { folder, namespace, workload }
    }

    #[test]
    fn a_controller_is_told_by_namespace_and_name() {
        let logs = logs(PathBuf::new());
        let of = |name: &str| logs.uid_of(&format!("{name}_{UID}")).map(str::to_owned);
        assert_eq!(of("nodemesh-system_nodemesh-controller-5d4f-x2x4q").as_deref(), Some(UID));
        for other in [
            "shop_nodemesh-controller-5d4f-x2x4q",
            "nodemesh-system_nodemesh-agent-x2x4q",
            "nodemesh-system_nodemesh-controllers-5d4f",
            "nodemesh-system_nodemesh-controller",
            "nodemesh-system",
            "shop_a_nodemesh-system_nodemesh-controller-5d4f",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
        for uid in ["", "..", "a/b", "a_b"] {
            assert_eq!(logs.uid_of(&format!("nodemesh-system_nodemesh-controller-1_{uid}")), None, "{uid}");
        }
    }

    #[test]
    fn only_a_folder_of_the_kubelets_own_counts() {
        let folder = tempfile::tempdir().unwrap();
        let (owner, logs) = (fs::metadata(folder.path()).unwrap().uid(), logs(folder.path().to_owned()));
        assert!(logs.uids().is_empty());
        let named = |uid: &str| folder.path().join(format!("nodemesh-system_nodemesh-controller-1_{uid}"));
        fs::create_dir(named(UID)).unwrap();
        fs::write(named("a-file"), "").unwrap();
        symlink(named(UID), named("a-link")).unwrap();
        assert_eq!(logs.uids_by(owner), [WorkloadUid(UID.into())]);
        let called = logs.names().remove(&WorkloadUid(UID.into()));
        assert_eq!(called.as_deref(), Some("nodemesh-system/nodemesh-controller-1"));
        assert!(logs.uids_by(owner + 1).is_empty());
    }
}
