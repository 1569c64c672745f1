//! Where things are: the workspace and its packages.

use std::path::{Path, PathBuf};

/// Returns the workspace's root.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("xtask is a folder of the workspace").to_path_buf()
}

/// Returns every folder that holds a package: the workspace's members, and the fuzz workspace where there is one.
pub fn packages() -> Vec<PathBuf> {
    let root = root();
    let places = ["mesh-common", "mesh-ebpf", "mesh-node", "xtask"];
    let tests = ["harness", "ebpf", "e2e", "skew", "bench", "cluster", "conformance", "fuzz"];
    let mut packages: Vec<PathBuf> = places.iter().map(|name| root.join(name)).collect();
    packages.extend(tests.iter().map(|name| root.join("tests").join(name)));
    packages.retain(|package| package.join("Cargo.toml").exists());
    packages
}
