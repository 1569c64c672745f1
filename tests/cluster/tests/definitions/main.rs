//! What a real API server makes of our definitions and of objects of their kinds.

mod admission;
mod drawn;
mod issuers;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_test_cluster::api_server::ApiServer;
use mesh_test_cluster::programs::PROMETHEUS_OPERATOR;
use mesh_test_harness::eventually::eventually;
use mesh_test_harness::figure;

/// One API server for all tests of this file: objects have names of their own.
static SERVER: LazyLock<ApiServer> = LazyLock::new(|| {
    let begun = Instant::now();
    let server = ApiServer::start().expect("an API server starts");
    figure(&format!("an API server alone is ready after {:.1} s", begun.elapsed().as_secs_f64()));
    server.kubectl(&["apply", "-k", &manifests("foundation")]).expect("the foundation is taken");
    let wait = ["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"];
    server.kubectl(&wait).expect("the definitions are established");
    admission::make_what_was_there_before(&server).expect("nothing is refused yet");
    server.kubectl(&["apply", "-k", &manifests("base")]).expect("the base is taken");
    admission::wait_until_in_force(&server).expect("what is wrong is refused");
    server
});

fn manifests(name: &str) -> String {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../../manifests", name].iter().collect();
    folder.display().to_string()
}

/// Applies one object; returns what the API server says against it.
fn apply(text: &str) -> Result<(), String> {
    let file = tempfile(text).map_err(|error| format!("{error:#}"))?;
    let words = ["apply", "--validate=strict", "-f", &file.path().display().to_string()];
    SERVER.kubectl(&words).map(drop).map_err(|error| format!("{error:#}"))
}

fn tempfile(text: &str) -> Result<tempfile::NamedTempFile> {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().context("make a file")?;
    file.write_all(text.as_bytes()).context("write a file")?;
    Ok(file)
}

fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: policy.nodemesh.dev/v1alpha1\nkind: {kind}\nmetadata:\n  name: {name}\n  \
         namespace: default\nspec: {spec}\n"
    )
}

#[test]
fn the_definitions_are_structural_and_served() -> Result<()> {
    let conditions = SERVER.kubectl(&[
        "get",
        "crd",
        "-o",
        "jsonpath={range .items[*]}{.metadata.name} {.status.conditions[*].type}{\"\\n\"}{end}",
    ])?;
    for name in [
        "authorizationpolicies.policy.nodemesh.dev",
        "peerauthentications.policy.nodemesh.dev",
        "requestauthentications.policy.nodemesh.dev",
    ] {
        let line = conditions.lines().find(|line| line.starts_with(name)).context("it is there")?;
        assert!(line.contains("Established") && !line.contains("NonStructuralSchema"), "{line}");
    }
    for short in ["nmap", "nmpa", "nmra", "nodemesh"] {
        SERVER.kubectl(&["get", short, "--all-namespaces"])?;
    }
    let explained = SERVER.kubectl(&["explain", "nmap.spec.rules.to.operation.paths"])?;
    assert!(explained.contains("paths"), "{explained}");
    Ok(())
}

