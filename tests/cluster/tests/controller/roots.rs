//! The mesh's roots for programs outside the mesh: a ClusterTrustBundle where the API server has that kind, else a ConfigMap
//! in each namespace.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::agents::Stand;

/// Turns the kind on, whether it is there by default or not.
const SERVED: [&str; 2] = [
    "--feature-gates=ClusterTrustBundle=true",
    "--runtime-config=certificates.k8s.io/v1beta1/clustertrustbundles=true",
];
/// And off.
const NOT_SERVED: [&str; 1] = ["--feature-gates=ClusterTrustBundle=false,ClusterTrustBundleProjection=false"];
const BUNDLE: &str = "nodemesh.dev:mesh:ca-root";
const NAME: &str = "nodemesh-ca-root";

/// Namespaces of every sort; in one somebody has taken the name.
const NAMESPACES: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {nodemesh.dev/mode: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: asks, labels: {nodemesh.dev/ca-root: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: refuses, labels: {nodemesh.dev/mode: enabled, nodemesh.dev/ca-root: disabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: plain}
---
apiVersion: v1
kind: Namespace
metadata: {name: theirs}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: nodemesh-ca-root, namespace: theirs}
data: {ca.crt: mine}
";

/// A controller, its namespaces, and the roots that agents mount.
struct Mesh {
    stand: Stand,
    roots: String,
}

impl Mesh {
    async fn start(flags: &[&str]) -> Result<Self> {
        let stand = Stand::with_flags(flags).await?;
        stand.apply(NAMESPACES)?;
        let roots = stand.eventually("agents find the roots", || stand.roots_pem().ok()).await?;
        ensure!(roots.matches("BEGIN CERTIFICATE").count() == 1, "{roots}");
        Ok(Self { stand, roots })
    }

    /// What the ConfigMap of a namespace has.
    fn copy(&self, namespace: &str) -> Option<String> {
        let words = ["get", "configmap", NAME, "-n", namespace, "-o", "jsonpath={.data.ca\\.crt}"];
        self.stand.kubectl(&words).ok()
    }

    async fn has(&self, namespace: &str, roots: &str) -> Result<()> {
        let has = || self.copy(namespace).filter(|copy| copy == roots);
        self.stand.eventually(&format!("{namespace} has the roots"), has).await.map(drop)
    }

    fn has_none(&self, namespaces: &[&str]) -> Result<()> {
        for namespace in namespaces {
            let said = self.stand.kubectl(&["get", "configmap", NAME, "-n", namespace]);
            ensure!(
                said.is_err_and(|said| said.to_string().contains("NotFound")),
                "there is one in {namespace}"
            );
        }
        Ok(())
    }

    /// The ClusterTrustBundle.
    fn bundle(&self) -> Option<Value> {
        let text = self.stand.kubectl(&["get", "clustertrustbundle", BUNDLE, "-o", "json"]).ok()?;
        serde_json::from_str(&text).ok()
    }

    async fn bundle_has(&self, roots: &str) -> Result<Value> {
        let has = || self.bundle().filter(|bundle| bundle["spec"]["trustBundle"] == roots);
        self.stand.eventually("the ClusterTrustBundle has the roots", has).await
    }

    fn patch(&self, words: &[&str], patch: &str) -> Result<()> {
        self.stand.kubectl(&[&["patch"], words, &["--type=merge", "-p", patch]].concat()).map(drop)
    }

    /// Has the mesh told another root, which waits for agents; returns both.
    async fn other_root(&self) -> Result<String> {
        let other = super::rotation::made()?;
        super::rotation::put(&self.stand, ["next.key", "next.crt"], &other)?;
        let both =
            || self.stand.roots_pem().ok().filter(|roots| roots.matches("BEGIN CERTIFICATE").count() == 2);
        self.stand.eventually("agents find both roots", both).await
    }

    /// The controller may no more than these objects.
    fn may_no_more(&self) -> Result<()> {
        let may = |verb: &str, what: &str, namespace: &str| {
            let who = "--as=system:serviceaccount:nodemesh-system:nodemesh-controller";
            let said = self.stand.kubectl(&["auth", "can-i", verb, what, "-n", namespace, who]);
            said.is_ok_and(|said| said.trim() == "yes")
        };
        let name = format!("configmaps/{NAME}");
        ensure!(may("create", &name, "shop") && may("patch", &name, "shop"), "it may not do its work");
        for (verb, what) in [
            ("delete", &*name),
            ("create", "configmaps/other"),
            ("create", "configmaps"),
            ("list", "configmaps"),
            ("get", "configmaps/other"),
            ("create", "clustertrustbundles.certificates.k8s.io/other"),
            ("delete", &format!("clustertrustbundles.certificates.k8s.io/{BUNDLE}")),
            ("attest", "signers.certificates.k8s.io/signer.example/mesh"),
        ] {
            ensure!(!may(verb, what, "shop"), "it may {verb} {what}");
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_cluster_trust_bundles_each_enrolled_namespace_has_the_roots() -> Result<()> {
    let mesh = Mesh::start(&NOT_SERVED).await?;
    let roots = &mesh.roots;
    mesh.has("shop", roots).await?;
    mesh.has("asks", roots).await?;
    let served = mesh.stand.kubectl(&["api-resources", "--api-group=certificates.k8s.io"])?;
    ensure!(!served.contains("clustertrustbundles"), "{served}");

    // What comes later, by making and by a label.
    mesh.stand.apply(
        "{apiVersion: v1, kind: Namespace, metadata: {name: later, labels: {nodemesh.dev/mode: enabled}}}",
    )?;
    mesh.has("later", roots).await?;
    mesh.has_none(&["plain", "refuses"])?;
    mesh.stand.kubectl(&["label", "namespace", "plain", "istio.io/dataplane-mode=nodemesh"])?;
    mesh.has("plain", roots).await?;

    // What somebody edits and deletes.
    mesh.patch(&["configmap", NAME, "-n", "shop"], r#"{"data": {"ca.crt": "edited", "own": "kept"}}"#)?;
    mesh.has("shop", roots).await?;
    let data = mesh.stand.kubectl(&["get", "configmap", NAME, "-n", "shop", "-o", "jsonpath={.data.own}"])?;
    ensure!(data == "kept", "what others added is gone");
    mesh.stand.kubectl(&["delete", "configmap", NAME, "-n", "asks"])?;
    mesh.has("asks", roots).await?;

    // A copy that was made stays and is kept true; nobody else's is touched.
    mesh.stand.kubectl(&["label", "namespace", "later", "nodemesh.dev/mode-"])?;
    let both = mesh.other_root().await?;
    for namespace in ["shop", "asks", "plain", "later"] {
        mesh.has(namespace, &both).await?;
    }
    ensure!(mesh.copy("theirs").as_deref() == Some("mine"), "it is another's");
    mesh.has_none(&["refuses"])?;
    mesh.may_no_more()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_cluster_trust_bundles_one_has_the_roots_and_namespaces_only_ask() -> Result<()> {
    let mesh = Mesh::start(&SERVED).await?;
    let roots = &mesh.roots;
    let bundle = mesh.bundle_has(roots).await?;
    ensure!(bundle["spec"]["signerName"] == "nodemesh.dev/mesh", "{bundle}");
    mesh.has("asks", roots).await?;

    mesh.patch(
        &["clustertrustbundle", BUNDLE],
        &serde_json::json!({"spec": {"trustBundle": other()?}}).to_string(),
    )?;
    mesh.bundle_has(roots).await?;
    mesh.stand.kubectl(&["delete", "clustertrustbundle", BUNDLE])?;
    mesh.bundle_has(roots).await?;

    let both = mesh.other_root().await?;
    mesh.bundle_has(&both).await?;
    mesh.has("asks", &both).await?;
    mesh.has_none(&["shop", "plain", "refuses"])?;
    ensure!(mesh.copy("theirs").as_deref() == Some("mine"), "it is another's");

    // Where the API server refuses it, namespaces get what pods need.
    mesh.stand.kubectl(&["create", "-f", &denial()?.path().display().to_string()])?;
    let refused = || {
        mesh.stand.kubectl(&["delete", "clustertrustbundle", BUNDLE, "--ignore-not-found"]).ok()?;
        mesh.copy("shop").filter(|copy| *copy == both)
    };
    mesh.stand.eventually("shop has the roots", refused).await?;
    mesh.may_no_more()
}

/// Another root, as text.
fn other() -> Result<String> {
    Ok(String::from_utf8(super::rotation::made()?.certificates)?)
}

/// Nobody makes a ClusterTrustBundle.
fn denial() -> Result<tempfile::NamedTempFile> {
    let text = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-bundles}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [certificates.k8s.io], apiVersions: ["*"], operations: [CREATE], resources: [clustertrustbundles]}]
  validations: [{expression: "false"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-bundles}
spec: {policyName: no-bundles, validationActions: [Deny]}
"#;
    let file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
    std::fs::write(file.path(), text)?;
    Ok(file)
}
