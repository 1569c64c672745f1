//! In which order changed files are taken, whatever each takes to be read.

use std::time::Instant;

use mesh_common::model::MeshSettings;

use super::desk::{Applied, Desk, LARGE};
use super::documents::MAX_OBJECTS;
use super::watch_dir::{Content, Reading};

fn pod(name: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\n")
}

fn small(file: &str, pods: &[&str]) -> Reading {
    let text = pods.iter().map(|name| pod(name)).collect::<Vec<_>>().join("---\n");
    Reading { file: file.into(), content: Content::Text(text) }
}

/// The same pods in a file that is too large to be read at the desk.
fn large(file: &str, pods: &[&str]) -> Reading {
    as_large(small(file, pods))
}

/// The same text behind so many comments that it is too large to be read at the desk.
fn as_large(Reading { file, content }: Reading) -> Reading {
    let Content::Text(text) = content else { unreachable!() };
    Reading { file, content: Content::Text(format!("{}{text}", "#\n".repeat(LARGE / 2 + 1))) }
}

fn gone(file: &str) -> Reading {
    Reading { file: file.into(), content: Content::Gone }
}

fn refused(file: &str) -> Reading {
    Reading {
        file: file.into(),
        content: Content::Refused { reason: "it is no UTF-8".into(), seen: String::new() },
    }
}

/// A desk that took a folder.
fn begun(files: Vec<Reading>) -> Desk {
    let mut desk = Desk::new(MeshSettings::default().into());
    take(&mut desk, files).expect("the first batch is taken at once");
    desk
}

fn take(desk: &mut Desk, readings: Vec<Reading>) -> Option<String> {
    desk.take(readings, Instant::now()).map(|applied| pods(&applied))
}

/// Reads what is to be read next apart from the desk, and takes it.
fn read_aside(desk: &mut Desk) -> String {
    let batch = desk.next_job().expect("something is to be read").read();
    pods(&desk.finish(batch, Instant::now()))
}

fn pods(applied: &Applied) -> String {
    let mut names: Vec<_> =
        applied.snapshot.workloads().map(|workload| workload.name.name.to_string()).collect();
    names.sort();
    names.join(" ")
}

#[test]
fn the_first_batch_is_taken_whole_however_large() {
    let mut desk = Desk::new(MeshSettings::default().into());
    assert_eq!(
        take(&mut desk, vec![large("l.yaml", &["a"]), small("s.yaml", &["b"])]),
        Some("a b".to_owned())
    );
}

#[test]
fn an_edit_overtakes_a_large_file() {
    let mut desk = begun(vec![small("s.yaml", &["a"])]);
    assert_eq!(take(&mut desk, vec![large("l.yaml", &["b"])]), None);
    let job = desk.next_job().unwrap();
    assert!(desk.next_job().is_none(), "one is read at a time");
    assert_eq!(take(&mut desk, vec![small("s.yaml", &["a", "c"])]), Some("a c".to_owned()));
    let applied = desk.finish(job.read(), Instant::now());
    assert_eq!(pods(&applied), "a b c");
}

#[test]
fn what_takes_an_object_away_waits_for_what_is_being_read() {
    let mut desk = begun(vec![small("s.yaml", &["a", "b"]), small("t.yaml", &["c"])]);
    assert_eq!(take(&mut desk, vec![large("l.yaml", &["b"])]), None);
    let job = desk.next_job().unwrap();
    assert_eq!(take(&mut desk, vec![small("s.yaml", &["a"])]), None, "the pod may have moved");
    assert_eq!(take(&mut desk, vec![gone("t.yaml")]), None);
    assert_eq!(pods(&desk.finish(job.read(), Instant::now())), "a b c");
    assert_eq!(read_aside(&mut desk), "a b");
    assert!(desk.next_job().is_none());
}

#[test]
fn a_large_file_that_is_renamed_is_never_gone() {
    let mut desk = begun(vec![large("l.yaml", &["a"])]);
    assert_eq!(take(&mut desk, vec![gone("l.yaml"), large("m.yaml", &["a"])]), None);
    let job = desk.next_job().unwrap();
    assert_eq!(take(&mut desk, vec![gone("m.yaml"), large("n.yaml", &["a"])]), None);
    assert_eq!(take(&mut desk, vec![small("s.yaml", &["b"])]), Some("a b".to_owned()));
    assert_eq!(pods(&desk.finish(job.read(), Instant::now())), "a b");
    assert_eq!(read_aside(&mut desk), "a b");
}

