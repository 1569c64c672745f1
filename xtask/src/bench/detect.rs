//! Prepares the bench of what undeclared ports cost and runs it: release builds, `mesh-bench detect`.

use anyhow::Result;

use crate::{process, setup};

/// Runs it; `words` go to `mesh-bench detect`.
///
/// # Errors
/// If something that it needs cannot be had, or the bench itself fails.
pub fn run(words: &[String]) -> Result<()> {
    setup::run(setup::May::Install, setup::For::NoCluster)?;
    println!("bench: building the daemon and the bench with optimisation");
    super::build(&["mesh-node", "mesh-test-bench", "mesh-test-harness"])?;
    let release = super::target()?.join("release");
    let json = super::target()?.join("bench-detect.json");
    let mut bench = process::command(release.join("mesh-bench"));
    bench.arg("detect").arg("--json").arg(&json).args(words);
    bench.env("MESH_NODE_BIN", release.join("mesh-node"));
    process::run(&mut bench)?;
    println!("figures as JSON: {}", json.display());
    Ok(())
}
