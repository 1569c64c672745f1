//! The Helm chart, with the real Helm.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use mesh_test_cluster::api_server::ApiServer;
use mesh_test_cluster::mesh::MANIFESTS;
use mesh_test_cluster::programs::{self, Programs};
use serde_json::{Value, json};

use super::{apply, apply_folder};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests/chart");
const ROOT: &str = "nodemesh-system";

/// Objects by kind, namespace and name.
type Objects = BTreeMap<String, Value>;

fn helm(words: &[&str]) -> Result<String> {
    run(Command::new(programs::helm()?).args(words))
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).context("read what it printed")
}

/// Helm with an API server and folders of its own.
fn helm_at(server: &ApiServer, words: &[&str]) -> Result<String> {
    let kubeconfig = format!("--kubeconfig={}", server.kubeconfig().display());
    let home = tempfile::tempdir()?;
    let homes = ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"].map(|name| (name, home.path()));
    let own = [&kubeconfig, "--namespace=nodemesh-system"];
    run(Command::new(programs::helm()?).args(words).args(own).envs(homes))
}

/// What the chart becomes, without its definitions.
fn template(values: &[&str]) -> Result<Objects> {
    let words = ["template", "nodemesh", CHART, "--namespace", ROOT, "--kube-version", "1.31.0"];
    read(&helm(&[&words, values].concat())?)
}

/// What kustomize makes of folders of the manifests.
fn kustomized(folders: &[&str]) -> Result<Objects> {
    let kubectl = Programs::get()?.part("kubectl");
    let mut objects = Objects::new();
    for folder in folders {
        let text = run(Command::new(&kubectl).args(["kustomize", &format!("{MANIFESTS}/{folder}")]))?;
        objects.extend(read(&text)?);
    }
    Ok(objects)
}

fn read(text: &str) -> Result<Objects> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).context("read YAML")?;
    let mut objects = Objects::new();
    for object in documents.into_iter().filter(|object| !object.is_null()) {
        let of = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key =
            format!("{} {}/{}", object["kind"].as_str().unwrap_or_default(), of("namespace"), of("name"));
        ensure!(objects.insert(key.clone(), object).is_none(), "{key} is there twice");
    }
    Ok(objects)
}

