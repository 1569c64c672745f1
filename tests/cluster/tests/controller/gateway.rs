//! The Gateway API's kinds, whose definitions are the cluster's: they come, go, and come back in another version.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_node::admin::documents::CheckVerdict;
use mesh_node::control::object::Kind;
use mesh_node::controller::preflight::preflight;
use mesh_test_cluster::programs::CONFORMANCE;
use mesh_test_harness::figure;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::agents::Stand;

const OURS: &str = "nodemesh.dev/controller";
const HTTP_ROUTES: &str = "httproutes.gateway.networking.k8s.io";

const SERVICES: &str = r"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: shop}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere, namespace: default}
spec: {ports: [{port: 80}]}
";

/// A route to a Service that is there, to one that is not, to a Gateway, and to a Service without an address.
const ROUTE: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs:
  - {group: '', kind: Service, name: web, port: 80}
  - {group: '', kind: Service, name: late}
  - {name: gateway}
  - {group: '', kind: Service, name: headless}
  rules:
  - backendRefs:
    - {name: web, port: 80, weight: 1}
    - {name: elsewhere, namespace: default, port: 80, weight: 1}
    - {name: late, port: 80, weight: 1}
";

/// A route that is about nothing else than one Service.
pub fn simple_route(kind: &str, name: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
         parentRefs: [{{group: '', kind: Service, name: web}}]\n  rules: [{{backendRefs: [{{name: web, port: 80}}]}}]\n"
    )
}

/// Makes a kind known, as who looks after the cluster does.
pub async fn define(stand: &Stand, plural: &str) -> Result<()> {
    let folder = CONFORMANCE.folder_of("sigs.k8s.io/gateway-api")?.join("config/crd/standard");
    let file = folder.join(format!("gateway.networking.k8s.io_{plural}.yaml")).display().to_string();
    stand.kubectl(&["apply", "--server-side", "-f", &file])?;
    let name = format!("{plural}.gateway.networking.k8s.io");
    // A definition without any condition yet is an error to kubectl.
    let words = ["wait", "--for=condition=Established", "--timeout=10s", "crd", &name];
    stand.eventually(&format!("{name} is established"), || stand.kubectl(&words).ok()).await.map(drop)
}

fn route(stand: &Stand, kind: &str, name: &str) -> Option<Value> {
    serde_json::from_str(&stand.kubectl(&["get", kind, name, "-n", "shop", "-o", "json"]).ok()?).ok()
}

fn parents(route: &Value) -> Vec<Value> {
    route["status"]["parents"].as_array().cloned().unwrap_or_default()
}