#[test]
fn every_sample_is_taken() -> Result<()> {
    let samples = manifests("samples");
    for sample in std::fs::read_dir(Path::new(&samples)).context("find the samples")? {
        let path = sample?.path();
        if path.is_dir() {
            SERVER.kubectl(&["apply", "--validate=strict", "-k", &path.display().to_string()])?;
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        let namespaces = text.lines().filter_map(|line| line.trim().strip_prefix("namespace: "));
        for namespace in namespaces {
            // Fails if it is there.
            let _ = SERVER.kubectl(&["create", "namespace", namespace]);
        }
        SERVER
            .kubectl(&["apply", "--validate=strict", "-f", &path.display().to_string()])
            .with_context(|| format!("apply {}", path.display()))?;
    }
    Ok(())
}

#[test]
fn the_pod_monitor_is_what_the_operators_own_definition_has() -> Result<()> {
    let definitions = PROMETHEUS_OPERATOR.folder()?.join("example/prometheus-operator-crd");
    let definition = definitions.join("monitoring.coreos.com_podmonitors.yaml").display().to_string();
    // Too large for the annotation that a client-side apply keeps.
    SERVER.kubectl(&["apply", "--server-side", "-f", &definition])?;
    let overlay = manifests("overlays/prometheus-operator");
    // The kind is served a moment after its definition is taken.
    let taken = eventually("the kind is served", Duration::from_secs(60), || {
        match SERVER.kubectl(&["apply", "--validate=strict", "-k", &overlay]) {
            Err(error) if error.to_string().contains("no matches for kind") => None,
            taken => Some(taken),
        }
    })
    .flatten()?;
    assert!(taken.contains("podmonitor.monitoring.coreos.com/nodemesh created"), "{taken}");
    let kept = ["get", "podmonitors", "nodemesh", "--namespace=nodemesh-system", "-o"];
    let kept = SERVER.kubectl(&[&kept[..], &["jsonpath={.spec}"]].concat())?;
    let wanted = r#"{"podMetricsEndpoints":[{"port":"metrics"}],"selector":{"matchLabels":{"app.kubernetes.io/part-of":"nodemesh"}}}"#;
    assert_eq!(kept, wanted);
    // The definition would say it.
    let text = std::fs::read_to_string(Path::new(&overlay).join("pod-monitor.yaml"))?;
    let refusal = apply(&text.replace("- port: metrics", "- ports: metrics")).expect_err("a wrong field");
    assert!(refusal.contains("unknown field \"spec.podMetricsEndpoints[0].ports\""), "{refusal}");
    Ok(())
}

/// One rule of an AuthorizationPolicy.
fn rule(text: &str) -> String {
    format!("{{rules: [{text}]}}")
}

fn source(text: &str) -> String {
    rule(&format!("{{from: [{{source: {text}}}]}}"))
}

fn operation(text: &str) -> String {
    rule(&format!("{{to: [{{operation: {text}}}]}}"))
}

#[track_caller]
fn refused(kind: &str, spec: &str, field: &str) {
    let refusal = apply(&object(kind, "wrong", spec)).expect_err(spec);
    assert!(refusal.contains(field), "{spec}: {refusal}");
}

#[test]
fn a_wrong_authorization_policy_is_refused_with_its_field() {
    let two_names = "{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: a}]}";
    for (spec, field) in [
        ("{action: PERMIT}", "spec.action"),
        ("{rulez: []}", "spec.rulez"),
        ("{rules: {}}", "spec.rules"),
        ("{mode: audit}", "spec.mode"),
        ("{selector: {matchLabels: {app: 'a*'}}}", "spec.selector.matchLabels.app"),
        ("{selector: {matchLabels: {'a*': b}}}", "spec.selector.matchLabels: Invalid value: labels are"),
        (two_names, "spec.targetRefs: Invalid value: cannot be given together with selector"),
        ("{targetRefs: [{kind: Gateway, name: a}]}", "spec.targetRefs[0].kind: Invalid value: only"),
        ("{targetRefs: [{kind: Service, group: apps, name: a}]}", "spec.targetRefs[0].kind"),
        ("{targetRefs: [{kind: Service}]}", "spec.targetRefs[0].name"),
        ("{targetRefs: [{kind: Service, name: ''}]}", "spec.targetRefs[0].name"),
    ] {
        refused("AuthorizationPolicy", spec, field);
    }
    for (text, field) in [
        ("{from: []}", "spec.rules[0].from"),
        ("{from: [{}]}", "spec.rules[0].from[0].source"),
        ("{to: []}", "spec.rules[0].to"),
        ("{to: [{operation: {method: [GET]}}]}", "spec.rules[0].to[0].operation.method"),
        ("{when: [{values: [a]}]}", "spec.rules[0].when[0].key"),
        ("{when: [{key: request.path, values: [a]}]}", "spec.rules[0].when[0].key"),
        ("{when: [{key: 'request.headers[]', values: [a]}]}", "spec.rules[0].when[0].key"),
        ("{when: [{key: source.ip}]}", "spec.rules[0].when[0]: Invalid value: has neither values"),
        ("{when: [{key: source.ip, values: []}]}", "spec.rules[0].when[0].values"),
        ("{when: [{key: source.ip, values: ['']}]}", "spec.rules[0].when[0].values[0]"),
    ] {
        refused("AuthorizationPolicy", &rule(text), field);
    }
}

#[test]
fn a_wrong_value_of_a_rule_is_refused_with_its_place() {
    refused("AuthorizationPolicy", &source("{}"), "spec.rules[0].from[0].source");
    refused("AuthorizationPolicy", &operation("{}"), "spec.rules[0].to[0].operation");
    for (name, values) in [
        ("principals", &["spiffe://cluster.local/ns/a/sa/b", "frontend", "a/ns/b", "a*b/ns/c/sa/d", ""][..]),
        ("namespaces", &["Shop", "a*b", "a/b"]),
        ("serviceAccounts", &["a/b/c", "*", "a/*", "/a"]),
        ("ipBlocks", &["localhost", "10.0.0.0/8/8", "10.0.0.0/"]),
    ] {
        for (name, value) in [(name.to_owned(), values), (negated(name), values)].iter().flat_map(pairs) {
            let field = format!("spec.rules[0].from[0].source.{name}[0]");
            refused("AuthorizationPolicy", &source(&format!("{{{name}: ['{value}']}}")), &field);
        }
        let field = format!("spec.rules[0].from[0].source.{name}");
        refused("AuthorizationPolicy", &source(&format!("{{{name}: []}}")), &field);
    }
    for (name, values) in [
        ("hosts", &["a/b", "a b", "a*b", "me@a"][..]),
        ("ports", &["0", "080", "+80", "65536", "99999", "http", "80-90"]),
        ("methods", &["GET POST", "G*T", ""]),
        ("paths", &["admin", "/a?b=c", "/a#b", "/a b", "/a*b", "/{a}", "/a\\b"]),
    ] {
        for (name, value) in [(name.to_owned(), values), (negated(name), values)].iter().flat_map(pairs) {
            let field = format!("spec.rules[0].to[0].operation.{name}[0]");
            refused("AuthorizationPolicy", &operation(&format!("{{{name}: ['{value}']}}")), &field);
        }
    }
}

/// `hosts` as `notHosts`.
fn negated(name: &str) -> String {
    format!("not{}{}", name[..1].to_uppercase(), &name[1..])
}

fn pairs<'a>((name, values): &'a (String, &'a [&'a str])) -> impl Iterator<Item = (&'a str, &'a str)> {
    values.iter().map(move |value| (name.as_str(), *value))
}

