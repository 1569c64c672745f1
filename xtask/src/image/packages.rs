//! What the program in the image is made of: every package that is linked into it or into the kernel programs.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};

use crate::{process, workspace};

/// The packages whose code is in the image, and what each is built for.
const ROOTS: &[(&str, &str)] =
    &[("mesh-node", "x86_64-unknown-linux-gnu"), ("mesh-ebpf", "bpfel-unknown-none")];

/// Packages, and which needs which.
pub struct Packages {
    /// By name and version.
    pub all: BTreeMap<String, Package>,
    /// What each needs, both as [`key`] has them.
    pub needs: BTreeMap<String, BTreeSet<String>>,
    /// The version of the C library, as in `2.36`.
    pub glibc: String,
    /// The version of the compiler, whose library is in the program too.
    pub rust: String,
}

impl Packages {
    /// Asks cargo.
    ///
    /// # Errors
    /// If cargo, the compiler or the C library say nothing that can be understood.
    pub fn read() -> Result<Self> {
        let glibc = process::output(process::command("getconf").arg("GNU_LIBC_VERSION"))?;
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let rust = process::output(process::command(rustc).arg("--version"))?;
        let last = |text: &str, at: usize| text.split_whitespace().nth(at).unwrap_or_default().to_owned();
        let (glibc, rust) = (last(&glibc, 1), last(&rust, 1));
        let mut packages = Self { all: BTreeMap::new(), needs: BTreeMap::new(), glibc, rust };
        for (root, target) in ROOTS {
            let options = ["--locked", "--filter-platform", target].map(str::to_owned);
            let metadata =
                MetadataCommand::new().current_dir(workspace::root()).other_options(options).exec();
            packages.add(root, &metadata.with_context(|| format!("ask cargo what {root} needs"))?)?;
        }
        Ok(packages)
    }

    /// Adds a package and all that is linked with it: no build scripts, no macros, no tests.
    fn add(&mut self, root: &str, metadata: &Metadata) -> Result<()> {
        let by_id: BTreeMap<&PackageId, &Package> =
            metadata.packages.iter().map(|package| (&package.id, package)).collect();
        let nodes = &metadata.resolve.as_ref().context("cargo resolved nothing")?.nodes;
        let nodes: BTreeMap<&PackageId, _> = nodes.iter().map(|node| (&node.id, node)).collect();
        let root = metadata.packages.iter().find(|package| package.name == root && package.source.is_none());
        let mut open = vec![root.context("the workspace has no such package")?];
        while let Some(package) = open.pop() {
            let node = nodes.get(&package.id).context("cargo names a package that it did not resolve")?;
            let linked = node.deps.iter().filter(|dependency| {
                dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal)
            });
            let linked = linked.filter_map(|dependency| by_id.get(&dependency.pkg).copied());
            let linked =
                linked.filter(|package| !package.targets.iter().any(|target| target.is_proc_macro()));
            let needs = self.needs.entry(key(package)).or_default();
            for other in linked {
                needs.insert(key(other));
                open.push(other);
            }
            self.all.insert(key(package), package.clone());
            open.retain(|package| !self.all.contains_key(&key(package)));
        }
        Ok(())
    }
}

/// What tells packages apart: as a package URL, which a bill of materials calls them by.
pub fn key(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_named_and_nothing_else() {
        let packages = Packages::read().unwrap();
        let has = |name: &str| packages.all.values().any(|package| package.name == name);
        for name in ["mesh-node", "mesh-common", "mesh-ebpf", "aya-ebpf", "rustls", "aws-lc-sys"] {
            assert!(has(name), "{name}");
        }
        for name in ["serde_derive", "cc", "proptest", "mesh-test-harness", "xtask"] {
            assert!(!has(name), "{name}");
        }
        let named = packages.needs.values().flatten();
        assert!(named.clone().all(|name| packages.all.contains_key(name)));
        assert!(named.count() > 100);
    }
}
