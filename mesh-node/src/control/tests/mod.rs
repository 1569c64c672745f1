//! The whole way from a folder to snapshots, with real files.

mod services;
mod whole;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use mesh_common::model::{Enrolment, MeshSettings, WorkloadUid};
use mesh_common::snapshot::Snapshot;
use tokio::task::LocalSet;

use super::desk::WAITS;
use super::documents::Problem;
use super::*;

/// Longest wait for anything that is expected to happen at once. Machines are slow at times, not this slow.
const BOUND: Duration = Duration::from_secs(10);

/// Longest time in which an edit is still live at once: 20 times what it may take on a machine that does nothing else.
/// The figure itself is the bench's.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A folder, and a reconciler that watches it.
struct Folder {
    folder: tempfile::TempDir,
    snapshots: Arc<ArcSwap<Snapshot>>,
    problems: Arc<ArcSwap<Vec<Problem>>>,
    registry: Registry,
    publication: Arc<Publication>,
}

impl Folder {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.load_full()
    }

    fn problems(&self) -> Vec<String> {
        self.problems
            .load()
            .iter()
            .map(|problem| format!("{} {problem}", problem.complaint.effect.code()))
            .collect()
    }

    fn has_pod(&self, name: &str) -> bool {
        self.snapshot().workloads().any(|workload| &*workload.name.name == name)
    }

    /// Waits until something holds; says how long it took.
    async fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) -> Duration {
        let started = Instant::now();
        while !holds() {
            assert!(started.elapsed() < BOUND, "{what}; problems: {:?}", self.problems());
            // Between two looks of a bounded wait: a problem has no event to wait for.
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        started.elapsed()
    }

    /// Waits until all that was written so far is taken in: a marker written now is seen after it.
    async fn settle(&self) {
        let name = format!("marker-{}", self.snapshot().generation());
        self.write("~marker.json.new", &pod(&name, "10.255.255.255"));
        fs::rename(self.path("~marker.json.new"), self.path("zz-marker.yaml")).unwrap();
        self.eventually("the marker is taken in", || self.has_pod(&name)).await;
    }
}

fn pod(name: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\nspec: {{nodeName: node-a}}\nstatus: {{podIP: {address}}}\n"
    )
}

const ALLOW_GET: &str = "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: web, namespace: shop}\nspec:\n  rules:\n    - to: [{operation: {methods: [GET]}}]\n";

/// Runs a test against a folder that holds these files at first.
fn with_folder<F: Future<Output = ()>>(files: &[(&str, &str)], test: impl FnOnce(Folder) -> F) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    with_watched(folder, test);
}

/// The same, against a folder that is there.
fn with_watched<F: Future<Output = ()>>(folder: tempfile::TempDir, test: impl FnOnce(Folder) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let registry = Registry::new();
        let control = Control::new(settings(folder.path()), &registry).unwrap();
        let publication = control.publication();
        let (snapshots, problems) = (publication.snapshots(), publication.problems());
        let mut generation = publication.generation();
        let task = tokio::task::spawn_local(control.run());
        tokio::time::timeout(BOUND, generation.wait_for(Option::is_some)).await.unwrap().unwrap();
        test(Folder { folder, snapshots, problems, registry, publication }).await;
        assert!(!task.is_finished(), "the reconciler still runs");
        task.abort();
    });
}

fn settings(folder: &Path) -> ControlSettings {
    let MeshSettings { root_namespace, trust_domain, cluster_domain, .. } = MeshSettings::default();
    ControlSettings {
        config_dir: folder.to_owned(),
        root_namespace,
        trust_domain,
        cluster_domain,
        mesh_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
    }
}

#[test]
fn a_folder_that_is_not_there_is_an_error_that_names_it() {
    let error = Control::new(settings(Path::new("/nonexistent/config")), &Registry::new()).unwrap_err();
    assert_eq!(error.to_string(), "read the folder of --config-dir, /nonexistent/config");
}

#[test]
fn the_first_snapshot_has_the_whole_folder() {
    let files = [
        ("a.yaml", &*pod("a", "10.0.0.1")),
        ("b.yml", &pod("b", "10.0.0.2")),
        ("c.txt", &pod("c", "10.0.0.3")),
    ];
    with_folder(&files, |folder| async move {
        assert!(folder.has_pod("a") && folder.has_pod("b") && !folder.has_pod("c"));
    });
}

