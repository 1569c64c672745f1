//! The Gateway API's official conformance suite, on a cluster that has the mesh.
//!
//! In: how to reach the cluster. Out: what the suite says, and its report. The suite's own pods are enrolled by the label
//! that it gives their namespaces.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::programs::{self, CONFORMANCE, Programs};

/// The profiles that a mesh can have.
const PROFILES: &str = "MESH-HTTP,MESH-GRPC";
/// What the mesh claims: the tests of the core.
const FEATURES: &str = "Mesh,HTTPRoute,GRPCRoute";
/// The module that has the definitions of the API's kinds.
const DEFINITIONS: &str = "sigs.k8s.io/gateway-api";

/// What to run, and for whom.
#[derive(Clone, Debug)]
pub struct Suite<'a> {
    /// How to reach the cluster.
    pub kubeconfig: &'a Path,
    /// One test, as in `MeshBasic`; `None`: the whole core.
    pub test: Option<&'a str>,
    /// Where the report goes.
    pub report: &'a Path,
    /// Whether its pods stay when it ends.
    pub leaves_pods: bool,
}

impl Suite<'_> {
    /// Makes the definitions of the Gateway API's kinds known to the cluster, those of the suite's version.
    ///
    /// # Errors
    /// The module cannot be brought here, or the API server refuses them.
    pub fn apply_definitions(&self) -> Result<()> {
        let folder = CONFORMANCE.folder_of(DEFINITIONS)?.join("config/crd/standard");
        let mut kubectl = Command::new(Programs::get()?.part("kubectl"));
        // Too large for the annotation that a client-side apply keeps.
        kubectl.args(["apply", "--server-side", "--force-conflicts", "--filename"]).arg(&folder);
        let output = kubectl.env("KUBECONFIG", self.kubeconfig).output().context("start kubectl")?;
        ensure!(output.status.success(), "apply {}: {}", folder.display(), text(&output.stderr));
        Ok(())
    }

    /// Runs it; returns what it said.
    ///
    /// # Errors
    /// A test fails; the text is what the suite said.
    pub fn run(&self) -> Result<String> {
        let mut suite = Command::new(programs::conformance()?);
        suite.args(["-test.v", "-test.timeout=30m", "-organization=nodemesh", "-project=nodemesh"]);
        suite.args(["-url=https://nodemesh.dev", "-contact=maintainers@nodemesh.dev"]);
        suite.arg(format!("-version=v{}", env!("CARGO_PKG_VERSION")));
        suite.arg(format!("-conformance-profiles={PROFILES}")).arg(format!("-supported-features={FEATURES}"));
        suite.arg("-namespace-labels=nodemesh.dev/mode=enabled");
        suite.arg(format!("-report-output={}", self.report.display()));
        suite.args(self.test.map(|test| format!("-run-test={test}")));
        suite.arg(format!("-cleanup-base-resources={}", !self.leaves_pods));
        let output = suite.env("KUBECONFIG", self.kubeconfig).output().context("start the suite")?;
        // Four hundred tests are of other profiles.
        let told = |line: &&str| !line.contains("--- SKIP") && !line.starts_with("=== ");
        let said = text(&output.stdout).lines().filter(told).collect::<Vec<_>>().join("\n");
        if !output.status.success() {
            bail!("the suite ended with {}\n{said}\n{}", output.status, text(&output.stderr));
        }
        Ok(said)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}
