//! What is said of objects that are wrong together, and in which order.

use std::time::Instant;

use mesh_common::model::MeshSettings;

use super::desk::{Applied, Desk};
use super::documents::Problem;
use super::metrics::Metrics;
use super::object::Kind;
use super::translate::Effect;
use super::watch_dir::{Content, Reading};
use crate::telemetry::registry::Registry;

const POLICY: &str = "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: AuthorizationPolicy\n";

/// What is said of a folder of one file, as `EFFECT text`.
fn said(documents: &[String]) -> Vec<String> {
    let (_, problems) = read(&documents.join("---\n"));
    problems.iter().map(|problem| format!("{} {problem}", problem.complaint.effect.code())).collect()
}

fn read(text: &str) -> (Applied, Vec<Problem>) {
    let mut desk = Desk::new(MeshSettings::default().into());
    let reading = Reading { file: "a.yaml".into(), content: Content::Text(text.to_owned()) };
    let applied = desk.take(vec![reading], Instant::now()).unwrap();
    let problems = desk.problems(&applied.snapshot, None);
    (applied, problems)
}

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{clusterIP: 10.96.0.1, ports: [{{port: {port}}}]}}\n"
    )
}

fn pod(name: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: web}}}}\nstatus: {{podIP: {address}}}\n"
    )
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "{POLICY}metadata: {{name: {name}, namespace: shop}}\nspec: {{action: DENY, rules: [{{}}], {spec}}}\n"
    )
}

fn peer_authentication(name: &str, created: &str, mode: &str) -> String {
    format!(
        "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: shop{created}}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
    )
}

#[test]
fn services_with_one_address_name_each_other() {
    assert_eq!(
        said(&[service("a", 80), service("b", 80), service("c", 81)]),
        [
            "field_ignored a.yaml:4 (document 1): Service shop/a: spec.clusterIP: 10.96.0.1:80 is also that of Service shop/b: every connection to it is reset",
            "field_ignored a.yaml:9 (document 2): Service shop/b: spec.clusterIP: 10.96.0.1:80 is also that of Service shop/a: every connection to it is reset",
        ]
    );
}

#[test]
fn pods_with_one_address_name_each_other() {
    let said = said(&[pod("a", "10.0.0.1"), pod("b", "10.0.0.1"), pod("c", "10.0.0.2")]);
    assert_eq!(said.len(), 2, "{said:?}");
    assert_eq!(
        said[0],
        "field_ignored a.yaml:4 (document 1): Pod shop/a: status.podIP: 10.0.0.1 is also that of Pod shop/b: nobody is known by it"
    );
}

#[test]
fn what_is_wrong_beside_another_object_stands_at_its_field() {
    let pods = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a}\n  status:\n    podIPs:\n    - ip: 10.0.0.1\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: b}\n  status:\n    podIP: 10.0.0.1\n";
    let said = said(&["# head\n".to_owned(), pods.to_owned()]);
    assert_eq!(
        said,
        [
            "field_ignored a.yaml:10 (document 1): Pod default/a: items[0].status.podIPs: 10.0.0.1 is also that of Pod default/b: nobody is known by it",
            "field_ignored a.yaml:16 (document 1): Pod default/b: items[1].status.podIP: 10.0.0.1 is also that of Pod default/a: nobody is known by it",
        ]
    );
}

