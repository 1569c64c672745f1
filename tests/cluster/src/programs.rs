//! The programs of a cluster: Kubernetes with its store, and its name server.
//!
//! In: the modules in `kubernetes/` and `coredns/` beside this crate. Out: a folder with one program and a link for each
//! part of Kubernetes, and the path of the name server.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::go::{Recipe, Source};

/// Kubernetes and its store in one program: the two newest minor versions, and first the one that is taken if nobody says.
/// A version is what the `.mod` file in `kubernetes/` requires, and nowhere else.
pub const KUBERNETES: [Recipe; 2] = [kubernetes("go"), kubernetes("go-1.36")];

/// All of Kubernetes in one program.
const KUBEALL: &str = "kubeall";
/// Names the minor version of Kubernetes, as in `1.36`.
const MINOR: &str = "MESH_KUBERNETES";

const fn kubernetes(requirements: &'static str) -> Recipe {
    Recipe {
        title: "Kubernetes",
        module: concat!(env!("CARGO_MANIFEST_DIR"), "/kubernetes"),
        requirements,
        versioned: "k8s.io/kubernetes",
        verb: &["build"],
        packages: &["./kubeall"],
        program: KUBEALL,
        has_c: false,
        source: "kubeall/main.go",
        linker_flags: tell_version,
    }
}

/// What runs containers on nodes, and speaks to it. Debian's has no user namespaces for pods (`hostUsers: false`).
pub const CONTAINERD: Recipe = Recipe {
    title: "containerd",
    module: concat!(env!("CARGO_MANIFEST_DIR"), "/containerd"),
    requirements: "go",
    versioned: "github.com/containerd/containerd/v2",
    verb: &["build", "-tags=no_btrfs,no_devmapper,no_zfs"],
    packages: &[
        "github.com/containerd/containerd/v2/cmd/containerd",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        "github.com/containerd/containerd/v2/cmd/ctr",
    ],
    program: ".",
    has_c: false,
    source: "go.mod",
    linker_flags: |_| String::new(),
};

/// What starts them. Debian's is too old for that too.
pub const RUNC: Recipe = Recipe {
    title: "runc",
    module: concat!(env!("CARGO_MANIFEST_DIR"), "/runc"),
    requirements: "go",
    versioned: "github.com/opencontainers/runc",
    verb: &["build", "-tags=seccomp"],
    packages: &["github.com/opencontainers/runc"],
    program: "runc",
    has_c: true,
    source: "go.mod",
    linker_flags: |_| String::new(),
};

/// The name server of clusters, with the plugins that a test cluster needs.
pub const COREDNS: Recipe = Recipe {
    title: "CoreDNS",
    module: concat!(env!("CARGO_MANIFEST_DIR"), "/coredns"),
    requirements: "go",
    versioned: "github.com/coredns/coredns",
    verb: &["build"],
    packages: &["."],
    program: "coredns",
    has_c: false,
    source: "main.go",
    linker_flags: |_| String::new(),
};

/// The client and the server of the Gateway API's conformance suite, which are Istio's.
pub const ECHO: Recipe = Recipe {
    title: "Echo",
    module: concat!(env!("CARGO_MANIFEST_DIR"), "/echo"),
    requirements: "go",
    versioned: "istio.io/istio",
    verb: &["build"],
    packages: &["istio.io/istio/pkg/test/echo/cmd/client", "istio.io/istio/pkg/test/echo/cmd/server"],
    program: ".",
    has_c: false,
    source: "go.mod",
    linker_flags: |_| String::new(),
};

/// The Gateway API's conformance suite.
pub const CONFORMANCE: Recipe = Recipe {
    title: "Conformance",
    module: concat!(env!("CARGO_MANIFEST_DIR"), "/conformance"),
    requirements: "go",
    versioned: "sigs.k8s.io/gateway-api/conformance",
    verb: &["test", "-c"],
    packages: &["."],
    program: "conformance.test",
    has_c: false,
    source: "conformance_test.go",
    linker_flags: |_| String::new(),
};

/// The installer of charts.
pub const HELM: Recipe = Recipe {
    title: "Helm",
    module: concat!(env!("CARGO_MANIFEST_DIR"), "/helm"),
    requirements: "go",
    versioned: "helm.sh/helm/v4",
    verb: &["build"],
    packages: &["helm.sh/helm/v4/cmd/helm"],
    program: "helm",
    has_c: false,
    source: "go.mod",
    linker_flags: |_| String::new(),
};

/// The Prometheus Operator, for the definitions of its kinds.
pub const PROMETHEUS_OPERATOR: Source = Source {
    required_by: concat!(env!("CARGO_MANIFEST_DIR"), "/prometheus-operator"),
    name: "github.com/prometheus-operator/prometheus-operator",
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
    /// time. Their minor version is the one that `MESH_KUBERNETES` names.
    ///
    /// # Errors
    /// Go is missing or fails, the cache cannot be written, or there is no such version.
    pub fn get() -> Result<Self> {
        let named = std::env::var(MINOR).ok();
        Ok(Self { folder: chosen(named.as_deref())?.get(link_parts)? })
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

/// The Kubernetes of a minor version, or the first.
fn chosen(minor: Option<&str>) -> Result<Recipe> {
    let [first, ..] = KUBERNETES;
    let Some(minor) = minor else { return Ok(first) };
    let mut known = Vec::new();
    for recipe in KUBERNETES {
        let version = recipe.pinned()?;
        if version.strip_prefix(minor).is_some_and(|patch| patch.starts_with('.')) {
            return Ok(recipe);
        }
        known.push(version);
    }
    bail!("{MINOR}={minor}: there are Kubernetes {}; name a minor version, as in 1.36", known.join(" and "))
}

/// Finds containerd with its shim and client, and runc, and builds them if they are not there: two minutes on two idle
/// cores the first time. Returns the folders.
///
/// # Errors
/// Go or a C compiler is missing or fails, or the cache cannot be written.
pub fn runtime() -> Result<[PathBuf; 2]> {
    Ok([CONTAINERD.get(|_| Ok(()))?, RUNC.get(|_| Ok(()))?])
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
        symlink(KUBEALL, &link).with_context(|| format!("link {}", link.display()))?;
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
    fn a_minor_version_is_chosen_by_its_name() {
        let version = |minor| chosen(minor).and_then(|recipe| recipe.pinned());
        assert_eq!(version(None).unwrap(), version(Some("1.37")).unwrap());
        assert!(version(Some("1.36")).unwrap().starts_with("1.36."));
        for unknown in ["1.3", "1.34", "", "1.36.3"] {
            let said = version(Some(unknown)).unwrap_err().to_string();
            assert!(said.contains("there are Kubernetes 1.37.") && said.contains(" and 1.36."), "{said}");
        }
    }

    #[test]
    fn a_program_tells_its_version() {
        assert!(tell_version("1.37.2").contains("version.gitVersion=v1.37.2 "));
        assert!(tell_version("1.37.2").contains("version.gitMinor=37 "));
    }
}