#[test]
fn ranges_of_nodes_and_of_the_settings_are_inside_the_mesh() {
    let node =
        "apiVersion: v1\nkind: Node\nmetadata: {name: node-a}\nspec: {podCIDRs: [10.0.0.0/24, fd00::/64]}\n";
    with_folder(&[("a.yaml", node)], |folder| async move {
        let is_inside =
            |folder: &Folder, address: &str| folder.snapshot().is_inside(address.parse().unwrap());
        for inside in ["10.0.0.9", "fd00::9", "10.96.7.7"] {
            assert!(is_inside(&folder, inside), "{inside}");
        }
        assert!(!is_inside(&folder, "10.0.1.9"));
        fs::remove_file(folder.path("a.yaml")).unwrap();
        folder.eventually("the node's range is outside", || !is_inside(&folder, "10.0.0.9")).await;
        assert!(is_inside(&folder, "10.96.7.7"));
    });
}

#[test]
fn an_edit_is_live_at_once() {
    with_folder(&[("a.yaml", &pod("a", "10.0.0.1"))], |folder| async move {
        let mut slowest = Duration::ZERO;
        for round in 0..20 {
            let address = format!("10.0.1.{round}");
            folder.write("a.yaml", &pod("a", &address));
            let ip = address.parse().unwrap();
            let took = folder
                .eventually("the new address is there", || folder.snapshot().workload_at(ip).is_some())
                .await;
            slowest = slowest.max(took);
        }
        println!("slowest of 20 edits: {slowest:?}");
        assert!(slowest < AT_ONCE, "{slowest:?}");
    });
}

#[test]
fn a_namespace_enrols_its_pods_whichever_comes_first() {
    with_folder(&[("a.yaml", &pod("a", "10.0.0.1"))], |folder| async move {
        let enrolment =
            |folder: &Folder| folder.snapshot().workload_at("10.0.0.1".parse().unwrap()).unwrap().enrolment;
        assert_eq!(enrolment(&folder), Enrolment::Disabled);
        folder.write(
            "ns.yaml",
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {nodemesh.dev/mode: enabled}}\n",
        );
        folder.eventually("the pod is enrolled", || enrolment(&folder) == Enrolment::Enabled).await;
        fs::remove_file(folder.path("ns.yaml")).unwrap();
        folder.eventually("the pod is not enrolled", || enrolment(&folder) == Enrolment::Disabled).await;
    });
}

#[test]
fn a_file_that_is_being_written_is_not_read() {
    with_folder(&[("a.yaml", &format!("{}---\n{ALLOW_GET}", pod("a", "10.0.0.1")))], |folder| async move {
        let mut file = fs::File::create(folder.path("a.yaml")).unwrap();
        file.write_all(pod("a", "10.0.0.1").as_bytes()).unwrap();
        folder.settle().await;
        let policy = |folder: &Folder| policies(&folder.snapshot());
        assert_eq!(policy(&folder), 1, "the policy is in the half that is not written yet");
        file.write_all(format!("---\n{ALLOW_GET}").as_bytes()).unwrap();
        folder.settle().await;
        drop(file);
        folder.settle().await;
        assert_eq!((policy(&folder), folder.problems()), (1, Vec::new()));
    });
}

/// How many policies speak about the pod.
fn policies(snapshot: &Snapshot) -> usize {
    let pod = snapshot.workload_at("10.0.0.1".parse().unwrap()).unwrap().clone();
    let sets = snapshot.policy_sets(&pod.uid, "10.0.0.1:80".parse().unwrap()).unwrap();
    sets.len()
}

#[test]
fn an_editor_that_removes_and_writes_anew_removes_nothing() {
    with_folder(&[("a.yaml", &pod("a", "10.0.0.1"))], |folder| async move {
        let generation = folder.snapshot().generation();
        fs::rename(folder.path("a.yaml"), folder.path("a.yaml~")).unwrap();
        folder.write("a.yaml", &pod("a", "10.0.0.1"));
        fs::remove_file(folder.path("a.yaml~")).unwrap();
        folder.write("4913", "");
        folder.write(".a.yaml.swp", "garbage: [");
        folder.settle().await;
        assert_eq!(folder.snapshot().generation(), generation + 1, "only the marker is new");
        assert_eq!(folder.problems(), Vec::<String>::new());
    });
}

