//! In how many agents a policy is in force, whichever controller they follow, and who does not understand it.

use anyhow::{Context, Result, ensure};
use mesh_node::xds::FieldError;
use mesh_test_harness::figure;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use super::agents::Stand;
use super::mutual_tls::{AGENT, signed};
use super::refuser::Refuser;
use super::sleeper::NAME;

/// About the pods of both nodes.
const STRICT: &str = r"
apiVersion: policy.nodemesh.dev/v1alpha1
kind: PeerAuthentication
metadata: {name: of-both, namespace: shop}
spec: {mtls: {mode: STRICT}}
";

const ODD: &str = r"
apiVersion: policy.nodemesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: odd, namespace: shop}
spec: {action: DENY, rules: [{to: [{operation: {ports: ['22']}}]}]}
";

/// Longer than three looks of every controller, and shorter than it takes until an agent counts as gone.
const WHILE: Duration = Duration::from_secs(9);
/// What is written and is nothing new stays: a few looks see it.
const LOOK: Duration = Duration::from_secs(1);

/// What the status of a policy says of agents, once that is about the policy as it is: `IN-FORCE/NEEDED REASON`.
fn said(object: &Value) -> Option<(String, Value)> {
    let status = &object["status"];
    let conditions = status["conditions"].as_array()?;
    let programmed = conditions.iter().find(|condition| condition["type"] == "Programmed")?;
    let is_current = programmed["observedGeneration"] == object["metadata"]["generation"];
    let [needed, in_force] = ["needed", "inForce"].map(|field| status["agents"][field].clone());
    let reason = programmed["reason"].as_str()?;
    is_current.then(|| (format!("{in_force}/{needed} {reason}"), programmed.clone()))
}

fn get(stand: &Stand, kind: &str, name: &str) -> Option<Value> {
    let text = stand.kubectl(&["get", kind, name, "-n", "shop", "-o", "json"]).ok()?;
    serde_json::from_str(&text).ok()
}

/// Waits until it says so; returns the condition.
async fn says(stand: &Stand, kind: &str, name: &str, expected: &str) -> Result<Value> {
    let begun = Instant::now();
    let is_said = || {
        let (words, condition) = said(&get(stand, kind, name)?)?;
        (words == expected).then_some(condition)
    };
    let condition = stand.eventually(&format!("{kind} {name} says {expected}"), is_said).await;
    let condition = condition.with_context(|| format!("{:?}", get(stand, kind, name)))?;
    figure(&format!("{name} says {expected} after {:.1} s", begun.elapsed().as_secs_f64()));
    Ok(condition)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_of_both_controllers_count_and_those_of_one_that_is_gone_do_not() -> Result<()> {
    let stand = Stand::start().await?;
    // The one that reads is not the one whose agent is waited for.
    let leader = stand.eventually("the Lease is taken", || stand.leader()).await?;
    ensure!(leader != NAME, "{leader}");
    let second = stand.sleeper().await?;
    let _a = stand.follower("agent-a", "a").await?;
    let _b = stand.follower_of(second.address(), "agent-b", "b").await?;
    stand.apply(STRICT)?;
    let condition = says(&stand, "nmpa", "of-both", "2/2 Programmed").await?;
    ensure!(condition["status"] == "True" && condition["message"] == "", "{condition}");
    let rows = stand.kubectl(&["get", "nmpa", "-n", "shop"])?;
    let words: Vec<&str> = rows.split_whitespace().take(14).collect();
    let head = ["NAME", "MODE", "ACCEPTED", "WORKLOADS", "AGENTS", "IN-FORCE", "AGE"];
    ensure!(words[..7] == head && words[7..13] == ["of-both", "STRICT", "True", "3", "2", "2"], "{rows}");

    // Nothing is written while nothing changes, whatever controllers tell each other meanwhile.
    let version =
        || get(&stand, "nmpa", "of-both").map(|object| object["metadata"]["resourceVersion"].clone());
    let (before, until) = (version(), Instant::now() + WHILE);
    while Instant::now() < until {
        ensure!(version() == before, "written again: {:?}", get(&stand, "nmpa", "of-both"));
        // Between two looks of a bounded while: each starts a program.
        sleep(LOOK).await;
    }
    stand.apply(&STRICT.replace("STRICT", "PERMISSIVE"))?;
    let condition = says(&stand, "nmpa", "of-both", "2/2 Programmed").await?;
    ensure!(condition["observedGeneration"] == 2, "{condition}");

    // What its agent has it keeps; nobody says so any more.
    drop(second);
    let condition = says(&stand, "nmpa", "of-both", "1/2 Pending").await?;
    let expected = json!("in force in 1 of 2 agents; follows no controller: node b");
    ensure!(condition["status"] == "False" && condition["message"] == expected, "{condition}");
    let _again = stand.follower("agent-b", "b").await?;
    says(&stand, "nmpa", "of-both", "2/2 Programmed").await?;
    // A node without an agent's pod needs nothing.
    stand.delete_pod("nodemesh-system", "agent-b").await?;
    says(&stand, "nmpa", "of-both", "1/1 Programmed").await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_does_not_understand_reaches_the_status_and_goes_with_its_cause() -> Result<()> {
    let stand = Stand::start().await?;
    stand.eventually("the Lease is taken", || stand.leader()).await?;
    let second = stand.sleeper().await?;
    let _a = stand.follower("agent-a", "a").await?;
    let token = stand.token("agent-b", &[])?;
    let error = FieldError::new("rules[0].to[0]", "is of a later version");
    let shown = signed(&stand, &token, AGENT).await?;
    let b = stand.agent_at(second.address(), &token, Some(shown)).await?;
    let b = Refuser::start(&b, "b", "shop/odd", error).await?;
    stand.apply(&format!("{STRICT}---{ODD}"))?;
    let condition = says(&stand, "nmap", "odd", "1/2 Refused").await?;
    let expected = json!("node b: rules[0].to[0]: is of a later version");
    ensure!(condition["status"] == "False" && condition["message"] == expected, "{condition}");
    says(&stand, "nmpa", "of-both", "2/2 Programmed").await?;
    let wide = stand.kubectl(&["get", "nmap", "odd", "-n", "shop", "-o", "wide"])?;
    ensure!(wide.contains("is of a later version") && wide.contains("Refused"), "{wide}");
    let event = stand
        .eventually("there is an event", || {
            let words = ["get", "events", "-n", "shop", "--field-selector=reason=Refused", "-o", "json"];
            let list: Value = serde_json::from_str(&stand.kubectl(&words).ok()?).ok()?;
            list["items"].as_array()?.first().cloned()
        })
        .await?;
    ensure!(event["involvedObject"]["name"] == "odd" && event["type"] == "Warning", "{event}");
    ensure!(event["message"] == expected, "{event}");

    b.understands();
    stand.apply(&ODD.replace("22", "23"))?;
    let condition = says(&stand, "nmap", "odd", "2/2 Programmed").await?;
    ensure!(condition["status"] == "True" && condition["observedGeneration"] == 2, "{condition}");

    // It ends, and the controller that it followed lives on.
    drop(b);
    let condition = says(&stand, "nmap", "odd", "1/2 Pending").await?;
    ensure!(
        condition["message"] == "in force in 1 of 2 agents; follows no controller: node b",
        "{condition}"
    );
    Ok(())
}
