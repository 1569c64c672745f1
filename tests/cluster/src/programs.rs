//! The programs of a cluster: Kubernetes with its store, and its name server.
//!
//! In: the modules in `kubernetes/` and `coredns/` beside this crate. Out: a folder with one program and a link for each
//! part of Kubernetes, and the path of the name server.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::go::Recipe;

/// Kubernetes and its store in one program. Its version is what `kubernetes/go.mod` requires, and nowhere else.
pub const KUBERNETES: Recipe = Recipe {
    title: "Kubernetes",
    module: concat!(env!("CARGO_MANIFEST_DIR"), "/kubernetes"),
    versioned: "k8s.io/kubernetes",
    verb: &["build"],
    packages: &["./kubeall"],
    program: "kubeall",
    source: "kubeall/main.go",
    linker_flags: tell_version,
};

/// The name server of clusters, with the plugins that a test cluster needs.
pub const COREDNS: Recipe = Recipe {
    title: "CoreDNS",
    module: concat!(env!("CARGO_MANIFEST_DIR"), "/coredns"),
    versioned: "github.com/coredns/coredns",
    verb: &["build"],
    packages: &["."],
    program: "coredns",
    source: "main.go",
    linker_flags: |_| String::new(),
};

/// The client and the server of the Gateway API's conformance suite, which are Istio's.
pub const ECHO: Recipe = Recipe {
    title: "Echo",
    module: concat!(env!("CARGO_MANIFEST_DIR"), "/echo"),
    versioned: "istio.io/istio",
    verb: &["build"],
    packages: &["istio.io/istio/pkg/test/echo/cmd/client", "istio.io/istio/pkg/test/echo/cmd/server"],
    program: ".",
    source: "go.mod",
    linker_flags: |_| String::new(),
};

/// The Gateway API's conformance suite.
pub const CONFORMANCE: Recipe = Recipe {
    title: "Conformance",
    module: concat!(env!("CARGO_MANIFEST_DIR"), "/conformance"),
    versioned: "sigs.k8s.io/gateway-api/conformance",
    verb: &["test", "-c"],
    packages: &["."],
    program: "conformance.test",
    source: "conformance_test.go",
    linker_flags: |_| String::new(),
};

/// The installer of charts.
pub const HELM: Recipe = Recipe {
    title: "Helm",
    module: concat!(env!("CARGO_MANIFEST_DIR"), "/helm"),
    versioned: "helm.sh/helm/v4",
    verb: &["build"],
    packages: &["helm.sh/helm/v4/cmd/helm"],
    program: "helm",
    source: "go.mod",
    linker_flags: |_| String::new(),
};

/// The parts, as the program knows them.
const PARTS: [&str; 7] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
];

/// A folder of programs that is complete.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Finds the programs of Kubernetes, and builds them if they are not there: ten minutes on two idle cores the first
    /// time.
    ///
    /// # Errors
    /// Go is missing or fails, or the cache cannot be written.
    pub fn get() -> Result<Self> {
        Ok(Self { folder: KUBERNETES.get(link_parts)? })
    }

    /// Where a part is.
    pub fn part(&self, name: &str) -> PathBuf {
        debug_assert!(PARTS.contains(&name), "{name} is no part");
        self.folder.join(name)
    }

    /// The folder that holds them all.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Finds the name server, and builds it if it is not there: two minutes on two idle cores the first time.
///
/// # Errors
/// Go is missing or fails, or the cache cannot be written.
pub fn coredns() -> Result<PathBuf> {
    Ok(COREDNS.get(|_| Ok(()))?.join(COREDNS.program))
}

/// Finds the client and the server of the conformance suite, and builds them if they are not there: a minute on two idle
/// cores the first time. Returns the folder with both.
///
/// # Errors
/// Go is missing or fails, or the cache cannot be written.
pub fn echo() -> Result<PathBuf> {
    ECHO.get(|_| Ok(()))
}

/// Finds the conformance suite, and builds it if it is not there: three minutes on two idle cores the first time.
///
/// # Errors
/// Go is missing or fails, or the cache cannot be written.
pub fn conformance() -> Result<PathBuf> {
    Ok(CONFORMANCE.get(|_| Ok(()))?.join(CONFORMANCE.program))
}

/// Finds Helm, and builds it if it is not there: two minutes on two idle cores the first time.
///
/// # Errors
/// Go is missing or fails, or the cache cannot be written.
pub fn helm() -> Result<PathBuf> {
    Ok(HELM.get(|_| Ok(()))?.join(HELM.program))
}

/// The program is called by the name of the part.
fn link_parts(folder: &Path) -> Result<()> {
    for part in PARTS {
        let link = folder.join(part);
        let _ = fs::remove_file(&link);
        symlink(KUBERNETES.program, &link).with_context(|| format!("link {}", link.display()))?;
    }
    Ok(())
}

/// The names under which Kubernetes' parts tell their version. Without them clients refuse to speak to it.
fn tell_version(version: &str) -> String {
    let mut numbers = version.split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let facts = [
        ("gitVersion", format!("v{version}")),
        ("gitMajor", major.to_owned()),
        ("gitMinor", minor.to_owned()),
        ("gitTreeState", "clean".to_owned()),
        ("buildDate", "1970-01-01T00:00:00Z".to_owned()),
    ];
    let set = |(name, value): &(&str, String)| format!(" -X k8s.io/component-base/version.{name}={value}");
    facts.iter().map(set).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_tells_its_version() {
        assert!(tell_version("1.35.4").contains("version.gitVersion=v1.35.4 "));
        assert!(tell_version("1.35.4").contains("version.gitMinor=35 "));
    }
}