#[test]
fn a_renamed_file_changes_nothing() {
    with_folder(&[("a.yaml", &pod("a", "10.0.0.1"))], |folder| async move {
        let generation = folder.snapshot().generation();
        fs::rename(folder.path("a.yaml"), folder.path("b.yaml")).unwrap();
        folder.settle().await;
        assert!(folder.has_pod("a"));
        assert_eq!(folder.snapshot().generation(), generation + 1, "only the marker is new");
    });
}

#[test]
fn a_removed_file_takes_its_objects_with_it() {
    with_folder(
        &[("a.yaml", &pod("a", "10.0.0.1")), ("b.yaml", &pod("b", "10.0.0.2"))],
        |folder| async move {
            fs::remove_file(folder.path("a.yaml")).unwrap();
            let took = folder.eventually("the pod is gone", || !folder.has_pod("a")).await;
            println!("a removed file is gone after {took:?}");
            assert!(took < AT_ONCE, "{took:?}");
            assert!(folder.has_pod("b"));
        },
    );
}

#[test]
fn a_swapped_config_map_is_live_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let make = |version: &str, address: &str| {
        fs::create_dir(folder.path().join(version)).unwrap();
        fs::write(folder.path().join(version).join("a.yaml"), pod("a", address)).unwrap();
    };
    make("..1", "10.0.0.1");
    std::os::unix::fs::symlink("..1", folder.path().join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/a.yaml", folder.path().join("a.yaml")).unwrap();
    make("..2", "10.0.0.2");
    let path = folder.path().to_owned();
    with_watched(folder, |folder| async move {
        std::os::unix::fs::symlink("..2", path.join("..data_tmp")).unwrap();
        fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
        let ip = "10.0.0.2".parse().unwrap();
        let took = folder
            .eventually("the new address is there", || folder.snapshot().workload_at(ip).is_some())
            .await;
        assert!(took < AT_ONCE, "{took:?}");
    });
}

#[test]
fn a_good_object_edited_into_a_bad_one_stays_as_it_was() {
    with_folder(&[("a.yaml", &pod("a", "10.0.0.1"))], |folder| async move {
        let bad = pod("a", "10.0.0.2").replace("nodeName", "nodename");
        folder.write("a.yaml", &format!("{bad}---\n{}", pod("b", "10.0.0.3")));
        folder.eventually("the other pod is there", || folder.has_pod("b")).await;
        assert!(folder.snapshot().workload_at("10.0.0.1".parse().unwrap()).is_some());
        folder.eventually("it is reported", || !folder.problems().is_empty()).await;
        assert_eq!(
            folder.problems(),
            [
                "last_good_kept a.yaml:4 (document 1): Pod shop/a: spec.nodename: unknown field: did you mean nodeName?"
            ]
        );
        assert!(
            folder
                .registry
                .render()
                .unwrap()
                .contains("nodemesh_control_problems{effect=\"last_good_kept\"} 1\n")
        );
        fs::remove_file(folder.path("a.yaml")).unwrap();
        folder.eventually("both are gone", || !folder.has_pod("a") && !folder.has_pod("b")).await;
        folder.eventually("nothing is reported", || folder.problems().is_empty()).await;
    });
}

#[test]
fn a_slip_in_the_label_of_a_namespace_takes_no_pod_out_of_the_mesh() {
    let namespace = |mode: &str| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{nodemesh.dev/mode: {mode}}}}}\n"
        )
    };
    let (enabled, pod) = (namespace("enabled"), pod("a", "10.0.0.1"));
    with_folder(&[("n.yaml", &enabled), ("a.yaml", &pod)], |folder| async move {
        let is_enrolled = |folder: &Folder| {
            folder.snapshot().workloads().any(|workload| workload.enrolment == Enrolment::Enabled)
        };
        assert!(is_enrolled(&folder));
        folder.write("n.yaml", &namespace("enable"));
        let said = "nodemesh.dev/mode]: \"enable\" is neither enabled nor disabled";
        folder.eventually("it is said", || folder.problems().iter().any(|text| text.contains(said))).await;
        assert!(is_enrolled(&folder), "what it said before counts on");
        folder.write("n.yaml", &namespace("disabled"));
        folder.eventually("the label counts", || !is_enrolled(&folder)).await;
    });
}

