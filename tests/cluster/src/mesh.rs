//! The mesh on a cluster, as a person has it: installed and taken away with kubectl, asked through pods.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_test_harness::PLAINTEXT_MARKER;
use mesh_test_harness::binary::{self, Build};
use mesh_test_harness::eventually::eventually;

use crate::cluster::Cluster;
use crate::images::{MESH, PREVIOUS_MESH};
use crate::network::Families;

/// How long pods and policies may take, on a machine that does other work too.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The same, for kubectl.
pub const WAIT: &str = "--timeout=120s";
/// The namespace of the mesh.
pub const SYSTEM: &str = "--namespace=nodemesh-system";
/// Where the manifests are.
pub const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests");
/// Selects the agents' pods.
pub const AGENTS: &str = "--selector=app.kubernetes.io/name=nodemesh-agent";
/// Selects the controllers' pods.
pub const CONTROLLERS: &str = "--selector=app.kubernetes.io/name=nodemesh-controller";

/// A cluster with the mesh on it.
#[derive(Debug)]
pub struct Mesh {
    cluster: Cluster,
}

impl Mesh {
    /// Starts a cluster and installs the mesh.
    ///
    /// # Errors
    /// The cluster does not start, or the mesh is not ready in time; the text says what the mesh said.
    pub fn install(nodes: u8) -> Result<Self> {
        Self::install_on(nodes, Families::Dual)
    }

    /// The same on a cluster that has these families of addresses alone.
    ///
    /// # Errors
    /// As [`Mesh::install`].
    pub fn install_on(nodes: u8, families: Families) -> Result<Self> {
        let cluster = Cluster::start_with(nodes, families, |step| eprintln!("{step}"))?;
        cluster.load_mesh(Build::Own)?;
        let mesh = Self { cluster };
        mesh.apply().with_context(|| mesh.told())?;
        Ok(mesh)
    }

    /// The same with settings of a part, `agent` or `controller`, as variables of its environment.
    ///
    /// # Errors
    /// As [`Mesh::install`], or there is no such part.
    pub fn install_with(nodes: u8, settings: &[(&str, (&str, &str))]) -> Result<Self> {
        let cluster = Cluster::start(nodes, |step| eprintln!("{step}"))?;
        cluster.load_mesh(Build::Own)?;
        let mesh = Self { cluster };
        mesh.kubectl(&["apply", "-k", &format!("{MANIFESTS}/foundation")])?;
        let mut objects = mesh.kubectl(&["kustomize", &format!("{MANIFESTS}/base")])?;
        for (part, (name, value)) in settings {
            // As kustomize writes what a container is called with, and then its variables.
            let called = format!("      - args:\n        - {part}\n        env:\n");
            ensure!(objects.contains(&called), "no {part} in {objects}");
            let more = format!("{called}        - name: {name}\n          value: {value}\n");
            objects = objects.replace(&called, &more);
        }
        let file = mesh.cluster.control_plane().kubeconfig().with_file_name("changed.yaml");
        fs::write(&file, objects).context("write a mesh with other settings")?;
        mesh.kubectl(&["apply", "-f", &file.display().to_string()])?;
        mesh.is_ready().with_context(|| mesh.told())?;
        Ok(mesh)
    }

    /// The same as an earlier commit has it, with what is needed to upgrade it.
    ///
    /// # Errors
    /// As [`Mesh::install`], or nothing says where that commit's programs and files are.
    pub fn install_previous(nodes: u8) -> Result<Self> {
        let cluster = Cluster::start(nodes, |step| eprintln!("{step}"))?;
        for build in [Build::Previous, Build::Own] {
            cluster.load_mesh(build)?;
        }
        let mesh = Self { cluster };
        mesh.apply_previous().with_context(|| mesh.told())?;
        Ok(mesh)
    }

    /// Installs what an earlier commit describes, with its image, in the place of what there is.
    ///
    /// # Errors
    /// It is not ready in time.
    pub fn apply_previous(&self) -> Result<()> {
        let manifests = binary::previous_manifests()?;
        for part in ["foundation", "base"] {
            let objects = self.kubectl(&["kustomize", &manifests.join(part).display().to_string()])?;
            let file = self.cluster.control_plane().kubeconfig().with_file_name(part);
            fs::write(&file, objects.replace(MESH, PREVIOUS_MESH)).context("write an earlier mesh")?;
            self.kubectl(&["apply", "-f", &file.display().to_string()])?;
        }
        self.is_ready()
    }

