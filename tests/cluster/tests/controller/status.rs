//! What the controller writes into policies, and which replica does.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::agents::{BROKEN_POLICY, Stand};

const STRICT: &str = r"
apiVersion: policy.nodemesh.dev/v1alpha1
kind: PeerAuthentication
metadata: {name: fine, namespace: shop}
spec: {mtls: {mode: STRICT}}
";

/// The status of a policy, once it is about the policy as it is.
pub async fn status(stand: &Stand, kind: &str, name: &str) -> Result<Value> {
    let what = format!("the status of {kind} {name} is written");
    stand
        .eventually(&what, || {
            let text = stand.kubectl(&["get", kind, name, "-n", "shop", "-o", "json"]).ok()?;
            let object: Value = serde_json::from_str(&text).ok()?;
            let is_current = object["status"]["observedGeneration"] == object["metadata"]["generation"];
            is_current.then(|| object["status"].clone())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_says_whether_it_was_understood_and_whom_it_is_about() -> Result<()> {
    let stand = Stand::start().await?;
    stand.apply(&format!("{BROKEN_POLICY}---{STRICT}"))?;
    let broken = status(&stand, "nmap", "broken").await?;
    let condition = &broken["conditions"][0];
    ensure!(condition["type"] == "Accepted" && condition["status"] == "False", "{broken}");
    let message = condition["message"].as_str().context("it says why")?;
    ensure!(message.contains("spec.rules[0].from[0].source.ipBlocks[0]"), "{message}");
    // Of five pods in the namespace one is not enrolled, and one has the node's network.
    let fine = status(&stand, "nmpa", "fine").await?;
    ensure!(fine["conditions"][0]["status"] == "True" && fine["workloads"] == 3, "{fine}");

    let events = stand
        .eventually("there is an event", || {
            let text = stand.kubectl(&["get", "events", "-n", "shop", "-o", "json"]).ok()?;
            let list: Value = serde_json::from_str(&text).ok()?;
            list["items"].as_array().filter(|events| !events.is_empty()).cloned()
        })
        .await?;
    ensure!(
        events[0]["reason"] == "NotAccepted" && events[0]["involvedObject"]["name"] == "broken",
        "{events:?}"
    );

    // Mended, it says so, of the newer generation.
    stand.apply(&BROKEN_POLICY.replace("::ffff:10.0.0.0/90", "10.0.0.0/8"))?;
    let mended = status(&stand, "nmap", "broken").await?;
    ensure!(mended["conditions"][0]["status"] == "True" && mended["observedGeneration"] == 2, "{mended}");
    Ok(())
}

const UNSEEN: &str = r"
apiVersion: policy.nodemesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: unseen, namespace: shop}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/a//b]}}]}]}
---
apiVersion: policy.nodemesh.dev/v1alpha1
kind: PeerAuthentication
metadata: {name: unseen, namespace: shop}
spec: {mtls: {mode: DISABLE}}
";

/// An API server that does not ask them is no reason to believe an object.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_admission_policy_saw_is_reported() -> Result<()> {
    let stand = Stand::start().await?;
    let bindings = ["nodemesh-authorization-policy", "nodemesh-peer-authentication"];
    stand.kubectl(&[&["delete", "validatingadmissionpolicybindings"], &bindings[..]].concat())?;
    // The API server looks once a second which policies there are.
    stand.eventually("nobody refuses it", || stand.apply(UNSEEN).ok()).await?;
    for (kind, field) in [("nmap", "spec.rules[0].to[0].operation.paths[0]"), ("nmpa", "spec.mtls.mode")] {
        let unseen = status(&stand, kind, "unseen").await?;
        let message = unseen["conditions"][0]["message"].as_str().context("it says why")?;
        ensure!(message.contains(field), "{message}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_replica_writes_and_another_follows_when_it_has_gone() -> Result<()> {
    let stand = Stand::start().await?;
    let lease = || -> Option<Value> {
        let words = ["get", "lease", "nodemesh-controller", "-n", "nodemesh-system", "-o", "json"];
        serde_json::from_str(&stand.kubectl(&words).ok()?).ok()
    };
    let held = stand.eventually("the Lease is taken", lease).await?;
    let me = held["spec"]["holderIdentity"].clone();
    // One that took it, and says nothing more.
    stand.make_leader("gone")?;
    stand.apply(BROKEN_POLICY)?;
    let again = stand
        .eventually("the Lease is taken over", || {
            lease().filter(|lease| lease["spec"]["holderIdentity"] == me)
        })
        .await?;
    ensure!(again["spec"]["leaseTransitions"] == 2, "{again}");
    status(&stand, "nmap", "broken").await.map(drop)
}