#[test]
fn a_good_policy_edited_into_a_bad_one_denies() {
    with_folder(&[("a.yaml", ALLOW_GET), ("b.yaml", &pod("a", "10.0.0.1"))], |folder| async move {
        folder.write("a.yaml", &ALLOW_GET.replace("methods", "method"));
        let faulty = |folder: &Folder| folder.problems().iter().any(|problem| problem.starts_with("denies"));
        folder.eventually("the policy denies", || faulty(&folder)).await;
        assert_eq!(
            folder.problems(),
            [
                "denies a.yaml:6 (document 1): AuthorizationPolicy shop/web: spec.rules[0].to[0].operation.method: unknown field: did you mean methods?"
            ]
        );
        folder.write("a.yaml", ALLOW_GET);
        folder.eventually("the policy is good again", || folder.problems().is_empty()).await;
    });
}

#[test]
fn a_policy_that_was_closed_half_written_is_given_a_second() {
    with_folder(&[("a.yaml", ALLOW_GET), ("b.yaml", &pod("a", "10.0.0.1"))], |folder| async move {
        let wrong = ALLOW_GET.replace("methods", "method");
        folder.write("a.yaml", &wrong);
        let written = Instant::now();
        folder.eventually("the edit waits", || !folder.problems().is_empty()).await;
        assert_eq!(folder.problems(), [format!("last_good_kept a.yaml: {WAITS}")]);
        let denies = || folder.problems().iter().any(|problem| problem.starts_with("denies"));
        folder.eventually("the policy denies", denies).await;
        assert!(written.elapsed() >= Duration::from_secs(1), "{:?}", written.elapsed());
        assert_eq!(folder.problems().len(), 1);
        folder.write("a.yaml", ALLOW_GET);
        folder.eventually("the policy is good again", || folder.problems().is_empty()).await;
        let generation = folder.snapshot().generation();
        folder.write("a.yaml", &wrong);
        folder.write("a.yaml", ALLOW_GET);
        folder.settle().await;
        assert_eq!(folder.snapshot().generation(), generation + 1, "only the marker is new");
    });
}

#[test]
fn text_that_is_no_yaml_leaves_in_force_what_its_file_said() {
    let text = format!("{}---\n{ALLOW_GET}---\n{}", pod("a", "10.0.0.1"), pod("b", "10.0.0.2"));
    with_folder(&[("a.yaml", &text)], |folder| async move {
        let broken = format!("{}---\nmetadata: [\n", pod("a", "10.0.0.9"));
        folder.write("a.yaml", &broken);
        let ip = "10.0.0.9".parse().unwrap();
        folder.eventually("the good document counts", || folder.snapshot().workload_at(ip).is_some()).await;
        assert!(folder.has_pod("b"), "it may stand in the broken document");
        folder.eventually("it is reported", || folder.problems().len() == 1).await;
        assert!(folder.problems()[0].starts_with("last_good_kept a.yaml:"), "{:?}", folder.problems());
        folder.write("a.yaml", &pod("a", "10.0.0.9"));
        folder.eventually("what is not there any more is gone", || !folder.has_pod("b")).await;
    });
}

#[test]
fn of_two_documents_about_one_object_the_last_counts_and_both_are_reported() {
    with_folder(
        &[("a.yaml", &pod("a", "10.0.0.1")), ("b.yaml", &pod("a", "10.0.0.2"))],
        |folder| async move {
            assert!(folder.snapshot().workload_at("10.0.0.2".parse().unwrap()).is_some());
            folder.eventually("both are reported", || !folder.problems().is_empty()).await;
            assert_eq!(
                folder.problems(),
                [
                    "not_in_force a.yaml:3 (document 1): Pod shop/a: metadata.name: also stands in b.yaml (document 1); this one does not count",
                    "warning b.yaml:3 (document 1): Pod shop/a: metadata.name: also stands in a.yaml (document 1); this one counts",
                ]
            );
            fs::remove_file(folder.path("b.yaml")).unwrap();
            let ip = "10.0.0.1".parse().unwrap();
            folder
                .eventually("the other one counts now", || folder.snapshot().workload_at(ip).is_some())
                .await;
        },
    );
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    with_folder(&[("a.yaml", &pod("a", "10.0.0.1"))], |folder| async move {
        folder.write("big.yaml", &"#\n".repeat(documents::MAX_FILE / 2 + 1));
        folder.eventually("it is reported", || !folder.problems().is_empty()).await;
        assert_eq!(
            folder.problems(),
            [format!(
                "unread big.yaml: has {} bytes, at most {} are read: split it into several files; {STARTS}",
                documents::MAX_FILE + 2,
                documents::MAX_FILE
            )]
        );
        assert!(folder.has_pod("a"));
    });
}

