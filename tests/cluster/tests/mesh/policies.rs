//! Policies as a person has them: tried out, put in force, edited and taken away with kubectl, on both nodes.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, PostParams};
use mesh_node::controller::client::client;
use mesh_test_cluster::load::Load;
use mesh_test_cluster::mesh::{Mesh, PATIENCE};
use mesh_test_harness::eventually::eventually;
use mesh_test_harness::figure;
use serde_json::json;

use super::{CLOSED, url};

/// What would refuse everybody, and is only tried.
const TRIED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tried.yaml");
/// The one may, with GET.
const ONE_MAY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/one-may.yaml");
/// Who asks whom: from each node the other.
const WAYS: [(&str, &str); 2] = [("a", "b"), ("b", "a")];
/// How often a policy is made and taken away to see how soon it counts.
const CHANGES: usize = 10;
/// Seconds within which it must count: twenty times what it may take on a machine of its own.
const SOON: f64 = 10.0;

/// All that people do with them, while the kubelets' probes go on.
pub fn are_tried_put_in_force_edited_and_taken_away(mesh: &Mesh) -> Result<()> {
    is_tried(mesh)?;
    mesh.kubectl(&["apply", "-f", CLOSED])?;
    for (from, to) in WAYS {
        gives(mesh, "nobody may", (from, to), "GET", "403")?;
    }
    mesh.kubectl(&["apply", "-f", ONE_MAY])?;
    gives(mesh, "one may", ("a", "b"), "GET", "200")?;
    gives(mesh, "one may", ("a", "b"), "POST", "403")?;
    is_edited(mesh)?;
    // Longer than the kubelet takes to say that a pod whose probes fail is not ready.
    let probed = ["wait", "--for=condition=Ready=false", "--timeout=8s", "pod", "--all"];
    ensure!(mesh.kubectl(&probed).is_err(), "a kubelet's probe is refused");
    for policy in [ONE_MAY, CLOSED] {
        mesh.kubectl(&["delete", "-f", policy])?;
    }
    gives(mesh, "everybody may", ("b", "a"), "GET", "200")?;
    count_soon(mesh)
}

fn gives(mesh: &Mesh, policy: &str, (from, to): (&str, &str), method: &str, expected: &str) -> Result<()> {
    let begun = Instant::now();
    let reason = format!("{policy}: {method} from web-{from} to web-{to} gives {expected}");
    eventually(&reason, PATIENCE, || {
        let status = mesh.ask(&format!("web-{from}"), &url(to), method);
        status.is_ok_and(|status| status == expected).then_some(())
    })?;
    figure(&format!("{reason} after {} ms", begun.elapsed().as_millis()));
    Ok(())
}

/// In audit mode it refuses nobody, and the called pod's node says whom it would have.
fn is_tried(mesh: &Mesh) -> Result<()> {
    mesh.kubectl(&["apply", "-f", TRIED])?;
    for (from, to) in WAYS {
        let would = [
            "verdict=audited",
            "audit=\"AuthorizationPolicy default/tried would_deny\"",
            &format!("src.workload=default/web-{from}"),
            &format!("dst.workload=default/web-{to}"),
        ];
        eventually(&format!("web-{from}'s request is audited"), PATIENCE, || {
            let status = mesh.ask(&format!("web-{from}"), &url(to), "GET");
            let passed = status.is_ok_and(|status| status == "200");
            let said = mesh.records().lines().any(|line| would.iter().all(|part| line.contains(part)));
            // Once it is refused it never passes again.
            (passed && said).then_some(())
        })?;
    }
    mesh.kubectl(&["delete", "-f", TRIED]).map(drop)
}

/// With `kubectl edit`, whose editor replaces a word: from then on the one may POST, and GET no more.
fn is_edited(mesh: &Mesh) -> Result<()> {
    let mut edit = mesh.cluster().control_plane().kubectl_command();
    edit.args(["edit", "authorizationpolicies.policy.nodemesh.dev", "one-may"]);
    let edited = edit.env("KUBE_EDITOR", "sed -i s/GET/POST/").stdin(Stdio::null()).output();
    let edited = edited.context("start kubectl")?;
    ensure!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    gives(mesh, "edited", ("a", "b"), "GET", "403")?;
    // The application has no answer to POST but this one, and it is the application that says it.
    gives(mesh, "edited", ("a", "b"), "POST", "501")
}

/// From the API server's being asked to the first request that is answered otherwise, of pods that ask all the time.
fn count_soon(mesh: &Mesh) -> Result<()> {
    let begin = |(from, to)| Load::start(mesh.cluster(), &format!("web-{from}"), "soon", &url(to));
    let loads = WAYS.into_iter().map(begin).collect::<Result<Vec<_>>>()?;
    let changes = changed(mesh)?;
    let outcomes = loads.into_iter().map(|load| load.stop(mesh.cluster())).collect::<Result<Vec<_>>>()?;
    let mut waits = Vec::new();
    for (at, status) in &changes {
        for outcome in &outcomes {
            let first =
                outcome.first_after(*at, status).with_context(|| format!("no {status} after {at}"))?;
            waits.push(first - at);
        }
    }
    waits.sort_by(f64::total_cmp);
    let (median, most) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    figure(&format!(
        "a policy counts on both nodes after {:.0} ms at the median, {:.0} ms at most, of {}",
        median * 1e3,
        most * 1e3,
        waits.len()
    ));
    ensure!(most < SOON, "a policy took {most} s to be in force");
    Ok(())
}

/// Makes and takes away what refuses everybody; when each was begun, by the machine's clock, and what it leads to.
fn changed(mesh: &Mesh) -> Result<Vec<(f64, &'static str)>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let policies = runtime.block_on(policies(mesh.cluster().control_plane().kubeconfig()))?;
    let kind = ApiResource::from_gvk(&kind());
    let nobody = DynamicObject::new("soon", &kind).data(json!({"spec": {"action": "ALLOW"}}));
    let mut changes = Vec::new();
    for change in 0..CHANGES {
        let begun = uptime()?;
        let status = if change % 2 == 0 {
            runtime.block_on(policies.create(&PostParams::default(), &nobody))?;
            "403"
        } else {
            runtime.block_on(policies.delete("soon", &DeleteParams::default()))?;
            "200"
        };
        for (from, to) in WAYS {
            mesh.answers(&format!("web-{from}"), &url(to), status)?;
        }
        changes.push((begun, status));
    }
    Ok(changes)
}

async fn policies(kubeconfig: &Path) -> Result<Api<DynamicObject>> {
    let client = client(Some(kubeconfig)).await?;
    Ok(Api::namespaced_with(client, "default", &ApiResource::from_gvk(&kind())))
}

fn kind() -> GroupVersionKind {
    GroupVersionKind::gvk("policy.nodemesh.dev", "v1alpha1", "AuthorizationPolicy")
}

/// Seconds since the machine started, as pods read them too.
fn uptime() -> Result<f64> {
    let text = fs::read_to_string("/proc/uptime").context("read /proc/uptime")?;
    let first = text.split(' ').next().context("it has two numbers")?;
    Ok(first.parse()?)
}
