//! Where kubelets and runtimes put pods, as nodes show it: a table, and what finds pods there is held against it.
//!
//! Of version 2 of cgroups; where version 1 is beside it (hybrid), below `/sys/fs/cgroup/unified`. A runtime that writes there
//! writes the same path in both.

use std::fs;
use std::path::{Path, PathBuf};

use mesh_common::model::WorkloadUid;

use super::arrivals::Arrivals;
use super::cgroups::PodCgroups;
use super::processes::pids;

/// UIDs of Pod objects, and what a kubelet calls the pods that it has from files: the MD5 sum of what they are.
const UIDS: [&str; 2] = ["0f4a2a6e-9d6c-4b1b-8f6e-2b0c7c1f5f11", "a2b0d1f5c3e94d7e8f60718293a4b5c6"];
/// Another pod of the same class, which differs in its last character.
const OTHERS: [&str; 2] = ["0f4a2a6e-9d6c-4b1b-8f6e-2b0c7c1f5f12", "a2b0d1f5c3e94d7e8f60718293a4b5c7"];
/// What a runtime calls containers and sandboxes.
const ID: &str = "5d41402abc4b2a76b9719d911017c592ae2f1bd1c6b1f0b2c8a3d6a1e9f40b37";
/// What else is there.
const BESIDE: [&str; 6] = [
    "init.scope",
    "system.slice/containerd.service",
    "system.slice/crio.service",
    "system.slice/crio-conmon-ID.scope",
    "user.slice/user-1000.slice/session-1.scope",
    "runtime.slice/kubelet.service",
];

/// One way to lay out a pod: `UID_` is the UID as systemd's names have it, with `_` for `-`.
struct Layout {
    /// Who makes it, with which cgroup driver.
    of: &'static str,
    /// The cgroup of the pod.
    pod: &'static str,
    /// Below it, one where a process of the pod is.
    container: &'static str,
    /// Below it, one that holds none of the pod's, but for nothing or for a process of the host's network.
    beside: Option<&'static str>,
}

const LAYOUTS: [Layout; 14] = [
    of("containerd, cgroupfs, guaranteed", "kubepods/podUID", "ID", None),
    of("containerd, cgroupfs, burstable", "kubepods/burstable/podUID", "ID", None),
    of("containerd, cgroupfs, best effort", "kubepods/besteffort/podUID", "ID", None),
    of(
        "containerd, systemd, guaranteed",
        "kubepods.slice/kubepods-podUID_.slice",
        "cri-containerd-ID.scope",
        None,
    ),
    of(
        "containerd, systemd, burstable",
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice",
        "cri-containerd-ID.scope",
        None,
    ),
    of(
        "containerd, systemd, and an init of its own in the container",
        "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podUID_.slice",
        "cri-containerd-ID.scope/system.slice/web.service",
        None,
    ),
    of(
        "containerd, cgroupfs, in a node that is a container",
        "kubelet/kubepods/besteffort/podUID",
        "ID",
        None,
    ),
    of(
        "containerd, systemd, in a node that is a container",
        "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podUID_.slice",
        "cri-containerd-ID.scope",
        None,
    ),
    of(
        "CRI-O with runc, systemd, guaranteed",
        "kubepods.slice/kubepods-podUID_.slice",
        "crio-ID.scope",
        Some("crio-conmon-ID.scope"),
    ),
    of(
        "CRI-O with runc, systemd, burstable",
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice",
        "crio-ID.scope",
        Some("crio-conmon-ID.scope"),
    ),
    of(
        "CRI-O with crun, systemd",
        "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podUID_.slice",
        "crio-ID.scope/container",
        Some("crio-conmon-ID.scope"),
    ),
    // The sandbox's own cgroup, which is no scope: no process is needed to hold the namespaces.
    of(
        "CRI-O without a process of the sandbox, systemd",
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice",
        "crio-ID.scope/container",
        Some("crio-ID"),
    ),
    of("CRI-O, cgroupfs, guaranteed", "kubepods/podUID", "crio-ID", Some("crio-conmon-ID")),
    of("CRI-O, cgroupfs, burstable", "kubepods/burstable/podUID", "crio-ID", Some("crio-conmon-ID")),
];