/// What is said of every file that could never be read.
const STARTS: &str =
    "nothing of it is in force; until that is mended, an agent that starts puts nothing into force";

#[test]
fn nothing_comes_into_force_before_every_file_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), pod("a", "10.0.0.1")).unwrap();
    let too_many = "a: 1\n---\n".repeat(documents::MAX_OBJECTS) + "a: 1\n";
    fs::write(folder.path().join("b.yaml"), too_many).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let registry = Registry::new();
        let control = Control::new(settings(folder.path()), &registry).unwrap();
        let publication = control.publication();
        let (snapshots, problems) = (publication.snapshots(), publication.problems());
        let mut generation = publication.generation();
        tokio::task::spawn_local(control.run());
        let folder = Folder { folder, snapshots, problems, registry, publication };
        folder.eventually("it is reported", || !folder.problems().is_empty()).await;
        let wrong = format!(
            "nothing_in_force b.yaml: has 10001 documents, at most 10000 of one file are read: split it into several files; {STARTS}"
        );
        assert_eq!(folder.problems(), [wrong]);
        // An edit of another file is taken, and changes nothing of this.
        folder.write("a.yaml", &pod("c", "10.0.0.3").replace("nodeName", "nodename"));
        folder.eventually("it is reported too", || folder.problems().len() == 2).await;
        assert_eq!((*generation.borrow(), folder.snapshot().workloads().count()), (None, 0));
        folder.write("a.yaml", &pod("c", "10.0.0.3"));
        folder.write("b.yaml", &pod("b", "10.0.0.2"));
        tokio::time::timeout(BOUND, generation.wait_for(Option::is_some)).await.unwrap().unwrap();
        folder.eventually("all is in force", || folder.has_pod("b") && folder.has_pod("c")).await;
        folder.eventually("nothing is wrong", || folder.problems().is_empty()).await;
    });
}

#[test]
fn a_folder_that_is_gone_deletes_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let watched = tempfile::tempdir_in(parent.path()).unwrap();
    fs::write(watched.path().join("a.yaml"), pod("a", "10.0.0.1")).unwrap();
    let path = watched.path().to_owned();
    with_watched(watched, |folder| async move {
        fs::rename(&path, path.with_extension("away")).unwrap();
        folder.eventually("it is reported", || !folder.problems().is_empty()).await;
        assert!(folder.has_pod("a"));
        fs::create_dir(&path).unwrap();
        folder
            .eventually("it is reported as empty", || {
                folder.problems().iter().any(|problem| problem.contains("no file"))
            })
            .await;
        assert!(folder.has_pod("a"));
        fs::write(path.join("b.yaml"), pod("b", "10.0.0.2")).unwrap();
        folder.eventually("the new folder is watched", || folder.has_pod("b")).await;
        folder.eventually("what it does not have is gone", || !folder.has_pod("a")).await;
        fs::remove_dir_all(path.with_extension("away")).unwrap();
    });
}

#[test]
fn a_pod_that_comes_again_at_another_address_is_another_pod() {
    with_folder(&[("a.yaml", &pod("a", "10.0.0.1"))], |folder| async move {
        let uid = |folder: &Folder| folder.snapshot().workloads().next().unwrap().uid.clone();
        let before: WorkloadUid = uid(&folder);
        folder.write("a.yaml", &pod("a", "10.0.0.2"));
        folder.eventually("it is another pod", || uid(&folder) != before).await;
        assert_eq!(folder.snapshot().workloads().count(), 1);
        assert!(folder.snapshot().workload(&before).is_none());
    });
}