#[test]
fn peer_authentications_of_one_scope_name_each_other() {
    let reasons = |created: [&str; 2]| {
        let files = [
            pod("a", "10.0.0.1"),
            peer_authentication("a", created[0], "PERMISSIVE"),
            peer_authentication("b", created[1], "STRICT"),
        ];
        let said = said(&files);
        let ends = said.iter().map(|text| text.split_once("same workloads as ").unwrap().1.to_owned());
        ends.collect::<Vec<_>>()
    };
    let tied = "no age ranks them, so the stricter mode of each port counts";
    let expected =
        [format!("PeerAuthentication shop/b: {tied}"), format!("PeerAuthentication shop/a: {tied}")];
    let [older, younger] =
        [", creationTimestamp: 2024-01-01T00:00:00Z", ", creationTimestamp: 2024-01-02T00:00:00Z"];
    for created in [["", ""], [older, older], [older, ""], ["", older]] {
        assert_eq!(reasons(created), expected, "{created:?}");
    }
    assert_eq!(
        reasons([older, younger]),
        [
            "PeerAuthentication shop/b: this one is the oldest and counts",
            "PeerAuthentication shop/a: an older one counts, this one does not",
        ]
    );
    let elsewhere = |text: String| text.replace("namespace: shop", "namespace: other");
    let apart = [
        pod("a", "10.0.0.1"),
        elsewhere(pod("b", "10.0.0.2")),
        peer_authentication("a", "", "STRICT"),
        elsewhere(peer_authentication("c", "", "STRICT")),
    ];
    assert_eq!(said(&apart), Vec::<String>::new());
}

#[test]
fn peer_authentications_that_share_a_pod_name_each_other() {
    let labels = |text: String, labels: &str| text.replace("app: web", labels);
    let selecting = |name: &str, created: &str, mode: &str, label: &str| {
        let selector = format!("spec: {{selector: {{matchLabels: {{{label}}}}}, mtls");
        peer_authentication(name, created, mode).replace("spec: {mtls", &selector)
    };
    let reasons = |created: [&str; 2]| {
        let files = [
            labels(pod("a", "10.0.0.1"), "app: web, tier: front"),
            labels(pod("b", "10.0.0.2"), "app: web"),
            labels(pod("c", "10.0.0.3"), "tier: front"),
            selecting("a", created[0], "PERMISSIVE", "app: web"),
            selecting("b", created[1], "STRICT", "tier: front"),
        ];
        let (applied, problems) = read(&files.join("---\n"));
        let pod = applied.snapshot.workload_at("10.0.0.1".parse().unwrap()).unwrap();
        let counts = applied.snapshot.peer_authentications(&pod.uid).unwrap().workload.unwrap();
        let said: Vec<_> = problems.iter().map(|problem| problem.complaint.to_string()).collect();
        (counts.name.name.to_string(), said)
    };
    let said = |policy: &str, other: &str, outcome: &str| {
        format!(
            "PeerAuthentication shop/{policy}: spec.selector: Pod shop/a is also selected by PeerAuthentication shop/{other}: {outcome}"
        )
    };
    let tied = "no age ranks them, so the stricter mode of each port counts there";
    assert_eq!(reasons(["", ""]), ("b".to_owned(), vec![said("a", "b", tied), said("b", "a", tied)]));
    let [older, younger] =
        [", creationTimestamp: 2024-01-01T00:00:00Z", ", creationTimestamp: 2024-01-02T00:00:00Z"];
    let counts = "this one is older and counts there";
    let yields = "that one is older and counts there, this one does not";
    assert_eq!(
        reasons([older, younger]),
        ("a".to_owned(), vec![said("a", "b", counts), said("b", "a", yields)])
    );
}

/// Where each of them is compared with each other for every pod, this takes longer than anybody waits for an edit.
#[test]
fn many_peer_authentications_of_many_pods_are_compared_only_so_often() {
    let label = |index: usize| format!("l{index}: x");
    let labels: Vec<String> = (0..100).map(label).collect();
    let pods = (0..200).map(|index| {
        // Each pod is selected by another group of them.
        let own = labels.iter().enumerate().filter(|(other, _)| *other != index % 100 || index < 100);
        let own: Vec<&str> = own.map(|(_, label)| &**label).collect();
        pod(&format!("p{index}"), "10.0.0.1")
            .replace("app: web", &format!("n: \"{index}\", {}", own.join(", ")))
    });
    let policies = labels.iter().enumerate().map(|(index, label)| {
        let spec = format!("spec: {{selector: {{matchLabels: {{{label}}}}}, mtls");
        peer_authentication(&format!("a{index:02}"), "", "STRICT").replace("spec: {mtls", &spec)
    });
    let (_, problems) = read(&pods.chain(policies).collect::<Vec<_>>().join("---\n"));
    let of = |text: &str| problems.iter().filter(|problem| problem.complaint.reason.contains(text)).count();
    assert_eq!(of("is also selected by"), 100, "each is said once");
    assert_eq!(of("were not all compared"), 1);
}