#[test]
fn what_a_file_said_before_does_not_come_back() {
    let mut desk = begun(Vec::new());
    assert_eq!(take(&mut desk, vec![large("l.yaml", &["a"]), large("m.yaml", &["b"])]), None);
    let job = desk.next_job().unwrap();
    assert_eq!(take(&mut desk, vec![small("l.yaml", &["c"])]), Some("c".to_owned()));
    assert_eq!(pods(&desk.finish(job.read(), Instant::now())), "b c");
    assert_eq!(take(&mut desk, vec![large("m.yaml", &["d"])]), None);
    assert_eq!(take(&mut desk, vec![small("m.yaml", &["b", "e"])]), Some("b c e".to_owned()));
    assert!(desk.next_job().is_none(), "what waited is older");
}

fn policy(file: &str, name: &str, action: &str) -> Reading {
    let text = format!(
        "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: shop}}\nspec: {{action: {action}, rules: [{{}}]}}\n"
    );
    Reading { file: file.into(), content: Content::Text(text) }
}

fn policies(applied: &Applied) -> Vec<String> {
    let policies = applied.snapshot.authorization_policies();
    let mut said: Vec<_> =
        policies.map(|policy| format!("{} {:?}", policy.name.name, policy.action)).collect();
    said.sort();
    said
}

#[test]
fn a_policy_is_not_weakened_before_the_one_that_replaces_it_is_read() {
    let mut desk = begun(vec![policy("s.yaml", "old", "DENY")]);
    assert_eq!(take(&mut desk, vec![as_large(policy("l.yaml", "new", "DENY"))]), None);
    let job = desk.next_job().unwrap();
    assert_eq!(take(&mut desk, vec![policy("s.yaml", "old", "AUDIT")]), None);
    assert_eq!(policies(&desk.finish(job.read(), Instant::now())), ["new Deny", "old Deny"]);
    let batch = desk.next_job().unwrap().read();
    assert_eq!(policies(&desk.finish(batch, Instant::now())), ["new Deny", "old Audit"]);
}

#[test]
fn what_can_be_read_is_taken_before_what_cannot() {
    let mut desk = begun(Vec::new());
    assert_eq!(take(&mut desk, vec![as_large(policy("l.yaml", "new", "DENY"))]), None);
    let job = desk.next_job().unwrap();
    assert_eq!(take(&mut desk, vec![refused("l.yaml")]), None);
    assert_eq!(policies(&desk.finish(job.read(), Instant::now())), ["new Deny"]);
    let batch = desk.next_job().unwrap().read();
    assert_eq!(policies(&desk.finish(batch, Instant::now())), ["new Deny"], "the last good state");
}

#[test]
fn a_good_text_that_waits_is_taken_although_its_file_cannot_be_read_since() {
    let mut desk = begun(vec![small("s.yaml", &["a"])]);
    assert_eq!(take(&mut desk, vec![large("l.yaml", &["b"])]), None);
    let job = desk.next_job().unwrap();
    assert_eq!(take(&mut desk, vec![large("s.yaml", &["a", "c"])]), None);
    assert_eq!(take(&mut desk, vec![refused("s.yaml")]), None);
    assert_eq!(pods(&desk.finish(job.read(), Instant::now())), "a b");
    let batch = desk.next_job().unwrap().read();
    let applied = desk.finish(batch, Instant::now());
    assert_eq!(pods(&applied), "a b c");
    let problems = desk.problems(&applied.snapshot, None);
    assert!(
        problems.iter().any(|problem| problem.complaint.reason.starts_with("it is no UTF-8")),
        "{problems:?}"
    );
}

/// A file of more objects than are read, and large enough not to be read at the desk.
fn too_many(file: &str) -> Reading {
    let text = "a: 1\n---\n".repeat(MAX_OBJECTS) + &"#\n".repeat(LARGE / 2);
    Reading { file: file.into(), content: Content::Text(text + "a: 1\n") }
}

