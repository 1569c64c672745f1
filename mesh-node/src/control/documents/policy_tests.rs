//! Policies that are not what they were meant to be: none of them is skipped, and none opens anything.

use mesh_common::model::MeshSettings;
use mesh_common::model::policy::{Action, Scope};

use super::*;

const HEAD: &str = "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: AuthorizationPolicy\n";
const PLACE: &str = "metadata: {name: admin, namespace: shop}\n";
const RULES: &str = "rules: [{to: [{operation: {paths: [/admin]}}]}]";

/// What a document is taken for: action and scope of each policy with a fault, and what is said of it.
fn taken_for(text: &str) -> (Vec<(Action, String)>, Vec<String>) {
    let document = Reader::new(MeshSettings::default().into()).document(text);
    let policies = document.objects.iter().map(|(key, claim)| {
        let (Claim::Good(Meaning::AuthorizationPolicy(policy))
        | Claim::Unreadable(Meaning::AuthorizationPolicy(policy))) = claim
        else {
            panic!("{text}: {claim:?}")
        };
        assert!(policy.fault.is_some(), "{text}: {policy:?}");
        assert!(policy.rules.is_empty(), "{text}: {policy:?}");
        assert_eq!(key.name, policy.name, "{text}");
        let scope = match &policy.scope {
            Scope::Mesh => "mesh".to_owned(),
            Scope::Namespace(namespace) => namespace.to_string(),
            Scope::Selector { namespace, labels } => format!("{namespace:?} {labels:?}"),
            Scope::Services(services) => format!("{services:?}"),
        };
        (policy.action.clone(), scope)
    });
    let policies = policies.collect();
    let mut complaints = document.complaints.iter();
    assert!(complaints.all(|complaint| complaint.effect == Effect::Denies), "{:?}", document.complaints);
    (policies, document.complaints.iter().map(ToString::to_string).collect())
}

#[track_caller]
fn check_denies(text: &str, namespaces: &[&str]) {
    let (policies, complaints) = taken_for(text);
    let expected: Vec<_> = namespaces.iter().map(|scope| (Action::Deny, (*scope).to_owned())).collect();
    assert_eq!(policies, expected, "{text}");
    assert!(!complaints.is_empty(), "{text}");
}

#[test]
fn a_deny_that_is_misspelt_denies() {
    for spec in [
        format!("spec: {{acton: DENY, {RULES}}}"),
        format!("spec: {{Action: DENY, {RULES}}}"),
        format!("spec: {{action: deny, {RULES}}}"),
        format!("spec: {{action: ALLOW, Action: DENY, {RULES}}}"),
        format!("action: DENY\nspec: {{{RULES}}}"),
        format!("spek: {{action: DENY, {RULES}}}"),
        format!("spec:\naction: DENY\n{RULES}"),
        format!("spec: {{action: ALLOW, action: DENY, {RULES}}}"),
        format!("spec: {{action: DENY, action: DENY, {RULES}}}"),
        format!("spec: {{action: DENY, {RULES}}}\nspec: {{}}"),
        "spec: {rules: [{action: DENY}]}".to_owned(),
        "spec: {rulez: []}".to_owned(),
        "spec: [".to_owned(),
        String::new(),
    ] {
        check_denies(&format!("{HEAD}{PLACE}{spec}\n"), &["shop"]);
    }
}

#[test]
fn a_deny_of_which_it_is_not_certain_where_it_stands_denies_wherever_it_might() {
    let spec = format!("spec: {{action: DENY, {RULES}}}\n");
    for (place, namespaces) in [
        ("metadata: {name: admin, namespce: shop}\n", &["default", "shop"][..]),
        ("metadata: {name: admin, Namespace: shop}\n", &["default", "shop"]),
        ("metadata: {name: admin}\nnamespace: shop\n", &["default", "shop"]),
        ("metdata: {name: admin, namespace: shop}\n", &["default", "shop"]),
        ("metadata: {name: admin, namespce: nodemesh-system}\n", &["default", "mesh"]),
        ("metadata: {name: admin, namespce: [shop]}\n", &["mesh"]),
        ("metadata: {name: admin, namespace: shop, namespace: other}\n", &["other", "shop"]),
        ("metadata: {name: admin, namespace: shop, name: admin}\n", &["shop"]),
        ("metadata: {name: admin, name: other}\n", &["mesh"]),
        ("metadata: {name: admin, labels: [}\n", &["mesh"]),
        ("metdata: [\n", &["mesh"]),
    ] {
        check_denies(&format!("{HEAD}{place}{spec}"), namespaces);
    }
}

#[test]
fn what_it_is_about_still_counts_where_it_is_certain() {
    let text = format!("{HEAD}{PLACE}spec: {{selector: {{matchLabels: {{app: web}}}}, acton: DENY}}\n");
    let (policies, _) = taken_for(&text);
    assert_eq!(policies, [(Action::Deny, "Some(\"shop\") {\"app\": \"web\"}".to_owned())]);
}