#[test]
fn a_policy_about_nobody_says_so() {
    let targets = |name: &str| format!("targetRefs: [{{kind: Service, name: {name}}}]");
    let labels = |name: &str| format!("selector: {{matchLabels: {{app: {name}}}}}");
    let good =
        [pod("a", "10.0.0.1"), service("a", 80), policy("x", &targets("a")), policy("z", &labels("web"))];
    assert_eq!(said(&good), Vec::<String>::new());
    assert_eq!(
        said(&[pod("a", "10.0.0.1"), policy("x", &targets("b")), policy("z", &labels("wbe"))]),
        [
            "warning a.yaml:9 (document 2): AuthorizationPolicy shop/x: spec.targetRefs[0].name: there is no Service shop/b: the policy protects nothing there",
            "warning a.yaml:14 (document 3): AuthorizationPolicy shop/z: spec.selector.matchLabels: no pod has these labels: the policy is about nobody",
        ]
    );
}

#[test]
fn a_policy_in_a_namespace_without_pods_says_so() {
    let alone = policy("x", "").replace("namespace: shop", "namespace: shpo");
    assert_eq!(
        said(&[pod("a", "10.0.0.1"), alone]),
        [
            "warning a.yaml:8 (document 2): AuthorizationPolicy shpo/x: metadata.namespace: no pod is in namespace shpo: the policy is about nobody"
        ]
    );
    assert_eq!(said(&[pod("a", "10.0.0.1"), policy("x", "")]), Vec::<String>::new());
}

#[test]
fn what_denies_stands_first_and_all_is_counted() {
    let text = "apiVersion: apps/v1\nkind: Deployment\n---\n".repeat(1200)
        + &policy("x", "rulez: []")
        + "---\n"
        + &policy("z", "selector: {matchLabels: {app: none}}");
    let (applied, problems) = read(&text);
    assert_eq!(problems.len(), 1202);
    let effects = [0, 1, 2].map(|index| problems[index].complaint.effect);
    assert_eq!(effects, [Effect::Denies, Effect::Warning, Effect::NotRead]);
    assert!(problems[2..].is_sorted(), "the rest stands by file and line");
    let registry = Registry::new();
    Metrics::new(&registry).unwrap().observe(&applied.objects, &problems, 1, std::time::Duration::ZERO);
    let metrics = registry.render().unwrap();
    for line in ["{effect=\"denies\"} 1\n", "{effect=\"not_read\"} 1200\n"] {
        assert!(metrics.contains(&format!("nodemesh_control_problems{line}")), "{metrics}");
    }
}

#[test]
fn a_service_that_leads_nowhere_says_why_until_it_does() {
    let service = |selector: &str, target: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec:\n  selector: {{{selector}}}\n  ports: [{{port: 80, targetPort: {target}}}]\n"
        )
    };
    let with_port = pod("a", "10.0.0.1")
        + "spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}\n";
    let said = |service: String| said(&[service, with_port.clone()]);
    assert_eq!(
        said(service("app: wbe", "http")),
        [
            "warning a.yaml:5 (document 1): Service shop/web: spec.selector: no pod of namespace shop has these labels: the Service leads nowhere"
        ]
    );
    assert_eq!(
        said(service("app: web", "htpp")),
        [
            "warning a.yaml:6 (document 1): Service shop/web: spec.ports: targetPort htpp of port 80 is the name of no container port of its pods: they name http"
        ]
    );
    for good in [service("app: web", "http"), service("app: web", "9"), service("", "http")] {
        assert_eq!(said(good), [""; 0]);
    }
    let portless =
        |cluster_ip: &str| service("app: web", "1").replace("ports: [{port: 80, targetPort: 1}]", cluster_ip);
    assert_eq!(said(portless("clusterIP: None")), [""; 0], "DNS alone needs no port");
    let wrong = said(portless("clusterIP: 10.96.0.1"));
    assert!(
        wrong[0].ends_with("spec.ports: has no port: nothing can be reached by this Service"),
        "{wrong:?}"
    );
}

