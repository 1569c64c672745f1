//! Laws of the store: what the files say counts, not how they came to say it. Only what is refused looks back: it
//! leaves in force what was.

use std::collections::BTreeMap;

use mesh_common::model::MeshSettings;
use mesh_common::snapshot::Snapshot;
use proptest::prelude::*;

use super::*;
use crate::control::reconciler::Reconciler;

/// A folder that is read one change after the other.
struct World {
    store: Store,
    reconciler: Reconciler,
}

impl World {
    fn new() -> Self {
        let settings = Arc::new(MeshSettings::default());
        Self { store: Store::new(Reader::new(Arc::clone(&settings))), reconciler: Reconciler::new(settings) }
    }

    fn write(&mut self, file: &str, text: Option<&str>) {
        match text {
            Some(text) => {
                let text = self.store.reader(file).read(text).unwrap();
                self.store.put(&file.into(), text);
            }
            None => self.store.remove(file),
        }
        let changes = self.store.changes();
        self.reconciler.apply(changes);
    }

    fn snapshot(&mut self) -> Snapshot {
        self.reconciler.snapshot()
    }
}

/// One of a few objects, in one of a few states: names and addresses collide on purpose. None is refused: a broken
/// policy denies, whatever was.
fn object() -> impl Strategy<Value = String> {
    (0..9u8, 0..3u8, 0..3u8).prop_map(|(kind, name, state)| match kind {
        0 => format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: n{name}, labels: {{{}}}}}\n", ["nodemesh.dev/mode: enabled", "nodemesh.dev/mode: disabled", "team: shop"][usize::from(state)]),
        1 => format!("apiVersion: v1\nkind: Node\nmetadata: {{name: node{name}, labels: {{topology.kubernetes.io/zone: z{state}}}}}\nstatus: {{addresses: [{{type: InternalIP, address: 192.168.0.{name}}}]}}\n"),
        2..=4 => format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p{name}, namespace: n{}, labels: {{app: a{state}}}}}\nspec: {{nodeName: node{name}}}\nstatus: {{podIP: 10.0.0.{state}}}\n", kind % 2),
        5 => format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s{name}, namespace: n{}}}\nspec: {{clusterIP: 10.96.0.{name}, selector: {{app: a{state}}}, ports: [{{port: 80}}]}}\n", state % 2),
        6 => format!("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: e{name}, namespace: n1, labels: {{kubernetes.io/service-name: s{state}}}}}\naddressType: IPv4\nports: [{{port: 80}}]\nendpoints: [{{addresses: [10.0.0.{state}]}}]\n"),
        7 => format!("apiVersion: policy.nodemesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: a{name}, namespace: n0}}\nspec: {{{}}}\n", ["selector: {matchLabels: {app: a0}}", "action: DENY, rules: [{}]", "actio: DENY"][usize::from(state)]),
        _ => format!("apiVersion: policy.nodemesh.dev/v1alpha1\nkind: PeerAuthentication\nmetadata: {{name: m{name}, namespace: n{}}}\nspec: {{mtls: {{mode: {}}}}}\n", state % 2, ["STRICT", "PERMISSIVE", "WRONG"][usize::from(state)]),
    })
}

fn file() -> impl Strategy<Value = String> {
    proptest::collection::vec(object(), 0..4).prop_map(|objects| objects.join("---\n"))
}