/// Name of a parent, and status and reason of both conditions.
fn said(entry: &Value) -> String {
    let condition = |index: usize| {
        let condition = &entry["conditions"][index];
        format!("{}={} {}", text(&condition["type"]), text(&condition["status"]), text(&condition["reason"]))
    };
    format!("{}: {}, {}", text(&entry["parentRef"]["name"]), condition(0), condition(1))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Waits until our entries of a route say this, in this order.
pub async fn says(stand: &Stand, kind: &str, name: &str, expected: &[&str]) -> Result<Value> {
    let mut last = Vec::new();
    let found = stand
        .eventually(&format!("the status of {kind} {name} is {expected:?}"), || {
            let route = route(stand, kind, name)?;
            last = parents(&route).iter().filter(|entry| entry["controllerName"] == OURS).map(said).collect();
            (last == expected).then_some(route)
        })
        .await;
    found.with_context(|| format!("it is {last:?}"))
}

fn has_faults(known: &mesh_node::controller::world::Known, kind: Kind) -> bool {
    known.faults().keys().any(|key| key.kind == kind)
}

const NOT_APPLIED: &str = "web: Accepted=False UnsupportedValue, ResolvedRefs=True ResolvedRefs";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_says_what_it_is_to_each_service_and_others_say_theirs() -> Result<()> {
    let stand = Stand::start().await?;
    stand.apply(SERVICES)?;
    define(&stand, "httproutes").await?;
    stand.apply(ROUTE)?;
    let missing = "ResolvedRefs=False BackendNotFound";
    let web = format!("web: Accepted=False UnsupportedValue, {missing}");
    let late = format!("late: Accepted=False NoMatchingParent, {missing}");
    let headless = format!("headless: Accepted=False NoMatchingParent, {missing}");
    let first = says(&stand, "httproute", "web", &[&web, &late, &headless]).await?;
    let entry = &parents(&first)[0];
    ensure!(entry["parentRef"] == first["spec"]["parentRefs"][0], "{entry}");
    ensure!(entry["conditions"][0]["observedGeneration"] == first["metadata"]["generation"], "{entry}");
    let message = text(&entry["conditions"][0]["message"]);
    ensure!(message.contains("Service shop/web go to its own endpoints"), "{message}");
    let message = text(&entry["conditions"][1]["message"]);
    ensure!(
        message.starts_with("spec.rules[0].backendRefs[2].name: there is no Service shop/late"),
        "{message}"
    );

    // Somebody else's entry goes in between, and stays there.
    let theirs = json!({
        "parentRef": {"name": "gateway", "group": "gateway.networking.k8s.io", "kind": "Gateway"},
        "controllerName": "example.com/gateway",
        "conditions": [{
            "type": "Accepted", "status": "True", "reason": "Accepted", "message": "theirs",
            "lastTransitionTime": "2026-11-22T00:00:00Z",
        }],
    });
    let add = json!([{"op": "add", "path": "/status/parents/1", "value": theirs}]).to_string();
    let words =
        ["patch", "httproute", "web", "-n", "shop", "--subresource=status", "--type=json", "-p", &add];
    stand.kubectl(&words)?;
    let remove = json!([{"op": "remove", "path": "/spec/parentRefs/3"}]).to_string();
    stand.kubectl(&["patch", "httproute", "web", "-n", "shop", "--type=json", "-p", &remove])?;
    let less = says(&stand, "httproute", "web", &[&web, &late]).await?;
    ensure!(parents(&less)[1] == theirs, "{less}");

    // What was missing comes.
    stand.apply(&SERVICES.replace("name: web,", "name: late,"))?;
    let both = [NOT_APPLIED, "late: Accepted=False UnsupportedValue, ResolvedRefs=True ResolvedRefs"];
    let all = says(&stand, "httproute", "web", &both).await?;
    ensure!(parents(&all)[1] == theirs, "{all}");

    // Of a route that is about no Service any more nothing of ours stays.
    let gateway = r#"{"spec": {"parentRefs": [{"name": "gateway"}]}}"#;
    stand.kubectl(&["patch", "httproute", "web", "-n", "shop", "--type=merge", "-p", gateway])?;
    let none = says(&stand, "httproute", "web", &[]).await?;
    ensure!(parents(&none) == [theirs], "{none}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kinds_come_and_go_and_come_back_in_another_version() -> Result<()> {
    let stand = Stand::start().await?;
    stand.apply(SERVICES)?;
    let defined = Instant::now();
    define(&stand, "httproutes").await?;
    stand.apply(&simple_route("HTTPRoute", "web"))?;
    says(&stand, "httproute", "web", &[NOT_APPLIED]).await?;
    figure(&format!(
        "a kind is watched and its route judged {:.1} s after kubectl began to define it",
        defined.elapsed().as_secs_f64()
    ));

    stand.kubectl(&["delete", "crd", HTTP_ROUTES])?;
    stand.until("its routes are gone", |known| !has_faults(known, Kind::HttpRoute)).await?;

    // Back, and at once made anew.
    define(&stand, "httproutes").await?;
    stand.apply(&simple_route("HTTPRoute", "before"))?;
    stand.kubectl(&["delete", "crd", HTTP_ROUTES])?;
    define(&stand, "httproutes").await?;
    stand.apply(&simple_route("HTTPRoute", "web"))?;
    says(&stand, "httproute", "web", &[NOT_APPLIED]).await?;
    let is_before = |known: &mesh_node::controller::world::Known| {
        known.faults().keys().any(|key| key.kind == Kind::HttpRoute && &*key.name.name == "before")
    };
    stand.until("a route of the first definition is gone", |known| !is_before(known)).await?;

    // In the older version alone, and in the newer again.
    let v1_is_served = |served: bool| {
        let patch =
            json!([{"op": "replace", "path": "/spec/versions/0/served", "value": served}]).to_string();
        stand.kubectl(&["patch", "crd", HTTP_ROUTES, "--type=json", "-p", &patch])
    };
    let versions = "jsonpath={range .spec.versions[*]}{.name} {end}";
    let names = stand.kubectl(&["get", "crd", HTTP_ROUTES, "-o", versions])?;
    ensure!(names.starts_with("v1 v1beta1"), "{names}");
    v1_is_served(false)?;
    let older = simple_route("HTTPRoute", "older").replace("/v1", "/v1beta1");
    stand.eventually("the older version is served alone", || stand.apply(&older).ok()).await?;
    says(&stand, "httproutes.v1beta1.gateway.networking.k8s.io", "older", &[NOT_APPLIED]).await?;
    v1_is_served(true)?;
    stand
        .eventually("the newer version is back", || stand.apply(&simple_route("HTTPRoute", "newer")).ok())
        .await?;
    says(&stand, "httproute", "newer", &[NOT_APPLIED]).await?;
    Ok(())
}

/// The controller's rights, with or without those on TCPRoutes.
fn permit(stand: &Stand, is_permitted: bool) -> Result<()> {
    let text = stand.kubectl(&["get", "clusterrole", "nodemesh-controller", "-o", "json"])?;
    let mut role: Value = serde_json::from_str(&text)?;
    let rules = role["rules"].as_array_mut().context("it has rules")?;
    let groups = json!(["gateway.networking.k8s.io"]);
    for rule in rules.iter_mut().filter(|rule| rule["apiGroups"] == groups) {
        let resources = rule["resources"].as_array_mut().context("a rule has resources")?;
        resources.retain(|resource| !text_starts(resource, "tcproutes"));
        if is_permitted {
            resources.extend([json!("tcproutes"), json!("tcproutes/status")]);
        }
    }
    stand.apply(&role.to_string())
}

fn text_starts(value: &Value, start: &str) -> bool {
    text(value).starts_with(start)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_may_not_watch_is_said_and_hurts_nothing_else() -> Result<()> {
    let stand = Stand::start().await?;
    stand.apply(SERVICES)?;
    permit(&stand, false)?;
    for plural in ["tcproutes", "httproutes"] {
        define(&stand, plural).await?;
    }
    stand.apply(&(simple_route("TCPRoute", "web") + &simple_route("HTTPRoute", "web")))?;
    says(&stand, "httproute", "web", &[NOT_APPLIED]).await?;
    let checks = preflight(Some(stand.kubeconfig()), "nodemesh-system").await;
    let check = checks.iter().find(|check| check.name == "Gateway API").context("it is looked at")?;
    ensure!(check.verdict == CheckVerdict::Warned && check.detail.ends_with("watch TCPRoute"), "{check:?}");
    let tcp = route(&stand, "tcproute", "web").context("the route is there")?;
    ensure!(parents(&tcp).is_empty(), "{tcp}");

    // An object of another kind is taken meanwhile, and a route that comes later is written.
    stand.apply(&simple_route("HTTPRoute", "later"))?;
    says(&stand, "httproute", "later", &[NOT_APPLIED]).await?;
    let permitted = Instant::now();
    permit(&stand, true)?;
    says(&stand, "tcproute", "web", &[NOT_APPLIED]).await?;
    ensure!(permitted.elapsed() < Duration::from_secs(60), "it took {:?}", permitted.elapsed());
    let checks = preflight(Some(stand.kubeconfig()), "nodemesh-system").await;
    let check = checks.iter().find(|check| check.name == "Gateway API").context("it is looked at")?;
    ensure!(check.verdict == CheckVerdict::Passed && check.detail.contains("TCPRoute v1"), "{check:?}");
    Ok(())
}