#[test]
fn a_good_text_that_waits_is_taken_although_a_later_one_is_refused() {
    let mut desk = begun(vec![small("s.yaml", &["a"])]);
    assert_eq!(take(&mut desk, vec![large("l.yaml", &["b"])]), None);
    let job = desk.next_job().unwrap();
    assert_eq!(take(&mut desk, vec![large("s.yaml", &["a", "c"])]), None);
    assert_eq!(take(&mut desk, vec![refused("s.yaml")]), None);
    assert_eq!(take(&mut desk, vec![too_many("s.yaml")]), None);
    assert_eq!(take(&mut desk, vec![too_many("s.yaml")]), None);
    assert_eq!(pods(&desk.finish(job.read(), Instant::now())), "a b");
    let batch = desk.next_job().unwrap().read();
    let applied = desk.finish(batch, Instant::now());
    assert_eq!(pods(&applied), "a b c");
    let problems = desk.problems(&applied.snapshot, None);
    assert!(problems[0].complaint.reason.starts_with("has 10001 documents"), "{problems:?}");
    assert!(desk.next_job().is_none());
}

#[test]
fn what_a_file_said_before_it_was_gone_does_not_come_back() {
    let mut desk = begun(vec![small("s.yaml", &["a"])]);
    assert_eq!(take(&mut desk, vec![large("l.yaml", &["b"])]), None);
    let job = desk.next_job().unwrap();
    for reading in [large("s.yaml", &["c"]), gone("s.yaml"), too_many("s.yaml")] {
        assert_eq!(take(&mut desk, vec![reading]), None);
    }
    assert_eq!(pods(&desk.finish(job.read(), Instant::now())), "a b");
    assert_eq!(read_aside(&mut desk), "b");
}

#[test]
fn a_text_that_was_put_off_counts_although_a_later_one_is_refused() {
    let mut desk = begun(vec![policy("s.yaml", "old", "ALLOW")]);
    let now = Instant::now();
    desk.take(vec![policy("s.yaml", "old", "DNEY")], now).unwrap();
    let due = desk.next_deadline().unwrap();
    assert!(desk.take(vec![too_many("s.yaml")], now).is_none());
    assert_eq!(desk.next_deadline(), None, "before it is known what replaces it");
    let batch = desk.next_job().unwrap().read();
    assert_eq!(policies(&desk.finish(batch, now)), ["old Allow"]);
    assert_eq!(policies(&desk.take(Vec::new(), due).unwrap()), ["old Deny"]);
}

#[test]
fn nothing_may_come_into_force_before_every_file_was_read_once() {
    let mut desk = Desk::new(MeshSettings::default().into());
    let now = Instant::now();
    let mut is_whole = |readings| desk.take(readings, now).unwrap().is_whole;
    assert!(!is_whole(vec![small("s.yaml", &["a"]), refused("r.yaml"), refused("t.yaml")]));
    assert!(!is_whole(vec![small("r.yaml", &["b"])]));
    assert!(!is_whole(vec![small("s.yaml", &["c"])]));
    assert!(is_whole(vec![gone("t.yaml")]));
    assert!(
        is_whole(vec![refused("r.yaml"), refused("new.yaml")]),
        "from then on the last good state counts"
    );
}

#[test]
fn a_text_that_was_put_off_counts_although_its_file_cannot_be_read_since() {
    let mut desk = begun(vec![policy("s.yaml", "old", "ALLOW")]);
    let now = Instant::now();
    desk.take(vec![policy("s.yaml", "old", "DNEY")], now).unwrap();
    let applied = desk.take(vec![refused("s.yaml")], now).unwrap();
    assert_eq!(policies(&applied), ["old Allow"]);
    let due = desk.next_deadline().expect("it is put off still");
    let applied = desk.take(Vec::new(), due).unwrap();
    assert_eq!(policies(&applied), ["old Deny"]);
    let problems = desk.problems(&applied.snapshot, None);
    assert!(
        problems.iter().any(|problem| problem.complaint.reason.starts_with("it is no UTF-8")),
        "{problems:?}"
    );
}