fn history() -> impl Strategy<Value = Vec<(u8, Option<String>)>> {
    proptest::collection::vec((0..5u8, proptest::option::weighted(0.8, file())), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However a folder of files that are not refused came to be as it is, it means the same as when it is read at
    /// once.
    #[test]
    fn any_history_of_a_folder_gives_the_same_snapshot(history in history()) {
        let mut lived = World::new();
        let mut files = BTreeMap::new();
        for (file, text) in &history {
            let file = format!("{file}.yaml");
            lived.write(&file, text.as_deref());
            match text {
                Some(text) => drop(files.insert(file, text.clone())),
                None => drop(files.remove(&file)),
            }
        }
        let mut forward = World::new();
        for (file, text) in &files {
            forward.write(file, Some(text));
        }
        let mut backward = World::new();
        for (file, text) in files.iter().rev() {
            backward.write(file, Some(text));
        }
        prop_assert!(forward.snapshot().says_the_same_as(&backward.snapshot()));
        prop_assert!(lived.snapshot().says_the_same_as(&forward.snapshot()));
        let problems = |world: &World| {
            let mut problems = world.store.problems();
            // That a file is empty and was not is no matter of what the files say.
            problems.retain(|problem| problem.place.document > 0);
            problems.sort();
            problems
        };
        prop_assert_eq!(problems(&forward), problems(&backward));
        prop_assert_eq!(problems(&lived), problems(&forward));
    }

    /// Nothing that a file says, YAML or not, ends the reader.
    #[test]
    fn any_text_is_survived(text in "[ -~\n\t]{0,200}") {
        World::new().write("a.yaml", Some(&text));
    }
}

#[test]
fn an_unchanged_document_is_not_read_again() {
    let mut world = World::new();
    let pod = |name: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n");
    world.write("a.yaml", Some(&format!("{}---\n{}", pod("a"), pod("b"))));
    let before: Vec<_> =
        world.store.files["a.yaml"].documents.iter().map(|placed| Arc::clone(&placed.document)).collect();
    let text = format!("# more\n{}---\n{}---\n{}", pod("a"), pod("b"), pod("c"));
    let text = world.store.reader("a.yaml").read(&text).unwrap();
    world.store.put(&"a.yaml".into(), text);
    let after = &world.store.files["a.yaml"].documents;
    assert!(Arc::ptr_eq(&before[1], &after[1].document));
    assert_eq!(world.store.changes().len(), 1, "the new pod is the one change");
}

#[test]
fn a_broken_document_moves_nothing_that_another_file_says() {
    let mut world = World::new();
    let pod = |address: &str| {
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nstatus: {{podIP: {address}}}\n")
    };
    world.write("a.yaml", Some(&pod("10.0.0.1")));
    world.write("b.yaml", Some(&pod("10.0.0.2")));
    world.write("b.yaml", Some("kind: ["));
    assert!(world.snapshot().workload_at("10.0.0.1".parse().unwrap()).is_some(), "the good claim counts");
    world.write("a.yaml", None);
    assert!(
        world.snapshot().workload_at("10.0.0.1".parse().unwrap()).is_some(),
        "it may stand in the broken one"
    );
    world.write("b.yaml", None);
    assert_eq!(world.snapshot().workloads().count(), 0);
}

#[test]
fn a_policy_that_is_no_yaml_denies_until_it_is_mended() {
    let mut world = World::new();
    let head = "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata:\n  name: a\n  namespace: shop\n";
    world.write("a.yaml", Some(&format!("{head}spec: [\n")));
    let fault = |world: &mut World| {
        let snapshot = world.snapshot();
        let policies: Vec<_> = snapshot.authorization_policies().cloned().collect();
        assert_eq!(policies.len(), 1);
        policies[0].fault.is_some()
    };
    assert!(fault(&mut world));
    assert_eq!(world.store.problems()[0].complaint.effect, Effect::Denies);
    world.write("a.yaml", Some(&format!("{head}spec: {{}}\n")));
    assert!(!fault(&mut world));
    world.write("a.yaml", Some(&format!("{head}spec: [\n")));
    assert!(!fault(&mut world), "what was in force stays");
    assert_eq!(world.store.problems()[0].complaint.effect, Effect::LastGoodKept);
}

#[test]
fn only_a_file_that_was_good_would_deny_for_the_first_time() {
    let mut world = World::new();
    let policy = |spec: &str| {
        format!(
            "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: a}}\nspec: {spec}\n"
        )
    };
    let (good, wrong, broken) = (policy("{}"), policy("{rule: []}"), policy("["));
    let would_deny = |world: &World, text: &str| {
        world.store.would_deny("a.yaml", &world.store.reader("a.yaml").read(text).unwrap())
    };
    assert!(!would_deny(&world, &wrong), "nothing is kept of a new file");
    world.write("a.yaml", Some(&good));
    assert!(would_deny(&world, &wrong));
    assert!(would_deny(&world, &broken));
    assert!(!would_deny(&world, &policy("{action: DENY}")));
    assert!(!would_deny(&world, "kind: ["), "what is no policy denies nothing");
    world.write("a.yaml", Some(&wrong));
    assert!(!would_deny(&world, &broken), "it denies already");
}

#[test]
fn a_list_of_policies_that_is_no_yaml_denies_unless_it_was_good_before() {
    let mut world = World::new();
    let list = |end: &str| {
        format!(
            "apiVersion: v1\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {{name: x}}\n- apiVersion: policy.nodemesh.dev/v1alpha1\n  kind: AuthorizationPolicy\n  metadata: {{name: a, namespace: shop}}\n  spec: {end}\nkind: List\n"
        )
    };
    let faults = |world: &mut World| -> Vec<bool> {
        world.snapshot().authorization_policies().map(|policy| policy.fault.is_some()).collect()
    };
    world.write("a.yaml", Some(&list("[")));
    assert_eq!(faults(&mut world), [true]);
    assert_eq!(world.store.problems()[0].complaint.effect, Effect::Denies);
    world.write("a.yaml", Some(&list("{[")));
    assert_eq!(faults(&mut world), [true], "the text before is not kept beside it");
    assert_eq!(world.store.problems()[0].complaint.effect, Effect::Denies, "nor for the better");
    world.write("a.yaml", Some(&list("{}")));
    assert_eq!(faults(&mut world), [false]);
    world.write("a.yaml", Some(&list("[")));
    assert_eq!(faults(&mut world), [false], "what was in force stays");
    assert_eq!(world.store.problems()[0].complaint.effect, Effect::LastGoodKept);
    world.write("b.yaml", Some(&list("[")));
    assert_eq!(faults(&mut world).len(), 2, "the other file was never good");
}

#[test]
fn a_broken_policy_denies_whatever_else_its_file_keeps() {
    let mut world = World::new();
    let peer = "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: PeerAuthentication\n\
                metadata: {name: x, namespace: shop}\nspec: {}\n";
    let broken = "---\napiVersion: policy.nodemesh.dev/v1alpha1\nkind: AuthorizationPolicy\n\
                  metadata: {name: new, namespace: bank}\nspec: [\n";
    world.write("f.yaml", Some(peer));
    world.write("f.yaml", Some(broken));
    let policies: Vec<_> = world.snapshot().authorization_policies().cloned().collect();
    assert!(policies.iter().any(|policy| policy.fault.is_some()), "{policies:?}");
}

#[test]
fn a_file_of_too_many_objects_is_refused_however_they_are_written() {
    let pod = |index: usize| format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p{index}}}}}");
    let documents =
        |count: usize| (0..count).map(|index| format!("---\n{}\n", pod(index))).collect::<String>();
    let list = |count: usize| {
        let items: Vec<String> = (0..count).map(pod).collect();
        format!("{{apiVersion: v1, kind: List, items: [{}]}}", items.join(", "))
    };
    let store = Store::new(Reader::new(Arc::default()));
    let read = |text: &str| store.reader("a.yaml").read(text).map(|text| text.documents.len());
    assert_eq!(read(&documents(MAX_OBJECTS)), Ok(MAX_OBJECTS));
    let refused = |text: &str| read(text).unwrap_err().reason().to_owned();
    assert_eq!(
        refused(&documents(MAX_OBJECTS + 1)),
        "has 10001 documents, at most 10000 of one file are read: split it into several files"
    );
    assert_eq!(read(&list(MAX_OBJECTS)), Ok(1));
    assert!(refused(&list(MAX_OBJECTS + 1)).starts_with("has 10001 objects, "));
}