#[test]
fn a_principal_of_another_trust_domain_is_told_of() {
    let rules = "rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/b, other/ns/a/sa/b]}}], when: [{key: source.principal, notValues: [other/*]}]}]";
    let policy = policy("p", "").replace("rules: [{}], ", rules);
    let said = said(&[pod("a", "10.0.0.1"), policy]);
    let wrong = "is nobody's: no peer of trust domain other is let in, this mesh's is cluster.local";
    let fields = ["spec.rules[0].from[0].source.principals[1]", "spec.rules[0].when[0].notValues[0]"];
    let expected = fields
        .map(|field| format!("warning a.yaml:9 (document 2): AuthorizationPolicy shop/p: {field}: {wrong}"));
    assert_eq!(said, expected);
}

#[test]
fn routes_are_held_and_what_is_not_applied_or_not_there_is_said() {
    let route = |name: &str, parent: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
             parentRefs:\n  - {parent}\n  hostnames: [a.example]\n  rules:\n  - backendRefs:\n    - {{name: gone, port: 80}}\n"
        )
    };
    let policy =
        "apiVersion: gateway.networking.k8s.io/v1alpha3\nkind: BackendTLSPolicy\nmetadata: {name: a}\n";
    let newer = "apiVersion: gateway.networking.k8s.io/v2\nkind: TCPRoute\nmetadata: {name: a}\n";
    let documents = [
        service("web", 80),
        route("web", "{group: '', kind: Service, name: web}"),
        route("of-a-gateway", "{name: web}"),
        route("of-nothing", "{group: '', kind: Service, name: away}"),
        route("misnamed", "{kind: Service, name: web}"),
        policy.to_owned(),
        newer.to_owned(),
    ];
    let (applied, problems) = read(&documents.join("---\n"));
    assert_eq!((applied.objects[&Kind::HttpRoute], applied.objects[&Kind::BackendTlsPolicy]), (4, 1));
    let said = |name: &str| -> Vec<String> {
        let is_it = |problem: &&Problem| problem.to_string().contains(name);
        let text = |problem: &Problem| {
            format!(
                "{} {}",
                problem.complaint.effect.code(),
                problem.complaint.field.as_deref().unwrap_or_default()
            )
        };
        problems.iter().filter(is_it).map(text).collect()
    };
    let [rules, backend] = ["field_ignored spec.rules", "warning spec.rules[0].backendRefs[0].name"];
    assert_eq!(said("HTTPRoute shop/web"), [rules, backend]);
    assert_eq!(said("HTTPRoute shop/of-a-gateway"), [""; 0]);
    assert_eq!(said("shop/of-nothing"), ["warning spec.parentRefs[0].name", rules, backend]);
    assert_eq!(said("shop/misnamed"), ["field_ignored spec.parentRefs[0].group"]);
    assert_eq!(said("BackendTLSPolicy"), ["field_ignored spec"]);
    assert_eq!(said("TCPRoute"), ["not_read kind"]);
    let line = problems.iter().find(|problem| problem.to_string().contains("shop/gone")).unwrap().line;
    let text = documents.join("---\n");
    assert!(text.lines().nth(line - 1).unwrap().contains("name: gone"), "line {line}");
}
