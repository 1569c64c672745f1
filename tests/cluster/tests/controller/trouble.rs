//! What a real API server in trouble, and controllers that sleep or quarrel, make of the mesh: nothing.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_common::snapshot::Snapshot;
use mesh_test_harness::figure;
use tokio::time::Instant;

use super::agents::{BROKEN_POLICY, Stand, WEB, request};
use super::between::Trouble;
use super::gateway::{define, says, simple_route};
use super::sleeper::NAME;
use super::status::status;

/// Long enough for each watch to be tried again a few times.
const WHILE: Duration = Duration::from_secs(6);
/// Requests of one second, at most, that are no storm: four for each of eight kinds and six definitions that are watched, the
/// Lease, and what was in doubt.
const STORM: usize = 84;

const POLICY: &str = r"
apiVersion: policy.nodemesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: shop}
spec: {action: DENY, rules: [{}]}
";

/// Whether all of it is in force that was before any trouble.
fn is_whole(snapshot: &Snapshot) -> bool {
    let mut policies = snapshot.authorization_policies();
    let has = |name: &str| snapshot.workloads().any(|pod| &*pod.name.name == name);
    has("web")
        && has("other")
        && policies.any(|policy| &*policy.name.name == "closed" && policy.fault.is_none())
}

fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{nodeName: a, \
         serviceAccountName: web, containers: [{{name: a, image: a}}]}}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_in_trouble_takes_nothing_away() -> Result<()> {
    let (stand, between) = Stand::behind().await?;
    stand.apply(POLICY)?;
    let agent = stand.follower("agent-a", "a").await?;
    agent.until("all is in force", is_whole).await?;
    for trouble in [
        Trouble::Errors,
        Trouble::Expired,
        Trouble::EmptyLists,
        Trouble::TruncatedLists,
        Trouble::ShortWatches,
        Trouble::Silence,
    ] {
        let name = format!("while-{trouble:?}").to_lowercase();
        between.is_in(trouble);
        stand.apply(&pod(&name))?;
        agent.holds(&format!("all is in force ({trouble:?})"), Instant::now() + WHILE, is_whole).await?;
        let (asked, in_a_second) = between.asked();
        ensure!(in_a_second <= STORM, "{trouble:?}: {in_a_second} requests in a second");
        between.is_in(Trouble::None);
        let comes = |snapshot: &Snapshot| snapshot.workloads().any(|pod| *pod.name.name == *name);
        let came = agent.until(&format!("{name} is known"), comes).await?;
        agent.holds("all is in force", Instant::now() + Duration::from_secs(1), is_whole).await?;
        let (_, after) = between.asked();
        ensure!(after <= STORM, "after {trouble:?}: {after} requests in a second");
        figure(&format!(
            "{trouble:?}: {asked} requests in {WHILE:?}, at most {in_a_second} in a second, {after} after it; what came \
             meanwhile is known {:.1} s after it",
            came.as_secs_f64()
        ));
    }
    // And what went goes.
    stand.kubectl(&["delete", "authorizationpolicy", "closed", "-n", "shop"])?;
    agent.until("the policy is gone", |snapshot| snapshot.authorization_policies().count() == 0).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_is_cut_off_serves_on_and_another_leads() -> Result<()> {
    let (stand, between) = Stand::behind().await?;
    stand.apply(POLICY)?;
    let first = stand.eventually("the Lease is taken", || stand.leader()).await?;
    let other = stand.sleeper().await?;
    let cut_off = stand.follower("agent-a", "a").await?;
    let reached = stand.follower_of(other.address(), "agent-b", "b").await?;
    for agent in [&cut_off, &reached] {
        agent.until("all is in force", is_whole).await?;
    }
    between.is_in(Trouble::Silence);
    stand.apply(&pod("late"))?;
    let is_late = |snapshot: &Snapshot| snapshot.workloads().any(|pod| &*pod.name.name == "late");
    reached.until("the other controller tells its agent", is_late).await?;
    stand.eventually("the other one leads", || stand.leader().filter(|leader| leader == NAME)).await?;
    ensure!(first != NAME && is_whole(&cut_off.snapshot()) && !is_late(&cut_off.snapshot()));
    between.is_in(Trouble::None);
    cut_off.until("all is told again", |snapshot| is_late(snapshot) && is_whole(snapshot)).await?;
    let (_, in_a_second) = between.asked();
    ensure!(in_a_second <= STORM, "{in_a_second} requests in a second");
    ensure!(stand.leader().as_deref() == Some(NAME), "who leads goes on");
    Ok(())
}

/// The versions of the broken policy and of a route, and who leads.
fn written(stand: &Stand) -> Result<([String; 2], Option<String>)> {
    let version = |kind: &str, name: &str| {
        stand.kubectl(&["get", kind, name, "-n", "shop", "-o", "jsonpath={.metadata.resourceVersion}"])
    };
    Ok(([version("nmap", "broken")?, version("httproute", "away")?], stand.leader()))
}

/// The same, of the policy what is said of the object itself: agents of who sleeps, and wakes, come and go.
fn said(stand: &Stand) -> Result<([String; 2], Option<String>)> {
    let ([_, route], leader) = written(stand)?;
    let path = r#"jsonpath={.status.conditions[?(@.type=="Accepted")]}"#;
    Ok(([stand.kubectl(&["get", "nmap", "broken", "-n", "shop", "-o", path])?, route], leader))
}

/// Longer than two rounds of everybody who writes, and than two looks at the Lease.
const ROUNDS: Duration = Duration::from_secs(11);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_lead_one_yields_and_who_slept_writes_no_more() -> Result<()> {
    let stand = Stand::start().await?;
    stand.apply(POLICY)?;
    let first = stand.eventually("the Lease is taken", || stand.leader()).await?;
    let sleeper = stand.sleeper().await?;
    let agent = stand.follower_of(sleeper.address(), "agent-a", "a").await?;
    agent.until("all is in force", is_whole).await?;

    define(&stand, "httproutes").await?;
    // The one who leads finds out at its next look; the other finds at once that it does.
    stand.make_leader(NAME)?;
    stand.apply(BROKEN_POLICY)?;
    stand.apply(&simple_route("HTTPRoute", "away"))?;
    let broken = status(&stand, "nmap", "broken").await?;
    ensure!(broken["conditions"][0]["status"] == "False", "{broken}");
    let away = "web: Accepted=False NoMatchingParent, ResolvedRefs=False BackendNotFound";
    says(&stand, "httproute", "away", &[away]).await?;
    agent.holds("all is in force", Instant::now() + ROUNDS, is_whole).await?;
    let before = written(&stand)?;
    ensure!(before.1.as_deref() == Some(NAME), "{before:?}");
    agent.holds("all is in force", Instant::now() + ROUNDS, is_whole).await?;
    ensure!(written(&stand)? == before, "they do not overwrite each other");

    sleeper.sleeps()?;
    stand.apply(&BROKEN_POLICY.replace("::ffff:10.0.0.0/90", "10.0.0.0/8"))?;
    let mended = status(&stand, "nmap", "broken").await?;
    ensure!(mended["conditions"][0]["status"] == "True", "{mended}");
    ensure!(is_whole(&agent.snapshot()), "its agent serves on");
    let before = said(&stand)?;
    ensure!(before.1 == Some(first), "{before:?}");

    sleeper.wakes()?;
    let is_mended = |snapshot: &Snapshot| {
        is_whole(snapshot) && snapshot.authorization_policies().all(|policy| policy.fault.is_none())
    };
    agent.until("what it slept through is told", is_mended).await?;
    agent.holds("all is in force", Instant::now() + ROUNDS, is_whole).await?;
    ensure!(said(&stand)? == before, "who slept writes no more");
    Ok(())
}

/// Objects that the API server takes, and that are as bad as it lets them be.
fn poison() -> String {
    let paths: Vec<String> = (0..512).map(|number| format!("/{number:01000}")).collect();
    let many = serde_json::json!({
        "apiVersion": "policy.nodemesh.dev/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "many", "namespace": "shop"},
        "spec": {"action": "DENY", "rules": [{"to": [{"operation": {"paths": paths}}]}]},
    });
    let noise = "x".repeat(200 * 1024);
    let pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "noisy", "namespace": "shop",
            "annotations": {"nodemesh.dev/exclude-outbound-ports": noise, "nodemesh.dev/netns": "/proc/1/ns/net"},
            "labels": {"nodemesh.dev/mode": "perhaps"},
        },
        "spec": {"nodeName": "a", "serviceAccountName": "web", "containers": [{"name": "a", "image": "a"}]},
    });
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: away, namespace: shop}\nspec: {type: ExternalName, \
                   externalName: a.example}\n";
    format!("{many}\n---\n{pod}\n---\n{service}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poisoned_object_hurts_no_other() -> Result<()> {
    let stand = Stand::start().await?;
    stand.apply(POLICY)?;
    let agent = stand.follower("agent-a", "a").await?;
    agent.until("all is in force", is_whole).await?;
    for text in poison().split("---\n").chain([BROKEN_POLICY]) {
        stand.create(text)?;
    }
    stand.apply(&pod("late"))?;
    let is_late =
        |snapshot: &Snapshot| is_whole(snapshot) && snapshot.workloads().any(|pod| &*pod.name.name == "late");
    let took = agent.until("what comes later is in force", is_late).await?;
    agent
        .until("the broken one denies", |snapshot| {
            snapshot
                .authorization_policies()
                .any(|policy| &*policy.name.name == "broken" && policy.fault.is_some())
        })
        .await?;
    figure(&format!("what came after poison is known {:.0} ms later", took.as_secs_f64() * 1e3));
    let token = stand.token("agent-a", &[])?;
    stand.sign(&token, WEB, request()).await?;
    Ok(())
}