#[test]
fn a_wrong_peer_authentication_is_refused_with_its_field() {
    let ports = "spec.portLevelMtls: Invalid value: ";
    let needs = format!("{ports}needs a selector with labels");
    let none = format!("{ports}has a port that is none");
    for (spec, field) in [
        ("{mtls: {mode: strict}}", "spec.mtls.mode"),
        ("{selector: [a]}", "spec.selector"),
        ("{mtls: STRICT}", "spec.mtls"),
        ("{portLevelMtls: {'80': {mode: STRICT}}}", &needs),
        ("{selector: {}, portLevelMtls: {'80': {mode: STRICT}}}", &needs),
        ("{selector: {matchLabels: {}}, portLevelMtls: {'80': {mode: STRICT}}}", &needs),
        ("{selector: {matchLabels: {a: b}}, portLevelMtls: {http: {mode: STRICT}}}", &none),
        ("{selector: {matchLabels: {a: b}}, portLevelMtls: {'0': {mode: STRICT}}}", &none),
        ("{selector: {matchLabels: {a: b}}, portLevelMtls: {'65536': {mode: STRICT}}}", &none),
        (
            "{selector: {matchLabels: {a: b}}, portLevelMtls: {'80': {mode: on}}}",
            "spec.portLevelMtls.80.mode",
        ),
    ] {
        refused("PeerAuthentication", spec, field);
    }
}

/// Every form that a value may have.
const RIGHT: &[(&str, &str)] = &[
    ("AuthorizationPolicy", "{}"),
    ("AuthorizationPolicy", "{action: DENY, rules: [{}]}"),
    ("AuthorizationPolicy", "{selector: {matchLabels: {app: '', nodemesh.dev/tier: a_b.C-1}}, targetRefs: []}"),
    ("AuthorizationPolicy", "{targetRefs: [{kind: Service, name: a}, {kind: Service, group: core, name: b}]}"),
    ("AuthorizationPolicy", "{action: null, mode: null, selector: null, rules: null}"),
    (
        "AuthorizationPolicy",
        "{rules: [{from: [{source: {
          principals: ['*', cluster.local/ns/shop/sa/web, 'cluster.local/ns/shop/*', '*/sa/web'],
          notPrincipals: [td.example/ns/a/sa/b.c], namespaces: ['*', shop, 'shop-*', '*-1'], notNamespaces: [ops],
          serviceAccounts: [web, shop/web.v1], notServiceAccounts: [a],
          ipBlocks: [10.0.0.1, 10.0.0.0/8, 'fd00::/8', '::ffff:10.0.0.1', '::'], notIpBlocks: [0.0.0.0/0]}}]}]}",
    ),
    (
        "AuthorizationPolicy",
        "{rules: [{to: [{operation: {
          hosts: ['*', a.example, 'a.example:8080', '*.example', 'a.*', '[fd00::1]:8080', '[fd00::1]:*', A.Example],
          notHosts: [b.example], ports: ['1', '80', '999', '9999', '59999', '64999', '65499', '65535'],
          notPorts: ['22'], methods: ['*', GET, 'P*', '*T', M-SEARCH, get], notMethods: [TRACE],
          paths: ['*', /, '/*', '/api/*', '*.html', '/a%2Fb', '/caf%C3%A9*', '/a;b', '/.w*', /pkg.Svc/Method],
          notPaths: [/admin]}}]}]}",
    ),
    (
        "AuthorizationPolicy",
        "{rules: [{when: [{key: source.ip, values: [10.0.0.1]}, {key: source.namespace, notValues: [a]},
          {key: source.principal, values: ['*']}, {key: source.serviceAccount, values: [a/b]},
          {key: destination.ip, values: [10.0.0.0/8]}, {key: destination.port, values: ['80']},
          {key: connection.sni, values: [api.shop, '*.shop'], notValues: ['*']},
          {key: 'request.headers[X-Token]', values: ['a b', '*é', 'x*'], notValues: [c]}]}]}",
    ),
    ("PeerAuthentication", "{}"),
    ("PeerAuthentication", "{mtls: {}, selector: null, portLevelMtls: {}}"),
    (
        "PeerAuthentication",
        "{selector: {matchLabels: {a: b}}, portLevelMtls: {'1': {}, '80': {mode: UNSET}, '65535': {mode: STRICT}}}",
    ),
];

