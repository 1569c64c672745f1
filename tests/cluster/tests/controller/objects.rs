//! What the controller makes of the objects of an API server.

use std::sync::Arc;

use anyhow::{Context, Result};
use mesh_common::model::{Enrolment, NamespacedName, Text, Workload};
use mesh_test_harness::figure;
use tokio::time::Instant;

use super::agents::{BROKEN_POLICY, Stand};

fn pod(stand: &Stand, name: &str) -> Option<Arc<Workload>> {
    stand.known().snapshot().workloads().find(|pod| &*pod.name.name == name).cloned()
}

const SHOP: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {nodemesh.dev/mode: enabled}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: shop}
---
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: shop
  labels: {app: web}
  annotations: {nodemesh.dev/netns: /proc/1/ns/net}
spec:
  nodeName: a
  serviceAccountName: web
  containers: [{name: web, image: web}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: policy.nodemesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: fine, namespace: shop}
spec: {action: DENY, rules: [{to: [{operation: {ports: ['22']}}]}]}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_become_what_agents_are_to_know() -> Result<()> {
    let stand = Stand::bare().await?;
    stand.apply(&format!("{SHOP}---{BROKEN_POLICY}"))?;
    stand
        .until("two policies are known", |known| known.snapshot().authorization_policies().count() == 2)
        .await?;
    stand
        .until("the pod is enrolled", |known| {
            known.snapshot().workloads().any(|pod| pod.enrolment == Enrolment::Enabled)
        })
        .await?;
    let pod = pod(&stand, "web").context("the pod is known")?;
    assert_eq!(pod.details.netns, None, "a path that a pod gives is not believed");
    assert_eq!(pod.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(pod.node, Text::from("a"));
    let account = NamespacedName::new("shop", "web");
    assert!(stand.known().has_account(&account));

    let snapshot = stand.known().snapshot();
    let policy = |name: &str| snapshot.authorization_policies().find(|policy| &*policy.name.name == name);
    assert!(policy("broken").context("it is known")?.fault.is_some(), "it denies what it might have denied");
    assert!(policy("fine").context("it is known")?.fault.is_none());
    assert_eq!(stand.known().faults().len(), 1);

    let changed = Instant::now();
    stand.kubectl(&["label", "namespace", "shop", "nodemesh.dev/mode=disabled", "--overwrite"])?;
    stand
        .until("the pod is enrolled no more", |known| {
            known.snapshot().workloads().all(|pod| pod.enrolment == Enrolment::Disabled)
        })
        .await?;
    figure(&format!("a label is known {:.0} ms after kubectl began", changed.elapsed().as_secs_f64() * 1e3));
    stand.kubectl(&["delete", "pod", "web", "-n", "shop", "--force", "--grace-period=0"])?;
    stand.until("the pod is gone", |known| known.snapshot().workloads().count() == 0).await?;
    Ok(())
}

/// One object that ends, and what a watch with a selector says of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_has_run_to_its_end_is_gone() -> Result<()> {
    let stand = Stand::bare().await?;
    stand.apply(SHOP)?;
    stand.until("the pod is known", |known| known.snapshot().workloads().count() == 1).await?;
    let ended = r#"{"status": {"phase": "Succeeded"}}"#;
    stand.kubectl(&["patch", "pod", "web", "-n", "shop", "--subresource=status", "-p", ended])?;
    stand.until("the pod is gone", |known| known.snapshot().workloads().count() == 0).await
}
