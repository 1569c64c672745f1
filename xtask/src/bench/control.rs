//! Prepares the bench of the control plane and runs it: release builds, Kubernetes, `mesh-bench control`.

use anyhow::Result;

use crate::{process, setup};

/// Runs it; `words` go to `mesh-bench control`.
///
/// # Errors
/// If something that it needs cannot be had, or the bench itself fails.
pub fn run(words: &[String]) -> Result<()> {
    setup::run(setup::May::Install, setup::For::All)?;
    let target = super::target()?;
    println!("bench: building controller, agent and bench with optimisation");
    super::build(&["mesh-node", "mesh-test-bench", "mesh-test-harness"])?;
    let release = target.join("release");
    let json = target.join("bench-control.json");
    let mut bench = process::command(release.join("mesh-bench"));
    bench.arg("control").arg("--json").arg(&json).args(words);
    bench.env("MESH_NODE_BIN", release.join("mesh-node"));
    process::run(&mut bench)?;
    println!("figures as JSON: {}", json.display());
    Ok(())
}
