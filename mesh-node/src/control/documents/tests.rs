//! Good and bad documents, and what is said of them.

use mesh_common::model::MeshSettings;
use mesh_common::model::policy::{Action, Scope};

use super::*;
use crate::control::object::Kind;

fn read(text: &str) -> Document {
    Reader::new(MeshSettings::default().into()).document(text)
}

/// Every complaint as `LINE EFFECT text`.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let document = read(text);
    let complaint =
        |complaint: &Complaint| format!("{} {} {complaint}", complaint.line, complaint.effect.code());
    let actual: Vec<_> = document.complaints.iter().map(complaint).collect();
    assert_eq!(actual, expected, "{text}");
}

fn policy(text: &str) -> mesh_common::model::AuthorizationPolicy {
    match &read(text).objects[..] {
        [
            (
                _,
                Claim::Good(Meaning::AuthorizationPolicy(policy))
                | Claim::Unreadable(Meaning::AuthorizationPolicy(policy)),
            ),
        ] => (**policy).clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_unknown_field_is_named_with_its_line() {
    check(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels: {app: web}\n  label: {}\nspec:\n  containers:\n    - name: c\n      imagee: x\n      ports: [{containerPort: 1, prot: TCP}]\n",
        &[
            "6 not_in_force Pod a: metadata.label: unknown field: did you mean labels?",
            "10 not_in_force Pod a: spec.containers[0].imagee: unknown field: did you mean image?",
            "11 not_in_force Pod a: spec.containers[0].ports[0].prot: unknown field: there are containerPort, hostIP, hostPort, name, protocol",
        ],
    );
}

#[test]
fn an_unknown_field_of_a_policy_makes_it_deny() {
    let text = "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata:\n  name: a\n  namespace: shop\nspec:\n  selector:\n    matchLabels: {app: web}\n  rules:\n    - from:\n        - source:\n            principal: [x]\n";
    check(
        text,
        &[
            "12 denies AuthorizationPolicy shop/a: spec.rules[0].from[0].source.principal: unknown field: did you mean principals?",
        ],
    );
    let policy = policy(text);
    assert_eq!(policy.action, Action::Allow);
    assert!(matches!(policy.scope, Scope::Selector { .. }));
    assert_eq!(policy.fault.as_ref().unwrap().field, "spec.rules[0].from[0].source.principal");
}

#[test]
fn a_policy_of_an_unknown_action_denies_as_a_deny_would() {
    let text = "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: shop}\nspec: {action: REDIRECT, rules: [{}]}\n";
    check(
        text,
        &[
            "4 denies AuthorizationPolicy shop/a: spec.action: unknown variant `REDIRECT`, expected one of `ALLOW`, `DENY`, `AUDIT`, `CUSTOM`",
        ],
    );
    let policy = policy(text);
    assert_eq!((policy.action, policy.scope), (Action::Deny, Scope::Namespace("shop".into())));
    assert!(policy.fault.is_some());
}

#[test]
fn a_policy_whose_selector_is_not_understood_is_about_all_it_might_be() {
    let text = "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: nodemesh-system}\nspec: {selector: [app]}\n";
    let policy = policy(text);
    assert_eq!((policy.action, policy.scope), (Action::Allow, Scope::Mesh));
}

#[test]
fn a_policy_of_another_version_or_of_none_denies() {
    for version in ["apiVersion: policy.nodemesh.dev/v1\n", ""] {
        let text = format!("{version}kind: AuthorizationPolicy\nmetadata: {{name: a}}\nspec: {{}}\n");
        assert_eq!(policy(&text).fault.unwrap().field, "apiVersion", "{text}");
    }
}

#[test]
fn a_policy_without_a_name_denies_all_the_same() {
    let text = "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {namespace: shop}\nspec: {}\n";
    let policy = policy(text);
    assert_eq!(policy.fault.unwrap().field, "metadata.name");
    assert!(policy.name.name.starts_with("unnamed-"));
}

#[test]
fn a_bad_peer_authentication_is_strict() {
    let text = "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: PeerAuthentication\nmetadata: {name: a, namespace: shop}\nspec: {mtls: {mode: strict}}\n";
    check(
        text,
        &[
            "4 denies PeerAuthentication shop/a: spec.mtls.mode: unknown variant `strict`, expected one of `UNSET`, `DISABLE`, `PERMISSIVE`, `STRICT`",
        ],
    );
    let document = read(text);
    let [(_, Claim::Good(Meaning::PeerAuthentication(policy)))] = &document.objects[..] else { panic!() };
    assert_eq!(policy.mode, Some(mesh_common::model::policy::MutualTls::Strict));
}

#[test]
fn a_wrong_type_is_named_with_its_line() {
    check(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: shop\nspec:\n  ports:\n    - port: \"80\"\n",
        &["8 not_in_force Service shop/web: spec.ports[0].port: invalid type: string \"80\", expected i32"],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n    example.com/x: 1\n",
        &[
            "6 not_in_force Pod a: metadata.labels[example.com/x]: invalid type: integer `1`, expected a string",
        ],
    );
}

#[test]
fn what_translation_finds_is_named_with_its_line() {
    check(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\nstatus:\n  podIPs:\n    - ip: 10.0.0.1\n    - ip: 10.0.0\n",
        &["8 not_in_force Pod a: status.podIPs[1].ip: \"10.0.0\" is not an IP address"],
    );
}

#[test]
fn what_is_no_object_is_named() {
    check("just text\n", &["1 not_in_force is not an object with apiVersion and kind"]);
    check("- a\n", &["1 not_in_force is not an object with apiVersion and kind"]);
    check("a: 1\n", &["1 not_in_force kind: is missing, or is not text"]);
    check("kind: Pod\n", &["1 not_in_force Pod: apiVersion: is missing, or is not text"]);
    check(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\n",
        &["2 not_read Deployment shop/web: kind: Deployment of apps/v1 is not read"],
    );
    check(
        "apiVersion: v1\nkind: Service\nspec: {}\n",
        &["1 not_in_force Service: metadata.name: is missing"],
    );
}

#[test]
fn nothing_is_said_of_what_is_empty() {
    check("# only words\n", &[]);
    check("---\n", &[]);
}

#[test]
fn a_list_is_its_items() {
    let text = "apiVersion: v1\nkind: List\nitems:\n  - apiVersion: v1\n    kind: Namespace\n    metadata: {name: shop}\n  - apiVersion: v1\n    kind: Pod\n    metadata:\n      name: a\n      bogus: 1\n  - apiVersion: v1\n    kind: Namespace\n    metadata: {name: shop}\n";
    check(
        text,
        &[
            "11 not_in_force Pod a: items[1].metadata.bogus: unknown field",
            "14 warning Namespace shop: items[2].metadata.name: Namespace shop stands twice in this document; the last one counts",
        ],
    );
    let kinds: Vec<_> = read(text).objects.into_iter().map(|(key, _)| key.kind).collect();
    assert_eq!(kinds, [Kind::Namespace, Kind::Pod, Kind::Namespace]);
}

#[test]
fn json_is_read_too() {
    let text = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Namespace\",\n\t\"metadata\": {\"name\": \"shop\", \"x\": 1}\n}\n";
    check(text, &["4 not_in_force Namespace shop: metadata.x: unknown field"]);
}

#[test]
fn text_that_is_no_yaml_is_named_with_its_line() {
    let document = read("apiVersion: v1\nkind: Pod\nmetadata:\n  name: [a\n");
    assert!(!document.is_readable);
    assert_eq!(document.complaints.len(), 1);
    let complaint = &document.complaints[0];
    assert_eq!(complaint.effect, Effect::NotInForce, "{complaint}");
    assert!((4..=5).contains(&complaint.line), "{complaint:?}");
    assert!(document.objects.is_empty());
}

#[test]
fn a_key_that_stands_twice_is_refused() {
    let document = read("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  name: b\n");
    assert!(!document.is_readable);
    assert_eq!(document.complaints[0].line, 5, "{:?}", document.complaints);
    assert_eq!(document.complaints[0].reason, "\"name\" stands twice");
}

#[test]
fn a_policy_that_is_no_yaml_denies_unless_another_state_is_in_force() {
    let text = "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata:\n  name: web\n  namespace: shop\nspec:\n  rules: [\n";
    let document = read(text);
    let [(key, Claim::Unreadable(Meaning::AuthorizationPolicy(policy)))] = &document.objects[..] else {
        panic!("{document:?}")
    };
    assert_eq!(key.to_string(), "AuthorizationPolicy shop/web");
    assert_eq!((policy.action.clone(), &policy.scope), (Action::Deny, &Scope::Namespace("shop".into())));
    assert_eq!(document.complaints[0].effect, Effect::Denies);
}

#[test]
fn a_reason_has_nothing_that_a_terminal_obeys_and_no_escape_of_an_escape() {
    let reason = |text: &str| read(text).complaints.remove(0).reason;
    let said = reason("a: \u{7f}\n");
    assert!(said.contains("\\u{7f}") && !said.contains("\\\\"), "{said}");
    assert!(!reason("kind: Pod\n\u{1b}[2Jx: [\n").contains('\u{1b}'));
}

#[test]
fn a_name_that_is_no_text_is_not_taken_for_one() {
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: true, namespace: shop}\n",
        &["3 not_in_force Pod: metadata.name: invalid type: boolean `true`, expected a string"],
    );
}