const fn of(
    of: &'static str,
    pod: &'static str,
    container: &'static str,
    beside: Option<&'static str>,
) -> Layout {
    Layout { of, pod, container, beside }
}

impl Layout {
    fn pod(&self, uid: &str) -> PathBuf {
        self.pod.replace("UID_", &uid.replace('-', "_")).replace("UID", uid).into()
    }

    fn container(&self) -> String {
        self.container.replace("ID", ID)
    }

    /// The roots that an agent may be given: the whole tree, or the kubelet's part of it.
    fn roots(&self, tree: &Path) -> [PathBuf; 2] {
        let first = Path::new(self.pod).components().next().expect("a layout has folders");
        [tree.to_owned(), tree.join(first)]
    }
}

/// A tree with a pod in each of these places, and what else a node has.
fn tree(pods: &[PathBuf]) -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    let beside = BESIDE.iter().map(|beside| PathBuf::from(beside.replace("ID", ID)));
    for folder in beside.chain(pods.iter().cloned()) {
        fs::create_dir_all(tree.path().join(folder)).unwrap();
    }
    tree
}

fn put(folder: &Path, process: u32) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("cgroup.procs"), format!("{process}\n")).unwrap();
}

#[test]
fn a_pod_is_found_with_its_processes_wherever_runtimes_put_it() {
    for layout in &LAYOUTS {
        for (uid, other) in UIDS.iter().zip(OTHERS) {
            let of = format!("{}, {uid}", layout.of);
            let [pod, another] = [uid, &other].map(|uid| layout.pod(uid));
            let tree = tree(&[pod.clone(), another.clone()]);
            put(&tree.path().join(&another).join(layout.container()), 9);
            put(&tree.path().join(&pod).join(layout.container()), 7);
            if let Some(beside) = layout.beside {
                put(&tree.path().join(&pod).join(beside.replace("ID", ID)), 8);
            }
            for root in layout.roots(tree.path()) {
                let found = PodCgroups::below(root.clone()).folder(&WorkloadUid((*uid).into()));
                assert_eq!(found, Some(tree.path().join(&pod)), "{of} below {root:?}");
            }
            let mut processes: Vec<u32> = pids(&tree.path().join(&pod)).collect();
            processes.sort_unstable();
            let expected: &[u32] = if layout.beside.is_some() { &[7, 8] } else { &[7] };
            assert_eq!(processes, expected, "{of}");
        }
    }
}

#[test]
fn only_pods_are_pods_wherever_runtimes_put_them() {
    for layout in &LAYOUTS {
        let [uid, gone] = [UIDS[0], OTHERS[0]].map(|uid| WorkloadUid(uid.into()));
        let tree = tree(&[layout.pod(&uid.0).join(layout.container())]);
        for root in layout.roots(tree.path()) {
            let cgroups = PodCgroups::below(root);
            assert_eq!(cgroups.present([&uid, &gone].into_iter()), [&uid], "{}", layout.of);
            assert!(!cgroups.are_none(), "{}", layout.of);
        }
        fs::remove_dir_all(tree.path().join(layout.pod(&uid.0))).unwrap();
        for root in layout.roots(tree.path()) {
            assert!(PodCgroups::below(root).are_none(), "{}", layout.of);
        }
    }
}

#[test]
fn a_pod_and_its_containers_are_noticed_wherever_runtimes_put_them() {
    for layout in &LAYOUTS {
        let pod = layout.pod(UIDS[0]);
        let tree = tree(&[pod.parent().expect("a pod is somewhere").to_owned()]);
        for root in layout.roots(tree.path()) {
            let mut arrivals = Arrivals::watch(&root).unwrap();
            let pod = tree.path().join(&pod);
            fs::create_dir(&pod).unwrap();
            assert!(arrivals.take(), "{}", layout.of);
            fs::create_dir_all(pod.join(layout.container())).unwrap();
            assert!(arrivals.take(), "{}", layout.of);
            fs::remove_dir_all(&pod).unwrap();
        }
    }
}