#[test]
fn without_a_value_it_is_what_kustomize_makes() -> Result<()> {
    let mut wanted = kustomized(&["foundation", "base"])?;
    // A release makes its namespace itself, and definitions are not templates.
    wanted.retain(|key, _| !key.starts_with("Namespace ") && !key.starts_with("CustomResourceDefinition "));
    let mut made = template(&[])?;
    for object in made.values_mut() {
        let Some(metadata) = object["metadata"].as_object_mut() else { continue };
        // Of the chart alone: what an uninstall leaves.
        if metadata.get("annotations").is_some_and(|kept| kept["helm.sh/resource-policy"] == "keep") {
            metadata.remove("annotations");
        }
    }
    let (made_keys, wanted_keys) = (made.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    assert_eq!(made_keys, wanted_keys);
    for (key, object) in &wanted {
        assert_eq!(&made[key], object, "{key}");
    }
    Ok(())
}

#[test]
fn every_value_is_where_it_belongs() -> Result<()> {
    let made = template(&[
        "--namespace=mesh",
        "--set=image.repository=registry.example/mesh,image.tag=v9,image.pullPolicy=Always",
        "--set=trustDomain=td.example,log=debug,controller.replicas=3",
        "--set=agent.resources.limits.memory=3Gi,hold.enabled=true,podMonitor.enabled=true",
        "--set=controller.nodeSelector.pool=spare,agent.nodeSelector.pool=mesh",
        "--set=controller.signerName=signer.example/own",
        "--set-json=agent.env=[{\"name\":\"NODEMESH_ON_DEMAND\",\"value\":\"true\"}]",
        "--set-json=controller.env=[{\"name\":\"NODEMESH_JWKS_MAX_AGE\",\"value\":\"1h\"}]",
    ])?;
    let text = serde_json::to_string(&made)?;
    ensure!(!text.contains(ROOT), "the release's namespace is the only one: {text}");
    for (key, container, pool) in [
        ("Deployment mesh/nodemesh-controller", "controller", "spare"),
        ("DaemonSet mesh/nodemesh-agent", "agent", "mesh"),
        ("DaemonSet mesh/nodemesh-hold", "hold", "mesh"),
    ] {
        let pod = &made.get(key).with_context(|| format!("there is no {key}"))?["spec"]["template"]["spec"];
        let nodes = json!({"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "pool": pool});
        ensure!(pod["nodeSelector"] == nodes, "{key}: {}", pod["nodeSelector"]);
        let of = &pod["containers"][0];
        ensure!(of["name"] == container && of["image"] == "registry.example/mesh:v9", "{of}");
        ensure!(of["imagePullPolicy"] == "Always", "{of}");
        let environment = of["env"].as_array().context("it has an environment")?;
        for (name, value) in [
            ("NODEMESH_ROOT_NAMESPACE", "mesh"),
            ("NODEMESH_TRUST_DOMAIN", "td.example"),
            ("NODEMESH_LOG", "debug"),
        ] {
            let is_there = environment.iter().any(|entry| entry["name"] == name && entry["value"] == value);
            ensure!(is_there, "{key}: {name}: {environment:?}");
        }
        let more = match container {
            "agent" => json!({"name": "NODEMESH_ON_DEMAND", "value": "true"}),
            "controller" => json!({"name": "NODEMESH_JWKS_MAX_AGE", "value": "1h"}),
            _ => continue,
        };
        ensure!(environment.contains(&more), "{key}: {environment:?}");
    }
    ensure!(made["Deployment mesh/nodemesh-controller"]["spec"]["replicas"] == 3, "{text}");
    let agent = &made["DaemonSet mesh/nodemesh-agent"]["spec"]["template"]["spec"]["containers"][0];
    ensure!(agent["resources"]["limits"]["memory"] == "3Gi", "{agent}");
    ensure!(agent["resources"]["requests"]["memory"] == "64Mi", "{agent}");
    ensure!(made.contains_key("PodMonitor mesh/nodemesh"), "{:?}", made.keys());
    let controller =
        &made["Deployment mesh/nodemesh-controller"]["spec"]["template"]["spec"]["containers"][0];
    let signer = json!({"name": "NODEMESH_SIGNER_NAME", "value": "signer.example/own"});
    ensure!(controller["env"].as_array().is_some_and(|entries| entries.contains(&signer)), "{controller}");
    let approver = &made["ClusterRole /nodemesh-controller-requests"]["rules"][2];
    ensure!(approver["resourceNames"] == json!(["signer.example/own"]), "{approver}");
    let slip =
        template(&["--set=hold.enable=true"]).expect_err("a value that is none is refused").to_string();
    ensure!(slip.contains("enable"), "{slip}");
    let slip = template(&["--set-json=agent.env=[{\"name\":\"X\",\"valeu\":\"\"}]"])
        .expect_err("what no environment has is refused")
        .to_string();
    ensure!(slip.contains("valeu"), "{slip}");
    Ok(())
}

#[test]
fn the_linter_has_nothing_to_say() -> Result<()> {
    for values in [&[][..], &["--set=hold.enabled=true,podMonitor.enabled=true"]] {
        let words = ["lint", CHART, "--strict", "--namespace", ROOT, "--kube-version", "1.31.0"];
        let said = helm(&[&words, values].concat())?;
        ensure!(!said.contains("[WARNING]") && !said.contains("[ERROR]"), "{said}");
    }
    Ok(())
}

#[test]
fn an_api_server_takes_it_and_an_uninstall_leaves_the_agents_their_question() -> Result<()> {
    let server = ApiServer::start()?;
    let namespace = std::fs::read_to_string(format!("{MANIFESTS}/foundation/namespace.yaml"))?;
    apply(&server, &namespace)?;
    let helm = |words: &[&str]| helm_at(&server, words);
    helm(&["install", "nodemesh", CHART])?;
    for there in
        ["daemonset/nodemesh-agent", "deployment/nodemesh-controller", "serviceaccount/nodemesh-agent"]
    {
        server.kubectl(&["get", there, "-n", ROOT])?;
    }
    server.kubectl(&["get", "nodemesh", "--all-namespaces"])?;
    helm(&["upgrade", "nodemesh", CHART, "--set=log=debug"])?;
    let words = ["get", "daemonset", "nodemesh-agent", "-n", ROOT, "-o", "json"];
    ensure!(server.kubectl(&words)?.contains("NODEMESH_LOG"), "an upgrade changes it");

    helm(&["uninstall", "nodemesh", "--no-hooks"])?;
    ensure!(server.kubectl(&["get", "daemonset", "nodemesh-agent", "-n", ROOT]).is_err(), "it is gone");
    for kept in ["serviceaccount/nodemesh-agent", "role/nodemesh-agent", "rolebinding/nodemesh-agent"] {
        server.kubectl(&["get", kept, "-n", ROOT])?;
    }
    server.kubectl(&["get", "crd", "authorizationpolicies.policy.nodemesh.dev"])?;
    // What stays is in the way of nobody.
    helm(&["install", "nodemesh", CHART])?;
    helm(&["uninstall", "nodemesh"])?;
    apply_folder(&server, "foundation")?;
    apply_folder(&server, "base")
}

#[test]
fn helm_follows_kubectl_once_the_agents_account_is_gone_or_taken_over() -> Result<()> {
    let server = ApiServer::start()?;
    apply_folder(&server, "foundation")?;
    let refused = helm_at(&server, &["install", "nodemesh", CHART])
        .expect_err("what kubectl made is not Helm's")
        .to_string();
    ensure!(refused.contains("cannot be imported"), "{refused}");

    let account = format!("{MANIFESTS}/foundation/agent-account.yaml");
    server.kubectl(&["delete", "-f", &account])?;
    helm_at(&server, &["install", "nodemesh", CHART])?;
    helm_at(&server, &["uninstall", "nodemesh"])?;

    server.kubectl(&["delete", "-f", &account])?;
    server.kubectl(&["apply", "-f", &account])?;
    helm_at(&server, &["install", "nodemesh", CHART, "--take-ownership"])?;
    server.kubectl(&["get", "daemonset/nodemesh-agent", "-n", ROOT]).map(drop)
}
