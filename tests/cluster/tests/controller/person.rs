//! A person at the command line, who may no more than the documentation says that it takes.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use mesh_test_harness::binary;
use serde_json::Value;
use tempfile::NamedTempFile;

use super::agents::Stand;

/// As docs/controller.md has it.
const ROLE: &str = r"
apiVersion: v1
kind: ServiceAccount
metadata: {name: person, namespace: shop}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: rotate-the-root, namespace: nodemesh-system}
rules:
  - {apiGroups: [''], resources: [configmaps], resourceNames: [nodemesh-ca-trust], verbs: [get]}
  - {apiGroups: [''], resources: [secrets], resourceNames: [nodemesh-ca], verbs: [get, patch]}
";

pub struct Person {
    kubeconfig: NamedTempFile,
}

impl Person {
    /// May nothing.
    pub fn new(stand: &Stand) -> Result<Self> {
        stand.apply(ROLE)?;
        Ok(Self { kubeconfig: stand.kubeconfig_of("shop", "person")? })
    }

    /// May what it takes.
    pub fn is_allowed(&self, stand: &Stand) -> Result<()> {
        let words = ["create", "rolebinding", "person", "-n", "nodemesh-system", "--role=rotate-the-root"];
        stand.kubectl(&[&words[..], &["--serviceaccount=shop:person"]].concat()).map(drop)
    }

    /// `mesh-node ca WORDS`
    pub fn ca(&self, words: &[&str]) -> Result<Output> {
        let mut command = Command::new(binary::mesh_node()?);
        command.arg("ca").args(words).arg("--kubeconfig").arg(self.kubeconfig.path());
        command.output().context("run mesh-node ca")
    }

    /// What it says when it works.
    pub fn does(&self, words: &[&str]) -> Result<String> {
        let output = self.ca(words)?;
        ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What it says when it does not.
    pub fn fails(&self, words: &[&str]) -> Result<String> {
        let output = self.ca(words)?;
        ensure!(!output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stdout));
        Ok(String::from_utf8(output.stderr)?)
    }

    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.does(&["status", "-o", "json"])?)?)
    }
}
