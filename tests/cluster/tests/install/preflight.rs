//! `mesh-node check --pre`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use mesh_node::admin::documents::{Check, CheckVerdict};
use mesh_node::controller::preflight::preflight;
use mesh_test_cluster::api_server::ApiServer;
use serde_json::json;

use super::{apply, apply_folder, set_status};

const ROOT: &str = "nodemesh-system";

/// In the way of an installation, each for its own reason.
const IN_THE_WAY: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: nodemesh-system, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: v1
kind: Namespace
metadata: {name: old}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: nodemesh-controller}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: nodemesh-controller}
subjects: [{kind: ServiceAccount, name: nodemesh-controller, namespace: old}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: nodemesh-agent, namespace: old, labels: {app.kubernetes.io/name: nodemesh-agent}}
spec:
  selector: {matchLabels: {a: b}}
  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: a}]}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: nodemesh-hold, namespace: old, labels: {app.kubernetes.io/name: nodemesh-hold}}
spec:
  selector: {matchLabels: {a: b}}
  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: a}]}}
---
apiVersion: v1
kind: Node
metadata: {name: ancient}
";

const NODE: &str = r"
apiVersion: v1
kind: Node
metadata: {name: fine}
";

fn machine(kernel: &str) -> String {
    let info = json!({
        "operatingSystem": "linux", "architecture": "amd64", "kernelVersion": kernel, "machineID": "",
        "systemUUID": "", "bootID": "", "osImage": "", "containerRuntimeVersion": "", "kubeletVersion": "",
        "kubeProxyVersion": "",
    });
    json!({"status": {"nodeInfo": info}}).to_string()
}

async fn look(kubeconfig: &Path) -> Vec<Check> {
    preflight(Some(kubeconfig), ROOT).await
}

fn of<'a>(checks: &'a [Check], name: &str) -> Result<&'a Check> {
    checks.iter().find(|check| check.name == name).with_context(|| format!("there is no {name}: {checks:?}"))
}

fn failed(checks: &[Check]) -> Vec<&str> {
    let failed = checks.iter().filter(|check| check.verdict == CheckVerdict::Failed);
    failed.map(|check| check.name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_fail_is_said_before() -> Result<()> {
    let server = ApiServer::start()?;
    let empty = look(server.kubeconfig()).await;
    ensure!(failed(&empty).is_empty(), "{empty:?}");
    ensure!(of(&empty, "nodes")?.verdict == CheckVerdict::Warned, "no node is no mesh: {empty:?}");

    apply(&server, IN_THE_WAY)?;
    set_status(&server, &["node", "ancient"], &machine("5.4.0-99-generic"))?;
    let checks = look(server.kubeconfig()).await;
    ensure!(failed(&checks) == ["kernels", "namespace", "other agents", "other controllers"], "{checks:?}");
    for (name, said) in [
        ("kernels", "ancient (5.4.0-99-generic)"),
        ("namespace", "held to restricted"),
        ("other agents", "old/nodemesh-agent, old/nodemesh-hold"),
        ("other controllers", "a mesh in old"),
    ] {
        let check = of(&checks, name)?;
        ensure!(check.detail.contains(said) && check.advice.is_some(), "{check:?}");
    }

    for object in ["node/ancient", "clusterrolebinding/nodemesh-controller", "namespace/old"] {
        server.kubectl(&["delete", object, "--wait=false"])?;
    }
    server.kubectl(&["delete", "daemonset", "--all", "-n", "old"])?;
    apply(&server, NODE)?;
    set_status(&server, &["node", "fine"], &machine("6.18.5"))?;
    apply_folder(&server, "foundation")?;
    server.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"])?;
    apply_folder(&server, "base")?;
    let checks = look(server.kubeconfig()).await;
    ensure!(checks.iter().all(|check| check.verdict == CheckVerdict::Passed), "{checks:?}");
    ensure!(of(&checks, "other agents")?.detail.contains("this is an upgrade"), "{checks:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_install_is_told_what_it_takes() -> Result<()> {
    let server = ApiServer::start()?;
    server.kubectl(&["create", "serviceaccount", "nobody", "-n", "default"])?;
    let token = server.kubectl(&["create", "token", "nobody", "-n", "default"])?;
    let mut config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(server.kubeconfig())?).context("read a kubeconfig")?;
    config["users"][0]["user"] = json!({"token": token.trim()});
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), config.to_string())?;
    let checks = look(file.path()).await;
    let rights = of(&checks, "rights")?;
    ensure!(rights.verdict == CheckVerdict::Failed && rights.detail.contains("create"), "{rights:?}");
    for name in ["rights to grant", "nodes", "other agents", "certificate authority"] {
        ensure!(of(&checks, name)?.verdict == CheckVerdict::Warned, "{checks:?}");
    }

    config["clusters"][0]["cluster"] = json!({"server": "https://127.0.0.1:1"});
    std::fs::write(file.path(), config.to_string())?;
    let checks = look(file.path()).await;
    ensure!(checks.len() == 1 && failed(&checks) == ["API server"], "{checks:?}");
    Ok(())
}
