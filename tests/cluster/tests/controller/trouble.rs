//! What a real API server in trouble, and controllers that sleep or quarrel, make of the mesh: nothing.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_common::snapshot::Snapshot;
use mesh_test_harness::figure;
use tokio::time::{Instant, sleep, timeout};

use super::agents::{BROKEN_POLICY, Stand, WEB, request};
use super::between::{LATE, Trouble};
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
        Trouble::Strangers,
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
async fn an_api_server_that_answers_late_delays_and_takes_nothing_away() -> Result<()> {
    let (stand, between) = Stand::behind().await?;
    stand.apply(POLICY)?;
    let first = stand.eventually("the Lease is taken", || stand.leader()).await?;
    let agent = stand.follower("agent-a", "a").await?;
    agent.until("all is in force", is_whole).await?;
    let token = stand.token("agent-a", &[])?;
    between.is_in(Trouble::Late);
    stand.apply(&pod("late"))?;
    stand.apply(BROKEN_POLICY)?;
    let is_late =
        |snapshot: &Snapshot| is_whole(snapshot) && snapshot.workloads().any(|pod| &*pod.name.name == "late");
    let took = agent.until("what is new is known", is_late).await?;
    // Whose token it is has to be asked first.
    let begun = Instant::now();
    stand.sign(&token, WEB, request()).await?;
    let signed = begun.elapsed();
    ensure!(signed >= LATE, "signed after {signed:?}, before anybody could know whose token it is");
    let broken = status(&stand, "nmap", "broken").await?;
    ensure!(broken["conditions"][0]["status"] == "False", "{broken}");
    agent.holds("all is in force", Instant::now() + ROUNDS, is_whole).await?;
    let (_, in_a_second) = between.asked();
    ensure!(in_a_second <= STORM, "{in_a_second} requests in a second");
    ensure!(stand.leader() == Some(first), "who leads lost the Lease to answers that came in time");
    figure(&format!(
        "each answer {LATE:?} late: a new pod is known after {:.1} s, a certificate signed after {:.1} s, at most \
         {in_a_second} requests in a second",
        took.as_secs_f64(),
        signed.as_secs_f64()
    ));
    Ok(())
}

/// Until a watch is given up that says nothing: 75 s after its last byte, then its successor's list, and some for the machine.
const GIVEN_UP: Duration = Duration::from_secs(110);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_says_nothing_more_is_given_up() -> Result<()> {
    let (stand, between) = Stand::behind().await?;
    stand.apply(POLICY)?;
    let agent = stand.follower("agent-a", "a").await?;
    agent.until("all is in force", is_whole).await?;
    between.is_in(Trouble::StalledWatches);
    let begun = Instant::now();
    stand.apply(&pod("late"))?;
    stand.kubectl(&["delete", "pod", "other", "-n", "shop", "--force", "--grace-period=0"])?;
    let has = |snapshot: &Snapshot, name: &str| snapshot.workloads().any(|pod| &*pod.name.name == name);
    let caught_up = async {
        while !has(&agent.snapshot(), "late") || has(&agent.snapshot(), "other") {
            ensure!(has(&agent.snapshot(), "web"), "a pod that is there is gone");
            let policies = agent.snapshot().authorization_policies().count();
            ensure!(policies == 1, "{policies} policies");
            // Between two looks of a bounded wait.
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    };
    timeout(GIVEN_UP, caught_up).await.context("wait until the watch is given up")??;
    let (asked, in_a_second) = between.asked();
    ensure!(in_a_second <= STORM, "{in_a_second} requests in a second");
    figure(&format!(
        "a watch that says nothing more is begun anew, and what came and went is known, after {:.0} s; {asked} requests, at \
         most {in_a_second} in a second",
        begun.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Policies and Services that go at once, beside those that stay.
const MANY: usize = 150;

fn many() -> String {
    let mut text = String::new();
    for number in 0..MANY {
        let _ = write!(
            text,
            "---\napiVersion: policy.nodemesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: p{number}, \
             namespace: shop, labels: {{many: \"1\"}}}}\nspec: {{action: DENY, rules: [{{}}]}}\n---\napiVersion: v1\nkind: \
             Service\nmetadata: {{name: s{number}, namespace: shop, labels: {{many: \"1\"}}}}\nspec: {{ports: [{{port: \
             80}}]}}\n"
        );
    }
    text
}

/// How many of them an agent has.
fn count(snapshot: &Snapshot) -> [usize; 2] {
    let policies = snapshot.authorization_policies().filter(|policy| &*policy.name.name != "closed").count();
    [policies, snapshot.services().filter(|known| &*known.service.name.namespace == "shop").count()]
}

/// Deleted one by one by who says so, they go; deleted while nobody looked, each goes when the API server, asked for it, has it
/// no more; of a list that lacks them all and a server that does not say so, none goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_are_gone_at_once_each_goes_by_its_own_proof() -> Result<()> {
    let (stand, between) = Stand::behind().await?;
    stand.apply(POLICY)?;
    let agent = stand.follower("agent-a", "a").await?;
    let delete = ["delete", "nmap,services", "-n", "shop", "--selector=many=1", "--wait=false"];
    for while_away in [false, true] {
        stand.create(&many())?;
        agent.until("all of them", |snapshot| count(snapshot) == [MANY; 2]).await?;
        if while_away {
            between.is_in(Trouble::EmptyLists);
            agent.holds("none goes", Instant::now() + WHILE, |snapshot| count(snapshot) == [MANY; 2]).await?;
            between.is_in(Trouble::Errors);
        }
        stand.kubectl(&delete)?;
        if while_away {
            let until = Instant::now() + WHILE;
            agent.holds("none goes unasked", until, |snapshot| count(snapshot) == [MANY; 2]).await?;
            between.is_in(Trouble::Expired);
        }
        let took = agent.until("they are gone", |snapshot| count(snapshot) == [0; 2]).await?;
        agent.holds("the others stay", Instant::now() + Duration::from_secs(1), is_whole).await?;
        let (asked, in_a_second) = between.asked();
        figure(&format!(
            "{} objects deleted at once, {}: gone {:.1} s later, {asked} requests, at most {in_a_second} in a second",
            2 * MANY,
            if while_away { "while the API server answered with errors" } else { "as the watch says" },
            took.as_secs_f64()
        ));
        // Each is asked for once, besides what is asked in any case.
        ensure!(!while_away || in_a_second <= 2 * MANY + STORM, "{in_a_second} requests in a second");
        between.is_in(Trouble::None);
    }
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
