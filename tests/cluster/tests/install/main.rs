//! What a person does before and around an installation, on a real API server: look, install with Helm, ask for versions.

mod chart;
mod preflight;
mod versions;

use std::io::Write;

use anyhow::{Context, Result};
use mesh_test_cluster::api_server::ApiServer;
use mesh_test_cluster::mesh::MANIFESTS;

/// Applies objects.
fn apply(server: &ApiServer, objects: &str) -> Result<()> {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().context("make a file")?;
    file.write_all(objects.as_bytes()).context("write a file")?;
    server.kubectl(&["apply", "-f", &file.path().display().to_string()]).map(drop)
}

/// Applies a folder of the manifests.
fn apply_folder(server: &ApiServer, name: &str) -> Result<()> {
    server.kubectl(&["apply", "-k", &format!("{MANIFESTS}/{name}")]).map(drop)
}

/// Sets the status of an object.
fn set_status(server: &ApiServer, object: &[&str], status: &str) -> Result<()> {
    let patch = ["--subresource=status", "--type=merge", "--patch", status];
    server.kubectl(&[&["patch"], object, &patch].concat()).map(drop)
}