#[test]
fn aliases_may_share_but_not_explode() {
    let shared =
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels: &l {app: web}\n  annotations: *l\n";
    check(shared, &[]);
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = format!("*a{}, ", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    let started = std::time::Instant::now();
    let document = read(&bomb);
    assert!(!document.is_readable);
    // Written out it has 10^12 entries; what is read takes a second on a machine that does nothing else.
    assert!(started.elapsed() < std::time::Duration::from_secs(40), "{:?}", started.elapsed());
}

#[test]
fn nesting_is_bounded() {
    for open in ["[", "{a: ", "- ", "? "] {
        for depth in [20, 30, 32, 33, 64, 100_000] {
            let document = read(&open.repeat(depth));
            assert!(!document.complaints.is_empty(), "{open} {depth}");
        }
    }
}

/// The code blocks of the guide that are YAML, with the words behind `yaml`.
fn examples(text: &str) -> Vec<(&str, &str)> {
    let mut examples = Vec::new();
    let mut rest = text;
    while let Some((_, block)) = rest.split_once("```yaml") {
        let (words, block) = block.split_once('\n').unwrap();
        let (example, after) = block.split_once("```").unwrap();
        examples.push((words.trim(), example));
        rest = after;
    }
    examples
}

#[test]
fn the_examples_of_the_policy_guide_are_read() {
    let guide = include_str!("../../../../docs/policy-guide.md");
    let reader = Reader::new(MeshSettings::default().into());
    let examples = examples(guide);
    assert!(examples.len() >= 5);
    for (words, example) in examples {
        let complaints: Vec<Complaint> = documents(example)
            .into_iter()
            .flat_map(|chunk| {
                let document = reader.document(chunk.text);
                assert!(!document.objects.is_empty());
                document.complaints
            })
            .collect();
        if words == "wrong" {
            let [complaint] = &complaints[..] else { panic!("{complaints:?}") };
            assert_eq!(complaint.effect, Effect::Denies);
            let said =
                format!(":{} (document 1): {complaint} ({})\n", complaint.line, complaint.effect.code());
            assert!(guide.contains(&said), "{said}");
        } else {
            assert_eq!(complaints, [], "{example}");
        }
    }
}

#[test]
fn the_samples_are_read() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/samples");
    let mut count = 0;
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    // What is below is an application for a cluster.
    for file in files.filter(|path| path.is_file()) {
        let text = std::fs::read_to_string(file).unwrap();
        check(&text, &[]);
        count += read(&text).objects.len();
    }
    assert!(count >= 7);
}

#[test]
fn what_denies_is_said_however_much_else_is_wrong() {
    let policy = "{apiVersion: policy.nodemesh.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {name: a, namespace: shop}, sepc: {}}";
    let text = format!("apiVersion: v1\nkind: List\nitems: [{}{policy}]\n", "x, ".repeat(1000));
    let complaints = read(&text).complaints;
    let (others, denying) = complaints.split_at(100);
    assert!(others.iter().all(|complaint| complaint.effect == Effect::NotInForce), "{complaints:?}");
    assert!(!denying.is_empty() && denying.iter().all(|complaint| complaint.effect == Effect::Denies));
}

#[test]
fn what_a_file_says_at_length_is_said_again_in_short() {
    let long = "ä".repeat(100_000);
    let texts = [
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {long}, {long}: 1}}\nspec: {{nodeName: [{long}]}}\n"
        ),
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{ports: {long}}}\n"),
        format!("{long}: 1\n{long}: 2\n"),
        format!("apiVersion: {long}\nkind: {long}\n"),
    ];
    for text in texts {
        let complaints = read(&text).complaints;
        assert!(!complaints.is_empty());
        assert!(complaints.iter().all(|complaint| complaint.to_string().len() < 8192), "{text:.100}");
    }
}