    /// Installs it, and waits until controllers and agents are ready.
    ///
    /// # Errors
    /// They are not in time.
    pub fn apply(&self) -> Result<()> {
        for part in ["foundation", "base"] {
            self.kubectl(&["apply", "-k", &format!("{MANIFESTS}/{part}")])?;
        }
        self.is_ready()
    }

    fn is_ready(&self) -> Result<()> {
        self.rolled_out("deployment/nodemesh-controller")?;
        self.rolled_out("daemonset/nodemesh-agent")
    }

    /// Waits until the pods of an object are the ones that it describes, and ready.
    ///
    /// # Errors
    /// They are not in time.
    pub fn rolled_out(&self, object: &str) -> Result<()> {
        self.kubectl(&[SYSTEM, "rollout", "status", object, WAIT]).map(drop)
    }

    /// Takes it away, but for what a person made and what stays for another installation; returns when its pods are gone.
    ///
    /// # Errors
    /// They are not in time.
    pub fn delete(&self) -> Result<()> {
        self.kubectl(&["delete", "-k", &format!("{MANIFESTS}/base"), WAIT])?;
        self.kubectl(&[SYSTEM, "wait", "--for=delete", "pod", "--all", WAIT]).map(drop)
    }

    /// Enrols the namespace `default` and makes the objects of a file in it; returns when its pods are ready.
    ///
    /// # Errors
    /// The API server refuses an object, or pods are not ready in time.
    pub fn populate(&self, objects: &Path) -> Result<()> {
        self.kubectl(&["label", "--overwrite", "namespace", "default", "nodemesh.dev/mode=enabled"])?;
        self.kubectl(&["apply", "-f", &objects.display().to_string()])?;
        self.kubectl(&["wait", "--for=condition=Ready", WAIT, "pod", "--all"]).map(drop)
    }

    /// What it runs on.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The same, to end a part of it.
    pub fn cluster_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    /// Runs kubectl as somebody who may do everything; returns what it printed.
    ///
    /// # Errors
    /// It fails; the text is what it said.
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        self.cluster.kubectl(words)
    }

    /// The status of a request from a pod; both say the marker. `000` if there was no answer.
    ///
    /// # Errors
    /// The pod has no curl, or curl has no answer.
    pub fn ask(&self, pod: &str, url: &str, method: &str) -> Result<String> {
        self.ask_with(pod, url, &["--request", method])
    }

    /// The same, with more words for curl.
    ///
    /// # Errors
    /// As for [`ask`](Self::ask).
    pub fn ask_with(&self, pod: &str, url: &str, words: &[&str]) -> Result<String> {
        let marker = format!("x-marker: {PLAINTEXT_MARKER}");
        let curl =
            ["curl", "--silent", "--output", "/dev/null", "--max-time", "5", "--write-out", "%{http_code}"];
        self.kubectl(&[&["exec", pod, "--"], &curl[..], words, &["--header", &marker, url]].concat())
    }

    /// Waits until a request from a pod has a status.
    ///
    /// # Errors
    /// It has not in time.
    pub fn answers(&self, pod: &str, url: &str, status: &str) -> Result<()> {
        eventually(&format!("{pod} gets {status} from {url}"), PATIENCE, || {
            self.ask(pod, url, "GET").is_ok_and(|answered| answered == status).then_some(())
        })
    }

    /// Waits for an access record with all of these.
    ///
    /// # Errors
    /// There is none in time.
    pub fn recorded(&self, what: &str, wanted: &[&str]) -> Result<()> {
        eventually(&format!("{what} is recorded: {wanted:?}"), PATIENCE, || {
            self.records().lines().any(|line| wanted.iter().all(|field| line.contains(field))).then_some(())
        })
    }

    /// The access records and logs of all agents.
    pub fn records(&self) -> String {
        self.kubectl(&[SYSTEM, "logs", AGENTS, "--tail=-1"]).unwrap_or_default()
    }

    /// What the mesh says, for a person.
    pub fn told(&self) -> String {
        let said = |words: &[&str]| self.kubectl(words).unwrap_or_default();
        let pods = said(&["get", "pods", "--all-namespaces", "-o", "wide"]);
        let controllers = said(&[SYSTEM, "logs", CONTROLLERS, "--tail=40"]);
        let records = self.records();
        let lines: Vec<&str> = records.lines().collect();
        let agents = lines[lines.len().saturating_sub(60)..].join("\n");
        let described = said(&[SYSTEM, "describe", "pods"]);
        format!("{pods}\n{described}\n-- controllers\n{controllers}\n-- agents\n{agents}")
    }
}