#[test]
fn where_it_counts_is_said() {
    let text = format!("{HEAD}metadata: {{name: admin, namespce: shop}}\nspec: {{action: DENY}}\n");
    assert_eq!(
        taken_for(&text).1,
        [
            "AuthorizationPolicy admin: metadata.namespce: unknown field: did you mean namespace?",
            "AuthorizationPolicy admin: metadata.namespace: is in doubt, so the policy counts in each of default, shop",
        ]
    );
}

#[test]
fn none_of_which_the_name_is_in_doubt_takes_the_place_of_another() {
    let text = "metadata: {name: admin, namespce: shop}\nspec: {action: DENY}\n";
    let document = Reader::new(MeshSettings::default().into()).document(&format!("{HEAD}{text}"));
    assert!(document.objects.iter().all(|(key, _)| key.name.name.starts_with("admin-unclear-")));
    let item =
        "{apiVersion: policy.nodemesh.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {namespace: shop}}";
    let list = format!("apiVersion: v1\nkind: List\nitems: [{item}, {item}]\n");
    assert_eq!(taken_for(&list).0.len(), 2, "two policies without a name are two policies");
}

#[test]
fn a_policy_without_action_that_is_understood_allows() {
    let text = format!("{HEAD}{PLACE}spec: {{{RULES}}}\n");
    let document = Reader::new(MeshSettings::default().into()).document(&text);
    let [(_, Claim::Good(Meaning::AuthorizationPolicy(policy)))] = &document.objects[..] else { panic!() };
    assert_eq!((policy.action.clone(), &policy.fault), (Action::Allow, &None));
}

#[test]
fn a_policy_of_another_group_or_kind_denies_and_says_what_to_write() {
    const VERSION: &str = "apiVersion: write apiVersion: policy.nodemesh.dev/v1alpha1";
    let own = "policy.nodemesh.dev/v1alpha1";
    for (version, kind, said) in [
        ("security.istio.io/v1", "AuthorizationPolicy", VERSION),
        ("security.istio.io/v1beta1", "AuthorizationPolicy", VERSION),
        ("policy.nodemsh.dev/v1alpha1", "AuthorizationPolicy", VERSION),
        ("policy.nodemesh.dev/v1", "AuthorizationPolicy", VERSION),
        ("v1", "AuthorizationPolicy", VERSION),
        (own, "AuthorizationPolcy", "kind: AuthorizationPolcy is not known: write kind: AuthorizationPolicy"),
        (
            own,
            "TrafficPolicy",
            "kind: TrafficPolicy is not known: write kind: AuthorizationPolicy or kind: PeerAuthentication or kind: RequestAuthentication",
        ),
    ] {
        let text = format!("apiVersion: {version}\nkind: {kind}\n{PLACE}spec: {{action: DENY, {RULES}}}\n");
        check_denies(&text, &["shop"]);
        assert_eq!(taken_for(&text).1, [format!("{kind} shop/admin: {said}")], "{text}");
    }
    let istio =
        format!("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n{PLACE}spec: {{{RULES}}}\n");
    assert_eq!(taken_for(&istio).0, [(Action::Allow, "shop".to_owned())], "it permits nothing");
    for head in [
        format!("apiVersion: {own}\n"),
        format!("ApiVersion: {own}\nKind: AuthorizationPolicy\n"),
        "apiVersion: policy.nodemesh.dev\nkind: Policy\n".to_owned(),
    ] {
        check_denies(&format!("{head}{PLACE}spec: {{{RULES}}}\n"), &["shop"]);
    }
}

#[test]
fn a_peer_authentication_of_another_group_or_kind_is_strict() {
    for head in [
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n",
        "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: PeerAuthentification\n",
    ] {
        let text = format!("{head}{PLACE}spec: {{mtls: {{mode: PERMISSIVE}}}}\n");
        let document = Reader::new(MeshSettings::default().into()).document(&text);
        let [(_, Claim::Good(Meaning::PeerAuthentication(policy)))] = &document.objects[..] else { panic!() };
        assert_eq!(policy.mode, Some(mesh_common::model::policy::MutualTls::Strict), "{text}");
        assert_eq!(document.complaints[0].effect, Effect::Denies, "{text}");
    }
}

#[test]
fn a_dry_run_that_is_neither_true_nor_false_is_enforced_and_reported() {
    let of = |value: &str| {
        let place = format!(
            "metadata: {{name: admin, namespace: shop, annotations: {{istio.io/dry-run: {value:?}}}}}\n"
        );
        let document = Reader::new(MeshSettings::default().into())
            .document(&format!("{HEAD}{place}spec: {{{RULES}}}\n"));
        let complaints: Vec<_> = document.complaints.iter().map(ToString::to_string).collect();
        complaints
    };
    assert_eq!((of("true"), of("false")), (vec![], vec![]));
    assert_eq!(
        of("True"),
        [
            "AuthorizationPolicy shop/admin: metadata.annotations[istio.io/dry-run]: \"True\" is neither \"true\" nor \"false\": the policy is enforced"
        ]
    );
}