#[test]
fn what_is_right_is_taken() {
    for (index, (kind, spec)) in RIGHT.iter().enumerate() {
        apply(&object(kind, &format!("right-{index}"), spec))
            .unwrap_or_else(|error| panic!("{spec}: {error}"));
    }
}

#[test]
fn what_is_left_out_is_shown_as_what_it_means() -> Result<()> {
    apply(&object("AuthorizationPolicy", "shown", "{action: null, selector: {matchLabels: {app: web}}}"))
        .map_err(anyhow::Error::msg)?;
    let conditions = r#"{"status":{"observedGeneration":1,"workloads":5,"agents":{"needed":4,"inForce":3},"conditions":[
        {"type":"Accepted","status":"False",
        "reason":"Invalid","message":"spec.rules[0]: wrong","lastTransitionTime":"2026-01-01T00:00:00Z"},
        {"type":"Programmed","status":"False",
        "reason":"Refused","message":"node a: too new","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}"#;
    let patch = ["patch", "nmap", "shown", "--subresource=status", "--type=merge", "--patch", conditions];
    SERVER.kubectl(&patch)?;
    let narrow = SERVER.kubectl(&["get", "nmap", "shown"])?;
    let words: Vec<&str> = narrow.split_whitespace().collect();
    let head = ["NAME", "ACTION", "MODE", "ACCEPTED", "WORKLOADS", "AGENTS", "IN-FORCE", "AGE"];
    assert_eq!(words[..8], head, "{narrow}");
    assert_eq!(words[8..15], ["shown", "ALLOW", "Enforce", "False", "5", "4", "3"], "{narrow}");
    let wide = SERVER.kubectl(&["get", "nmap", "shown", "-o", "wide"])?;
    for text in [
        "SELECTOR",
        "TARGET",
        "REASON",
        "MESSAGE",
        "PROGRAMMED",
        r#"{"app":"web"}"#,
        "Invalid",
        "spec.rules[0]: wrong",
        "Refused",
        "node a: too new",
    ] {
        assert!(wide.contains(text), "{text}: {wide}");
    }
    Ok(())
}

#[test]
fn readers_read_and_writers_write_but_no_status() -> Result<()> {
    for role in ["reader", "writer"] {
        let (binding, role) = (format!("{role}s"), format!("nodemesh-policy-{role}"));
        SERVER.kubectl(&[
            "create",
            "clusterrolebinding",
            &binding,
            "--clusterrole",
            &role,
            "--user",
            &binding,
        ])?;
    }
    for (user, verb, resource, may) in [
        ("readers", "list", "authorizationpolicies.policy.nodemesh.dev", "yes"),
        ("readers", "watch", "peerauthentications.policy.nodemesh.dev", "yes"),
        ("readers", "create", "authorizationpolicies.policy.nodemesh.dev", "no"),
        ("writers", "create", "authorizationpolicies.policy.nodemesh.dev", "yes"),
        ("writers", "delete", "peerauthentications.policy.nodemesh.dev", "yes"),
        ("writers", "patch", "authorizationpolicies.policy.nodemesh.dev --subresource=status", "no"),
        ("writers", "create", "secrets", "no"),
    ] {
        // Ends with a failure for a no, and says it.
        let words = ["auth", "can-i", "--as", user, "-n", "default", verb].into_iter();
        let said = SERVER.kubectl(&words.chain(resource.split(' ')).collect::<Vec<_>>());
        let said = if said.is_ok_and(|said| said.starts_with("yes")) { "yes" } else { "no" };
        assert_eq!(said, may, "{user} {verb} {resource}");
    }
    Ok(())
}
